"""Views that are finished on the device, against those that torch's operations finish on the CPU."""

import dataclasses
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.gpuchecks.probe import count_waits
from benchmarks.gpuchecks.rows import Row, Setting, milliseconds
from moco.bench.photographs import patches
from moco.data.augment import AUGMENTATIONS
from moco.data.catalog import load
from moco.data.feed import Feed
from moco.data.images import ArrayImages, Images
from moco.data.loader import ViewBatches

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BOUND = 1e-4 / min(STD)
"""1e-4 of a pixel's range, after normalisation."""


def check_views(setting: Setting) -> Iterator[Row]:
    """Images in memory and photographs; then how long a batch of photographs takes, and whether the host waits."""
    pixels = torch.from_numpy(patches(np.random.default_rng(0), 2 * setting.batch)).permute(0, 3, 1, 2).contiguous()
    sets: dict[str, tuple[Images, int]] = {
        "images in memory": (ArrayImages(pixels), 32),
        "photographs": (load(str(setting.photographs))["train"], setting.side),
    }
    for name, (images, side) in sets.items():
        batches = ViewBatches(images, AUGMENTATIONS["v2"], side, MEAN, STD, setting.batch, feed=True, decode="scaled")
        there = dataclasses.replace(batches, device=setting.device, compiled=setting.on_gpu)
        here, found = (next(iter(one.run(0, 1, 0))) for one in (batches, there))
        assert here.x_k is not None
        assert found.x_k is not None
        views = ((here.x_q, found.x_q), (here.x_k, found.x_k))
        worst = max(float((a.float() - b.float().cpu()).abs().max()) for a, b in views)
        yield Row(f"{name}: largest difference", float(f"{worst:.2e}"), "", f"below {BOUND:.0e}", worst < BOUND)
    yield from _time_finishing(setting, batches)


def _time_finishing(setting: Setting, batches: ViewBatches) -> Iterator[Row]:
    crops = batches.crop(0)
    assert crops.pixels is not None
    there = [one.to(setting.device) for one in (crops.pixels, crops.drawn, crops.index)]
    for compiled in (True, False) if setting.on_gpu else (False,):
        feed = Feed(batches.images, batches.look, setting.device, torch.bfloat16, compiled=compiled)
        finish, way = partial(feed.finish, *there), "compiled" if compiled else "operation by operation"
        predicted = "about 3.5" if compiled else "8 to 10"
        yield Row(f"finishing a batch, {way}", milliseconds(setting.time(finish)), "ms", predicted)
        if setting.on_gpu:
            waits = count_waits(finish)
            yield Row(f"host waits, {way}", waits, "", "0", waits == 0)
