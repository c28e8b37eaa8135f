from torch import nn

class KeypointRCNNPredictor(nn.Module):
    def __init__(self, in_channels: int, num_keypoints: int) -> None: ...
