"""v1's Algorithm 1 with shuffling BN on several devices, in plain loops and float64: an oracle for whole runs.

Written from the paper (arXiv:1911.05722, Algorithm 1 and section 3.3). Shared with the package are only the first
weights, the views (mixed ones, too), the first queue and the drawn permutations: the network, its normalisation, the
loss, the optimiser, the momentum update and the queue are written out here. torch differentiates.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.blending import blend_views
from moco.core.encoder import Encoder
from moco.pretraining.config import PretrainConfig
from moco.pretraining.initial import encoder_plan
from moco.runtime.randomness import Stream, permute

Weights = dict[str, Tensor]
View = tuple[Tensor, Tensor, Tensor]
"""x_q, x_k and the images' numbers: the batch of all devices together."""
Queue = list[tuple[Tensor, int]]
"""Keys, each with its image, oldest first."""


@dataclass(frozen=True)
class Step:
    """What a step computes: the mean loss of the devices, the gradient of f_q, and the key of every image."""

    loss: float
    gradient: Weights
    keys: list[Tensor]


@dataclass
class Found:
    """What came out: the loss of every step, and the queue and the encoders at the end."""

    losses: list[float]
    queue: Queue
    f_q: Weights
    f_k: Weights


def algorithm_1(config: PretrainConfig, batches: Sequence[View], devices: int = 1) -> Found:
    """Train on the batches as a resolved config says, with SGD and a cosine schedule."""
    f_q = first_weights(config)
    f_k = dict(f_q)
    velocity = {name: torch.zeros_like(value) for name, value in f_q.items()}
    generator = torch.Generator().manual_seed(config.seed)
    first_keys = F.normalize(torch.randn(config.queue_size, config.feature_dim, generator=generator))
    found = Found([], [(key.double(), -1) for key in first_keys], f_q, f_k)
    for number, view in enumerate(batches):
        done = step(config, f_q, f_k, found.queue, view, number, devices)
        rate = float(config.lr or 0.0) * (1 + math.cos(math.pi * number / len(batches))) / 2
        for name in f_q:
            decayed = done.gradient[name] + config.weight_decay * f_q[name]
            velocity[name] = config.sgd_momentum * velocity[name] + decayed
            f_q[name] = f_q[name] - rate * velocity[name]
            f_k[name] = config.key_momentum * f_k[name] + (1 - config.key_momentum) * f_q[name]
        for key, image in zip(done.keys, view[2], strict=True):
            found.queue.append((key, int(image)))
            found.queue.pop(0)
        found.losses.append(done.loss)
    return found


def first_weights(config: PretrainConfig) -> Weights:
    """The weights that the package draws for a seed."""
    plan = encoder_plan(config)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        drawn = {name: value.detach() for name, value in Encoder(plan).named_parameters()}
    return named(drawn, "")


def named(tensors: Weights, prefix: str) -> Weights:
    """The trained tensors below a prefix, in float64, by torchvision's names."""
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return {
        name.removeprefix("backbone."): value.double()
        for name, value in own.items()
        if name.endswith((".weight", ".bias"))
    }


def step(
    config: PretrainConfig, f_q: Weights, f_k: Weights, queue: Queue, view: View, number: int, devices: int = 1
) -> Step:
    """One step's loss and gradient on each device's share, averaged over the devices (Algorithm 1, section 3.3)."""
    x_q, x_k = view[0].double(), view[1].double()
    n, groups = len(x_q) // devices, (config.bn_groups or 0) // devices
    partner, share = list(range(len(x_q))), 1.0
    if config.blend:  # on one device
        blend = blend_views(view[0], seed=config.seed, step=number, place=0)
        x_q, partner, share = blend.views.double(), blend.partner.tolist(), blend.own

    # every device encodes its part of the shuffled keys; then each key goes back to where its query is
    order = permute(range(len(x_q)), len(x_q), seed=config.seed, stream=Stream.SHUFFLE, epoch=number)
    k: dict[int, Tensor] = {}
    for device in range(devices):
        images = [int(image) for image in order[device * n : (device + 1) * n]]
        for image, key in zip(images, on_one_device(f_k, [x_k[i] for i in images], groups), strict=True):
            k[image] = key.detach()

    # every device has the loss of its own queries; the gradients are averaged over the devices
    gradient = {name: torch.zeros_like(value) for name, value in f_q.items()}
    losses = []
    for device in range(devices):
        own = range(device * n, (device + 1) * n)
        leaves = {name: value.clone().requires_grad_() for name, value in f_q.items()}
        queries = on_one_device(leaves, [x_q[i] for i in own], groups)
        each = [
            share * info_nce(q, k[i], queue, config.temperature)
            + (1 - share) * info_nce(q, k[partner[i]], queue, config.temperature)
            for q, i in zip(queries, own, strict=True)
        ]
        loss = torch.stack(each).sum() / n
        for name, part in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            gradient[name] += part / devices
        losses.append(float(loss.detach()))
    return Step(sum(losses) / devices, gradient, [k[i] for i in range(len(x_q))])


def info_nce(q: Tensor, positive: Tensor, queue: Queue, temperature: float) -> Tensor:
    """-log( exp(q.k+ / tau) / sum over k+ and the queue of exp(q.k / tau) ) (Eq. 1)."""
    own = torch.exp((q * positive).sum() / temperature)
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
    """A ResNet of basic blocks with a 3x3 stem and one linear layer: unit vectors (arXiv:1512.03385)."""
    x = torch.relu(normalised(weights, "bn1", convolved(weights, "conv1", x, 1)))
    for stage in (1, 2, 3, 4):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in weights:
            x = basic_block(weights, f"layer{stage}.{block}", x, stride=2 if stage > 1 and block == 0 else 1)
            block += 1
    features = x.mean((2, 3))
    vectors = [weights["head.weight"] @ feature + weights["head.bias"] for feature in features]
    return [vector / torch.sqrt((vector * vector).sum()) for vector in vectors]


def basic_block(weights: Weights, name: str, x: Tensor, stride: int) -> Tensor:
    """Two convolutions of 3x3, and around them what came in; its own convolution of 1x1 where the shape changes."""
    y = torch.relu(normalised(weights, f"{name}.bn1", convolved(weights, f"{name}.conv1", x, stride)))
    y = normalised(weights, f"{name}.bn2", convolved(weights, f"{name}.conv2", y, 1))
    if stride == 2:
        x = normalised(weights, f"{name}.downsample.1", convolved(weights, f"{name}.downsample.0", x, 2))
    return torch.relu(x + y)


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
