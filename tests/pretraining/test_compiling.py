"""Whether encoders are compiled: what a comparison chooses, that it changes nothing, and that its choice holds."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from moco.core.pair import EncoderPair
from moco.data.catalog import load
from moco.pretraining import compiling
from moco.pretraining.compiling import Comparison, compare_compiled, keep_less, settle_compilation
from moco.pretraining.config import PretrainConfig
from moco.pretraining.prepare import build_encoder, resolve_config
from moco.runtime.run import Run
from moco.runtime.runlog import RunLog
from tests.pretraining.test_loop import small
from tests.slow import slow


def prepared(out: Path, **values: Any) -> tuple[PretrainConfig, EncoderPair]:
    """A resolved config that leaves the choice to a comparison, as on a GPU, and its encoders."""
    config = resolve_config(small(out, arch="resnet10-w4", max_steps=10_000, **values), load("digits")["train"])
    config = dataclasses.replace(config, compile="auto")
    return config, EncoderPair(build_encoder(config), config.dictionary)


class Logged:
    """A run that keeps nothing but what it logs."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events, self.said = list[dict[str, Any]](), list[str]()
        log = RunLog(folder, 1, active=False)
        monkeypatch.setattr(log, "event", lambda name, **values: self.events.append({"event": name, **values}))
        monkeypatch.setattr(log, "say", self.said.append)
        self.run = Run("run", {}, torch.optim.SGD([torch.zeros(1)], lr=0.1), log, None)


def compiled(pair: EncoderPair) -> list[bool]:
    """Whether f_q and f_k are."""
    assert pair.f_k is not None
    return [encoder._compiled_call_impl is not None for encoder in (pair.encoder, pair.f_k)]


@pytest.mark.parametrize(("found", "chosen"), [
    (Comparison(60.0, 40.0, 75.0), True), (Comparison(60.0, 59.0, 75.0), False), (Comparison(60.0, 70.0, 75.0), False),
    (Comparison(60.0, None, 0.0, "no C compiler"), False),
])  # fmt: skip
def test_the_clearly_faster_way_is_chosen_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: Comparison, chosen: bool
) -> None:
    """Compiled only where that is more than noise; where it cannot be done the reason is said."""
    config, pair = prepared(tmp_path)
    monkeypatch.setattr(compiling, "compare_compiled", lambda *_: found)
    log = Logged(tmp_path, monkeypatch)
    settle_compilation(config, pair, log.run, 0)
    assert compiled(pair) == [chosen, chosen]
    assert log.events == [{
        "event": "compile", "step": 0, "compiled": chosen, "plain_ms": 60.0, "compiled_ms": found.compiled,
        "compiling_s": found.compiling,
    }]  # fmt: skip
    assert (found.reason or "60.0 ms plain") in log.said[0]


@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_goes_on_does_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool) -> None:
    """What was chosen holds, without another comparison: it changes the rounding of every step."""
    config, pair = prepared(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(
        f'{{"event": "compile", "step": 0, "compiled": {str(before).lower()}, "time": 1.0}}\n'
    )
    monkeypatch.setattr(compiling, "compare_compiled", lambda *_: pytest.fail("compared again"))
    log = Logged(tmp_path, monkeypatch)
    settle_compilation(config, pair, log.run, 500)
    assert compiled(pair) == [before, before]
    assert not log.events


def test_a_short_run_is_not_worth_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And on a CPU, or where a run is to repeat bit for bit, auto is off without a comparison; on stays on."""
    config, pair = prepared(tmp_path)
    monkeypatch.setattr(compiling, "compare_compiled", lambda *_: pytest.fail("compared"))
    settle_compilation(dataclasses.replace(config, max_steps=4999), pair, Logged(tmp_path, monkeypatch).run, 0)
    assert compiled(pair) == [False, False]
    images = load("digits")["train"]
    assert resolve_config(small(tmp_path, compile="auto"), images).compile == "off"
    assert resolve_config(small(tmp_path, compile="on", deterministic=True), images).compile == "on"


@pytest.mark.parametrize("values", [{"accumulate": 2}, slow({}), slow({"dictionary": "in-batch"})])
def test_a_comparison_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]) -> None:
    """Weights, running statistics, gradients and random numbers are as before; each way is timed as often."""
    config, pair = prepared(tmp_path, **values)
    passes, clock = list[int](), itertools.count()
    calls = pair.encoder.register_forward_pre_hook(lambda *_: passes.append(1))
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    found = compare_compiled(config, pair)
    calls.remove()
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())
    assert all(parameter.grad is None for parameter in pair.parameters())
    assert len(passes) == 2 * (compiling.WARM_UP + compiling.TIMED) * config.accumulate
    assert (found.plain, found.compiled, found.compiling) == (1000.0, 1000.0, 1.0)
    assert not found.faster


def test_a_compiler_that_fails_leaves_the_encoders_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reason is kept, in one line."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no C compiler\nwas found")

    config, pair = prepared(tmp_path)
    monkeypatch.setattr(torch, "compile", refuse)
    found = compare_compiled(config, pair)
    assert (found.compiled, found.reason, found.faster) == (None, "no C compiler was found", False)


def saved_bytes(net: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """How much a forward pass keeps for the gradient."""
    kept = dict[int, int]()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(x)
    return sum(kept.values())


def test_compiled_with_recompute_keeps_less() -> None:
    """The compiler's partition of a few layers keeps less than half of what it keeps without; both give the same."""
    torch.manual_seed(0)
    layers = [layer for _ in range(4) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())]
    net, x = nn.Sequential(*layers), torch.randn(4, 4, 16, 16)
    found = []
    for recompute in (False, True):
        torch.compiler.reset()
        with keep_less(recompute):
            found.append(saved_bytes(torch.compile(net, backend="aot_eager_decomp_partition"), x))
    assert found[1] < found[0] / 2
    torch.compiler.reset()
