"""The optimiser: SGD, Muon for the inner kernels of ResNets and transformers over bytes, LARS, or AdamW."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moco.core.bytes import ByteTransformer
from moco.core.encoder import Encoder
from moco.core.resnet import ResNet
from moco.pretraining.config import PretrainConfig
from moco.runtime.fields import require
from moco.runtime.state import MOMENTUM

QUINTIC = (3.4445, -4.7750, 2.0315)
"""a, b, c: x -> a x + b x^3 + c x^5 brings singular values from (0, 1] near 1 in few steps."""
STEPS = 3
TRUST = 0.001
"""LARS's trust coefficient (arXiv:1708.03888; SimCLR and MoCo v3 take this value)."""


def build_optimizer(config: PretrainConfig, *encoders: Encoder) -> torch.optim.Optimizer:
    """Build SGD or AdamW over all encoders, fused; heads learn at `ratio` times the backbones' rate.

    With `--optimizer muon` the inner kernels are a group of their own, marked `kernels`, without momentum or decay:
    `take_step` replaces their gradients, as it does those of the groups marked `trust` with `--optimizer lars`. AdamW
    and LARS spare biases and norms the decay.
    """
    momentum, decay, lr = config.sgd_momentum, config.weight_decay, require(config.lr)
    kernels = [kernel for f_q in encoders for kernel in inner_kernels(config, f_q)]
    inner = {id(kernel) for kernel in kernels}
    heads = [p for f_q in encoders for head in (f_q.head, f_q.predictor) for p in head.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": [p for f_q in encoders for p in f_q.backbone.parameters() if id(p) not in inner], "ratio": 1.0},
        {"params": heads, "ratio": (config.head_lr or lr) / lr},
    ]
    if config.optimizer in ("adamw", "lars"):
        how = {"weight_decay": decay} if config.optimizer == "adamw" else {"trust": decay}
        groups = [part for group in groups for part in _split(group, how)]
        decay = 0.0
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr, weight_decay=0.0, fused=True)
    if kernels:
        narrow = torch.bfloat16 if config.precision == "bf16" else torch.float32
        groups.append({
            "params": kernels, "ratio": config.muon_lr / lr, "momentum": 0.0, "weight_decay": 0.0,
            "kernels": {"momentum": config.muon_momentum, "dtype": narrow},
        })  # fmt: skip
    return torch.optim.SGD(groups, momentum=momentum, weight_decay=decay, fused=True)


def inner_kernels(config: PretrainConfig, f_q: Encoder) -> list[nn.Parameter]:
    """Find the kernels that Muon trains: all but the first convolution of a ResNet, if their norms are trained.

    There a batch normalisation behind each takes its scale out, so that a fixed norm loses nothing. Of a transformer
    over bytes they are the matrices of its blocks, whose norm stays that of rows of unit length. Other networks have
    none, and SGD trains all of them.
    """
    named = f_q.backbone.named_parameters()
    if config.optimizer == "muon" and isinstance(f_q.backbone, ByteTransformer):
        return [p for name, p in named if p.dim() == 2 and name.startswith("blocks.")]
    if config.optimizer != "muon" or config.bn != "train" or not isinstance(f_q.backbone, ResNet):
        return []
    return [p for name, p in named if p.dim() == 4 and name != "conv1.weight"]


def _split(group: dict[str, Any], how: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The group's matrices and kernels, which are treated as `how` says, and its biases and norms, which are not."""
    for matrices in (True, False):
        some = [p for p in group["params"] if (p.dim() > 1) is matrices]
        if some:
            yield {**group, "params": some, **(how if matrices else {})}


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> float:
    """Set the learning rate of the next step, and that of the heads and kernels in proportion; return it."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["ratio"]
    return lr


@torch.no_grad()
def take_step(optimizer: torch.optim.Optimizer) -> None:
    """Make the optimiser's step, with the gradients of its Muon and LARS groups replaced by what these move along."""
    for group in optimizer.param_groups:
        if "kernels" in group:
            _orthogonalize_gradients(optimizer, group)
        if "trust" in group:
            _scale_gradients(group["params"], group["trust"])
    optimizer.step()


def _scale_gradients(parameters: Sequence[nn.Parameter], decay: float) -> None:
    """Replace g by 0.001 |w| / |g + b w| (g + b w), with b the decay; by g + b w where a norm is 0.

    SGD's momentum then adds up steps of a length in proportion to the weights': M <- mu M + g, w <- w - lr M.

    Source: LARS, arXiv:1708.03888, algorithm 1.
    """
    for w in parameters:
        if w.grad is not None:
            w.grad.add_(w, alpha=decay)
            length, of_step = w.norm(), w.grad.norm()
            w.grad.mul_(torch.where((length > 0) & (of_step > 0), TRUST * length / of_step, 1.0))


def _orthogonalize_gradients(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """Prepare Muon's step of kernels W (out, in, k, k), as matrices of `out` rows.

    With its gradient g, M <- mu M + g, O = orthogonalize(g + mu M), W <- W sqrt(out) / |W| - lr O. The norm of O is
    at most about sqrt(out), so lr is the share of its norm by which a kernel moves. Nothing is lost with the norm of W:
    the batch normalisation behind it takes it out again.

    Source: K. Jordan and others, Muon (2024); the fixed norm and three steps from their CIFAR-10 training
    (arXiv:2404.00498 and its code).
    """
    how = group["kernels"]
    for kernel in group["params"]:
        if kernel.grad is None:  # with --head-steps, only the head learns at first
            continue
        state = optimizer.state[kernel]
        if MOMENTUM not in state:
            state[MOMENTUM] = torch.zeros_like(kernel)
        state[MOMENTUM].mul_(how["momentum"]).add_(kernel.grad)
        step = (kernel.grad + how["momentum"] * state[MOMENTUM]).flatten(1)
        kernel.grad.copy_(orthogonalize(step.to(how["dtype"])).view(kernel.shape))  # in its layout: SGD is fused
        kernel.mul_(len(kernel) ** 0.5 / kernel.norm().clamp(min=1e-7))


def orthogonalize(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix near 1, and keep its singular vectors: about U V^T of U S V^T.

    X <- a X + (b A + c A A) X with A = X X^T, three times, from the matrix divided by its norm (Newton-Schulz).
    Singular values of at least 0.02 of that norm end between 0.68 and 1.21; smaller ones grow by at most a^3 = 41.
    """
    a, b, c = QUINTIC
    x: Tensor
    wide = len(matrix) <= matrix[0].numel()
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.T
