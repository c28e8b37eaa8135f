"""Images reach a frozen encoder as torchvision would bring them, and it is left as it was."""

import functools

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as reference
from sklearn.datasets import load_sample_images
from torch import Tensor

from moco.core.encoder import Encoder, EncoderPlan, Output
from moco.data.augment import normalize
from moco.data.catalog import load
from moco.data.derived import Subset
from moco.data.images import FileImages, Images, PathTable
from moco.errors import BadInputError
from moco.evaluation import features as module
from moco.evaluation.features import Encoding, encode, prepare_image

LARGEST = 1e-6
"""Largest difference of a prepared pixel in [0, 1] to torchvision's: 0 seen, and a margin for other machines."""
HOW = Encoding(16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), batch_size=32)


@functools.cache
def whole_photograph() -> npt.NDArray[np.uint8]:
    """One that comes with scikit-learn."""
    return load_sample_images().images[0]


def photograph(height: int, width: int) -> Tensor:
    """A piece of a photograph (427x640), repeated where it is too small, colours innermost as `decode` gives it."""
    pixels = np.tile(whole_photograph(), (3, 3, 1))[:height, :width]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def reference_prepare(image: Tensor, size: int, short_side: int) -> Tensor:
    """Torchvision's Resize of the shorter side and CenterCrop, of float pixels."""
    pixels = image.contiguous().float() / 255
    return reference.center_crop(reference.resize(pixels, [short_side], antialias=True), [size, size])


SHAPES = [(427, 640), (640, 427), (256, 256), (100, 100), (375, 500), (333, 499), (224, 224), (300, 900)]
AWKWARD = [(49, 98), (98, 49), (206, 309), (237, 474), (374, 500), (500, 394)]
"""Sides s for which s * (256 / s) is a little less than 256 in floating point."""


@pytest.mark.parametrize("shape", [*SHAPES, *AWKWARD], ids=str)
def test_prepare_at_224_resizes_to_256_and_cuts_the_centre(shape: tuple[int, int]) -> None:
    """As in the papers, in both directions and for odd sides."""
    image = photograph(*shape)
    found = prepare_image(image, 224)
    assert found.shape == (3, 224, 224)
    assert (found - reference_prepare(image, 224, 256)).abs().max() <= LARGEST


@pytest.mark.parametrize(("size", "short_side"), [(65, 74), (96, 110), (128, 146), (448, 512)])
def test_prepare_at_other_sizes_keeps_the_same_share(size: int, short_side: int) -> None:
    """The shorter side is size / 0.875, rounded."""
    image = photograph(427, 640)
    assert (prepare_image(image, size) - reference_prepare(image, size, short_side)).abs().max() <= LARGEST


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("shape", [(32, 32), (8, 8), (100, 108), (44, 40)], ids=str)
def test_prepare_at_small_sizes_resizes_the_whole(size: int, shape: tuple[int, int]) -> None:
    """Up to 64 pixels nothing of a square is cut off; an image of that size is left as it is."""
    image = photograph(*shape)
    pixels = image.contiguous().float() / 255
    found = prepare_image(image, size)
    assert (found - reference.resize(pixels, [size, size], antialias=True)).abs().max() <= LARGEST
    if shape == (size, size):
        assert torch.equal(found, pixels)


@pytest.mark.parametrize(("size", "short_side"), [(16, 18), (32, 37), (64, 73)])
@pytest.mark.parametrize("shape", [(427, 640), (64, 40), (100, 113)], ids=str)
def test_prepare_at_small_sizes_squeezes_nothing(size: int, short_side: int, shape: tuple[int, int]) -> None:
    """Of what is no square the centre is cut, as at larger sizes: views of training are not squeezed either."""
    image = photograph(*shape)
    assert (prepare_image(image, size) - reference_prepare(image, size, short_side)).abs().max() <= LARGEST


# --- encode ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A small network with random weights."""
    torch.manual_seed(0)
    return Encoder(EncoderPlan("resnet10-w16", "cifar", feature_dim=24, image_size=16))


@pytest.fixture(scope="module")
def images() -> Images:
    """Some digits."""
    return Subset(load("digits")["train"], np.arange(0, 1400, 20))


@pytest.mark.parametrize(("output", "width"), [("backbone", 128), ("head", 24)])
def test_features_are_the_encoder_s_of_unit_length(
    encoder: Encoder, images: Images, output: Output, width: int
) -> None:
    """A row for each image, in order, without gradient: what the module gives for the prepared image."""
    features = encode(encoder, images, Encoding(16, HOW.mean, HOW.std, output))
    assert features.shape == (len(images), width)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    # normalising divides by a norm in fp32
    assert torch.allclose(features.norm(dim=1), torch.ones(len(images)), atol=1e-6, rtol=0)
    module = encoder if output == "head" else encoder.backbone
    encoder.eval()
    with torch.no_grad():
        for row in (0, len(images) - 1):
            view = normalize(prepare_image(images[row], 16)[None], HOW.mean, HOW.std)
            # convolutions of one image and of many may add up in another order
            assert torch.allclose(F.normalize(module(view))[0], features[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 7, 70, 1000])
def test_features_do_not_depend_on_the_batch_size(encoder: Encoder, images: Images, batch_size: int) -> None:
    """Running statistics are used; convolutions may add up in another order: a few 1e-7."""
    expected = encode(encoder, images, HOW)
    found = encode(encoder, images, Encoding(16, HOW.mean, HOW.std, batch_size=batch_size))
    assert torch.allclose(found, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("at_a_time", [1, 5, 32])
def test_features_do_not_depend_on_how_many_are_encoded_at_a_time(
    encoder: Encoder, images: Images, at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU cuts a batch into parts by the pixels of an image."""
    expected, sizes = encode(encoder, images, HOW), set[int]()
    monkeypatch.setattr(module, "PLACES", at_a_time * 16 * 16 + 3)
    hook = encoder.backbone.register_forward_pre_hook(lambda _, inputs: sizes.add(len(inputs[0])))
    found = encode(encoder, images, HOW)
    hook.remove()
    assert max(sizes) == at_a_time
    assert torch.allclose(found, expected, atol=2e-6, rtol=0)


def modes(encoder: Encoder) -> list[bool]:
    """Whether each module is in training mode."""
    return [module.training for module in encoder.modules()]


@pytest.mark.parametrize("mode", ["training", "evaluating", "frozen backbone"])
def test_encode_leaves_the_encoder_as_it_was(encoder: Encoder, images: Images, mode: str) -> None:
    """Mode of every module, weights and running statistics."""
    encoder.train(mode != "evaluating")
    if mode == "frozen backbone":
        encoder.backbone.eval()
    before, state = modes(encoder), {name: value.clone() for name, value in encoder.state_dict().items()}
    encode(encoder, images, HOW)
    assert modes(encoder) == before
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())


def test_encode_leaves_the_mode_as_it_was_where_an_image_is_bad(encoder: Encoder) -> None:
    """The monitor fails, the training does not go on with frozen statistics."""
    encoder.train()
    with pytest.raises(BadInputError, match=r"gone\.png"):
        encode(encoder, FileImages(b"/nowhere", PathTable([b"gone.png"])), HOW)
    assert all(modes(encoder))


def test_a_network_in_training_gives_the_same_features(encoder: Encoder, images: Images) -> None:
    """The mode it comes in does not matter."""
    found = [encode(encoder.train(training), images, HOW) for training in (True, False)]
    assert torch.equal(*found)


def test_bf16_features_are_fp32_of_unit_length(encoder: Encoder, images: Images) -> None:
    """Convolutions in bf16 keep 8 bits, so directions agree to about 1%; the features themselves are fp32."""
    features = encode(encoder, images, Encoding(16, HOW.mean, HOW.std, precision="bf16"))
    assert features.dtype == torch.float32
    assert torch.allclose(features.norm(dim=1), torch.ones(len(images)), atol=1e-6, rtol=0)
    assert (features * encode(encoder, images, HOW)).sum(1).min() > 0.99


@pytest.mark.parametrize("shape", [(3, 1, 5000), (3, 5000, 1), (3, 2, 100_000)])
def test_a_line_of_pixels_takes_little_memory(monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]) -> None:
    """Resized as a whole, one of 5000 pixels would have 570,000 x 114 and more; its middle is what is cut out."""
    resized: list[int] = []
    resize = module._resize

    def noted(pixels: torch.Tensor, height: int, width: int) -> torch.Tensor:
        resized.append(height * width)
        return resize(pixels, height, width)

    monkeypatch.setattr(module, "_resize", noted)
    image = torch.zeros(shape, dtype=torch.uint8)
    middle = [slice(side // 2 - 20, side // 2 + 20) if side > 10 else slice(None) for side in shape[1:]]
    image[:, middle[0], middle[1]] = 255
    found = prepare_image(image, 100)
    assert found.shape == (3, 100, 100)
    assert bool((found == 1).all())
    assert max(resized) <= 114 * 114 * 17
