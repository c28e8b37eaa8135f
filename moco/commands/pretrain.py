"""`moco pretrain`: the loop on the images of a folder, with a monitor that suits them."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

from torch import nn

from moco.core.encoder import Encoder
from moco.core.networks import reads_bytes
from moco.core.pair import Teacher
from moco.data.brightness import warn_of_dark
from moco.data.catalog import Split, load
from moco.data.decoding import limit_pixels
from moco.data.derived import make_readable, take_evenly
from moco.data.documents import open_documents
from moco.data.forms import Form
from moco.data.images import Images
from moco.data.kept import KEPT_BYTES, keep_prepared
from moco.data.loader import choose_workers
from moco.data.named import absolute_data
from moco.data.parts import CROPS, FIRST_CROP
from moco.data.settling import Asked, require_fitting_channels
from moco.data.sizes import warn_of_small
from moco.data.spans import pair_documents
from moco.data.splits import (
    are_labelled,
    hold_training,
    images_to_whiten,
    monitor_source,
    monitor_split,
    training_images,
)
from moco.errors import one_line
from moco.evaluation.alignment import EPOCH, draw_pairs
from moco.evaluation.feature_whitening import FeatureWhitener
from moco.evaluation.features import Encoding, RandomViews
from moco.evaluation.judge import KnnJudge, ViewJudge
from moco.evaluation.knn import knn_scores
from moco.evaluation.pixels import build_raw_pixels
from moco.evaluation.scores import Scores
from moco.evaluation.teacher import load_teacher
from moco.evaluation.vitals import vitals
from moco.interop.checkpoints import load_weights
from moco.pretraining.channels import asked_of, with_form
from moco.pretraining.config import PretrainConfig
from moco.pretraining.ending import describe_reached
from moco.pretraining.initial import as_begun, flag_of, with_weights
from moco.pretraining.loop import pretrain
from moco.pretraining.monitor import Checkup, Monitor, Whitener
from moco.pretraining.prepare import build_batches
from moco.pretraining.pretexts import augmentation_of, load_own_pretext, require_pretext
from moco.pretraining.teaching import require_cached
from moco.runtime import distributed
from moco.runtime.checkpoint import newest_checkpoint
from moco.runtime.device import preserve_torch_state, resolve_device, resolve_precision, set_threads
from moco.runtime.fields import check, require
from moco.runtime.loggers import settle_loggers
from moco.runtime.owncode import OwnCode
from moco.runtime.phases import say_if_slow
from moco.runtime.run import TEACHER

Drawn = TypeVar("Drawn")

UNLABELLED_IMAGES = 2048
"""Number of images that the monitor without labels evaluates."""
RETRIEVED = 512
"""Images of these that are to find their own second view."""


def run(config: PretrainConfig) -> dict[str, Any]:
    """`moco pretrain`: train on the images of `config.data`, with a monitor that suits them."""
    check(config)
    with limit_pixels(config.most_pixels):
        return _run(config)


def _run(config: PretrainConfig) -> dict[str, Any]:
    own = load_own_pretext(config.pretext)
    config = dataclasses.replace(config, logger=settle_loggers(config.logger))
    config = with_weights(config if own is None else dataclasses.replace(config, pretext=own.stored))
    require_pretext(config)
    given = None if as_begun(config) is not None else config.init_weights or config.teacher
    weights = None if given is None else load_weights(given, flag_of(config))
    level = config.white_level if weights is None or config.white_level else weights.white_level
    if reads_bytes(require(config.arch)):
        splits = open_documents(config.data, config.exclude)
    else:
        splits = open_splits(config.data, config.exclude, level, asked_of(config, weights))
        config = with_form(config, splits["train"])
        warn_of_small(splits["train"], config.data, require(config.view_size or config.image_size))
    teacher = build_teacher(config, training_images(splits))
    result = train_prepared(config, splits, build_monitor(config, splits), teacher, own)
    if not result.get("exit_code") and "already_done" not in result and distributed.rank() == 0:
        labelled = are_labelled(splits)
        documents = reads_bytes(require(config.arch))
        print("\n".join(describe_reached(result, config.out, config.data, labelled=labelled, documents=documents)))
    return result


def open_splits(
    data: str, exclude: Sequence[str] = (), white_level: int | None = None, form: Form | Asked | None = None
) -> dict[Split, Images]:
    """Open the splits of `--data`; small training images are held in memory."""
    splits = load(data, exclude, white_level, form)
    if isinstance(form, Form):
        require_fitting_channels(splits["train"], form, data)
    with say_if_slow(f"decoding the images of {data} into memory"):
        splits = hold_training(splits)
    warn_of_dark(splits["train"], data)
    return splits


def train_prepared(
    config: PretrainConfig,
    splits: dict[Split, Images],
    monitor: Monitor,
    teacher: Teacher | None,
    own: OwnCode | None = None,
) -> dict[str, Any]:
    """Train on the images of a config whose monitor and teacher are ready."""
    level = splits["train"].white_level
    config = with_form(dataclasses.replace(config, data=absolute_data(config.data), white_level=level), splits["train"])
    if config.partner is not None:
        config = dataclasses.replace(config, partner=absolute_data(config.partner))
    if config.series is not None:
        config = dataclasses.replace(config, series=os.path.abspath(config.series))
    if teacher is not None:
        config = dataclasses.replace(config, feature_dim=teacher.width)
    images = training_images(splits)
    checkup = build_checkup(config, images, own)
    whitener = build_whitener(config, splits) if config.whiten else None
    result = pretrain(config, images, monitor, checkup=checkup, teacher=teacher, own=own, whitener=whitener)
    distributed.leave_processes()
    return result


def build_teacher(config: PretrainConfig, images: Images) -> Teacher | None:
    """Load the teacher that `config` names, and encode the images by it; None where it names none."""
    if config.teacher is None:
        return None
    device = resolve_device(config.device)
    distributed.join_processes(device, config.timeout)
    size, mean, std = require(config.image_size), require(config.mean), require(config.std)
    student = Encoding(
        size, mean, std, precision=resolve_precision(config.precision, device),
        workers=choose_workers(config.workers, images), rgb=images.form is None,
    )  # fmt: skip
    require_cached(config)
    cached, numbers = config.teacher_views == "cached", range(1, 1 + config.teacher_crops)
    crops = [RandomViews(CROPS, config.seed, FIRST_CROP + number) for number in numbers]
    with preserve_torch_state(device):
        set_threads(config.threads)
        with say_if_slow("loading the teacher and encoding the images with it"):
            return load_teacher(
                config.teacher, images, student, device, size=config.teacher_size, cached=cached,
                view_size=config.view_size, crops=crops, began_with=functools.partial(_read_teacher, config),
            )  # fmt: skip


def _read_teacher(config: PretrainConfig) -> str | None:
    """Read the digest of the teacher with which the run in `out` began; None where there is none to go on."""
    newest = None if as_begun(config) is None else newest_checkpoint(config.out)
    return None if newest is None else str(newest.metadata.get(TEACHER, "")) or None


def build_monitor(config: PretrainConfig, splits: dict[Split, Images]) -> Monitor:
    """Build the kNN monitor if the images have labels; otherwise one that compares views, and say why.

    Beside the accuracies stand the k by which they were found, how many queries there were, the percentage of these
    that is trained on, and the accuracy of raw pixels, which is computed once.
    """
    device = resolve_device(config.device)
    size, mean, std = require(config.image_size), require(config.mean), require(config.std)
    bank, queries = monitor_split(splits)
    workers = 0  # on a CPU this process keeps what it prepared, and the training's own processes have the cores
    if device != "cpu":
        workers = choose_workers(config.workers, bank)
    text, precision = reads_bytes(require(config.arch)), resolve_precision(config.precision, device)
    how = Encoding(size, mean, std, precision=precision, workers=workers, rgb=bank.form is None, text=text)
    reason = None
    if bank.labels is None or queries.labels is None:
        neither = bank.labels is None and queries.labels is None
        reason = "no labels (class folders would give them)" if neither else "labels in one split only"
    elif len(bank.classes) < 2:
        reason = f"one class only ({one_line(bank.classes[0])})"
    if reason is not None:
        things, part = ("documents", "span") if text else ("images", "view")
        print(
            f"the {things} have {reason}: no kNN accuracy. Instead the monitor measures retrieval (how many {things} "
            f"find their own second {part}), alignment (mean squared distance of two {part}s of one) and uniformity "
            f"(how evenly the {things} spread: lower is better)"
        )
        seen = make_readable(take_evenly(training_images(splits), min(UNLABELLED_IMAGES, config.knn_images)))
        few = take_evenly(seen, RETRIEVED)
        if text:
            spans = functools.partial(pair_documents, length=size)
            return ViewJudge(lambda: spans(seen, epoch=EPOCH), lambda: spans(few, epoch=EPOCH - 1), how)
        pairs = _remember(lambda: draw_pairs(seen, augmentation_of(config), size), 6 * size**2 * len(seen))
        mild = _remember(
            lambda: draw_pairs(few, augmentation_of(dataclasses.replace(config, augment="mild")), size),
            6 * size**2 * len(few),
        )
        return ViewJudge(pairs, mild, how)
    bank = keep_prepared(make_readable(take_evenly(bank, config.knn_images)))
    queries = keep_prepared(make_readable(take_evenly(queries, max(1, config.knn_images // 5))))
    trained_on = 100.0 if monitor_source(splits) == "tenth" else 0.0  # pre-training takes all of train

    def look(encoder: Encoder, how: Encoding) -> tuple[Scores, int]:
        return knn_scores(encoder, bank, queries, how, k=config.knn_k, temperature=config.knn_temperature)

    @cache
    def pixels() -> float:
        return look(*build_raw_pixels(how, device))[0].top1

    def name_figures(figures: Mapping[str, float], k: int) -> dict[str, float]:
        more = {"queries": float(len(queries)), "trained_on": trained_on, "k": float(k)}
        more |= {} if text else {"pixels": pixels()}
        return {f"knn_{name}": value for name, value in {**figures, **more}.items()}

    if config.keep == "best":
        return KnnJudge(
            bank, queries, how, config.knn_k, config.knn_temperature, name_figures, whitens=config.whiten > 0
        )

    def monitor(encoder: Encoder) -> dict[str, float]:
        found, k = look(encoder, how)
        return name_figures(found.figures, k)

    return monitor


def build_whitener(config: PretrainConfig, splits: dict[Split, Images]) -> Whitener:
    """Build what whitens the features at the end of a run, on at most `config.whiten` images."""
    device, images = resolve_device(config.device), images_to_whiten(splits)
    how = Encoding(
        require(config.image_size), require(config.mean), require(config.std),
        precision=resolve_precision(config.precision, device), rgb=images.form is None,
        workers=choose_workers(config.workers, images),
        text=reads_bytes(require(config.arch)),
    )  # fmt: skip
    return FeatureWhitener.build(images, config.whiten, how, config.knn_temperature)


def _remember(draw: Callable[[], Drawn], size: int) -> Callable[[], Drawn]:
    """Draw once, at the first call, where the result of `size` bytes may be kept in memory."""
    return functools.cache(draw) if size <= KEPT_BYTES else draw


def build_checkup(config: PretrainConfig, images: Images, own: OwnCode | None = None) -> Checkup:
    """Build what a run's health is judged by, beside its loss: its own images and keys."""
    config = dataclasses.replace(config, device=resolve_device(config.device))
    precision = resolve_precision(config.precision, config.device)

    def checkup(modules: Mapping[str, nn.Module]) -> dict[str, float]:
        return vitals(modules, build_batches(config, images, own), symmetric=config.symmetric, precision=precision)

    return checkup
