"""What pre-training looks at beside its step: a monitor's figures, the run's health, its negatives, damaged images."""

import copy
import math
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from moco.core.dictionary import MemoryBank, Queue
from moco.core.encoder import Encoder, encoder_tensors, load_encoder_tensors
from moco.data.forms import Form
from moco.data.images import Images
from moco.data.replacement import Damage, Replaced
from moco.errors import BadInputError
from moco.interop.metadata import encoder_metadata
from moco.pretraining.best import BestLook
from moco.pretraining.config import PretrainConfig
from moco.pretraining.counts import negatives
from moco.pretraining.health import describe_findings, diagnose
from moco.pretraining.sources import keep_sources
from moco.runtime import distributed
from moco.runtime.checkpoint import File, load_tensors, save_tensors
from moco.runtime.fields import require
from moco.runtime.phases import say_if_slow
from moco.runtime.recent import Recent
from moco.runtime.run import Run
from moco.runtime.runlog import read_events, read_metrics

Monitor = Callable[[Encoder], Mapping[str, float]]
"""A frozen encoder -> figures."""
Checkup = Callable[[Mapping[str, nn.Module]], Mapping[str, float]]
"""What is trained, by name (f_q, f_k, dictionary) -> figures for `health.diagnose`."""

ENCODERS = ("encoder.safetensors", "encoder-partner.safetensors")
"""The files of a run's encoder, and of the second one where each side of the pairs has its own."""
SHOWN_IMAGES = 8
"""How many images of each rank's share of the first batch are logged."""
TRAINING = ("loss", "chance_loss", "contrast_accuracy")
"""Figures of training that a run's health is judged by."""
WATCHED = ("knn_top1", "knn_queries", "retrieval", "retrieval_images")
"""Figures of the monitor that it is judged by."""


@runtime_checkable
class Judge(Protocol):
    """A monitor that also says which images the encoder of its last look had right, (n,) bool."""

    right: Tensor
    by: str
    """What says so, of `health.JUDGED`."""


class Whitening(Protocol):
    """What whitens the features of an encoder."""

    @property
    def figures(self) -> Mapping[str, Any]:
        """What it is and does, for a result."""

    @property
    def sentence(self) -> str:
        """The same for people."""

    def add_to(self, encoder: Encoder) -> None:
        """Let the encoder whiten its features."""


Whitener = Callable[[Encoder], Whitening | None]
"""A frozen encoder -> what whitens its features; None where that does not pay."""


@dataclass
class Watch:
    """Looks at a run beside its step and logs what it finds; every rank looks, since they share the images out."""

    config: PretrainConfig
    run: Run
    images: Images
    monitor: Monitor | None
    checkup: Checkup | None
    whitener: Whitener | None = None

    def __post_init__(self) -> None:
        self.damage = Damage(len(self.images), self.config.batch_size)
        self.best: BestLook | None = None
        labels = self.images.labels
        self.labels = None if labels is None else torch.tensor(labels, device=self.config.device)

    def begin(self, step: int) -> None:
        """Keep what the images are, and take from the log the first look and which images could not be read."""
        config = self.config

        def read() -> tuple[str, list[dict[str, Any]], dict[str, float]]:
            return keep_sources(config, self.images), read_events(config.out, "replaced"), read_first_look(config.out)

        changed, events, before = distributed.from_first(read)
        if step and before:
            self.run.result["before"] = before
        self.damage.names = {
            event["index"]: str(event.get("path")) for event in events if type(event.get("index")) is int
        }
        self.run.note_changed_data(step, changed)
        if config.keep == "last":
            return
        if not isinstance(self.monitor, Judge):
            self.run.log.say("--keep best needs a monitor, and there is none: the run keeps the last encoder")
        elif step:
            self.best = distributed.from_first(lambda: BestLook.read(config.out))

    def look(self, step: int) -> None:
        """Log what monitor and check-up say after `step` steps; before the first there is nothing to judge."""
        with say_if_slow(f"step {step}: evaluating the encoder"):
            if self.config.knn_every and self.monitor is not None:
                self._evaluate(self.monitor, step)
            if step:
                self._examine(step)

    def log(self, step: int, recent: Recent, last: Mapping[str, float], more: Mapping[str, Tensor]) -> None:
        """Log means over the steps since the last line, and figures of the `last` one, `more` of them on a device.

        Symmetric losses are halved, so that log(K+1) is chance.
        """
        means, speed, waiting = recent.summary(step, more)
        loss, accuracy = means.pop("loss"), means.pop("contrast_accuracy")
        chance = math.log(negatives(self.config) + 1)
        figures = {"loss": loss, "chance_loss": chance, "contrast_accuracy": accuracy, **last, **means}
        if self.run.scaler.is_enabled():
            figures["loss_scale"] = self.run.scaler.get_scale()
        measured = {"images_per_second": round(speed * self.config.batch_size, 1), "waiting_for_data": waiting}
        self.run.log.metrics(step, {"epoch": self._epoch(step), **figures, **measured})
        self.run.result.update(figures)

    def announce(self, step: int, replaced: Sequence[Replaced]) -> None:
        """Log the images of the batch that makes `step`, on any rank, that others stand in for: once each.

        Raises BadInputError, on every rank, where there are too many of them.
        """
        for one in self.damage.gather(replaced):
            self.run.log.event("replaced", step=step, index=one.index, path=one.name, by=one.by, reason=one.reason)
            self.run.log.say(f"step {step}: {one.sentence}")
        try:
            self.damage.check(step)
        except BadInputError:
            self.run.fail(step)
            raise

    def _evaluate(self, monitor: Monitor, step: int) -> None:
        encoder = self.run.modules["f_q"]
        assert isinstance(encoder, Encoder)
        with distributed.average_statistics(encoder):
            figures = dict(monitor(encoder))
            if self.config.keep == "best" and isinstance(monitor, Judge):
                figures["judged_top1"] = self._compare(encoder, step, monitor.right)
        self.run.log.metrics(step, figures)
        if step == 0:
            self.run.result["before"] = figures
        self.run.result.update(figures)

    def _compare(self, encoder: Encoder, step: int, right: Tensor) -> float:
        """Keep the encoder of this look where it is the best so far; return the percentage of images it has right."""

        def compare() -> BestLook:
            file, before = pack_encoder(self.config, encoder, step, self.images.form), self.best
            return BestLook.begin(file, right) if step == 0 or before is None else before.compare(file, step, right)

        self.best = distributed.from_first(compare)
        return round(100 * float(right.float().mean()), 3)

    def end(self, step: int) -> None:
        """Let the run end with the encoder that it should, after `step` steps."""
        self._keep_best(step)
        self._whiten(step)

    def _keep_best(self, step: int) -> None:
        """Let the run end with the encoder of its best look; the one after `step` steps, the last, lies beside it."""
        best, encoder = self.best, self.run.modules["f_q"]
        if self.config.keep != "best" or best is None:
            return
        assert isinstance(encoder, Encoder)
        self.run.wait()
        with distributed.average_statistics(encoder):
            distributed.from_first(lambda: best.finish(pack_encoder(self.config, encoder, step, self.images.form)))
        by = self.monitor.by if isinstance(self.monitor, Judge) else "neighbours"
        self.run.log.say(best.describe(step, by))
        self.run.result["kept"] = {**best.figures(step), "by": by}

    def _whiten(self, step: int) -> None:
        """Let the encoder that the run ends with whiten its features, where that pays: the first rank decides."""
        if self.whitener is None:
            return
        self.run.wait()
        encoder = self.run.modules["f_q"]
        assert isinstance(encoder, Encoder)
        with distributed.average_statistics(encoder), say_if_slow("whitening the features"):
            file = pack_encoder(self.config, encoder, step, self.images.form)
            ended = copy.deepcopy(encoder)
            if self.best is not None:
                tensors, metadata = distributed.from_first(lambda: load_tensors(file.path))
                load_encoder_tensors(ended, tensors)
                file = file._replace(metadata=metadata)
            ended.whitening = nn.Identity()  # of an earlier call, which was interrupted here
            found = self.whitener(ended)

        def keep() -> tuple[str, Mapping[str, Any]] | None:
            if found is None:
                return None
            found.add_to(ended)
            save_tensors(file.path, encoder_tensors(ended), file.metadata)
            return found.sentence, found.figures

        kept = distributed.from_first(keep)
        if kept is not None:
            self.run.log.say(kept[0])
            self.run.result["whitened"] = kept[1]

    def _examine(self, step: int) -> None:
        """Say in plain words how the run does; where no monitor looks, its modules are not examined either."""
        config, run = self.config, self.run
        figures = {"filled": round(measure_fill(run.modules["dictionary"], config.batch_size), 2)}
        if self.checkup is not None and config.knn_every:
            with distributed.average_statistics(*run.modules.values()):
                figures |= self.checkup(run.modules)
        last = {name: run.result[name] for name in (*TRAINING, *WATCHED) if name in run.result}
        last |= {"epoch": step * config.batch_size / len(self.images), "images": len(self.images)}
        before = run.result.get("before", {})
        for name, then in (("knn_top1", "knn_before"), ("retrieval", "retrieval_before")):
            last |= {then: before[name]} if name in before else {}
        findings = diagnose(config, step, {**last, **figures})
        text, found = describe_findings(findings), {finding.name: finding.condition for finding in findings}
        run.log.health(step, text, found, figures)
        run.result.update(figures, health=text, findings=list(found), conditions=list(found.values()))

    def _epoch(self, step: int) -> float:
        return round(step * self.config.batch_size / len(self.images), 4)


def read_first_look(run: Path) -> dict[str, float]:
    """Read what the monitor saw before the first step."""
    lines = (line for line in read_metrics(run) if line.get("step") == 0 and "event" not in line)
    first = {name: value for name, value in next(lines, {}).items() if name not in ("step", "time")}
    return {name: value for name, value in first.items() if value is None or type(value) in (int, float)}


def measure_fill(dictionary: nn.Module, batch_size: int) -> float:
    """Measure how much of a queue or bank, in percent, comes from images; the rest are the initial random vectors."""
    if isinstance(dictionary, Queue) and dictionary.size:
        return 100 * float((dictionary.written >= 0).float().mean())
    if isinstance(dictionary, MemoryBank):  # an epoch takes each image once
        return min(100.0, 100 * dictionary.step * batch_size / len(dictionary.features))
    return 100.0


def log_ranks(run: Run, step: int, index: Tensor) -> None:
    """Log where each rank runs, its rows of the global batch of `step`, and its first images; index (n,) is its part.

    Nothing is logged where there is one rank.
    """
    if distributed.world_size() == 1:
        return
    rows = [distributed.rank() * len(index), (distributed.rank() + 1) * len(index)]
    first = index[:SHOWN_IMAGES].tolist()
    own = {"host": socket.gethostname(), "pid": os.getpid(), "rows": rows, "first": first}
    run.log.event("ranks", step=step, ranks=distributed.gather_values(own))


def pack_encoder(
    config: PretrainConfig, f_q: Encoder, step: int, form: Form | None = None, name: str = ENCODERS[0]
) -> File:
    """Pack an encoder of the run as a file of its own."""
    described = encoder_metadata(f_q.plan, require(config.mean), require(config.std), step, config.white_level, form)
    return File(config.out / name, encoder_tensors(f_q), {**described, "kind": "encoder"})
