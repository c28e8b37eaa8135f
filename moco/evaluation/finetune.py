"""The whole network with a new classifier, trained on labelled images; from random weights, supervised from scratch."""

import copy
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from moco.data.augment import Augmentation
from moco.data.images import Images
from moco.data.loader import ViewBatches
from moco.data.replacement import Damage
from moco.errors import BadInputError
from moco.evaluation.classifiers import MOMENTUM, new_classifier
from moco.evaluation.features import outputs
from moco.evaluation.scores import Scores, score_logits
from moco.evaluation.session import (
    Subject,
    labels_of,
    limit_batch_size,
)
from moco.evaluation.statefile import build_run, is_save_due, require_end, warn_of_damage
from moco.runtime import distributed
from moco.runtime.checkpoint import StateFile
from moco.runtime.device import autocast
from moco.runtime.progress import show_progress
from moco.runtime.scaling import build_scaler, measure_gradient, step_unless
from moco.runtime.schedule import Schedule
from moco.runtime.signals import StopRequest

CROP_AND_FLIP = Augmentation((0.2, 1.0), (0.0, 0.0, 0.0, 0.0), jitter_probability=0.0, grey_probability=0.0)
"""Crops of at least a fifth of the image: in few epochs smaller ones cost more than they bring."""
LARGEST_WARMUP = 0.1
"""Share of the steps."""


@dataclass(frozen=True)
class Finetuning:
    """SGD with momentum 0.9 and a cosine schedule; batch normalisation with the statistics of the whole batch."""

    steps: int
    lr: float = 0.1
    batch_size: int = 256
    weight_decay: float = 5e-4
    warmup_steps: int = 0
    seed: int = 0


class Trained(NamedTuple):
    """A network, and the seconds that its training took, those of earlier commands among them."""

    network: nn.Module
    seconds: float


def finetune_and_score(
    subject: Subject, train: Images, test: Images, recipe: Finetuning, title: str | None = None
) -> Scores:
    """Train a copy of the subject's backbone with a classifier, and score it on the test images."""
    return score_network(train_network(subject, train, recipe, title).network, subject, test, title)


def score_network(model: nn.Module, subject: Subject, test: Images, title: str | None = None) -> Scores:
    """Score a network on the test images, prepared as for the subject."""
    title = title and f"{title}: testing"
    return score_logits(outputs(model, len(test.classes), test, subject.how, title=title), labels_of(test))


def train_network(
    subject: Subject, train: Images, recipe: Finetuning, title: str | None = None, state: StateFile | None = None
) -> Trained:
    """Train a copy of the subject's backbone and a new classifier (`backbone`, `fc`) on labelled images.

    Batches are random crops and flips, a pure function of the seed. Several processes share each batch. The subject
    stays as it was. The training goes on from its `state`, where that has a place. Raises DivergedError where loss or
    gradient are no longer finite, StoppedError after a signal, and BadInputError for batches of one image.
    """
    encoder, how = subject.encoder, subject.how
    device = next(encoder.parameters()).device
    batch_size = limit_batch_size(recipe.batch_size, len(train))
    if batch_size < 2 * distributed.world_size():
        raise BadInputError(
            f"--batch-size is {recipe.batch_size}, of {len(train)} images: expected 2 or more for each process"
        )
    batches = ViewBatches(
        train, CROP_AND_FLIP, how.image_size, how.mean, how.std, batch_size, recipe.seed, key_views=False,
        rank=distributed.rank(), ranks=distributed.world_size(), decode="scaled", device=str(device),
    )  # fmt: skip
    warmup = min(recipe.warmup_steps, int(LARGEST_WARMUP * recipe.steps))
    schedule = Schedule("cosine", recipe.lr, recipe.steps, warmup)
    model = with_classifier(subject, len(train.classes), recipe.seed)
    if distributed.world_size() > 1 and device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm  # unlike torch's it keeps fused activations

        model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    truth = torch.from_numpy(labels_of(train)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), recipe.lr, MOMENTUM, weight_decay=recipe.weight_decay)
    wrapped, damage = distributed.wrap(model), Damage(len(train), batch_size)
    scaler, net = build_scaler(how.precision, device.type), {"net": model}
    run = build_run(title or "fine-tuning", state, net, optimizer, recipe.steps, scaler)
    request = StopRequest(active=state is not None, together=distributed.world_size() > 1)

    def train_model() -> dict[str, Any]:
        torch.manual_seed(recipe.seed)  # of networks with dropout
        model.train()
        start = run.restore()
        loaded = show_progress(batches.run(start, recipe.steps, how.workers), title, recipe.steps - start)
        for step, batch in enumerate(request.between(loaded), start):
            x, _, index, replaced = batch.to(str(device))
            optimizer.param_groups[0]["lr"] = schedule(step)
            with autocast(how.precision, device.type):
                logits = wrapped(x)
            loss = F.cross_entropy(logits.float(), truth[index])
            optimizer.zero_grad()
            torch.autograd.backward(scaler.scale(loss))
            norm, overflowed, finite = measure_gradient(scaler, optimizer, model.parameters(), loss)
            flags = not finite, request.noted, is_save_due(run), bool(replaced)
            diverged, stopping, due, damaged = distributed.on_any_rank(*flags)
            if damaged:
                warn_of_damage(damage, replaced)
            if diverged:
                raise run.diverge(step, [loss], norm, f"give a smaller learning rate (now lr {recipe.lr:g})")
            step_unless(overflowed, scaler, optimizer.step)
            run.advance(step + 1)
            if stopping or due:
                run.save(step + 1)
            if stopping:
                return run.stop(step + 1)
        return {}

    with torch.random.fork_rng(devices=[]), run, request:
        require_end(run, state, run.until_stopped(request, train_model))
    run.finish(recipe.steps, device.type)
    for buffer in model.buffers():
        if buffer.is_floating_point():  # running statistics of the ranks
            buffer.copy_(distributed.mean(buffer))
    return Trained(model, run.log.seconds)


def with_classifier(subject: Subject, classes: int, seed: int) -> nn.Module:
    """Return a copy of the backbone and a new classifier of small random weights.

    Raises BadInputError where the backbone takes documents, which have no crops to train on.
    """
    encoder = subject.encoder
    subject.how.require_images("only moco knn, linear --protocol fast and lowshot --finetune-steps 0 measure them")
    fc = new_classifier(encoder.num_features, classes, seed).to(next(encoder.parameters()).device)
    return nn.Sequential(OrderedDict(backbone=copy.deepcopy(encoder.backbone), fc=fc))
