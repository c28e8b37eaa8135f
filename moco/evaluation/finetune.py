"""The whole network with a new classifier, trained on labelled images; from random weights, supervised from scratch."""

import copy
from collections import OrderedDict
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from moco.data.augment import Augmentation
from moco.data.images import Images
from moco.data.loader import ViewBatches, moved
from moco.errors import BadInputError, DivergedError
from moco.evaluation.classifiers import MOMENTUM, new_classifier
from moco.evaluation.features import outputs
from moco.evaluation.scores import Scores, scores
from moco.evaluation.session import (
    Subject,
    fitting_batch,
    labels_of,
)
from moco.evaluation.unfinished import Unfinished
from moco.runtime import distributed
from moco.runtime.device import autocast
from moco.runtime.schedule import Schedule

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


def finetuned(subject: Subject, train: Images, test: Images, recipe: Finetuning, title: str | None = None) -> Scores:
    """Train a copy of the subject's backbone with a classifier, and score it on the test images."""
    return score_network(train_network(subject, train, recipe, title), subject, test, title)


def score_network(model: nn.Module, subject: Subject, test: Images, title: str | None = None) -> Scores:
    """Score a network on the test images, which are brought to it as to the subject."""
    title = title and f"{title}: testing"
    return scores(outputs(model, len(test.classes), test, subject.how, title=title), labels_of(test))


def train_network(
    subject: Subject, train: Images, recipe: Finetuning, title: str | None = None, left: Unfinished | None = None
) -> nn.Module:
    """A copy of the subject's backbone and a new classifier (`backbone`, `fc`), trained on labelled images.

    Batches are random crops and flips, a pure function of the seed. Several processes share each batch. The subject
    stays as it was. What is `left` of a training goes on. Raises DivergedError where the loss is no longer finite,
    BadInputError for batches of one image.
    """
    encoder, how = subject.encoder, subject.how
    device = next(encoder.parameters()).device
    batch_size = fitting_batch(recipe.batch_size, len(train))
    if batch_size < 2 * distributed.world_size():
        raise BadInputError(
            f"--batch-size is {recipe.batch_size}, of {len(train)} images: expected 2 or more for each process, since "
            f"batch normalisation takes its statistics over them"
        )
    batches = ViewBatches(
        train, CROP_AND_FLIP, how.image_size, how.mean, how.std, batch_size, recipe.seed, key_views=False,
        rank=distributed.rank(), ranks=distributed.world_size(), decode="scaled",
    )  # fmt: skip
    warmup = min(recipe.warmup_steps, int(LARGEST_WARMUP * recipe.steps))
    schedule = Schedule("cosine", recipe.lr, recipe.steps, warmup)
    model = with_classifier(subject, len(train.classes), recipe.seed)
    if distributed.world_size() > 1 and device.type == "cuda":
        from timm.layers.norm_act import convert_sync_batchnorm  # unlike torch's it keeps fused activations

        model = convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    truth = torch.from_numpy(labels_of(train)).to(device)
    optimizer = torch.optim.SGD(model.parameters(), recipe.lr, MOMENTUM, weight_decay=recipe.weight_decay)
    wrapped, loss, left = distributed.wrap(model), torch.zeros(()), left or Unfinished()
    with torch.random.fork_rng(devices=[]):  # of networks with dropout
        torch.manual_seed(recipe.seed)
        model.train()
        for step, batch in left.batches(batches, recipe.steps, how.workers, {"net": model}, optimizer, title):
            x, _, index, _ = moved(batch, str(device))
            optimizer.param_groups[0]["lr"] = schedule(step)
            with autocast(how.precision, device.type):
                logits = wrapped(x)
            loss = F.cross_entropy(logits.float(), truth[index])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    if distributed.on_any_rank(str(device), not bool(torch.isfinite(loss)))[0]:
        raise DivergedError(f"fine-tuning diverged at lr {recipe.lr:g}: give a smaller learning rate")
    for buffer in model.buffers():
        if buffer.is_floating_point():  # running statistics of the ranks
            buffer.copy_(distributed.mean(buffer))
    return model


def with_classifier(subject: Subject, classes: int, seed: int) -> nn.Module:
    """A copy of the backbone and a new classifier of small random weights."""
    encoder = subject.encoder
    fc = new_classifier(encoder.num_features, classes, seed).to(next(encoder.parameters()).device)
    return nn.Sequential(OrderedDict(backbone=copy.deepcopy(encoder.backbone), fc=fc))
