"""Batch normalisation in groups on a GPU, in Triton: two passes over a batch forward and two backward, for any groups.

Rows are the places of an image: x is read as (G, n, C), n rows of C channels for each group, as channels_last has them.
A program takes a block of channels of one group and every `splits`-th block of its rows. The first kernel of a pair
writes partial sums (2, splits, G, C); the second adds them up, which costs next to nothing, and makes the result.

Bytes for each element of x in bf16: 2 + 2 + 2 forward (read, read, write) and 4 + 4 + 2 backward, as without groups.
Sums are in fp32 (fp64 for fp64), of the differences from the group's first row, so that no mean cancels a variance.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE = 4096
"""Elements that a program holds at a time."""
WIDEST = 64
"""Channels of a tile: 128 bytes of bf16 lie side by side."""
PROGRAMS = 2048
"""About how many fill a large GPU."""
MOST_SPLITS = 64
"""Partial sums of a channel of a group: each program of the second kernel reads them all."""


def compile_kernel(function: Callable[..., None]) -> Any:
    """Compile a kernel for the GPU when it is first called."""
    return triton.jit(inspect.unwrap(function))  # types are not to be checked inside


@compile_kernel
def _sum_values(
    x: tl.tensor, partials: tl.tensor, rows: tl.tensor, channels: tl.tensor,
    block_r: tl.constexpr, block_c: tl.constexpr, wide: tl.constexpr,
) -> None:  # fmt: skip
    column, split, group = tl.program_id(0) * block_c + tl.arange(0, block_c), tl.program_id(1), tl.program_id(2)
    splits, groups, inside = tl.num_programs(1), tl.num_programs(2), column < channels
    x += group.to(tl.int64) * rows * channels + column
    shift = tl.load(x, mask=inside, other=0.0).to(wide)
    total = tl.zeros((block_r, block_c), wide)
    squares = tl.zeros((block_r, block_c), wide)
    for start in range(split * block_r, rows, splits * block_r):
        row = start + tl.arange(0, block_r)
        there = (row < rows)[:, None] & inside[None]
        value = tl.load(x[None] + row.to(tl.int64)[:, None] * channels, mask=there, other=0.0).to(wide)
        value = tl.where(there, value - shift[None], 0.0)
        total += value
        squares += value * value
    partials += (split * groups + group) * channels + column
    tl.store(partials, tl.sum(total, 0), mask=inside)
    tl.store(partials + splits * groups * channels, tl.sum(squares, 0), mask=inside)


@compile_kernel
def _normalize(
    x: tl.tensor, y: tl.tensor, weight: tl.tensor, bias: tl.tensor, partials: tl.tensor, statistics: tl.tensor,
    rows: tl.tensor, channels: tl.tensor,
    eps: tl.constexpr, splits: tl.constexpr, block_r: tl.constexpr, block_c: tl.constexpr, wide: tl.constexpr,
) -> None:  # fmt: skip
    column, split, group = tl.program_id(0) * block_c + tl.arange(0, block_c), tl.program_id(1), tl.program_id(2)
    groups, inside = tl.num_programs(2), column < channels
    x += group.to(tl.int64) * rows * channels + column
    y += group.to(tl.int64) * rows * channels + column
    partials += (tl.arange(0, splits)[:, None] * groups + group) * channels + column[None]
    total = tl.sum(tl.load(partials, mask=inside[None], other=0.0), 0) / rows
    squares = tl.sum(tl.load(partials + splits * groups * channels, mask=inside[None], other=0.0), 0) / rows
    mean = total + tl.load(x, mask=inside, other=0.0).to(wide)
    inverse_std = 1.0 / tl.sqrt(tl.maximum(squares - total * total, 0.0) + eps)
    if split == 0:
        tl.store(statistics + group * channels + column, mean, mask=inside)
        tl.store(statistics + (groups + group) * channels + column, inverse_std, mask=inside)
    scale = inverse_std * tl.load(weight + column, mask=inside, other=0.0)
    shift = tl.load(bias + column, mask=inside, other=0.0)
    for start in range(split * block_r, rows, splits * block_r):
        row = start + tl.arange(0, block_r)
        there = (row < rows)[:, None] & inside[None]
        place = row.to(tl.int64)[:, None] * channels
        value = tl.load(x[None] + place, mask=there, other=0.0).to(wide)
        result = (value - mean[None]) * scale[None] + shift[None]
        tl.store(y[None] + place, result.to(y.dtype.element_ty), mask=there)


@compile_kernel
def _sum_gradients(
    x: tl.tensor, grad_y: tl.tensor, statistics: tl.tensor, partials: tl.tensor, rows: tl.tensor, channels: tl.tensor,
    block_r: tl.constexpr, block_c: tl.constexpr, wide: tl.constexpr,
) -> None:  # fmt: skip
    column, split, group = tl.program_id(0) * block_c + tl.arange(0, block_c), tl.program_id(1), tl.program_id(2)
    splits, groups, inside = tl.num_programs(1), tl.num_programs(2), column < channels
    x += group.to(tl.int64) * rows * channels + column
    grad_y += group.to(tl.int64) * rows * channels + column
    mean = tl.load(statistics + group * channels + column, mask=inside, other=0.0)
    total = tl.zeros((block_r, block_c), wide)
    products = tl.zeros((block_r, block_c), wide)
    for start in range(split * block_r, rows, splits * block_r):
        row = start + tl.arange(0, block_r)
        there = (row < rows)[:, None] & inside[None]
        place = row.to(tl.int64)[:, None] * channels
        value = tl.load(x[None] + place, mask=there, other=0.0).to(wide)
        grad = tl.load(grad_y[None] + place, mask=there, other=0.0).to(wide)
        total += grad
        products += grad * (value - mean[None])
    partials += (split * groups + group) * channels + column
    tl.store(partials, tl.sum(total, 0), mask=inside)
    tl.store(partials + splits * groups * channels, tl.sum(products, 0), mask=inside)


@compile_kernel
def _propagate(
    x: tl.tensor, grad_y: tl.tensor, grad_x: tl.tensor, weight: tl.tensor,
    statistics: tl.tensor, partials: tl.tensor, gradients: tl.tensor, rows: tl.tensor, channels: tl.tensor,
    splits: tl.constexpr, block_r: tl.constexpr, block_c: tl.constexpr, wide: tl.constexpr,
) -> None:  # fmt: skip
    column, split, group = tl.program_id(0) * block_c + tl.arange(0, block_c), tl.program_id(1), tl.program_id(2)
    groups, inside = tl.num_programs(2), column < channels
    x += group.to(tl.int64) * rows * channels + column
    grad_y += group.to(tl.int64) * rows * channels + column
    grad_x += group.to(tl.int64) * rows * channels + column
    mean = tl.load(statistics + group * channels + column, mask=inside, other=0.0)
    inverse_std = tl.load(statistics + (groups + group) * channels + column, mask=inside, other=0.0)
    partials += tl.arange(0, splits)[:, None] * groups * channels + column[None]
    second = splits * groups * channels
    total = tl.sum(tl.load(partials + group * channels, mask=inside[None], other=0.0), 0)
    products = tl.sum(tl.load(partials + second + group * channels, mask=inside[None], other=0.0), 0)
    if (split == 0) & (group == 0):
        grad_weight = tl.zeros((block_c,), wide)
        grad_bias = tl.zeros((block_c,), wide)
        for other in range(0, groups):
            part = tl.sum(tl.load(partials + second + other * channels, mask=inside[None], other=0.0), 0)
            grad_weight += part * tl.load(statistics + (groups + other) * channels + column, mask=inside, other=0.0)
            grad_bias += tl.sum(tl.load(partials + other * channels, mask=inside[None], other=0.0), 0)
        tl.store(gradients + column, grad_weight, mask=inside)
        tl.store(gradients + channels + column, grad_bias, mask=inside)
    scale = inverse_std * tl.load(weight + column, mask=inside, other=0.0)
    slope, middle = products * inverse_std * inverse_std / rows, total / rows
    for start in range(split * block_r, rows, splits * block_r):
        row = start + tl.arange(0, block_r)
        there = (row < rows)[:, None] & inside[None]
        place = row.to(tl.int64)[:, None] * channels
        value = tl.load(x[None] + place, mask=there, other=0.0).to(wide)
        grad = tl.load(grad_y[None] + place, mask=there, other=0.0).to(wide)
        result = scale[None] * (grad - middle[None] - (value - mean[None]) * slope[None])
        tl.store(grad_x[None] + place, result.to(grad_x.dtype.element_ty), mask=there)


class GroupedNormalize(torch.autograd.Function):
    """Normalise each contiguous block of `size` samples of x (N, C, ...) with its own statistics.

    Returns y in the layout channels_last, means and inverse deviations (G, C). Other layouts are copied first.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, size: int, eps: float) -> tuple[Tensor, ...]:
        """Compute y = (x - mean) / sqrt(var + eps) weight + bias."""
        x = _as_rows(x)
        plan = _Plan.of(x, len(x) // size)
        sums, statistics, y = plan.sums(), plan.table(), _as_channels(x)
        _sum_values[plan.grid](x, sums, plan.rows, plan.channels, **plan.tile)
        _normalize[plan.grid](
            x, y, weight, bias, sums, statistics, plan.rows, plan.channels, eps=eps, splits=plan.grid[1], **plan.tile
        )
        ctx.save_for_backward(x, weight, statistics)
        means, inverse_stds = statistics.unbind()
        ctx.mark_non_differentiable(means, inverse_stds)
        ctx.set_materialize_grads(False)
        return y, means, inverse_stds

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        """Compute dx = weight / std (dy - mean(dy) - x^ mean(dy x^)), dweight = sum(dy x^), dbias = sum(dy)."""
        x, weight, statistics = ctx.saved_tensors
        grad_y = _as_rows(grad_y)
        plan = _Plan.of(x, statistics.shape[1])
        sums, gradients, grad_x = plan.sums(), plan.empty((2, plan.channels)), _as_channels(x)
        _sum_gradients[plan.grid](x, grad_y, statistics, sums, plan.rows, plan.channels, **plan.tile)
        _propagate[plan.grid](
            x, grad_y, grad_x, weight, statistics, sums, gradients, plan.rows, plan.channels,
            splits=plan.grid[1], **plan.tile,
        )  # fmt: skip
        grad_weight, grad_bias = gradients.unbind()
        return grad_x, grad_weight, grad_bias, None, None


def _as_rows(x: Tensor) -> Tensor:
    """Give x (N, C, ...) as (N, ..., C) without gaps: a view where channels lie last in memory."""
    return x.movedim(1, -1).contiguous()


def _as_channels(rows: Tensor) -> Tensor:
    """An empty (N, C, ...) for rows (N, ..., C); no view, which nothing behind it could change in place."""
    seen = rows.movedim(-1, 1)
    return seen.new_empty_strided(seen.shape, seen.stride())


class _Plan(NamedTuple):
    """Says which program takes what."""

    grid: tuple[int, int, int]
    """(blocks of channels, splits, G)"""
    rows: int
    channels: int
    tile: dict[str, Any]
    empty: Callable[..., Tensor]

    @classmethod
    def of(cls, x: Tensor, groups: int) -> "_Plan":
        """Share out rows (N, ..., C) in groups; the numbers of a tile and of splits are powers of two."""
        channels = x.shape[-1]
        rows = x.numel() // (groups * channels)
        block_c = min(WIDEST, triton.next_power_of_2(channels))
        block_r, blocks = TILE // block_c, triton.cdiv(channels, block_c)
        useful = min(MOST_SPLITS, triton.cdiv(rows, block_r), max(1, PROGRAMS // (blocks * groups)))
        splits = 1 << (useful.bit_length() - 1)
        wide = torch.promote_types(x.dtype, torch.float32)
        tile = {"block_r": block_r, "block_c": block_c, "wide": tl.float64 if wide == torch.float64 else tl.float32}
        return cls((blocks, splits, groups), rows, channels, tile, partial(x.new_empty, dtype=wide))

    def sums(self) -> Tensor:
        """Allocate two sums for each program."""
        return self.empty((2, self.grid[1], self.grid[2], self.channels))

    def table(self) -> Tensor:
        """Allocate two numbers for each group and channel."""
        return self.empty((2, self.grid[2], self.channels))
