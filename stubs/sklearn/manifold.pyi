import numpy as np
import numpy.typing as npt

class TSNE:
    def __init__(
        self,
        *,
        init: npt.NDArray[np.float64],
        perplexity: float,
        early_exaggeration: float,
        learning_rate: float,
        max_iter: int,
        random_state: int,
    ) -> None: ...
    def fit_transform(self, x: npt.NDArray[np.float64], /) -> npt.NDArray[np.float32]: ...

def trustworthiness(x: npt.NDArray[np.float64], places: npt.NDArray[np.float64], /) -> float: ...
