"""Counter-based random numbers against published answers and a plain-Python Philox; permutations as bijections."""

import itertools
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.runtime.randomness import Stream, permute, philox, uniforms
from tests import oracles

words = st.integers(0, 2**32 - 1)
seeds = st.integers(0, 2**64 - 1)


def seed_of(key: oracles.Key) -> int:
    """The 64 bits of a key, low word first."""
    return key[0] | key[1] << 32


@pytest.mark.parametrize(("counter", "key", "answer"), oracles.PHILOX_KNOWN_ANSWERS)
def test_philox_known_answers(counter: oracles.Counter, key: oracles.Key, answer: oracles.Counter) -> None:
    """The published test vectors of Philox4x32-10."""
    words = philox(tuple([word] for word in counter), seed_of(key))
    assert tuple(int(word[0]) for word in words) == answer


@settings(deadline=None)
@given(counters=st.lists(st.tuples(words, words, words, words), min_size=1, max_size=5), key=st.tuples(words, words))
def test_philox_equals_the_oracle(counters: list[oracles.Counter], key: oracles.Key) -> None:
    """Arrays of counters give what each counter gives alone in plain Python."""
    columns = np.array(counters, dtype=np.uint64).T
    found = np.stack(philox(tuple(columns), seed_of(key)), axis=1)
    assert found.tolist() == [list(oracles.philox4x32(counter, key)) for counter in counters]


def test_philox_broadcasts() -> None:
    """The words of a counter broadcast against each other."""
    words = philox((np.arange(3)[:, None], np.arange(2)[None], 4, 5), seed=6)
    assert [w.shape for w in words] == [(3, 2)] * 4
    assert [int(w[2, 1]) for w in words] == list(oracles.philox4x32((2, 1, 4, 5), (6, 0)))


def test_uniforms_are_philox_of_what_they_are_for() -> None:
    """Number 4 b + w of an image is word w of the counter (index, epoch, stream, b), as a multiple of 2^-32."""
    numbers = uniforms(6, seed=9, stream=Stream.VIEW_KEY, epoch=3, index=[5, 70_000])
    for row, index in zip(numbers, (5, 70_000), strict=True):
        words = [w for b in (0, 1) for w in oracles.philox4x32((index, 3, int(Stream.VIEW_KEY), b), (9, 0))]
        assert row.tolist() == [(w + 0.5) / 2**32 for w in words[:6]]


def test_uniforms_are_uniform() -> None:
    """All lie in (0, 1); mean and variance are within 5 standard errors of 1/2 and 1/12."""
    numbers = uniforms(100, seed=1, stream=Stream.VIEW_QUERY, epoch=0, index=range(1000))
    assert numbers.shape == (1000, 100)
    assert 0 < numbers.min() < 1e-3
    assert 1 - 1e-3 < numbers.max() < 1
    assert abs(numbers.mean() - 1 / 2) < 5 * (1 / 12 / numbers.size) ** 0.5
    assert abs(numbers.var() - 1 / 12) < 5 * (1 / 180 / numbers.size) ** 0.5  # Var (u - 1/2)^2 = 1/180
    assert abs(np.corrcoef(numbers[:, 0], numbers[:, 1])[0, 1]) < 5 / 1000**0.5
    assert abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 5 / 1000**0.5


@settings(deadline=None)
@given(
    batch=st.lists(st.integers(0, 2**31), min_size=1, max_size=6),
    epochs=st.integers(0, 10**6),
    count=st.integers(1, 9),
    seed=seeds,
)
def test_uniforms_do_not_depend_on_the_batch(batch: list[int], epochs: int, count: int, seed: int) -> None:
    """An image's numbers are the same alone, in any batch, and when more of them are drawn."""
    together = uniforms(count, seed=seed, stream=Stream.VIEW_QUERY, epoch=epochs, index=batch)
    for row, index in zip(together, batch, strict=True):
        alone = uniforms(count + 3, seed=seed, stream=Stream.VIEW_QUERY, epoch=epochs, index=index)
        assert np.array_equal(row, alone[0, :count])


def test_uniforms_of_one_epoch_per_image() -> None:
    """A batch that straddles two epochs draws each image's numbers from its own."""
    both = uniforms(4, seed=1, stream=Stream.VIEW_QUERY, epoch=np.array([7, 8]), index=np.array([3, 3]))
    for row, epoch in zip(both, (7, 8), strict=True):
        assert np.array_equal(row, uniforms(4, seed=1, stream=Stream.VIEW_QUERY, epoch=epoch, index=3)[0])


def test_every_part_of_the_name_matters() -> None:
    """Another seed (either half), stream, epoch or index gives other numbers."""
    drawn = [
        uniforms(2, seed=seed, stream=stream, epoch=epoch, index=index)
        for seed, stream, epoch, index in itertools.product((1, 2, 1 << 32 | 1), Stream, (0, 1), (0, 1))
    ]
    assert len(np.unique(np.stack(drawn))) == 3 * len(Stream) * 4 * 2


@settings(deadline=None)
@given(size=st.integers(1, 600), seed=seeds, epoch=st.integers(0, 2**32 - 1), stream=st.sampled_from(Stream))
def test_permuted_is_a_bijection(size: int, seed: int, epoch: int, stream: Stream) -> None:
    """Every position goes to a place of its own below `size`."""
    places = permute(range(size), size, seed=seed, stream=stream, epoch=epoch)
    assert np.array_equal(np.sort(places), np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 255, 256, 257, 1000, 50_000, 65_536, 65_537])
def test_permuted_is_a_bijection_around_powers_of_two(size: int) -> None:
    """Also where the network's range is just large enough, or four times too large."""
    places = permute(range(size), size, seed=0, stream=Stream.ORDER, epoch=0)
    assert np.array_equal(np.sort(places), np.arange(size))


def test_permuted_answers_for_single_positions() -> None:
    """A part of the positions, in any order and type, gives the same places as all of them."""
    everything = permute(range(1000), 1000, seed=2, stream=Stream.ORDER, epoch=4)
    for positions in ([999, 0, 500, 0], range(10, 20), np.arange(5, dtype=np.int32)):
        places = permute(positions, 1000, seed=2, stream=Stream.ORDER, epoch=4)
        assert np.array_equal(places, everything[np.asarray(positions)])
    assert permute(17, 1000, seed=2, stream=Stream.ORDER, epoch=4).tolist() == [everything[17]]


def test_permuted_needs_no_memory_for_the_size() -> None:
    """Five places among 10^9 take less than 100 kB: nothing of that size is written down."""
    tracemalloc.start()
    places = permute([0, 1, 2, 10**9 - 2, 10**9 - 1], 10**9, seed=0, stream=Stream.ORDER, epoch=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    assert len(set(places.tolist())) == 5
    assert places.min() >= 0
    assert places.max() < 10**9


def test_every_epoch_seed_and_stream_permutes_anew() -> None:
    """Permutations of 100 share 1 place on average; two unrelated ones share 10 less than once in 10^6 times."""
    reference = permute(range(100), 100, seed=1, stream=Stream.ORDER, epoch=5)
    for seed, stream, epoch in (
        (1, Stream.ORDER, 6),
        (2, Stream.ORDER, 5),
        (1 | 1 << 32, Stream.ORDER, 5),
        (1, Stream.SHUFFLE, 5),
    ):
        other = permute(range(100), 100, seed=seed, stream=stream, epoch=epoch)
        assert (other == reference).sum() < 10


def test_all_permutations_of_three_come_alike() -> None:
    """Chi-square over the 6 permutations in 1200 epochs: 5 degrees of freedom exceed 30 once in 70,000 times."""
    counts = Counter(tuple(permute(range(3), 3, seed=0, stream=Stream.ORDER, epoch=e).tolist()) for e in range(1200))
    assert len(counts) == 6
    assert sum((count - 200) ** 2 / 200 for count in counts.values()) < 30


def test_a_position_goes_everywhere_alike() -> None:
    """Chi-square over the 10 places of each position in 1000 epochs: 9 degrees of freedom exceed 45 once in 10^6."""
    places = np.stack([permute(range(10), 10, seed=0, stream=Stream.ORDER, epoch=e) for e in range(1000)])
    for position in range(10):
        counts = np.bincount(places[:, position], minlength=10)
        assert ((counts - 100) ** 2 / 100).sum() < 45
