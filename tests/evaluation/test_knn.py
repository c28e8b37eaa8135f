"""Weighted kNN counts as the oracle does, and says what is missing where it cannot."""

import dataclasses
import resource
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from moco.core.encoder import Encoder, EncoderPlan, Output
from moco.data.catalog import load
from moco.data.derived import Subset
from moco.data.images import ArrayImages, Images, Labels
from moco.errors import BadInputError
from moco.evaluation import knn as module
from moco.evaluation.features import Encoding, encode
from moco.evaluation.knn import choose_k, knn_scores, weighted_knn
from tests import oracles
from tests.data.test_feed import Calls
from tests.faults.processes import ended_well, start_program


def check_equals_oracle(
    bank: Tensor, bank_labels: Labels, queries: Tensor, labels: Labels, k: int, temperature: float, classes: int
) -> None:
    """Percentages are rounded to three places."""
    found = weighted_knn(bank, bank_labels, queries, labels, k=k, temperature=temperature, classes=classes)
    arrays = (bank.double().numpy(), bank_labels, queries.double().numpy(), labels)
    top1, top5 = oracles.weighted_knn(*arrays, k=k, temperature=temperature, classes=classes)
    assert found == {"top1": pytest.approx(top1, abs=1e-3), "top5": pytest.approx(top5, abs=1e-3)}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    bank_size=st.integers(1, 40),
    k=st.integers(1, 60),
    classes=st.integers(2, 12),
    temperature=st.floats(0.03, 2.0),
)
def test_random_features_equal_the_oracle(seed: int, bank_size: int, k: int, classes: int, temperature: float) -> None:
    """Any sizes, k larger than the bank among them, and classes that the bank lacks."""
    rng = np.random.default_rng(seed)
    bank, queries = (F.normalize(torch.from_numpy(rng.standard_normal((n, 6))).float()) for n in (bank_size, 12))
    check_equals_oracle(
        bank, rng.integers(0, classes, bank_size), queries, rng.integers(0, classes, 12), k, temperature, classes
    )


@pytest.mark.parametrize("temperature", [0.07, 0.012, 0.01])
def test_low_temperatures_equal_the_oracle(temperature: float) -> None:
    """The nearest neighbours decide; exp(1 / 0.01) is beyond fp32, and must not make all votes equal."""
    rng = np.random.default_rng(0)
    centres = F.normalize(torch.from_numpy(rng.standard_normal((10, 8))).float())
    labels = np.arange(60) % 10
    bank, queries = (
        F.normalize(centres[labels] + 0.1 * torch.from_numpy(rng.standard_normal((60, 8))).float()) for _ in range(2)
    )
    check_equals_oracle(bank, labels, queries, labels, 20, temperature, 10)


def test_k_larger_than_the_bank_lets_all_of_it_vote() -> None:
    """As k = the size of the bank."""
    rng = np.random.default_rng(1)
    bank, queries = (F.normalize(torch.from_numpy(rng.standard_normal((n, 4))).float()) for n in (15, 30))
    labels, truth = rng.integers(0, 3, 15), rng.integers(0, 3, 30)
    found = [weighted_knn(bank, labels, queries, truth, k=k, temperature=0.1, classes=3) for k in (15, 16, 200)]
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("labels", [[2, 1], [1, 2]])
def test_equal_votes_go_to_the_lower_class(labels: list[int]) -> None:
    """Whatever the order in the bank: two equal neighbours of classes 1 and 2 make a 1."""
    bank = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    for truth, expected in ((1, 100.0), (2, 0.0)):
        found = weighted_knn(bank, np.array(labels), bank[:1], np.array([truth]), k=2, temperature=0.1, classes=3)
        assert found == {"top1": expected, "top5": 100.0}


def test_a_class_without_a_vote_is_no_answer() -> None:
    """One neighbour, of class 6, gives the answer 6 and no other, at any temperature."""
    bank = torch.tensor([[0.0, 1.0]])
    top5 = [
        weighted_knn(bank, np.array([6]), bank, np.array([truth]), k=1, temperature=0.1, classes=8)["top5"]
        for truth in range(8)
    ]
    assert top5 == [0, 0, 0, 0, 0, 0, 100, 0]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_top_5_of_noise_is_no_more_than_the_neighbours_name(k: int) -> None:
    """Of ten classes k neighbours name at most k: noise is right for k tenths of the queries at most, not for half."""
    rng = np.random.default_rng(k)
    bank, queries = (F.normalize(torch.from_numpy(rng.standard_normal((n, 16))).float()) for n in (400, 400))
    labels, truth = rng.integers(0, 10, 400), rng.integers(0, 10, 400)
    found = weighted_knn(bank, labels, queries, truth, k=k, temperature=0.07, classes=10)
    assert found["top1"] <= found["top5"] <= 10 * k + 6  # three standard deviations


def test_the_most_distant_neighbour_names_its_class() -> None:
    """Its weight is 0 in fp32, and its class is still among the first five."""
    bank, labels = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), np.array([7, 6])
    found = weighted_knn(bank, labels, bank[:1], np.array([6]), k=2, temperature=0.01, classes=8)
    assert found == {"top1": 0.0, "top5": 100.0}


def test_a_nearer_neighbour_outvotes_more_distant_ones() -> None:
    """At a low temperature one vote of exp(1 / t) is more than two of exp(0.5 / t); at a high one it is less."""
    bank = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5], [0.5, 0.75**0.5]])
    query, labels, truth = torch.tensor([[1.0, 0.0]]), np.array([0, 1, 1]), np.array([0])
    found = {
        t: weighted_knn(bank, labels, query, truth, k=3, temperature=t, classes=2)["top1"] for t in (0.1, 0.7, 0.75)
    }
    assert found == {0.1: 100, 0.7: 100, 0.75: 0}  # they are equal at t = 0.5 / log 2 = 0.72


def test_queries_at_a_time_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer only take less memory."""
    rng = np.random.default_rng(2)
    bank, queries = (F.normalize(torch.from_numpy(rng.standard_normal((n, 5))).float()) for n in (40, 50))
    labels, truth = rng.integers(0, 7, 40), rng.integers(0, 7, 50)
    whole = weighted_knn(bank, labels, queries, truth, k=9, temperature=0.1, classes=7)
    monkeypatch.setattr(module, "QUERIES_AT_A_TIME", 8)
    assert weighted_knn(bank, labels, queries, truth, k=9, temperature=0.1, classes=7) == whole


@pytest.mark.parametrize("at_a_time", [1, 7, 39, 40, 1000])
def test_parts_of_the_bank_do_not_matter(monkeypatch: pytest.MonkeyPatch, at_a_time: int) -> None:
    """The same neighbours in the same order, and similarities to a few roundings of fp32; the oracle agrees."""
    rng = np.random.default_rng(3)
    bank, queries = (F.normalize(torch.from_numpy(rng.standard_normal((n, 5))).float()) for n in (40, 50))
    labels, truth = rng.integers(0, 7, 40), rng.integers(0, 7, 50)
    expected = [module.nearest(queries, bank, k) for k in (9, 40, 100)]
    monkeypatch.setattr(module, "BANK_AT_A_TIME", at_a_time)
    for k, (similarity, neighbour) in zip((9, 40, 100), expected, strict=True):
        found = module.nearest(queries, bank, k)
        assert torch.equal(found[1], neighbour)
        assert torch.allclose(found[0], similarity, atol=1e-6)
    check_equals_oracle(bank, labels, queries, truth, 9, 0.1, 7)


def nearest_query_by_query(queries: Tensor, bank: Tensor, k: int, part: int) -> tuple[Tensor, Tensor]:
    """A plain loop: for each query the k best of each part of the bank, and the k best of these."""
    rows = []
    for query in queries:
        best = (torch.empty(1, 0), torch.empty(1, 0, dtype=torch.int64))
        for start in range(0, len(bank), part):
            near, row = (query[None] @ bank[start : start + part].T).topk(min(k, len(bank[start : start + part])))
            best = torch.cat([best[0], near], 1), torch.cat([best[1], row + start], 1)
            top = best[0].topk(min(k, best[0].shape[1]))
            best = top.values, best[1].gather(1, top.indices)
        rows.append(best)
    return torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])


@pytest.mark.parametrize("ties", [False, True])
def test_the_bank_goes_by_once(monkeypatch: pytest.MonkeyPatch, ties: bool) -> None:
    """For all queries together: each part is read once, and the result is that of a loop over the queries."""
    rng = np.random.default_rng(6)
    numbers = [rng.integers(-2, 3, (n, 4)) if ties else rng.standard_normal((n, 4)) for n in (60, 50)]
    bank, queries = (torch.from_numpy(found).half() for found in numbers)  # small whole numbers are exact
    monkeypatch.setattr(module, "QUERIES_AT_A_TIME", 8)
    monkeypatch.setattr(module, "BANK_AT_A_TIME", 16)
    expected = nearest_query_by_query(queries.float(), bank.float(), 9, 16)
    with Calls() as calls:
        similarity, neighbour = module.nearest(queries.float(), bank, 9)
    assert sum("_to_copy" in name for name in calls.names) == 1 + 4, "queries, and four parts of the bank"
    assert torch.allclose(similarity, expected[0], atol=1e-5)
    assert torch.equal(similarity, similarity.sort(1, descending=True).values)
    assert all(len(set(row)) == 9 for row in neighbour.tolist())
    assert torch.allclose((queries.float() @ bank.float().T).gather(1, neighbour), similarity, atol=1e-5)
    assert ties or torch.equal(neighbour, expected[1])


def test_a_bank_in_fp16_gives_nearly_the_same() -> None:
    """Similarities move by 5e-4 at most (11 bits): of 400 queries at most 4 go to another class."""
    rng = np.random.default_rng(4)
    bank, queries = (F.normalize(torch.from_numpy(rng.standard_normal((n, 32))).float()) for n in (2000, 400))
    labels = rng.integers(0, 5, 2000)
    votes = [
        module.knn_votes(b, labels, q, k=50, temperature=0.1, classes=5)
        for b, q in ((bank, queries), (bank.half(), queries.half()))
    ]
    assert (votes[0].argmax(1) != votes[1].argmax(1)).sum() <= 4


# --- how many neighbours --------------------------------------------------------------------------------------------


def crowd(seed: int, count: int, classes: int = 4, noise: float = 0.5) -> tuple[Tensor, Labels]:
    """Features of unit length around a centre for each class, and the classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    centres = rng.standard_normal((classes, 6))
    features = centres[labels] + noise * rng.standard_normal((count, 6)) * np.linalg.norm(centres[0])
    return F.normalize(torch.from_numpy(features).float()), labels


def left_out(bank: Tensor, labels: Labels, k: int, rows: Iterable[int]) -> int:
    """By scikit-learn: how many images a classifier of all the others gets right."""
    right = 0
    for row in rows:
        others = np.delete(np.arange(len(bank)), row)
        judge = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / 0.1)
        )
        judge.fit(bank.numpy()[others], labels[others])
        right += int(judge.predict(bank.numpy()[[row]])[0] == labels[row])
    return right


def test_k_is_the_best_by_leave_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """As scikit-learn counts, image by image; of equal ones the largest, in parts of any size."""
    bank, labels = crowd(0, 60)
    right = {k: left_out(bank, labels, k, range(60)) for k in (1, 3, 5, 10, 20, 50)}
    assert len(set(right.values())) > 1
    expected = max(right, key=lambda k: (right[k], k))
    assert choose_k(bank, labels, temperature=0.1, classes=4) == expected
    monkeypatch.setattr(module, "QUERIES_AT_A_TIME", 7)
    monkeypatch.setattr(module, "BANK_AT_A_TIME", 13)
    assert choose_k(bank, labels, temperature=0.1, classes=4) == expected


def test_a_large_bank_leaves_some_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spread evenly, and each is compared with the whole bank."""
    bank, labels = crowd(3, 60)
    monkeypatch.setattr(module, "LEFT_OUT", 12)
    rows = np.linspace(0, 59, 12).astype(int)
    right = {k: left_out(bank, labels, k, rows) for k in (1, 3, 5, 10, 20, 50)}
    assert choose_k(bank, labels, temperature=0.1, classes=4) == max(right, key=lambda k: (right[k], k))


def test_an_image_has_no_vote_on_itself() -> None:
    """Features are noise, so the larger class is the best guess, and one's own label would be; copies may vote."""
    rng = np.random.default_rng(5)
    bank, labels = F.normalize(torch.from_numpy(rng.standard_normal((300, 64))).float()), np.arange(300) % 5 // 3
    assert choose_k(bank, labels, temperature=1.0, classes=2, tries=(1, 299)) == 299
    assert choose_k(bank.repeat(3, 1), np.tile(labels, 3), temperature=1.0, classes=2, tries=(1, 299)) == 1


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 1), (4, 3), (201, 200)])
def test_k_stays_below_the_bank(count: int, expected: int) -> None:
    """All images are of one class, so any k is right and the largest possible is taken."""
    bank = F.normalize(torch.ones(count, 3))
    assert choose_k(bank, np.zeros(count, np.int64), temperature=0.1, classes=2) == expected


def test_200_neighbours_are_too_many_for_small_classes() -> None:
    """Three classes of 30 images beside one of 270: they are outvoted by it unless k is chosen."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2, 3], [270, 30, 30, 30])
    centres = F.normalize(torch.from_numpy(rng.standard_normal((4, 8))).float())
    bank = F.normalize(centres[labels] + 0.3 * torch.from_numpy(rng.standard_normal((360, 8))).float())
    how: dict[str, Any] = {"temperature": 1.0, "classes": 4}
    k = choose_k(bank[::2], labels[::2], **how)
    assert k <= 20
    found = [weighted_knn(bank[::2], labels[::2], bank[1::2], labels[1::2], k=n, **how)["top1"] for n in (k, 200)]
    assert found[0] > found[1] + 10


def measure() -> None:
    """Print by how many bytes the most memory that was held grows."""
    bank, queries = torch.randn(300_000, 4), torch.randn(256, 4)
    labels = np.zeros(len(bank), np.int64)
    module.knn_votes(bank[:2000], labels[:2000], queries[:8], k=9, temperature=0.1, classes=3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    module.knn_votes(bank, labels, queries, k=200, temperature=0.1, classes=3)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)


@pytest.mark.skipif(sys.platform != "linux", reason="counts resident memory in KiB")
def test_memory_does_not_grow_with_the_bank(tmp_path: Path) -> None:
    """256 queries against 300,000 features: similarities at once would be 307 MB, in parts they are 67."""
    assert int(ended_well(start_program(measure, tmp_path, ranks=1)).text()) < 200e6


# --- from images ----------------------------------------------------------------------------------------------------

HOW = Encoding(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """A small network with random weights."""
    torch.manual_seed(0)
    return Encoder(EncoderPlan("resnet10-w16", "cifar", image_size=16))


def digits(first: int, count: int) -> Subset:
    """Some digits with their labels."""
    return Subset(load("digits")["train"], np.arange(first, first + count))


@pytest.mark.parametrize("output", ["backbone", "head"])
def test_digits_by_a_random_network_equal_the_oracle(encoder: Encoder, output: Output) -> None:
    """Images to accuracy: the features of the wanted output, all classes counted."""
    how = dataclasses.replace(HOW, output=output)
    bank, queries = digits(0, 120), digits(120, 40)
    features = [encode(encoder, images, how).double().numpy() for images in (bank, queries)]
    assert bank.labels is not None
    assert queries.labels is not None
    top1, top5 = oracles.weighted_knn(features[0], bank.labels, features[1], queries.labels, 20, 0.1, 10)
    found, k = knn_scores(encoder, bank, queries, how, k=20, temperature=0.1)
    assert [found.top1, found.top5, k] == pytest.approx([top1, top5, 20], abs=1e-3)
    assert found.top1 > 30  # pixels alone tell digits apart far better than chance, 10


@pytest.mark.parametrize("case", ["bank without labels", "queries without labels", "one class"])
def test_labels_are_needed(encoder: Encoder, case: str) -> None:
    """The message says so, before anything is encoded."""
    labelled: Images = digits(0, 20)
    bare = ArrayImages(torch.zeros(20, 3, 8, 8, dtype=torch.uint8))
    one_class = ArrayImages(bare.pixels, np.zeros(20, np.int64), ("only",))
    bank, queries = {
        "bank without labels": (bare, labelled),
        "queries without labels": (labelled, bare),
        "one class": (one_class, one_class),
    }[case]
    with pytest.raises(BadInputError, match=r"kNN needs labels: class folders, at least two; .* moco report RUN"):
        knn_scores(encoder, bank, queries, HOW, k=5, temperature=0.1)


@pytest.mark.parametrize("temperature", [1e-30, 1e-60, 1e-300])
def test_the_coldest_vote_is_the_nearest_one_s(temperature: float) -> None:
    """Also where fp32 would make the temperature 0."""
    votes = module.count_votes(
        torch.tensor([[0.9, 0.8, 0.8]]), torch.tensor([[2, 1, 1]]), temperature=temperature, classes=3
    )
    assert votes.tolist() == [[0.0, pytest.approx(0, abs=1e-30), 1.0]]
