import numpy as np
import numpy.typing as npt

class Bunch:
    images: npt.NDArray[np.float64]
    target: npt.NDArray[np.int64]
    target_names: npt.NDArray[np.int64]

class SampleImages:
    images: list[npt.NDArray[np.uint8]]

def load_digits() -> Bunch: ...
def load_sample_images() -> SampleImages: ...
def make_blobs(
    n_samples: int, n_features: int, *, centers: int, cluster_std: float = ..., random_state: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]: ...
