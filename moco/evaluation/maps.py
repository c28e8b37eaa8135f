"""The feature map of a backbone, before it is pooled."""

import torch
from torch import Tensor, nn

from moco.core.encoder import Encoder
from moco.core.maps import compute_map
from moco.core.networks import REFUSALS
from moco.core.sizes import use_evaluation_mode
from moco.errors import BadInputError


class FlatMap(nn.Module):
    """Images -> the last feature map (N, C h w) of a backbone, C first, then rows, then columns."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        """Compute the map of images x (N, 3, H, W)."""
        return compute_map(self.backbone, x).flatten(1)


@torch.no_grad()
def find_map(encoder: Encoder, image_size: int) -> tuple[FlatMap, tuple[int, int, int]]:
    """Give the module that computes the feature map, and the map's shape (C, h, w) for images of this size.

    Raises BadInputError where the network has no such map, as transformers.
    """
    module = FlatMap(encoder.backbone)
    device = next(encoder.parameters()).device
    try:
        with use_evaluation_mode(module):
            shape = tuple(compute_map(encoder.backbone, torch.zeros(1, 3, image_size, image_size, device=device)).shape)
    except (BadInputError, *REFUSALS):
        shape = ()
    if len(shape) != 4 or shape[2] != shape[3]:
        found = f"gives {shape}" if shape else "names none"
        raise BadInputError(
            f"--features map: {encoder.plan.arch} {found}, expected a map of channels, rows and columns, as "
            f"convolutional networks have: give --features backbone"
        )
    return module, (shape[1], shape[2], shape[3])
