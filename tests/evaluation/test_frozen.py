"""`moco.load_encoder`: pictures of any kind and size in, the features that evaluations use out."""

from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from torch import Tensor, nn

import moco
from moco.core.encoder import Encoder, EncoderPlan, encoder_tensors
from moco.data.augment import normalize
from moco.data.decoding import decode
from moco.data.forms import Form
from moco.errors import BadInputError
from moco.evaluation.features import Encoding, encode
from moco.evaluation.preparation import prepare_image
from moco.interop.metadata import encoder_metadata
from moco.runtime.checkpoint import save_tensors


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Pictures of different sizes and modes, one of them to be turned by its EXIF tag."""
    rng = np.random.default_rng(0)
    paths = []
    for number, size in enumerate([(16, 16, 3), (40, 20, 3), (9, 30)]):
        paths.append(tmp_path / f"{number}.png")
        PillowImage.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(paths[-1])
    turned = PillowImage.new("RGB", (30, 10), "red")
    turned.paste("blue", (0, 0, 15, 10))
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    return [*paths, tmp_path / "turned.jpg"]


def test_paths_pillow_images_and_tensors_give_the_same(tiny_run: Path, files: list[Path]) -> None:
    """A row each, in their order: what the backbone gives for the prepared image; one by one or together (1e-5)."""
    encoder = moco.load_encoder(tiny_run)
    of_paths = encoder.embed(files)
    assert of_paths.shape == (4, 256)  # of 2 x 2 parts of each image, 64 channels each
    assert of_paths.dtype == torch.float32
    assert torch.equal(encoder.embed([str(path) for path in files]), of_paths)
    assert torch.equal(encoder.embed([decode(path) for path in files]), of_paths)
    assert torch.equal(encoder.embed([PillowImage.open(path) for path in files]), of_paths)
    weights = moco.load_weights(str(tiny_run))
    own: Any = weights.encoder.eval().backbone
    stages = nn.Sequential(own.conv1, own.bn1, own.relu, own.maxpool, own.layer1, own.layer2, own.layer3, own.layer4)
    whitened = nn.Sequential(stages, nn.Flatten(), weights.encoder.whitening)  # the last map has 2 x 2 pixels
    for row, path in enumerate(files):
        with torch.no_grad():
            expected = whitened(normalize(prepare_image(decode(path), 16)[None], weights.mean, weights.std))[0]
        assert torch.allclose(of_paths[row], expected, atol=1e-5, rtol=1e-5)
    assert torch.allclose(encoder.embed(files, batch_size=3), of_paths, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("output", ["backbone", "head"])
def test_unit_features_are_those_of_the_evaluations(tiny_run: Path, output: Any) -> None:
    """`moco.encode` gives the same."""
    weights, digits = moco.load_weights(str(tiny_run)), moco.load("digits")["test"]
    how = Encoding(16, weights.mean, weights.std, output)
    expected = encode(weights.encoder, digits, how)[:20]
    found = moco.load_encoder(tiny_run, features=output).embed([digits[row] for row in range(20)], unit=True)
    assert torch.allclose(found, expected, atol=1e-5)


def test_it_is_a_module_in_eval_mode_without_gradients(tiny_run: Path) -> None:
    """Called with prepared views as any network; embed leaves a mode as it was, and never uses batch statistics."""
    encoder = moco.load_encoder(tiny_run)
    assert isinstance(encoder, torch.nn.Module)
    assert not any(part.training for part in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert encoder(torch.zeros(2, 3, 16, 16)).shape == (2, 256)
    pictures: list[Any] = [torch.zeros(3, 8, 8, dtype=torch.uint8), torch.full((3, 9, 5), 200, dtype=torch.uint8)]
    before = encoder.embed(pictures)
    encoder.train()
    assert torch.equal(encoder.embed(pictures), before)
    assert encoder.training


def test_another_image_size(tiny_run: Path) -> None:
    """Is that of the views."""
    seen: list[Tensor] = []
    encoder = moco.load_encoder(tiny_run, image_size=24)
    encoder.module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder.embed([torch.zeros(3, 8, 8, dtype=torch.uint8)])
    assert seen[0].shape == (1, 3, 24, 24)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "an empty one"),
        ("one.png", "put it in a list"),
        ([torch.zeros(3, 4, 4)], r"float32 of shape \(3, 4, 4\)"),
        ([torch.zeros(1, 4, 4, dtype=torch.uint8)], r"uint8 of shape \(1, 4, 4\)"),
        ([7], "got int"),
        (["/nowhere/gone.png"], r"gone\.png"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_picture_is_refused(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, images: Any, message: str
) -> None:
    """In one line that says what was given."""
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user's call is not type-checked
    with pytest.raises(BadInputError, match=message):
        moco.load_encoder(tiny_run).embed(images)


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    """As for every command."""
    with pytest.raises(BadInputError, match="expected a run folder"):
        moco.load_encoder(tmp_path / "gone")
    with pytest.raises(BadInputError, match="image_size is 0"):
        moco.load_encoder(tmp_path, image_size=0)


def test_arguments_that_make_no_sense(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are refused, and not taken for others, where nothing checks types."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(BadInputError, match="features is 'haed': expected one of backbone, plain, head"):
        moco.load_encoder(tiny_run, features="haed")  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="batch_size is 0"):
        moco.load_encoder(tiny_run).embed([torch.zeros(3, 8, 8, dtype=torch.uint8)], batch_size=0)
    with pytest.raises(BadInputError, match=r"got torch.uint8 of shape \(3, 0, 8\)"):
        moco.load_encoder(tiny_run).embed([torch.zeros(3, 0, 8, dtype=torch.uint8)])


def test_images_one_by_one(tiny_run: Path, files: list[Path]) -> None:
    """Any iterable will do."""
    encoder = moco.load_encoder(tiny_run)
    assert torch.equal(encoder.embed(path for path in files), encoder.embed(files))


@pytest.mark.parametrize("kind", ["3 channels of uint16", "documents"])
def test_an_encoder_of_other_inputs_embeds_no_rgb(kind: str, tmp_path: Path) -> None:
    """It has no preparation for them: without a word its features would be of nearly black images."""
    form = Form(3, "uint16", (20000.0,) * 3, (5000.0,) * 3) if kind != "documents" else None
    plan = EncoderPlan("resnet10-w4" if form else "bytes-tiny", image_size=8)
    mean, std = (form.mean, form.std) if form else ((0.5,) * 3, (0.5,) * 3)
    save_tensors(
        tmp_path / "encoder.safetensors", encoder_tensors(Encoder(plan)),
        encoder_metadata(plan, mean, std, 0, form=form),
    )  # fmt: skip
    with pytest.raises(BadInputError, match=f"embed takes RGB images, and this encoder takes {kind}"):
        moco.load_encoder(tmp_path / "encoder.safetensors").embed([torch.zeros(3, 8, 8, dtype=torch.uint8)])
