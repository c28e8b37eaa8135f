"""v1's Algorithm 1 with shuffling BN on several devices, in plain loops and float64: an oracle for whole runs.

Written from the paper (arXiv:1911.05722, Algorithm 1 and section 3.3). Shared with the package are only the first
weights, the views, the first queue and the drawn permutations: the network, its normalisation, the loss, the optimiser,
the momentum update and the queue are written out here. torch differentiates.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]
View = tuple[Tensor, Tensor, Tensor]
"""x_q, x_k and the images' numbers: the batch of all devices together."""


@dataclass(frozen=True)
class Plan:
    """What is run: as in v1, but for small images, with a cosine schedule."""

    devices: int
    groups: int
    """BN groups on all devices together: what was a device of the paper's."""
    temperature: float
    momentum: float
    lr: float
    sgd_momentum: float
    weight_decay: float


@dataclass
class Found:
    """What came out: the loss of every step, and the queue at the end, oldest first, each key with its image."""

    losses: list[float]
    queue: list[tuple[Tensor, int]]
    f_q: Weights
    f_k: Weights


def algorithm_1(
    plan: Plan, first: Weights, queue: Sequence[Tensor], batches: Sequence[View], shuffle: Callable[[int], list[int]]
) -> Found:
    """Train on the batches; `shuffle` gives the order of the keys at a step: at place p the key of which image."""
    f_q = {name: value.clone() for name, value in first.items()}
    f_k = {name: value.clone() for name, value in first.items()}
    velocity = {name: torch.zeros_like(value) for name, value in first.items()}
    found = Found([], [(key, -1) for key in queue], f_q, f_k)
    for step, (x_q, x_k, images) in enumerate(batches):
        n = len(x_q) // plan.devices
        groups = plan.groups // plan.devices

        # every device encodes its part of the shuffled keys; then each key goes back to where its query is
        order = shuffle(step)
        k: dict[int, Tensor] = {}
        for device in range(plan.devices):
            places = range(device * n, (device + 1) * n)
            encoded = on_one_device(f_k, [x_k[order[place]] for place in places], groups)
            for place, key in zip(places, encoded, strict=True):
                k[order[place]] = key

        # every device has the loss of its own queries; the gradients are averaged over the devices
        gradient = {name: torch.zeros_like(value) for name, value in f_q.items()}
        losses = []
        for device in range(plan.devices):
            own = range(device * n, (device + 1) * n)
            leaves = {name: value.clone().requires_grad_() for name, value in f_q.items()}
            queries = on_one_device(leaves, [x_q[i] for i in own], groups)
            each = [info_nce(q, k[i], found.queue, plan.temperature) for q, i in zip(queries, own, strict=True)]
            loss = sum(each, torch.zeros(())) / n
            for name, part in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
                gradient[name] += part / plan.devices
            losses.append(float(loss.detach()))
        found.losses.append(sum(losses) / plan.devices)

        rate = plan.lr * (1 + math.cos(math.pi * step / len(batches))) / 2
        for name in f_q:
            velocity[name] = plan.sgd_momentum * velocity[name] + gradient[name] + plan.weight_decay * f_q[name]
            f_q[name] = f_q[name] - rate * velocity[name]
            f_k[name] = plan.momentum * f_k[name] + (1 - plan.momentum) * f_q[name]
        for i in range(len(images)):
            found.queue.append((k[i].detach(), int(images[i])))
            found.queue.pop(0)
    return found


def info_nce(q: Tensor, positive: Tensor, queue: Sequence[tuple[Tensor, int]], temperature: float) -> Tensor:
    """-log( exp(q.k+ / tau) / sum over k+ and the queue of exp(q.k / tau) ) (Eq. 1)."""
    own = torch.exp((q * positive.detach()).sum() / temperature)
    total = own
    for key, _ in queue:
        total = total + torch.exp((q * key).sum() / temperature)
    return -torch.log(own / total)


def on_one_device(weights: Weights, images: Sequence[Tensor], groups: int) -> list[Tensor]:
    """Encode the images of a device, each of its BN groups by itself."""
    size = len(images) // groups
    encoded: list[Tensor] = []
    for group in range(groups):
        encoded += encode(weights, torch.stack(list(images[group * size : (group + 1) * size])))
    return encoded


def encode(weights: Weights, x: Tensor) -> list[Tensor]:
    """A ResNet of one block in each stage, with a 3x3 stem and one linear layer: unit vectors (arXiv:1512.03385)."""
    x = torch.relu(normalised(weights, "bn1", convolved(weights, "conv1", x, 1)))
    for stage in (1, 2, 3, 4):
        name, stride = f"layer{stage}.0", 2 if stage > 1 else 1
        y = torch.relu(normalised(weights, f"{name}.bn1", convolved(weights, f"{name}.conv1", x, stride)))
        y = normalised(weights, f"{name}.bn2", convolved(weights, f"{name}.conv2", y, 1))
        if stride == 2:
            x = normalised(weights, f"{name}.downsample.1", convolved(weights, f"{name}.downsample.0", x, 2))
        x = torch.relu(x + y)
    features = x.mean((2, 3))
    vectors = [weights["head.weight"] @ feature + weights["head.bias"] for feature in features]
    return [vector / torch.sqrt((vector * vector).sum()) for vector in vectors]


def convolved(weights: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    """A convolution of 3x3 with a border of one pixel, or of 1x1 without."""
    weight = weights[f"{name}.weight"]
    return torch.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)


def normalised(weights: Weights, name: str, x: Tensor) -> Tensor:
    """Batch normalisation: every channel to mean 0 and variance 1, then scaled and moved (arXiv:1502.03167)."""
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    scale, offset = (weights[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("weight", "bias"))
    return (x - mean) / torch.sqrt(variance + 1e-5) * scale + offset
