"""Planted faults are found and named, and votes equal plain loops."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from moco.curation.facts import Facts, measure_image
from moco.curation.neighbours import find_others
from moco.curation.outliers import deviations, rank_outliers, suspect_labels


def photographs(count: int) -> list[torch.Tensor]:
    """Coloured noise of 16 pixels."""
    random = torch.Generator().manual_seed(0)
    return [torch.randint(60, 200, (3, 16, 16), dtype=torch.uint8, generator=random) for _ in range(count)]


def crowd(count: int) -> torch.Tensor:
    """Features near one direction."""
    random = torch.Generator().manual_seed(1)
    return F.normalize(torch.eye(8)[:1] + 0.1 * torch.randn(count, 8, generator=random))


def test_every_reason_is_named() -> None:
    """Each planted image stands among the first, with its reason."""
    images, z = photographs(60), crowd(60)
    images[0] = torch.full((3, 16, 16), 128, dtype=torch.uint8)
    images[1] = images[1][:, :3, :3]
    images[2] = images[2][:1].expand(3, -1, -1).clone()
    images[3] = F.avg_pool2d(images[3].float(), 7, 1, 3).to(torch.uint8)
    z[4] = torch.eye(8)[7]
    facts = Facts.stack([measure_image(image, b"") for image in images])
    clusters = np.zeros(60, np.int64)
    z[5:7] = F.normalize(torch.eye(8)[6:7] + 0.01 * torch.eye(8)[:2])
    clusters[5:7] = 1
    ranked = rank_outliers(z, find_others(z, 1)[0], clusters, facts)
    reasons = {one.row: one.reasons for one in ranked}
    assert sorted(one.row for one in ranked) == list(range(60))
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    assert {one.row for one in ranked[:7]} == set(range(7))
    for row, word in {0: "constant", 1: "tiny", 2: "grey", 3: "blurred", 4: "far", 5: "group", 6: "group"}.items():
        assert any(word in reason for reason in reasons[row]), (row, reasons[row])


def test_a_set_of_grey_images_is_not_unusual() -> None:
    """Grey is a reason where it is rare; one in colour is then the exception."""
    images = [image[:1].expand(3, -1, -1).clone() for image in photographs(40)]
    images[7] = photographs(1)[0]
    facts = Facts.stack([measure_image(image, b"") for image in images])
    ranked = rank_outliers(crowd(40), find_others(crowd(40), 3)[0], np.zeros(40, np.int64), facts)
    said = {one.row for one in ranked if any("colour" in reason for reason in one.reasons)}
    assert said == {7}


def test_deviations() -> None:
    """Outliers do not move the scale: MAD times 1.4826."""
    assert np.allclose(deviations(np.array([1.0, 2, 3, 4, 1000])), (np.array([1.0, 2, 3, 4, 1000]) - 3) / 1.4826)
    assert not deviations(np.ones(4)).any()


def test_labels_by_loops() -> None:
    """Two classes, one swapped label and one image without; votes are exp(similarity / 0.1)."""
    z = torch.cat([crowd(10), crowd(10).roll(3, 1)])
    labels = np.array([0] * 10 + [1] * 10)
    labels[2], labels[5] = 1, -1
    similarity, rows = find_others(z, 4)
    found = suspect_labels(similarity, rows, labels, 2)
    assert [(one.row, one.label, one.by_neighbours) for one in found[:1]] == [(2, 1, 0)]
    votes = [0.0, 0.0]
    for value, row in zip(similarity[2].tolist(), rows[2].tolist(), strict=True):
        if labels[row] >= 0:
            votes[labels[row]] += math.exp((value - 1) / 0.1)
    assert math.isclose(found[0].share, votes[0] / sum(votes), rel_tol=1e-4)
    assert 5 not in {one.row for one in found}
