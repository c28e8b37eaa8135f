"""The loop as a whole: against Algorithm 1 written in plain loops, what it leaves behind, and how it goes on."""

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moco.core.encoder import Encoder
from moco.data.catalog import load
from moco.data.images import Images
from moco.errors import BadInputError, DivergedError
from moco.interop.checkpoints import load_weights
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain
from moco.pretraining.prepare import build_batches, resolve_config
from moco.pretraining.recipes import recipe
from moco.runtime.checkpoint import checkpoint_path, checkpoints, load_tensors
from tests.pretraining.algorithm_1 import algorithm_1
from tests.slow import slow

SMALL: dict[str, Any] = {
    "arch": "resnet10-w4", "image_size": 12, "view_size": None, "batch_size": 32, "queue_size": 80, "max_steps": 6,
    "bn_groups": 4, "log_every": 1, "checkpoint_every": 0, "knn_every": 0, "threads": 1, "precision": "fp32",
    "device": "cpu", "augment": "cifar", "base_lr": 0.06, "init": "kaiming", "optimizer": "sgd",
}  # fmt: skip
MECHANISMS = ["queue", "memory-bank", "in-batch"]


@pytest.fixture(scope="module")
def digits() -> Images:
    """The training images of scikit-learn's digits."""
    return load("digits")["train"]


def small(out: Path, **values: Any) -> PretrainConfig:
    """A config of six small steps on the digits."""
    return recipe("quick", data="digits", out=out, **{**SMALL, "dictionary": "queue", **values})


def lines(run: Path, key: str) -> list[dict[str, Any]]:
    """The lines of metrics that have a key."""
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    return [line for line in map(json.loads, text.splitlines()) if key in line]


def losses(run: Path) -> list[float]:
    """The loss of each step."""
    return [line["loss"] for line in lines(run, "loss")]


def tensors(run: Path) -> dict[str, Tensor]:
    """The encoder that a run left."""
    return load_tensors(run / "encoder.safetensors")[0]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- the method -----------------------------------------------------------------------------------------------------


def oracle(config: PretrainConfig, images: Images) -> list[float]:
    """The losses of Algorithm 1 on the batches of a run."""
    config = resolve_config(config, images)
    batches = build_batches(config, images)
    views = [batches[step] for step in range(config.max_steps or 0)]
    return algorithm_1(config, [(x_q, x_k, index) for x_q, x_k, index, _ in views if x_k is not None]).losses


PLAIN = {"batch_size": 16, "queue_size": 40}
"""Half the images of each batch: plain loops over them take most of the time."""


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, digits: Images) -> list[float]:
    """The losses of Algorithm 1 with a queue."""
    return oracle(small(tmp_path_factory.mktemp("oracle"), **PLAIN), digits)


def test_losses_equal_algorithm_1(tmp_path: Path, digits: Images, expected: list[float]) -> None:
    """Six steps, over which the queue wraps around twice; fp32's rounding grows from step to step."""
    pretrain(small(tmp_path / "run", **PLAIN), digits)
    assert losses(tmp_path / "run")[:3] == pytest.approx(expected[:3], rel=2e-4)
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=5e-3)
    assert abs(expected[0] - expected[-1]) > 0.05  # something was learned: the agreement says something


def test_losses_of_mixed_views_equal_algorithm_1(tmp_path: Path, digits: Images, expected: list[float]) -> None:
    """Each query has two positives, its image's key and its partner's, in the shares of its view."""
    pretrain(small(tmp_path / "run", blend=True, **PLAIN), digits)
    mixed = oracle(small(tmp_path / "run", blend=True, **PLAIN), digits)
    assert losses(tmp_path / "run")[:3] == pytest.approx(mixed[:3], rel=2e-4)
    assert losses(tmp_path / "run") == pytest.approx(mixed, rel=5e-3)
    assert mixed != pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("flags", [{"dictionary": "memory-bank"}, {"hard_negatives": 4, "mix": 2}])
def test_mixed_views_have_their_limits(tmp_path: Path, digits: Images, flags: dict[str, Any]) -> None:
    """A bank would store the features of mixed views, and hard negatives are made for one positive."""
    with pytest.raises(BadInputError, match="--blend"):
        pretrain(small(tmp_path / "run", blend=True, **flags), digits)


def test_another_number_of_groups_is_noticed(tmp_path: Path, digits: Images, expected: list[float]) -> None:
    """The comparison above would fail for wrong groups."""
    pretrain(small(tmp_path / "run", bn_groups=2, **PLAIN), digits)
    assert losses(tmp_path / "run")[:3] != pytest.approx(expected[:3], rel=2e-3)


@pytest.mark.parametrize("dictionary", ["queue", slow("memory-bank")])
def test_accumulation_changes_nothing(tmp_path: Path, digits: Images, dictionary: str) -> None:
    """With a queue or a bank, a batch in two parts gives the losses of the whole."""
    for parts in (1, 2):
        pretrain(small(tmp_path / str(parts), dictionary=dictionary, accumulate=parts), digits)
    assert losses(tmp_path / "1")[:3] == pytest.approx(losses(tmp_path / "2")[:3], rel=1e-4)
    assert losses(tmp_path / "1") == pytest.approx(losses(tmp_path / "2"), rel=5e-3)


def test_symmetric_loss_is_the_sum_over_both_directions(tmp_path: Path, digits: Images) -> None:
    """The log shows their mean; at the first step it is near that of one direction."""
    pretrain(small(tmp_path / "both", symmetric=True, max_steps=1), digits)
    pretrain(small(tmp_path / "one", max_steps=1), digits)
    both, one = losses(tmp_path / "both")[0], losses(tmp_path / "one")[0]
    assert both == pytest.approx(one, rel=0.05)
    assert both != one
    queue = load_tensors(checkpoint_path(tmp_path / "both", 1))[0]["dictionary.index"]
    assert int((queue >= 0).sum()) == 64  # the keys of both views are in


LEARNING: dict[str, Any] = {
    "arch": "resnet10-w8", "lr": 0.06, "augment": "v2", "batch_size": 64, "log_every": 20, "bn_groups": 8,
}  # fmt: skip
"""For real learning on the digits within 80 steps, though little of it."""


def last_line(out: Path, images: Images, **values: Any) -> dict[str, Any]:
    """The figures of the last of eighty steps."""
    pretrain(small(out, **{"max_steps": 80, "queue_size": 128, **LEARNING, **values}), images)
    return lines(out, "loss")[-1]


@pytest.fixture(scope="module")
def with_a_queue(tmp_path_factory: pytest.TempPathFactory, digits: Images) -> dict[str, Any]:
    """The last line of a run with a queue, of m = 0.99."""
    return last_line(tmp_path_factory.mktemp("runs") / "queue", digits, dictionary="queue", key_momentum=0.99)


def test_queries_find_their_keys_in_a_queue(with_a_queue: dict[str, Any]) -> None:
    """Eighty steps bring the loss below chance, and contrast accuracy above it."""
    assert with_a_queue["loss"] < with_a_queue["chance_loss"] - 0.02
    assert with_a_queue["contrast_accuracy"] > 1.5 * 100 / 129


@pytest.mark.slow
def test_queries_find_their_keys_in_the_batch(tmp_path: Path, digits: Images) -> None:
    """Soon, with gradient on both sides: 3.7 to 4 times chance in most runs, of 1,280 queries that find some 70."""
    last = last_line(tmp_path, digits, dictionary="in-batch", queue_size=64)
    assert last["loss"] < last["chance_loss"] - 0.02
    assert last["contrast_accuracy"] > 2 * 100 / 65


def test_a_memory_bank_fills_with_what_belongs_together(tmp_path: Path, digits: Images) -> None:
    """Its entries start at random, where the loss is far above chance, and become the images' own features."""
    last_line(tmp_path, digits, dictionary="memory-bank", queue_size=64)
    first, *_, last = losses(tmp_path)
    assert first > 7 > 5 > last


def test_without_momentum_the_queue_learns_nothing(
    tmp_path: Path, digits: Images, with_a_queue: dict[str, Any]
) -> None:
    """With m = 0 the loss stays at chance, where with m = 0.99 it falls (v1, 4.1)."""
    found = last_line(tmp_path, digits, dictionary="queue", key_momentum=0.0)
    assert found["loss"] > with_a_queue["loss"] + 0.01
    assert abs(found["loss"] - found["chance_loss"]) < 0.02


def test_turning_bn_groups_off_is_warned_of(tmp_path: Path, digits: Images) -> None:
    """With a queue; keys of the batch itself all share the same statistics, which tells none of them apart."""
    with pytest.warns(UserWarning, match="--bn-groups 1: a query and its key share the statistics"):
        resolve_config(small(tmp_path, bn_groups=1), digits)
    resolve_config(small(tmp_path, bn_groups=1, dictionary="in-batch"), digits)


def test_groups_of_one_image_are_refused(tmp_path: Path, digits: Images) -> None:
    """One image has no variance."""
    with pytest.raises(BadInputError, match="--bn-groups is 32: a batch of 32 has at most 16 groups"):
        resolve_config(small(tmp_path, bn_groups=32), digits)


@pytest.mark.parametrize("batch_size", [2, 3, 5, 7, 8, 9, 30, 31, 32, 33, 100])
def test_every_batch_has_default_groups(tmp_path: Path, digits: Images, batch_size: int) -> None:
    """Groups of equal size and two images or more fill it; eight where it is large enough."""
    config = small(tmp_path, bn_groups=None, batch_size=batch_size, dictionary="in-batch")
    groups = resolve_config(config, digits).bn_groups or 0
    assert batch_size % groups == 0
    assert batch_size // groups >= 2
    assert (groups == 8) == (batch_size == 32)
    assert (groups == 1) == (batch_size in (2, 3, 5, 7, 31))


def test_a_part_holds_whole_groups_by_default(tmp_path: Path, digits: Images) -> None:
    """Twelve images in four parts of three are four groups; of parts of one image there are no statistics."""
    parts = {"bn_groups": None, "accumulate": 4, "dictionary": "in-batch"}
    assert resolve_config(small(tmp_path, batch_size=12, **parts), digits).bn_groups == 4
    with pytest.raises(BadInputError, match="--batch-size is 4: expected groups of two images or more"):
        resolve_config(small(tmp_path, batch_size=4, **parts), digits)
    with pytest.raises(BadInputError, match="a batch of 1 has at most 0 groups"):
        resolve_config(small(tmp_path, batch_size=1, bn_groups=None, dictionary="in-batch"), digits)


# --- what it leaves behind ------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_it_promises(tmp_path: Path, digits: Images) -> None:
    """Config, metrics, status, TensorBoard events, a checkpoint and the encoder."""
    result = pretrain(small(tmp_path, knn_every=3), digits, lambda encoder: {"knn_top1": 12.5})
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "metrics.jsonl", "status.json", "checkpoints", "encoder.safetensors"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    logged = lines(tmp_path, "loss")
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6]
    wanted = {"step", "epoch", "loss", "lr", "images_per_second", "waiting_for_data", "time", "contrast_accuracy"}
    assert all({*wanted, "chance_loss"} <= line.keys() for line in logged)
    assert all(0 <= line["waiting_for_data"] <= 100 for line in logged)
    assert [(line["step"], line["knn_top1"]) for line in lines(tmp_path, "knn_top1")] == [
        (0, 12.5),
        (3, 12.5),
        (6, 12.5),
    ]
    times = [line["time"] for line in lines(tmp_path, "time")]
    assert times == sorted(times)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["step"], status["exit_code"]) == ("done", 6, 0)
    assert result["before"] == {"knn_top1": 12.5}
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["threads"], config["precision"], config["lr"]) == (1, "fp32", 0.06 / 8)


def test_initial_weights_are_taken(tmp_path: Path, digits: Images) -> None:
    """A run from another's encoder starts with its backbone, and with its head where that fits."""
    pretrain(small(tmp_path / "first"), digits)
    seen: list[dict[str, Tensor]] = []

    def monitor(encoder: Encoder) -> dict[str, float]:
        seen.append({name: value.clone() for name, value in encoder.backbone.state_dict().items()})
        return {}

    config = small(tmp_path / "second", init_weights=str(tmp_path / "first"), head="mlp", knn_every=6)
    pretrain(config, digits, monitor)
    first = tensors(tmp_path / "first")
    assert all(torch.equal(value, first[name]) for name, value in seen[0].items())


# --- how it goes on -------------------------------------------------------------------------------------------------


def interrupted_at(step: int) -> Callable[[Encoder], dict[str, float]]:
    """A monitor that breaks off the run when it is asked for the given time."""
    calls = itertools.count()

    def monitor(encoder: Encoder) -> dict[str, float]:
        if next(calls) == step:
            raise RuntimeError("the machine fails")
        return {}

    return monitor


@pytest.mark.parametrize("dictionary", MECHANISMS)
def test_a_run_that_was_broken_off_goes_on_bit_for_bit(tmp_path: Path, digits: Images, dictionary: str) -> None:
    """From the checkpoint of step 3, two steps after which it failed; every loss and every weight is as undisturbed."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    values = {"dictionary": dictionary, "knn_every": 1, "checkpoint_every": 3}
    pretrain(small(whole, **values), digits, lambda encoder: {})
    with pytest.raises(RuntimeError, match="the machine fails"):
        pretrain(small(broken, **values), digits, interrupted_at(5))
    result = pretrain(small(broken, **values), digits, lambda encoder: {})
    assert result["step"] == 6
    assert losses(broken) == losses(whole)
    assert [line["step"] for line in lines(broken, "event")] == [3]
    assert same(load_tensors(checkpoint_path(broken, 6))[0], load_tensors(checkpoint_path(whole, 6))[0])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on(tmp_path: Path, digits: Images, number: signal.Signals) -> None:
    """After the step before the look in which it came: a checkpoint, a loadable encoder, exit code 75."""
    calls = itertools.count()

    def monitor(encoder: Encoder) -> dict[str, float]:
        if next(calls) == 2:
            os.kill(os.getpid(), number)
        return {}

    config = small(tmp_path, knn_every=1)
    stopped = pretrain(config, digits, monitor)
    assert (stopped["step"], stopped["exit_code"]) == (2, 75)
    assert checkpoints(tmp_path) == [checkpoint_path(tmp_path, 2)]
    load_weights(str(tmp_path))
    assert json.loads((tmp_path / "status.json").read_text())["exit_code"] == 75
    assert pretrain(config, digits, monitor)["step"] == 6


def test_a_finished_run_is_left_alone(tmp_path: Path, digits: Images, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again gives the same figures, says so, and changes no file."""
    first = pretrain(small(tmp_path), digits)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    capsys.readouterr()
    again = pretrain(small(tmp_path), digits)
    said = capsys.readouterr().out
    assert said.startswith(f"{tmp_path}: already finished, after step 6 (loss ")
    assert said.endswith(f"Look at it with moco report {tmp_path}, or give another --out to train again\n")
    assert again == {**first, "already_done": True}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_another_config_is_refused(tmp_path: Path, digits: Images) -> None:
    """The message names the flag and both values."""
    pretrain(small(tmp_path), digits)
    with pytest.raises(BadInputError, match=r"--temperature 0\.1, and now it is 0\.3"):
        pretrain(small(tmp_path, temperature=0.3), digits)


def test_a_run_that_diverges_stops_before_the_update(tmp_path: Path, digits: Images) -> None:
    """Its last good checkpoint is kept; and the same command again stops at once."""
    config = small(tmp_path, lr=1e30, schedule="step", checkpoint_every=1, max_steps=20)
    with pytest.raises(DivergedError, match="smaller --lr"):
        pretrain(config, digits)
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("diverged", 3)
    weights = load_tensors(checkpoints(tmp_path)[0])[0]
    assert all(bool(value.isfinite().all()) for name, value in weights.items() if name.endswith("weight"))
    with pytest.raises(DivergedError, match="diverged at step"):
        pretrain(config, digits)
