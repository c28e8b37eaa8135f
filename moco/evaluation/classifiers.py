"""Linear classifiers on features, for many learning rates in one pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from moco.data.images import Labels
from moco.runtime.progress import shown
from moco.runtime.randomness import Stream, permuted, uniforms
from moco.runtime.schedule import Schedule
from moco.shapes import Features

MOMENTUM = 0.9
MILESTONES = (0.6, 0.8)
"""The rate is multiplied by 0.1 after these shares of the training: epochs 60 and 80 of 100 in the papers."""
FIRST_WEIGHTS = 0.01
"""Standard deviation of the weights at the start, as in the authors' code; biases are 0."""
ROWS_AT_A_TIME = 4096

ViewFeatures = Float[Tensor, "v n c"]
"""Features of v views of each of n images."""


@dataclass(frozen=True)
class Training:
    """How linear classifiers are trained: SGD with momentum 0.9, without weight decay."""

    rates: Sequence[float]
    epochs: int = 100
    batch_size: int = 256
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class Classifiers:
    """R classifiers of K classes on C features: weight (C, R K) and bias (R K)."""

    weight: Tensor
    bias: Tensor
    classes: int

    def logits(self, features: Features, number: int = 0) -> Tensor:
        """(N, K): what one of them says."""
        columns = slice(number * self.classes, (number + 1) * self.classes)
        return features @ self.weight[:, columns] + self.bias[columns]

    def accuracies(self, features: Features, labels: Labels) -> list[float]:
        """Top-1 of each in percent; of equal logits the lower class counts, and one that diverged is never right."""
        truth, hits = torch.from_numpy(labels), torch.zeros(len(self.bias) // self.classes, dtype=torch.int64)
        for part, own in zip(torch.split(features, ROWS_AT_A_TIME), torch.split(truth, ROWS_AT_A_TIME), strict=True):
            logits = (part @ self.weight + self.bias).view(len(part), -1, self.classes)
            hits += ((logits.argmax(2) == own[:, None]) & logits.isfinite().all(2)).sum(0)
        return [round(100 * count / len(labels), 3) for count in hits.tolist()]


def first_weights(width: int, classes: int, seed: int) -> Tensor:
    """The weights (C, K) that a classifier starts from: a pure function of the seed."""
    return FIRST_WEIGHTS * torch.randn(width, classes, generator=torch.Generator().manual_seed(seed))


def new_classifier(width: int, classes: int, seed: int) -> nn.Linear:
    """A linear layer with these first weights, and biases of 0."""
    fc = nn.Linear(width, classes)
    with torch.no_grad():
        fc.weight.copy_(first_weights(width, classes, seed).T)
        fc.bias.zero_()
    return fc


def train_classifiers(
    features: ViewFeatures,
    labels: Labels,
    classes: int,
    how: Training,
    rows: Labels | None = None,
    title: str | None = None,
) -> Classifiers:
    """Train one classifier for each rate on the same batches: softmax cross-entropy of one random view of each image.

    features are those of all images, labels theirs; `rows` are the images to train on. All weights lie side by side
    in one matrix, so a step is two matrix products whatever the number of rates; the gradient is p - y, by hand.
    """
    rows = np.arange(features.shape[1]) if rows is None else rows
    batch_size = min(how.batch_size, len(rows))
    schedule = Schedule("step", 1.0, how.epochs * (len(rows) // batch_size), milestones=MILESTONES)
    truth = torch.from_numpy(labels)

    weight = first_weights(features.shape[2], classes, how.seed).repeat(1, len(how.rates)).to(how.device)  # (C, R K)
    bias = torch.zeros(weight.shape[1], device=how.device)
    weight_step, bias_step = torch.zeros_like(weight), torch.zeros_like(bias)
    rates = torch.tensor(list(how.rates), device=how.device).repeat_interleave(classes)  # (R K)
    step = 0
    for epoch in shown(range(how.epochs), title, how.epochs):
        for view, row in _batches(rows, batch_size, features.shape[0], how.seed, epoch):
            x, y = features[view, row].to(how.device), truth[row].to(how.device)  # (N, C), (N)
            p = (x @ weight + bias).view(len(x), -1, classes).softmax(2)  # (N, R, K)
            p[torch.arange(len(x), device=p.device), :, y] -= 1
            p = p.view(len(x), -1) / len(x)
            weight_step.mul_(MOMENTUM).addmm_(x.T, p)
            bias_step.mul_(MOMENTUM).add_(p.sum(0))
            rate = rates * schedule(step)
            weight.addcmul_(weight_step, rate, value=-1)
            bias.addcmul_(bias_step, rate, value=-1)
            step += 1
    return Classifiers(weight.cpu(), bias.cpu(), classes)


def _batches(rows: Labels, batch_size: int, views: int, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The images of each batch of an epoch, in random order, and which view of each; an incomplete one is left out."""
    order = rows[permuted(range(len(rows)), len(rows), seed=seed, stream=Stream.ORDER, epoch=epoch)]
    drawn = uniforms(1, seed=seed, stream=Stream.VIEW_KEY, epoch=epoch, index=order)[:, 0]
    view = np.minimum((drawn * views).astype(np.int64), views - 1)
    for first in range(0, len(rows) - batch_size + 1, batch_size):
        part = slice(first, first + batch_size)
        yield torch.from_numpy(view[part]), torch.from_numpy(order[part])
