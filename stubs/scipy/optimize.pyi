from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

class OptimizeResult:
    x: npt.NDArray[np.float64]
    jac: npt.NDArray[np.float64]
    fun: float
    nit: int
    status: int

def minimize(
    fun: Callable[[npt.NDArray[np.float64]], tuple[float, npt.NDArray[np.float64]]],
    x0: npt.NDArray[np.float64],
    *,
    jac: bool,
    method: str,
    options: Mapping[str, float],
) -> OptimizeResult: ...
def brentq(f: Callable[[float], float], a: float, b: float) -> float: ...
