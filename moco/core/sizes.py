"""Which sizes of images a backbone takes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from moco.core.bytes import LONGEST_SPAN, TRANSFORMERS
from moco.core.networks import REFUSALS, reason
from moco.core.resnet import ResNet
from moco.errors import BadInputError

REACH = 32
"""Pixels up and down from a size that does not fit, among which one is looked for that does: patches are no larger."""
FURTHER = range(64, 385, 32)
"""Sizes that are tried where none within reach fits: the smallest that a network of timm takes is 256."""


def require_size(
    backbone: nn.Module, arch: str, width: int, blank: Callable[[int], Tensor], size: int, own_size: int, flag: str
) -> None:
    """Raise BadInputError, with a near size that fits, where a backbone takes no square images of this one.

    One image, `blank` of a size, is encoded to find out, but by our ResNets, which take any.
    """
    if arch in TRANSFORMERS and size > LONGEST_SPAN:
        raise BadInputError(f"{flag} {size}: {arch} takes spans of at most {LONGEST_SPAN} bytes")

    def refusal(size: int) -> str | None:
        return _refusal(backbone, arch, width, blank(size))

    why = None if isinstance(backbone, ResNet) else refusal(size)
    if why is None:
        return
    sizes = (range(max(1, size - REACH), size + REACH + 1), (own_size, *FURTHER))
    tried = (other for some in sizes for other in sorted(some, key=lambda other: abs(other - size)))
    fitting = next((other for other in tried if refusal(other) is None), None)
    hint = "give another" if fitting is None else f"give {flag} {fitting}"
    raise BadInputError(f"{flag} {size}: {arch} does not take such images ({why}): {hint}")


@torch.no_grad()
def _refusal(backbone: nn.Module, arch: str, width: int, blank: Tensor) -> str | None:
    """Return why the backbone does not take an image; None if it does."""
    try:
        with use_evaluation_mode(backbone):
            y = backbone(blank)
    except REFUSALS as error:
        return reason(error)
    if y.shape != (1, width):
        raise BadInputError(
            f"{arch} gives features of shape {tuple(y.shape)}: expected pooled ones, (1, {width}): give another network"
        )
    if not bool(y.isfinite().all()):
        return "its features of them are not finite"
    return None


@contextmanager
def use_evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Use running statistics and no dropout inside the block, then restore the modes."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
