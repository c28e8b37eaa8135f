# ruff: noqa: N801, N802, N803, N815
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

class COCO:
    def __init__(self, annotation_file: dict[str, Any] | None = ..., use_deepcopy: bool = ...) -> None: ...
    def loadRes(self, resFile: list[dict[str, Any]]) -> COCO: ...

class Params:
    maxDets: list[int]
    imgIds: list[int]
    catIds: list[int]
    iouThrs: npt.NDArray[np.float64]

class COCOeval_faster:
    params: Params
    eval: dict[str, Any]
    freq_groups: list[list[int]]
    def __init__(
        self,
        cocoGt: COCO | None = ...,
        cocoDt: COCO | None = ...,
        iouType: str = ...,
        *,
        print_function: Callable[..., object] = ...,
        kpt_oks_sigmas: Sequence[float] | npt.NDArray[np.float64] | None = ...,
        lvis_style: bool = ...,
    ) -> None: ...
    def evaluate(self) -> None: ...
    def accumulate(self) -> None: ...
