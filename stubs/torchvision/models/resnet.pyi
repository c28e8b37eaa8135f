from collections.abc import Callable

from torch import nn

class BasicBlock(nn.Module):
    expansion: int
    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = ...,
        downsample: nn.Module | None = ...,
        groups: int = ...,
        base_width: int = ...,
        dilation: int = ...,
        norm_layer: Callable[..., nn.Module] | None = ...,
    ) -> None: ...

class Bottleneck(nn.Module):
    expansion: int
    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = ...,
        downsample: nn.Module | None = ...,
        groups: int = ...,
        base_width: int = ...,
        dilation: int = ...,
        norm_layer: Callable[..., nn.Module] | None = ...,
    ) -> None: ...

class ResNet(nn.Module):
    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: list[int],
        num_classes: int = ...,
        zero_init_residual: bool = ...,
        groups: int = ...,
        width_per_group: int = ...,
        replace_stride_with_dilation: list[bool] | None = ...,
        norm_layer: Callable[..., nn.Module] | None = ...,
    ) -> None: ...
