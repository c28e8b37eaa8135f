"""Our own transformers: their sizes, their places in closed form, and where a network cuts its images into patches."""

import math

import pytest
import timm
import torch
import torchvision

from moco.core.encoder import Encoder, EncoderPlan
from moco.core.networks import build_backbone
from moco.core.transformers import patch_projection
from moco.errors import BadInputError


def parameters_of(width: int, depth: int, patch: int, tokens: int) -> int:
    """How many numbers a transformer has: patches, class token, places, blocks, the last norm (arXiv:2010.11929)."""
    attention, mlp, norms = 4 * width * (width + 1), 2 * 4 * width * width + 5 * width, 4 * width
    first = (3 * patch * patch + 1) * width + width + (tokens + 1) * width
    return first + depth * (attention + mlp + norms) + 2 * width


@pytest.mark.parametrize(
    ("arch", "size", "width", "depth", "patch"),
    [("vit-tiny-4", 32, 192, 12, 4), ("vit-small-8", 96, 384, 12, 8), ("vit-base-16", 224, 768, 12, 16)],
)
def test_sizes(arch: str, size: int, width: int, depth: int, patch: int) -> None:
    """Width and number of parameters are those of the name."""
    with torch.device("meta"):
        backbone, num_features = build_backbone(arch, "imagenet", size)
    assert num_features == width
    tokens = (size // patch) ** 2
    assert sum(p.numel() for p in backbone.parameters()) == parameters_of(width, depth, patch, tokens)


def test_places_are_sines_and_stay() -> None:
    """Half of the numbers say the column, half the row: sines and cosines of 10000^(-2i / quarter); none is trained."""
    backbone, width = build_backbone("vit-tiny-8", "imagenet", 24)
    positions = backbone.get_parameter("pos_embed")
    assert not positions.requires_grad
    assert not positions[0, 0].any()  # the class token's
    quarter = width // 4
    for row in range(3):
        for column in range(3):
            found = positions[0, 1 + 3 * row + column].tolist()
            expected = set()
            for place in (row, column):
                for i in range(quarter):
                    angle = place / 10000 ** (i / quarter)
                    expected |= {round(math.sin(angle), 4), round(math.cos(angle), 4)}
            assert {round(value, 4) for value in found} == expected
    places = positions[0, 1:]
    assert torch.cdist(places, places).fill_diagonal_(1.0).min() > 0.1  # no two are alike


@torch.no_grad()
def test_any_size_of_whole_patches() -> None:
    """An encoder for 32 pixels takes views of 16, and says which sizes it does not take."""
    encoder = Encoder(EncoderPlan("vit-tiny-4", image_size=32)).eval()
    assert encoder(torch.randn(2, 3, 16, 16)).shape == (2, 128)
    encoder.require_size(48, "--image-size")
    with pytest.raises(BadInputError, match=r"--view-size 18: vit-tiny-4 does not take such images .*--view-size 16$"):
        encoder.require_size(18, "--view-size")


@pytest.mark.parametrize(
    ("arch", "size", "message"),
    [
        ("vit-tiny-4", 30, "--arch vit-tiny-4 does not take --image-size 30: .*multiple of .* 4 pixels: .*-size 32$"),
        ("vit-huge-4", 32, "--arch vit-huge-4 is not known: expected vit-SIZE-PATCH, SIZE one of tiny, small, base"),
        ("vit-tiny-5", 30, "PATCH one of 2, 4, 8, 16, such as vit-tiny-4$"),
        ("vit-tiny-4x", 32, "--arch vit-tiny-4x is not known: did you mean"),
    ],
)
def test_names_and_sizes_that_there_are_not(arch: str, size: int, message: str) -> None:
    """One line each."""
    with pytest.raises(BadInputError, match=message):
        build_backbone(arch, "imagenet", size)


@pytest.mark.parametrize(
    ("arch", "patch"),
    [
        ("vit_b_16", 16), ("swin_t", 4), ("convnext_tiny", 4), ("maxvit_t", None), ("resnet18", None), ("vgg11", None),
    ],
)  # fmt: skip
def test_patches_of_torchvisions(arch: str, patch: int | None) -> None:
    """Where the first convolution's steps are as long as its kernel."""
    with torch.device("meta"):
        found = patch_projection(torchvision.models.get_model(arch, weights=None))
    assert (found.kernel_size if found is not None else None) == (None if patch is None else (patch, patch))


@pytest.mark.parametrize(
    ("name", "patch"), [("deit_tiny_patch16_224", 16), ("mixer_b32_224", 32), ("levit_128s", None)]
)
def test_patches_of_timms(name: str, patch: int | None) -> None:
    """Also of mixers; not where a network has several convolutions before its tokens."""
    with torch.device("meta"):
        found = patch_projection(timm.create_model(name))
    assert (found.kernel_size if found is not None else None) == (None if patch is None else (patch, patch))
