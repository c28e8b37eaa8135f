import numpy as np
import numpy.typing as npt

class Result:
    statistic: float
    pvalue: float

def ks_2samp(data1: npt.ArrayLike, data2: npt.ArrayLike) -> Result: ...
def chisquare(f_obs: npt.ArrayLike, f_exp: npt.ArrayLike | None = ...) -> Result: ...
def kendalltau(x: npt.ArrayLike, y: npt.ArrayLike) -> Result: ...
def rankdata(a: npt.ArrayLike) -> npt.NDArray[np.float64]: ...

class _Distribution:
    def ppf(self, q: float, *args: float) -> float: ...

t: _Distribution
norm: _Distribution
