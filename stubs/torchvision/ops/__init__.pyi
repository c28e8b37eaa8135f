from typing import Any

from torch import Tensor, nn
from torchvision.ops import misc as misc

class MultiScaleRoIAlign(nn.Module):
    scales: list[float] | None
    map_levels: Any
    def __init__(self, featmap_names: list[str], output_size: int, sampling_ratio: int) -> None: ...

def box_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor: ...
