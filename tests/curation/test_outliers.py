"""Planted faults are found and named, and votes equal plain loops."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from moco.curation import outliers
from moco.curation.facts import Facts, measure_image
from moco.curation.neighbours import find_others
from moco.curation.outliers import deviations, expect_labels, rank_outliers, suspect_labels
from moco.data.images import Labels


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
    assert [one.reasons for one in ranked[-10:]] == [
        ("nothing unusual",)
    ] * 10  # nearer to the others than half of them


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


def labelled_crowds(count: int = 10) -> tuple[torch.Tensor, Labels]:
    """Two classes, one swapped label and one image without."""
    labels = np.array([0] * count + [1] * count)
    labels[2], labels[5] = 1, -1
    return torch.cat([crowd(count), crowd(count).roll(3, 1)]), labels


def test_labels_by_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a classifier would take long the neighbours vote with exp(similarity / 0.1), those without label do not."""
    z, labels = labelled_crowds()
    similarity, rows = find_others(z, 4)
    monkeypatch.setattr(outliers, "MOST_PRODUCTS", 0)
    found = suspect_labels(similarity, rows, labels, 2, expect_labels(z, similarity, rows, labels, 2))
    assert [(one.row, one.label, one.expected, one.by_neighbours) for one in found[:1]] == [(2, 1, 0, 0)]
    votes = [0.0, 0.0]
    for value, row in zip(similarity[2].tolist(), rows[2].tolist(), strict=True):
        if labels[row] >= 0:
            votes[labels[row]] += math.exp((value - 1) / 0.1)
    assert math.isclose(found[0].share, votes[0] / sum(votes), rel_tol=1e-4)
    assert 5 not in {one.row for one in found}


def test_a_classifier_that_did_not_see_the_label() -> None:
    """Its probabilities are scikit-learn's on the other four fifths, and the swapped label is the least expected."""
    z, labels = labelled_crowds(20)
    similarity, rows = find_others(z, 4)
    expected = expect_labels(z, similarity, rows, labels, 2)
    found = suspect_labels(similarity, rows, labels, 2, expected)
    assert (found[0].row, found[0].label, found[0].expected) == (2, 1, 0)
    assert all(labels[one.row] >= 0 for one in found)
    known = np.flatnonzero(labels >= 0)
    fold = np.random.default_rng(0).permutation(len(known)) % 5
    for number in range(5):
        train, left_out = known[fold != number], known[fold == number]
        model = LogisticRegression(C=2 / (0.01 * len(train)), max_iter=1000, tol=1e-8)  # one weight for two classes
        raw = z.numpy().astype(np.float64)
        deviation = raw[train].std(0)
        scale = np.sqrt(deviation * deviation.mean())
        model.fit((raw[train] - raw[train].mean(0)) / scale, labels[train])
        theirs = model.predict_proba((raw[left_out] - raw[train].mean(0)) / scale)
        assert np.allclose(expected[torch.from_numpy(left_out)].numpy(), theirs, atol=2e-3)


def test_small_groups_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gap of an image is the distance to the nearest one outside its group, and no block is larger than said."""
    z, groups = crowd(60), np.repeat(np.arange(30), 2)
    distance = np.random.default_rng(0).random(60)
    monkeypatch.setattr(outliers, "SIMILARITIES_AT_A_TIME", 60)
    found = outliers._isolation(z, groups, distance)
    expected = [1 - max(float(z[row] @ z[other]) for other in range(60) if groups[other] != groups[row])
                for row in range(60)]  # fmt: skip
    middle = np.median(distance)
    spread = 1.4826 * np.median(np.abs(distance - middle))
    assert np.allclose(found, (np.array(expected) - middle) / spread, atol=1e-4)


def test_a_group_of_more_than_a_thousand_is_not_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever share of a large set it is."""
    monkeypatch.setattr(outliers, "LARGEST_SMALL_GROUP", 4)
    groups = np.zeros(1000, np.int64)
    groups[:4], groups[4:9] = 1, 2
    gaps = outliers._isolation(crowd(1000), groups, np.random.default_rng(0).random(1000))
    assert not gaps[4:].any()
    assert gaps[:4].all()
