from torch import nn

class GeneralizedRCNNTransform(nn.Module):
    min_size: tuple[int, ...]
    max_size: int
    def __init__(
        self, min_size: int, max_size: int, image_mean: list[float], image_std: list[float], size_divisible: int = 32
    ) -> None: ...
