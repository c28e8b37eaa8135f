"""A linear classifier on the frozen backbone (v1, 4.1): the papers' protocol, and a fast one on kept features."""

from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.utils import get_total_norm

from moco.core.encoder import Encoder, evaluating
from moco.data.augment import Augmentation
from moco.data.derived import Mirrored, Subset
from moco.data.images import Images, Labels
from moco.data.loader import ViewBatches
from moco.data.replacement import Damage
from moco.data.splits import hold_out_tenth
from moco.errors import VoidError
from moco.evaluation.classifiers import (
    MILESTONES,
    MOMENTUM,
    Classifiers,
    Training,
    ViewFeatures,
    new_classifier,
    train_classifiers,
)
from moco.evaluation.config import LinearConfig
from moco.evaluation.features import Encoding, RandomViews, encode
from moco.evaluation.scores import Scores, scores
from moco.evaluation.session import (
    Labelled,
    Subject,
    backbone_digest,
    fitting_batch,
    labels_of,
)
from moco.evaluation.statefile import build_run, is_save_due, locate_state, stop, warn_of_damage
from moco.runtime import distributed
from moco.runtime.device import autocast
from moco.runtime.progress import shown
from moco.runtime.run import is_finite
from moco.runtime.schedule import Schedule
from moco.runtime.signals import StopRequest

CROP_AND_FLIP = Augmentation((0.08, 1.0), (0.0, 0.0, 0.0, 0.0), jitter_probability=0.0, grey_probability=0.0)
"""Views of labelled images: torchvision's random resized crop with its default scale, and flip (the authors' code)."""

Evaluated = tuple[Scores, dict[str, Any]]
"""Scores on the test images, and what else the result tells."""


def fast(subject: Subject, images: Labelled, config: LinearConfig, title: str) -> Evaluated:
    """Features once, all rates at once: the best rate on held-out images, and its score on test after all of train.

    The classifiers are trained twice: without the held-out images, to choose the rate, and with them.
    """
    encoder, how, device = subject.encoder, subject.how, str(next(subject.encoder.parameters()).device)
    train, classes = images.train, len(images.classes)
    features = encode_views(encoder, train, how, config.views, config.seed, title)
    test = encode(encoder, images.test, how, title=f"{title}: encoding {len(images.test)} images")
    rows: Labels | None = None
    chooser = images.validation
    if chooser is None:
        rows, held_out = hold_out_tenth(len(train))
        chooser = Subset(train, held_out)
    choosing = encode(encoder, chooser, how, title=f"{title}: encoding {len(chooser)} images")

    training = Training(config.lrs, config.epochs, config.batch_size, config.seed, device)
    names = f"{title}: {len(config.lrs)} rates, choosing", f"{title}: {len(config.lrs)} rates"
    without = train_classifiers(features, labels_of(train), classes, training, rows, names[0])
    found = without.accuracies(choosing, labels_of(chooser))
    best = found.index(max(found))
    whole = (
        without if rows is None else train_classifiers(features, labels_of(train), classes, training, None, names[1])
    )
    tested = whole.accuracies(test, labels_of(images.test))
    sweep = [
        {"lr": rate, "held_out": chosen, "top1": top1}
        for rate, chosen, top1 in zip(config.lrs, found, tested, strict=True)
    ]
    return scores(whole.logits(test, best), labels_of(images.test)), {"lr": config.lrs[best], "rates": sweep}


def encode_views(
    encoder: Encoder, images: Images, how: Encoding, views: int, seed: int, title: str | None = None
) -> ViewFeatures:
    """Features (V, N, C) of V random crops and flips of each image; with V = 0, of its centre and that mirrored."""
    features = torch.empty(views or 2, len(images), encoder.width(how.output))
    for number, out in enumerate(features):
        said = title and f"{title}: encoding {len(images)} images, {number + 1} of {len(features)}"
        if views:
            out.copy_(encode(encoder, images, how, RandomViews(CROP_AND_FLIP, seed, number), said))
        else:
            out.copy_(encode(encoder, Mirrored(images) if number else images, how, title=said))
    return features


def paper(subject: Subject, images: Labelled, config: LinearConfig, title: str) -> Evaluated:
    """The papers' protocol: another random crop and flip of each image in every epoch, through the frozen backbone."""
    encoder, how, train = subject.encoder, subject.how, images.train
    device = next(encoder.parameters()).device
    batch_size = fitting_batch(config.batch_size, len(train))
    batches = ViewBatches(
        train, CROP_AND_FLIP, how.image_size, how.mean, how.std, batch_size, config.seed, key_views=False,
        rank=distributed.rank(), ranks=distributed.world_size(), decode="scaled",
    )  # fmt: skip
    steps = config.epochs * batches.steps_per_epoch
    schedule = Schedule("step", config.lr, steps, milestones=MILESTONES)
    truth = torch.from_numpy(labels_of(train)).to(device)
    fc = new_classifier(encoder.num_features, len(images.classes), config.seed).to(device)
    optimizer = torch.optim.SGD(fc.parameters(), config.lr, MOMENTUM, weight_decay=0)
    model, state = distributed.wrap(fc), locate_state(config, backbone_digest(encoder), train)
    run, damage = build_run(title, state, {"fc": fc}, optimizer, steps), Damage(len(train), batch_size)
    stoppable = StopRequest(active=state is not None)
    with evaluating(encoder.backbone), torch.random.fork_rng(devices=[]), run, stoppable as request:
        start = run.restore()
        loaded = shown(batches.run(start, steps, how.workers), title, steps - start)
        for step, batch in enumerate(loaded, start):
            x, _, index, replaced = batch.to(str(device))
            with torch.no_grad(), autocast(how.precision, device.type):
                h = encoder.backbone(x)
            loss = F.cross_entropy(model(h.float()), truth[index])
            optimizer.zero_grad()
            torch.autograd.backward(loss)

            norm = get_total_norm([p.grad for p in fc.parameters() if p.grad is not None])
            flags = (not is_finite(norm, loss), request.noted, is_save_due(run), bool(replaced))
            diverged, stopping, due, damaged = distributed.on_any_rank(device.type, *flags)
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
                raise stop(run, state, step + 1)
    run.finish(steps, device.type)
    seconds = run.log.seconds / config.epochs
    test = encode(encoder, images.test, how, title=f"{title}: encoding {len(images.test)} images")
    classifier = Classifiers(fc.weight.detach().T.cpu(), fc.bias.detach().cpu(), len(images.classes))
    found = scores(classifier.logits(test), labels_of(images.test))
    return found, {"lr": config.lr, "seconds_per_epoch": round(seconds, 3), "seconds_before": run.log.earlier}


def evaluate(subject: Subject, images: Labelled, config: LinearConfig, title: str = "linear") -> Evaluated:
    """The protocol that the config names. Raises VoidError where the backbone was changed by it."""
    before = backbone_digest(subject.encoder)
    found, told = (paper if config.protocol == "paper" else fast)(subject, images, config, title)
    if backbone_digest(subject.encoder) != before:
        raise VoidError("the frozen backbone was changed by its linear evaluation: the figure is void, report this")
    return found, {**told, "backbone": before}
