"""Keeps sensitive operations in full precision, whatever the precision of the rest."""

import torch
from torch import Tensor


def at_least_fp32(x: Tensor) -> Tensor:
    """Give x in fp32, or fp64 where it is that: 1 - m = 0.001 vanishes in bf16, and so do close similarities."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
