"""How many images the loop of `moco pretrain` itself trains on in a second, by the log that it writes."""

from pathlib import Path
from typing import Any

from moco.bench.cases import training_values
from moco.bench.config import BenchConfig
from moco.bench.flops import step_flops
from moco.bench.photographs import images_in
from moco.data.images import Images
from moco.pretraining.config import PretrainConfig
from moco.pretraining.prepare import build_batches, build_encoder, resolve_config
from moco.pretraining.timing import ENDLESS, ReadyBatches, time_training
from moco.runtime.device import resolve_device
from moco.runtime.fields import require


def measure_step(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """Measure the loop alone, on a batch that is ready; and the operations that it takes by formula."""
    training, images = _training(config, folder, case)
    resolved = resolve_config(training, images)
    batch = next(iter(build_batches(resolved, images).run(0, 1, 0)))  # on the device, in the run's own type
    flops = step_flops(build_encoder(resolved).to("meta"))
    found = time_training(training, images, config.seconds, ReadyBatches(batch))
    return {
        **found,
        "gflop_per_image": round(flops / 1e9, 4),
        "gflops": round(found["images_per_second"] * flops / 1e9, 2),
        "precision": resolved.precision,
        "batch_size": resolved.batch_size,
        "threads": resolved.threads,
    }


def measure_end_to_end(config: BenchConfig, folder: Path, case: str) -> dict[str, Any]:
    """Measure the loop as a user runs it, with its own loading and views."""
    training, images = _training(config, folder, case)
    workers = require(resolve_config(training, images).workers)
    return {**time_training(training, images, config.seconds), "workers": workers}


def _training(config: BenchConfig, folder: Path, case: str) -> tuple[PretrainConfig, Images]:
    values = {name: getattr(config, name) for name in ("seed", "precision", "device", "threads")}
    own = training_values(case, resolve_device(config.device))
    training = PretrainConfig(data=case, out=folder / "run", max_steps=ENDLESS, **values, **own)
    return training, images_in(folder, require(training.image_size))
