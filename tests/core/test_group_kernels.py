"""The kernels for BN groups on a GPU, against the oracle and by number; without a GPU, numpy runs them."""

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moco.core import batchnorm
from moco.core.batchnorm import GroupedBatchNorm
from moco.core.encoder import Encoder, EncoderPlan
from moco.core.pair import EncoderPair
from tests import oracles
from tests.core.test_batchnorm import MOMENTUM
from tests.slow import slow

pytest.importorskip("triton")
from moco.core import group_kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
EPS = 1e-3
SHAPES = {
    "image": (8, 3, 5, 4),
    "more channels than a tile": (4, 70, 3, 1),
    "more rows than a tile": (4, 5, 27, 23),
    "rows": (16, 6),
    "sequences": (8, 6, 5),
}
EXACT = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 0.05}
"""The rounding of values up to 4: of sums over 5,000 of them, and of bf16's 8 bits."""


def batch(shape: tuple[int, ...], dtype: torch.dtype, groups: int) -> tuple[GroupedBatchNorm, Tensor, Tensor]:
    """A layer, images of any mean and spread, and a gradient; the layer's numbers are fp32 for bf16 images."""
    torch.manual_seed(0)
    layer = GroupedBatchNorm(shape[1], EPS, MOMENTUM).to(DEVICE, torch.promote_types(dtype, torch.float32))
    layer.group_size = shape[0] // groups
    for value in (layer.weight, layer.bias):
        value.data.uniform_(0.5, 2.0)
    level = torch.arange(shape[0]).view(-1, *(1,) * (len(shape) - 1))
    x = (torch.randn(shape, dtype=torch.float64) * 2 + level).to(DEVICE, dtype)
    return layer, x, torch.randn(shape, dtype=torch.float64).to(DEVICE, dtype)


@pytest.fixture(autouse=True)
def _kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers on the CPU, too, use these kernels."""
    monkeypatch.setattr(batchnorm, "_GroupedNormalize", group_kernels.GroupedNormalize)


ALL = [
    (dtype, groups, name, last)
    for dtype, groups in [(torch.float64, 1), *((dtype, 4) for dtype in EXACT)]
    for name, shape in SHAPES.items()
    for last in (False, True)
    if len(shape) == 4 or not last
]
UNLIKE = {(torch.float64, 1, "image", False), (torch.float32, 4, "rows", False), (torch.bfloat16, 4, "image", True)}
"""Beside every layout in float64 with four groups: another type, and one group."""


@pytest.mark.parametrize(
    ("dtype", "groups", "name", "last"),
    [one if one[:2] == (torch.float64, 4) or one in UNLIKE else slow(*one) for one in ALL],
    ids=str,
)
def test_values_gradients_and_statistics(dtype: torch.dtype, groups: int, name: str, last: bool) -> None:
    """Each block is normalised by its own statistics, whatever lies how in memory."""
    shape = SHAPES[name]
    layer, x, grad_y = batch(shape, dtype, groups)
    if last:
        x, grad_y = (value.contiguous(memory_format=torch.channels_last) for value in (x, grad_y))
    images, gradient = (value.cpu().double().reshape(*shape, *(1,) * (4 - x.dim())).numpy() for value in (x, grad_y))
    weight, bias = (value.detach().cpu().double().numpy() for value in (layer.weight, layer.bias))
    before = [layer.get_buffer(name).cpu().double().clone().numpy() for name in ("running_mean", "running_var")]
    y = layer(x.requires_grad_())
    y.backward(grad_y)
    expected = [
        oracles.grouped_batch_norm(images, weight, bias, groups, EPS),
        *oracles.grouped_batch_norm_backward(images, weight, gradient, groups, EPS),
        *oracles.grouped_running_statistics(images, before[0], before[1], groups, MOMENTUM),
    ]
    found = [y, x.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var]
    for value, wanted in zip(found, expected, strict=True):
        assert value is not None
        wanted = wanted.reshape(value.shape)
        scale = max(1.0, float(abs(wanted).max()) / 4)
        torch.testing.assert_close(
            value.double().cpu() / scale, torch.from_numpy(wanted) / scale, rtol=0, atol=EXACT[dtype]
        )
    assert y.dtype == dtype


def test_a_large_mean_cancels_no_variance() -> None:
    """In fp32, where the mean is 1000 times the deviation."""
    layer, x, _ = batch((8, 3, 5, 4), torch.float32, 2)
    x = x + 4000
    expected = oracles.grouped_batch_norm(
        x.cpu().double().numpy(),
        layer.weight.detach().cpu().double().numpy(),
        layer.bias.detach().cpu().numpy(),
        2,
        EPS,
    )
    torch.testing.assert_close(layer(x).detach().cpu().double(), torch.from_numpy(expected), rtol=0, atol=2e-3)


def test_a_gradient_of_other_strides() -> None:
    """An expanded gradient, as pooling gives it."""
    layer, x, _ = batch((8, 3, 5, 4), torch.float64, 2)
    grad = torch.randn(8, 3, 1, 1, dtype=torch.float64, device=DEVICE).expand_as(x)
    found = []
    for grad_y in (grad, grad.contiguous()):
        own = x.clone().requires_grad_()
        layer(own).backward(grad_y)
        found.append(own.grad)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts torch's calls, but for those that only name or allocate memory, and by itself the launches of kernels."""

    FREE = (
        "view", "transpose", "t", "permute", "split", "split_with_sizes", "unbind", "expand", "detach", "alias",
        "select", "squeeze", "empty", "new_empty", "promote_types",
    )  # fmt: skip

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = self.launches = 0
        for name in ("_sum_values", "_normalize", "_sum_gradients", "_propagate"):
            patch.setattr(group_kernels, name, self)

    def __torch_dispatch__(self, function: Callable[..., object], types: object, arguments=(), named=None) -> object:  # type: ignore[no-untyped-def]
        self.count += function.__name__.split(".")[0].removesuffix("_like").removesuffix("_strided") not in self.FREE
        return function(*arguments, **(named or {}))

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        self.launches += 1
        return lambda *_, **__: None


def test_eight_groups_take_few_more_calls_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """In both encoders' part of a step in bf16: at most 1.2 times torch's calls, and two launches for each pass."""
    encoder = Encoder(EncoderPlan(arch="resnet50-w4", stem="cifar", feature_dim=4, image_size=8))
    encoder = encoder.to(DEVICE).to(memory_format=torch.channels_last)
    pair, x = EncoderPair(encoder, "queue"), torch.randn(16, 3, 8, 8, device=DEVICE)
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1, momentum=0.9, fused=True)
    found = []
    for size in (16, 2):
        for one in (pair.f_q, pair.f_k):
            assert isinstance(one, Encoder)
            one.set_bn_group_size(size)
        with monkeypatch.context() as patch:
            if size == len(x):
                patch.setattr(GroupedBatchNorm, "_by_kernel", lambda norm, kernel, x, size: norm._as_one(x))
            with Calls(patch) as calls:
                with torch.autocast(DEVICE, torch.bfloat16):
                    k = pair.keys(x, 0)
                    q, _ = pair(x, None, k, 0)
                q.sum().backward()
                optimizer.step()
                optimizer.zero_grad()
                pair.update(0.9)
        found.append(calls)
    one_group, eight_groups = found
    assert eight_groups.count <= 1.2 * one_group.count
    assert (one_group.launches, eight_groups.launches) == (0, 2 * 3 * 53)  # f_k, f_q and its gradient
    assert eight_groups.count + eight_groups.launches <= 1.7 * one_group.count


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="Triton brings NVIDIA's tools for this machine only")
def test_kernels_compile_for_real_gpus(tmp_path: Path) -> None:
    """Without a GPU: for Turing, Ampere and Hopper, without spilled registers, in loads of 16 bytes."""
    own = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    own |= {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "tests.nullgpu.compile_kernels"]
    said = subprocess.run(command, capture_output=True, text=True, env=own, check=False)
    assert said.returncode == 0, said.stderr[-2000:]
    lines = [line.split() for line in said.stdout.splitlines()]
    assert len(lines) == 12
    assert all(spilled == "0" and int(wide) > 0 for *_, spilled, wide in lines), said.stdout
