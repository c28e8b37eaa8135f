from torch import Tensor

class RandomResizedCrop:
    @staticmethod
    def get_params(img: Tensor, scale: list[float], ratio: list[float]) -> tuple[int, int, int, int]: ...

class ColorJitter:
    @staticmethod
    def get_params(
        brightness: list[float] | None,
        contrast: list[float] | None,
        saturation: list[float] | None,
        hue: list[float] | None,
    ) -> tuple[Tensor, float | None, float | None, float | None, float | None]: ...

class GaussianBlur:
    @staticmethod
    def get_params(sigma_min: float, sigma_max: float) -> float: ...
