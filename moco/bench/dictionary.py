"""What the queue costs in a step, against its length K."""

import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.bench.cases import DICTIONARIES, QUEUE_SIZES
from moco.bench.config import BenchConfig
from moco.bench.peak import synchronize
from moco.core.dictionary import Queue
from moco.core.loss import info_nce
from moco.runtime.device import resolve_device, set_threads

FEATURE_DIM, TEMPERATURE = 128, 0.07
LEAST = 3


def measure_dictionary(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """Measure the median milliseconds of read, loss, backward into q, and write for each K, after a warm-up."""
    set_threads(config.threads)
    device, n = resolve_device(config.device), DICTIONARIES[case]
    torch.manual_seed(config.seed)
    q, k = (F.normalize(torch.randn(n, FEATURE_DIM, device=device)) for _ in range(2))
    q.requires_grad_()
    index = torch.arange(n, device=device)
    cost = {}
    for size in QUEUE_SIZES:
        queue, times = Queue(size, FEATURE_DIM, seed=config.seed).to(device), list[float]()
        end = time.perf_counter() + config.seconds / len(QUEUE_SIZES)
        while len(times) < LEAST + 1 or time.perf_counter() < end:
            times.append(_seconds(queue, q, k, index))
        cost[str(size)] = round(1000 * statistics.median(times[1:]), 3)
    return {"milliseconds": cost}


def _seconds(queue: Queue, q: Tensor, k: Tensor, index: Tensor) -> float:
    """How long the queue and the loss take in one step."""
    started = time.perf_counter()
    torch.autograd.backward(info_nce(q, queue.read(k, index), TEMPERATURE).loss)
    queue.write(q, k, index)
    synchronize(q.device.type)
    q.grad = None
    return time.perf_counter() - started
