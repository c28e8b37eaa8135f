"""Measures libraries for approximate search on 10^6 clustered vectors of 128 numbers: which one `moco search` uses.

    python benchmarks/neighbours.py faiss-ivf|faiss-hnsw|hnswlib|usearch [VECTORS]

prints as JSON the seconds, and the CPU's seconds, that the index takes to build with 2 threads, how much more memory
the process then has at its peak, and for several widths of the search median and 95th percentile of a single query's
time and recall@10: the share of the 10 nearest by exact search that are found. Vectors are drawn around 1,000 centres
of uneven weight; 500 further ones are the queries. `pip install faiss-cpu hnswlib usearch` has the libraries.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from moco.evaluation.knn import nearest

WIDTH, CENTRES, QUERIES, K, THREADS, SEED = 128, 1000, 500, 10, 2, 0
SPREAD = 0.08
"""Standard deviation of each number around a centre of unit length: two images of a centre have a cosine near 0.55."""


def draw(count: int) -> tuple[Any, Any]:
    """Vectors (count, 128) and queries of unit length."""
    random = np.random.default_rng(SEED)
    centres = random.standard_normal((CENTRES, WIDTH)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    weight = random.pareto(1.5, CENTRES) + 0.1
    own = random.choice(CENTRES, count + QUERIES, p=weight / weight.sum())
    z = np.empty((count + QUERIES, WIDTH), np.float32)
    for start in range(0, len(z), 1 << 16):
        rows = own[start : start + (1 << 16)]
        z[start : start + len(rows)] = centres[rows] + SPREAD * random.standard_normal((len(rows), WIDTH), np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return z[:count], z[count:]


Search = Callable[[Any, int], Any]


def build_faiss_ivf(z: Any) -> tuple[Search, list[int]]:
    """Inverted lists around k-means centres; the width is the number of lists that are looked at."""
    import faiss

    faiss.omp_set_num_threads(THREADS)
    lists = 2 ** round(np.log2(4 * len(z) ** 0.5))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(WIDTH), WIDTH, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid, index.cp.niter = 64, 10
    index.train(z)
    for start in range(0, len(z), 1 << 16):
        index.add(z[start : start + (1 << 16)])

    def search(query: Any, width: int) -> Any:
        index.nprobe = width
        return index.search(query, K)[1]

    return search, [4, 8, 16, 32, 64, 128]


def build_faiss_hnsw(z: Any) -> tuple[Search, list[int]]:
    """A graph of 16 neighbours; the width is efSearch."""
    import faiss

    faiss.omp_set_num_threads(THREADS)
    index = faiss.IndexHNSWFlat(WIDTH, 16, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 80
    index.add(z)

    def search(query: Any, width: int) -> Any:
        index.hnsw.efSearch = width
        return index.search(query, K)[1]

    return search, [32, 64, 128, 256, 512]


def build_hnswlib(z: Any) -> tuple[Search, list[int]]:
    """A graph of 16 neighbours; the width is ef."""
    import hnswlib

    index = hnswlib.Index("ip", WIDTH)
    index.init_index(len(z), M=16, ef_construction=80, random_seed=SEED)
    index.set_num_threads(THREADS)
    index.add_items(z)

    def search(query: Any, width: int) -> Any:
        index.set_ef(width)
        return index.knn_query(query, K)[0]

    return search, [32, 64, 128, 256, 512]


def build_usearch(z: Any) -> tuple[Search, list[int]]:
    """A graph of 16 neighbours; the width is expansion_search."""
    from usearch.index import Index

    index = Index(ndim=WIDTH, metric="ip", dtype="f32", connectivity=16, expansion_add=80)
    index.add(np.arange(len(z)), z, threads=THREADS)

    def search(query: Any, width: int) -> Any:
        index.expansion_search = width
        return np.asarray(index.search(query, K).keys)

    return search, [32, 64, 128, 256, 512]


LIBRARIES: dict[str, Callable[[Any], tuple[Search, list[int]]]] = {
    "faiss-ivf": build_faiss_ivf, "faiss-hnsw": build_faiss_hnsw, "hnswlib": build_hnswlib, "usearch": build_usearch,
}  # fmt: skip


def memory(field: str) -> float:
    """Resident memory of the process in GB: now (VmRSS), or its peak since it was last reset (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e6


def main() -> None:
    """Build, search, compare."""
    name, count = sys.argv[1], int(float(sys.argv[2])) if len(sys.argv) > 2 else 10**6
    torch.set_num_threads(THREADS)
    z, queries = draw(count)
    exact = nearest(torch.from_numpy(queries), torch.from_numpy(z), K)[1].numpy()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, start, busy = memory("VmRSS"), time.perf_counter(), time.process_time()
    search, widths = LIBRARIES[name](z)
    built, busy, peak = time.perf_counter() - start, time.process_time() - busy, memory("VmHWM")
    found = {}
    for width in widths:
        hits, times = 0, []
        for query, own in zip(queries, exact, strict=True):
            start = time.perf_counter()
            rows = search(query[None], width)
            times.append(time.perf_counter() - start)
            hits += len(np.intersect1d(rows, own))
        spread = {f"ms_{part}": round(1e3 * float(np.percentile(times, part)), 3) for part in (50, 95)}
        found[width] = {**spread, "recall": round(hits / exact.size, 4)}
    figures = {
        "build_s": round(built, 1),
        "build_cpu_s": round(busy, 1),
        "memory_gb": round(peak - before, 2),
        "widths": found,
    }
    print(json.dumps({"library": name, "vectors": count, **figures}))


if __name__ == "__main__":
    main()
