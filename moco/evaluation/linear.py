"""A linear classifier on the frozen backbone (v1, 4.1): the papers' protocol, and a fast one on encoded features."""

import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils import get_total_norm

from moco.core.encoder import Encoder
from moco.core.sizes import use_evaluation_mode
from moco.data.augment import Augmentation
from moco.data.derived import take_evenly
from moco.data.images import Images
from moco.data.loader import ViewBatches
from moco.data.replacement import Damage
from moco.errors import VoidError
from moco.evaluation.again import encode_again
from moco.evaluation.classifiers import MILESTONES, MOMENTUM, new_classifier
from moco.evaluation.config import LinearConfig, LowshotConfig
from moco.evaluation.divided import Division, divide_features, encode_divided, list_grids
from moco.evaluation.features import Encoding, RandomViews, encode
from moco.evaluation.logistic import ViewFeatures
from moco.evaluation.penalty import Candidate, Part, divide, fit_best
from moco.evaluation.scores import Scores, score_logits
from moco.evaluation.session import (
    Labelled,
    Subject,
    backbone_digest,
    labels_of,
    limit_batch_size,
)
from moco.evaluation.statefile import build_run, is_save_due, locate_state, require_end, warn_of_damage
from moco.runtime import distributed
from moco.runtime.device import autocast
from moco.runtime.progress import show_progress
from moco.runtime.scaling import is_finite
from moco.runtime.schedule import Schedule
from moco.runtime.signals import StopRequest

CROP_AND_FLIP = Augmentation((0.08, 1.0), (0.0, 0.0, 0.0, 0.0), jitter_probability=0.0, grey_probability=0.0)
"""Views of labelled images: torchvision's random resized crop with its default scale, and flip (the authors' code)."""

SAMPLE = 2048
"""Training images on which the papers' classifier is checked after its training."""

Evaluated = tuple[Scores, dict[str, Any]]
"""Scores on the test images, and what else the result tells."""


def run_fast_protocol(subject: Subject, images: Labelled, config: LinearConfig, title: str) -> Evaluated:
    """Encode the images once, and solve a regularised classifier on the features of all training images.

    The penalty, and whether features of whole images or of their parts are read, is chosen on the validation split,
    else on training images that are held out for that.
    """
    encoder, how, device = subject.encoder, subject.how, str(next(subject.encoder.parameters()).device)
    train, labels, chooser = images.train, labels_of(images.train), images.validation
    read = encode_to_learn(subject, train, config, config.seed, title)
    if chooser is None:
        parts = [divide(labels, features[0]) for _, features in read]
    else:
        grids = [division.grid for division, _ in read]
        choosing = encode_divided(encoder, chooser, how, grids, f"{title}: encoding {len(chooser)} images")
        rows, truth = np.arange(len(labels)), labels_of(chooser)
        parts = [[Part(rows, division(z), truth)] for (division, _), z in zip(read, choosing, strict=True)]
    candidates = [Candidate(features, own) for (_, features), own in zip(read, parts, strict=True)]
    best, found = fit_best(candidates, labels, len(images.classes), config.penalties, device, f"{title}: penalties")
    division = read[best][0]
    (test,) = encode_divided(
        encoder, images.test, how, [division.grid], f"{title}: encoding {len(images.test)} images"
    )  # fmt: skip
    path = [dataclasses.asdict(tried) for tried in found.path]
    scores = score_logits(found.classifier.logits(division(test)), labels_of(images.test))
    return scores, {"penalty": found.penalty, "grid": division.grid, "path": path}


def encode_to_learn(
    subject: Subject, images: Images, config: LinearConfig | LowshotConfig, seed: int, title: str | None = None
) -> list[tuple[Division, ViewFeatures]]:
    """Encode training images to what a classifier may be fitted to: plain features first, then those of their parts.

    With random views of each image there are plain features only.
    """
    encoder, how = subject.encoder, subject.how
    if config.views or not config.parts:
        return [(Division(1), encode_random_views(encoder, images, how, config.views, seed, title))]
    grids = list_grids(encoder, how, len(images))
    averages = encode_divided(encoder, images, how, grids, title and f"{title}: encoding {len(images)} images")
    return [(one, one(z)[None]) for one, z in zip(divide_features(averages, grids), averages, strict=True)]


def encode_random_views(
    encoder: Encoder, images: Images, how: Encoding, views: int, seed: int, title: str | None = None
) -> ViewFeatures:
    """Encode the centre of each image and V random crops and flips of it: features (1 + V, N, C)."""
    features = torch.empty(1 + views, len(images), encoder.width(how.output))
    for number, out in enumerate(features):
        said = title and f"{title}: encoding {len(images)} images" + (f", {number + 1} of {1 + views}" if views else "")
        if number:
            out.copy_(encode(encoder, images, how, RandomViews(CROP_AND_FLIP, seed, number - 1), said))
        else:
            out.copy_(encode_again(encoder, images, how, said))
    return features


def run_paper_protocol(subject: Subject, images: Labelled, config: LinearConfig, title: str) -> Evaluated:
    """Run the papers' protocol: new random crops and flips of each image every epoch, through the frozen backbone."""
    encoder, how, train = subject.encoder, subject.how, images.train
    how.require_images("give --protocol fast")
    device = next(encoder.parameters()).device
    batch_size = limit_batch_size(config.batch_size, len(train))
    batches = ViewBatches(
        train, CROP_AND_FLIP, how.image_size, how.mean, how.std, batch_size, config.seed, key_views=False,
        rank=distributed.rank(), ranks=distributed.world_size(), decode="scaled", device=str(device),
    )  # fmt: skip
    steps = config.epochs * batches.steps_per_epoch
    schedule = Schedule("step", config.lr, steps, milestones=MILESTONES)
    truth = torch.from_numpy(labels_of(train)).to(device)
    fc = new_classifier(encoder.num_features, len(images.classes), config.seed).to(device)
    optimizer = torch.optim.SGD(fc.parameters(), config.lr, MOMENTUM, weight_decay=0)
    model, state = distributed.wrap(fc), locate_state(config, backbone_digest(encoder), train)
    run, damage = build_run(title, state, {"fc": fc}, optimizer, steps), Damage(len(train), batch_size)
    request = StopRequest(active=state is not None, together=distributed.world_size() > 1)

    def train_classifier() -> dict[str, Any]:
        start = run.restore()
        loaded = show_progress(batches.run(start, steps, how.workers), title, steps - start)
        for step, batch in enumerate(request.between(loaded), start):
            x, _, index, replaced = batch.to(str(device))
            with torch.no_grad(), autocast(how.precision, device.type):
                h = encoder.backbone(x)
            loss = F.cross_entropy(model(h.float()), truth[index])
            optimizer.zero_grad()
            torch.autograd.backward(loss)

            norm = get_total_norm([p.grad for p in fc.parameters() if p.grad is not None])
            flags = (not is_finite(norm, loss), request.noted, is_save_due(run), bool(replaced))
            diverged, stopping, due, damaged = distributed.on_any_rank(*flags)
            if damaged:
                warn_of_damage(damage, replaced)
            if diverged:
                raise run.diverge(step, [loss], norm, f"give a smaller --lr (now {config.lr:g})")
            optimizer.param_groups[0]["lr"] = schedule(step)
            optimizer.step()

            run.advance(step + 1)
            if stopping or due:
                run.save(step + 1)
            if stopping:
                return run.stop(step + 1)
        return {}

    with use_evaluation_mode(encoder.backbone), torch.random.fork_rng(devices=[]), run, request:
        require_end(run, state, run.until_stopped(request, train_classifier))
    run.finish(steps, device.type)
    seconds = run.log.seconds / config.epochs
    test = encode(encoder, images.test, how, title=f"{title}: encoding {len(images.test)} images")
    weight, bias = fc.weight.detach().T.cpu(), fc.bias.detach().cpu()
    found = score_logits(test @ weight + bias, labels_of(images.test))
    sample = take_evenly(train, SAMPLE)
    h, y = encode(encoder, sample, how), torch.from_numpy(labels_of(sample))
    suiting = suit_rate(float(h.square().sum(1).mean()), len(images.classes))
    return found, {
        "lr": config.lr, "training_loss": round(float(F.cross_entropy(h @ weight + bias, y)), 4), "suiting_lr": suiting,
        "seconds_per_epoch": round(seconds, 3), "seconds_before": run.log.earlier,
    }  # fmt: skip


def suit_rate(squared_norm: float, classes: int) -> float:
    """Return half of the largest stable SGD rate for features of this mean squared norm, to one digit.

    At weights of 0 the Hessian of the loss is (I / K - 1 / K^2) (x) E[h h^T], so its norm is at most E|h|^2 / K.
    Gradient descent with momentum m is stable up to the rate 2 (1 + m) / that norm.
    """
    return float(f"{(1 + MOMENTUM) * classes / squared_norm:.0e}")


def evaluate_linear(subject: Subject, images: Labelled, config: LinearConfig, title: str = "linear") -> Evaluated:
    """Run the protocol that the config names. Raises VoidError where it changed the backbone."""
    before = backbone_digest(subject.encoder)
    protocol = run_paper_protocol if config.protocol == "paper" else run_fast_protocol
    found, details = protocol(subject, images, config, title)
    if backbone_digest(subject.encoder) != before:
        raise VoidError("the frozen backbone was changed by its linear evaluation: the figure is void, report this")
    return found, {**details, "backbone": before}
