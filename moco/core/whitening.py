"""A first convolution that whitens the images' patches, so that training need not find it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.shapes import Views

NOISE = 0.01
"""Added to every variance, in units of a channel's: directions with less hold noise, which is not to be amplified."""
PATCHES = 2**18
"""About how many patches the covariance is estimated from."""


def views_to_whiten(conv: nn.Conv2d, side: int) -> int:
    """Return how many square views of this side have enough patches of the convolution: 64 to 1024."""
    return min(1024, max(64, PATCHES // (side // conv.stride[0]) ** 2))


@torch.no_grad()
def whiten(conv: nn.Conv2d, views: Views) -> None:
    """Make the filters of a first convolution the principal components of the patches of views (N, 3, H, W).

    With the eigenvalues l_1 >= l_2 >= ... and eigenvectors v_i of the patches' covariance, filter i is
    v_i / sqrt(l_i + 0.01) and filter n + i its negative (what a ReLU cuts off from one the other keeps), for n half the
    filters or the patch's dimension if that is smaller; further filters stay as they are. On these patches the first n
    outputs are uncorrelated and have a variance of at most 1. The mean of an output is left to the normalisation behind
    it. The sign of v_i makes its entry of largest magnitude positive.

    Source: arXiv:1511.06856 (components of the data as initial filters), arXiv:2404.00498, section 3.2 (both signs).
    """
    size = conv.weight[0].numel()
    first, second, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64), 0
    for some in torch.split(views.cpu(), 16):
        patches = _cut_patches(conv, some.double())
        first += patches.sum(0)
        second += patches.T @ patches
        count += len(patches)
    mean = first / count
    variances, components = torch.linalg.eigh(second / count - torch.outer(mean, mean))  # ascending, by columns
    n = min(len(conv.weight) // 2, size)
    chosen = components.T.flip(0)[:n]
    largest = chosen.gather(1, chosen.abs().argmax(1, keepdim=True))
    scaled = chosen * largest.sign() / (variances.flip(0)[:n].clamp(min=0) + NOISE).sqrt()[:, None]
    filters = scaled.view(n, *conv.weight.shape[1:])
    conv.weight[: 2 * n].copy_(torch.cat([filters, -filters]))


def _cut_patches(conv: nn.Conv2d, views: Tensor) -> Tensor:
    """What the convolution sees at each place, without those at the border: (places, C k k)."""
    kernel = (conv.kernel_size[0], conv.kernel_size[1])
    return F.unfold(views, kernel, stride=(conv.stride[0], conv.stride[1])).transpose(1, 2).flatten(0, 1)
