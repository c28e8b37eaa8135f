"""Monitors that compare two encoders image by image, with labels and without."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.encoder import Encoder
from moco.data.images import Images, Labels
from moco.evaluation.alignment import align_uniform, find_own_views
from moco.evaluation.feature_whitening import choose_whitening
from moco.evaluation.features import Encoding, encode
from moco.evaluation.knn import QUERIES_IN_FLIGHT, choose_k, count_votes, knn_votes, nearest_others
from moco.evaluation.scores import score_votes
from moco.evaluation.session import labels_of
from moco.shapes import Bank, Features

NEIGHBOURS = 20
"""Neighbours that vote on an image: as many as in the figures of docs, and fewer than most classes have."""


@dataclass
class KnnJudge:
    """The figures of a kNN monitor, and which images of bank and queries are classified rightly.

    A monitor's own queries are too few to choose by: a tenth of 1,500 images has a standard error of 3 points. Images
    of the bank are therefore asked too, each against the others.
    """

    bank: Images
    queries: Images
    how: Encoding
    k: int | None
    """Neighbours that vote in the figures; None: chosen by leave-one-out."""
    temperature: float
    name_figures: Callable[[Mapping[str, float], int], dict[str, float]]
    """Turns the accuracies, and the k by which they were found, into the figures that a monitor logs."""
    whitens: bool = False
    """Whether the run ends by whitening its features: then encoders are judged with whitened ones."""
    right: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    """Which images the encoder of the last look had right, (bank + queries,)."""
    by: str = "neighbours"

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Encode all images, remember which are classified rightly, and return the figures."""
        how, classes, device = dataclasses.replace(self.how, unit=False), len(self.bank.classes), _device(encoder)
        features = [encode(encoder, images, how) for images in (self.bank, self.queries)]
        labels = labels_of(self.bank), labels_of(self.queries)
        common: dict[str, Any] = {"temperature": self.temperature, "classes": classes, "device": device}
        bank, queries = (F.normalize(z) for z in features)
        if self.whitens:
            self.right = classify_whitened(features[0], labels[0], features[1], labels[1], **common)
        else:
            self.right = classify_by_neighbours(bank, labels[0], queries, labels[1], k=NEIGHBOURS, **common)
        k = self.k
        if k is None:
            k = choose_k(bank, labels[0], temperature=self.temperature, classes=classes, device=device)
        votes = knn_votes(bank, labels[0], queries, k=k, temperature=self.temperature, classes=classes, device=device)
        return self.name_figures(score_votes(votes, labels[1]).figures, k)


@dataclass
class ViewJudge:
    """Alignment and uniformity of images without labels, and which of them find their own second view.

    That goes with kNN accuracy within a run, unless a teacher makes the keys, and not between runs
    (docs/label-free.md).
    """

    pairs: Callable[[], tuple[Images, Images]]
    """Two views of each image as the run draws them."""
    mild: Callable[[], tuple[Images, Images]]
    """Two large crops of each image with little colour change."""
    how: Encoding
    right: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))
    """Which images the encoder of the last look had right, (n,)."""
    by: str = "views"

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Encode the views, remember which images find their own, and return the figures."""
        how = dataclasses.replace(self.how, unit=True)
        z_1, z_2 = (encode(encoder, one, how) for one in self.mild())
        self.right = find_own_views(z_1, z_2).cpu()
        found = {"retrieval": round(100 * float(self.right.float().mean()), 3), "retrieval_images": float(len(z_1))}
        return {**align_uniform(encoder, self.pairs(), self.how), **found}


def classify_by_neighbours(
    bank: Bank, bank_labels: Labels, queries: Features, query_labels: Labels, *, k: int, temperature: float,
    classes: int, device: str = "cpu",
) -> Tensor:  # fmt: skip
    """Tell if the k most similar others of the bank vote for each image's class: (B + N,) bool, the bank's first.

    An image of the bank has no vote on itself (leave-one-out), and queries have none at all. bank is (B, C) and queries
    (N, C), all of unit length.
    """
    labels, votes = torch.from_numpy(bank_labels).to(device), []
    for start in range(0, len(bank), QUERIES_IN_FLIGHT):
        rows = torch.arange(start, min(start + QUERIES_IN_FLIGHT, len(bank)), device=device)
        similarity, neighbour = nearest_others(bank, rows, k)
        votes.append(count_votes(similarity, labels[neighbour], temperature=temperature, classes=classes).cpu())
    votes.append(knn_votes(bank, bank_labels, queries, k=k, temperature=temperature, classes=classes, device=device))
    truth = np.concatenate([bank_labels, query_labels])
    return torch.from_numpy(score_votes(torch.cat(votes), truth).predicted == truth)


def classify_whitened(
    bank: Bank, bank_labels: Labels, queries: Features, query_labels: Labels, *, temperature: float, classes: int,
    device: str = "cpu",
) -> Tensor:  # fmt: skip
    """Do as `classify_by_neighbours` with features whitened where that pays, of any length.

    The bank (B, C) chooses the whitening and k.
    """
    found = choose_whitening(bank, bank_labels, classes, temperature=temperature)
    bank, queries = (F.normalize(z if found is None else found(z)) for z in (bank, queries))
    common: dict[str, Any] = {"temperature": temperature, "classes": classes, "device": device}
    k = choose_k(bank, bank_labels, **common)
    return classify_by_neighbours(bank, bank_labels, queries, query_labels, k=k, **common)


def _device(encoder: Encoder) -> str:
    return str(next(encoder.parameters()).device)
