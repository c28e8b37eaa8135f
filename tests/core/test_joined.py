"""Encoders side by side: their features against each network by itself, and what a file may say of them."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from moco.core.encoder import Encoder, EncoderPlan
from moco.core.joined import JoinedBackbone, Part, read_parts, resize_matrix
from moco.core.networks import build_backbone
from moco.core.sizes import use_evaluation_mode
from moco.errors import BadInputError

SMALL = Part("resnet10-w8", "cifar", 16, 12, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
LARGE = Part("resnet10-w8", "imagenet", 32, 32, (0.5,) * 3, (0.5,) * 3)


def joined(*parts: Part, size: int = 32) -> Encoder:
    """An encoder of these parts with random weights."""
    torch.manual_seed(0)
    return Encoder(EncoderPlan("joined", image_size=size, parts=parts))


@pytest.mark.parametrize(("source", "target"), [(32, 12), (33, 32), (16, 40), (8, 8)])
def test_the_resize_is_torchs(source: int, target: int) -> None:
    """The two products with a matrix are bilinear interpolation with antialiasing, up and down."""
    x = torch.rand(2, 3, source, source, generator=torch.Generator().manual_seed(0))
    matrix = resize_matrix(source, target)
    expected = F.interpolate(x, (target, target), mode="bilinear", antialias=True, align_corners=False)
    assert torch.allclose(matrix @ x @ matrix.T, expected, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("size", [32, 24])
def test_the_features_are_those_of_each_network(size: int) -> None:
    """Each gets its own size and normalisation; its features have unit length, and stand behind those before it."""
    encoder = joined(SMALL, LARGE)
    x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))
    expected = []
    for place, part in enumerate((SMALL, LARGE)):
        alone, _ = build_backbone(part.arch, part.stem, part.image_size)
        prefix = f"backbone.parts.{place}.network."
        state = encoder.state_dict()
        alone.load_state_dict({n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)})
        y = F.interpolate(x, (part.side, part.side), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (part.mean, part.std))
        expected.append(F.normalize(alone.eval()((y - mean) / std)))
    with use_evaluation_mode(encoder):
        found = encoder.reading("backbone")(x)
    assert encoder.num_features == found.shape[1]
    assert torch.allclose(found, torch.cat(expected, 1), atol=1e-5)
    cosine = F.cosine_similarity(found[:1], found[1:])
    by_part = torch.stack([F.cosine_similarity(z[:1], z[1:]) for z in expected])
    assert torch.allclose(cosine, by_part.mean(0), atol=1e-5)


def test_a_part_whitens_before_its_length_is_taken() -> None:
    """The affine map of a part comes between its network and the unit length."""
    part = Part(**{**vars(SMALL), "whitens": True})
    encoder = joined(part, LARGE).eval()
    assert isinstance(encoder.backbone, JoinedBackbone)
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        own = encoder.backbone.plain(x)[0]
        layer = encoder.backbone.whitening[0]
        assert torch.allclose(encoder.backbone(x)[:, : own.shape[1]], F.normalize(layer(own)), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"arch": "joined"}, "a part cannot be 'joined'"),
        ({"arch": "bytes-ngrams"}, "expected a network that takes images"),
        ({"side": 0}, "expected 1 to 16384"),
        ({"image_size": 1 << 20}, "expected 1 to 16384"),
        ({"std": (0.0, 1.0, 1.0)}, "of std more than 0"),
        ({"mean": (float("nan"), 1.0, 1.0)}, "expected finite numbers"),
        ({"mean": (1.0,)}, "expected finite numbers"),
        ({"mean": ("a", 1.0, 1.0)}, "a part"),
        ({"stem": "other"}, "a part"),
        ({"mean": 3}, "does not describe a network"),
        ({"other": 3}, "does not describe a network"),
        ({"whitens": "yes"}, "a part"),
    ],
)
def test_what_no_part_is(change: dict[str, Any], said: str) -> None:
    """What a file says is refused in one line."""
    with pytest.raises(BadInputError, match=said):
        read_parts([{**vars(SMALL), **change}, vars(LARGE)])


def test_parts_belong_to_joined_encoders() -> None:
    """One network has none, and a joined encoder some."""
    for arch, parts in (("resnet18", (SMALL,)), ("joined", ())):
        with pytest.raises(BadInputError, match="parts"):
            EncoderPlan(arch, parts=parts)
    for values in ("ab", [vars(SMALL)] * 9):
        with pytest.raises(BadInputError, match="a list of at most"):
            read_parts(values)
    with pytest.raises(BadInputError, match="channels"):
        Encoder(EncoderPlan("joined", image_size=32, channels=4, parts=(SMALL, LARGE)))
