"""How `moco pretrain auto` ends: compares the encoder, joins it with published weights, says what was reached."""

import contextlib
import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from moco.commands import join, knn
from moco.errors import BadInputError
from moco.evaluation.baselines import PIXELS
from moco.evaluation.config import KnnConfig
from moco.evaluation.session import read_kept_evaluation
from moco.interop.checkpoints import load_weights
from moco.interop.config import JoinConfig
from moco.interop.published import short_name
from moco.pretraining.config import PretrainConfig
from moco.pretraining.explanation import describe_joined, describe_next, describe_result
from moco.runtime import distributed
from moco.runtime.files import read_bounded
from moco.runtime.signals import terminate_as_interrupt

CHOSEN = "auto.json"
"""What was chosen, from what and why, beside the run that was made of it."""
JOINED = "joined.safetensors"
"""The encoder from scratch and the published weights, in the run folder."""


def conclude(
    config: PretrainConfig, result: dict[str, Any], data: str, describe_time: Callable[[], str] = str
) -> dict[str, Any]:
    """Evaluate a run that auto began and that is finished now, and say what was reached, against what, and what next.

    Returns its figures and these. Of other runs, and of one that was finished before, nothing is said, unless its
    evaluation was interrupted. `describe_time` says how long all of it took, where that is known.
    """
    told = _read_chosen(config.out)
    if told is None or result.get("exit_code") or distributed.world_size() > 1:
        return result
    planned = told["evaluation"]
    named = (told["weights"],) if planned["published"] and told["weights"] is not None else ()
    if planned.get("pixels") and not planned["random"]:
        named = (PIXELS, *named)
    asked = KnnConfig(
        str(config.out), data, baseline=planned["random"], baselines=named, device=config.device,
        precision=config.precision, threads=config.threads, workers=config.workers, exclude=config.exclude,
        most_pixels=config.most_pixels,
    )  # fmt: skip
    evaluates = bool(planned["seconds"])
    if result.get("already_done") and not (evaluates and not read_kept_evaluation(asked)):
        return result
    found: dict[str, Any] = {"way": told["way"]["recipe"]}
    if evaluates:
        print("auto: evaluating the encoder and its baselines", file=sys.stderr, flush=True)
        found["knn"] = _evaluate(asked)
        if planned.get("joined") and told["weights"] in found["knn"]["baselines"]:
            found["joined"] = _join(asked, told["weights"])
    taught, labelled = config.teacher is not None, told["labelled"]
    weights = told["weights"] is not None
    for line in describe_result(result, found.get("knn", {}), taught=taught, labelled=labelled, weights=weights):
        print(line)
    if found.get("joined"):
        print(describe_joined(told["weights"], config.out / JOINED, found["joined"], asked.weights))
    if describe_time():
        print(describe_time())
    beside = told["weights"] if told["way"]["recipe"] == "quick" and not found.get("joined") else None
    better = bool(found.get("joined")) and found["joined"]["top1"] > found["knn"]["top1"]
    joined = config.out / JOINED if better else None
    for line in describe_next(config.out, data, labelled=labelled, beside=beside, joined=joined):
        print(line)
    return {**result, **found}


def _evaluate(asked: KnnConfig) -> dict[str, Any]:
    """Evaluate a run; weights that it began with and that are gone are left out of the comparison, with a word."""
    for name in asked.baselines:
        if name == PIXELS:
            continue
        try:
            load_weights(name, "--baseline")
        except BadInputError as error:
            print(f"auto: not compared with {name}, which cannot be read ({error})", file=sys.stderr, flush=True)
            asked = replace(asked, baselines=tuple(other for other in asked.baselines if other != name))
    try:
        with terminate_as_interrupt():  # moco resume evaluates, too
            return knn.run(asked)
    except KeyboardInterrupt:
        print(f"auto: the run is finished, but not compared: moco resume {shlex.quote(asked.weights)} compares it",
              file=sys.stderr, flush=True)  # fmt: skip
        raise


def _join(asked: KnnConfig, published: str) -> dict[str, Any]:
    """Join the encoder with published weights, and compare both with each; nothing where that fails."""
    both = Path(asked.weights) / JOINED
    config = JoinConfig(
        (asked.weights, published), asked.data, both, precision=asked.precision, device=asked.device,
        workers=asked.workers, threads=asked.threads, exclude=asked.exclude, most_pixels=asked.most_pixels,
    )  # fmt: skip
    print(f"auto: joining the encoder with {short_name(published)}", file=sys.stderr, flush=True)
    try:
        with terminate_as_interrupt():
            both.unlink(missing_ok=True)  # of an attempt that was interrupted
            join.write_joined(config)
            return knn.run(replace(asked, weights=str(both), baseline=False, baselines=(asked.weights, published)))
    except KeyboardInterrupt:
        print("auto: the run is finished, but not joined with published weights: moco join does that",
              file=sys.stderr, flush=True)  # fmt: skip
        raise
    except (BadInputError, OSError) as error:
        print(f"auto: not joined with {short_name(published)}: {error}", file=sys.stderr, flush=True)
        return {}


def _read_chosen(run: Path) -> dict[str, Any] | None:
    """Read a run's auto.json; return None if it is missing, damaged or of an older version."""
    with contextlib.suppress(OSError, ValueError, BadInputError, KeyError, TypeError):
        told: dict[str, Any] = json.loads(read_bounded(run / CHOSEN))
        _ = told["way"]["recipe"], told["weights"], told["labelled"], told["evaluation"]["seconds"]
        return told
    return None
