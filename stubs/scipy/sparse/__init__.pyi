import numpy as np
import numpy.typing as npt

class coo_matrix:  # noqa: N801 - scipy's name
    def __init__(
        self,
        arg1: tuple[npt.NDArray[np.bool_], tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]],
        shape: tuple[int, int] = ...,
    ) -> None: ...
