"""Batch normalisation in groups: one process computes what G devices would (v1, 3.3)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

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
    """While a forward pass is done over for its gradient: its statistics were recorded the first time."""
    before = _recomputing.set(True)
    try:
        yield
    finally:
        _recomputing.reset(before)


class _GroupedNormalize(torch.autograd.Function):
    """Normalise each contiguous block of `size` samples with its own statistics, without moving the samples."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, size: int, eps: float) -> tuple[Tensor, ...]:
        y = torch.empty_like(x)
        statistics = []
        for block, out in zip(torch.split(x, size), torch.split(y, size), strict=True):
            _, mean, inverse_std = torch.ops.aten.native_batch_norm.out(
                block, weight, bias, None, None, True, 0.0, eps,
                out=out, save_mean=weight.new_empty(0), save_invstd=weight.new_empty(0),
            )  # fmt: skip
            statistics.append((mean, inverse_std))
        means, inverse_stds = (torch.stack(part) for part in zip(*statistics, strict=True))
        ctx.save_for_backward(x, weight, means, inverse_stds)
        ctx.size, ctx.eps = size, eps
        ctx.mark_non_differentiable(means, inverse_stds)
        return y, means, inverse_stds

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, means, inverse_stds = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = torch.empty_like(x), torch.empty_like(means), torch.empty_like(means)
        blocks = zip(*(torch.split(tensor, ctx.size) for tensor in (grad_y, x, grad_x)), strict=True)
        for group, (grad_block, block, out) in enumerate(blocks):
            torch.ops.aten.native_batch_norm_backward.out(
                grad_block, block, weight, None, None, means[group], inverse_stds[group], True, ctx.eps,
                [True, True, True], out0=out, out1=grad_weight[group], out2=grad_bias[group],
            )  # fmt: skip
        return grad_x, grad_weight.sum(0), grad_bias.sum(0), None, None


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
        if not (x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)):
            x = x.contiguous()  # the kernel computes no statistics for other layouts
        y: Tensor
        y, means, inverse_stds = _GroupedNormalize.apply(x, self.weight, self.bias, size, self.eps)
        self._record(means, inverse_stds, values=size * x[0, 0].numel())
        return y

    def _by_formula(self, x: Tensor, size: int) -> Tensor:
        """The same in operations that a compiler fuses with their neighbours."""
        groups = at_least_fp32(x).view(-1, size, *x.shape[1:])  # (G, n, C, H, W)
        variances, means = torch.var_mean(groups, (1, *range(3, groups.dim())), correction=0, keepdim=True)
        inverse_stds = torch.rsqrt(variances + self.eps)
        weight, bias = (parameter.view(1, 1, -1, *(1,) * (x.dim() - 2)) for parameter in (self.weight, self.bias))
        y = ((groups - means) * (inverse_stds * weight) + bias).flatten(0, 1)
        self._record(means.flatten(1), inverse_stds.flatten(1), values=size * x[0, 0].numel())
        return y.to(x.dtype)

    @torch.no_grad()
    def _record(self, means: Tensor, inverse_stds: Tensor, values: int) -> None:
        if _recomputing.get():
            return
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        variances = (inverse_stds.pow(-2) - self.eps).clamp_(min=0) * (values / max(values - 1, 1))
        self.running_mean.lerp_(means.mean(0), self.momentum or 0.0)
        self.running_var.lerp_(variances.mean(0), self.momentum or 0.0)
        self.num_batches_tracked += 1


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
    if not norm.affine or norm.running_mean is None or not (type(norm) in PLAIN or _is_fused(norm)):
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


def _is_fused(norm: nn.Module) -> bool:
    """Whether it is timm's BatchNorm2d with a dropout and an activation behind it."""
    from timm.layers.norm_act import BatchNormAct2d  # here, since only networks of timm have other kinds than torch's

    return type(norm) is BatchNormAct2d
