"""An encoder's ResNet -> the features that detectors and segmenters stand on: C4, dilated C5, FPN."""

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from moco.core.encoder import Encoder
from moco.core.resnet import ResNet
from moco.errors import BadInputError

STAGES = ("layer1", "layer2", "layer3", "layer4")
"""conv2 to conv5 of the papers (C2 to C5), under torchvision's names."""
PROBE = 256
"""Side of the image whose way through a net shows its strides; a multiple of all of them."""


@dataclass(frozen=True)
class Level:
    """A feature map: how many channels, and how many pixels of the image lie between two of its own."""

    channels: int
    stride: int


class SparseBatchNorm(nn.BatchNorm2d):
    """Batch normalisation that records nothing of an empty batch: an image may have no object at all.

    Of no regions torch's own would record NaN as their mean. The parameters still take part, as processes that train
    together expect.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, H, W)."""
        if self.training and x.numel() == 0:
            return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)
        return super().forward(x)


class Body(nn.Module):
    """The stages of a ResNet up to `last`: images (N, 3, H, W) -> {stage: features}, under torchvision's names.

    It is a copy: the encoder stays as it was. The stem and the first `frozen` stages are neither trained nor do their
    running statistics move; none are in the papers.
    """

    def __init__(self, encoder: Encoder, last: str = "layer4", *, dilated: bool = False, frozen: int = 0) -> None:
        super().__init__()
        resnet = resnet_of(encoder)
        self.stages = STAGES[: STAGES.index(last) + 1]
        for name in ("conv1", "bn1", "relu", "maxpool", *self.stages):
            self.add_module(name, copy.deepcopy(resnet.get_submodule(name)))
        if dilated:
            dilate(self.get_submodule("layer4"))
        self.frozen = ("conv1", "bn1", *self.stages[:frozen]) if frozen else ()
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the features after every stage, in their order."""
        for name in ("conv1", "bn1", "relu", "maxpool"):
            x = self.get_submodule(name)(x)
        features = OrderedDict[str, Tensor]()
        for name in self.stages:
            x = features[name] = self.get_submodule(name)(x)
        return features

    def train(self, mode: bool = True) -> "Body":
        """Train all but the frozen stages."""
        super().train(mode)
        for name in self.frozen:
            self.get_submodule(name).train(False)
        return self


class OneMap(nn.Module):
    """The last feature map of a body alone: of conv4 (C4), or of the dilated conv5 through `neck` (DC5)."""

    def __init__(self, body: Body, neck: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.neck = neck if neck is not None else nn.Identity()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return features under the name of their stage."""
        name, features = list(self.body(x).items())[-1]
        return OrderedDict({name: self.neck(features)})


class Pyramid(nn.Module):
    """FPN (arXiv:1612.03144) on conv2 to conv5, with BN in its layers (v1, 4.2), and a pooled map for large anchors."""

    def __init__(self, body: Body, channels: int) -> None:
        super().__init__()
        self.body = body
        widths = [level.channels for level in levels_of(body).values()]
        self.fpn = FeaturePyramidNetwork(widths, channels, LastLevelMaxPool(), nn.BatchNorm2d)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the features of layer1 to layer4, and of `pool`."""
        features: dict[str, Tensor] = self.fpn(self.body(x))
        return features


def resnet_of(encoder: Encoder) -> ResNet:
    """Return the encoder's ResNet. Raises BadInputError where it is another net."""
    if not isinstance(encoder.backbone, ResNet):
        raise BadInputError(
            f"the weights are a {encoder.plan.arch}, and the models of moco transfer stand on the stages of a ResNet: "
            f"give a resnet18, resnet34, resnet50, resnet101, ResNeXt or a wider one"
        )
    return encoder.backbone


def dilate(stage: nn.Module) -> None:
    """Give a stage stride 1 and all its 3x3 convolutions dilation 2 ("conv5 dilation 2, stride 1"), at any depth.

    It is set on the convolutions themselves: torchvision's BasicBlock refuses to be built with it.
    """
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
            if module.kernel_size == (3, 3):
                module.dilation = module.padding = (2, 2)


def levels_of(features: nn.Module) -> dict[str, Level]:
    """Return the feature maps that a net gives: their channels and strides, as an image on its way through it shows."""
    with torch.no_grad():
        copied = copy.deepcopy(features).to("meta").eval()
        maps: Mapping[str, Tensor] = copied(torch.empty(1, 3, PROBE, PROBE, device="meta"))
    return {name: Level(x.shape[1], PROBE // x.shape[2]) for name, x in maps.items()}


def with_synchronised_norms(model: nn.Module, device: str, ranks: int) -> tuple[nn.Module, str]:
    """Return the model with BN synchronised over several GPUs, and how its BN works in words.

    torch's SyncBatchNorm refuses CPUs: there each process normalises by its own share of the batch.
    """
    if ranks > 1 and device == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return converted, f"BN synchronised over {ranks} processes"
    if ranks > 1:
        return model, f"batch normalisation in each of {ranks} processes by itself: torch synchronises it on GPUs only"
    return model, "batch normalisation over the images of one process"
