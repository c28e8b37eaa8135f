"""Vision transformers by our own names, `vit-tiny-4` and its like, as timm's VisionTransformer with set sizes."""

import re
from typing import Any

import torch
from torch import nn

from moco.errors import BadInputError

NAME = re.compile(r"vit-([a-z]+)-(\d{1,3})")
SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 12), "base": (768, 12, 12)}
"""Width, depth and heads: DeiT's tiny one, and MoCo v3's (arXiv:2104.02057, table 1)."""
PATCHES = (2, 4, 8, 16)
"""Pixels along a patch: 4 or 8 for images of 32 to 96 pixels, 16 for 224."""
TIMMS_NAME = "vit_tiny_patch16_224"
"""The network of timm that takes these sizes as options."""


def vit_options(arch: str, image_size: int) -> tuple[str, dict[str, Any]] | None:
    """Give the network of timm and the options that make up `vit-SIZE-PATCH`; None for a name of another form.

    Raises BadInputError for a size or patch that there is none of, or that does not tile the image.
    """
    match = NAME.fullmatch(arch)
    if match is None:
        return None
    size, patch = match[1], int(match[2])
    if size not in SIZES or patch not in PATCHES:
        raise BadInputError(
            f"--arch {arch} is not known: expected vit-SIZE-PATCH, SIZE one of {', '.join(SIZES)} and PATCH one of "
            f"{', '.join(map(str, PATCHES))}, such as vit-tiny-4"
        )
    if image_size % patch:
        near = max(1, round(image_size / patch)) * patch
        raise BadInputError(
            f"--arch {arch} does not take --image-size {image_size}: expected a multiple of its patches' {patch} "
            f"pixels: give --image-size {near}"
        )
    width, depth, heads = SIZES[size]
    return TIMMS_NAME, {
        "img_size": image_size, "patch_size": patch, "embed_dim": width, "depth": depth, "num_heads": heads,
        "dynamic_img_size": True,
    }  # fmt: skip


@torch.no_grad()
def fix_sine_positions(vit: nn.Module) -> None:
    """Give a transformer of timm sine positions in both directions, which are not trained (v3, section 4.2).

    The class token, which comes first, has no place: zeros.
    """
    from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed  # here, since importing timm takes long

    positions, grid = vit.get_parameter("pos_embed"), vit.get_submodule("patch_embed").grid_size
    assert isinstance(grid, tuple)
    sines = build_sincos2d_pos_embed(list(grid), positions.shape[-1], interleave_sin_cos=True)
    if not positions.is_meta:
        positions.zero_()[0, -len(sines) :] = sines
    positions.requires_grad_(False)


def patch_projection(backbone: nn.Module) -> nn.Conv2d | None:
    """Find the first convolution, where it cuts the image into patches that do not overlap; None where it does not."""
    first = next((module for module in backbone.modules() if isinstance(module, nn.Conv2d)), None)
    return first if first is not None and first.kernel_size == first.stride != (1, 1) else None
