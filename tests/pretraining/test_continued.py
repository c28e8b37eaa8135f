"""Weights that are trained on: their statistics, the rate of a new head, and what the recipe settles."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.cli import main
from moco.core.encoder import Encoder
from moco.core.pair import EncoderPair
from moco.data.catalog import load
from moco.data.forms import Form
from moco.data.images import ArrayImages, Images
from moco.errors import BadInputError
from moco.interop.checkpoints import load_weights
from moco.pretraining.best import BEST
from moco.pretraining.channels import with_form
from moco.pretraining.config import PretrainConfig
from moco.pretraining.counts import count_head_steps
from moco.pretraining.health import diagnose
from moco.pretraining.loop import pretrain
from moco.pretraining.monitor import Monitor
from moco.pretraining.prepare import build_batches, build_encoder, resolve_config
from moco.pretraining.recipes import recipe
from moco.pretraining.sides import build_sides
from moco.runtime import distributed
from moco.runtime.checkpoint import checkpoint_path, load_tensors
from moco.runtime.randomness import Stream
from tests.pretraining import algorithm_1 as plain
from tests.pretraining.test_loop import lines, losses

SMALL: dict[str, Any] = {
    "batch_size": 16, "queue_size": 48, "max_steps": 4, "log_every": 1, "checkpoint_every": 2, "knn_every": 0,
    "keep": "last", "threads": 1, "workers": 0, "precision": "fp32", "device": "cpu", "mask_own_keys": False,
    "head": "linear", "augment": "cifar", "lr": 0.01, "head_lr": 0.3,
}  # fmt: skip
STEPS = 4


@pytest.fixture(scope="module")
def digits() -> Images:
    """The training images of scikit-learn's digits."""
    return load("digits")["train"]


def small(out: Path, weights: Path, **values: Any) -> PretrainConfig:
    """Four steps on from a run of the digits."""
    return recipe("continued", data="digits", out=out, init_weights=str(weights), **{**SMALL, **values})


def f_q(run: Path) -> dict[str, Tensor]:
    """The encoder that a run left, without what whitens its features."""
    tensors = load_tensors(run / "encoder.safetensors")[0]
    return {name: value for name, value in tensors.items() if "whitening." not in name}


def break_off_after(steps: int) -> Monitor:
    """A monitor, asked before each step, that breaks a run off after so many."""
    asked = itertools.count()

    def look(encoder: Encoder) -> dict[str, float]:
        if next(asked) == steps:
            raise RuntimeError
        return {}

    return look


def changed(run: Path, first: Path) -> set[str]:
    """The tensors of a run that are not those of the first, bit for bit."""
    found, expected = f_q(run), f_q(first)
    assert found.keys() == expected.keys()
    return {name for name, value in expected.items() if not torch.equal(found[name], value)}


# --- against plain loops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of_head", [0, 2])
def test_losses_and_weights_equal_a_plain_loop(
    tmp_path: Path, tiny_run: Path, digits: Images, monkeypatch: pytest.MonkeyPatch, of_head: int
) -> None:
    """Algorithm 1 in float64 with the statistics of the file, and SGD with a rate of its own for the head.

    The head may learn alone in the first steps.
    """
    pretrain(small(tmp_path, tiny_run, head_steps=of_head), digits)
    config = resolve_config(small(tmp_path, tiny_run), digits)
    given = f_q(tiny_run)

    def by_running_statistics(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
        mean, variance = (given[f"{name}.running_{part}"].double().view(1, -1, 1, 1) for part in ("mean", "var"))
        scale, offset = (weights[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
        return (x - mean) / torch.sqrt(variance + 1e-5) * scale + offset

    monkeypatch.setattr(plain, "normalised", by_running_statistics)
    query = plain.named(given, "")
    key, velocity = dict(query), {name: torch.zeros_like(value) for name, value in query.items()}
    drawn = torch.randn(config.queue_size, config.feature_dim, generator=torch.Generator().manual_seed(config.seed))
    queue = [(row.double(), -1) for row in F.normalize(drawn)]
    batches, expected = build_batches(config, digits), []
    for number in range(STEPS):
        x_q, x_k, index, _ = batches[number]
        assert x_k is not None
        done = plain.step(config, query, key, queue, (x_q, x_k, index), number)
        share = (1 + math.cos(math.pi * number / STEPS)) / 2
        for name in [name for name in query if number >= of_head or name.startswith("head.")]:
            rate = share * (0.3 if name.startswith("head.") else 0.01)
            decayed = done.gradient[name] + config.weight_decay * query[name]
            velocity[name] = config.sgd_momentum * velocity[name] + decayed
            query[name] = query[name] - rate * velocity[name]
        for name in query:
            key[name] = config.key_momentum * key[name] + (1 - config.key_momentum) * query[name]
        queue = [*queue, *((row, int(image)) for row, image in zip(done.keys, index, strict=True))][
            -config.queue_size :
        ]
        expected.append(done.loss)
    assert losses(tmp_path) == pytest.approx(expected, rel=1e-4)
    assert len({round(loss, 3) for loss in expected}) == STEPS
    found = f_q(tmp_path)
    for name, value in query.items():
        torch.testing.assert_close(found[name].double(), value, rtol=1e-3, atol=1e-5)
        moved = float((value - given[name].double()).abs().max())
        assert float((found[name].double() - value).abs().max()) < 0.02 * moved


def test_a_new_head_reads_whitened_features(tmp_path: Path, tiny_run: Path, digits: Images) -> None:
    """Views of different images have unlike keys from the first step on; a head of the file stays as it is."""

    def build(**values: Any) -> EncoderPair:
        torch.manual_seed(0)
        return build_sides(resolve_config(small(tmp_path, tiny_run, **values), digits), digits)[0].pair

    batches = build_batches(resolve_config(small(tmp_path, tiny_run), digits), digits)
    (views,) = batches.make_views(np.arange(64), 0, [Stream.VIEW_QUERY])
    likeness = {}
    for init in ("whitened", "torch"):
        pair = build(feature_dim=24, init=init)
        assert pair.f_k is not None
        with torch.no_grad():
            q, k = pair.encoder(views), pair.f_k(views)
        torch.testing.assert_close(q, k)
        likeness[init] = float((q @ q.T).mean())
    assert abs(likeness["whitened"]) < 0.1
    assert likeness["torch"] > 0.5
    torch.testing.assert_close(
        build().encoder.head.state_dict()["weight"], f_q(tiny_run)["head.weight"], rtol=0, atol=0
    )


def test_views_for_a_new_head_are_in_full_precision(tmp_path: Path, tiny_run: Path) -> None:
    """Also where the encoder computes in bf16: torch would crop and blur in bf16 too, or fail, as with channels."""
    form = Form(5, "uint16", (9.0,) * 5, (5.0,) * 5)
    images = ArrayImages(20 * torch.rand(24, 5, 8, 8), form=form)
    heads = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        config = small(tmp_path, tiny_run, feature_dim=24, augment="v2", precision=precision, queue_size=8)
        pair = build_sides(resolve_config(with_form(config, images), images), images)[0].pair
        heads.append(pair.encoder.head.state_dict()["weight"])
    torch.testing.assert_close(*heads, rtol=0.1, atol=0.1)


def test_every_rank_takes_the_first_ones_head(
    tmp_path: Path, tiny_run: Path, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features in bf16 depend on the processor, and ranks may have different ones."""
    config = resolve_config(small(tmp_path, tiny_run, feature_dim=24), digits)
    plain = distributed.from_first

    def first(make: Callable[[], Any]) -> Any:
        found = plain(make)
        return {name: value + 1 for name, value in found.items()} if isinstance(found, dict) else found

    torch.manual_seed(0)
    expected = build_sides(config, digits)[0].pair.encoder.head.state_dict()
    monkeypatch.setattr(distributed, "from_first", first)
    torch.manual_seed(0)
    pair = build_sides(config, digits)[0].pair
    assert pair.f_k is not None
    for head in (pair.encoder.head, pair.f_k.head):
        assert all(torch.equal(value, expected[name] + 1) for name, value in head.state_dict().items())


# --- what changes and what does not ---------------------------------------------------------------------------------


def test_statistics_that_are_kept_stay_bit_for_bit(tmp_path: Path, tiny_run: Path, digits: Images) -> None:
    """In f_q and f_k; everything else is trained. A look in between, which encodes, changes nothing of that."""
    pretrain(small(tmp_path, tiny_run, knn_every=1), digits, lambda encoder: {})
    statistics = {name for name in f_q(tiny_run) if name.endswith(("running_mean", "running_var", "tracked"))}
    assert changed(tmp_path, tiny_run) == f_q(tiny_run).keys() - statistics
    state, first = load_tensors(checkpoint_path(tmp_path, STEPS))[0], f_q(tiny_run)
    assert all(torch.equal(state[f"f_k.backbone.{name}"], first[name]) for name in statistics)


def test_frozen_leaves_scale_and_shift_too(tmp_path: Path, tiny_run: Path, digits: Images) -> None:
    """Only convolutions and the head are trained, and the run goes on bit for bit from its middle."""
    pretrain(small(tmp_path / "run", tiny_run, bn="frozen"), digits)
    layers = {name for name in f_q(tiny_run) if name.endswith("weight") and f_q(tiny_run)[name].dim() == 4}
    assert changed(tmp_path / "run", tiny_run) == layers | {"head.weight", "head.bias"}
    whole = checkpoint_path(tmp_path / "run", STEPS).read_bytes()
    checkpoint_path(tmp_path / "run", STEPS).unlink()
    (tmp_path / "run" / "status.json").write_text('{"state": "running"}', encoding="utf-8")
    pretrain(small(tmp_path / "run", tiny_run, bn="frozen"), digits)
    again, expected = (tmp_path / "again.safetensors"), load_tensors(checkpoint_path(tmp_path / "run", STEPS))[0]
    again.write_bytes(whole)
    before = load_tensors(again)[0]
    assert all(torch.equal(before[name], expected[name]) for name in expected)


@pytest.mark.parametrize("optimizer", ["sgd", "muon", "adamw", "lars"])
def test_a_head_that_learns_alone_leaves_the_network_as_it_is(
    tmp_path: Path, tiny_run: Path, digits: Images, optimizer: str
) -> None:
    """Then it is trained, too; a run goes on bit for bit from the middle of either part."""
    held = list[set[bool]]()
    first = {name: value for name, value in f_q(tiny_run).items() if name.endswith(("weight", "bias"))}
    given: dict[str, Any] = {
        "bn": "train", "bn_groups": 4, "optimizer": optimizer, "head_steps": 2, "checkpoint_every": 1, "knn_every": 1,
    }  # fmt: skip

    def look(encoder: Encoder) -> dict[str, float]:
        own = dict(encoder.named_parameters())
        assert torch.equal(own["head.weight"], first["head.weight"]) is (not held)
        held.append(
            {torch.equal(own[f"backbone.{name}"], value) for name, value in first.items() if "head" not in name}
        )
        return {}

    pretrain(small(tmp_path / "whole", tiny_run, **given), digits, look)
    assert held == [{True}] * 3 + [{False}] * 2
    whole = load_tensors(checkpoint_path(tmp_path / "whole", STEPS))[0]
    for steps in (1, 3):
        broken = small(tmp_path / f"broken{steps}", tiny_run, **given)
        with pytest.raises(RuntimeError):
            pretrain(broken, digits, break_off_after(steps))
        pretrain(broken, digits, lambda encoder: {})
        found = load_tensors(checkpoint_path(broken.out, STEPS))[0]
        assert all(torch.equal(value, found[name]) for name, value in whole.items())


def test_at_most_half_of_the_steps_are_the_heads_alone(tmp_path: Path, tiny_run: Path, digits: Images) -> None:
    """Of the steps that were planned at first, whatever the length becomes."""
    config = resolve_config(small(tmp_path, tiny_run, head_steps=40), digits)
    assert count_head_steps(config) == STEPS // 2
    assert count_head_steps(dataclasses.replace(config, max_steps=200)) == 40
    assert count_head_steps(dataclasses.replace(config, max_steps=200, earlier_lengths=((9, 60), (12, 500)))) == 30


def test_without_weights_no_head_learns_alone(tmp_path: Path, digits: Images) -> None:
    """A random network below it has nothing to keep."""
    with pytest.raises(BadInputError, match=r"--head-steps is 5, and without .* leave --head-steps out"):
        resolve_config(recipe("v2", data="digits", out=tmp_path, head_steps=5, batch_size=16, queue_size=16), digits)


def test_trained_statistics_move(tmp_path: Path, tiny_run: Path, digits: Images) -> None:
    """As everywhere else."""
    pretrain(small(tmp_path, tiny_run, bn="train", bn_groups=4), digits)
    assert changed(tmp_path, tiny_run) == f_q(tiny_run).keys()


def test_a_rate_of_the_head_that_is_the_others_changes_nothing(tmp_path: Path, tiny_run: Path, digits: Images) -> None:
    """Bit for bit; another one changes the run."""
    for name, head_lr in (("one", None), ("same", 0.01), ("other", 0.02)):
        pretrain(small(tmp_path / name, tiny_run, head_lr=head_lr), digits)
    assert changed(tmp_path / "same", tmp_path / "one") == set()
    assert "head.weight" in changed(tmp_path / "other", tmp_path / "one")


# --- the recipe -----------------------------------------------------------------------------------------------------


def test_the_recipe_settles_small_steps_and_the_weights_the_rest(
    tmp_path: Path, tiny_run: Path, digits: Images
) -> None:
    """At its batch of 64: 0.004 for the network, 0.03 for the new head."""
    config = resolve_config(recipe("continued", data="digits", out=tmp_path, init_weights=str(tiny_run)), digits)
    assert config.lr == pytest.approx(0.004)
    assert (config.head_lr, config.batch_size, config.queue_size, config.key_momentum) == (0.03, 64, 1024, 0.99)
    assert (config.temperature, config.augment, config.head, config.schedule) == (0.2, "v2", "mlp", "cosine")
    assert (config.bn, config.bn_groups, config.keep) == ("keep", 1, "best")
    assert (config.arch, config.image_size, config.view_size) == ("resnet10-w8", 16, 16)
    assert resolve_config(config, digits) == config  # as when it goes on
    norms = [part for part in build_encoder(config).backbone.modules() if hasattr(part, "running_mean")]
    assert norms
    assert not any(norm.training for norm in norms)


def test_query_and_key_share_no_statistics_that_could_leak(tmp_path: Path, tiny_run: Path, digits: Images) -> None:
    """So one group is not warned of (warnings are errors here), nor named as the cause of an easy task."""
    config = resolve_config(small(tmp_path, tiny_run), digits)
    easy = {"loss": 0.1, "chance_loss": 3.9, "contrast_accuracy": 99.9, "filled": 100.0, "epoch": 5.0}
    leak = [finding.text for finding in diagnose(config, 1000, easy) if finding.name == "leak"]
    assert len(leak) == 1
    assert "--bn-groups" not in leak[0]


def test_without_weights_there_is_nothing_to_continue(tmp_path: Path, digits: Images) -> None:
    """One line says what to give."""
    with pytest.raises(BadInputError, match="--init-weights is not given, and --bn keep keeps the statistics"):
        resolve_config(recipe("continued", data="digits", out=tmp_path), digits)


def test_the_command(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From weights to an encoder that is no worse by its own monitor; then `moco resume` and `moco knn` as ever."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    words = ["--data", "digits", "--out", str(tmp_path), "--device", "cpu", "--threads", "1", "--workers", "0"]
    few = ["--max-steps", "2", "--batch-size", "16", "--queue-size", "32", "--knn-every", "1", "--knn-images", "100"]
    assert main(["pretrain", "continued", "--init-weights", str(tiny_run), *words, *few, "--precision", "fp32"]) == 0
    said = capsys.readouterr().out
    rates = "learning rate 0.001 (0.03 for the head; only the head learns for 1 step)"
    assert f"{rates}, BN statistics of the weights, fp32 on cpu" in said
    assert "kept the encoder that the run began with" in said
    looked = lines(tmp_path, "judged_top1")
    assert [line["step"] for line in looked] == [0, 1, 2]
    assert f_q(tmp_path).keys() == load_tensors(tmp_path / BEST)[0].keys()
    tensors = load_weights(str(tmp_path)).encoder.backbone.state_dict()
    assert all(torch.equal(value, f_q(tiny_run)[name]) for name, value in tensors.items())
