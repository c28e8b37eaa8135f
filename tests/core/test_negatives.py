"""Hard negatives and the figures on negatives, against loops in plain Python; off, the loss is what it was."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.dictionary import InBatch, Keys, Queue
from moco.core.loss import info_nce
from moco.core.negatives import Hardness, mix_hard_negatives, negative_figures
from moco.runtime.randomness import Stream, uniforms

N, K, C = 4, 40, 8


def case(masked: float = 0.0) -> tuple[Tensor, Keys]:
    """Queries and keys of unit length; `masked` is the share of the keys that do not count."""
    torch.manual_seed(0)
    q, k, negative = (F.normalize(torch.randn(count, C), dim=1) for count in (N, N, K))
    mask = torch.rand(N, K) < masked if masked else None
    return q, Keys(k, negative, mask=mask, images=torch.arange(K))


def mixed_by_hand(q: Tensor, keys: Keys, hardness: Hardness, seed: int, step: int) -> np.ndarray:
    """MoCHi, 3.2 and 3.3, point by point; shares with the package the drawn numbers only."""
    count = hardness.pairs + hardness.with_query
    u = uniforms(3, seed=seed, stream=Stream.MIX, epoch=step, index=range(count))
    queries, negatives = q.double().numpy(), keys.negative.double().numpy()
    made = np.zeros((len(queries), count, C))
    for i, query in enumerate(queries):
        allowed = [j for j in range(K) if keys.mask is None or not keys.mask[i, j]]
        ranked = sorted(allowed, key=lambda j: -float(negatives[j] @ query))[: hardness.hardest]
        for point in range(count):
            one = negatives[ranked[int(u[point, 0] * hardness.hardest)]]
            if point < hardness.pairs:
                other, share = negatives[ranked[int(u[point, 1] * hardness.hardest)]], u[point, 2]
            else:
                one, other, share = query, one, u[point, 2] / 2
                assert share < 0.5
            h = share * one + (1 - share) * other
            made[i, point] = h / math.sqrt(float(h @ h))
    return made


@pytest.mark.parametrize("masked", [0.0, 0.3])
@pytest.mark.parametrize(("pairs", "with_query"), [(6, 0), (0, 5), (6, 5)])
def test_mixing_equals_the_loop(masked: float, pairs: int, with_query: int) -> None:
    """In every coordinate; other steps and seeds draw other points, the same ones the same."""
    q, keys = case(masked)
    hardness = Hardness(10, pairs, with_query)
    extra = mix_hard_negatives(q, keys, hardness, seed=3, step=7).extra
    assert extra is not None
    np.testing.assert_allclose(extra.numpy(), mixed_by_hand(q, keys, hardness, 3, 7), atol=2e-6)
    again, later = (mix_hard_negatives(q, keys, hardness, seed=3, step=step).extra for step in (7, 8))
    assert again is not None
    assert later is not None
    assert torch.equal(again, extra)
    assert not torch.equal(later, extra)


def test_no_gradient_passes_through_mixed_keys() -> None:
    """Neither to the query that is in them nor, with in-batch keys, to the keys; through the loss it does."""
    q, keys = case()
    q, shared = q.requires_grad_(), keys.negative.clone().requires_grad_()
    mixed = mix_hard_negatives(q, keys._replace(negative=shared), Hardness(10, 4, 4), seed=0, step=0)
    assert mixed.extra is not None
    assert not mixed.extra.requires_grad
    torch.autograd.backward(info_nce(q, mixed, 0.2).loss)
    own = q.grad
    fixed = q.detach().requires_grad_()
    torch.autograd.backward(info_nce(fixed, keys._replace(extra=mixed.extra.clone()), 0.2).loss)
    assert own is not None
    assert fixed.grad is not None
    torch.testing.assert_close(own, fixed.grad)


def test_off_is_what_was_before() -> None:
    """The very same keys go to the loss."""
    q, keys = case()
    assert mix_hard_negatives(q, keys, Hardness(0), seed=0, step=0) is keys


def figures_by_hand(q: Tensor, keys: Keys, temperature: float, own: list[int], labels: list[int]) -> dict[str, float]:
    """Plain sums over the negatives of each query."""
    numbers: list[np.ndarray] = []
    false = known = 0
    for i, query in enumerate(q.double().numpy()):
        there = [j for j in range(K) if keys.mask is None or not keys.mask[i, j]]
        raw = {j: math.exp(float(query @ keys.negative[j].double().numpy()) / temperature) for j in there}
        more = (
            []
            if keys.extra is None
            else [math.exp(float(query @ e) / temperature) for e in keys.extra[i].double().numpy()]
        )
        total = math.fsum([*raw.values(), *more])
        shares = sorted([w / total for w in [*raw.values(), *more]], reverse=True)
        slots = K + len(more)
        assert keys.images is not None
        images = {j: int(keys.images[j]) for j in there}
        same = [j for j in there if images[j] >= 0 and labels[images[j]] == labels[own[i]]]
        false, known = false + len(same), known + sum(image >= 0 for image in images.values())
        entropy = -math.fsum(s * math.log(s) for s in shares)
        weight = math.fsum(raw[j] / total for j in same)
        numbers.append(np.array([math.exp(entropy), 100 * math.fsum(shares[: math.ceil(0.01 * slots)]), 100 * weight]))
    effective, hardest, false_weight = np.mean(numbers, axis=0)
    return {
        "effective_negatives": effective, "hardest_weight": hardest, "false_negatives": 100 * false / known,
        "false_negative_weight": false_weight,
    }  # fmt: skip


def numbers_of(figures: dict[str, Tensor]) -> dict[str, float]:
    """Read what is on a device."""
    return {name: float(value) for name, value in figures.items()}


@pytest.mark.parametrize("masked", [0.0, 0.3])
@pytest.mark.parametrize("pairs", [0, 5])
def test_figures_equal_the_loop(masked: float, pairs: int) -> None:
    """With keys of unknown images, keys that do not count, and mixed ones."""
    q, keys = case(masked)
    keys = mix_hard_negatives(q, keys, Hardness(10 if pairs else 0, pairs), seed=0, step=0)
    index = torch.arange(K) % 30
    index[:5] = -1
    labels, own = [image % 3 for image in range(30)], [4, 9, 14, 29]
    found = negative_figures(q, keys._replace(images=index), 0.2, torch.tensor(own), torch.tensor(labels))
    expected = figures_by_hand(q, keys._replace(images=index), 0.2, own, labels)
    assert numbers_of(found) == {name: pytest.approx(value, rel=1e-4) for name, value in expected.items()}


def test_figures_at_their_ends() -> None:
    """All K where all are alike, one where one outweighs all; no labels, no rate of false ones."""
    q, same = F.normalize(torch.ones(2, K), dim=1), torch.eye(K)
    flat = negative_figures(q, Keys(q, same), 0.07, torch.arange(2))
    assert numbers_of(flat) == {
        "effective_negatives": pytest.approx(K, rel=1e-5),
        "hardest_weight": pytest.approx(100 / K, rel=1e-5),
    }
    peak = negative_figures(same[:2], Keys(same[:2], same), 0.01, torch.arange(2))
    assert numbers_of(peak) == {
        "effective_negatives": pytest.approx(1, rel=1e-5),
        "hardest_weight": pytest.approx(100, rel=1e-5),
    }


def test_no_rate_of_false_negatives_without_a_known_image() -> None:
    """As in a queue to which nothing was written: a rate of 0 would say that all of them are true."""
    q, keys = case()
    unknown = keys._replace(images=torch.full((K,), -1))
    found = negative_figures(q, unknown, 0.2, torch.arange(N), torch.zeros(N, dtype=torch.int64))
    assert {name for name, value in found.items() if value.isnan()} == {"false_negatives", "false_negative_weight"}


def test_dictionaries_know_their_keys_images() -> None:
    """The queue's start is of no image; keys of the batch are the batch's."""
    queue, k = Queue(6, C), F.normalize(torch.randn(4, C), dim=1)
    queue.write(k, k, torch.tensor([7, 3, 5, 9]))
    read = queue.read(k, torch.tensor([7, 3, 5, 9])).images
    assert read is not None
    assert read.tolist() == [7, 3, 5, 9, -1, -1]
    batch = InBatch().read(k, torch.tensor([1, 2, 3, 4])).images
    assert batch is not None
    assert batch.tolist() == [1, 2, 3, 4]
