"""A config and images -> the parts of a run: every default settled, everything checked before the first step."""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable

import torch

from moco.core.batchnorm import fitting_groups, keep_statistics, nearest_groups
from moco.core.dictionary import Dictionary, InBatch, Keys, MemoryBank, Queue, TeacherKeys
from moco.core.encoder import Encoder
from moco.core.loss import Contrast, info_nce, match_teacher
from moco.core.pair import Teacher
from moco.core.resnet import ResNet
from moco.core.transformers import patch_projection
from moco.data.images import Images
from moco.data.loader import ViewBatches, choose_workers
from moco.data.pairs import PairBatches
from moco.errors import BadInputError, counted
from moco.pretraining.channels import with_form
from moco.pretraining.config import PretrainConfig
from moco.pretraining.counts import shared_negatives
from moco.pretraining.initial import encoder_plan, fill, with_weights
from moco.pretraining.pretexts import augmentation_of, build_pairs, require_pretext
from moco.pretraining.teaching import with_teacher
from moco.pretraining.timetable import require_lengths
from moco.runtime import distributed
from moco.runtime.device import resolve_device, resolve_precision, set_precision, set_threads
from moco.runtime.fields import check, flag, require
from moco.runtime.owncode import OwnCode
from moco.runtime.run import OF_EACH_PROCESS
from moco.runtime.schedule import Schedule, planned_step, raise_to_one
from moco.shapes import Features

DEFAULT_BN_GROUPS = 8
"""The papers' number of devices."""
TRAINED_PER_EVALUATED = 4
"""Smallest number of images to train on for each that the monitor evaluates."""


def resolve_config(config: PretrainConfig, images: Images) -> PretrainConfig:
    """Settle every value that was left open, for these images and this machine; set the number of threads.

    Raises BadInputError naming the flag whose value does not fit, or is not that of the other processes.
    """
    config = with_form(with_weights(config), images)
    n, ranks = len(images), distributed.world_size()
    flags = {flag(name): value for name, value in vars(config).items() if name not in OF_EACH_PROCESS}
    distributed.require_same_values({"the number of images": n, **flags})
    check(config)
    if config.batch_size > n:
        raise BadInputError(f"--batch-size is {config.batch_size}, and there are {n} images: give a smaller batch")
    if config.batch_size % (ranks * config.accumulate):
        raise BadInputError(
            f"--batch-size is {config.batch_size}: expected a multiple of {ranks * config.accumulate} "
            f"(processes x --accumulate)"
        )
    if config.dictionary == "memory-bank" and config.symmetric:
        raise BadInputError(
            "--symmetric needs keys of both views, and --dictionary memory-bank has none: leave one out"
        )
    require_pretext(config)
    config = with_teacher(config, n)
    _require_momentum_encoder(config)
    _require_mixing(config)
    _require_kept(config)
    device = resolve_device(config.device)
    steps_per_epoch = n // config.batch_size
    steps = config.max_steps or config.epochs * steps_per_epoch
    precision = resolve_precision(config.precision, device)
    set_precision(precision)
    resolved = dataclasses.replace(
        config,
        device=device,
        precision=precision,
        threads=set_threads(config.threads),
        compile=config.compile if (device == "cuda" and not config.deterministic) or config.compile == "on" else "off",
        workers=choose_workers(config.workers, images, device),
        view_size=config.view_size or config.image_size,
        bn_groups=_bn_groups(config, ranks),
        lr=config.lr or config.base_lr * config.batch_size / 256,
        max_steps=steps,
        knn_every=steps_per_epoch * _epochs_a_look(config, n) if config.knn_every is None else config.knn_every,
        checkpoint_every=min(steps_per_epoch, 1000) if config.checkpoint_every is None else config.checkpoint_every,
    )
    require_lengths(resolved)
    _warn(resolved, n)
    return resolved


def _epochs_a_look(config: PretrainConfig, n: int) -> int:
    """Choose how often the monitor evaluates, so that on small sets training takes most of the time."""
    evaluated = min(n, config.knn_images * 6 // 5)
    return math.ceil(TRAINED_PER_EVALUATED * evaluated / n)


def _bn_groups(config: PretrainConfig, ranks: int) -> int:
    """The given number of groups, or the default; a part of the batch must hold whole groups."""
    if config.bn != "train":
        if config.bn_groups not in (None, 1):
            raise BadInputError(
                f"--bn-groups is {config.bn_groups}, and --bn {config.bn} computes no statistics of groups: leave one "
                f"out"
            )
        return 1

    if config.batch_size < 2 * (config.bn_groups or 1):
        asked = "" if config.bn_groups is None else f"--bn-groups is {config.bn_groups}: "
        raise BadInputError(
            f"{asked}a batch of {config.batch_size} has at most {config.batch_size // 2} groups of two images or more, "
            f"and of one there are no statistics: give a larger --batch-size"
        )
    aim = min(max(DEFAULT_BN_GROUPS, ranks), config.batch_size // 4)
    fitting = fitting_groups(config.batch_size, config.accumulate * ranks)
    if not fitting or config.bn_groups not in (None, *fitting):
        asked = f"--bn-groups is {config.bn_groups}" if config.bn_groups else f"--batch-size is {config.batch_size}"
        raise BadInputError(
            f"{asked}: expected groups of two images or more, of equal size, that fill the batch of "
            f"{config.batch_size} on {counted(ranks, 'process')} in {counted(config.accumulate, 'part')}"
            + ("" if fitting else ": give a larger --batch-size or a smaller --accumulate")
        )
    return config.bn_groups or nearest_groups(fitting, aim)


def _require_momentum_encoder(config: PretrainConfig) -> None:
    """Raise BadInputError where there is no f_k for what needs one, or where K = 0 leaves a query no negatives."""
    momentum = config.dictionary == "queue" and config.teacher is None
    flags = {"--batch-keys": config.batch_keys, "--predictor": config.predictor != "none"}
    for name, given in flags.items():
        if given and not momentum:
            other = "--teacher" if config.teacher is not None else f"--dictionary {config.dictionary}"
            raise BadInputError(f"{name} needs a momentum encoder, and {other} has none: give --dictionary queue alone")
    if config.queue_size == 0 and not config.batch_keys:
        raise BadInputError("--queue-size is 0: expected at least one key, or --batch-keys beside it")


def _require_mixing(config: PretrainConfig) -> None:
    """Raise BadInputError where hard negatives are taken and nothing is made of them, or too many are taken.

    Mixed views go with neither hard negatives nor a memory bank, which would store their features.
    """
    if config.blend and (config.hard_negatives or config.dictionary == "memory-bank"):
        other = f"--hard-negatives {config.hard_negatives}" if config.hard_negatives else "--dictionary memory-bank"
        raise BadInputError(f"--blend mixes the query views, which does not go with {other}: leave one out")
    hardest, points, most = config.hard_negatives, config.mix + config.mix_query, shared_negatives(config) // 2
    if bool(hardest) != bool(points):
        raise BadInputError(
            f"--hard-negatives is {hardest}, --mix {config.mix} and --mix-query {config.mix_query}: expected how many "
            f"hard negatives there are and how many points are mixed of them, or 0 for all three"
        )
    if hardest > most:
        raise BadInputError(f"--hard-negatives is {hardest}: expected at most {most}, half of K = {most * 2}")


def _require_kept(config: PretrainConfig) -> None:
    """Raise BadInputError where there are no statistics to keep, or no looks of which one could be the best."""
    if config.bn != "train" and config.init_weights is None:
        raise BadInputError(
            f"--init-weights is not given, and --bn {config.bn} keeps the statistics of these weights: give "
            f"--init-weights W, such as timm:NAME or a run, or --bn train"
        )
    if config.head_steps and config.init_weights is None:
        raise BadInputError(
            f"--head-steps is {config.head_steps}, and without --init-weights the network beneath the head has learned "
            f"nothing yet: give --init-weights W, or leave --head-steps out"
        )
    if config.keep == "best" and config.knn_every == 0:
        raise BadInputError(
            "--keep best needs the monitor, and --knn-every 0 turns it off: give another --knn-every, or --keep last"
        )


def _warn(config: PretrainConfig, n: int) -> None:
    if config.teacher is not None:  # frozen: neither older keys nor shared statistics do harm
        return
    if config.dictionary == "queue" and config.queue_size > n and not config.mask_own_keys:
        warnings.warn(
            f"the queue holds K = {config.queue_size} keys of only {n} images: each image is in it "
            f"{config.queue_size / n:.1f} times, so a query has its own image's older keys among its negatives and is "
            f"pushed away from them. Give --queue-size {max(1, n // 2)} or less, or --mask-own-keys.",
            stacklevel=3,
        )
    if config.bn_groups == 1 and config.bn == "train" and config.dictionary == "queue" and config.queue_size:
        warnings.warn(
            "--bn-groups 1: a query and its key share the statistics of batch normalisation, and the encoder will "
            "learn to tell them by these instead of by what is in the image: contrast accuracy rises towards "
            "100% while the features get worse (v1, 3.3 and Fig. A.1). Leave --bn-groups at its default"
            + (", or give an even --batch-size." if config.batch_size % 2 else "."),
            stacklevel=3,
        )


def build_encoder(config: PretrainConfig) -> Encoder:
    """Build a new f_q, with the weights of `init_weights` where these are given, in BN groups.

    Raises BadInputError where the weights do not fit the network, or the network the size of the images or views.
    """
    encoder = Encoder(encoder_plan(config))
    if config.init != "kaiming" and isinstance(encoder.backbone, ResNet):
        encoder.backbone.reset_convolutions()
    if config.init_weights is not None:
        fill(encoder, config.init_weights)
    if config.predictor != "none":
        encoder.add_predictor()
    for size, name in {config.view_size: "view_size", config.image_size: "image_size"}.items():
        if size is not None:
            encoder.require_size(size, flag(name))
    encoder.set_bn_group_size(config.batch_size // require(config.bn_groups))
    if config.bn != "train":
        keep_statistics(encoder.backbone, affine=config.bn == "keep")
        if not config.recompute:  # which computes a block once more after the forward pass
            encoder.fold_kept_norms()
    projection = patch_projection(encoder.backbone) if config.freeze_patches else None
    if projection is not None:
        projection.requires_grad_(False)
    encoder.set_recompute(config.recompute)
    return encoder


def build_dictionary(config: PretrainConfig, images: int, teacher: Teacher | None = None) -> Dictionary:
    """Build the dictionary that `config.dictionary` names, or all of a teacher's cached keys where K is that large."""
    cached = None if teacher is None else teacher.features
    if cached is not None and config.queue_size >= len(cached) // images * (images - 1):
        return TeacherKeys(cached, images)
    if config.mask_own_keys and config.dictionary != "queue":
        raise BadInputError(f"--mask-own-keys is for --dictionary queue: {config.dictionary} has no older keys to mask")
    if config.dictionary == "queue":
        return Queue(config.queue_size, config.feature_dim, mask_own=config.mask_own_keys, seed=config.seed)
    if config.dictionary == "memory-bank":
        return MemoryBank(
            images, config.feature_dim, negatives=config.queue_size, momentum=config.bank_momentum, seed=config.seed
        )
    return InBatch()


def build_batches(config: PretrainConfig, images: Images, own: OwnCode | None = None) -> ViewBatches | PairBatches:
    """Build this rank's batches: views of the images, or another pretext's pairs, for example the user's own."""
    if config.pretext != "views":
        return build_pairs(config, images, own)
    return ViewBatches(
        images,
        augmentation_of(config),
        require(config.view_size or config.image_size),
        require(config.mean),
        require(config.std),
        config.batch_size,
        seed=config.seed,
        key_views=config.dictionary != "memory-bank" and (config.teacher is None or config.teacher_views == "live"),
        rank=distributed.rank(),
        ranks=distributed.world_size(),
        decode=config.decode,
        device=config.device,
        dtype=torch.bfloat16 if config.precision == "bf16" and config.teacher is None else torch.float32,
        compiled=config.device == "cuda",
        crops=config.teacher_crops,
    )


def build_schedule(config: PretrainConfig, steps_per_epoch: int) -> Schedule:
    """Build the learning rate over the run."""
    warmup = round(config.warmup_epochs * steps_per_epoch)
    return Schedule(
        config.schedule, require(config.lr), require(config.max_steps), warmup, config.milestones, config.lr_decay,
        earlier=config.earlier_lengths,
    )  # fmt: skip


def build_key_momentum(config: PretrainConfig) -> Callable[[int], float]:
    """Give m, the momentum of f_k, at each step."""
    if config.key_momentum_schedule == "constant":
        return lambda step: config.key_momentum
    steps, earlier = require(config.max_steps), config.earlier_lengths
    first = earlier[0][1] if earlier else steps
    return lambda step: raise_to_one(config.key_momentum, planned_step(step, steps, earlier), first)


def build_loss(config: PretrainConfig) -> Callable[[Features, Keys], Contrast]:
    """Build the loss of queries (N, C) and keys: InfoNCE, or with a teacher the match of its distribution."""
    if config.teacher is None:
        return functools.partial(info_nce, temperature=config.temperature)
    return functools.partial(
        match_teacher, temperature=config.temperature, teacher_temperature=config.teacher_temperature
    )
