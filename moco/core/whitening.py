"""Whitening of patches, of features, and of what a new head reads, so that training need not find it."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.shapes import Features, Views

NOISE = 0.01
"""Added to every variance, in units of a channel's: directions with less hold noise, which is not to be amplified."""
PATCHES = 2**18
"""About how many patches the covariance is estimated from."""


LEAST_SHARE = 0.5
"""Images, per number of a feature, below which the covariance of features is not known well enough."""
ROUNDING = 1e-4
"""Share of the largest feature: what differs by less is equal but for rounding, which is not to be enlarged."""
SMALLEST = torch.finfo(torch.float32).tiny ** 0.5
"""Deviation below which a variance in float32 is 0."""
RIDGE = 0.01
"""Share of the largest variance that is added to every variance where nothing chooses another."""
MOST_SQUARE = 2048
"""Numbers of a feature up to which its covariance is decomposed, which takes seconds; beyond, as many features say."""
NOTHING = 1e-10
"""Share of the largest variance below which a direction has none but for rounding."""


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


@torch.no_grad()
def whitening_maps(features: Features, ridges: Sequence[float], most: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """Return weight (K, C) and bias (K,) of the map that whitens features (n, C), for each ridge r.

    With their mean m and the eigenvalues l_1 >= l_2 >= ... and eigenvectors U of their covariance, x becomes
    U diag(sqrt((l_1 + r l_1) / (l_i + r l_1))) U^T (x - m). The direction of the largest variance stays as it is, and
    the others are enlarged, at most by sqrt((1 + r) / r). Of the maps to this covariance none stays nearer to the plain
    features. The list is empty where all features are equal but for rounding, or some are not finite.

    If C exceeds `most`, the first U is left out, and only the K <= `most` directions of the largest variances are kept.
    Similarities stay the same but for what those hold that are left out.

    Source: arXiv:1512.00809 (ZCA); the ridge is ours.
    """
    found = _find_directions(features, most)
    if found is None:
        return []
    mean, variances, components = found
    largest = variances[-1]
    gains = [((1 + ridge) * largest / (variances + ridge * largest)).sqrt() for ridge in ridges]
    if most is None or features.shape[1] <= most:
        rests = [((1 + ridge) / ridge) ** 0.5 for ridge in ridges]
        weights = [_turn_back(components, gain, rest) for gain, rest in zip(gains, rests, strict=True)]
    else:
        kept = _list_largest(variances, most)
        weights = [(components * gain).T[kept] for gain in gains]
    return [(weight.float(), (-weight @ mean).float()) for weight in weights]


def _turn_back(components: Tensor, gains: Tensor, rest: float) -> Tensor:
    """Build the map (C, C) that enlarges directions (C, K) by their gains (K), and all missing ones by the rest."""
    if components.shape[1] == len(components):
        return (components * gains) @ components.T
    turned = (components * (gains - rest)) @ components.T
    turned.diagonal().add_(rest)
    return turned


@torch.no_grad()
def principal_map(features: Features, most: int) -> tuple[Tensor, Tensor] | None:
    """Return weight (K, C) and bias (K,) of the map of features (n, C) to their K <= `most` principal components.

    It turns the features less their mean, and leaves out the directions of the smallest variances. None where all
    features are equal but for rounding, or some are not finite.
    """
    found = _find_directions(features, most)
    if found is None:
        return None
    mean, variances, components = found
    weight = components.T[_list_largest(variances, most)]
    return weight.float(), (-weight @ mean).float()


def _list_largest(variances: Tensor, most: int | None) -> list[int]:
    """The places of the largest of variances that are ascending, largest first, without those of rounding."""
    places = range(len(variances) - 1, -1, -1)
    return [place for place in places if variances[place] > NOTHING * variances[-1]][:most]


def _find_directions(features: Features, most: int | None) -> tuple[Tensor, Tensor, Tensor] | None:
    """The mean of features (n, C), their variances along the principal directions, ascending, and these (C, K)."""
    x = features.double()
    mean = x.mean(0)
    centred = x - mean
    if not bool(centred.isfinite().all()):
        return None
    variances, components = _decompose(centred, fully=most is None or x.shape[1] <= max(most, MOST_SQUARE))
    if not float(variances[-1].sqrt()) > max(ROUNDING * float(mean.abs().max()), SMALLEST):
        return None
    return mean, variances, components


def _decompose(centred: Tensor, *, fully: bool) -> tuple[Tensor, Tensor]:
    """Return the variances of features (n, C) of mean 0 along their principal directions, ascending, and these (C, K).

    Fewer features than numbers differ in K < n directions: only these are found. If not fully, only those are found in
    which MOST_SQUARE of the features differ.
    """
    if fully and len(centred) >= centred.shape[1]:
        variances, components = torch.linalg.eigh(centred.T @ centred / len(centred))
        return variances.clamp(min=0), components
    some = centred if fully else centred[:: math.ceil(len(centred) / MOST_SQUARE)]
    variances, turned = torch.linalg.eigh(some @ some.T / len(some))
    variances = variances.clamp(min=0)
    differ = variances > NOTHING * variances[-1]
    differ[-1] = True
    variances, turned = variances[differ], turned[:, differ]
    return variances, some.T @ turned / (len(some) * variances).sqrt().clamp(min=SMALLEST)


@torch.no_grad()
def whiten_head(head: nn.Module, features: Features) -> bool:
    """Let a new projection head read whitened features and give outputs of mean 0; return whether it does now.

    Published features have a large mean and few strong directions. Through random layers all images then have nearly
    the same output, and training spends its first hundreds of steps on changing that. `features` (n, C) are those of
    n images. With A x + b their whitening (`whitening_maps`), scaled to a variance of 1 on average, the first layer
    W x + c becomes W (A x + b) + c, and the last layer's bias loses the mean of the outputs. A head without biases
    stays as it is, and so does any where features are fewer than C / 2 or differ by rounding only.
    """
    layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
    x = features.float()
    maps = whitening_maps(x, (RIDGE,)) if len(x) >= LEAST_SHARE * x.shape[1] else []
    if not maps or any(layer.bias is None for layer in layers):
        return False
    ((weight, bias),) = maps
    scale = (x @ weight + bias).var(0, unbiased=False).mean().rsqrt()
    layers[0].bias.add_(layers[0].weight @ (scale * bias))
    layers[0].weight.copy_(layers[0].weight @ (scale * weight))
    layers[-1].bias.sub_(head(x).mean(0))
    return True
