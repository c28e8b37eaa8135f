from torch import nn

class RPNHead(nn.Module):
    def __init__(self, in_channels: int, num_anchors: int, conv_depth: int = 1) -> None: ...

class RegionProposalNetwork(nn.Module):
    anchor_generator: nn.Module
    def __init__(
        self,
        anchor_generator: nn.Module,
        head: nn.Module,
        fg_iou_thresh: float,
        bg_iou_thresh: float,
        batch_size_per_image: int,
        positive_fraction: float,
        pre_nms_top_n: dict[str, int],
        post_nms_top_n: dict[str, int],
        nms_thresh: float,
        score_thresh: float = 0.0,
    ) -> None: ...
