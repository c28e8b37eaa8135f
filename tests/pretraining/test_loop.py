"""The loop as a whole: against Algorithm 1 written in plain loops, what it leaves behind, and how it goes on."""

import copy
import itertools
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.encoder import Encoder
from moco.data.catalog import load
from moco.data.images import Images
from moco.errors import BadInputError, DivergedError
from moco.interop.checkpoints import load_weights
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain
from moco.pretraining.prepare import build_batches, encoder_plan, resolve
from moco.pretraining.recipes import recipe
from moco.runtime.checkpoint import checkpoint_path, checkpoints, load_tensors
from moco.runtime.randomness import Stream, permuted

SMALL: dict[str, Any] = {
    "arch": "resnet18-w16", "image_size": 12, "view_size": None, "batch_size": 32, "queue_size": 80, "max_steps": 6,
    "bn_groups": 4, "log_every": 1, "checkpoint_every": 0, "knn_every": 0, "threads": 1, "precision": "fp32",
    "device": "cpu", "augment": "cifar", "base_lr": 0.06,
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


def algorithm_1(config: PretrainConfig, images: Images) -> list[float]:
    """v1's Algorithm 1 with shuffling BN, in plain loops: G groups are G separate forward passes of ordinary BN.

    Shares with the package the first weights, the views, the first queue and the drawn permutations; nothing else.
    """
    config = resolve(config, images)
    steps, groups, batches = config.max_steps or 0, config.bn_groups or 0, build_batches(config, images)
    torch.manual_seed(config.seed)
    f_q = Encoder(encoder_plan(config))
    f_k = copy.deepcopy(f_q)
    generator = torch.Generator().manual_seed(config.seed)
    queue = list(F.normalize(torch.randn(config.queue_size, config.feature_dim, generator=generator)))
    momenta = [torch.zeros_like(p) for p in f_q.parameters()]
    found = []
    for step in range(steps):
        x_q, x_k, _ = batches[step]
        assert x_k is not None
        n = len(x_q)
        order = permuted(range(n), n, seed=config.seed, stream=Stream.SHUFFLE, epoch=step).tolist()
        with torch.no_grad():
            shuffled = torch.cat([f_k(group) for group in x_k[order].chunk(groups)])
        k: list[Tensor] = [torch.empty(0)] * n
        for place, image in enumerate(order):
            k[image] = shuffled[place]
        q = torch.cat([f_q(group) for group in x_q.chunk(groups)])
        logits = torch.stack([torch.stack([q[i] @ k[i], *(q[i] @ old for old in queue)]) for i in range(n)])
        loss = F.cross_entropy(logits / config.temperature, torch.zeros(n, dtype=torch.long))
        f_q.zero_grad()
        torch.autograd.backward(loss)
        rate = (config.lr or 0.0) * (1 + math.cos(math.pi * step / steps)) / 2
        with torch.no_grad():
            for parameter, momentum in zip(f_q.parameters(), momenta, strict=True):
                assert parameter.grad is not None
                momentum.mul_(config.sgd_momentum).add_(parameter.grad + config.weight_decay * parameter)
                parameter.sub_(rate * momentum)
            for old, new in zip(f_k.parameters(), f_q.parameters(), strict=True):
                old.copy_(config.key_momentum * old + (1 - config.key_momentum) * new)
        queue = (queue + k)[n:]
        found.append(float(loss.detach()))
    return found


def test_losses_equal_algorithm_1(tmp_path: Path, digits: Images) -> None:
    """Six steps, over which the queue wraps around twice; fp32's rounding grows from step to step."""
    config = small(tmp_path / "run")
    pretrain(config, digits)
    expected = algorithm_1(config, digits)
    assert losses(tmp_path / "run")[:3] == pytest.approx(expected[:3], rel=2e-4)
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=5e-3)
    assert abs(expected[0] - expected[-1]) > 0.05  # something was learned: the agreement says something


def test_another_number_of_groups_is_noticed(tmp_path: Path, digits: Images) -> None:
    """The comparison above would fail for wrong groups."""
    pretrain(small(tmp_path / "run", bn_groups=2), digits)
    found, expected = losses(tmp_path / "run")[:3], algorithm_1(small(tmp_path / "run"), digits)[:3]
    assert found != pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("dictionary", ["queue", "memory-bank"])
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


LEARNING: dict[str, Any] = {"lr": 0.06, "augment": "v2", "batch_size": 64, "log_every": 20, "bn_groups": 8}
"""For real learning on the digits within 80 steps, though little of it."""


@pytest.mark.parametrize(("dictionary", "times_chance"), [("queue", 1.5), ("in-batch", 4)])
def test_queries_find_their_keys(tmp_path: Path, digits: Images, dictionary: str, times_chance: float) -> None:
    """Eighty steps bring the loss below chance, and contrast accuracy above it: soon with gradient on both sides."""
    pretrain(small(tmp_path, dictionary=dictionary, max_steps=80, queue_size=64, **LEARNING), digits)
    last = lines(tmp_path, "loss")[-1]
    assert last["loss"] < last["chance_loss"] - 0.02
    assert last["contrast_accuracy"] > times_chance * 100 / 65


def test_a_memory_bank_fills_with_what_belongs_together(tmp_path: Path, digits: Images) -> None:
    """Its entries start at random, where the loss is far above chance, and become the images' own features."""
    pretrain(small(tmp_path, dictionary="memory-bank", max_steps=80, queue_size=64, **LEARNING), digits)
    first, *_, last = losses(tmp_path)
    assert first > 7 > 5 > last


def test_without_momentum_the_queue_learns_nothing(tmp_path: Path, digits: Images) -> None:
    """With m = 0 the loss stays at chance, where with m = 0.99 it falls (v1, 4.1)."""
    found = {}
    for m in (0.0, 0.99):
        config = small(tmp_path / str(m), key_momentum=m, max_steps=80, queue_size=128, **LEARNING)
        pretrain(config, digits)
        found[m] = lines(tmp_path / str(m), "loss")[-1]
    assert found[0.0]["loss"] > found[0.99]["loss"] + 0.03
    assert abs(found[0.0]["loss"] - found[0.0]["chance_loss"]) < 0.02


def test_turning_bn_groups_off_is_warned_of(tmp_path: Path, digits: Images) -> None:
    """With a queue; keys of the batch itself all share the same statistics, which tells none of them apart."""
    with pytest.warns(UserWarning, match="--bn-groups 1: a query and its key share the statistics"):
        resolve(small(tmp_path, bn_groups=1), digits)
    resolve(small(tmp_path, bn_groups=1, dictionary="in-batch"), digits)


def test_groups_of_one_image_are_refused(tmp_path: Path, digits: Images) -> None:
    """One image has no variance."""
    with pytest.raises(BadInputError, match="--bn-groups is 32: a batch of 32 has at most 16 groups"):
        resolve(small(tmp_path, bn_groups=32), digits)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 7, 8, 9, 30, 31, 32, 33, 100])
def test_every_batch_has_default_groups(tmp_path: Path, digits: Images, batch_size: int) -> None:
    """Groups of equal size fill it, of four images or more where it has as many."""
    groups = (
        resolve(small(tmp_path, bn_groups=None, batch_size=batch_size, dictionary="in-batch"), digits).bn_groups or 0
    )
    assert batch_size % groups == 0
    assert batch_size // groups >= min(4, batch_size)


# --- what it leaves behind ------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_it_promises(tmp_path: Path, digits: Images) -> None:
    """Config, metrics, status, TensorBoard events, a checkpoint and the encoder."""
    result = pretrain(small(tmp_path, knn_every=3), digits, lambda encoder: {"knn_top1": 12.5})
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "metrics.jsonl", "status.json", "checkpoints", "encoder.safetensors"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    logged = lines(tmp_path, "loss")
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6]
    wanted = {"step", "epoch", "loss", "lr", "images_per_second", "time", "contrast_accuracy", "chance_loss"}
    assert all(wanted <= line.keys() for line in logged)
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
    """After the step in which it came: a checkpoint, a loadable encoder, exit code 75."""
    calls = itertools.count()

    def monitor(encoder: Encoder) -> dict[str, float]:
        if next(calls) == 2:
            os.kill(os.getpid(), number)
        return {}

    config = small(tmp_path, knn_every=1)
    stopped = pretrain(config, digits, monitor)
    assert (stopped["step"], stopped["exit_code"]) == (3, 75)
    assert checkpoints(tmp_path) == [checkpoint_path(tmp_path, 3)]
    load_weights(str(tmp_path))
    assert json.loads((tmp_path / "status.json").read_text())["exit_code"] == 75
    assert pretrain(config, digits, monitor)["step"] == 6


def test_a_finished_run_is_left_alone(tmp_path: Path, digits: Images) -> None:
    """The same command again gives the same figures and changes no file."""
    first = pretrain(small(tmp_path), digits)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = pretrain(small(tmp_path), digits)
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
