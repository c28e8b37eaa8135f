"""The feature map of a backbone, before it is pooled."""

import torch
from torch import Tensor, nn

from moco.core.encoder import Encoder, use_evaluation_mode
from moco.core.networks import REFUSALS
from moco.core.resnet import ResNet
from moco.errors import BadInputError


class FlatMap(nn.Module):
    """Images -> the last feature map (N, C h w) of a backbone, C first, then rows, then columns."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        """Compute the map of images x (N, 3, H, W)."""
        return self.compute_map(x).flatten(1)

    def compute_map(self, x: Tensor) -> Tensor:
        """Compute the map (N, C, h, w): what our ResNets, timm's or torchvision's networks pool."""
        own = self.backbone
        if isinstance(own, ResNet):
            x = own.maxpool(own.relu(own.bn1(own.conv1(x))))
            for stage in (own.layer1, own.layer2, own.layer3, own.layer4):
                x = stage(x)
            return x
        known = getattr(own, "forward_features", None) or getattr(own, "features", None)
        if known is None:
            raise BadInputError("has no feature map that it names")
        return torch.as_tensor(known(x))


@torch.no_grad()
def find_map(encoder: Encoder, image_size: int) -> tuple[FlatMap, tuple[int, int, int]]:
    """Give the module that computes the feature map, and the map's shape (C, h, w) for images of this size.

    Raises BadInputError where the network has no such map, as transformers.
    """
    module = FlatMap(encoder.backbone)
    device = next(encoder.parameters()).device
    try:
        with use_evaluation_mode(module):
            shape = tuple(module.compute_map(torch.zeros(1, 3, image_size, image_size, device=device)).shape)
    except (BadInputError, *REFUSALS):
        shape = ()
    if len(shape) != 4 or shape[2] != shape[3]:
        found = f"gives {shape}" if shape else "names none"
        raise BadInputError(
            f"--features map: {encoder.plan.arch} {found}, expected a map of channels, rows and columns, as "
            f"convolutional networks have: give --features backbone"
        )
    return module, (shape[1], shape[2], shape[3])
