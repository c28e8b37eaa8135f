"""What the evaluation commands begin and end with: weights, processes, device, images; where the result is kept."""

import dataclasses
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from moco.core.encoder import WHITENING, Encoder, EncoderPlan, Output
from moco.core.joined import whitens_parts
from moco.core.networks import reads_bytes
from moco.core.stems import Stem
from moco.data.ahead import watch_loading
from moco.data.brightness import warn_of_dark
from moco.data.catalog import Split, load
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.data.decoding import limit_pixels
from moco.data.documents import open_documents
from moco.data.forms import Form
from moco.data.images import Images, Labels, hold
from moco.data.loader import choose_workers
from moco.data.replacement import list_names
from moco.data.splits import Source, final_source, final_split
from moco.errors import BadInputError
from moco.evaluation.config import RANDOM, EvaluationConfig, KeptConfig, result_name
from moco.evaluation.features import Encoding
from moco.evaluation.requirements import evaluations_folder, require_own_flags, require_place
from moco.evaluation.statefile import remove_states
from moco.interop.checkpoints import Weights, load_weights, random_weights
from moco.runtime import distributed
from moco.runtime.checkpoint import digest
from moco.runtime.configfile import drop_nonfinite, to_json
from moco.runtime.device import preserve_torch_state, resolve_device, resolve_precision, set_precision, set_threads
from moco.runtime.fields import check
from moco.runtime.records import read_object
from moco.runtime.runlog import write_text

NEEDS_LABELS = (
    "needs labels: class folders, at least two; without labels look at a run with moco report RUN or moco explore RUN, "
    "find copies with moco duplicates, or write features with moco embed"
)


@dataclass(frozen=True)
class Subject:
    """The evaluated encoder, its device, and how images are prepared for it."""

    weights: Weights
    """Its encoder is on the device."""
    how: Encoding

    @property
    def encoder(self) -> Encoder:
        """Return f_q, or random weights."""
        return self.weights.encoder

    @property
    def whitens(self) -> bool:
        """Tell whether the features are whitened, as a whole or by the parts of a joined encoder."""
        return (self.encoder.whitens or whitens_parts(self.encoder)) and self.how.output == "backbone"


@contextmanager
def session(config: EvaluationConfig) -> Iterator[Subject]:
    """Yield the subject of an evaluation command, with its processes joined for that time.

    Raises BadInputError for values out of range, weights that are not there, or a device that is not.
    """
    check(config)
    require_own_flags(config)
    require_place(config)
    device = resolve_device(config.device)
    together = distributed.world_size() > 1  # by the program that called this
    distributed.join_processes(device)
    try:
        with (
            preserve_torch_state(device), watch_loading("Then give the command again"),
            limit_pixels(config.most_pixels),
        ):  # fmt: skip
            set_threads(config.threads)
            precision = resolve_precision(config.precision, device)
            set_precision(precision)
            named = named_weights(config.weights, config.like, config.arch, config.stem, config.image_size, config.seed)
            level = named.white_level if config.white_level is None else config.white_level
            weights = dataclasses.replace(place_weights(named, device), white_level=level)
            asked: Any = getattr(config, "features", "plain")  # a classifier that is trained finds its own affine map
            output: Output = asked if asked in get_args(Output) else "plain"
            how = Encoding(
                config.image_size or weights.encoder.plan.image_size, weights.mean, weights.std, output,
                config.batch_size, precision, unit=False, rgb=weights.form is None,
                text=reads_bytes(weights.encoder.plan.arch),
            )  # fmt: skip
            weights.encoder.require_size(how.image_size, "--image-size")
            yield Subject(weights, how)
    finally:
        if not together:
            distributed.leave_processes()


def at_random(config: EvaluationConfig, subject: Subject) -> Subject:
    """Return the same network with random weights: the baseline."""
    plan, device = subject.encoder.plan, next(subject.encoder.parameters()).device
    weights = random_weights(plan, config.seed, subject.weights.mean, subject.weights.std, form=subject.weights.form)
    return Subject(place_weights(weights, str(device)), subject.how)


def place_weights(weights: Weights, device: str) -> Weights:
    """Move the encoder to the device, in the memory format that is fastest for convolutions."""
    encoder = weights.encoder.to(device).to(memory_format=torch.channels_last)
    return dataclasses.replace(weights, encoder=encoder)


def named_weights(
    weights: str, like: Path | None, arch: str | None, stem: Stem, image_size: int | None, seed: int
) -> Weights:
    """Return the weights of a name; random ones are those of another run's net, or of an architecture by its name."""
    if weights != RANDOM:
        found = load_weights(weights)
        say_notes(found)
        return found
    if like is not None:
        other = load_weights(str(like), "--like")
        return random_weights(other.encoder.plan, seed, other.mean, other.std, other.white_level, other.form)
    if arch is None or image_size is None:
        raise BadInputError("--weights random: give --like RUN, or --arch and --image-size")
    return random_weights(EncoderPlan(arch, stem, image_size=image_size), seed, IMAGENET_MEAN, IMAGENET_STD)


# --- images ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labelled:
    """The images of an evaluation with labels: to learn from, to tell the figure of, and to choose by."""

    train: Images
    test: Images
    validation: Images | None
    """The validation split, where the figure is of another one."""
    source: Source = "test"
    """Where the images of the figure come from."""
    white_level: int | None = None
    """The value of their 16-bit files that became white, if any is known."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the class names."""
        return self.train.classes


def load_labelled(
    data: str, exclude: Sequence[str] = (), white_level: int | None = None, form: Form | None = None, *,
    text: bool = False,
) -> Labelled:  # fmt: skip
    """Open the labelled images of `--data`, or with `text` documents, and hold small ones in memory.

    Raises BadInputError where there are no labels, one class only, one image to learn from, or other classes in train
    than in test; warns of classes without an image to learn from.
    """
    splits = open_documents(data, exclude) if text else load(data, exclude, white_level, form)
    train, test = final_split(splits)
    require_labels(train, test)
    validation = splits["val"] if "test" in splits and "val" in splits else None
    if validation is not None:
        require_labels(train, validation)
    if len(train) < 2:
        raise BadInputError(f"--data {data}: {len(train)} image is left to learn from: expected 2 or more")
    unseen = np.setdiff1d(labels_of(test), labels_of(train))
    if len(unseen):
        warnings.warn(
            f"--data {data}: {len(unseen)} of {len(test.classes)} classes have test images and none to learn from "
            f"({list_names(test.classes[label] for label in unseen)}), so these are never right",
            stacklevel=2,
        )
    if text:
        return Labelled(train, test, validation, final_source(splits))
    chooser = None if validation is None else hold(validation)
    warn_of_dark(train, data)
    return Labelled(hold(train), hold(test), chooser, final_source(splits), splits["train"].white_level)


def require_penalties(penalties: Sequence[float]) -> None:
    """Raise BadInputError where there is no penalty to try."""
    if not penalties:
        raise BadInputError("--penalties is empty: give at least one, such as --penalties 0.1 0.01 0.001")


def require_labels(train: Images, test: Images) -> None:
    """Raise BadInputError where there are no labels, one class only, or other classes in train than in test."""
    if train.labels is None or test.labels is None or len(train.classes) < 2:
        raise BadInputError(f"this evaluation {NEEDS_LABELS}")
    if train.classes != test.classes:
        one_sided = sorted(set(train.classes) ^ set(test.classes)) or ["their order"]
        raise BadInputError(
            f"the training and the test images are not of the same classes ({one_sided[0]!r} differs): "
            f"{len(train.classes)} and {len(test.classes)} classes, expected class folders of the same names"
        )


def labels_of(images: Images) -> Labels:
    """Return the labels of images of which it is known that they have some; torch wants them to be writable."""
    assert images.labels is not None
    return images.labels if images.labels.flags.writeable else images.labels.copy()


def with_workers(config: EvaluationConfig, subject: Subject, images: Images) -> Subject:
    """Return the subject, with as many processes that load images as suit these."""
    return Subject(subject.weights, dataclasses.replace(subject.how, workers=choose_workers(config.workers, images)))


def limit_batch_size(batch_size: int, images: int) -> int:
    """Give the batch size, or the largest that few images allow; every process has the same share of it.

    Raises BadInputError where it cannot be shared out.
    """
    ranks = distributed.world_size()
    if batch_size % ranks or images < ranks:
        raise BadInputError(
            f"--batch-size is {batch_size}, of {images} images: expected a multiple of {ranks} processes"
        )
    return min(batch_size, images // ranks * ranks)


def all_splits(
    data: str, split: str, exclude: Sequence[str] = (), white_level: int | None = None, form: Form | None = None, *,
    text: bool = False,
) -> dict[Split, Images]:  # fmt: skip
    """Open the wanted split, or all, of images or, with `text`, documents. Raises BadInputError naming the splits."""
    splits = open_documents(data, exclude) if text else load(data, exclude, white_level, form)
    if not text:
        warn_of_dark(next(iter(splits.values())), data)
    if split == "all":
        return splits
    chosen: dict[Split, Images] = {name: images for name, images in splits.items() if name == split}
    if not chosen:
        raise BadInputError(f"--split {split}: --data {data} has no such split, expected one of {', '.join(splits)}")
    return chosen


# --- results --------------------------------------------------------------------------------------------------------


def backbone_digest(encoder: Encoder, *, plain: bool = False) -> str:
    """Compute the SHA-256 of the backbone's tensors, including running statistics and whitening, and of its parts.

    Plain features do not depend on the whitening: their digest leaves it out.
    """
    whitening = {} if plain else encoder.whitening.state_dict(prefix=WHITENING)
    tensors = {**encoder.backbone.state_dict(), **whitening}
    parts = {"parts": dataclasses.asdict(encoder.plan)["parts"]} if encoder.plan.parts else {}
    return digest({name: tensor.detach().cpu() for name, tensor in tensors.items()}, parts)


def say(text: str) -> None:
    """Tell a person, on the first process only."""
    if distributed.rank() == 0:
        print(text)


def say_notes(weights: Weights) -> None:
    """Tell what was assumed of a file of weights and left aside in it."""
    for note in weights.notes:
        say(note)


def keep_evaluation(config: KeptConfig, result: Mapping[str, Any], **more: Any) -> None:
    """Write a result, and what is too long to print, to the run's `evaluations/`; nothing for weights of no run."""
    folder = evaluations_folder(config)
    if distributed.rank() != 0 or folder is None:
        return
    try:
        folder.mkdir(exist_ok=True)
        content = drop_nonfinite({**result, **more, "config": json.loads(to_json(config))})
        write_text(folder / f"{result_name(config)}.json", json.dumps(content, indent=2) + "\n")
        remove_states(config, folder)
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be written ({error.strerror}): the result is lost") from error


def read_kept_evaluation(config: KeptConfig) -> dict[str, Any]:
    """Read the result that an earlier evaluation of this kind left with the run; empty if missing or damaged."""
    folder = evaluations_folder(config)
    if folder is None:
        return {}
    try:
        return read_object(folder / f"{result_name(config)}.json")
    except (OSError, BadInputError):
        return {}
