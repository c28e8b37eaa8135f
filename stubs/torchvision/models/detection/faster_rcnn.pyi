from torch import nn

class FastRCNNPredictor(nn.Module):
    cls_score: nn.Linear
    bbox_pred: nn.Linear
    def __init__(self, in_channels: int, num_classes: int) -> None: ...

class TwoMLPHead(nn.Module):
    def __init__(self, in_channels: int, representation_size: int) -> None: ...
