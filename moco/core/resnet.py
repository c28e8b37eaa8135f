"""ResNets of any width and stem from torchvision's blocks, under torchvision's parameter names."""

import re
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moco.core import lean_imports  # noqa: F401  before torchvision

# isort: split
from torchvision.models.resnet import BasicBlock, Bottleneck

from moco.core.batchnorm import mark_recomputation
from moco.core.stems import STEMS, Stem
from moco.errors import BadInputError


@dataclass(frozen=True)
class ResNetPlan:
    """What tells one ResNet from another (arXiv:1512.03385; ResNeXt arXiv:1611.05431)."""

    block: type[BasicBlock | Bottleneck]
    layers: tuple[int, int, int, int]
    groups: int = 1
    width_per_group: int = 64
    width: int = 64


WIDEST = 1024
"""Base width, 16 times that of the papers: 2.9 billion parameters in a ResNet-18."""
NARROW = 16
"""Channels below which a strided 1x1 convolution is not left to oneDNN."""

RESNETS = {
    "resnet18": ResNetPlan(BasicBlock, (2, 2, 2, 2)),
    "resnet34": ResNetPlan(BasicBlock, (3, 4, 6, 3)),
    "resnet50": ResNetPlan(Bottleneck, (3, 4, 6, 3)),
    "resnet101": ResNetPlan(Bottleneck, (3, 4, 23, 3)),
    "resnet152": ResNetPlan(Bottleneck, (3, 8, 36, 3)),
    "resnext50-32x8d": ResNetPlan(Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=8),
    "resnext50_32x4d": ResNetPlan(Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=4),
    "resnext101_32x8d": ResNetPlan(Bottleneck, (3, 4, 23, 3), groups=32, width_per_group=8),
    "resnext101_64x4d": ResNetPlan(Bottleneck, (3, 4, 23, 3), groups=64, width_per_group=4),
    "wide_resnet50_2": ResNetPlan(Bottleneck, (3, 4, 6, 3), width_per_group=128),
    "wide_resnet101_2": ResNetPlan(Bottleneck, (3, 4, 23, 3), width_per_group=128),
}


def resnet_plan(arch: str) -> ResNetPlan | None:
    """Read an architecture name: `resnet50`, `resnet50-2x` (full width twice), `resnet18-w16` (base width 16).

    None where the name is not that of a ResNet. Raises BadInputError for a width that no machine trains.
    """
    if arch in RESNETS:
        return RESNETS[arch]
    match = re.fullmatch(r"(.+)-(?:(?P<times>[1-9]\d?)x|w(?P<width>[1-9]\d{0,3}))", arch)
    if match is None or match[1] not in RESNETS:
        return None
    plan = RESNETS[match[1]]
    width = int(match["width"]) if match["width"] else plan.width * int(match["times"])
    if width > WIDEST:
        raise BadInputError(f"--arch {arch} has a base width of {width}: expected at most {WIDEST}")
    return ResNetPlan(plan.block, plan.layers, plan.groups, plan.width_per_group, width)


class NarrowConv(nn.Conv2d):
    """A strided 1x1 convolution as what it is: every stride-th pixel, and a 1x1 convolution without stride.

    oneDNN's gradient of the strided one writes past its memory where the channels are fewer than a vector of the
    processor and come last (uxlfoundation/oneDNN issue 6035; torch 2.14).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (N, C, H, W)."""
        (step, _), layout = self.stride, torch.channels_last
        return F.conv2d(x[:, :, ::step, ::step].contiguous(memory_format=layout), self.weight, self.bias)


class PaddedConv(nn.Conv2d):
    """A 3x3 convolution of stride 1 that multiplies no padding where a single pixel is left of an image.

    Its other eight taps meet only zeros there, and oneDNN multiplies them all the same.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (N, C, H, W)."""
        if x.shape[2:] == (1, 1):
            return F.conv2d(x, self.weight[:, :, 1:2, 1:2], self.bias)
        return super().forward(x)


def _pad_no_pixels(blocks: nn.Module) -> None:
    """Make PaddedConv of each convolution that may be one, without a random draw."""
    for module in list(blocks.modules()):
        for name, conv in module.named_children():
            if type(conv) is nn.Conv2d and (conv.kernel_size, conv.stride, conv.groups) == ((3, 3), (1, 1), 1):
                padded = PaddedConv(conv.in_channels, conv.out_channels, 3, padding=1, bias=False, device="meta")
                padded.weight = conv.weight
                setattr(module, name, padded)


class ResNet(nn.Module):
    """A ResNet without its classifier: images (N, channels, H, W) -> globally pooled features (N, num_features).

    `stem` is torchvision's 7x7 convolution of stride 2 with max-pooling ("imagenet"), a 3x3 convolution of stride 1
    without max-pooling for small images ("cifar"), or another of STEMS. Full width: every stage is
    `plan.width` / 64 times as wide.
    """

    def __init__(self, plan: ResNetPlan, stem: Stem, channels: int = 3) -> None:
        super().__init__()
        self._channels = plan.width
        first = STEMS[stem]
        self.conv1 = nn.Conv2d(channels, plan.width, first.kernel, first.stride, first.padding, bias=False)
        self.bn1 = nn.BatchNorm2d(plan.width)
        self.relu = nn.ReLU(inplace=True) if first.relu else nn.Identity()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if first.pool else nn.Identity()
        self.layer1 = self._stage(plan, 0)
        self.layer2 = self._stage(plan, 1)
        self.layer3 = self._stage(plan, 2)
        self.layer4 = self._stage(plan, 3)
        _pad_no_pixels(self.layer4)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.num_features = self._channels
        self.recompute = False
        """Keep only what goes into each block, and compute the rest once more for the gradient: saves memory."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # there it imports torch's compiler
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def reset_convolutions(self) -> None:
        """Draw every convolution's weights as PyTorch does by default: uniform, with variance 1 / (3 fan-in).

        That is a sixth of the variance 2 / fan-in of Kaiming's, where fan-in and fan-out are equal.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()

    def _stage(self, plan: ResNetPlan, number: int) -> nn.Sequential:
        planes = plan.width * 2**number
        stride = 1 if number == 0 else 2
        channels_out = planes * plan.block.expansion
        downsample = None
        if stride != 1 or self._channels != channels_out:
            convolution = nn.Conv2d if self._channels >= NARROW else NarrowConv
            downsample = nn.Sequential(
                convolution(self._channels, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )
        blocks = [plan.block(self._channels, planes, stride, downsample, plan.groups, plan.width_per_group)]
        self._channels = channels_out
        for _ in range(1, plan.layers[number]):
            blocks += [plan.block(self._channels, planes, groups=plan.groups, base_width=plan.width_per_group)]
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled features of images x."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
            if self.recompute and torch.is_grad_enabled() and not torch.compiler.is_compiling():
                x = checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), mark_recomputation()))
            else:
                x = block(x)
        return torch.flatten(self.avgpool(x), 1)
