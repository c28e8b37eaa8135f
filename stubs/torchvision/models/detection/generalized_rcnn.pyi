from typing import Any

from torch import nn

class GeneralizedRCNN(nn.Module):
    backbone: Any
    rpn: Any
    roi_heads: Any
    transform: Any
    def __init__(self, backbone: nn.Module, rpn: nn.Module, roi_heads: nn.Module, transform: nn.Module) -> None: ...
