from collections.abc import Callable

import numpy as np
import numpy.typing as npt

class KNeighborsClassifier:
    def __init__(
        self,
        n_neighbors: int,
        *,
        metric: str,
        algorithm: str,
        weights: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]],
    ) -> None: ...
    def fit(self, x: npt.NDArray[np.float32], y: npt.NDArray[np.int64], /) -> KNeighborsClassifier: ...
    def predict(self, x: npt.NDArray[np.float32], /) -> npt.NDArray[np.int64]: ...

class NearestNeighbors:
    def __init__(self, *, n_neighbors: int) -> None: ...
    def fit(self, x: npt.NDArray[np.float64], /) -> NearestNeighbors: ...
    def kneighbors(self, x: npt.NDArray[np.float64], /) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]: ...
