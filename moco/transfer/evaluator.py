"""What a transfer run does beside its step: it logs, evaluates on the test images, and keeps the result."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from moco.data import fingerprint
from moco.errors import counted
from moco.runtime import distributed
from moco.runtime.configfile import to_json
from moco.runtime.randomness import Stream, seed_of
from moco.runtime.recent import Recent
from moco.runtime.run import Run
from moco.runtime.runlog import write_text
from moco.runtime.signals import StopRequest
from moco.transfer.batches import TrainingBatches
from moco.transfer.config import TransferConfig
from moco.transfer.evaluation import draw_predictions, evaluate_model, use_precise_statistics
from moco.transfer.examples import Examples, files_of
from moco.transfer.recipes import TASKS

RESULT = "transfer"
"""The name of the file in `evaluations/`."""


@dataclass(frozen=True)
class Evaluator:
    """Logs what the steps of a run give, and evaluates its model; every rank takes part."""

    config: TransferConfig
    run: Run
    batches: TrainingBatches
    test: Examples
    request: StopRequest
    """Ends an evaluation at once."""

    def begin(self, step: int) -> None:
        """Keep what the files of the run are; log what changed in them before `step`, where that was accepted."""
        changed = distributed.from_first(lambda: keep_file_fingerprint(self.config, self.batches.examples, self.test))
        self.run.note_changed_data(step, changed, "files")

    def log(self, step: int, recent: Recent, last: Mapping[str, float]) -> None:
        """Log means over the steps up to `step` since the last line, and figures of the `last` step."""
        losses, speed, waiting = recent.summary(step)
        epoch = round(self.batches.passes.epoch(step * self.config.batch_size), 4)
        figures = {"epoch": epoch, "loss": sum(losses.values()), **losses, **last}
        measured = {"images_per_second": round(speed * self.config.batch_size, 2), "waiting_for_data": waiting}
        self.run.log.metrics(step, {**figures, **measured})
        self.run.result.update(loss=figures["loss"])

    def evaluate(self, step: int) -> None:
        """Log the figures after `step` steps, in the middle of a run."""
        self.run.log.metrics(step, self._evaluate()[0])

    def finish(self, step: int) -> dict[str, Any]:
        """Log the figures after the last step, and keep them with pictures; return the run's figures."""
        figures, shown = self._evaluate(with_pictures=True)
        self.run.log.metrics(step, {name: value for name, value in figures.items() if "/" not in name})
        self.run.result.update({name: figures[name] for name in TASKS[self.config.task].figures if name in figures})
        more = {"test": len(self.test), "figures": figures, "pictures": shown}
        return self.run.finish(
            step, self.config.device, lambda result: keep_transfer_result(self.config, {**result, **more})
        )

    def _evaluate(self, *, with_pictures: bool = False) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Figures of the test images, with precise statistics that are the mean over the ranks; and pictures."""
        config, model, shown = self.config, self.run.modules["model"], list[dict[str, Any]]()
        count = min(config.precise_bn, config.max_steps)
        self.run.log.say(f"evaluating on {counted(min(config.test_images or len(self.test), len(self.test)), 'image')}")
        with self.request.waiting(), torch.random.fork_rng(devices=[]):
            # draw the regions for precise statistics independently of earlier draws, which a resumed run has not made
            drawn_from = seed_of(seed=config.seed, stream=Stream.TRANSFER_STEP, epoch=0, index=1 + distributed.rank())
            torch.manual_seed(drawn_from)
            batches = self.batches.run(0, count, config.workers or 0)
            with use_precise_statistics(model, batches, config), distributed.average_statistics(model):
                figures = evaluate_model(model, self.test, config)
                if with_pictures and self.run.log.active:
                    shown = draw_predictions(model, self.test, config)
            model.train()
        return figures, shown


def keep_file_fingerprint(config: TransferConfig, train: Examples, test: Examples) -> str:
    """Store what the files of a run are, as pre-training does; returns what changed, where that was accepted."""
    files = files_of(config.data, train, test)
    return fingerprint.keep_fingerprint(config.out, files, accept=config.accept_changed_data, noun="files")


def require_same_files(config: TransferConfig, train: Examples, test: Examples) -> bool:
    """Raise BadInputError where the run in `config.out` began with other files, unless that is accepted.

    Returns what `require_same_images` does.
    """
    files = files_of(config.data, train, test)
    return fingerprint.require_same_images(config.out, files, accept=config.accept_changed_data, noun="files")


def keep_transfer_result(config: TransferConfig, result: dict[str, Any]) -> None:
    """Write a result to `evaluations/transfer.json` of its run folder."""
    content = {
        **result, "weights": config.weights, "data": config.data, "config": json.loads(to_json(config)),
    }  # fmt: skip
    (config.out / "evaluations").mkdir(exist_ok=True)
    write_text(config.out / "evaluations" / f"{RESULT}.json", json.dumps(content, indent=2) + "\n")
