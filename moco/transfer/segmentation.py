"""The fully convolutional network for semantic segmentation (v1, 4.2, and its appendix)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.core.encoder import Encoder
from moco.transfer.backbones import Body, levels_of
from moco.transfer.targets import VOID


class SegmentationNet(nn.Module):
    """FCN: conv5 dilated, two 3x3 convolutions of `dilation` with BN and ReLU, a 1x1 classifier; stride 16.

    In training, images (3, H, W) in [0, 1] of one size and labels (H, W) give the loss of every pixel but void ones,
    the logits being brought to the images' size. In evaluation, images of any sizes give labels (H, W).
    """

    def __init__(
        self, encoder: Encoder, classes: int, channels: int, mean: Sequence[float], std: Sequence[float],
        frozen: int = 0, dilation: int = 6,
    ) -> None:  # fmt: skip
        super().__init__()
        self.body = Body(encoder, dilated=True, frozen=frozen)
        width = levels_of(self.body)["layer4"].channels
        self.head = nn.Sequential(
            *_convolution(width, channels, dilation), *_convolution(channels, channels, dilation),
            nn.Conv2d(channels, classes, 1),
        )  # fmt: skip
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def logits(self, x: Tensor) -> Tensor:
        """Images (N, 3, H, W) in [0, 1] -> (N, classes, H, W)."""
        features = self.body((x - self.get_buffer("mean")) / self.get_buffer("std"))["layer4"]
        return F.interpolate(self.head(features), size=x.shape[-2:], mode="bilinear", align_corners=False)

    def forward(self, images: list[Tensor], targets: list[Tensor] | None = None) -> dict[str, Tensor] | list[Tensor]:
        """Return the loss, or a label for each pixel of each image."""
        if not self.training:
            return [self.logits(image[None])[0].argmax(0) for image in images]
        assert targets is not None
        labels = torch.stack(targets)
        total = F.cross_entropy(self.logits(torch.stack(images)).float(), labels, ignore_index=VOID, reduction="sum")
        return {"loss_pixels": total / (labels != VOID).sum().clamp(min=1)}  # a crop may be void all over


def _convolution(inputs: int, outputs: int, dilation: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
