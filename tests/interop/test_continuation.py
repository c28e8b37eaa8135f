"""A reference checkpoint goes on: f_q, f_k and the queue are the file's, or are begun anew with a word."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.dictionary import Queue
from moco.core.encoder import Encoder, EncoderPlan, encoder_tensors
from moco.core.pair import EncoderPair
from moco.data.catalog import load
from moco.data.images import ArrayImages
from moco.pretraining.config import PretrainConfig
from moco.pretraining.initial import load_f_k_and_queue, with_weights
from moco.pretraining.loop import pretrain
from moco.pretraining.prepare import build_dictionary, build_encoder
from moco.pretraining.recipes import recipe
from moco.runtime.checkpoint import checkpoint_path, load_tensors

PLAN = EncoderPlan("resnet18-w16", "cifar", "mlp", image_size=16)
KEYS, POINTER = 64, 24


def reference(path: Path, *, f_k: bool = True, queue: bool = True) -> dict[str, Tensor]:
    """A file of main_moco.py, of a narrow net; its tensors."""
    torch.manual_seed(5)
    state: dict[str, Tensor] = {}
    for name in ("encoder_q", "encoder_k") if f_k else ("encoder_q",):
        encoder = Encoder(PLAN)
        state |= {f"module.{name}.{key}": value for key, value in encoder.backbone.state_dict().items()}
        state |= {f"module.{name}.fc.{key}": value for key, value in encoder.head.state_dict().items()}
    if queue:
        state |= {"module.queue": F.normalize(torch.randn(128, KEYS), dim=0)}
        state |= {"module.queue_ptr": torch.tensor([POINTER])}
    torch.save({"epoch": 3, "arch": "resnet18", "state_dict": state, "optimizer": {}}, path)
    return state


def config(weights: Path, **values: Any) -> PretrainConfig:
    """A run of one step."""
    small = {
        "arch": "resnet18-w16", "head": "mlp", "dictionary": "queue", "queue_size": KEYS, "image_size": 16,
        "view_size": 16, "batch_size": 16, "bn_groups": 4, "max_steps": 1, "knn_every": 0, "key_momentum": 0.5,
        "precision": "fp32", "device": "cpu", "threads": 1, "workers": 0, "init_weights": str(weights),
    }  # fmt: skip
    return recipe("quick", data="digits", out=weights.parent / "run", **{**small, **values})


def begun(settings: PretrainConfig, images: int = 100) -> tuple[EncoderPair, Any, str]:
    """What the loop starts from, and what is said of it."""
    settings = with_weights(settings)
    pair = EncoderPair(build_encoder(settings), settings.dictionary)
    dictionary = build_dictionary(settings, images)
    return pair, dictionary, load_f_k_and_queue(settings, pair, dictionary, images)


def named(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """One encoder of the file under our names."""
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {name.replace("fc.", "head."): value for name, value in own.items()}


def test_all_of_it_is_taken_up(tmp_path: Path) -> None:
    """Both encoders, the keys as rows, and the place where the next key goes."""
    state = reference(tmp_path / "net.pth.tar")
    pair, queue, origin = begun(config(tmp_path / "net.pth.tar"))
    assert pair.f_k is not None
    for encoder, prefix in ((pair.encoder, "module.encoder_q."), (pair.f_k, "module.encoder_k.")):
        found, expected = encoder_tensors(encoder), named(state, prefix)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in found)
    assert torch.equal(queue.keys, state["module.queue"].T)
    assert queue.oldest == POINTER
    assert "(MoCo); network, image size, mean and std come from these weights, except --image-size; " in origin
    assert "; f_k is the file's; the queue is the file's" in origin


def test_the_queue_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One step of the loop replaces the oldest keys, and moves f_k from the file's towards f_q."""
    state = reference(tmp_path / "net.pth.tar")
    settings = config(tmp_path / "net.pth.tar")
    pretrain(settings, load("digits")["train"])
    tensors, _ = load_tensors(checkpoint_path(settings.out, 1))
    before = state["module.queue"].T
    same = (tensors["dictionary.keys"] == before).all(1)
    assert (~same).nonzero().flatten().tolist() == list(range(POINTER, POINTER + 16))
    f_k = 0.5 * state["module.encoder_k.conv1.weight"] + 0.5 * tensors["f_q.backbone.conv1.weight"]
    torch.testing.assert_close(tensors["f_k.backbone.conv1.weight"], f_k)
    assert "the queue is the file's" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (64, ", its head is new (--init whitened); "),
        (63, ", its head is new and random (--init whitened takes at least 64 images, and there are 63); "),
    ],
)
def test_it_is_said_whether_a_new_head_is_whitened(tmp_path: Path, images: int, said: str) -> None:
    """A covariance of 128 numbers needs 64 images."""
    reference(tmp_path / "net.pth.tar")
    assert said in begun(config(tmp_path / "net.pth.tar", head="linear", init="whitened"), images)[2]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"head": "linear"}, "its head is new (--init whitened); "),
        ({"head": "mlp-bn"}, "its head is new and random (--init whitened needs layers with biases, and --head mlp-bn "
                             "has some without); "),
        ({"head": "linear", "seed": 7}, "its head is new and random (--init whitened needs features that differ, "
                                             "and those of the first 128 images do not); "),
    ],
    ids=["whitened", "no biases", "equal images"],
)  # fmt: skip
def test_a_head_that_cannot_be_whitened_is_not_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: dict[str, Any], said: str
) -> None:
    """Whatever the reason."""
    reference(tmp_path / "net.pth.tar")
    digits = load("digits")["train"]
    black = ArrayImages(torch.zeros((140, 3, 8, 8), dtype=torch.uint8))
    pretrain(config(tmp_path / "net.pth.tar", init="whitened", **values), black if "seed" in values else digits)
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "values", "parts"),
    [
        (
            {"f_k": False},
            {},
            ("f_k, which the file does not have", "starts as a copy of f_q", "the queue is the file's"),
        ),
        ({"queue": False}, {}, ("f_k is the file's", "the queue starts with 64 random keys (the file's: none)")),
        ({}, {"queue_size": 32}, ("f_k is the file's", "32 random keys (the file's: (64, 128)")),
        ({}, {"head": "linear"}, ("its head is new", "a copy of f_q", "64 random keys")),
    ],
    ids=["no f_k", "no queue", "another K", "another head"],
)
def test_what_is_not_there_is_begun_anew(
    tmp_path: Path, file: dict[str, bool], values: dict[str, Any], parts: tuple[str, ...]
) -> None:
    """And said."""
    state = reference(tmp_path / "net.pth.tar", **file)
    settings = config(tmp_path / "net.pth.tar", **values)
    pair, queue, said = begun(settings)
    for part in parts:
        assert part in said
    assert pair.f_k is not None
    source = "module.encoder_q." if "copy of f_q" in said else "module.encoder_k."
    assert torch.equal(encoder_tensors(pair.f_k)["conv1.weight"], state[f"{source}conv1.weight"])
    if "random keys" in said:
        fresh = Queue(settings.queue_size, 128, seed=settings.seed)
        assert torch.equal(queue.keys, fresh.keys)
        assert queue.oldest == 0


def test_mechanisms_without_f_k(tmp_path: Path) -> None:
    """In-batch keys need neither f_k nor a queue, and nothing is said of them."""
    reference(tmp_path / "net.pth.tar")
    _, _, origin = begun(config(tmp_path / "net.pth.tar", dictionary="in-batch"))
    assert origin.splitlines()[1].endswith("except --image-size")
    assert begun(dataclasses.replace(with_weights(config(tmp_path / "net.pth.tar")), init_weights=None))[2] == ""
