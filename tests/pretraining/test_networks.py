"""Networks of timm of every kind in the loop: some steps, resumed bit for bit, what they leave and how it is read."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from moco.commands.export import photographs
from moco.data.catalog import load
from moco.data.derived import take_evenly
from moco.data.images import Images
from moco.interop.checkpoints import load_weights
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain
from moco.pretraining.recipes import recipe
from moco.runtime.checkpoint import checkpoint_path, load_tensors
from tests.pretraining.test_loop import interrupted_at, lines, losses, same
from tests.slow import slow

SMALL: dict[str, Any] = {
    "stem": "imagenet", "image_size": 32, "view_size": 32, "dictionary": "queue", "queue_size": 32, "batch_size": 8,
    "bn_groups": 4, "max_steps": 3, "knn_every": 1, "checkpoint_every": 1, "log_every": 1, "precision": "fp32",
    "device": "cpu", "threads": 1, "workers": 0, "head": "mlp",
}  # fmt: skip
KINDS = {
    "timm:test_resnet": 32,
    "timm:test_efficientnet": 32,  # batch normalisation with the activation in it
    "timm:test_convnext": 32,  # none, and a `head` of its own
    "timm:test_vit": 32,
    "timm:test_coatnet": 64,  # built for one size
    "mnasnet0_5": 64,  # of torchvision, which is not loaded without its version
}
UNLIKE = {"timm:test_efficientnet", "timm:test_convnext", "mnasnet0_5"}
"""With batch normalisation, without it, and of another library."""
every_kind = pytest.mark.parametrize(
    ("arch", "size"), [kind if kind[0] in UNLIKE else slow(*kind) for kind in KINDS.items()]
)


@pytest.fixture(scope="module")
def digits() -> Images:
    """Some of scikit-learn's digits."""
    return take_evenly(load("digits")["train"], 64)


def settings(out: Path, arch: str, size: int) -> PretrainConfig:
    """A run of three steps."""
    return recipe("quick", data="digits", out=out, **{**SMALL, "arch": arch, "image_size": size, "view_size": size})


@every_kind
def test_a_run_goes_on_bit_for_bit(tmp_path: Path, digits: Images, arch: str, size: int) -> None:
    """From the checkpoint before it failed; its encoder is read back as it was."""
    whole, broken = (settings(tmp_path / name, arch, size) for name in ("whole", "broken"))
    pretrain(whole, digits, lambda encoder: {})
    with pytest.raises(RuntimeError, match="the machine fails"):
        pretrain(broken, digits, interrupted_at(2))
    assert pretrain(broken, digits, lambda encoder: {})["step"] == 3
    assert [line["step"] for line in lines(broken.out, "event")] in ([1], [2])  # as far as it was written
    assert losses(broken.out) == losses(whole.out)
    ended = [load_tensors(checkpoint_path(config.out, 3))[0] for config in (whole, broken)]
    assert same(*ended)
    assert not same(load_tensors(checkpoint_path(whole.out, 2))[0], ended[0])

    read = load_weights(str(whole.out))
    assert (read.encoder.plan.arch, read.encoder.plan.image_size) == (arch, size)
    state = {f"f_q.{name}": value for name, value in read.encoder.state_dict().items()}
    assert all(torch.equal(value, ended[0][name]) for name, value in state.items())
    checkpoint = load_weights(str(checkpoint_path(whole.out, 3)))
    assert checkpoint.momentum is not None
    assert checkpoint.queue is not None
    lagging = {f"f_k.{name}" for name in state if name.startswith("f_q.backbone")}
    assert len(checkpoint.momentum) == len(read.encoder.state_dict()) >= len(lagging)


@pytest.mark.parametrize(
    ("arch", "size"),
    [kind if kind[0] in UNLIKE else slow(*kind) for kind in KINDS.items() if kind[0].startswith("timm:")],
)
def test_the_encoder_file_is_timms(tmp_path: Path, digits: Images, arch: str, size: int) -> None:
    """Names and values: timm's own network with the file's tensors gives the same features."""
    config = settings(tmp_path / "run", arch, size)
    pretrain(config, digits)
    tensors, metadata = load_tensors(config.out / "encoder.safetensors")
    assert metadata["encoder"]["arch"] == arch
    own = {name: value for name, value in tensors.items() if not name.startswith("projection.")}
    options: dict[str, dict[str, Any]] = {
        "timm:test_coatnet": {"img_size": size}, "timm:test_vit": {"dynamic_img_size": True},
    }  # fmt: skip
    model: Any = timm.create_model(arch.removeprefix("timm:"), num_classes=0, **options.get(arch, {}))
    model.load_state_dict(own)
    weights = load_weights(str(config.out))
    images: Tensor = photographs(weights)
    with torch.no_grad():
        expected = model.eval().forward_head(model.forward_features(images), pre_logits=True)
        torch.testing.assert_close(weights.encoder.backbone.eval()(images), expected)


def test_groups_are_said_to_have_no_effect(tmp_path: Path, digits: Images, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is nothing to group, in the introduction's line."""
    for arch, wording in (
        ("timm:test_vit", "no kernels for Muon, no batch normalisation (--bn and --bn-groups have no effect)"),
        ("timm:test_resnet", "no kernels for Muon, 4 BN groups"),
    ):
        pretrain(settings(tmp_path / arch[5:], arch, 32), digits)
        assert f"learning rate 0.00375, {wording}, fp32" in capsys.readouterr().out
        assert json.loads((tmp_path / arch[5:] / "config.json").read_text())["arch"] == arch
