"""What `moco pretrain auto` measures before a way is taken: how fast it trains here, and what each part of it costs."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moco.commands import pretrain
from moco.commands.scene import MOST_WATCHED, PROBED, Scene, open_teacher
from moco.core.encoder import Encoder, parameter_count
from moco.core.pair import Teacher
from moco.data.derived import make_readable, take_evenly
from moco.data.splits import final_split, images_to_whiten
from moco.errors import BadInputError
from moco.evaluation.comparison import measure_encoding, measure_pixels
from moco.evaluation.feature_whitening import estimate_choosing, least_images
from moco.interop.checkpoints import Weights
from moco.interop.config import JoinConfig
from moco.pretraining.auto import TRIAL_IMAGES, Reasons, Situation, complete, settle
from moco.pretraining.channels import with_form
from moco.pretraining.config import PretrainConfig
from moco.pretraining.initial import with_weights
from moco.pretraining.monitor import Checkup, Monitor
from moco.pretraining.pace import RESERVE, Costs, Evaluation, Pace, plan_evaluation, plan_joining, plan_pace, plan_trial
from moco.pretraining.prepare import build_encoder, resolve_config
from moco.pretraining.timing import StepTime, time_step
from moco.pretraining.ways import Compared, Way, find_untrained, is_known
from moco.runtime.fields import check, require
from moco.runtime.phases import say_if_slow

LEAST_SECONDS = 10.0
"""Seconds of a trial; where the time allows less, no way is tried."""
ONE_LOOK = 0.02
"""Largest share of the time for one evaluation by the monitor; otherwise it evaluates fewer images."""
FEWEST_WATCHED = 200
WHITENING = 0.05
"""Share of the time that encoding images may take at the end, by which the features are whitened."""
EVALUATING = 0.15
"""Share of the time that the evaluation at the end may take; it leaves out published and random weights, or all,
otherwise."""
JOINING = 0.2
"""Share of the time that joining an encoder from scratch with published weights may take, evaluation included."""
TIMING = (0.5, 2.0)
"""Seconds for which a candidate is timed: a hundredth of the time, within these; the chosen one twice as long ..."""
FINAL_TIMING = (1.0, 15.0)
"""... or for a fortieth of the time, within these."""
BYTES_A_SECOND = 150e6
"""How fast checkpoints are digested and written, about; parameters, momentum and f_k have four bytes each."""


@dataclass(frozen=True)
class Ready:
    """A way that is ready to begin, and why it is as it is."""

    way: Way
    config: PretrainConfig
    monitor: Monitor
    checkup: Checkup
    teacher: Teacher | None
    reasons: Reasons
    costs: Costs
    length: int | None
    """Steps that the user wants."""
    evaluation: Evaluation
    pace: Pace | None = None
    """How the time is spent, once it is known how much there is."""


def make_ready_all(scene: Scene, ways: Sequence[Way], compared: Sequence[Compared]) -> list[Ready]:
    """Make every way ready that can be tried; the first one alone where the time is too short to try it."""
    known = is_known(ways[0], compared)
    seconds = scene.trial_seconds(max(1, len(ways) - known))
    if len(ways) == 1 or seconds < LEAST_SECONDS:
        return [make_ready(scene, ways[0], compared)]
    spared = (len(ways) - 1) * seconds
    ready = [make_ready(scene, ways[0], compared, spared, len(ways))]
    if not known and not plan_trial(
        seconds, ready[0].costs, require(set_pace(scene, ready[0], scene.budget.left).pace).max_steps
    ):
        return ready
    for way in ways[1:]:
        try:
            ready.append(make_ready(scene, way, compared, spared, len(ways)))
        except BadInputError as error:
            scene.say(f"auto: not tried: {way.title}: {error}")
    return ready


def make_ready(scene: Scene, way: Way, compared: Sequence[Compared], spared: float = 0.0, ways: int = 1) -> Ready:
    """Settle a way's network, method and batch, and measure what a step, a look and the evaluation cost.

    `spared` seconds of what is left are for something else, and the time for measuring is shared by so many `ways`.
    """
    chosen = find_untrained(way, compared)
    given = dict(scene.given)
    teacher = open_teacher(scene, way, chosen, given)
    scene.say(f"auto: measuring how fast this machine trains on these images ({way.title})")
    every = teacher is not None and teacher.features is not None  # its keys are numbered as all images are
    some = scene.images if every else take_evenly(scene.images, TRIAL_IMAGES)

    def measure(
        values: Mapping[str, Any], limits: tuple[float, float] = TIMING, share: float = 0.01
    ) -> StepTime | None:
        trial = PretrainConfig(**{**values, "data": scene.config.data, "out": scene.config.out})
        if teacher is not None:
            trial = dataclasses.replace(trial, feature_dim=teacher.width)
        seconds = scene.share(share / ways, limits)
        what = f"{trial.arch or 'the network'} with views of {trial.view_size or trial.image_size} pixels"
        with say_if_slow(f"auto: timing steps of {what}: the first step, then {seconds:.0f} s"):
            return time_step(with_weights(trial), some, seconds, teacher)

    seconds = max(1.0, (1 - RESERVE) * (scene.budget.left - spared) * (1 - ONE_LOOK - EVALUATING / 2))
    situation = Situation(len(scene.images), scene.side, scene.device, seconds, given)
    reasons = settle(way, situation, measure, scene.say)
    config = with_weights(complete(way, reasons, given, scene.config.data, scene.config.out))
    config = with_form(config, scene.images)
    config = dataclasses.replace(config, device=scene.config.device, json=scene.config.json)
    if teacher is not None:
        config = dataclasses.replace(config, feature_dim=teacher.width)
    check(config)
    speed = measure(vars(config), FINAL_TIMING, 0.025)
    if speed is None:
        raise BadInputError("out of memory with the settings of this run: give a smaller --batch-size or --image-size")
    with say_if_slow("auto: timing the monitor's evaluation and the final one"):
        return _measure_looks(scene, way, reasons, config, teacher, speed)


def set_pace(scene: Scene, ready: Ready, left: float) -> Ready:
    """Plan the length of a run, its looks and its checkpoints for the seconds that are left for it."""
    given, costs, config, reasons = scene.given, ready.costs, ready.config, dict(ready.reasons)
    pace = plan_pace(left, costs, max_steps=ready.length, knn_every=given.get("knn_every"))
    for name, why in (
        ("max_steps", f"{1 / costs.step:.3g} steps/s were measured, and {left:.0f} s are left"),
        ("knn_every", f"an evaluation by the monitor takes {costs.look:.1f} s; {pace.looks} are planned"),
        ("checkpoint_every", "a minute or more between two checkpoints"),
        ("log_every", "a line about every five seconds"),
    ):
        if name not in given and not (name == "max_steps" and "epochs" in given):
            reasons[name] = (getattr(pace, name), why)
            config = dataclasses.replace(config, **{name: getattr(pace, name)})
    return dataclasses.replace(ready, config=config, reasons=reasons, pace=pace)


def set_end(scene: Scene, ready: Ready, begun: float = 0.0) -> Ready:
    """Let the run end in time whatever its speed becomes; `begun` are the seconds that its trial took.

    A length that the user has given stays.
    """
    if ready.length is not None:
        return ready
    costs = ready.costs
    left = max(1.0, (1 - RESERVE) * scene.budget.left - costs.start)
    spare = round(costs.evaluation / costs.step)
    config = dataclasses.replace(ready.config, end_after=round(begun + left, 1), end_spare=spare)
    return dataclasses.replace(ready, config=config)


def _measure_looks(
    scene: Scene, way: Way, reasons: Reasons, config: PretrainConfig, teacher: Teacher | None, speed: StepTime
) -> Ready:
    """Measure the time of one evaluation during the run and of the final one."""
    resolved = resolve_config(config, scene.images)
    encoder = build_encoder(resolved).to(scene.device)
    image = _seconds_to_encode(scene, config, encoder)
    watched = min(MOST_WATCHED, max(FEWEST_WATCHED, int(ONE_LOOK * scene.budget.seconds / image / 1.2)))
    if "knn_images" not in scene.given and watched < MOST_WATCHED:
        reasons["knn_images"] = (watched, f"an evaluation by the monitor takes at most {ONE_LOOK:.0%} of the time")
        config = dataclasses.replace(config, knn_images=watched)
    least = least_images(encoder.num_features, scene.is_labelled)
    whitening = image + estimate_choosing(encoder, require(config.image_size))
    by = len(images_to_whiten(scene.splits))
    whitened = plan_whitening(config.whiten, by, least, whitening, scene.budget.seconds)
    if "whiten" not in scene.given and whitened != config.whiten:
        reasons["whiten"] = (whitened, f"whitening the features takes at most {WHITENING:.0%} of the time")
        config = dataclasses.replace(config, whiten=whitened)
    monitor = pretrain.build_monitor(config, scene.splits)
    checkup = pretrain.build_checkup(resolved, scene.images)
    look = 0.0 if config.knn_every == 0 else _seconds(lambda: monitor(encoder))
    if 0 < look < ONE_LOOK * scene.budget.seconds:  # without decoding, as later looks are
        look = _seconds(lambda: monitor(encoder))
    look += 0.0 if config.knn_every == 0 else _seconds(lambda: checkup({"f_q": encoder}))
    save = 3 * 4 * parameter_count(encoder) / BYTES_A_SECOND
    limit = EVALUATING * scene.budget.seconds if scene.is_labelled else 0.0
    asked = sum(len(images) for images in final_split(scene.splits))
    pixels = measure_pixels(make_readable(take_evenly(scene.images, PROBED)))
    evaluation = plan_evaluation(limit, asked * image, asked * scene.native_seconds, asked * pixels)
    if way.recipe == "quick":
        encoded = asked + (JoinConfig.images if len(scene.splits["train"]) > JoinConfig.images else 0)  # else only once
        seconds = encoded * (image + scene.native_seconds)
        evaluation = plan_joining(evaluation, seconds, JOINING * scene.budget.seconds)
    ending = evaluation.seconds + min(config.whiten, by) * whitening
    costs = Costs(speed.step, speed.start, look, save, ending)
    length = config.max_steps or (resolved.max_steps if "epochs" in scene.given else None)
    return Ready(way, config, monitor, checkup, teacher, reasons, costs, length, evaluation)


def plan_whitening(most: int, images: int, least: int, each: float, seconds: float) -> int:
    """Plan by how many images the features are whitened; 0 where time suffices for fewer than `least`.

    Encoding them and choosing a whitening takes `each` seconds an image, of `seconds` in all.
    """
    count = min(most, images, int(WHITENING * seconds / each))
    return 0 if count < least else most if count == images else count


def _seconds_to_encode(scene: Scene, config: PretrainConfig, encoder: Encoder) -> float:
    """Time one image, decoding counted."""
    own = Weights(encoder, require(config.mean), require(config.std), form=scene.images.form)
    probe = make_readable(take_evenly(scene.images, PROBED))
    return measure_encoding(own, probe, require(config.image_size), scene.precision)


def _seconds(work: Any) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
