"""Judges features by images that their whitening was not fitted to: kNN accuracy over folds of a bank."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.maps import count_numbers
from moco.data.images import Labels
from moco.evaluation.feature_whitening import Whitening, choose_whitening, fit_again
from moco.evaluation.knn import count_votes, nearest
from moco.shapes import Bank, Features

FOLDS, FOLDS_OF_FEW = 4, 10
"""Parts of a bank, and of one of fewer than FEW images: the others vote, and where there are few, each one counts."""
FEW = 1000
NEIGHBOURS = (5, 10, 20, 50, 100, 200)
"""Numbers of neighbours that are tried. The nearest ones are often other pictures of the same thing: fewer judge too
kindly."""


@dataclass(frozen=True)
class Vote:
    """How neighbours vote: a bank's labels, and the weight exp(similarity / temperature) of each."""

    labels: Labels
    """(B,), with 0 <= label < classes."""
    classes: int
    temperature: float
    device: str = "cpu"


def classify_by_folds(
    bank: Bank, queries: Features, query_labels: Labels, vote: Vote, grids: Sequence[int] = (1,)
) -> Tensor:
    """Say which images are classified rightly by features as a run would end with them, those of the bank first.

    The bank (B, C) chooses a whitening (`choose_whitening`), with several `grids` also the one over which the features
    of bank and queries (N, C) are averages. Images of the bank are then classified by folds (`number_folds`): the same
    whitening is fitted to the others, and these vote. Queries are classified by the whole bank. The number of
    neighbours with which most images of the bank are right is taken for both. Returns (B + N,) bool.
    """
    found = choose_whitening(bank, vote.labels, vote.classes, temperature=vote.temperature, grids=grids)
    plain = bank.shape[1] // count_numbers(1, grids)
    fold = number_folds(vote.labels)
    tries = [k for k in NEIGHBOURS if k <= len(bank) - np.bincount(fold).max()] or [1]
    right = torch.zeros(len(tries), len(bank), dtype=torch.bool)
    for number in range(fold.max() + 1 if len(bank) > 1 else 0):
        own, others = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        again = fit_again(found, bank[others])
        known, asked = (_whiten(again, bank[rows], plain) for rows in (others, own))
        right[:, own] = _count(known, vote.labels[others], asked, vote.labels[own], vote, tries)
    best = max(range(len(tries)), key=lambda place: int(right[place].sum()))
    known, asked = (_whiten(found, z, plain) for z in (bank, queries))
    return torch.cat([right[best], _count(known, vote.labels, asked, query_labels, vote, tries[best : best + 1])[0]])


def number_folds(labels: Labels) -> npt.NDArray[np.int64]:
    """Give each image the number of its fold, (B,): class by class the images take turns."""
    folds = FOLDS_OF_FEW if len(labels) < FEW else FOLDS
    numbers = np.empty(len(labels), dtype=np.int64)
    numbers[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % folds
    return numbers


def _whiten(whitening: Whitening | None, features: Features, plain: int) -> Features:
    return F.normalize((features[:, :plain] if whitening is None else whitening(features)).float())


def _count(bank: Bank, labels: Labels, queries: Features, truth: Labels, vote: Vote, tries: Sequence[int]) -> Tensor:
    """Say for each number of neighbours which queries (N, C) the bank (B, C) classifies rightly, (tries, N) bool."""
    similarity, neighbour = nearest(queries.to(vote.device), bank, max(tries))
    label = torch.from_numpy(labels).to(vote.device)[neighbour]
    votes = (
        count_votes(similarity[:, :k], label[:, :k], temperature=vote.temperature, classes=vote.classes) for k in tries
    )
    return torch.stack([own.argmax(1).cpu() == torch.from_numpy(truth) for own in votes])
