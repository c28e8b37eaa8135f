"""`moco pretrain auto`: chooses the way, the settings and the length of a run for images and minutes, and trains."""

import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from moco.commands import pretrain
from moco.commands.conclusion import CHOSEN, conclude
from moco.commands.readiness import Ready, make_ready, make_ready_all, set_end, set_pace
from moco.commands.scene import (
    Scene,
    begin_with,
    can_teach,
    compare_weights,
    open_scene,
    takes_given_network,
)
from moco.commands.trials import measure_trial, note_images, plan_trials, take_over, try_way
from moco.core.encoder import Encoder, EncoderPlan, parameter_count
from moco.data.decoding import limit_pixels
from moco.errors import BadInputError
from moco.interop.checkpoints import load_weights
from moco.pretraining.config import AutoConfig, PretrainConfig
from moco.pretraining.explanation import describe_choice
from moco.pretraining.pace import Budget
from moco.pretraining.ways import (
    Compared,
    Tried,
    choose_tried,
    choose_way,
    find_beside,
    find_untrained,
    is_known,
    list_ways,
    open_recipes,
    sizes_to_try,
    tabulate,
    tabulate_trials,
)
from moco.runtime import distributed
from moco.runtime.configfile import from_json
from moco.runtime.device import preserve_torch_state, set_threads
from moco.runtime.fields import check, require
from moco.runtime.files import read_bounded, takes_files
from moco.runtime.loggers import settle_loggers
from moco.runtime.runlog import write_text
from moco.runtime.signals import terminate_as_interrupt


@dataclass(frozen=True)
class Chosen:
    """The run that is made, and what it was chosen from."""

    ready: Ready
    weights: str | None
    """The published weights that were there."""
    compared: Sequence[Compared]
    tried: Sequence[Tried]
    recorded: bool = False
    """Whether auto.json is in the run folder already: the trial that was kept has brought it."""


def run(config: AutoConfig, given: Mapping[str, Any], started: float) -> dict[str, Any]:
    """`moco pretrain auto`: choose, say what was chosen, train, evaluate; `started` is when the command was given.

    Raises BadInputError where several processes ask, which would measure different speeds.
    """
    if distributed.world_size() > 1:
        raise BadInputError(
            "moco pretrain auto runs in one process: run it once, then give torchrun the values that it chose"
        )
    check(config)
    with limit_pixels(given.get("most_pixels")), terminate_as_interrupt():
        return _run(config, given, started)


def _run(config: AutoConfig, given: Mapping[str, Any], started: float) -> dict[str, Any]:
    there = config.out / "config.json"
    if there.is_file():
        print(f"auto: {config.out} already holds a run: keeping its settings", file=sys.stderr)
        own = from_json(PretrainConfig, read_bounded(there), there)
        own = dataclasses.replace(own, data=config.data, out=config.out, json=config.json)
        return conclude(own, pretrain.run(own), config.data)
    if not takes_files(config.out):
        raise BadInputError(f"--out {config.out}: cannot be written: give a folder that can")
    budget = Budget(60 * config.minutes, started)
    scene = open_scene(config, {**given, "logger": settle_loggers(given.get("logger", ()))}, budget)
    with preserve_torch_state(scene.device):
        set_threads(given.get("threads"))
        chosen = _choose(scene)
    ready, made = chosen.ready, not config.out.exists()
    try:
        _explain(scene, chosen)
        result = pretrain.train_prepared(ready.config, scene.splits, ready.monitor, ready.teacher)
    except KeyboardInterrupt:
        _remove_unbegun(config.out, made=made)
        raise
    result = conclude(ready.config, result, config.data, budget.describe)
    return result if result.get("exit_code") else {**result, "minutes": round(budget.spent / 60, 2)}


def _choose(scene: Scene) -> Chosen:
    """Choose the way, the settings and the length, measuring what they depend on."""
    goal, weights, reason, named = begin_with(scene)
    compared = compare_weights(scene, weights, goal)
    published, rivals = ([one for one in compared if (one.name == weights) == own] for own in (True, False))
    size = scene.given.get("teacher_size" if goal == "small" else "image_size")
    if published:
        size = max(published, key=lambda one: one.top1).image_size
    elif weights is not None and size is None:
        size = sizes_to_try(load_weights(weights).encoder.plan.image_size, scene.side)[0]
    parameters = 0 if weights is None else parameter_count(load_weights(weights).encoder.backbone)
    teaches, fits = can_teach(scene, weights), takes_given_network(scene, weights)
    recipes = open_recipes(goal, parameters, size, teaches=teaches, fits=fits)
    first = choose_way(recipes, weights, reason, published, rivals, size=size, given=named)
    for line in tabulate(compared, first):
        scene.say(line)
    ways = list_ways(first, recipes, weights, size)
    if scene.judged is None:
        return Chosen(_by_rule(scene, make_ready(scene, first, compared)), weights, compared, ())
    ready = make_ready_all(scene, ways, compared)
    for count in range(len(ready), 1, -1):
        planned = plan_trials(scene, ready[:count], known=is_known(ways[0], compared))
        if planned:
            return _try(scene, planned, weights, compared)
    short = (
        len(ways) > 1 and f"{first.why}. The time is too short for trials of other methods, so auto chose by its rule"
    )
    way = replace(first, why=short or first.why)
    return Chosen(_by_rule(scene, replace(ready[0], way=way)), weights, compared, ())


def _by_rule(scene: Scene, ready: Ready) -> Ready:
    """Give all the time that is left to one way."""
    return set_end(scene, set_pace(scene, ready, scene.budget.left))


def _try(
    scene: Scene, planned: Sequence[tuple[Ready, int]], weights: str | None, compared: Sequence[Compared]
) -> Chosen:
    """Try ways, and go on with the better one."""
    with tempfile.TemporaryDirectory() as folder:
        tried, known = [], not planned[0][1]
        for number, (ready, steps) in enumerate(planned):
            size = ready.config.image_size
            as_it_is = next((one for one in compared if (one.name, one.image_size) == (weights, size)), None)
            if not steps:
                untrained = replace(require(find_untrained(ready.way, compared)), name=ready.way.name)
                tried.append(Tried(ready.way, untrained, 0, 0.0, require(ready.pace).max_steps))
                continue
            if number:
                note_images(Path(folder, str(number)), Path(folder, str(number - 1)))
            beside = find_beside(weights, compared) if known and ready.evaluation.joined else None
            tried.append(try_way(scene, ready, steps, Path(folder, str(number)), as_it_is, beside))
        kept = choose_tried(tried)
        for line in tabulate_trials(tried, kept):
            scene.say(line)
        number = next(number for number, one in enumerate(tried) if one.way.recipe == kept.way.recipe)
        if not kept.steps:
            return Chosen(_by_rule(scene, replace(planned[number][0], way=kept.way)), weights, compared, tried)
        begun = measure_trial(Path(folder, str(number)))
        ready = set_end(scene, replace(planned[number][0], way=kept.way), begun)
        chosen = Chosen(ready, weights, compared, tried, recorded=True)
        _record(scene, chosen, Path(folder, str(number)))
        take_over(Path(folder, str(number)), ready.config)
    return chosen


def _explain(scene: Scene, chosen: Chosen) -> None:
    """Say in three lines what was chosen; all reasons go into auto.json."""
    ready, n = chosen.ready, len(scene.images)
    config, pace = ready.config, require(ready.pace)
    with torch.device("meta"):
        plan = EncoderPlan(
            require(config.arch), config.stem or "imagenet", image_size=require(config.image_size),
            channels=len(require(config.mean)),
        )  # fmt: skip
        parameters = parameter_count(Encoder(plan).backbone)
    minutes = None if scene.given.get("epochs") or scene.given.get("max_steps") else scene.config.minutes
    for line in describe_choice(config, ready.way, pace, minutes, scene.budget.spent, n, parameters):
        print(line)
    if not chosen.recorded:
        _record(scene, chosen, config.out)


def _record(scene: Scene, chosen: Chosen, folder: Path) -> None:
    """Write all reasons into auto.json."""
    ready = chosen.ready
    content = {
        "minutes": scene.config.minutes, "spent": round(scene.budget.spent, 1), "way": dataclasses.asdict(ready.way),
        "weights": chosen.weights, "labelled": scene.is_labelled, "evaluation": vars(ready.evaluation),
        "compared": [_figures(one) for one in chosen.compared],
        "tried": [
            {**_figures(one.compared), "steps": one.steps, "seconds": round(one.seconds, 1)}
            | ({} if one.joined is None else {"joined": round(one.joined, 2)}) for one in chosen.tried
        ],
        "seconds": {name: round(value, 4) for name, value in vars(ready.costs).items()},
        "settings": {name: {"value": value, "reason": why} for name, (value, why) in ready.reasons.items()},
    }  # fmt: skip
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / CHOSEN, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise BadInputError(f"--out {ready.config.out}: cannot be written ({error.strerror}): give another") from error


def _remove_unbegun(out: Path, *, made: bool) -> None:
    """Remove auto.json, and `out` where it was `made` for it, if no run has begun there."""
    if not (out / "config.json").exists():
        with contextlib.suppress(OSError):
            (out / CHOSEN).unlink(missing_ok=True)
            if made:
                out.rmdir()


def _figures(one: Compared) -> dict[str, Any]:
    return {"name": one.name, "image_size": one.image_size, "top1": round(one.top1, 2), "images": len(one.right)}
