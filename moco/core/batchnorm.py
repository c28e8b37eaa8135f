"""Batch normalisation in groups: one process computes what G devices would (v1, 3.3)."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from moco.core.precision import at_least_fp32
from moco.errors import BadInputError

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_recomputing: ContextVar[bool] = ContextVar("recomputing", default=False)


@contextmanager
def mark_recomputation() -> Iterator[None]:
    """Mark a repeated forward pass, whose statistics were recorded the first time."""
    before = _recomputing.set(True)
    try:
        yield
    finally:
        _recomputing.reset(before)


class _GroupedNormalize(torch.autograd.Function):
    """Normalise each contiguous block of `size` samples with its own statistics, without moving the samples."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, size: int, eps: float) -> tuple[Tensor, ...]:
        y, blocks = torch.empty_like(x), torch.split(x, size)
        means, inverse_stds = weight.new_empty(2, len(blocks), len(weight)).unbind()
        for block, out, mean, inverse_std in zip(blocks, torch.split(y, size), means, inverse_stds, strict=True):
            torch.ops.aten.native_batch_norm.out(
                block, weight, bias, None, None, True, 0.0, eps, out=out, save_mean=mean, save_invstd=inverse_std
            )
        ctx.save_for_backward(x, weight, means, inverse_stds)
        ctx.size, ctx.eps = size, eps
        ctx.mark_non_differentiable(means, inverse_stds)
        ctx.set_materialize_grads(False)
        return y, means, inverse_stds

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, means, inverse_stds = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = torch.empty_like(x), torch.empty_like(means), torch.empty_like(means)
        blocks = zip(*(torch.split(tensor, ctx.size) for tensor in (grad_y, x, grad_x)), strict=True)
        for group, (grad_block, block, out) in enumerate(blocks):
            torch.ops.aten.native_batch_norm_backward.out(
                grad_block, block, weight, None, None, means[group], inverse_stds[group], True, ctx.eps,
                [True, True, True], out0=out, out1=grad_weight[group], out2=grad_bias[group],
            )  # fmt: skip
        return grad_x, grad_weight.sum(0), grad_bias.sum(0), None, None


@cache
def group_kernel() -> type[torch.autograd.Function] | None:
    """Return the kernel for groups on a GPU; None without Triton, which comes with torch for CUDA on Linux."""
    try:
        from moco.core.group_kernels import GroupedNormalize
    except ImportError:
        return None
    return GroupedNormalize


class GroupedBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over groups of `group_size` consecutive samples (0: the whole batch is one group).

    In training, x (N, C, H, W) is cut into N / group_size contiguous blocks, each normalised with its own mean and
    variance, as if each lay on a device of its own. The running statistics move towards the mean over the groups of
    what each would have recorded. In evaluation it is ordinary batch normalisation.

    `drop` and `act`, where they are not None, follow it, as in timm's BatchNormAct2d.

    Where the network has cut its images into windows or tokens, x is (N r, C, ...) with r consecutive rows for each of
    the N `images`, and a block holds those of group_size images.

    Raises ValueError where N is not a multiple of group_size. Source: arXiv:1911.05722, section 3.3.
    """

    group_size: int = 0
    images: int = 0
    """N; 0: each row of x is an image."""
    pending: "list[Recorded] | None" = None
    """Collects statistics that are recorded with those of other layers; None: they are recorded at once."""
    drop: nn.Module | None
    act: nn.Module | None

    def __init__(
        self, channels: int, eps: float = 1e-5, momentum: float | None = 0.1,
        drop: nn.Module | None = None, act: nn.Module | None = None,
    ) -> None:  # fmt: skip
        super().__init__(channels, eps, momentum)
        self.register_module("drop", drop)
        self.register_module("act", act)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (N, C, H, W)."""
        y = self._normalized(x) if self.training else super().forward(x)
        for follower in (self.drop, self.act):
            y = y if follower is None else follower(y)
        return y

    def _check_input_dim(self, input: Tensor) -> None:
        """Rows of channels, with any number of places for each."""

    def _normalized(self, x: Tensor) -> Tensor:
        images = self.images or len(x)
        group = self.group_size or images
        if images % group or len(x) % images:
            raise ValueError(f"a batch of {images} images cannot be cut into BN groups of {group}")
        size = len(x) // images * group
        if torch.compiler.is_compiling():
            return self._by_formula(x, size)
        if x.device.type == "cpu":
            if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
                x = x.contiguous()  # the kernel computes no statistics for other layouts
            return self._by_kernel(_GroupedNormalize, x, size)
        if size == len(x):
            return self._as_one(x)
        kernel = group_kernel() if x.is_cuda else None
        return self._by_formula(x, size) if kernel is None else self._by_kernel(kernel, x, size)

    def _by_kernel(self, kernel: type[torch.autograd.Function], x: Tensor, size: int) -> Tensor:
        y: Tensor
        y, means, inverse_stds = kernel.apply(x, self.weight, self.bias, size, self.eps)
        self._record(means, inverse_stds, values=size * x.shape[2:].numel())
        return y

    def _as_one(self, x: Tensor) -> Tensor:
        """Normalise the whole batch by torch's own kernel (cuDNN's if it fits), and move the running statistics."""
        running = (self.get_buffer("running_mean"), self.get_buffer("running_var"))
        if _recomputing.get():
            running = (torch.empty_like(running[0]), torch.empty_like(running[1]))  # kept as in the first pass
        else:
            self._hand_over(Recorded(self))
        momentum, fast = self.momentum or 0.0, torch.backends.cudnn.enabled
        return torch.batch_norm(x, self.weight, self.bias, *running, True, momentum, self.eps, fast)

    def _by_formula(self, x: Tensor, size: int) -> Tensor:
        """The same in operations that a compiler fuses with their neighbours."""
        groups = at_least_fp32(x).view(-1, size, *x.shape[1:])  # (G, n, C, H, W)
        variances, means = torch.var_mean(groups, (1, *range(3, groups.dim())), correction=0, keepdim=True)
        inverse_stds = torch.rsqrt(variances + self.eps)
        weight, bias = (parameter.view(1, 1, -1, *(1,) * (x.dim() - 2)) for parameter in (self.weight, self.bias))
        y = ((groups - means) * (inverse_stds * weight) + bias).flatten(0, 1)
        self._record(means.flatten(1), inverse_stds.flatten(1), values=size * x.shape[2:].numel())
        return y.to(x.dtype)

    def _record(self, means: Tensor, inverse_stds: Tensor, values: int) -> None:
        if not _recomputing.get():
            self._hand_over(Recorded(self, means.detach(), inverse_stds.detach(), values))

    def _hand_over(self, recorded: "Recorded") -> None:
        if self.pending is None:
            record(recorded)
        else:
            self.pending.append(recorded)


class Recorded(NamedTuple):
    """What a layer found in a batch."""

    norm: GroupedBatchNorm
    means: Tensor | None = None
    """(G, C); None where the running statistics have moved already."""
    inverse_stds: Tensor | None = None
    """(G, C)"""
    values: int = 0
    """How many each statistic is of."""


@contextmanager
def record_together(norms: Sequence[GroupedBatchNorm]) -> Iterator[None]:
    """Record what these layers find inside when it ends, in few calls for all of them."""
    pending: list[Recorded] = []
    for norm in norms:
        norm.pending = pending
    try:
        yield
    finally:
        for norm in norms:
            norm.pending = None
    record(*pending)


@torch.no_grad()
def record(*recorded: Recorded) -> None:
    """Move the running statistics towards the means over the G groups: r <- r + momentum (mean - r)."""
    counts = [one.norm.get_buffer("num_batches_tracked") for one in recorded]
    if counts:
        torch._foreach_add_(counts, 1)
    found = [one for one in recorded if one.means is not None]
    if not found:
        return
    norms, means = [one.norm for one in found], [one.means for one in found if one.means is not None]
    variances = torch._foreach_pow([one.inverse_stds for one in found if one.inverse_stds is not None], -2.0)
    torch._foreach_sub_(variances, [norm.eps for norm in norms])
    torch._foreach_clamp_min_(variances, 0.0)
    torch._foreach_mul_(variances, [one.values / max(one.values - 1, 1) for one in found])
    momenta, channels = [norm.momentum or 0.0 for norm in norms], [norm.num_features for norm in norms]
    for name, of_groups in (("running_mean", means), ("running_var", variances)):
        over_groups = torch.split(torch.cat(list(of_groups), 1).mean(0), channels)
        torch._foreach_lerp_([norm.get_buffer(name) for norm in norms], over_groups, momenta)


def fitting_groups(batch: int, shares: int) -> list[int]:
    """List the numbers of equal groups, of two images or more, of which each share of a batch holds whole ones.

    `shares` is the number of processes times the number of parts that each of them takes its images in.
    """
    share = batch // shares
    sizes = (size for size in range(share, 1, -1) if share % size == 0)
    return [batch // size for size in sizes]


def nearest_groups(fitting: Sequence[int], aim: int) -> int:
    """Choose the number of groups nearest to `aim`, the smaller of two; one group only where nothing else fits."""
    return min(fitting, key=lambda groups: (groups == 1, abs(groups - aim), groups))


def group_batch_norms(module: nn.Module, group_size: int) -> int:
    """Replace every batch normalisation inside `module` by a GroupedBatchNorm of that group size; return their number.

    Parameters, buffers and their names stay what they were. Raises BadInputError for a kind of batch normalisation
    that groups cannot replace without changing what the network computes.
    """
    count = 0
    for name, child in list(module.named_children()):
        if isinstance(child, _BatchNorm):
            if not isinstance(child, GroupedBatchNorm):
                child = _grouped(child)
                setattr(module, name, child)
            child.group_size = group_size
            count += 1
        else:
            count += group_batch_norms(child, group_size)
    return count


def keep_statistics(module: nn.Module, *, affine: bool) -> None:
    """Normalise by the running statistics in training too, which then stay as they are.

    Scale and shift are trained where `affine` says so. Whoever calls `module.train()` undoes it.
    """
    for norm in module.modules():
        if isinstance(norm, GroupedBatchNorm):
            norm.training = False  # not norm.eval(), which would reach the dropout behind it
            norm.weight.requires_grad_(affine)
            norm.bias.requires_grad_(affine)


def _grouped(norm: _BatchNorm) -> GroupedBatchNorm:
    """A GroupedBatchNorm that holds the very parameters and buffers of `norm`, and what follows it inside `norm`."""
    if not norm.affine or norm.running_mean is None or not (type(norm) in PLAIN or is_fused(norm)):
        raise BadInputError(
            f"the network normalises by {type(norm).__name__}({norm.num_features}), which --bn-groups cannot divide: "
            f"give another --arch"
        )
    followers = (getattr(norm, "drop", None), getattr(norm, "act", None))
    grouped = GroupedBatchNorm(norm.num_features, norm.eps, norm.momentum, *followers).train(norm.training)
    grouped.weight, grouped.bias = norm.weight, norm.bias
    grouped.running_mean, grouped.running_var = norm.running_mean, norm.running_var
    grouped.num_batches_tracked = norm.num_batches_tracked
    return grouped


def is_fused(norm: nn.Module) -> bool:
    """Return whether it is timm's BatchNorm2d with a dropout and an activation behind it."""
    timm = sys.modules.get("timm.layers.norm_act")  # without it there is no network of timm, and importing takes long
    return timm is not None and type(norm) is timm.BatchNormAct2d
