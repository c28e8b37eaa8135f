"""Folds batch normalisation by fixed statistics into the convolution before it."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from moco.core.batchnorm import GroupedBatchNorm, is_fused
from moco.core.depthwise import DepthwiseConv, is_padded_same
from moco.core.resnet import NarrowConv, PaddedConv

CONVOLUTIONS = (nn.Conv2d, DepthwiseConv, NarrowConv, PaddedConv)
"""Layers with an output linear in the weight, plus the bias. Others may change the weight first."""


class Foldable(NamedTuple):
    """A convolution, and the batch normalisation that alone reads its output."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d

    def weight_and_bias(self) -> tuple[Tensor, Tensor]:
        """Return w' = s w and b' = beta + s (b - mean) with s = gamma / sqrt(var + eps), s (C,); differentiable."""
        conv, norm = self
        mean, var = norm.get_buffer("running_mean"), norm.get_buffer("running_var")
        scale = norm.weight * torch.rsqrt(var + norm.eps)
        shift = -mean if conv.bias is None else conv.bias - mean
        return conv.weight * scale.view(-1, 1, 1, 1), torch.addcmul(norm.bias, scale, shift)


class _Reads(TorchFunctionMode):
    """Counts how many operations read each of the tensors in `watched`, which has them by their id."""

    def __init__(self) -> None:
        super().__init__()
        self.watched: dict[int, Tensor] = {}
        self.count: Counter[int] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.count.update({id(leaf) for leaf in tree_leaves((args, kwargs))} & self.watched.keys())
        return result


@torch.no_grad()
def find_foldable(network: nn.Module, x: Tensor) -> list[Foldable]:
    """Find the convolutions whose output only a batch normalisation reads while `network` encodes x (N, C, H, W).

    Each is called once. The network must be in evaluation mode, in which no buffer changes.
    """
    norms = [part for part in network.modules() if _is_known_norm(part)]
    if not norms:
        return []
    made: dict[int, nn.Conv2d] = {}
    found: list[tuple[int, Foldable]] = []
    calls: Counter[nn.Module] = Counter()
    reads = _Reads()

    def remember(conv: nn.Module, _: Any, y: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        calls[conv] += 1
        made[id(y)] = conv
        reads.watched[id(y)] = y  # alive, so that no other tensor gets its id

    def match(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        calls[norm] += 1
        if id(inputs[0]) in made:
            found.append((id(inputs[0]), Foldable(made[id(inputs[0])], norm)))

    hooks = [part.register_forward_hook(remember) for part in network.modules() if _is_known_conv(part)]
    hooks += [norm.register_forward_pre_hook(match) for norm in norms]
    try:
        with reads:
            network(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [pair for y, pair in found if reads.count[y] == calls[pair.conv] == calls[pair.norm] == 1]


@contextmanager
def fold_norms(pairs: Sequence[Foldable]) -> Iterator[None]:
    """Let each convolution normalise its own output inside the block, and its norm pass that on.

    The network computes the same function with one pass less over each output; gradients reach the weights, scales and
    shifts as they do without. What a norm has behind its normalisation (timm's dropout and activation) still follows.
    """
    originals = [(conv.weight, conv.bias) for conv, _ in pairs]
    try:
        _fold(pairs)
        yield
    finally:
        for (conv, norm), (weight, bias) in zip(pairs, originals, strict=True):
            _set(conv, weight, bias)
            vars(norm).pop("forward", None)


def folded_copy(network: nn.Module, x: Tensor) -> nn.Module:
    """Return a copy of the network with its norms folded for good; the network itself where there are none to fold.

    The network must be in evaluation mode, and x (N, C, H, W) is encoded to find them. The copy shares the tensors that
    stay as they are.
    """
    pairs = find_foldable(network, x)
    if not pairs:
        return network
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    network, pairs = copy.deepcopy((network, pairs), shared)
    with torch.no_grad():
        _fold(pairs)
    return network


def _fold(pairs: Sequence[Foldable]) -> None:
    for pair in pairs:
        weight, bias = pair.weight_and_bias()
        _set(pair.conv, weight, bias)
        vars(pair.norm)["forward"] = _followers(pair.norm)


def _set(conv: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> None:
    """Let the convolution use these, which need not be parameters (as torch.func.functional_call does)."""
    parameters: dict[str, Any] = conv._parameters
    parameters.update(weight=weight, bias=bias)


def _followers(norm: nn.Module) -> Callable[[Tensor], Tensor]:
    followers = [part for part in (getattr(norm, name, None) for name in ("drop", "act")) if part is not None]

    def forward(x: Tensor) -> Tensor:
        for part in followers:
            x = part(x)
        return x

    return forward


def _is_known_conv(part: nn.Module) -> bool:
    return (type(part) in CONVOLUTIONS or is_padded_same(part)) and not part._forward_pre_hooks


def _is_known_norm(part: nn.Module) -> bool:
    """Whether it normalises by running statistics, then scales and shifts."""
    if not (type(part) in (nn.BatchNorm2d, GroupedBatchNorm) or is_fused(part)):
        return False
    assert isinstance(part, nn.BatchNorm2d)
    return part.affine and part.running_mean is not None and not part.training
