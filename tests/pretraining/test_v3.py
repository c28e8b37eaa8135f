"""MoCo v3 as values of the same loop: against its Algorithm 1 in plain loops, interrupted, refused and described."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moco.data.catalog import load
from moco.data.derived import take_evenly
from moco.data.images import Images
from moco.errors import BadInputError
from moco.interop.checkpoints import load_weights
from moco.pretraining.config import PretrainConfig
from moco.pretraining.counts import negatives
from moco.pretraining.loop import pretrain
from moco.pretraining.prepare import build_key_momentum, resolve_config
from moco.pretraining.recipes import recipe
from moco.runtime.checkpoint import checkpoint_path, load_tensors
from tests.distributed.session import V3, config_of, global_batches, images, train
from tests.pretraining.algorithm_1_of_v3 import algorithm_1_of_v3
from tests.pretraining.test_loop import interrupted_at, losses, same

STEPS = 6
TINY: dict[str, Any] = {
    "arch": "timm:test_vit", "image_size": 32, "view_size": 16, "hidden_dim": 16, "feature_dim": 8, "batch_size": 8,
    "bn_groups": 4, "max_steps": 4, "knn_every": 1, "checkpoint_every": 1, "log_every": 1, "precision": "fp32",
    "device": "cpu", "threads": 1, "workers": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Images:
    """Some of scikit-learn's digits."""
    return take_evenly(load("digits")["train"], 32)


def tiny(out: Path, **values: Any) -> PretrainConfig:
    """A run of four steps with a small transformer."""
    return recipe("v3-small", data="digits", out=out, **{**TINY, **values})


def test_a_run_is_algorithm_1(tmp_path: Path) -> None:
    """Six steps in float64: losses, and f_k at the end, which has followed f_q by an m that rose."""
    config = config_of(tmp_path / "run", **{**V3, "max_steps": STEPS, "bn_groups": 2})
    batches = global_batches(config, STEPS)
    train(config, batches, torch.float64)
    views = [(batch.x_q, batch.x_k, batch.index) for batch in batches if batch.x_k is not None]
    torch.set_default_dtype(torch.float64)  # in which the run drew its weights
    expected = algorithm_1_of_v3(resolve_config(config, images()), views, warmup=2)
    torch.set_default_dtype(torch.float32)
    assert losses(config.out) == pytest.approx(expected.losses, rel=1e-9)
    assert abs(losses(config.out)[0] - losses(config.out)[-1]) > 1e-3
    found, _ = load_tensors(checkpoint_path(config.out, STEPS))
    assert not any(name.startswith("f_k.predictor") for name in found)
    for name, value in expected.f_k.items():
        key = f"f_k.{name}" if name.startswith("head.") else f"f_k.backbone.{name}"
        torch.testing.assert_close(found[key], value, rtol=1e-8, atol=1e-10)


def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, digits: Images) -> None:
    """With AdamW's means, the prediction head, and m where it was; the encoder is read back without that head."""
    whole, broken = tiny(tmp_path / "whole"), tiny(tmp_path / "broken")
    pretrain(whole, digits, lambda encoder: {})
    with pytest.raises(RuntimeError, match="the machine fails"):
        pretrain(broken, digits, interrupted_at(2))
    assert pretrain(broken, digits, lambda encoder: {})["step"] == TINY["max_steps"]
    assert losses(broken.out) == losses(whole.out)
    ended = [load_tensors(checkpoint_path(config.out, 4))[0] for config in (whole, broken)]
    assert same(*ended)
    assert {"f_q.predictor.0.weight", "adamw.0.exp_avg", "adamw.0.step"} <= ended[0].keys()

    read = load_weights(str(whole.out))
    assert read.encoder.plan.head == "mlp-bn"
    assert all(torch.equal(ended[0][f"f_q.{name}"], value) for name, value in read.encoder.state_dict().items())
    checkpoint = load_weights(str(checkpoint_path(whole.out, 4)))
    assert checkpoint.momentum is not None
    assert not any("predictor" in name for name in checkpoint.momentum)


def test_patches_stay_as_they_were(tmp_path: Path, digits: Images) -> None:
    """The frozen projection at its random weights in f_q and f_k; without the flag it moves, as all the rest does."""
    name = "backbone.patch_embed.proj.weight"
    for frozen in (True, False):
        config = tiny(tmp_path / str(frozen), freeze_patches=frozen, max_steps=2)
        pretrain(config, digits, lambda encoder: {})
        one, two = (load_tensors(checkpoint_path(config.out, step))[0] for step in (1, 2))
        assert torch.equal(one[f"f_q.{name}"], two[f"f_q.{name}"]) is frozen
        assert torch.equal(two[f"f_k.{name}"], two[f"f_q.{name}"]) is frozen
        assert not torch.equal(one["f_q.backbone.blocks.0.mlp.fc1.weight"], two["f_q.backbone.blocks.0.mlp.fc1.weight"])


def test_batch_keys_before_a_queue(tmp_path: Path, digits: Images) -> None:
    """K counts both, chance follows, and the queue holds the keys of earlier batches."""
    config = tiny(tmp_path / "run", queue_size=24, max_steps=2)
    assert negatives(config) == 24 + 7
    pretrain(config, digits, lambda encoder: {})
    lines = (config.out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    chances = [json.loads(line)["chance_loss"] for line in lines if "chance_loss" in line]
    assert chances == [pytest.approx(np.log(32))] * 2
    stored = load_tensors(checkpoint_path(config.out, 2))[0]["dictionary.index"]
    assert (stored >= 0).all()  # both directions of both steps, 32 keys


@pytest.mark.parametrize("more", [{}, {"queue_size": 24}], ids=["alone", "with a queue"])
def test_a_batch_in_parts_has_all_its_keys(tmp_path: Path, digits: Images, more: dict[str, Any]) -> None:
    """What each part is compared with is the whole batch."""
    for parts in (1, 2):
        pretrain(tiny(tmp_path / str(parts), accumulate=parts, max_steps=1, **more), digits, lambda encoder: {})
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "2"), rel=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dictionary": "in-batch"}, "--batch-keys needs a momentum encoder, and --dictionary in-batch has none"),
        ({"dictionary": "memory-bank"}, "--batch-keys needs a momentum encoder, and --dictionary memory-bank has none"),
        ({"batch_keys": False}, "--queue-size is 0: expected at least one key, or --batch-keys beside it"),
        ({"batch_keys": False, "dictionary": "in-batch"}, "--predictor needs a momentum encoder, and --dictionary in"),
        ({"view_size": 18}, "--view-size 18: timm:test_vit does not take such images"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, digits: Images, values: dict[str, Any], message: str) -> None:
    """One line, before the first step."""
    given = {"symmetric": values.get("dictionary") != "memory-bank", **values}
    with pytest.raises(BadInputError, match=message):
        pretrain(tiny(tmp_path / "run", **given), digits, lambda encoder: {})


def test_the_momentum_rises_to_one() -> None:
    """From m at the first step, half-way at the middle, nearly 1 at the last."""
    m = build_key_momentum(recipe("v3", data="digits", out=Path("run"), max_steps=1000))
    assert [m(0), m(500), m(999)] == [pytest.approx(0.99), pytest.approx(0.995), pytest.approx(1, abs=1e-7)]
    constant = build_key_momentum(recipe("v2", data="digits", out=Path("run"), max_steps=1000))
    assert [constant(0), constant(999)] == [0.999, 0.999]
