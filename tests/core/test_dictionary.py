"""The three dictionaries against plain lists: what they hold, what they mask, and that no gradient gets in."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moco.core.dictionary import (
    Dictionary,
    InBatch,
    MemoryBank,
    Queue,
    TeacherKeys,
    add_batch_keys,
    gather_batch_keys,
)
from moco.core.loss import info_nce
from moco.errors import BadInputError
from tests import oracles

DIM = 4


def units(count: int) -> Tensor:
    """Random vectors of unit length."""
    return F.normalize(torch.randn(count, DIM))


def assert_same(one: Dictionary, other: Dictionary) -> None:
    """Both have the same state, counters included."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- the queue ------------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(data=st.data(), size=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_queue_is_first_in_first_out(data: st.DataObject, size: int, seed: int) -> None:
    """After any batches of 1 to K keys it holds what a list holds: the same keys, images, ages and masks."""
    torch.manual_seed(seed)
    queue = Queue(size, DIM, mask_own=True, seed=seed)
    expected = oracles.FifoQueue(queue.keys.double().numpy())
    for step, n in enumerate(data.draw(st.lists(st.integers(1, size), max_size=8))):
        k, index = units(n), torch.randint(0, 6, (n,))
        mask = queue.read(k, index).mask
        assert mask is not None
        oldest_first = mask.roll(-queue.oldest, dims=1)
        assert oldest_first.tolist() == expected.own(index.tolist()).tolist()
        queue.write(k, k, index)
        expected.write(k.double().numpy(), index.tolist(), step)
        keys, images, _ = zip(*expected.snapshot(), strict=True)
        assert np.array_equal(queue.keys.roll(-queue.oldest, dims=0).double().numpy(), np.array(keys))
        assert queue.index.roll(-queue.oldest).tolist() == list(images)
        assert queue.age().roll(-queue.oldest).tolist() == expected.ages(step)


def test_queue_starts_with_unit_keys_of_no_image() -> None:
    """At the start there are K keys of length 1, of index -1 and age -1, which differ from each other."""
    queue = Queue(64, DIM)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(64), rtol=0, atol=1e-6)
    assert len({tuple(key) for key in queue.keys.tolist()}) == 64
    assert queue.index.tolist() == queue.age().tolist() == [-1] * 64


def test_queue_depends_on_its_seed_alone() -> None:
    """The first keys are a function of the seed, and drawing them leaves torch's own random state alone."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert torch.equal(Queue(8, DIM, seed=3).keys, Queue(8, DIM, seed=3).keys)
    assert not torch.equal(Queue(8, DIM, seed=3).keys, Queue(8, DIM, seed=4).keys)
    assert torch.equal(torch.get_rng_state(), before)


def test_queue_read() -> None:
    """The positive is the query's own key, the negatives are the whole queue, and nothing is masked by default."""
    queue = Queue(8, DIM)
    k = units(3)
    keys = queue.read(k, torch.arange(3))
    assert torch.equal(keys.positive, k)
    assert torch.equal(keys.negative, queue.keys)
    assert keys.extra is None
    assert keys.mask is None


def test_queue_masks_all_older_keys_of_an_image() -> None:
    """An image that was written twice is masked twice, for its own query only."""
    queue = Queue(4, DIM, mask_own=True)
    queue.write(units(3), units(3), torch.tensor([5, 7, 5]))
    mask = queue.read(units(2), torch.tensor([5, 6])).mask
    assert mask is not None
    assert mask.tolist() == [[True, False, True, False], [False] * 4]


def test_a_queue_of_nothing_stays_empty() -> None:
    """K = 0 is for negatives that the batch has; less is nothing."""
    queue = Queue(0, DIM)
    queue.write(units(3), units(3), torch.arange(3))
    keys = queue.read(units(2), torch.tensor([0, 1]))
    assert keys.negative.shape == (0, DIM)
    with pytest.raises(BadInputError, match="--queue-size is -1: expected at least one key"):
        Queue(-1, DIM)


@pytest.mark.parametrize(("size", "mask_own"), [(0, False), (5, False), (5, True)])
def test_batch_keys_are_negatives_of_all_but_their_own_queries(size: int, mask_own: bool) -> None:
    """The loss is that of plain loops over the queue's keys and the batch's, for a part of the batch too."""
    torch.manual_seed(0)
    queue, k, index = Queue(size, DIM, mask_own=mask_own), units(4), torch.tensor([3, 8, 1, 5])
    if size:
        queue.write(units(3), units(3), torch.tensor([8, 2, 3]))
    batch = gather_batch_keys(k, index)
    for rows in (slice(0, 4), slice(2, 4)):
        q = units(len(k[rows]))
        keys = add_batch_keys(queue.read(k[rows], index[rows]), index[rows], batch)
        expected = []
        for query, own, image in zip(q, k[rows], index[rows], strict=True):
            older = [key for key, of in zip(queue.keys, queue.index, strict=True) if not (mask_own and of == image)]
            others = [key for key, of in zip(k, index, strict=True) if of != image]
            logits = torch.stack([(query * key).sum() / 0.2 for key in (own, *older, *others)])
            expected.append(logits.exp().sum().log() - logits[0])
        torch.testing.assert_close(info_nce(q, keys, 0.2).loss, torch.stack(expected).mean())
        assert keys.images is not None
        assert len(keys.images) == len(keys.negative) == size + 4
    unchanged = queue.read(k, index)
    assert add_batch_keys(unchanged, index, None) is unchanged


def test_a_batch_larger_than_the_queue_is_refused() -> None:
    """The error names both sizes, and the queue stays what it was."""
    queue = Queue(4, DIM)
    before = {name: value.clone() for name, value in queue.state_dict().items()}
    with pytest.raises(
        BadInputError, match="a batch of 5 keys does not fit into a queue of 4: give a larger --queue-size"
    ):
        queue.write(units(5), units(5), torch.arange(5))
    assert all(torch.equal(value, before[name]) for name, value in queue.state_dict().items())


def test_queue_keeps_fp32_keys() -> None:
    """Keys of a lower precision are stored in fp32."""
    queue = Queue(4, DIM)
    k = units(2).bfloat16()
    queue.write(k, k, torch.arange(2))
    assert queue.keys.dtype == torch.float32
    assert torch.equal(queue.keys[:2], k.float())


def test_restored_queue_goes_on_identically() -> None:
    """A queue restored from a state_dict, written to on, is the one that was never saved."""
    queue, restored = Queue(5, DIM, mask_own=True, seed=1), Queue(5, DIM, mask_own=True, seed=2)
    for n in (2, 4):
        queue.write(units(n), units(n), torch.arange(n))
    restored.load_state_dict({name: value.clone() for name, value in queue.state_dict().items()})
    assert_same(restored, queue)
    for n in (3, 1, 5):
        k = units(n)
        for one in (queue, restored):
            one.write(k, k, torch.arange(n))
    assert_same(restored, queue)
    assert torch.equal(restored.age(), queue.age())


# --- the memory bank ------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(
    batches=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=10, unique=True), max_size=6),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    seed=st.integers(0, 2**32 - 1),
)
def test_bank_equals_the_oracle(batches: list[list[int]], momentum: float, seed: int) -> None:
    """Entries move as the oracle's do (fp32: 1e-6 for each of at most 6 writes), and positives are read from them."""
    torch.manual_seed(seed)
    bank = MemoryBank(10, DIM, negatives=5, momentum=momentum, seed=seed)
    expected = oracles.Bank(bank.features.double().numpy(), momentum)
    for rows in batches:
        q, index = units(len(rows)), torch.tensor(rows)
        positive = bank.read(None, index).positive
        np.testing.assert_allclose(positive.double().numpy(), expected.read(rows), rtol=0, atol=6e-6)
        bank.write(q, None, index)
        expected.write(q.double().numpy(), rows)
    np.testing.assert_allclose(bank.features.double().numpy(), expected.read(range(10)), rtol=0, atol=6e-6)


def drawn(bank: MemoryBank) -> list[int]:
    """The images whose entries are the next negatives."""
    negative = bank.read(None, torch.zeros(1, dtype=torch.long)).negative
    rows, images = (negative[:, None] == bank.features[None]).all(2).nonzero(as_tuple=True)
    assert rows.tolist() == list(range(len(negative)))
    return images.tolist()


@pytest.mark.parametrize("negatives", [1, 7, 20])
def test_bank_draws_without_replacement(negatives: int) -> None:
    """At every step K different entries are compared with, and not the same ones each time."""
    bank = MemoryBank(20, DIM, negatives=negatives)
    seen = []
    for _ in range(10):
        seen.append(drawn(bank))
        assert len(set(seen[-1])) == negatives
        bank.write(units(1), None, torch.tensor([3]))
    assert len({tuple(images) for images in seen}) > 1


def test_bank_draws_by_seed_and_step_alone() -> None:
    """Neither what was written nor how often it was read changes which negatives a step sees."""
    one, other = MemoryBank(50, DIM, negatives=8, seed=3), MemoryBank(50, DIM, negatives=8, seed=3)
    for step in range(4):
        drawn(one)
        assert drawn(one) == drawn(other)
        one.write(units(2), None, torch.tensor([step, 9]))
        other.write(units(5), None, torch.arange(20, 25))
    assert drawn(MemoryBank(50, DIM, negatives=8, seed=3)) != drawn(MemoryBank(50, DIM, negatives=8, seed=4))


def test_bank_masks_the_own_image() -> None:
    """A query's own entry, where it was drawn, is no negative of it."""
    bank = MemoryBank(12, DIM, negatives=6)
    images = torch.tensor(drawn(bank))
    mask = bank.read(None, torch.arange(12)).mask
    assert mask is not None
    assert torch.equal(mask, torch.arange(12)[:, None] == images[None])
    assert mask.sum() == 6


@pytest.mark.parametrize("negatives", [0, 13])
def test_bank_draws_at_most_all_images(negatives: int) -> None:
    """More negatives than images, or none, are refused."""
    with pytest.raises(BadInputError, match=f"--queue-size is {negatives}: .* draws between 1 and 12 negatives"):
        MemoryBank(12, DIM, negatives=negatives)


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_first_entries_do_not_depend_on_the_ranks(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    """Each rank draws its own rows, in chunks that lie across the shares; together they are those of one process."""
    monkeypatch.setattr("moco.core.dictionary.CHUNK", 7)
    whole = MemoryBank(30, DIM, negatives=6, seed=5).features
    assert len({tuple(row) for row in whole.tolist()}) == 30
    for module in ("core.dictionary", "runtime.distributed"):
        monkeypatch.setattr(f"moco.{module}.world_size", lambda: ranks)
    shares = []
    for rank in range(ranks):
        monkeypatch.setattr("moco.runtime.distributed.rank", lambda rank=rank: rank)
        bank = MemoryBank(30, DIM, negatives=6, seed=5, shard_from=30 * DIM * 4)
        assert bank.sharded == {"features": 30}
        assert len(bank.features) == len(bank.rows)
        shares.append(bank.features)
    assert torch.equal(torch.cat(shares), whole)
    assert not MemoryBank(30, DIM, negatives=6, seed=5, shard_from=30 * DIM * 4 + 1).sharded


def test_restored_bank_goes_on_identically() -> None:
    """A bank restored from a state_dict draws and moves as the one that was never saved."""
    bank, restored = (MemoryBank(12, DIM, negatives=6, seed=5) for _ in range(2))
    bank.write(units(3), None, torch.arange(3))
    restored.load_state_dict({name: value.clone() for name, value in bank.state_dict().items()})
    for _ in range(3):
        assert drawn(restored) == drawn(bank)
        q, index = units(4), torch.randperm(12)[:4]
        for one in (bank, restored):
            one.write(q, None, index)
    assert_same(restored, bank)


# --- the batch ------------------------------------------------------------------------------------------------------


def test_in_batch_masks_the_diagonal() -> None:
    """Each query's own key is its positive; all others are its negatives."""
    k = units(4)
    keys = InBatch().read(k, torch.tensor([8, 2, 9, 4]))
    assert torch.equal(keys.positive, k)
    assert torch.equal(keys.negative, k)
    assert keys.mask is not None
    assert torch.equal(keys.mask, torch.eye(4, dtype=torch.bool))


def test_in_batch_gradient_reaches_both_sides() -> None:
    """It is the cross-entropy of all pairs with the diagonal as class, in value and gradient (float32)."""
    q, k = units(5).requires_grad_(), units(5).requires_grad_()
    loss = info_nce(q, InBatch().read(k, torch.arange(5)), 0.2).loss
    reference = F.cross_entropy(q @ k.T / 0.2, torch.arange(5))
    torch.testing.assert_close(loss, reference, rtol=1e-5, atol=1e-6)
    found, expected = torch.autograd.grad(loss, (q, k)), torch.autograd.grad(reference, (q, k))
    for gradient, wanted in zip(found, expected, strict=True):
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)


def test_in_batch_keeps_nothing() -> None:
    """It has no state, and writing changes nothing."""
    dictionary = InBatch()
    dictionary.write(units(2), units(2), torch.arange(2))
    assert dictionary.state_dict() == {}


# --- gradients ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["queue", "memory-bank"])
def test_no_gradient_reaches_what_is_stored(kind: str) -> None:
    """The loss differentiates the queries; what is stored has no gradient and no history, whatever is written."""
    dictionary = Queue(8, DIM) if kind == "queue" else MemoryBank(8, DIM, negatives=4)
    stored = dictionary.keys if isinstance(dictionary, Queue) else dictionary.features
    for _ in range(2):
        q, k = units(3).requires_grad_(), units(3)
        keys = dictionary.read(k, torch.arange(3))
        assert not keys.positive.requires_grad
        assert not keys.negative.requires_grad
        torch.autograd.backward(info_nce(q, keys, 0.2).loss)
        assert q.grad is not None
        assert q.grad.abs().max() > 0
        dictionary.write(q, k.requires_grad_(), torch.arange(3))
        assert not stored.requires_grad
        assert stored.grad_fn is None
        assert stored.grad is None
    assert list(dictionary.parameters()) == []


# --- a teacher's keys -----------------------------------------------------------------------------------------------


def test_a_teachers_keys_never_change() -> None:
    """Each image's own feature is its positive and no negative of it; nothing is written, nor kept in a checkpoint."""
    features = units(7)
    teacher, index = TeacherKeys(features.clone(), 7), torch.tensor([3, 0, 3])
    keys = teacher.read(None, index)
    assert torch.equal(keys.positive, features[[3, 0, 3]])
    for row, own in enumerate(index.tolist()):
        assert keys.mask is not None
        used = [i for i in range(7) if not keys.mask[row, i]]
        assert used == [i for i in range(7) if i != own]
    own = units(3)
    assert torch.equal(teacher.read(own, index).positive, own)
    teacher.write(units(3), None, index)
    assert torch.equal(teacher.read(None, index).negative, features)
    assert teacher.state_dict() == {}


def test_a_teachers_keys_of_crops() -> None:
    """A query's negatives are all keys of other images: of these, and of their crops."""
    whole, crops, own = units(4), units(8), units(2)
    keys = TeacherKeys(torch.cat([whole, crops]), 4).read(own, torch.tensor([3, 1]))
    assert torch.equal(keys.positive, own)
    assert torch.equal(keys.negative, torch.cat([whole, crops]))
    assert keys.mask is not None
    assert keys.mask.nonzero().tolist() == [[0, 3], [0, 7], [0, 11], [1, 1], [1, 5], [1, 9]]


@pytest.mark.parametrize("rows", [range(3, 7), range(7, 10), range(0, 10), range(8, 8)])
def test_a_share_of_a_bank_is_written_as_the_whole(rows: range) -> None:
    """Bit for bit, whichever images of a batch it holds: some, none or all of them; the rest stays."""
    whole, own = (MemoryBank(10, 4, negatives=2, seed=1) for _ in range(2))
    own.sharded, own.rows, own.features = {"features": 10}, rows, whole.features[rows.start : rows.stop].clone()
    torch.manual_seed(0)
    for index in ([5, 3, 0], [0, 1, 2], [9, 4, 6]):
        q = F.normalize(torch.randn(3, 4))
        for bank in (whole, own):
            bank.write(q, None, torch.tensor(index))
        assert torch.equal(own.features, whole.features[rows.start : rows.stop])
