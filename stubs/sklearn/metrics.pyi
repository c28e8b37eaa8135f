from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

def confusion_matrix(
    y_true: npt.NDArray[np.int64], y_pred: npt.NDArray[np.int64], *, labels: Sequence[int]
) -> npt.NDArray[np.int64]: ...
def log_loss(y_true: npt.NDArray[np.int64], y_pred: npt.NDArray[np.float64], *, normalize: bool = ...) -> float: ...
