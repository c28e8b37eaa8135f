"""Compiled encoders: what stands in for the kernel computes the same, and the loop runs with it."""

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from moco.core import batchnorm
from moco.data.catalog import load
from moco.errors import BadInputError
from moco.pretraining.loop import pretrain
from moco.pretraining.recipes import recipe
from tests import oracles
from tests.core.test_batchnorm import BATCH, EPS, GROUPS, MOMENTUM, layer_and_batch
from tests.faults.processes import ended_well, start_program
from tests.slow import slow

SMALL: dict[str, Any] = {
    "arch": "resnet10-w4", "image_size": 12, "view_size": None, "batch_size": 16, "queue_size": 40, "max_steps": 2,
    "bn_groups": 4, "log_every": 1, "checkpoint_every": 0, "knn_every": 0, "threads": 1, "precision": "fp32",
    "device": "cpu", "augment": "cifar", "dictionary": "queue",
}  # fmt: skip


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls the kernel, which a compiler does not see into, fails."""

    def refuse(*_: object) -> None:
        raise AssertionError("the kernel was called")

    monkeypatch.setattr(batchnorm._GroupedNormalize, "apply", refuse)
    torch.compiler.reset()


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize("groups", GROUPS)
def test_the_formula_equals_the_oracle(groups: int) -> None:
    """Outputs, gradients and running statistics in float64, as those of the kernel (tests/core/test_batchnorm.py)."""
    layer, x = layer_and_batch(groups, torch.contiguous_format, torch.float64)
    weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
    before = [layer.get_buffer(name).clone().numpy() for name in ("running_mean", "running_var")]
    grad_y = torch.randn_like(x)

    x.requires_grad_()
    y = torch.compile(layer, backend="eager")(x)
    y.backward(grad_y)

    images = x.detach().numpy()
    expected = oracles.grouped_batch_norm(images, weight, bias, groups, EPS)
    torch.testing.assert_close(y.detach(), torch.from_numpy(expected), rtol=0, atol=1e-12)
    mean, var = oracles.grouped_running_statistics(images, before[0], before[1], groups, MOMENTUM)
    torch.testing.assert_close(layer.running_mean, torch.from_numpy(mean), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.running_var, torch.from_numpy(var), rtol=0, atol=1e-12)
    assert layer.num_batches_tracked == 1
    gradients = oracles.grouped_batch_norm_backward(images, weight, grad_y.numpy(), groups, EPS)
    for value, wanted in zip((x, layer.weight, layer.bias), gradients, strict=True):
        assert value.grad is not None
        torch.testing.assert_close(value.grad, torch.from_numpy(wanted), rtol=0, atol=1e-11)


@pytest.mark.usefixtures("no_kernel")
def test_bf16_stays_bf16() -> None:
    """Under autocast bf16 goes in and out; the statistics are taken in fp32."""
    layer, x = layer_and_batch(2, torch.contiguous_format, torch.float32)
    y = torch.compile(layer, backend="eager")(x.bfloat16())
    assert y.dtype == torch.bfloat16
    expected = torch.cat([torch.nn.functional.batch_norm(
        block.bfloat16().float(), None, None, layer.weight, layer.bias, training=True, eps=EPS
    ) for block in torch.split(x, BATCH // 2)])  # fmt: skip
    torch.testing.assert_close(y.float(), expected.detach(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("recompute", [False, slow(True)])
def test_two_steps_with_compiled_encoders(tmp_path: Path, recompute: bool) -> None:
    """The losses are those without, within float32's rounding; and both encoders were compiled.

    In a process of its own, where annotations are not checked: a compiler cannot look through what checks them.
    """
    program = functools.partial(two_runs, tmp_path, recompute)
    said = ended_well(start_program(program, tmp_path, ranks=1)).text()
    graphs, breaks = map(int, said.splitlines()[-1].split())
    assert graphs == 2  # f_q with a gradient and f_k without
    assert breaks == 0
    without, compiled = (logged(tmp_path / name) for name in ("without", "compiled"))
    assert len(compiled) == 2
    assert compiled == pytest.approx(without, rel=1e-4)


def two_runs(folder: Path, recompute: bool) -> None:
    """A run without and one with compiled encoders; print how many graphs were compiled, and how often one broke."""
    graphs: list[GraphModule] = []

    def backend(graph: GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    images = load("digits")["train"]
    with pytest.MonkeyPatch.context() as patch:
        pretrain(recipe("quick", data="digits", out=folder / "without", **SMALL), images)
        assert not graphs
        patch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
        values = {**SMALL, "compile": "on", "recompute": recompute}
        pretrain(recipe("quick", data="digits", out=folder / "compiled", **values), images)
    print(len(graphs), sum(torch._dynamo.utils.counters["graph_break"].values()))


def logged(run: Path) -> list[float]:
    """The loss of every step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("place", ["file", "file/x"])
def test_a_folder_for_code_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Is named with its setting before the first step; --compile auto would do without."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / place))
    config = recipe("quick", data="digits", out=tmp_path / "run", compile="on", **{**SMALL, "arch": "resnet10-w4"})
    with pytest.raises(BadInputError, match=r"--compile needs a folder .*/file.* \(.+\): set TORCHINDUCTOR"):
        pretrain(config, load("digits")["train"])
