"""`moco pretrain auto`: chooses the way, the settings and the length of a run for images and minutes, and trains."""

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from moco.commands import knn, pretrain
from moco.commands.scene import MOST_WATCHED, PROBED, Scene, begin_with, compare_weights, open_scene, open_teacher
from moco.core.encoder import Encoder, EncoderPlan, parameter_count
from moco.core.pair import Teacher
from moco.data.derived import make_readable, take_evenly
from moco.data.splits import final_split
from moco.errors import BadInputError
from moco.evaluation.comparison import measure_encoding
from moco.evaluation.config import KnnConfig
from moco.interop.checkpoints import Weights, load_weights
from moco.pretraining.auto import (
    TRIAL_IMAGES,
    Reasons,
    Situation,
    complete,
    settle,
)
from moco.pretraining.config import AutoConfig, PretrainConfig
from moco.pretraining.explanation import describe_choice, describe_next, describe_result
from moco.pretraining.initial import with_weights
from moco.pretraining.monitor import Monitor
from moco.pretraining.pace import RESERVE, Budget, Costs, Pace, plan_pace
from moco.pretraining.prepare import build_encoder, resolve_config
from moco.pretraining.timing import StepTime, time_step
from moco.pretraining.ways import Compared, Way, choose_way, sizes_to_try, tabulate
from moco.runtime import distributed
from moco.runtime.configfile import from_json
from moco.runtime.device import preserve_torch_state, set_threads
from moco.runtime.fields import check, require
from moco.runtime.files import read_bounded
from moco.runtime.runlog import write_text
from moco.runtime.signals import terminate_as_interrupt

ONE_LOOK = 0.02
"""Share of the time that a look by the monitor may take; it looks at fewer images otherwise."""
FEWEST_WATCHED = 200
EVALUATING = 0.12
"""Share of the time that the evaluation at the end may take; it leaves out random weights, or all, otherwise."""
TRIAL = (0.5, 2.0)
"""Seconds for which a candidate is timed: a hundredth of the time, within these; the chosen one twice as long ..."""
FINAL_TRIAL = (1.0, 15.0)
"""... or for a fortieth of the time, within these."""
BYTES_A_SECOND = 150e6
"""How fast checkpoints are digested and written, about; parameters, momentum and f_k have four bytes each."""


@dataclass(frozen=True)
class Ready:
    """A run that is ready to begin, and why it is as it is."""

    config: PretrainConfig
    monitor: Monitor
    teacher: Teacher | None
    way: Way
    compared: Sequence[Compared]
    reasons: Reasons
    costs: Costs
    pace: Pace
    with_random: bool
    """Whether the time suffices to evaluate random weights too at the end."""


def run(config: AutoConfig, given: Mapping[str, Any], started: float) -> dict[str, Any]:
    """`moco pretrain auto`: choose, say what was chosen, train, evaluate; `started` is when the command was given.

    Raises BadInputError where several processes ask, which would measure different speeds.
    """
    if distributed.world_size() > 1:
        raise BadInputError("moco pretrain auto is for one process: start it so once, then give torchrun its values")
    check(config)
    there = config.out / "config.json"
    if there.is_file():
        print(f"auto: {config.out} holds a run; its own settings are kept", file=sys.stderr)
        own = from_json(PretrainConfig, read_bounded(there), there)
        return pretrain.run(dataclasses.replace(own, data=config.data, out=config.out, json=config.json))
    budget = Budget(60 * config.minutes, started)
    with terminate_as_interrupt():
        scene = open_scene(config, dict(given), budget)
        with preserve_torch_state(scene.device):
            set_threads(given.get("threads"))
            ready = _prepare(scene)
    _explain(scene, ready)
    result = pretrain.train_prepared(ready.config, scene.splits, ready.monitor, ready.teacher)
    if result.get("exit_code"):
        return result
    return {**result, **_conclude(scene, ready, result)}


def _prepare(scene: Scene) -> Ready:
    """Choose the way, the settings and the length, measuring what they depend on."""
    goal, weights, reason, named = begin_with(scene)
    compared = compare_weights(scene, weights, goal)
    published, rivals = ([one for one in compared if (one.name == weights) == own] for own in (True, False))
    size = scene.given.get("teacher_size" if goal == "small" else "image_size")
    if weights is not None and size is None and not published:
        size = sizes_to_try(load_weights(weights).encoder.plan.image_size, scene.side)[0]
    way = choose_way(goal, weights, reason, published, rivals, size=size, given=named)
    for line in tabulate(compared, way):
        scene.say(line)
    seconds = max(1.0, (1 - RESERVE) * scene.budget.left * (1 - ONE_LOOK - EVALUATING / 2))
    chosen = next((one for one in published if one.image_size == way.image_size), None)
    teacher = open_teacher(scene, way, chosen)
    scene.say("auto: measuring how fast this machine trains on these images")
    every = teacher is not None  # whose keys are numbered as all images are
    some = scene.images if every else take_evenly(scene.images, TRIAL_IMAGES)

    def measure(values: Mapping[str, Any], limits: tuple[float, float] = TRIAL, share: float = 0.01) -> StepTime | None:
        trial = PretrainConfig(**{**values, "data": scene.config.data, "out": scene.config.out})
        if teacher is not None:
            trial = dataclasses.replace(trial, feature_dim=teacher.width)
        return time_step(with_weights(trial), some, scene.share(share, limits), teacher)

    situation = Situation(len(scene.images), scene.side, scene.device, seconds, scene.given)
    reasons = settle(way, situation, measure, scene.say)
    config = with_weights(complete(way, reasons, scene.given, scene.config.data, scene.config.out))
    config = dataclasses.replace(config, device=scene.config.device, json=scene.config.json)
    check(config)
    return _set_pace(scene, way, compared, reasons, config, teacher, measure(vars(config), FINAL_TRIAL, 0.025))


def _set_pace(
    scene: Scene, way: Way, compared: Sequence[Compared], reasons: Reasons, config: PretrainConfig,
    teacher: Teacher | None, speed: StepTime | None,
) -> Ready:  # fmt: skip
    """Measure what a look costs, and plan the length of the run."""
    if speed is None:
        raise BadInputError("the memory does not suffice for this run: give a smaller --batch-size or --image-size")
    sized = dataclasses.replace(config, feature_dim=config.feature_dim if teacher is None else teacher.width)
    resolved = resolve_config(sized, scene.images)
    encoder = build_encoder(resolved).to(scene.device)
    image = _seconds_to_encode(scene, config, encoder)
    watched = min(MOST_WATCHED, max(FEWEST_WATCHED, int(ONE_LOOK * scene.budget.seconds / image / 1.2)))
    if "knn_images" not in scene.given and watched < MOST_WATCHED:
        reasons["knn_images"] = (watched, f"a look by the monitor takes at most {ONE_LOOK:.0%} of the time")
        config = dataclasses.replace(config, knn_images=watched)
    monitor = pretrain.build_monitor(config, scene.splits)
    checkup = pretrain.build_checkup(resolved, scene.images)
    look = 0.0 if config.knn_every == 0 else _seconds(lambda: monitor(encoder))
    if 0 < look < ONE_LOOK * scene.budget.seconds:  # without decoding, as later looks are
        look = _seconds(lambda: monitor(encoder))
    look += 0.0 if config.knn_every == 0 else _seconds(lambda: checkup({"f_q": encoder}))
    save = 3 * 4 * parameter_count(encoder) / BYTES_A_SECOND
    alone = image * sum(len(images) for images in final_split(scene.splits))
    with_random = way.recipe != "continued" and 2 * alone <= EVALUATING * scene.budget.seconds
    evaluation = alone * (2 if with_random else 1)
    evaluation = evaluation if _is_labelled(scene) and evaluation <= EVALUATING * scene.budget.seconds else 0.0
    costs = Costs(speed.step, speed.start, look, save, evaluation)
    length = config.max_steps or (resolved.max_steps if "epochs" in scene.given else None)
    pace = plan_pace(scene.budget.left, costs, max_steps=length, knn_every=scene.given.get("knn_every"))
    for name, why in (
        ("max_steps", f"{1 / speed.step:.3g} steps/s were measured, and {scene.budget.left:.0f} s are left"),
        ("knn_every", f"a look takes {look:.1f} s; {pace.looks} looks"),
        ("checkpoint_every", "a minute or more between two checkpoints"),
    ):
        if name not in scene.given and not (name == "max_steps" and "epochs" in scene.given):
            reasons[name] = (getattr(pace, name), why)
            config = dataclasses.replace(config, **{name: getattr(pace, name)})
    return Ready(config, monitor, teacher, way, compared, reasons, costs, pace, with_random)


def _seconds_to_encode(scene: Scene, config: PretrainConfig, encoder: Encoder) -> float:
    """Time one image, decoding counted."""
    own = Weights(encoder, require(config.mean), require(config.std))
    probe = make_readable(take_evenly(scene.images, PROBED))
    return measure_encoding(own, probe, require(config.image_size), scene.precision)


def _seconds(work: Any) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _is_labelled(scene: Scene) -> bool:
    train = scene.splits["train"]
    return train.labels is not None and len(train.classes) > 1


def _explain(scene: Scene, ready: Ready) -> None:
    """Say in three lines what was chosen; all reasons go into auto.json."""
    config, pace, n = ready.config, ready.pace, len(scene.images)
    with torch.device("meta"):
        plan = EncoderPlan(require(config.arch), config.stem or "imagenet", image_size=require(config.image_size))
        parameters = parameter_count(Encoder(plan).backbone)
    for line in describe_choice(config, ready.way, pace, scene.config.minutes, scene.budget.spent, n, parameters):
        print(line)
    content = {
        "minutes": scene.config.minutes, "spent": round(scene.budget.spent, 1), "way": dataclasses.asdict(ready.way),
        "compared": [
            {"name": one.name, "image_size": one.image_size, "top1": round(one.top1, 2), "images": len(one.right)}
            for one in ready.compared
        ],
        "seconds": {name: round(value, 4) for name, value in vars(ready.costs).items()},
        "settings": {name: {"value": value, "reason": why} for name, (value, why) in ready.reasons.items()},
    }  # fmt: skip
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        write_text(config.out / "auto.json", json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise BadInputError(f"--out {config.out}: cannot be written ({error.strerror}): give another") from error


def _conclude(scene: Scene, ready: Ready, result: Mapping[str, Any]) -> dict[str, Any]:
    """Evaluate, and say what was reached, against what, where the encoder is, and what to do next."""
    config, data = ready.config, scene.config.data
    found: dict[str, Any] = {"way": ready.way.recipe}
    if ready.costs.evaluation:
        found["knn"] = knn.run(KnnConfig(
            str(config.out), data, baseline=ready.with_random, device=config.device, precision=config.precision,
            threads=config.threads, workers=config.workers,
        ))  # fmt: skip
    for line in describe_result(result, found.get("knn", {})):
        print(line)
    print(f"auto: took {scene.budget.spent / 60:.1f} of {scene.config.minutes:g} minutes")
    for line in describe_next(config.out, data, labelled=_is_labelled(scene)):
        print(line)
    return {**found, "minutes": round(scene.budget.spent / 60, 2)}
