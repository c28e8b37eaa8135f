"""The checkpoints of a run: the newest sound one is taken up, later ones are written while training goes on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moco.runtime import distributed
from moco.runtime.checkpoint import (
    KEPT,
    Metadata,
    Newest,
    Writer,
    checkpoint_path,
    newest_checkpoint,
    remove_old_checkpoints,
    save_tensors,
    snapshot,
)
from moco.runtime.runlog import RunLog, write_text
from moco.runtime.state import load_state_tensors, state_tensors, withhold


class Checkpoints:
    """Keeps what a run trains, `modules` by name, and its optimiser; only the first rank writes."""

    def __init__(self, run: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.SGD, log: RunLog) -> None:
        self.run, self.modules, self.optimizer, self.log = run, modules, optimizer, log
        self.writer = Writer()
        self._sound: list[Path] = []  # the checkpoints that were read or written here, oldest first

    def restore(self) -> tuple[int, float]:
        """Take up the newest sound one and return its step and seconds; 0 and 0 where there is none."""
        whole = dict[str, Tensor]()

        def read() -> Newest | None:
            found = newest_checkpoint(self.run)
            if found is not None:
                whole.update(withhold(found[1], self.modules, str(found[0])))
            return found

        newest = distributed.from_first(read)
        if newest is None:
            return 0, 0.0
        path, tensors, metadata, refused = newest
        for reason in refused:
            self.log.say(f"passed over: {reason}")
        load_state_tensors({**tensors, **whole}, self.modules, self.optimizer, str(path))
        self._sound = [path]
        return int(metadata["step"]), float(metadata["seconds"])

    def begin(self, config: str) -> tuple[int, dict[str, Any]]:
        """Take up the newest one, cut the metrics back to its step, and write `config` where there is none yet.

        Returns the step, and the last line of metrics with a loss.
        """
        step, seconds = self.restore()
        path, last = self.run / "config.json", dict[str, Any]()
        if path.is_file():
            last = self.log.resume(step, seconds)
        elif self.log.active:
            write_text(path, config)
        return step, last

    def diverged(self, step: int) -> None:
        """Close the record of a run that a NaN or an infinity ends before it spreads; nothing is overwritten."""
        self.writer.wait()
        self.log.event("diverged", step=step)
        self.log.status("diverged", step=step, exit_code=3)

    def stop(self, step: int, exit_code: int) -> None:
        """Close the record of a run that was asked to stop after `step` steps, its checkpoint being saved."""
        self.writer.wait()
        self.log.event("stopped", step=step)
        self.log.say(f"stopped after step {step}, saved: go on with the same command, or with moco resume")
        self.log.status("stopped", step=step, exit_code=exit_code)
        distributed.barrier()  # when one process ends torchrun ends the others: not while the first is writing

    def save(
        self, step: int, described: Metadata, of_ranks: Mapping[str, Tensor], first: Callable[[], None] | None = None
    ) -> None:
        """Copy the state now; the copy is written while training goes on, and `first` writes what belongs beside it.

        `of_ranks` is what `rank_tensors` gave: from before the running statistics were averaged, where they are.
        Where a run is killed between the two, it does the last steps again and writes both.
        """
        if not self.log.active:
            return
        own = snapshot(state_tensors(self.modules, self.optimizer))
        tensors = own | {name: value.cpu() for name, value in of_ranks.items()}
        seconds = self.log.seconds

        def write() -> None:
            if first is not None:
                first()
            path = checkpoint_path(self.run, step)
            save_tensors(path, tensors, {**described, "step": step, "kind": "checkpoint", "seconds": seconds})
            self._sound = [*self._sound, path][-KEPT:]
            remove_old_checkpoints(self.run, self._sound)
            self.log.status("running", step=step)

        self.writer.submit(write)
