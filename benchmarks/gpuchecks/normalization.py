"""BN groups: right in every layout and type, then as fast as one group."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpuchecks.rows import Row, Setting, relative_error
from moco.core.batchnorm import GroupedBatchNorm

IMAGES, CHANNELS, HEIGHT, WIDTH = 16, 24, 9, 7
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Largest relative error against fp64, by the type of the images."""
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
SHAPES = ((256, 56), (512, 28), (1024, 14), (2048, 7))
"""Channels and side of the layers that ResNet-50 spends most of its traffic in."""


def check_groups(setting: Setting) -> Iterator[Row]:
    """Output, gradients and running statistics against plain fp64 loops over the groups, the worst of each case."""
    for dtype, (name, layout), groups in product(BOUNDS, LAYOUTS.items(), (4, 1)):
        for other_gradient in (False, True):
            errors = _compare(setting, dtype, layout, groups, other_gradient=other_gradient)
            worst = max(errors, key=lambda key: errors[key])
            case = f"{groups} groups, {str(dtype).removeprefix('torch.')}, {name}"
            case += ", gradient in the other layout" if other_gradient else ""
            right = errors[worst] < BOUNDS[dtype]
            yield Row(case, float(f"{errors[worst]:.2e}"), worst, f"below {BOUNDS[dtype]:g}", right, errors)
    if setting.on_gpu:
        yield from _time_groups(setting)


def _compare(
    setting: Setting, dtype: torch.dtype, layout: torch.memory_format, groups: int, *, other_gradient: bool
) -> dict[str, float]:
    torch.manual_seed(0)
    shape = (IMAGES, CHANNELS, HEIGHT, WIDTH)
    x = (3 + torch.randn(shape)).to(setting.device, dtype).contiguous(memory_format=layout).requires_grad_()
    norm = GroupedBatchNorm(CHANNELS).to(setting.device)
    norm.group_size = IMAGES // groups
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    other = torch.channels_last if layout == torch.contiguous_format else torch.contiguous_format
    grad_y = torch.randn(shape).to(setting.device, dtype)
    grad_y = grad_y.contiguous(memory_format=other if other_gradient else layout)
    y = norm(x)
    torch.autograd.backward(y, grad_y)

    exact, weight, bias = (_exact(tensor) for tensor in (x, norm.weight, norm.bias))
    running = torch.zeros(2, groups, CHANNELS, dtype=torch.float64)
    running[1] = 1
    blocks = [
        F.batch_norm(block, running[0, group], running[1, group], weight, bias, True, 0.1, norm.eps)
        for group, block in enumerate(exact.chunk(groups))
    ]
    expected = torch.cat(blocks)
    torch.autograd.backward(expected, grad_y.double().cpu())
    mean, var = running.mean(1)
    pairs: dict[str, tuple[Tensor | None, Tensor | None]] = {
        "y": (y, expected), "grad x": (x.grad, exact.grad), "grad weight": (norm.weight.grad, weight.grad),
        "grad bias": (norm.bias.grad, bias.grad), "running mean": (norm.running_mean, mean),
        "running var": (norm.running_var, var),
    }  # fmt: skip
    return {name: relative_error(*_there(*pair)) for name, pair in pairs.items()}


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().double().cpu().requires_grad_()


def _there(found: Tensor | None, expected: Tensor | None) -> tuple[Tensor, Tensor]:
    assert found is not None
    assert expected is not None
    return found, expected


def _time_groups(setting: Setting) -> Iterator[Row]:
    """Forward and backward of a layer with eight groups, against one group and against cuDNN's own."""
    for channels, side in SHAPES:
        shape = (setting.batch, channels, side, side)
        x = torch.randn(shape, device=setting.device).bfloat16().contiguous(memory_format=torch.channels_last)
        x.requires_grad_()
        grad_y, seconds = torch.randn_like(x), dict[str, float]()
        plain = nn.BatchNorm2d(channels).to(setting.device)
        for name, groups in (("8 groups", 8), ("1 group", 1), ("cuDNN", 0)):
            layer = GroupedBatchNorm(channels).to(setting.device) if groups else plain
            if isinstance(layer, GroupedBatchNorm):
                layer.group_size = setting.batch // groups
            seconds[name] = setting.time(partial(_pass, layer, x, grad_y))
        floor = 8 * x.numel() * 2 / 3e12
        more = {f"{name}, microseconds": 1e6 * value for name, value in (*seconds.items(), ("floor", floor))}
        ratio = round(seconds["8 groups"] / seconds["cuDNN"], 2)
        yield Row(f"8 groups / cuDNN, {channels} x {side}^2", ratio, "", "at most 1.2", None, more)


def _pass(layer: nn.Module, x: Tensor, grad_y: Tensor) -> None:
    torch.autograd.backward(layer(x), grad_y)
    x.grad = None
