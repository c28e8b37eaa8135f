"""What a run leaves behind and goes on from: checkpoints, the encoder, lines of metrics, its status."""

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moco.core.dictionary import Keys, MemoryBank, Queue
from moco.core.encoder import Encoder, encoder_tensors
from moco.core.loss import Contrast
from moco.core.negatives import negative_figures
from moco.data import fingerprint
from moco.data.images import Images
from moco.data.replacement import Damage, Replaced
from moco.errors import BadInputError, DivergedError, one_line
from moco.interop.checkpoints import encoder_metadata
from moco.pretraining.config import PretrainConfig, negatives
from moco.pretraining.health import diagnose, summary
from moco.runtime import distributed
from moco.runtime.checkpoint import save_tensors, snapshot
from moco.runtime.configfile import to_json
from moco.runtime.device import peak_memory
from moco.runtime.fields import settled
from moco.runtime.keeping import Checkpoints
from moco.runtime.runlog import RunLog, read_events
from moco.runtime.state import rank_tensors

Monitor = Callable[[Encoder], Mapping[str, float]]
"""A frozen encoder -> figures."""
SHOWN_IMAGES = 8
"""How many images of each rank's share of the first batch are logged."""

Checkup = Callable[[Mapping[str, nn.Module]], Mapping[str, float]]
"""What is trained, by name (f_q, f_k, dictionary) -> figures for `health.diagnose`."""

TRAINING = ("loss", "chance_loss", "contrast_accuracy")
"""Figures of training that a run's health is judged by."""


class Record:
    """Keeps the record of one run in its folder; only the first rank writes.

    `modules` is what is trained, by name; its `f_q` is the encoder.
    """

    def __init__(
        self,
        config: PretrainConfig,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.SGD,
        log: RunLog,
        images: Images,
        monitor: Monitor | None,
        checkup: Checkup | None,
    ) -> None:
        self.config, self.modules, self.log = config, modules, log
        self.monitor, self.checkup = monitor, checkup
        self.images, self.chance_loss = images, math.log(negatives(config) + 1)
        self.damage = Damage(len(images), config.batch_size)
        encoder = modules["f_q"]
        assert isinstance(encoder, Encoder)
        self.encoder = encoder
        self.result: dict[str, Any] = {"run": str(config.out)}
        self.checkpoints = Checkpoints(config.out, modules, optimizer, log)
        self.writer = self.checkpoints.writer
        self._recent: list[Contrast] = []
        self._negatives = dict[str, float]()
        self._recent_steps, self._recent_since = 0, time.monotonic()
        self._ranks_known = distributed.world_size() == 1

    def restore(self) -> int:
        """Take up the newest sound checkpoint of the folder and return its step; 0 where there is none."""
        step, last = self.checkpoints.begin(to_json(self.config))
        self.result.update({name: last[name] for name in TRAINING if name in last})
        earlier = distributed.from_first(lambda: read_events(self.config.out, "replaced"))
        self.damage.names = {event["index"]: str(event.get("path")) for event in earlier if "index" in event}
        changed = distributed.from_first(self._keep_fingerprint)
        if changed:
            self.log.event("data_changed", step=step, what=changed)
            self.log.say(f"going on with other images than before, as told: {changed}")
        self.log.status("running", step=step)
        return step

    def _keep_fingerprint(self) -> str:
        return fingerprint.keep(self.config.out, self.images, accept=self.config.accept_changed_data)

    def replaced(self, step: int, replaced: Sequence[Replaced], *, on_any_rank: bool) -> None:
        """Note the images of the batch that makes `step`, on any rank, that others stand in for: once each.

        Raises BadInputError, on every rank, where there are too many of them.
        """
        if not on_any_rank:
            return
        for one in self.damage.add(one for part in distributed.gather_values(replaced) for one in part):
            self.log.event("replaced", step=step, index=one.index, path=one.name, by=one.by, reason=one.reason)
            self.log.say(one_line(f"step {step}: {one.by} stands in for {one.reason}"))
        try:
            self.damage.check(step)
        except BadInputError:
            self.writer.wait()
            self.log.status("failed", step=step, exit_code=2)
            raise

    def before_step(self, step: int, index: Tensor) -> None:
        """Ask the monitor, where it is due after `step` steps; that time does not count for images per second.

        Before the first step that several ranks do, log how they share the batch; index (n,) is this rank's part.
        """
        if not self._ranks_known:
            self._ranks_known = True
            self._log_ranks(step, index)
        if self.config.knn_every and step % self.config.knn_every == 0:
            started = time.monotonic()
            self._watch(step)
            if step:  # before the first there is nothing to judge
                self._examine(step)
            self._recent_since += time.monotonic() - started

    def diverged(self, step: int, contrasts: list[Contrast], gradient_norm: Tensor) -> DivergedError:
        """Close the record of a run that a NaN or an infinity ends before it spreads; nothing is overwritten."""
        loss = sum(float(contrast.loss.detach()) for contrast in contrasts) / len(contrasts)
        self.checkpoints.diverged(step)
        return DivergedError(
            f"{self.config.out}: loss {loss:g}, gradient norm {float(gradient_norm):g} at step {step}: the last "
            f"good checkpoint is kept; start again with a smaller --lr (now {self.config.lr:g}) or --precision fp32"
        )

    def _logs(self, step: int) -> bool:
        """Whether a line of metrics is due after `step` steps."""
        every = self.config.log_every
        return bool(every) and (step % every == 0 or step == self.config.max_steps)

    def look_at_negatives(self, step: int, q: Tensor, keys: Keys, index: Tensor) -> None:
        """Where the step that makes `step` of them is logged, see how the negatives share the loss's gradient."""
        if self._logs(step):
            self._negatives = negative_figures(q, keys, self.config.temperature, index, self.images.labels)

    def after_step(self, step: int, contrasts: list[Contrast], gradient_norm: Tensor, lr: float, *, save: bool) -> None:
        """Note what the step that made `step` of them gave; log and save what is due."""
        if self.config.log_every:
            self._recent += [Contrast(*(value.detach() for value in contrast)) for contrast in contrasts]
            self._recent_steps += 1
        config, last = self.config, step == self.config.max_steps
        if self._logs(step):
            self._log_recent(step, {"lr": lr, "gradient_norm": float(gradient_norm)})
        self.log.progress(step)
        if save or last or (config.checkpoint_every and step % config.checkpoint_every == 0):
            self._save(step)
        self.writer.check()

    def finish(self, step: int) -> dict[str, Any]:
        """Ask the monitor a last time, close the record and return the run's figures."""
        if self.config.knn_every:
            self._watch(step)
        self._examine(step)
        self.writer.wait()
        memory = peak_memory(self.config.device) / 2**20
        self.result.update(step=step, seconds=round(self.log.seconds, 1), peak_memory_mib=round(memory))
        self.log.status("done", step=step, exit_code=0, result=self.result)
        distributed.barrier()
        return self.result

    def stop(self, step: int, exit_code: int) -> dict[str, Any]:
        """Close the record of a run that was asked to stop after `step` steps, its checkpoint being saved."""
        self.checkpoints.stop(step, exit_code)
        self.result.update(step=step, seconds=round(self.log.seconds, 1), exit_code=exit_code)
        return self.result

    def _log_ranks(self, step: int, index: Tensor) -> None:
        """Log where each rank runs, which rows of the global batch it takes, and the first images it sees."""
        rows = [distributed.rank() * len(index), (distributed.rank() + 1) * len(index)]
        first = index[:SHOWN_IMAGES].tolist()
        own = {"host": socket.gethostname(), "pid": os.getpid(), "rows": rows, "first": first}
        self.log.event("ranks", step=step, ranks=distributed.gather_values(own))

    def _log_recent(self, step: int, values: dict[str, float]) -> None:
        """Log the means over the steps since the last line; symmetric losses are halved, so that log(K+1) is chance."""
        recent = torch.stack([torch.stack(column).mean() for column in zip(*self._recent, strict=True)])
        own = torch.cat([recent, recent.new_tensor(list(self._negatives.values()))])
        loss, accuracy, *seen = distributed.mean(own).tolist()
        now = time.monotonic()
        speed = self._recent_steps * self.config.batch_size / (now - self._recent_since)
        epoch = step * self.config.batch_size / len(self.images)
        figures = {"loss": loss, "chance_loss": self.chance_loss, "contrast_accuracy": accuracy, **values}
        figures |= dict(zip(self._negatives, seen, strict=True))
        self.log.metrics(step, {"epoch": round(epoch, 4), **figures, "images_per_second": round(speed, 1)})
        self.result.update(figures)
        self._recent, self._recent_steps, self._recent_since = [], 0, now

    def _save(self, step: int) -> None:
        """Copy the state now; the copy is written while training goes on."""
        described = encoder_metadata(
            self.encoder.plan, settled(self.config.mean), settled(self.config.std), step
        )  # fmt: skip
        of_ranks = rank_tensors(self.modules)  # before they are averaged: each rank goes on with its own
        with self._averaged():
            encoder = snapshot(encoder_tensors(self.encoder)) if self.log.active else {}

            def write_encoder() -> None:
                save_tensors(self.config.out / "encoder.safetensors", encoder, {**described, "kind": "encoder"})

            self.checkpoints.save(step, described, of_ranks, write_encoder)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """With the running statistics of both encoders being their means over the ranks, as long as it lasts."""
        with contextlib.ExitStack() as stack:
            for name in ("f_q", "f_k"):  # in one order on all ranks
                if name in self.modules:
                    stack.enter_context(distributed.averaged(self.modules[name]))
            yield

    def _watch(self, step: int) -> None:
        """Let the monitor look at the encoder, on every rank: it shares the images out."""
        if self.monitor is None:
            return
        with distributed.averaged(self.encoder):
            figures = dict(self.monitor(self.encoder))
        self.log.metrics(step, figures)
        if step == 0:
            self.result["before"] = figures
        self.result.update(figures)

    def _examine(self, step: int) -> None:
        """Say in plain words how the run does; every rank examines its modules, only where the monitor looks."""
        figures = {"filled": round(filled(self.modules["dictionary"], self.config.batch_size), 2)}
        if self.checkup is not None and self.config.knn_every:
            with self._averaged():
                figures |= self.checkup(self.modules)
        last = {name: self.result[name] for name in TRAINING if name in self.result}
        last["epoch"] = step * self.config.batch_size / len(self.images)
        findings = diagnose(self.config, step, {**last, **figures})
        text, names = summary(findings), [finding.name for finding in findings]
        self.log.health(step, text, names, figures)
        self.result.update(figures, health=text, findings=names)


def filled(dictionary: nn.Module, batch_size: int) -> float:
    """How much of a queue or a bank, in percent, comes from images; the rest are the random vectors of the start."""
    if isinstance(dictionary, Queue):
        return 100 * float((dictionary.written >= 0).float().mean())
    if isinstance(dictionary, MemoryBank):  # an epoch takes each image once
        return min(100.0, 100 * dictionary.step * batch_size / len(dictionary.features))
    return 100.0
