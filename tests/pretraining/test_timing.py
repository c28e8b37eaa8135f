"""Images per second come from the log of the real loop."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import load
from moco.data.loader import Batch
from moco.errors import BadInputError
from moco.pretraining import timing
from moco.pretraining.config import PretrainConfig
from moco.pretraining.prepare import build_batches, resolve_config
from moco.pretraining.recipes import recipe
from moco.pretraining.timing import LEAST, ReadyBatches, measure_throughput, time_step, time_training
from moco.runtime.trackers import TRACKERS

SMALL: dict[str, Any] = {
    "arch": "resnet10-w16", "image_size": 12, "view_size": None, "batch_size": 32, "queue_size": 64, "bn_groups": 4,
    "dictionary": "queue", "max_steps": 1000, "threads": 1, "precision": "fp32", "device": "cpu",
}  # fmt: skip


METRICS = """\
{"step": 0, "knn_top1": 10.0, "time": 0.5}
{"step": 10, "loss": 4.2, "images_per_second": 999.0, "time": 4.0}
{"step": 20, "loss": 4.1, "images_per_second": 999.0, "time": 6.0}
{"step": 20, "knn_top1": 12.0, "time": 7.0}
{"event": "resume", "step": 20, "time": 7.0}
{"step": 50, "loss": 4.0, "images_per_second": 999.0, "time": 14.0}
{"step": 50, "knn_top1": 13.0, "time": 90.0}
"""


def small(out: Path) -> PretrainConfig:
    """A config of tiny steps on the digits."""
    return recipe("quick", data="digits", out=out, **SMALL)


def test_throughput_is_computed_from_time_and_step() -> None:
    """40 steps of 32 images in 10 seconds; what the lines say of themselves, and other lines, do not count."""
    found = measure_throughput(map(json.loads, METRICS.splitlines()), batch_size=32)
    assert found == {"images_per_second": 128.0, "steps": 40, "seconds": 10.0}


@pytest.mark.parametrize("kept", [0, 1, 2], ids=str)
def test_too_few_lines_are_refused(kept: int) -> None:
    """One line with a loss tells no speed."""
    with pytest.raises(BadInputError, match="expected two or more"):
        measure_throughput(map(json.loads, METRICS.splitlines()[:kept]), batch_size=32)


def test_no_time_is_refused() -> None:
    """Rather than divided by."""
    lines = [{"step": step, "loss": 1.0, "time": 2.0} for step in (1, 2)]
    with pytest.raises(BadInputError, match="some time apart"):
        measure_throughput(lines, batch_size=32)


def test_the_real_loop_is_timed_and_left(tmp_path: Path) -> None:
    """A thousand steps are planned, a few are done; end to end and on a ready batch."""
    images, config = load("digits")["train"], small(tmp_path)
    whole = time_training(config, images, seconds=0.05)
    resolved = resolve_config(config, images)
    alone = time_training(config, images, seconds=0.05, batches=ReadyBatches(build_batches(resolved, images)[0]))
    for found in (whole, alone):
        assert LEAST <= found["steps"] < 1000
        assert found["images_per_second"] == pytest.approx(32 * found["steps"] / found["seconds"], rel=0.2)
    assert not list(tmp_path.iterdir())  # its run folder was another, and is gone


def test_nothing_is_logged_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is only timed is no run, so a logger of the run that follows hears nothing of it."""
    images, config = load("digits")["train"], dataclasses.replace(small(tmp_path), logger=("mlflow",))
    begun = list[object]()
    monkeypatch.setitem(TRACKERS, "mlflow", begun.append)
    time_training(config, images, seconds=0.0)
    time_step(config, images, seconds=0.0)
    assert not begun


def test_the_speed_is_that_of_a_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that is made to last a tenth of a second gives 320 images per second at most."""
    images, config = load("digits")["train"], small(tmp_path)
    batch = build_batches(resolve_config(config, images), images)[0]

    class Slow:
        """Batches that are waited for."""

        steps_per_epoch = 1000

        def run(self, start: int, stop: int, workers: int) -> Any:
            """The same batch after a pause."""
            for _ in range(start, stop):
                time.sleep(0.1)
                yield batch

    found = time_training(config, images, seconds=0.05, batches=Slow())
    assert 0 < found["images_per_second"] < 321


def test_the_monitor_lets_a_few_steps_pass() -> None:
    """It is called before the first step, too; the first step does not count, and then come at least three."""
    monitor, encoder = timing.stop_after(0.0), Encoder(EncoderPlan("resnet10-w16", image_size=12))
    for _ in range(LEAST + 1):
        assert monitor(encoder) == {}
    with pytest.raises(timing._TimeIsOverError):
        monitor(encoder)


def test_ready_batches_are_one_batch() -> None:
    """As many times as there are steps."""
    batch = Batch(torch.zeros(2, 3, 4, 4), None, torch.arange(2))
    given = list(ReadyBatches(batch).run(3, 7, workers=2))
    assert len(given) == 4
    assert all(each is batch for each in given)


@pytest.mark.parametrize(("device", "every"), [("cpu", 1), ("cuda", 10)])
def test_a_gpu_is_not_waited_for_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, every: int
) -> None:
    """Lines of the log are ten steps apart there; and no comparison comes before what is timed."""
    seen = list[PretrainConfig]()

    def note(training: PretrainConfig, *_: object, **__: object) -> None:
        seen.append(training)
        (training.out / "metrics.jsonl").write_text(METRICS)

    monkeypatch.setattr(timing, "resolve_device", lambda given: device)
    monkeypatch.setattr(timing, "pretrain", note)
    for compiled, expected in (("auto", "off"), ("on", "on")):
        time_training(dataclasses.replace(small(tmp_path), compile=compiled), load("digits")["train"], 1.0)  # type: ignore[arg-type]
        assert (seen[-1].log_every, seen[-1].knn_every, seen[-1].compile) == (every, every, expected)
