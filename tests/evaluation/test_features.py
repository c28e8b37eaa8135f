"""Images reach a frozen encoder as torchvision would bring them, and it is left as it was."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from moco.core.encoder import Encoder, EncoderPlan, Output
from moco.data.augment import normalize
from moco.data.catalog import load
from moco.data.derived import Subset
from moco.data.images import FileImages, Images, PathTable
from moco.errors import BadInputError
from moco.evaluation import features as module
from moco.evaluation.features import Encoding, encode
from moco.evaluation.preparation import prepare_image

HOW = Encoding(16, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), batch_size=32)


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


@pytest.mark.parametrize("places", [1, 3 * 64, 1 << 20])
def test_images_in_memory_are_prepared_together(
    encoder: Encoder, images: Images, monkeypatch: pytest.MonkeyPatch, places: int
) -> None:
    """As many as do not take much memory, with the features of images that are prepared one by one."""

    class OneByOne(Subset):
        """The same set, as if its images were files."""

        in_memory = False

    assert isinstance(images, Subset)
    monkeypatch.setattr(module, "PLACES", places)
    expected = encode(encoder, OneByOne(images.images, images.rows), HOW)
    prepared, prepare = list[int](), prepare_image

    def note(batch: torch.Tensor, size: int) -> torch.Tensor:
        prepared.append(len(batch))
        return prepare(batch, size)

    at_once = max(1, places // 64)
    monkeypatch.setattr(module, "prepare_image", note)
    assert torch.equal(encode(encoder, images, HOW), expected)
    assert prepared == [n for whole in (32, 32, 6) for n in [*[at_once] * (whole // at_once), whole % at_once] if n]


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
