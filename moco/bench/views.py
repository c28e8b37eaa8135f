"""How many views one core makes, loading included."""

import time
from pathlib import Path
from typing import Any

from moco.bench.cases import VIEWS
from moco.bench.config import BenchConfig
from moco.bench.photographs import images_in
from moco.pretraining.config import PretrainConfig
from moco.pretraining.prepare import build_batches
from moco.runtime.device import set_threads
from moco.runtime.fields import require


def measure_views(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """Measure views per second of the loop's own batches, in one process and thread, after a warm-up batch."""
    set_threads(1)
    training = PretrainConfig(data="", out=folder, seed=config.seed, device="cpu", **VIEWS[case])
    batches = build_batches(training, images_in(folder, require(training.image_size)))
    batches[0]
    step, started = 1, time.perf_counter()
    while step < 2 or time.perf_counter() < started + config.seconds:
        batches[step]
        step += 1
    views = 2 * training.batch_size * (step - 1)
    return {"views_per_second_per_core": round(views / (time.perf_counter() - started), 1), "views": views}
