"""A long training on labels that is stopped: its state lies with the run, and the same command goes on."""

import hashlib
import json
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from moco.data.fingerprint import fingerprint
from moco.data.images import Images
from moco.data.loader import Batch, ViewBatches
from moco.data.replacement import Damage
from moco.errors import BadInputError, StoppedError, one_line
from moco.evaluation.config import FinetuneConfig, KeptConfig, LinearConfig, result_name
from moco.evaluation.refusals import kept_in
from moco.runtime import distributed
from moco.runtime.checkpoint import Metadata, load_tensors, save_tensors
from moco.runtime.configfile import to_json
from moco.runtime.progress import shown
from moco.runtime.signals import StopRequest
from moco.runtime.state import load_state_tensors, rank_tensors, state_tensors

ENDING = ".unfinished.safetensors"
SAVE_EVERY = 600.0
"""Seconds between two saves: what a crash can cost."""
FREE = frozenset({"weights", "data", "like", "baseline", "supervised_epochs", "save", "workers", "threads", "json"})
"""Settings that may be others when a training goes on; weights and images are known by what they hold."""


@dataclass
class Unfinished:
    """The state of a training on labels, from step to step; in a file, where it has one, until its result is kept."""

    path: Path | None = None
    about: Metadata = field(default_factory=dict)
    """What the training depends on."""
    seconds: float = 0.0
    """That earlier commands took for it."""

    def batches(
        self, batches: ViewBatches, steps: int, workers: int, modules: Mapping[str, nn.Module],
        optimizer: torch.optim.SGD, title: str | None,
    ) -> Iterator[tuple[int, Batch]]:  # fmt: skip
        """The steps that are left, each with its batch: the modules and the optimizer begin where the file says.

        Their state is saved between two steps where that is due. Raises StoppedError, saved, after a step in which a
        signal came; without a file a signal does what it always did.
        """
        start = self._take_up(modules, optimizer)
        loaded = shown(batches.run(start, steps, workers), title, steps - start)
        if self.path is None:
            yield from enumerate(announced(loaded, batches), start)
            return
        device = next(parameter.device.type for module in modules.values() for parameter in module.parameters())
        began = saved = time.monotonic()
        with StopRequest() as request:
            for step, batch in enumerate(announced(loaded, batches), start):
                yield step, batch
                now = time.monotonic()
                stopping, due = distributed.on_any_rank(device, request.noted, now - saved > SAVE_EVERY)
                if stopping or due:
                    self._save(self.path, step + 1, self.seconds + now - began, modules, optimizer)
                    saved = now
                if stopping:
                    told = f"stopped after step {step + 1} of {steps}, saved: go on with the same command"
                    raise StoppedError(f"{self.path.name.removesuffix(ENDING)}: {told}")

    def _take_up(self, modules: Mapping[str, nn.Module], optimizer: torch.optim.SGD) -> int:
        """The first step that is left."""
        found = distributed.from_first(self._read)
        if found is None:
            return 0
        tensors, facts = found
        load_state_tensors(tensors, modules, optimizer, str(self.path))
        self.seconds = float(facts["seconds"])
        return int(facts["step"])

    def _read(self) -> tuple[dict[str, Tensor], Metadata] | None:
        if self.path is None or not self.path.is_file():
            return None
        try:
            tensors, facts = load_tensors(self.path)
        except BadInputError as error:
            warnings.warn(f"{error}: the training begins anew", stacklevel=2)
            return None
        if facts.get("about") != self.about:
            told = "holds a training with other settings, weights or images: this one begins anew"
            warnings.warn(f"{self.path} {told}", stacklevel=2)
            return None
        return tensors, facts

    def _save(
        self, path: Path, step: int, seconds: float, modules: Mapping[str, nn.Module], optimizer: torch.optim.SGD
    ) -> None:
        of_ranks = rank_tensors(modules)
        if distributed.rank() == 0:
            tensors = state_tensors(modules, optimizer) | of_ranks
            save_tensors(path, tensors, {"about": self.about, "step": step, "seconds": seconds})
        distributed.barrier()  # when one process ends torchrun ends the others: not while the first is writing


def unfinished(config: LinearConfig | FinetuneConfig, backbone: str, train: Images, part: str = "") -> Unfinished:
    """What is left of a training of the backbone of this digest; with weights that are no run's there is no file."""
    folder = kept_in(config)
    if folder is None:
        return Unfinished()
    settings = {name: value for name, value in json.loads(to_json(config)).items() if name not in FREE}
    seen, labels = fingerprint(train), b"" if train.labels is None else train.labels.tobytes()
    images = hashlib.sha256(seen.names.tobytes() + seen.contents.tobytes() + labels).hexdigest()
    about = {"settings": settings, "backbone": backbone, "images": [seen.kind, seen.images, images]}
    return Unfinished(folder / f"{result_name(config)}{part}{ENDING}", about)


def forget(config: KeptConfig, folder: Path) -> None:
    """Remove what was left of the trainings of an evaluation, whose result is kept now."""
    for path in folder.glob(f"{result_name(config)}*{ENDING}"):
        path.unlink(missing_ok=True)


def announced(loaded: Iterator[Batch], batches: ViewBatches) -> Iterator[Batch]:
    """The batches, with a warning for each image that another stands in for, once."""
    damage = Damage(len(batches.images), batches.batch_size)
    for batch in loaded:
        for one in damage.add(batch.replaced):
            warnings.warn(one_line(f"{one.by} stands in for {one.reason}"), stacklevel=2)
        yield batch
