"""`moco transfer`: one run, or several trials of it with their mean and standard deviation."""

import dataclasses
import json
import os
import statistics
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from moco.data.decoding import limit_pixels
from moco.data.named import absolute_data
from moco.errors import BadInputError, DivergedError
from moco.evaluation.session import named_weights
from moco.interop.checkpoints import Weights
from moco.runtime import distributed
from moco.runtime.configfile import from_json, to_json
from moco.runtime.device import (
    cores,
    preserve_torch_state,
    resolve_device,
    resolve_precision,
    set_precision,
    set_threads,
)
from moco.runtime.fields import flag
from moco.runtime.files import read_bounded
from moco.runtime.folder import FAILED, lock, read_status
from moco.runtime.loggers import settle_loggers
from moco.runtime.run import HOW_NOT_WHAT, OF_EACH_PROCESS, read_earlier, repeat_result
from moco.runtime.runlog import write_text
from moco.runtime.signals import EXIT_CODE, StopRequest
from moco.transfer.checking import check_examples
from moco.transfer.config import TransferConfig, check_transfer
from moco.transfer.evaluator import keep_file_fingerprint, keep_transfer_result, require_same_files
from moco.transfer.examples import Examples, files_of, open_examples, settle_white
from moco.transfer.loop import fine_tune
from moco.transfer.recipes import TASKS
from moco.transfer.sampling import build_passes

FREE = HOW_NOT_WHAT | {"evaluate_every", "shown_images"}
"""Fields that do not change what a run computes: a run continues if only these differ."""


def run(config: TransferConfig) -> dict[str, Any]:
    """Fine-tune and measure; with trials, each in its own folder, `trial-0` and on."""
    check_transfer(config)
    config = dataclasses.replace(config, logger=settle_loggers(config.logger))
    distributed.join_processes(resolve_device(config.device), config.timeout)
    try:
        with preserve_torch_state(resolve_device(config.device)), limit_pixels(config.most_pixels):
            config = dataclasses.replace(config, data=absolute_data(config.data))
            return _run(resolve_transfer(config))
    finally:
        distributed.leave_processes()


def _run(config: TransferConfig) -> dict[str, Any]:
    """`run` of a resolved config, with the other processes."""
    config = _with_stored_level(config)
    earlier = _earlier(config)
    if earlier.get("state") == "done":
        return repeat_result(config, earlier)
    task = TASKS[config.task]
    train, test = (open_examples(task.layout, config.data, split) for split in ("train", "test"))
    require_fitting(train, test, config)
    level = settle_white(config.data, config.white_level or weights_of(config).white_level, train, test)
    config = dataclasses.replace(config, white_level=level)
    distributed.from_first(lambda: require_same_files(config, train, test))
    distributed.from_first(lambda: check_examples(config.data, train, test, files_of(config.data, train, test)))
    with StopRequest(together=distributed.world_size() > 1) as request:
        if config.trials == 1:
            return fine_tune(config, weights_of(config), train, test, request)
        return trials(config, train, test, request)


def trials(config: TransferConfig, train: Examples, test: Examples, request: StopRequest) -> dict[str, Any]:
    """Mean and standard deviation of the task's figures over the trials; stops in one, or between two of them."""
    results: list[dict[str, Any]] = []
    with _held_folder(config, train, test):
        for number in range(config.trials):
            result = _trial(config, number, train, test, request)
            more = number + 1 < config.trials
            if more and distributed.on_any_rank(request.noted)[0]:  # maybe while it was evaluated
                result = {**result, "exit_code": EXIT_CODE}
            if result.get("exit_code"):
                _status(config, "stopped", exit_code=result["exit_code"])
                return result
            results.append(result)
        names = [name for name in TASKS[config.task].figures if all(name in result for result in results)]
        columns = {name: [float(result[name]) for result in results] for name in names}
        means = {name: statistics.fmean(values) for name, values in columns.items()}
        deviation = {name: statistics.stdev(values) for name, values in columns.items()}
        seconds = round(sum(result["seconds"] for result in results), 1)
        summary = {
            "run": str(config.out), "task": config.task, **means, "deviation": deviation, "trials": columns,
            "seconds": seconds, "step": config.max_steps,
        }  # fmt: skip
        if distributed.rank() == 0:
            keep_transfer_result(config, summary)
            _status(config, "done", exit_code=0, result=summary)
            if not config.json:
                print("  ".join(f"{name} {means[name]:.2f} ± {deviation[name]:.2f}" for name in names), flush=True)
        return summary


def resolve_transfer(config: TransferConfig) -> TransferConfig:
    """Settle what was left open, for this machine; set the number of threads.

    Raises BadInputError naming the flag whose value does not fit, or is not that of the other processes.
    """
    values = {flag(name): value for name, value in vars(config).items() if name not in OF_EACH_PROCESS}
    distributed.require_same_values(values)
    ranks, device = distributed.world_size(), resolve_device(config.device)
    if config.batch_size % ranks:
        raise BadInputError(f"--batch-size is {config.batch_size}: expected a multiple of {ranks} (processes)")
    precision = resolve_precision(config.precision, device)
    set_precision(precision)
    return dataclasses.replace(
        config,
        device=device,
        precision=precision,
        threads=set_threads(config.threads),
        workers=cores() if config.workers is None else config.workers,
    )


def require_fitting(train: Examples, test: Examples, config: TransferConfig) -> None:
    """Raise BadInputError where there are no images, or not what the task learns from, or the splits do not match."""
    if not len(train) or not len(test):
        raise BadInputError(f"--data {config.data}: {len(train)} training and {len(test)} test images, expected some")
    if train.classes != test.classes:
        one_sided = sorted(set(train.classes) ^ set(test.classes)) or ["their order"]
        raise BadInputError(
            f"--data {config.data}: the training and the test images are not of the same classes "
            f"({one_sided[0]!r} differs)"
        )
    build_passes(train.annotations, config.repeat_threshold, config.skip_empty, config.seed)


def weights_of(config: TransferConfig) -> Weights:
    """Return the encoder to start from; a random one is that of the trial's seed.

    Raises BadInputError for one that does not take RGB.
    """
    size = 224  # of no matter: a ResNet's stages take any
    found = named_weights(config.weights, config.like, config.arch, config.stem, size, config.seed)
    if found.form is not None:
        raise BadInputError(
            f"--weights {config.like or config.weights}: take {found.form.kind}, and moco transfer reads all images as "
            f"bytes of RGB: give weights of RGB, such as a run with --channels rgb"
        )
    return found


def _with_stored_level(config: TransferConfig) -> TransferConfig:
    """Take the white level over that a run of this folder settled, where none is given."""
    path = config.out / "config.json"
    if config.white_level is not None or not path.is_file():
        return config
    return dataclasses.replace(config, white_level=from_json(TransferConfig, read_bounded(path), path).white_level)


def _earlier(config: TransferConfig) -> dict[str, Any]:
    """Read the earlier run as `read_earlier` does; the number of trials, if several, may have changed."""
    count = distributed.from_first(lambda: _earlier_trials(config))
    if config.trials > 1 and count not in (None, 1, config.trials):
        return {**read_earlier(dataclasses.replace(config, trials=count), FREE), "state": "running"}
    return read_earlier(config, FREE, lambda: _same_files(config))


def _same_files(config: TransferConfig) -> bool:
    """Tell whether the files that lie in `config.data` are known to be those of the run that is there."""
    path = config.out / "config.json"
    if os.path.abspath(from_json(TransferConfig, read_bounded(path), path).data) == os.path.abspath(config.data):
        return False  # they are compared when they are open
    layout = TASKS[config.task].layout
    return require_same_files(config, *(open_examples(layout, config.data, split) for split in ("train", "test")))


def _earlier_trials(config: TransferConfig) -> int | None:
    path = config.out / "config.json"
    return from_json(TransferConfig, read_bounded(path), path).trials if path.is_file() else None


def _trial(
    config: TransferConfig, number: int, train: Examples, test: Examples, request: StopRequest
) -> dict[str, Any]:
    """Return the result of a trial, after running it if it is not done yet."""
    own = dataclasses.replace(config, trials=1, seed=config.seed + number, out=config.out / f"trial-{number}")
    try:
        earlier = read_earlier(own, FREE, lambda: True)  # the files are those of all trials
        if earlier.get("state") == "done":
            return dict(earlier["result"])
        return fine_tune(own, weights_of(own), train, test, request)
    except DivergedError:
        _status(config, "diverged", step=read_status(own.out).get("step"), exit_code=3)
        raise


@contextmanager
def _held_folder(config: TransferConfig, train: Examples, test: Examples) -> Iterator[None]:
    """Hold the folder of all trials, whose status says where an error ended them."""
    with ExitStack() as held:
        distributed.from_first(lambda: _begin(config, train, test, held))
        try:
            yield
        except Exception as error:
            if not isinstance(error, DivergedError):  # which the status says already
                with suppress(OSError):
                    _status(config, FAILED, exit_code=2 if isinstance(error, BadInputError) else 1)
            raise


def _begin(config: TransferConfig, train: Examples, test: Examples, held: ExitStack) -> None:
    """The folder of all trials: what they are, and of which files."""
    held.enter_context(lock(config.out))
    write_text(config.out / "config.json", to_json(config, "transfer"))
    keep_file_fingerprint(config, train, test)
    _status(config, "running")


def _status(config: TransferConfig, state: str, **values: Any) -> None:
    if distributed.rank() == 0:
        write_text(config.out / "status.json", json.dumps({"state": state, **values}) + "\n")
