import numpy.typing as npt

class Result:
    statistic: float
    pvalue: float

def ks_2samp(data1: npt.ArrayLike, data2: npt.ArrayLike) -> Result: ...
def chisquare(f_obs: npt.ArrayLike, f_exp: npt.ArrayLike | None = ...) -> Result: ...
