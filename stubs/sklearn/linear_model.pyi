from typing import Any

import numpy as np
import numpy.typing as npt

class LogisticRegression:
    def __init__(self, *, max_iter: int = ..., C: float = ..., tol: float = ...) -> None: ...  # noqa: N803
    def fit(self, X: npt.NDArray[Any], y: npt.NDArray[np.int64]) -> LogisticRegression: ...  # noqa: N803
    def predict(self, X: npt.NDArray[Any]) -> npt.NDArray[np.int64]: ...  # noqa: N803
    def predict_proba(self, X: npt.NDArray[Any]) -> npt.NDArray[np.float64]: ...  # noqa: N803
    def decision_function(self, X: npt.NDArray[Any]) -> npt.NDArray[np.float64]: ...  # noqa: N803
