"""`moco finetune`: the whole network, trained with a new classifier."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from torch import nn

from moco.errors import BadInputError, counted
from moco.evaluation.baselines import SUPERVISED, keep_when_done, load_tuned
from moco.evaluation.config import FinetuneConfig
from moco.evaluation.finetune import Finetuning, score_network, train_network
from moco.evaluation.scores import Scores, describe_lead, describe_predictions
from moco.evaluation.session import (
    Labelled,
    Subject,
    backbone_digest,
    labels_of,
    load_labelled,
    say,
    session,
    with_workers,
)
from moco.evaluation.statefile import locate_state
from moco.interop.metadata import CLASSIFIER
from moco.runtime import distributed
from moco.runtime.checkpoint import save_tensors
from moco.runtime.files import require_file_name


def run(config: FinetuneConfig) -> dict[str, Any]:
    """`moco finetune`: top-1 and top-5 of the whole network, trained with a new classifier."""
    if config.save is not None:
        if config.save.suffix != ".safetensors":
            raise BadInputError(f"--save {config.save}: expected a name that ends in .safetensors")
        require_file_name("--save", config.save)
    with session(config) as subject:
        compared_with = load_tuned(config, subject)
        images = load_labelled(config.data, config.exclude, subject.weights.white_level, subject.weights.form,
                               text=subject.how.text)  # fmt: skip
        for reason in images.test.unreadable.values():
            raise BadInputError(reason)  # before training, not after it
        subject = with_workers(config, subject, images.train)
        per_epoch = max(1, len(images.train) // config.batch_size)
        recipe = Finetuning(
            config.max_steps or config.epochs * per_epoch, config.base_lr * config.batch_size / 256, config.batch_size,
            config.weight_decay, round(config.warmup_epochs * per_epoch), config.seed,
        )  # fmt: skip

        def train(subject: Subject, title: str, part: str = "") -> tuple[Scores, dict[str, Any]]:
            state = locate_state(config, backbone_digest(subject.encoder), images.train, part)
            model, seconds = train_network(subject, images.train, recipe, title, state)
            if config.save is not None and not part and distributed.rank() == 0:
                _save(config.save, subject, model, images)  # a test image that cannot be read ends what follows
            started = time.monotonic()
            found = score_network(model, subject, images.test, title)
            seconds = round(seconds + time.monotonic() - started, 2)
            took = f"{counted(recipe.steps, 'step')}, {seconds:.0f} s"
            say(f"{title}: {found.describe(len(images.classes))} ({took})")
            return found, {"steps": recipe.steps, "seconds": seconds}

        found, how_long = train(subject, f"{config.weights}: fine-tuned")
        result: dict[str, Any] = {
            **found.figures, **how_long, "lr": recipe.lr, "weights": config.weights, "data": config.data,
            "train": len(images.train), "test": len(images.test), "baselines": {},
        }  # fmt: skip
        with keep_when_done(config, result, **describe_predictions(images.test, found.predicted)):
            for number, one in enumerate(compared_with):
                scratch = one.key == SUPERVISED
                part, title = ("-scratch", one.name) if scratch else (f"-baseline{number}", f"{one.name}: fine-tuned")
                other, how_long = train(with_workers(config, one.subject, images.train), title, part)
                gain = one.compare(found, other, labels_of(images.test), **how_long)
                result["baselines"][one.key] = gain
                say(f"  {config.weights}, fine-tuned: {describe_lead(gain)}")
    return result


def _save(path: Path, subject: Subject, model: nn.Module, images: Labelled) -> None:
    """Save the network under its library's names, with what is needed to use it."""
    tensors = {name.removeprefix("backbone."): tensor for name, tensor in model.state_dict().items()}
    weights = dataclasses.replace(subject.weights, white_level=images.white_level)
    classes = list(images.classes)
    metadata = {**weights.metadata, "kind": CLASSIFIER, "image_size": subject.how.image_size, "classes": classes}
    save_tensors(path, tensors, metadata)
