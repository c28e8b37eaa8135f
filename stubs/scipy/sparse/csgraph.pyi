import numpy as np
import numpy.typing as npt

from . import coo_matrix

def connected_components(csgraph: coo_matrix, directed: bool = ...) -> tuple[int, npt.NDArray[np.int32]]: ...
