"""Joins encoders into one that has the features of all, and chooses on training images how these are whitened."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.encoder import Encoder, EncoderPlan
from moco.core.joined import JOINED, MOST_PARTS, JoinedBackbone, Part
from moco.core.maps import count_numbers
from moco.data.images import Images, Labels
from moco.errors import BadInputError, counted
from moco.evaluation.again import encode_networks
from moco.evaluation.feature_whitening import Whitening, choose_whitening
from moco.evaluation.features import Encoding
from moco.evaluation.knn import score_left_out
from moco.evaluation.session import labels_of, place_weights
from moco.interop.checkpoints import NoHead, Weights
from moco.interop.metadata import DOCUMENTS, describe_input
from moco.shapes import Features


@dataclass(frozen=True)
class Choice:
    """How features are whitened: those of each part before they are joined, and all together after that."""

    parts: tuple[Whitening | None, ...]
    whole: Whitening | None
    top1: float | None = None
    """Percent of the images that the others classify rightly by kNN (leave-one-out); None without labels."""


@dataclass(frozen=True)
class Chosen:
    """Encoders joined as suits images."""

    weights: Weights
    choice: Choice
    alone: tuple[float, ...]
    """The score of each by itself; empty without labels."""
    features: Features
    """What each network gives of the images, over the chosen grid and not whitened."""


@dataclass(frozen=True)
class Judge:
    """Classifies each image by the others, with the number of neighbours that suits best."""

    labels: Labels
    classes: int
    temperature: float

    def score(self, features: Features) -> float:
        """Return the percentage that is right."""
        return score_left_out(features, self.labels, self.classes, self.temperature)

    def whiten(self, features: Features, grids: Sequence[int] = (1,)) -> tuple[Whitening | None, float]:
        """Choose the whitening that suits features (n, C), or those over several grids, and return it with its score.

        None where plain features, those over a grid of one cell, do as well.
        """
        found = choose_whitening(features, self.labels, self.classes, temperature=self.temperature, grids=grids)
        if found is not None and found.top1 is not None:
            return found, found.top1
        return None, self.score(features[:, : count_plain(features, grids)])


def count_plain(features: Features, grids: Sequence[int]) -> int:
    """Count the numbers of plain features, which come first in those over several grids."""
    return features.shape[1] // count_numbers(1, grids)


def choose(
    parts: Sequence[Tensor], judge: Judge | None, grids: Sequence[Sequence[int]] | None = None
) -> tuple[Choice, list[float]]:
    """Choose how the features (n, C_i) of the parts are whitened; return also the score of each part by itself.

    `grids` are those over which the features of each part are averaged, by default the one of one cell.

    With labels, of plain parts and of parts each whitened as suits it, both with and without a whitening of the whole,
    the one is taken that classifies the most images rightly. Without labels, the whole is whitened if images suffice.
    """
    plain, over = (None,) * len(parts), grids or ((1,),) * len(parts)
    whole = [part[:, : count_plain(part, own)] for part, own in zip(parts, over, strict=True)]
    if judge is None:
        return Choice(plain, choose_whitening(_joined(whole, plain))), []
    alone = [judge.whiten(part, own) for part, own in zip(parts, over, strict=True)]
    tried = []
    for whitenings in dict.fromkeys((plain, tuple(whitening for whitening, _ in alone))):
        used = [z if one is None else part for z, part, one in zip(whole, parts, whitenings, strict=True)]
        joined = _joined(used, whitenings)
        tried.append(Choice(whitenings, None, judge.score(joined)))
        tried.append(Choice(whitenings, *judge.whiten(joined)))
    return max(tried, key=lambda choice: choice.top1 or 0.0), [score for _, score in alone]


def pick_chosen(parts: Sequence[Tensor], choice: Choice, grids: Sequence[Sequence[int]]) -> list[Tensor]:
    """Pick of the features of each part, over several grids, those over the one that was chosen."""
    picked = []
    for z, own, one in zip(parts, grids, choice.parts, strict=True):
        plain, k = count_plain(z, own), 1 if one is None else one.grid
        start = count_numbers(plain, range(1, k))
        picked.append(z[:, start : start + count_numbers(plain, (k,))])
    return picked


def _joined(parts: Sequence[Tensor], whitenings: Sequence[Whitening | None]) -> Features:
    own = (z if whiten is None else whiten(z) for z, whiten in zip(parts, whitenings, strict=True))
    return torch.cat([F.normalize(z) for z in own], 1)


def join_chosen(
    weights: Sequence[Weights], parts: Sequence[Part], images: Images, how: Encoding, temperature: float
) -> Chosen:
    """Join encoders, whitened as suits these images, which `how` is for; with labels kNN accuracy chooses."""
    grids = [one.encoder.grids(part.side) for one, part in zip(weights, parts, strict=True)]
    wide = [dataclasses.replace(part, grids=own) for part, own in zip(parts, grids, strict=True)]
    device = str(next(weights[0].encoder.parameters()).device)
    start = place_weights(join_encoders(weights, wide, how.image_size), device)
    judge = None
    if images.labels is not None and len(images.classes) > 1:
        judge = Judge(labels_of(images), len(images.classes), temperature)
    title = f"join: encoding {len(images)} images by {len(parts)} encoders"
    (features,) = encode_networks(start.encoder, images, how, title)
    own = torch.split(features, backbone_of(start.encoder).widths, 1)
    choice, alone = choose(own, judge, grids)
    joined = place_weights(join_encoders(weights, parts, how.image_size, choice), device)
    return Chosen(joined, choice, tuple(alone), torch.cat(pick_chosen(own, choice, grids), 1))


def join_at_random(random: Weights, images: Images, how: Encoding, temperature: float) -> Weights:
    """Whiten a joined encoder of random networks as it suits the images: as `moco join` would join these networks."""
    backbone, plan = backbone_of(random.encoder), random.encoder.plan
    weights = []
    for part, resized, width in zip(plan.parts, backbone.parts, backbone.widths, strict=True):
        own = EncoderPlan(part.arch, part.stem, image_size=part.image_size, channels=plan.channels)
        network = resized.get_submodule("network"), width // count_numbers(1, part.grids)
        weights.append(dataclasses.replace(random, encoder=Encoder(own, network), mean=part.mean, std=part.std))
    parts = [dataclasses.replace(part, whitens=False, grids=(1,), numbers=None) for part in plan.parts]
    how = dataclasses.replace(how, image_size=plan.image_size, output="plain", unit=False)
    return join_chosen(weights, parts, images, how, temperature).weights


def plan_parts(names: Sequence[str], weights: Sequence[Weights], sizes: Sequence[int]) -> list[Part]:
    """Plan the parts for images of the largest of the sizes, which each part resizes to its own.

    Raises BadInputError where the encoders do not take the same kind of images, or one does not take its size.
    """
    _require_joinable(names, weights, sizes)
    parts = []
    for one, size in zip(weights, sizes, strict=True):
        plan = one.encoder.plan
        one.encoder.require_size(size, "--image-sizes")
        parts.append(Part(plan.arch, plan.stem, plan.image_size, size, one.mean, one.std))
    return parts


def join_encoders(
    weights: Sequence[Weights], parts: Sequence[Part], size: int, choice: Choice | None = None
) -> Weights:
    """Return the encoder, for images of `size` pixels, whose features are those of all parts, whitened as chosen."""
    channels, levels = weights[0].encoder.plan.channels, {one.white_level for one in weights} - {None}
    whitenings = choice.parts if choice is not None else (None,) * len(parts)
    own = (_chosen(part, one) for part, one in zip(parts, whitenings, strict=True))
    encoder = Encoder(EncoderPlan(JOINED, image_size=size, channels=channels, parts=tuple(own)))
    encoder.head = NoHead()
    encoder.requires_grad_(False)
    backbone = backbone_of(encoder)
    for part, one in zip(backbone.parts, weights, strict=True):
        part.get_submodule("network").load_state_dict(one.encoder.backbone.state_dict())
    for layer, whitening in zip(backbone.whitening, whitenings, strict=True):
        if whitening is not None:
            layer.load_state_dict({"weight": whitening.weight, "bias": whitening.bias})
    if choice is not None and choice.whole is not None:
        choice.whole.add_to(encoder)
    return Weights(
        encoder, (0.0,) * channels, (1.0,) * channels, white_level=next(iter(levels), None), form=weights[0].form
    )


def _chosen(part: Part, whitening: Whitening | None) -> Part:
    """A part with the grid and the whitening that were chosen; with none, its plain features."""
    if whitening is None:
        return part
    numbers, gets = whitening.weight.shape
    return dataclasses.replace(
        part, whitens=True, grids=(whitening.grid,), numbers=None if numbers == gets else int(numbers)
    )


def backbone_of(encoder: Encoder) -> JoinedBackbone:
    """Return the parts of a joined encoder."""
    assert isinstance(encoder.backbone, JoinedBackbone)
    return encoder.backbone


def _require_joinable(names: Sequence[str], weights: Sequence[Weights], sizes: Sequence[int]) -> None:
    if not 2 <= len(weights) <= MOST_PARTS:
        raise BadInputError(f"--weights names {counted(len(weights), 'encoder')}: expected 2 to {MOST_PARTS}")
    if len(sizes) != len(weights):
        raise BadInputError(
            f"--image-sizes has {counted(len(sizes), 'size')} for {len(weights)} encoders: give one for each, "
            f"in the order of --weights"
        )
    first = weights[0]
    for name, one in zip(names, weights, strict=True):
        takes = describe_input(one.encoder.plan, one.form)
        if takes == DOCUMENTS:
            raise BadInputError(f"--weights {name}: takes documents, and moco join is for encoders of images")
        if one.encoder.plan.parts:
            raise BadInputError(f"--weights {name}: is joined already: name its parts and the others together")
        if one.form != first.form:
            other = describe_input(first.encoder.plan, first.form)
            raise BadInputError(
                f"--weights {name}: takes {takes}, and {names[0]} takes {other}: expected encoders of the same images"
            )
        if None not in (one.white_level, first.white_level) and one.white_level != first.white_level:
            raise BadInputError(
                f"--weights {name}: {one.white_level} is white in its 16-bit images, and {first.white_level} in those "
                f"of {names[0]}: expected encoders of the same images"
            )
