"""The most similar of many features, all of which are compared; what several clients ask at a time is one product."""

import asyncio

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

ROWS_AT_A_TIME = 65536
QUERIES_AT_A_TIME = 128
"""Similarities that exist at a time are these two multiplied, in fp32: 34 MB."""
BLOCK = 64
"""Similarities of which only the largest is looked at first."""


def nearest(features: Floats, queries: Floats, k: int) -> tuple[Rows, Floats]:
    """Rows and cosine similarities (B, k) of the features (N, C) most similar to each query (B, C), nearest first.

    All are of unit length. Of equal ones the first stands first; where N < k there are N.
    """
    k = min(k, len(features))
    rows, similarity = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for start in range(0, len(features), ROWS_AT_A_TIME):
        near, own = _largest(queries @ features[start : start + ROWS_AT_A_TIME].T, k)
        rows, similarity = np.concatenate([rows, own + start], 1), np.concatenate([similarity, near], 1)
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        rows, similarity = np.take_along_axis(rows, order, 1), np.take_along_axis(similarity, order, 1)
    return rows, similarity


def _largest(similarity: Floats, k: int) -> tuple[Floats, Rows]:
    """The k largest of each row and where they stand.

    Of the largest in each block, the k-th largest bounds the k-th largest of all from below: what lies under it is
    never sorted.
    """
    count, k = similarity.shape[1], min(k, similarity.shape[1])
    if (blocks := count // BLOCK) > k:
        tops = similarity[:, : blocks * BLOCK].reshape(len(similarity), blocks, BLOCK).max(2)
        bound = np.partition(tops, blocks - k, axis=1)[:, blocks - k]
    else:
        bound = np.full(len(similarity), -np.inf, np.float32)
    values, places = np.empty((len(similarity), k), np.float32), np.empty((len(similarity), k), np.int64)
    for i, row in enumerate(similarity):
        candidates = np.flatnonzero(row >= bound[i])
        best = candidates[np.argsort(-row[candidates], kind="stable")[:k]]
        values[i], places[i] = row[best], best
    return values, places


def distances(similarity: Floats) -> list[float]:
    """Cosine distances of similarities, as they are sent."""
    return [round(max(0.0, 1 - float(value)), 4) for value in similarity]


class Search:
    """Finds the k most similar images; questions that come while one is being answered wait and are answered together.

    Belongs to one event loop; the products are made in a thread, so that the loop goes on.
    """

    def __init__(self, features: Floats, k: int) -> None:
        self.features, self.k = np.ascontiguousarray(features, np.float32), k
        self._waiting: list[tuple[Floats, asyncio.Future[tuple[Rows, Floats]]]] = []
        self._work: asyncio.Task[None] | None = None

    async def nearest(self, query: Floats) -> tuple[Rows, Floats]:
        """Rows and similarities (k,) of the images most similar to a feature (C,)."""
        answer: asyncio.Future[tuple[Rows, Floats]] = asyncio.get_running_loop().create_future()
        self._waiting.append((query, answer))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._answer())
        return await answer

    async def beside(self, row: int) -> tuple[Rows, Floats]:
        """Rows and similarities (k - 1,) of the images most similar to one of them, without itself."""
        rows, similarity = await self.nearest(self.features[row])
        others = np.flatnonzero(rows != row)[: self.k - 1]
        return rows[others], similarity[others]

    async def _answer(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:QUERIES_AT_A_TIME], self._waiting[QUERIES_AT_A_TIME:]
            try:
                queries = np.stack([query for query, _ in batch])
                found = await asyncio.to_thread(nearest, self.features, queries, self.k)
            except Exception as error:  # noqa: BLE001 - each of those who wait must hear of it
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), rows, similarity in zip(batch, *found, strict=True):
                if not answer.done():  # else its client is gone
                    answer.set_result((rows, similarity))
