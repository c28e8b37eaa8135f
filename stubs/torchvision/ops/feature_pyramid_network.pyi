from collections.abc import Callable, Sequence

from torch import nn

class ExtraFPNBlock(nn.Module): ...
class LastLevelMaxPool(ExtraFPNBlock): ...

class FeaturePyramidNetwork(nn.Module):
    def __init__(
        self,
        in_channels_list: Sequence[int],
        out_channels: int,
        extra_blocks: ExtraFPNBlock | None = None,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None: ...
