"""MoCo v3's Algorithm 1 in plain loops and float64, with AdamW and its schedules: an oracle for whole runs.

Written from the paper (arXiv:2104.02057, Algorithm 1 and section 3). Shared with the package are only the first
weights, the views and the drawn permutations. torch differentiates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moco.core.encoder import Encoder
from moco.pretraining.config import PretrainConfig
from moco.pretraining.initial import encoder_plan
from moco.runtime.randomness import Stream, permute
from tests.pretraining.algorithm_1 import View, Weights, basic_block, convolved, normalised

BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass
class Found:
    """The loss of every step, without its factor of 2 tau and as the mean of both directions; the encoders."""

    losses: list[float]
    f_q: Weights
    f_k: Weights


def algorithm_1_of_v3(config: PretrainConfig, batches: Sequence[View], warmup: int) -> Found:
    """Train on the batches as a resolved config says, with as many steps of warm-up."""
    f_q = first_weights(config)
    f_k = {name: value.clone() for name, value in f_q.items() if not name.startswith("predictor.")}
    found = Found([], f_q, f_k)
    means, squares = ({name: torch.zeros_like(value) for name, value in f_q.items()} for _ in range(2))
    for number, (x_1, x_2, _) in enumerate(batches):
        leaves = {name: value.clone().requires_grad_() for name, value in f_q.items()}
        q_1, q_2 = (in_groups(leaves, x.double(), config, "head", "predictor") for x in (x_1, x_2))
        k_1, k_2 = (shuffled_keys(f_k, x.double(), config, number) for x in (x_1, x_2))
        loss = ctr(q_1, k_2, config.temperature) + ctr(q_2, k_1, config.temperature)
        gradient = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        found.losses.append(float(loss.detach()) / (2 * config.temperature) / 2)

        rate, peak = 0.0, float(config.lr or 0.0)
        if number < warmup:
            rate = peak * (number + 1) / warmup
        else:
            rate = peak * (1 + math.cos(math.pi * (number - warmup) / (len(batches) - warmup))) / 2
        for name, value in f_q.items():
            means[name] = BETAS[0] * means[name] + (1 - BETAS[0]) * gradient[name]
            squares[name] = BETAS[1] * squares[name] + (1 - BETAS[1]) * gradient[name] ** 2
            mean = means[name] / (1 - BETAS[0] ** (number + 1))
            square = squares[name] / (1 - BETAS[1] ** (number + 1))
            decay = config.weight_decay if value.dim() > 1 else 0.0
            f_q[name] = value - rate * decay * value - rate * mean / (torch.sqrt(square) + EPS)
        m = 1 - (1 - config.key_momentum) * (math.cos(math.pi * number / len(batches)) + 1) / 2
        for name in f_k:
            f_k[name] = m * f_k[name] + (1 - m) * f_q[name]
    return found


def first_weights(config: PretrainConfig) -> Weights:
    """The weights that the package draws for a seed, those of the prediction head among them."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        encoder = Encoder(encoder_plan(config))
        encoder.add_predictor()
    drawn = dict(encoder.named_parameters())
    return {name.removeprefix("backbone."): value.detach().double() for name, value in drawn.items()}


def ctr(q: Sequence[Tensor], k: Sequence[Tensor], tau: float) -> Tensor:
    """2 tau times the cross-entropy of mm(q, k.t()) / tau, where row i belongs to column i (Algorithm 1)."""
    losses = []
    for i, query in enumerate(q):
        total = torch.stack([torch.exp((query * key).sum() / tau) for key in k]).sum()
        losses.append(-torch.log(torch.exp((query * k[i]).sum() / tau) / total))
    return 2 * tau * torch.stack(losses).sum() / len(losses)


def shuffled_keys(f_k: Weights, x: Tensor, config: PretrainConfig, step: int) -> list[Tensor]:
    """Encode the keys in the groups that a step's permutation puts them into, and put each back in its place."""
    order = permute(range(len(x)), len(x), seed=config.seed, stream=Stream.SHUFFLE, epoch=step).tolist()
    encoded = dict(zip(order, in_groups(f_k, x[order], config, "head"), strict=True))
    return [encoded[i].detach() for i in range(len(x))]


def in_groups(weights: Weights, x: Tensor, config: PretrainConfig, *heads: str) -> list[Tensor]:
    """Unit vectors of images, each BN group of which is encoded by itself."""
    encoded: list[Tensor] = []
    for group in x.chunk(config.bn_groups or 1):
        h = torch.relu(normalised(weights, "bn1", convolved(weights, "conv1", group, 1)))
        for stage in (1, 2, 3, 4):
            h = basic_block(weights, f"layer{stage}.0", h, stride=2 if stage > 1 else 1)
        z = h.mean((2, 3))
        for head in heads:
            z = perceptron(weights, head, z)
        encoded += [vector / torch.sqrt((vector * vector).sum()) for vector in z]
    return encoded


def perceptron(weights: Weights, name: str, z: Tensor) -> Tensor:
    """Linear layers without bias, batch normalisation behind each, ReLU behind all but the last."""
    numbers = sorted({int(key.split(".")[1]) for key in weights if key.startswith(f"{name}.")})
    for linear, norm in zip(numbers[::2], numbers[1::2], strict=True):
        z = normalised(weights, f"{name}.{norm}", (z @ weights[f"{name}.{linear}.weight"].T)[:, :, None, None])
        z = z[:, :, 0, 0] if norm == numbers[-1] else torch.relu(z[:, :, 0, 0])
    return z
