"""The baselines of an encoder on the same images: random weights, raw pixels, and weights that the user names."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from moco.core.joined import whitens_parts
from moco.core.networks import reads_bytes
from moco.data.derived import make_readable, take_evenly
from moco.data.images import Images, Labels
from moco.errors import BadInputError, DivergedError
from moco.evaluation.config import RANDOM, FinetuneConfig, KeptConfig, KnnConfig, LinearConfig, LowshotConfig
from moco.evaluation.joining import join_at_random
from moco.evaluation.pixels import build_raw_pixels
from moco.evaluation.scores import Scores, compare_scores, describe_lead
from moco.evaluation.session import Subject, at_random, keep_evaluation, place_weights, say_notes
from moco.interop.checkpoints import Weights, load_weights
from moco.interop.config import JoinConfig
from moco.interop.metadata import describe_input
from moco.interop.published import short_name

PIXELS, SUPERVISED = "pixels", "supervised"
TAKEN = (RANDOM, PIXELS, SUPERVISED)
"""The baselines that are in a result by these names."""


@dataclass(frozen=True)
class Baseline:
    """One baseline of an encoder."""

    key: str
    """Its name in the result."""
    name: str
    """Its name for people."""
    subject: Subject

    def compare(self, found: Scores, own: Scores, truth: Labels, **more: Any) -> dict[str, Any]:
        """Say for a result how much better `found` is on the same images than `own`, that of this baseline."""
        named = {"weights": self.name} if self.key == self.name else {}
        return {**compare_scores(found, own, truth), **named, "image_size": self.subject.how.image_size, **more}


def load_baselines(config: KnnConfig | LinearConfig | LowshotConfig, subject: Subject) -> list[Baseline]:
    """List the baselines that the settings ask for, loaded: random weights, unless they are the subject; raw pixels.

    Documents have no pixels. Then the weights that `--baseline` names, at their own image sizes; with `--no-baseline`
    it can name one of the first two. Raises BadInputError where these cannot be had.
    """
    found = []
    named = list(dict.fromkeys(config.baselines))
    usual = [name for name in (RANDOM, PIXELS) if config.baseline or name in named]
    if RANDOM in usual and config.weights != RANDOM:
        found.append(Baseline(RANDOM, "random weights", at_random(config, subject)))
    if PIXELS in usual and not subject.how.text:
        found.append(Baseline(PIXELS, "raw pixels", _pixels(subject)))
    further = named if config.baseline else [name for name in named if name not in usual]
    return found + [Baseline(name, name, _named(name, subject)) for name in further]


def load_tuned(config: FinetuneConfig, subject: Subject) -> list[Baseline]:
    """List the networks that `moco finetune` also trains, loaded.

    Random weights, trained with labels, are supervised training from scratch. Raises BadInputError for raw pixels and
    for weights that cannot be had.
    """
    found = []
    for name in dict.fromkeys(config.baselines):
        if name == PIXELS:
            raise BadInputError(f"--baseline {PIXELS}: raw pixels cannot be fine-tuned: give weights, or {RANDOM}")
        if name != RANDOM:
            found.append(Baseline(name, name, _named(name, subject)))
        elif config.weights != RANDOM:
            found.append(Baseline(SUPERVISED, "supervised from scratch", at_random(config, subject)))
    return found


def join_like(subject: Subject, baseline: Baseline, images: Images, temperature: float) -> Baseline:
    """Return random weights of a joined encoder, whitened on the training images as `moco join` whitens its parts.

    Other baselines stay as they are.
    """
    if baseline.key != RANDOM or not whitens_parts(subject.encoder):
        return baseline
    some, how = make_readable(take_evenly(images, JoinConfig.images)), baseline.subject.how
    joined = join_at_random(baseline.subject.weights, some, how, temperature)
    return dataclasses.replace(baseline, subject=Subject(joined, how))


@contextmanager
def keep_when_done(config: KeptConfig, result: dict[str, Any], **detail: Any) -> Iterator[None]:
    """Keep the result of an evaluation behind the baselines that are added to it, also where one of these fails."""
    try:
        yield
    except (BadInputError, DivergedError):
        keep_evaluation(config, result, **detail)
        raise
    keep_evaluation(config, result, **detail)


def say_gain(name: str, own: Scores, setting: str, gain: dict[str, Any]) -> str:
    """Say for people what a baseline reached, and how much better the encoder is."""
    size = f" at {gain['image_size']} pixels" if "weights" in gain else ""
    return f"  against {short_name(name)}{size}, {own.top1:.2f}% ({setting}): {describe_lead(gain)}"


def _pixels(subject: Subject) -> Subject:
    encoder, how = build_raw_pixels(subject.how, next(subject.encoder.parameters()).device)
    return Subject(Weights(encoder, tuple(how.mean), tuple(how.std), form=subject.weights.form), how)


def _named(name: str, subject: Subject) -> Subject:
    if name in TAKEN:
        raise BadInputError(f"--baseline {name}: a baseline of that name is there already; for a folder give ./{name}")
    weights = place_weights(load_weights(name, "--baseline"), str(next(subject.encoder.parameters()).device))
    if reads_bytes(weights.encoder.plan.arch) != subject.how.text:
        kinds = ("documents", "images") if subject.how.text else ("images", "documents")
        raise BadInputError(f"--baseline {name}: takes {kinds[1]}, and the data are {kinds[0]}: give other weights")
    takes, there = (describe_input(one.encoder.plan, one.form) for one in (weights, subject.weights))
    if takes != there:
        raise BadInputError(f"--baseline {name}: takes {takes}, and the images are {there}: give other weights")
    say_notes(weights)
    how = dataclasses.replace(
        subject.how,
        image_size=weights.encoder.plan.image_size,
        mean=weights.mean,
        std=weights.std,
        output="backbone" if subject.how.output == "head" else subject.how.output,
        rgb=weights.form is None,
    )
    return Subject(weights, how)
