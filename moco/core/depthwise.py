"""Depthwise convolutions with fast bf16 gradients on a CPU, instead of oneDNN's slow reference code."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Pair = tuple[int, int]
TILE = 3
"""Side of the kernels for which oneDNN computes the weight's gradient by fast code in bf16."""
BY_X, BY_WEIGHT = (True, False, False), (False, True, False)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution: x (N, C, H, W), weight (C, 1, k, l), bias (C,) or None -> y (N, C, H', W')."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, bias, stride, padding, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), stride, padding = ctx.saved_tensors, ctx.stride, ctx.padding
        grad_x = _input_gradient(grad_y, x, weight, stride, padding) if ctx.needs_input_grad[0] else None
        grad_weight = _weight_gradient(grad_y, x, weight, stride, padding) if ctx.needs_input_grad[1] else None
        grad_bias = grad_y.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return grad_x, grad_weight, grad_bias, None, None


def _input_gradient(grad_y: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """With strides, zeros go between the places of grad_y, and the flipped kernel slides over it by single steps."""
    if stride == (1, 1):
        return _gradients(grad_y, x, weight, stride, padding, BY_X)[0]
    kernel = weight.shape[2:]
    height, width = (side + 2 * pad - k + 1 for side, pad, k in zip(x.shape[2:], padding, kernel, strict=True))
    shape = (*x.shape[:2], height, width)
    spread = torch.empty(shape, dtype=x.dtype, memory_format=torch.channels_last).zero_()
    spread[:, :, :: stride[0], :: stride[1]] = grad_y
    margins = [k - 1 - pad for k, pad in zip(kernel, padding, strict=True)]
    return F.conv2d(spread, weight.flip(2, 3), None, 1, margins, 1, x.shape[1])


def _weight_gradient(grad_y: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair) -> Tensor:
    """Compute a kernel's gradient in tiles of 3x3, each as the gradient of a convolution of a shifted x."""
    kernel = weight.shape[2:]
    if max(kernel) <= TILE:
        return _gradients(grad_y, x, weight, stride, padding, BY_WEIGHT)[1]
    sides = [-(-k // TILE) * TILE for k in kernel]
    spans = [(places - 1) * step + TILE for places, step in zip(grad_y.shape[2:], stride, strict=True)]
    ends = [span + side - TILE - length - pad
            for span, side, length, pad in zip(spans, sides, x.shape[2:], padding, strict=True)]  # fmt: skip
    x = F.pad(x, (padding[1], ends[1], padding[0], ends[0]))
    gradient, tile = weight.new_empty(len(weight), 1, *sides), weight.new_empty(len(weight), 1, TILE, TILE)
    for top in range(0, sides[0], TILE):
        for left in range(0, sides[1], TILE):
            part = x[:, :, top : top + spans[0], left : left + spans[1]].contiguous(memory_format=torch.channels_last)
            gradient[:, :, top : top + TILE, left : left + TILE] = _gradients(
                grad_y, part, tile, stride, (0, 0), BY_WEIGHT
            )[1]
    return gradient[:, :, : kernel[0], : kernel[1]]


def _gradients(
    grad_y: Tensor, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, which: tuple[bool, bool, bool]
) -> tuple[Tensor, ...]:
    gradients: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        grad_y, x, weight, None, stride, padding, (1, 1), False, (0, 0), x.shape[1], which
    )
    return gradients


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution with bf16 gradients that take a fraction of torch's time on a CPU.

    In bf16, oneDNN leaves the gradient of x under strides, and that of kernels above 3x3, to its reference code. Both
    are computed here by convolutions for which it has fast code. With `pad_same` the padding follows from the size of
    x, as TensorFlow's "SAME" does (timm's Conv2dSame).
    """

    pad_same: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x (N, C, H, W)."""
        if self.pad_same:
            from timm.layers.padding import pad_same

            x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        if not _computes_in_bf16(x):
            return super().forward(x)
        dtype = torch.bfloat16
        bias = None if self.bias is None else self.bias.to(dtype)
        y: Tensor = _Depthwise.apply(x.to(dtype), self.weight.to(dtype), bias, self.stride, self.padding)
        return y


def _computes_in_bf16(x: Tensor) -> bool:
    """Whether a convolution of x runs in bf16 on a CPU, with a gradient."""
    if x.device.type != "cpu" or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def quicken_depthwise(network: nn.Module) -> int:
    """Make DepthwiseConv of each depthwise convolution inside `network`, in place; return their number.

    Parameters and their names stay what they were.
    """
    found = [
        (parent, name, conv)
        for parent in network.modules()
        for name, conv in parent.named_children()
        if isinstance(conv, nn.Conv2d)
        and 1 < conv.groups == conv.in_channels == conv.out_channels
        and conv.dilation == (1, 1)
        and _is_known(conv)
    ]
    for parent, name, conv in found:
        quick = DepthwiseConv(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,  # type: ignore[arg-type]
            conv.groups, bias=False, device="meta",
        )  # fmt: skip
        quick.weight, quick.bias, quick.pad_same = conv.weight, conv.bias, type(conv) is not nn.Conv2d
        setattr(parent, name, quick.train(conv.training))
    return len(found)


def _is_known(conv: nn.Conv2d) -> bool:
    """Return whether it is torch's own with a narrow zero padding, or timm's that pads by the size of x."""
    if type(conv) is nn.Conv2d:
        return conv.padding_mode == "zeros" and all(
            isinstance(pad, int) and pad < k for pad, k in zip(conv.padding, conv.kernel_size, strict=False)
        )
    return is_padded_same(conv)


def is_padded_same(conv: nn.Module) -> bool:
    """Return whether it is timm's convolution that derives its padding from the size of x."""
    return type(conv).__name__ == "Conv2dSame" and type(conv).__module__ == "timm.layers.conv2d_same"
