"""The way that `moco pretrain auto` takes: published weights trained on, a small network taught, or from scratch."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from moco.errors import BadInputError, counted
from moco.interop.published import download_bytes, is_on_this_machine, published_file, short_name
from moco.pretraining.best import is_clearly_better
from moco.pretraining.config import AutoConfig
from moco.pretraining.recipes import REDUCED

Goal = Literal["accurate", "small"]
WayRecipe = Literal["quick", "taught", "reduced", "continued"]
PREFERRED = (
    "timm:tf_efficientnet_lite0", "torchvision:efficientnet_b0", "timm:mobilenetv3_large_100",
    "torchvision:mobilenet_v3_large", "timm:resnet50", "torchvision:resnet50", "timm:resnet18", "torchvision:resnet18",
)  # fmt: skip
"""Published networks that are looked for on this machine, in this order; the first is the one to download. It is small
enough to be trained on by a CPU, and was measured here (docs/studies-of-encoders.md)."""
UNLIKE_PHOTOGRAPHS = 32
"""Pixels of the shorter side up to which published networks are taken only where labels can compare them."""
QUICK_SIZE = 128
"""Pixels at which a published network takes a third of the time that it takes at 224."""
ENLARGED = 4
"""Times its own side, at most, that an image is enlarged for a published network. It pays: EfficientNet-Lite0 has 65.0%
on CIFAR-10's 32 pixels at 64 and 76.9% at 128 (docs/measurements.md)."""
LEAST_SIZE = 96
ERROR_LEFT: dict[str, float] = {"continued": 0.75, "quick": 0.6, "joined": 0.9}
"""What the rest of a run leaves of the kNN error that published weights have as they are, and that a run from scratch
has after its trial, alone or joined with published weights (docs/measurements.md). Other ways are taken to gain nothing
more ..."""
STEPS_TO_GAIN = 200
"""... published weights gain in proportion less in fewer steps than these ..."""
TRIED = 4
"""... and a run from scratch gains that if it is so many times as long as its trial, and as much again at this squared.
"""
SCRATCH_WORTH = 2.0
"""Points that a run from scratch has to be better by than published weights that were judged as they are. It knows only
these images, among which some may show the same scene, and images to come may not (docs/measurements.md)."""
SMALL_NETWORK = 6_000_000
"""Largest number of parameters of a published network for `--for small`: 24 MB in fp32."""


@dataclass(frozen=True)
class Compared:
    """What the neighbours of the user's own images say of one encoder."""

    name: str
    image_size: int
    right: Tensor
    """Which images are classified rightly by their neighbours, (n,) bool; the same images for all that are compared."""
    seconds: float = 0.0
    """What encoding one image takes, decoding counted."""
    features: Tensor | None = None
    """Those of published weights for some of the images: what is trained beside them is joined with these."""
    grids: tuple[int, ...] = (1,)
    """Over which these are averages, and from which the one was chosen that the images are classified by."""

    @property
    def top1(self) -> float:
        """Return the percentage of correctly classified images."""
        return 100 * float(self.right.float().mean())


@dataclass(frozen=True)
class Way:
    """How the run begins, and why, in a sentence."""

    recipe: WayRecipe
    weights: str | None
    image_size: int | None
    """The side at which the weights see images."""
    why: str

    @property
    def name(self) -> str:
        """Name the way in a few words."""
        return {
            "quick": "from scratch", "taught": f"a small network taught by {self.weights}",
            "reduced": f"{self.weights} adapted to small images", "continued": f"continued training of {self.weights}",
        }[self.recipe]  # fmt: skip

    @property
    def title(self) -> str:
        """Return the name without the weights' file."""
        return self.name if self.weights is None else self.name.replace(self.weights, short_name(self.weights))


@dataclass(frozen=True)
class Tried:
    """A way whose run has made its first steps; none where its weights were judged as they are."""

    way: Way
    compared: Compared
    """What the images' neighbours say of the encoder after these."""
    steps: int
    seconds: float
    length: int = STEPS_TO_GAIN
    """Steps of the whole run."""
    joined: float | None = None
    """The kNN accuracy of it and the published weights together, in percent, where the run ends by joining both."""

    @property
    def expected(self) -> float:
        """Return the kNN accuracy that the run is expected to reach, alone or joined, in percent."""
        return max(self._expected_alone, self._expected_joined)

    @property
    def merit(self) -> float:
        """Return by what ways are compared: the same, less SCRATCH_WORTH for a run from scratch."""
        return self.expected - (SCRATCH_WORTH if self.way.recipe == "quick" else 0.0)

    @property
    def _expected_alone(self) -> float:
        return self._expect(self.compared.top1, self.way.recipe)

    @property
    def _expected_joined(self) -> float:
        return 0.0 if self.joined is None else self._expect(self.joined, "joined")

    def _expect(self, top1: float, key: str) -> float:
        left = ERROR_LEFT.get(key, 1.0)
        if self.steps:
            left **= math.log(self.length / self.steps, TRIED)
        else:
            left = 1 - (1 - left) * min(1.0, self.length / STEPS_TO_GAIN)
        return 100 - left * (100 - top1)

    @property
    def when(self) -> str:
        """Say at which point of its run it was judged."""
        return f"after {counted(self.steps, 'step')}, {self.seconds:.0f} s" if self.steps else "before training"


def find_weights(
    config: AutoConfig, side: int, ask: Callable[[str], bool] | None, say: Callable[[str], None], *, labelled: bool
) -> tuple[str | None, str]:
    """Find published weights on this machine, or one to download; None where there are none to be had, and why.

    `ask` puts a question to a person; it is None where nobody is there to answer.
    """
    if side <= UNLIKE_PHOTOGRAPHS and not labelled:
        return None, f"images of {side} pixels may be unlike photographs, and have no labels to compare networks by"
    for name in filter(is_on_this_machine, PREFERRED):
        try:
            published_file(name)
        except BadInputError as error:
            say(f"auto: leaves out {name}: {str(error).partition(': ')[2]}")
        else:
            return name, "they are on this machine"
    name = PREFERRED[0]
    size = f"{download_bytes(name) / 1e6:.0f} MB"
    if config.download == "yes":
        say(f"auto: downloading {name}, {size}")
        return name, "you allowed the download"
    if config.download == "ask" and ask is not None and ask(f"auto: download the published weights {name}, {size}?"):
        return name, "you allowed the download"
    return None, f"this machine has no published weights that auto knows (--download yes fetches {name}, {size})"


def sizes_to_try(native: int, side: int) -> tuple[int, ...]:
    """Return the sizes at which to try a network for `native` pixels on images of that shorter side, ascending."""
    largest = min(native, max(LEAST_SIZE, int(ENLARGED * side) // 32 * 32))
    return tuple(sorted({min(QUICK_SIZE, largest), largest}))


def choose_way(
    recipes: Sequence[WayRecipe], weights: str | None, reason: str, published: Sequence[Compared],
    rivals: Sequence[Compared], *, size: int | None, given: bool,
) -> Way:  # fmt: skip
    """Choose by what was compared; without labels nothing was, and `size` and the rule, the first recipe, decide.

    Published weights are taken if they are clearly better than every rival (McNemar's test on the same images), or if
    the user has given them. `reason` says where the weights are from, or why there are none.
    """
    if weights is None:
        return Way("quick", None, None, f"from scratch, because {reason}")
    recipe = recipes[0]
    done = Way(recipe, weights, size, "").title
    if not published:
        said = "your images have no labels to compare methods by, so this is the default for photographs"
        return Way(recipe, weights, size, f"{done}: {said}")
    best = max(published, key=lambda one: one.top1)
    figures = ", ".join(f"{one.name} {one.top1:.1f}%" for one in rivals)
    if all(is_clearly_better(best.right, rival.right) for rival in rivals):
        return Way(recipe, weights, best.image_size, f"{done}: without training it classifies {best.top1:.1f}% "
                   f"of your images correctly by kNN ({figures})")  # fmt: skip
    if given:
        return Way(recipe, weights, best.image_size, f"{done}, because you gave these weights, although without "
                   f"training they are not clearly better than baselines: {best.top1:.1f}% ({figures})")  # fmt: skip
    return Way("quick", None, None, f"from scratch, because {short_name(weights)} is not clearly better on your images "
               f"than the baselines: {best.top1:.1f}% ({figures})")  # fmt: skip


def open_recipes(
    goal: Goal, parameters: int, size: int | None, *, teaches: bool = True, fits: bool = True
) -> tuple[WayRecipe, ...]:
    """List the recipes that may be tried with weights of so many parameters for this size, the rule's choice first.

    The last one first goes untried where the time is short. For `accurate` no small network is taught: it reached the
    weights' accuracy nowhere but where training from scratch exceeded both (docs/teacher.md). A network that is
    small itself, and sees larger images than a small one would, is not replaced by another. Weights that cannot see the
    images as they are teach nothing, and where the user has given a network of which theirs is none (`fits`), they can
    only teach it.
    """
    if goal == "accurate" or not teaches:
        return "continued", "quick"
    reducible = fits and parameters <= SMALL_NETWORK and size is not None and size > REDUCED["image_size"]
    return ("reduced", "taught", "quick") if reducible else ("taught", "quick")


def list_ways(first: Way, recipes: Sequence[WayRecipe], weights: str | None, size: int | None) -> list[Way]:
    """List the ways that are open: the one that the rule chose first, then the others. Without weights there is one."""
    others = [] if weights is None else [recipe for recipe in recipes if recipe != first.recipe]
    return [first, *(
        Way(recipe, None, None, "") if recipe == "quick" else Way(recipe, weights, size, "") for recipe in others
    )]  # fmt: skip


def find_untrained(way: Way, compared: Sequence[Compared]) -> Compared | None:
    """Find what was said of the weights that a way goes on with, as they are."""
    return next((one for one in compared if (one.name, one.image_size) == (way.weights, way.image_size)), None)


def find_beside(weights: str | None, compared: Sequence[Compared]) -> Compared | None:
    """Find what was said of published weights at the largest size, at which an encoder is joined with them."""
    named = [one for one in compared if one.name == weights and one.features is not None]
    return max(named, key=lambda one: one.image_size, default=None)


def is_known(way: Way, compared: Sequence[Compared]) -> bool:
    """Tell whether a way needs no trial: it never ends worse than its weights are, and these were compared."""
    return way.recipe == "continued" and find_untrained(way, compared) is not None


def choose_tried(tried: Sequence[Tried]) -> Tried:
    """Choose the first, which is the rule's, unless another is better. The chosen one's way then says what was found.

    Where all have made steps, another must be clearly better (McNemar's test on the same images); of several that are
    the one with most images right is chosen. Published weights that were judged as they are have not learned yet what
    they will, nor has a run after a short trial: there the accuracies that are expected at the end decide.
    """
    first = tried[0]
    if first.steps:
        better = [one for one in tried[1:] if is_clearly_better(one.compared.right, first.compared.right)]
        kept = max(better, key=lambda one: one.compared.top1) if better else first
    else:
        kept = max(tried, key=lambda one: one.merit)
    others = ", ".join(f"{one.way.title} {_judged(one)}" for one in tried if one is not kept)
    said = "" if kept is not first else "; no other method is clearly better" if first.steps else ""
    point = f"after {counted(kept.steps, 'trial step')}" if kept.steps else "before training"
    alone = f"{kept.compared.top1:.1f}% of your images correctly by kNN"
    both = "" if kept.joined is None else f", and {kept.joined:.1f}% joined with the published weights"
    why = f"{kept.way.title}: {point} it classifies {alone}{both} ({others}){said}"
    if not first.steps:
        ending = "it" if kept.joined is None else "the better of it and the joined encoder"
        why += f". Judging by runs on other images, {ending} should end at {kept.expected:.0f}%"
    return replace(kept, way=replace(kept.way, why=why))


def _judged(one: Tried) -> str:
    return f"{one.compared.top1:.1f}%" + ("" if one.joined is None else f" (joined {one.joined:.1f}%)")


def tabulate_trials(tried: Sequence[Tried], kept: Tried) -> list[str]:
    """Write what was tried as lines of a small table, the way that was taken marked, and what the trials cost."""
    width = max(len(one.way.title) for one in tried)
    lost = sum(one.seconds for one in tried if one.way.recipe != kept.way.recipe)
    next_step = f"continuing the chosen run from step {kept.steps}; the other trials" if kept.steps else "the trials"
    return [
        f"auto: kNN accuracy on {len(kept.compared.right)} of your images after the first steps of each method",
        *(
            f"  {one.way.title:<{width}}  {one.compared.top1:5.1f}%  {one.when}"
            + ("" if one.joined is None else f"; joined with the published weights {one.joined:.1f}%")
            + ("  <- chosen" if one.way.recipe == kept.way.recipe else "") for one in tried
        ),
        f"auto: {next_step} cost {lost:.0f} s",
    ]  # fmt: skip


def tabulate(compared: Sequence[Compared], way: Way) -> list[str]:
    """Write what was compared as lines of a small table, the one that was taken marked."""
    if not compared:
        return []
    names = [f"{short_name(one.name)}, {one.image_size} pixels" for one in compared]
    width = max(map(len, names))

    def mark(one: Compared) -> str:
        return "  <- chosen" if (one.name, one.image_size) == (way.weights, way.image_size) else ""

    return [
        f"auto: kNN accuracy on {len(compared[0].right)} of your images, with whitened features",
        *(f"  {name:<{width}}  {one.top1:5.1f}%{mark(one)}" for name, one in zip(names, compared, strict=True)),
    ]
