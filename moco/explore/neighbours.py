"""Searches many features for the most similar ones; questions that several clients ask at a time share one product."""

import asyncio

import numpy as np
import numpy.typing as npt
import torch

from moco.evaluation.knn import nearest

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

QUERIES_AT_A_TIME = 128


def find_neighbours(features: Floats, queries: Floats, k: int) -> tuple[Rows, Floats]:
    """Find the rows and cosine similarities (B, k) of the features (N, C) most similar to each query (B, C).

    All are of unit length, the nearest come first, and where N < k there are N.
    """
    similarity, rows = nearest(torch.from_numpy(queries), torch.from_numpy(features), k)
    return rows.numpy(), similarity.numpy()


def distances(similarity: Floats) -> list[float]:
    """Convert similarities to the cosine distances that the page gets, and shows as similarities again."""
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
        """Find the images most similar to a feature (C,): rows and similarities (k,)."""
        answer: asyncio.Future[tuple[Rows, Floats]] = asyncio.get_running_loop().create_future()
        self._waiting.append((query, answer))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._answer())
        return await answer

    async def beside(self, row: int) -> tuple[Rows, Floats]:
        """Find the images most similar to one of them, without itself: rows and similarities (k - 1,)."""
        rows, similarity = await self.nearest(self.features[row])
        others = np.flatnonzero(rows != row)[: self.k - 1]
        return rows[others], similarity[others]

    async def _answer(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:QUERIES_AT_A_TIME], self._waiting[QUERIES_AT_A_TIME:]
            try:
                queries = np.stack([query for query, _ in batch])
                found = await asyncio.to_thread(find_neighbours, self.features, queries, self.k)
            except Exception as error:  # noqa: BLE001 - each of those who wait must hear of it
                for _, answer in batch:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for (_, answer), rows, similarity in zip(batch, *found, strict=True):
                if not answer.done():  # else its client is gone
                    answer.set_result((rows, similarity))
