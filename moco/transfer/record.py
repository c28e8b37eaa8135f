"""What a transfer run leaves behind and goes on from: checkpoints, metrics, status, the evaluation."""

import json
import time
from typing import Any

import torch
from torch import Tensor, nn

from moco.data import fingerprint
from moco.errors import DivergedError
from moco.runtime import distributed
from moco.runtime.configfile import to_json
from moco.runtime.device import peak_memory
from moco.runtime.keeping import Checkpoints
from moco.runtime.randomness import Stream, seed_of
from moco.runtime.runlog import RunLog, write_text
from moco.runtime.state import rank_tensors
from moco.transfer.batches import TrainingBatches
from moco.transfer.config import TransferConfig
from moco.transfer.evaluation import evaluate, pictures, precise_statistics
from moco.transfer.examples import Examples, files_of
from moco.transfer.recipes import TASKS

RESULT = "transfer"
"""The name of the file in `evaluations/`."""


class Record:
    """Keeps the record of one run in its folder; only the first rank writes."""

    def __init__(
        self, config: TransferConfig, model: nn.Module, optimizer: torch.optim.SGD, log: RunLog,
        batches: TrainingBatches, test: Examples,
    ) -> None:  # fmt: skip
        self.config, self.model, self.log, self.batches, self.test = config, model, log, batches, test
        self.checkpoints = Checkpoints(config.out, {"model": model}, optimizer, log)
        self.result: dict[str, Any] = {"run": str(config.out), "task": config.task}
        self._recent: list[dict[str, Tensor]] = []
        self._since = time.monotonic()

    def restore(self) -> int:
        """Take up the newest sound checkpoint of the folder and return its step; 0 where there is none."""
        step, _ = self.checkpoints.begin(to_json(self.config))
        changed = distributed.from_first(lambda: keep_fingerprint(self.config, self.batches.examples, self.test))
        if changed:
            self.log.event("data_changed", step=step, what=changed)
            self.log.say(f"going on with other files than before, as told: {changed}")
        self.log.status("running", step=step)
        return step

    def diverged(self, step: int, loss: Tensor, gradient_norm: Tensor) -> DivergedError:
        """Close the record of a run that a NaN or an infinity ends before it spreads; nothing is overwritten."""
        self.checkpoints.diverged(step)
        return DivergedError(
            f"{self.config.out}: loss {float(loss):g}, gradient norm {float(gradient_norm):g} at step {step}: the last "
            f"good checkpoint is kept; start again with a smaller --lr (now {self.config.lr:g}) or more --warmup-steps"
        )

    def after_step(self, step: int, losses: dict[str, Tensor], gradient_norm: Tensor, lr: float, *, save: bool) -> None:
        """Note what the step that made `step` of them gave; log, save and evaluate what is due."""
        config, last = self.config, step == self.config.max_steps
        if config.log_every:
            self._recent.append({name: value.detach() for name, value in losses.items()})
            if step % config.log_every == 0 or last:
                self._log_recent(step, {"lr": lr, "gradient_norm": float(gradient_norm)})
        self.log.progress(step)
        if save or last or (config.checkpoint_every and step % config.checkpoint_every == 0):
            of_ranks = rank_tensors({"model": self.model})
            with distributed.averaged(self.model):
                self.checkpoints.save(step, {"task": config.task, "classes": list(self.test.classes)}, of_ranks)
        if not save:  # else when the run goes on
            self._evaluate_if_due(step)
        self.checkpoints.writer.check()

    def catch_up(self, step: int) -> None:
        """Evaluate where that is due after the steps of the checkpoint: what came of it is cut off, or never came."""
        self._evaluate_if_due(step)
        self._since = time.monotonic()

    def stop(self, step: int, exit_code: int) -> dict[str, Any]:
        """Close the record of a run that was asked to stop after `step` steps, its checkpoint being saved."""
        self.checkpoints.stop(step, exit_code)
        return {**self.result, "step": step, "seconds": round(self.log.seconds, 1), "exit_code": exit_code}

    def finish(self, step: int) -> dict[str, Any]:
        """Evaluate, close the record and return the run's figures."""
        figures, shown = self._evaluate(keep=True)
        self.checkpoints.writer.wait()
        headline = {name: figures[name] for name in TASKS[self.config.task].figures if name in figures}
        self.log.metrics(step, {name: value for name, value in figures.items() if "/" not in name})
        memory = peak_memory(self.config.device) / 2**20
        self.result.update(headline, step=step, seconds=round(self.log.seconds, 1), peak_memory_mib=round(memory))
        if self.log.active:
            keep(self.config, {**self.result, "test": len(self.test), "figures": figures, "pictures": shown})
        self.log.status("done", step=step, exit_code=0, result=self.result)
        distributed.barrier()
        return self.result

    def _evaluate_if_due(self, step: int) -> None:
        """Evaluate and log the figures, in the middle of a run; that time does not count for images per second."""
        every = self.config.evaluate_every
        if every and step % every == 0 and 0 < step < self.config.max_steps:
            started = time.monotonic()
            self.log.metrics(step, self._evaluate()[0])
            self._since += time.monotonic() - started

    def _evaluate(self, *, keep: bool = False) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Figures of the test images, with precise statistics that are the mean over the ranks; and pictures."""
        config, shown = self.config, list[dict[str, Any]]()
        count = min(config.precise_bn, config.max_steps)
        self.log.say(f"evaluating on {min(config.test_images or len(self.test), len(self.test))} images")
        random_state = torch.get_rng_state()
        # the regions behind precise statistics: not from what came before, which a run that goes on has not drawn
        drawn_from = seed_of(seed=config.seed, stream=Stream.TRANSFER_STEP, epoch=0, index=1 + distributed.rank())
        torch.manual_seed(drawn_from)
        batches = self.batches.run(0, count, config.workers or 0)
        with precise_statistics(self.model, batches, config), distributed.averaged(self.model):
            figures = evaluate(self.model, self.test, config)
            if keep and self.log.active:
                shown = pictures(self.model, self.test, config)
        self.model.train()
        torch.set_rng_state(random_state)
        return figures, shown

    def _log_recent(self, step: int, values: dict[str, float]) -> None:
        """Log the means over the steps since the last line, and over the ranks."""
        names = list(self._recent[0])
        columns = torch.stack([torch.stack([losses[name].float() for losses in self._recent]).mean() for name in names])
        means = dict(zip(names, distributed.mean(columns).tolist(), strict=True))
        now, config = time.monotonic(), self.config
        speed = len(self._recent) * config.batch_size / (now - self._since)
        epoch = round(self.batches.passes.epoch(step * config.batch_size), 4)
        figures = {"epoch": epoch, "loss": sum(means.values()), **means, **values}
        self.log.metrics(step, {**figures, "images_per_second": round(speed, 2)})
        self.result.update(loss=figures["loss"])
        self._recent, self._since = [], now


def keep_fingerprint(config: TransferConfig, train: Examples, test: Examples) -> str:
    """Store what the files of a run are, as pre-training does; returns what changed, where that was accepted."""
    files = files_of(config.data, train, test)
    return fingerprint.keep(config.out, files, accept=config.accept_changed_data, noun="files")


def require_same_files(config: TransferConfig, train: Examples, test: Examples) -> None:
    """Raise BadInputError where the run in `config.out` began with other files, unless that is accepted."""
    files = files_of(config.data, train, test)
    fingerprint.require_same(config.out, files, accept=config.accept_changed_data, noun="files")


def keep(config: TransferConfig, result: dict[str, Any]) -> None:
    """Write a result to `evaluations/transfer.json` of its run folder."""
    content = {
        **result, "weights": config.weights, "data": config.data, "config": json.loads(to_json(config)),
    }  # fmt: skip
    (config.out / "evaluations").mkdir(exist_ok=True)
    write_text(config.out / "evaluations" / f"{RESULT}.json", json.dumps(content, indent=2) + "\n")
