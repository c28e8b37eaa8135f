"""A linear classifier trained by SGD: its initial weights, momentum and schedule."""

import torch
from torch import Tensor, nn

MOMENTUM = 0.9
MILESTONES = (0.6, 0.8)
"""The rate is multiplied by 0.1 after these shares of the training: epochs 60 and 80 of 100 in the papers."""
FIRST_WEIGHTS = 0.01
"""Standard deviation of the weights at the start, as in the authors' code; biases are 0."""


def first_weights(width: int, classes: int, seed: int) -> Tensor:
    """Return the weights (C, K) that a classifier starts from: a pure function of the seed."""
    return FIRST_WEIGHTS * torch.randn(width, classes, generator=torch.Generator().manual_seed(seed))


def new_classifier(width: int, classes: int, seed: int) -> nn.Linear:
    """Return a linear layer with these first weights, and biases of 0."""
    fc = nn.Linear(width, classes)
    with torch.no_grad():
        fc.weight.copy_(first_weights(width, classes, seed).T)
        fc.bias.zero_()
    return fc
