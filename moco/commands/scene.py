"""What `moco pretrain auto` begins with: the images, published weights, and how these compare as they are."""

import functools
import sys
import time
from dataclasses import dataclass
from typing import Any

from moco.commands import pretrain
from moco.core.encoder import EncoderPlan
from moco.core.pair import Teacher
from moco.data.catalog import load
from moco.data.derived import make_readable, take_evenly
from moco.data.forms import Form
from moco.data.images import Images, Split
from moco.data.kept import keep_prepared
from moco.data.settling import require_fitting_channels
from moco.data.splits import are_labelled, hold_training, monitor_split, training_images
from moco.errors import BadInputError, counted
from moco.evaluation.comparison import (
    encode_both,
    judge_pixels,
    judge_weights,
    measure_encoding,
    thin,
    vote_by_features,
)
from moco.evaluation.session import place_weights
from moco.interop.checkpoints import Weights, load_weights, random_weights
from moco.interop.metadata import DOCUMENTS, describe_input
from moco.interop.published import short_name
from moco.pretraining.auto import FEWEST_IMAGES, LEAST_SIDE, SAMPLE, candidates, typical_side
from moco.pretraining.channels import asked_of
from moco.pretraining.config import AutoConfig, PretrainConfig
from moco.pretraining.initial import adapt_weights, with_weights
from moco.pretraining.pace import TRYING, Budget
from moco.pretraining.recipes import QUICK, RECIPES
from moco.pretraining.ways import Compared, Goal, Way, find_weights, sizes_to_try
from moco.runtime.device import resolve_device, resolve_precision
from moco.runtime.fields import Precision, flag, require
from moco.runtime.phases import say_if_slow

MOST_WATCHED = 10_000
"""Images that are compared, at most."""
HOLDING = 0.05
"""Share of the time that decoding all of a set of small images may take; else they are decoded as they are needed."""
COMPARING = 0.12
"""Share of the time that comparing encoders as they are may take."""
PROBED, LEAST_COMPARED = 16, 300
"""Number of images to time encoding, and the fewest images for a comparison at the larger of two sizes."""
ENCODED_BY_TEACHER = 0.25
"""Share of the time that a teacher's encoding of all images may take; if it takes more, keys are made at each step."""


@dataclass
class Scene:
    """What auto works with: what was asked for, the images, the machine, the time."""

    config: AutoConfig
    given: dict[str, Any]
    splits: dict[Split, Images]
    side: int
    device: str
    precision: Precision
    budget: Budget
    judged: tuple[Images, Images] | None = None
    """Bank and queries on which encoders are compared, kept as they are prepared."""
    native_seconds: float = 0.0
    """Seconds per image of the published weights at their own size; 0 if there are none, or unknown."""

    @functools.cached_property
    def images(self) -> Images:
        """Return the training images."""
        return training_images(self.splits)

    @property
    def is_labelled(self) -> bool:
        """Return whether training images have labels."""
        return are_labelled(self.splits)

    def share(self, share: float, bounds: tuple[float, float]) -> float:
        """Compute a share of the time in seconds, within bounds."""
        return min(bounds[1], max(bounds[0], share * self.budget.seconds))

    def trial_seconds(self, ways: int) -> float:
        """Compute how long each of so many ways may be tried."""
        return TRYING * self.budget.seconds / ways

    def say(self, text: str) -> None:
        """Tell a person what is going on."""
        print(text, file=sys.stderr, flush=True)


def open_scene(config: AutoConfig, given: dict[str, Any], budget: Budget) -> Scene:
    """Open the images and look at their size. Raises BadInputError where they are too few, or two weights are given."""
    if given.get("init_weights") and given.get("teacher"):
        raise BadInputError("--init-weights and --teacher are both given: auto begins with one of them; moco pretrain "
                            "taught takes both")  # fmt: skip
    named = given.get("init_weights") or given.get("teacher")
    flag_given = flag("init_weights" if given.get("init_weights") else "teacher")
    weights = None if named is None else load_weights(named, flag_given)
    if weights is not None and describe_input(weights.encoder.plan, weights.form) == DOCUMENTS:
        raise BadInputError(f"{flag_given} {named}: takes documents, and moco pretrain auto trains on images: for "
                            f"documents give moco pretrain text")  # fmt: skip
    level = given.get("white_level") or (None if weights is None else weights.white_level)
    asked = asked_of(PretrainConfig(config.data, config.out, **given), weights)
    splits = load(config.data, given.get("exclude", ()), level, asked)
    images = training_images(splits)
    if isinstance(asked, Form):
        require_fitting_channels(splits["train"], asked, config.data)
    if len(images) < FEWEST_IMAGES:
        raise BadInputError(
            f"--data {config.data}: {counted(len(images), 'training image')}, expected at least {FEWEST_IMAGES}, and "
            f"some hundreds to learn anything"
        )
    device = resolve_device(config.device)
    precision = resolve_precision(given.get("precision", "auto"), device)
    begun, side = time.monotonic(), typical_side(images)
    if (time.monotonic() - begun) / min(SAMPLE, len(images)) * len(images) <= HOLDING * budget.seconds:
        with say_if_slow(f"auto: decoding {len(images)} images into memory"):
            splits = hold_training(splits)
    scene = Scene(config, given, splits, side, device, precision, budget)
    if side < LEAST_SIDE:
        scene.say(f"auto: the median shorter side of your images is {side} pixels: moco enlarges them to "
                  f"{LEAST_SIDE}. They hold little to learn from; use larger originals if you have them")  # fmt: skip
    return scene


def begin_with(scene: Scene) -> tuple[Goal, str | None, str, bool]:
    """Find what the run may begin with: the goal, the weights, where they are from, and whether the user named them."""
    own = {name: scene.given.pop(name, None) for name in ("init_weights", "teacher")}
    goal: Goal = scene.config.goal or ("small" if own["teacher"] else "accurate")
    named = own["init_weights"] or own["teacher"]
    form = scene.images.form
    if named is not None:
        if goal == "small" and not can_teach(scene, named):
            raise BadInputError(
                f"--for small lets {named} teach a small network, but these weights take RGB, and the images are "
                f"{require(form).kind}: leave --for small out, or give --channels rgb"
            )
        return goal, named, "you gave them", True
    if form is not None and goal == "small":
        return goal, None, f"published weights, which would teach, take RGB, and these images are {form.kind}", False
    there = sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()

    def ask(question: str) -> bool:
        with scene.budget.paused():
            print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
            return sys.stdin.readline().strip().lower() in ("y", "yes")

    weights, reason = find_weights(
        scene.config, scene.side, ask if there else None, scene.say, labelled=scene.is_labelled
    )
    if weights is not None:
        with scene.budget.paused():
            load_weights(weights)
        if goal == "accurate" and not takes_given_network(scene, weights):
            wanted = " ".join(f"{flag(name)} {scene.given[name]}" for name in ("arch", "stem") if name in scene.given)
            return goal, None, f"{wanted} is given, and {short_name(weights)} is another network", False
    return goal, weights, reason, False


def takes_given_network(scene: Scene, weights: str | None) -> bool:
    """Tell whether the network that the user may have given is that of the weights: only then can it begin as they."""
    if weights is None:
        return True
    plan = load_weights(weights).encoder.plan
    return all(scene.given.get(name, own) == own for name, own in (("arch", plan.arch), ("stem", plan.stem)))


def can_teach(scene: Scene, weights: str | None) -> bool:
    """Tell whether weights see the images as they are, without another first layer."""
    form = scene.images.form
    return form is None or (weights is not None and load_weights(weights).form is not None)


def compare_weights(scene: Scene, weights: str | None, goal: Goal) -> list[Compared]:
    """Compare published weights as they are with random ones and raw pixels; nothing where there are no labels."""
    bank, queries = monitor_split(scene.splits)
    if weights is None or bank.labels is None or queries.labels is None or len(bank.classes) < 2:
        return []
    with say_if_slow(f"auto: loading {weights}"):
        native = load_weights(weights)
        published = place_weights(adapt_weights(native, scene.images.form), scene.device)
    asked = scene.given.get("teacher_size" if goal == "small" else "image_size")
    sizes = (asked,) if asked else sizes_to_try(published.encoder.plan.image_size, scene.side)
    probe = make_readable(take_evenly(bank, PROBED))
    with say_if_slow(f"auto: measuring how fast {weights} encodes your images"):
        costs = {size: measure_encoding(published, probe, size, scene.precision) for size in sizes}
    channels = published.encoder.plan.channels
    adapted = "" if native.form == published.form else f", its first layer for {counted(channels, 'channel')},"
    if not adapted:  # else moco knn cannot give it the images
        scene.native_seconds = costs[sizes[-1]] * (published.encoder.plan.image_size / sizes[-1]) ** 2
    everything, seconds = len(bank) + len(queries), COMPARING * scene.budget.seconds
    if len(sizes) > 1 and seconds / sum(costs.values()) < min(LEAST_COMPARED, everything):
        sizes = sizes[:1]
    share = min(1.0, max(2 * PROBED / everything, seconds / sum(costs[size] for size in sizes) / everything))
    bank, queries = (
        keep_prepared(make_readable(take_evenly(images, max(1, round(share * min(len(images), most))))))
        for images, most in ((bank, MOST_WATCHED), (queries, MOST_WATCHED // 5))
    )
    scene.judged = bank, queries
    scene.say(
        f"auto: comparing on {len(bank) + len(queries)} images, without training: {weights}{adapted or ','} "
        f"random weights, raw pixels"
    )
    cheapest = candidates(scene.side, len(scene.images))[0]
    form = bank.form
    mean, std = (QUICK["mean"], QUICK["std"]) if form is None else (form.mean, form.std)
    own = EncoderPlan(cheapest["arch"], cheapest["stem"], image_size=cheapest["image_size"], channels=len(mean))
    random = place_weights(random_weights(own, scene.given.get("seed", 0), mean, std, form=form), scene.device)
    compared = [
        Compared(
            "random weights", own.image_size, judge_weights(random, own.image_size, bank, queries, scene.precision)
        ),
        Compared("raw pixels", 16, judge_pixels(bank, queries)),
    ]
    return compared + judge_published(scene, weights, published, {size: costs[size] for size in sizes})


def judge_published(scene: Scene, name: str, published: Weights, costs: dict[int, float]) -> list[Compared]:
    """Judge published weights at each of the sizes that `costs` has, with the seconds that encoding an image takes.

    At the best size features of parts of each image count, too: to choose a whitening of these takes seconds more.
    """
    bank, queries = require(scene.judged)
    encoder, whole = published.encoder, (1,)
    grids = {size: encoder.grids(size) for size in costs}
    encoded = {size: encode_both(published, size, bank, queries, scene.precision, grids[size]) for size in costs}
    plain = {size: (z[:, : encoder.num_features], q[:, : encoder.num_features]) for size, (z, q) in encoded.items()}
    right = {size: vote_by_features(both, bank, queries, scene.device) for size, both in plain.items()}
    best = max(costs, key=lambda size: int(right[size].sum()))
    if grids[best] != whole:
        right[best] = vote_by_features(encoded[best], bank, queries, scene.device, grids[best])
    return [
        Compared(name, size, right[size], seconds, thin(encoded[size][0]), grids[size])
        if size == best
        else Compared(name, size, right[size], seconds, thin(plain[size][0]))
        for size, seconds in costs.items()
    ]


def open_teacher(scene: Scene, way: Way, chosen: Compared | None, given: dict[str, Any]) -> Teacher | None:
    """Load the teacher and let it encode the images, or at each step where that would take too long.

    That is then a value that is `given`.
    """
    if way.recipe not in ("taught", "reduced"):
        return None
    if chosen is None:
        probe = make_readable(take_evenly(scene.images, PROBED))
        weights = place_weights(load_weights(require(way.weights)), scene.device)
        seconds = measure_encoding(weights, probe, require(way.image_size), scene.precision)
    else:
        seconds = chosen.seconds
    asked = "teacher_views" in given or "teacher_crops" in given
    if not asked and seconds * len(scene.images) > ENCODED_BY_TEACHER * scene.budget.seconds:
        given["teacher_views"] = "live"
    values = {**RECIPES[way.recipe].values, **given, "teacher": way.weights, "teacher_size": way.image_size}
    config = PretrainConfig(**{**values, "data": scene.config.data, "out": scene.config.out})
    return pretrain.build_teacher(with_weights(config), scene.images)
