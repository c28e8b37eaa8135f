"""Slow, readable NumPy float64 oracles of the equations the package implements, written without looking at it.

Every function is plain loops over tiny inputs; nothing here may import torch or the package under test.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Entry = tuple[Array, int, int]
Counter = tuple[int, int, int, int]
Key = tuple[int, int]


def _dot(a: Array, b: Array) -> float:
    """Return the inner product of two vectors, correctly rounded over its products."""
    return math.fsum((a * b).tolist())


def _normalise(vector: Array) -> Array:
    """Return vector / ||vector||_2."""
    norm = math.sqrt(_dot(vector, vector))
    return np.array([float(x) / norm for x in vector], dtype=np.float64)


def _log_sum_exp(values: Sequence[float]) -> float:
    """Return log(sum(exp(values))), shifted by the largest value so that nothing overflows."""
    largest = max(values)
    return largest + math.log(math.fsum(math.exp(value - largest) for value in values))


# --- the contrastive loss -------------------------------------------------------------------------------------------


def info_nce(
    q: Array,
    positive: Array,
    negative: Array,
    temperature: float,
    mask: BoolArray | None = None,
    extra: Array | None = None,
) -> tuple[float, float]:
    """Return the InfoNCE loss (arXiv:1911.05722, Eq. 1), mean over queries, and the contrast accuracy in percent.

    Shapes: q and positive (N, C), negative (K, C), mask (N, K) where True excludes, extra (N, S, C) or None.
    """
    q, positive, negative = (np.asarray(x, dtype=np.float64) for x in (q, positive, negative))
    losses: list[float] = []
    correct = 0
    for n in range(len(q)):
        positive_logit = _dot(q[n], positive[n]) / temperature
        negative_logits: list[float] = []
        for i in range(len(negative)):
            if mask is None or not mask[n, i]:
                negative_logits.append(_dot(q[n], negative[i]) / temperature)
        if extra is not None:
            for s in range(extra.shape[1]):
                negative_logits.append(_dot(q[n], extra[n, s]) / temperature)
        losses.append(_log_sum_exp([positive_logit, *negative_logits]) - positive_logit)
        if all(positive_logit > logit for logit in negative_logits):
            correct += 1
    return math.fsum(losses) / len(q), 100.0 * correct / len(q)


# --- the dictionaries -----------------------------------------------------------------------------------------------


class FifoQueue:
    """The dictionary as a queue (arXiv:1911.05722, Sec. 3.2): a list of (key, sample_index, step_written)."""

    def __init__(self, keys: Array) -> None:
        """Start full, with K given keys that belong to no sample (-1) and were never written (-1)."""
        self.size = len(keys)
        self.entries: list[Entry] = [(np.array(key, dtype=np.float64), -1, -1) for key in keys]

    def write(self, keys: Array, indices: Sequence[int] | IntArray, step: int) -> None:
        """Enqueue each key in order and dequeue the oldest, so that the length stays K (Sec. 3.2)."""
        for key, index in zip(keys, indices, strict=True):
            self.entries.append((np.array(key, dtype=np.float64), int(index), step))
            self.entries.pop(0)

    def snapshot(self) -> list[Entry]:
        """Return the entries, oldest first, as copies (Sec. 3.2)."""
        return [(key.copy(), index, written) for key, index, written in self.entries]

    def ages(self, step: int) -> list[int]:
        """Return step - step_written of every entry, oldest first, and -1 for entries never written."""
        return [-1 if written == -1 else step - written for _, _, written in self.entries]

    def own(self, indices: Sequence[int] | IntArray) -> BoolArray:
        """Return the (N, K) matrix that is True where an entry's sample index equals the query's index."""
        result = np.zeros((len(indices), self.size), dtype=np.bool_)
        for n, wanted in enumerate(indices):
            for i, (_, index, _) in enumerate(self.entries):
                result[n, i] = index == int(wanted)
        return result


class Bank:
    """The memory bank of InstDisc (arXiv:1805.01978, Sec. 3): one stored feature per training sample."""

    def __init__(self, features: Array, momentum: float) -> None:
        """Start from one given feature per sample, stored as it is."""
        self.momentum = momentum
        self.features: list[Array] = [np.array(feature, dtype=np.float64) for feature in features]

    def write(self, q: Array, indices: Sequence[int] | IntArray) -> None:
        """Set entry <- normalise(momentum * old + (1 - momentum) * q), one sample after the other."""
        for new, index in zip(q, indices, strict=True):
            old = self.features[int(index)]
            mixed = [self.momentum * float(o) + (1.0 - self.momentum) * float(x) for o, x in zip(old, new, strict=True)]
            self.features[int(index)] = _normalise(np.array(mixed, dtype=np.float64))

    def read(self, indices: Sequence[int] | IntArray) -> Array:
        """Return the entries of the given samples, in the given order, as an (N, C) copy."""
        return np.array([self.features[int(index)] for index in indices], dtype=np.float64)


def momentum_update(theta_k: list[Array], theta_q: list[Array], m: float) -> list[Array]:
    """Return theta_k <- m * theta_k + (1 - m) * theta_q (arXiv:1911.05722, Eq. 2), parameter by parameter."""
    result: list[Array] = []
    for old, new in zip(theta_k, theta_q, strict=True):
        if old.shape != new.shape:
            raise ValueError(f"shapes differ: {old.shape} and {new.shape}")
        updated = np.zeros(old.shape, dtype=np.float64)
        for position in np.ndindex(*old.shape):
            updated[position] = m * float(old[position]) + (1.0 - m) * float(new[position])
        result.append(updated)
    return result


# --- batch normalisation per group ----------------------------------------------------------------------------------


def _blocks(batch: int, groups: int) -> list[range]:
    """Return the row ranges of the contiguous equal blocks that stand for separate devices (Sec. 3.3)."""
    if batch % groups != 0:
        raise ValueError(f"a batch of {batch} does not divide into {groups} groups")
    size = batch // groups
    return [range(g * size, (g + 1) * size) for g in range(groups)]


def _positions(block: range, channel: int, x: Array) -> Iterator[tuple[int, int, int, int]]:
    """Yield every (n, channel, h, w) of one block and one channel."""
    for n in block:
        for h in range(x.shape[2]):
            for w in range(x.shape[3]):
                yield n, channel, h, w


def _moments(x: Array, block: range, channel: int) -> tuple[float, float, int]:
    """Return the mean, the biased variance and the count n over (block, H, W) of one channel."""
    values = [float(x[position]) for position in _positions(block, channel, x)]
    mean = math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / len(values)
    return mean, variance, len(values)


def grouped_batch_norm(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
    """Return (x - mean) / sqrt(var + eps) * weight + bias, each block by its own statistics (Sec. 3.3)."""
    result = np.zeros(x.shape, dtype=np.float64)
    for block in _blocks(x.shape[0], groups):
        for c in range(x.shape[1]):
            mean, variance, _ = _moments(x, block, c)
            deviation = math.sqrt(variance + eps)
            for position in _positions(block, c, x):
                result[position] = (float(x[position]) - mean) / deviation * float(weight[c]) + float(bias[c])
    return result


def grouped_running_statistics(
    x: Array, running_mean: Array, running_var: Array, groups: int, momentum: float
) -> tuple[Array, Array]:
    """Return the mean over blocks of running <- (1 - momentum) * running + momentum * stat, variance unbiased."""
    blocks = _blocks(x.shape[0], groups)
    new_mean = np.zeros(running_mean.shape, dtype=np.float64)
    new_var = np.zeros(running_var.shape, dtype=np.float64)
    for c in range(x.shape[1]):
        means: list[float] = []
        variances: list[float] = []
        for block in blocks:
            mean, variance, n = _moments(x, block, c)
            unbiased = variance * n / (n - 1)
            means.append((1.0 - momentum) * float(running_mean[c]) + momentum * mean)
            variances.append((1.0 - momentum) * float(running_var[c]) + momentum * unbiased)
        new_mean[c] = math.fsum(means) / groups
        new_var[c] = math.fsum(variances) / groups
    return new_mean, new_var


def grouped_batch_norm_backward(
    x: Array, weight: Array, grad_output: Array, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """Return grad_x = weight / (n s) * (n g - sum(g) - x_hat sum(g x_hat)) per block, grad_weight and grad_bias.

    Here s = sqrt(var + eps), x_hat = (x - mean) / s and g = grad_output (arXiv:1502.03167, Sec. 3).
    """
    grad_x = np.zeros(x.shape, dtype=np.float64)
    grad_weight = np.zeros(weight.shape, dtype=np.float64)
    grad_bias = np.zeros(weight.shape, dtype=np.float64)
    for block in _blocks(x.shape[0], groups):
        for c in range(x.shape[1]):
            mean, variance, n = _moments(x, block, c)
            deviation = math.sqrt(variance + eps)
            places = list(_positions(block, c, x))
            normalised = [(float(x[place]) - mean) / deviation for place in places]
            gradients = [float(grad_output[place]) for place in places]
            sum_g = math.fsum(gradients)
            sum_gx = math.fsum(g * x_hat for g, x_hat in zip(gradients, normalised, strict=True))
            for place, g, x_hat in zip(places, gradients, normalised, strict=True):
                grad_x[place] = float(weight[c]) / (n * deviation) * (n * g - sum_g - x_hat * sum_gx)
            grad_weight[c] += sum_gx
            grad_bias[c] += sum_g
    return grad_x, grad_weight, grad_bias


# --- evaluation -----------------------------------------------------------------------------------------------------


def weighted_knn(
    train: Array,
    train_labels: IntArray,
    test: Array,
    test_labels: IntArray,
    k: int,
    temperature: float,
    classes: int,
) -> tuple[float, float]:
    """Return top-1 and top-5 of the k nearest training features voting exp(cosine / t) (arXiv:1805.01978, Sec. 3.4).

    Equally similar neighbours rank by lower training index, equal votes by lower class id; a class that no neighbour
    has is no answer. Accuracies are in percent.
    """
    train_units = [_normalise(feature) for feature in train]
    top1 = 0
    top5 = 0
    for feature, label in zip(test, test_labels, strict=True):
        unit = _normalise(feature)
        similarities = [_dot(unit, other) for other in train_units]
        neighbours = sorted(range(len(train_units)), key=lambda i: (-similarities[i], i))[:k]
        ballots: list[list[float]] = [[] for _ in range(classes)]
        for i in neighbours:
            ballots[int(train_labels[i])].append(math.exp(similarities[i] / temperature))
        votes = [math.fsum(ballot) for ballot in ballots]
        ranking = sorted(range(classes), key=lambda c: (-votes[c], c))
        top1 += int(label) == ranking[0]
        top5 += int(label) in [c for c in ranking[:5] if ballots[c]]
    return 100.0 * top1 / len(test), 100.0 * top5 / len(test)


def alignment(z1: Array, z2: Array) -> float:
    """Return the mean over pairs of ||z1_i - z2_i||^2 (arXiv:2005.10242, alignment with alpha = 2)."""
    distances = [_dot(a - b, a - b) for a, b in zip(z1, z2, strict=True)]
    return math.fsum(distances) / len(distances)


def uniformity(z: Array, t: float = 2.0) -> float:
    """Return log of the mean over unordered distinct pairs of exp(-t ||z_i - z_j||^2) (arXiv:2005.10242)."""
    exponents: list[float] = []
    for i in range(len(z)):
        for j in range(i + 1, len(z)):
            exponents.append(-t * _dot(z[i] - z[j], z[i] - z[j]))
    return _log_sum_exp(exponents) - math.log(len(exponents))


# --- schedules ------------------------------------------------------------------------------------------------------


def cosine_lr(step: int, total_steps: int, base: float) -> float:
    """Return base / 2 * (1 + cos(pi * step / total_steps)) (arXiv:2003.04297, cosine schedule)."""
    return base / 2.0 * (1.0 + math.cos(math.pi * step / total_steps))


def step_lr(step: int, total_steps: int, base: float, milestones: Sequence[float], gamma: float) -> float:
    """Return base * gamma^p with p the number of milestones for which step >= milestone * total_steps."""
    rate = base
    for milestone in milestones:
        if step >= milestone * total_steps:
            rate *= gamma
    return rate


def warmup(step: int, warmup_steps: int, lr: float) -> float:
    """Return lr * (step + 1) / warmup_steps while step < warmup_steps, and lr from then on."""
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    return lr


# --- counter-based random numbers -----------------------------------------------------------------------------------

PHILOX_KNOWN_ANSWERS: tuple[tuple[Counter, Key, Counter], ...] = (
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
)
"""Published answers of Philox4x32-10 as (counter, key, output)."""


def philox4x32(counter: Counter, key: Key, rounds: int = 10) -> Counter:
    """Return Philox4x32-rounds of a counter and a key of 32-bit words (Salmon et al., SC 2011)."""
    word = 0xFFFFFFFF
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        product0 = 0xD2511F53 * c0
        product1 = 0xCD9E8D57 * c2
        high0, low0 = product0 >> 32, product0 & word
        high1, low1 = product1 >> 32, product1 & word
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + 0x9E3779B9) & word
        k1 = (k1 + 0xBB67AE85) & word
    return c0, c1, c2, c3


# --- the backbone ---------------------------------------------------------------------------------------------------


def _conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> int:
    """Return the number of weights of a square convolution without bias."""
    return inputs // groups * outputs * kernel * kernel


def resnet_parameters(
    blocks: tuple[int, int, int, int],
    bottleneck: bool,
    width: int = 64,
    groups: int = 1,
    width_per_group: int = 64,
    small_stem: bool = False,
) -> int:
    """Return the number of trainable parameters of a ResNet without classifier (arXiv:1512.03385, Table 1)."""
    if not bottleneck and (groups != 1 or width_per_group != 64):
        raise ValueError("a basic block has neither groups nor a width per group")
    batch_norm = 2  # parameters per channel: weight and bias
    total = _conv(3, width, 3 if small_stem else 7) + batch_norm * width
    inputs = width
    for stage in range(4):
        planes = width * 2**stage
        outputs = 4 * planes if bottleneck else planes
        for block in range(blocks[stage]):
            if bottleneck:
                inner = int(planes * width_per_group / 64) * groups
                total += _conv(inputs, inner, 1) + batch_norm * inner
                total += _conv(inner, inner, 3, groups) + batch_norm * inner
                total += _conv(inner, outputs, 1) + batch_norm * outputs
            else:
                total += _conv(inputs, planes, 3) + batch_norm * planes
                total += _conv(planes, planes, 3) + batch_norm * planes
            stride = 2 if stage > 0 and block == 0 else 1
            if stride != 1 or inputs != outputs:
                total += _conv(inputs, outputs, 1) + batch_norm * outputs
            inputs = outputs
    return total


# --- images ---------------------------------------------------------------------------------------------------------


def linear_resample_matrix(start: int, length: int, in_size: int, out_size: int) -> Array:
    """Return the (out_size, in_size) antialiased triangle-filter weights that resize [start, start + length).

    Row i weighs window pixel j by max(0, 1 - |j - centre + 0.5| / max(scale, 1)), normalised to sum 1, where
    scale = length / out_size and centre = scale * (i + 0.5); pixels outside the window have weight 0.
    """
    if start < 0 or length < 1 or start + length > in_size:
        raise ValueError(f"the window [{start}, {start + length}) is not inside a line of {in_size} pixels")
    result = np.zeros((out_size, in_size), dtype=np.float64)
    scale = length / out_size
    support = max(scale, 1.0)
    for i in range(out_size):
        centre = scale * (i + 0.5)
        weights = [max(0.0, 1.0 - abs(j - centre + 0.5) / support) for j in range(length)]
        total = math.fsum(weights)
        for j in range(length):
            result[i, start + j] = weights[j] / total
    return result
