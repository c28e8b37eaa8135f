"""Keeps sensitive operations in full precision, whatever the precision of the rest."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def at_least_fp32(x: Tensor) -> Tensor:
    """Give x in fp32, or fp64 where it is that: 1 - m = 0.001 vanishes in bf16, and so do close similarities."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class AffineMap(nn.Linear):
    """An affine map that is computed in fp32 under autocast, too."""

    def forward(self, x: Tensor) -> Tensor:
        """Map x (..., C)."""
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(at_least_fp32(x))


@contextmanager
def exact_products() -> Iterator[None]:
    """Multiply matrices of fp32 numbers as they are, as long as it lasts, also where a GPU rounds others to TF32."""
    rounded = torch.backends.cuda.matmul.allow_tf32
    if not rounded:
        yield
        return
    _round_products(False)
    try:
        yield
    finally:
        _round_products(True)


def _round_products(rounded: bool) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.9 announces another interface, which its own compiler cannot read
        torch.backends.cuda.matmul.allow_tf32 = rounded
