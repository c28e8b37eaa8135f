"""Random numbers that are a pure function of what they are for: nothing is drawn from a state.

A run can therefore stop anywhere and go on, and neither workers nor ranks change what is seen.
"""

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]
Integers = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]
IntegersLike = int | range | list[int] | npt.NDArray[np.integer[Any]]

_MASK = np.uint64(0xFFFFFFFF)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


class Stream(IntEnum):
    """What a number is drawn for; two streams never share one."""

    VIEW_QUERY = 0
    VIEW_KEY = 1
    ORDER = 2
    SHUFFLE = 3
    BANK = 4
    SPLIT = 5
    STAND_IN = 6
    TRANSFER_VIEW = 7
    TRANSFER_STEP = 8
    MIX = 9
    REPEAT = 10
    BLEND = 11
    PRETEXT = 12


def philox(counter: tuple[IntegersLike, ...], seed: int) -> tuple[Words, ...]:
    """Map each counter of four words to four words of 32 random bits: Philox4x32-10 (Salmon et al., SC 2011).

    The words of `counter` broadcast against each other; `seed` is the key (64 bits).
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(word).astype(np.uint64) & _MASK for word in counter))
    key = [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (p1 >> np.uint64(32)) ^ c1 ^ np.uint64(key[0]),
            p1 & _MASK,
            (p0 >> np.uint64(32)) ^ c3 ^ np.uint64(key[1]),
            p0 & _MASK,
        )
        key = [(word + step) & 0xFFFFFFFF for word, step in zip(key, _KEY_STEPS, strict=True)]
    return tuple(word.astype(np.uint32) for word in (c0, c1, c2, c3))


def uniforms(count: int, *, seed: int, stream: Stream, epoch: IntegersLike, index: IntegersLike) -> Reals:
    """Draw `count` numbers in (0, 1) for each index: (n, count)."""
    blocks = np.arange((count + 3) // 4)
    index, epoch = np.broadcast_arrays(np.atleast_1d(index), np.atleast_1d(epoch))
    words = philox((index[:, None], epoch[:, None], int(stream), blocks[None]), seed)
    bits = np.stack(words, axis=-1).reshape(len(index), -1)[:, :count]
    return (bits.astype(np.float64) + 0.5) / 2.0**32


def seed_of(*, seed: int, stream: Stream, epoch: int, index: int) -> int:
    """Return the seed of a generator of torch's, 63 bits, for what cannot be drawn all at once."""
    words = philox((np.asarray([index]), epoch, int(stream), 1 << 30), seed)
    return int(words[0][0]) << 31 ^ int(words[1][0])


def permute(position: IntegersLike, size: int, *, seed: int, stream: Stream, epoch: int) -> Integers:
    """Return where each position of 0..size-1 goes in a random permutation, which is never written down.

    A Feistel network on the smallest sufficient even number of bits, walked until it falls below `size`
    (Black and Rogaway, CT-RSA 2002): memory does not grow with `size`.
    """
    values = np.array(position, dtype=np.uint64, ndmin=1)
    if len(values) and not int(values.max()) < size:
        raise IndexError(f"position {values.max()} of a permutation of {size}")
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    rounds = _round_keys(8, seed=seed, stream=stream, epoch=epoch)
    pending = np.ones(len(values), dtype=bool)
    while pending.any():
        left, right = values[pending] >> np.uint64(half), values[pending] & mask
        for key in rounds:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        values[pending] = (left << np.uint64(half)) | right
        pending = values >= size
    return values.astype(np.int64)


def _round_keys(count: int, *, seed: int, stream: Stream, epoch: int) -> list[np.uint64]:
    """`count` words of 64 random bits."""
    w0, w1, w2, w3 = (word.astype(np.uint64) for word in philox((np.arange(count), epoch, int(stream), 1 << 31), seed))
    return list((w0 << np.uint64(32) | w1) ^ (w2 << np.uint64(32) | w3))


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64: every bit of the result depends on every bit of x (wraps modulo 2^64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
