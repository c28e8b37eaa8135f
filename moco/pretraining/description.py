"""The first lines of a run, printed before its first step."""

import math

from moco.core.batchnorm import GroupedBatchNorm
from moco.core.encoder import Encoder, parameter_count
from moco.core.networks import reads_bytes
from moco.core.transformers import patch_projection
from moco.data.images import Images
from moco.errors import counted
from moco.pretraining.channels import describe_form
from moco.pretraining.config import PretrainConfig
from moco.pretraining.counts import count_head_steps, negatives, shared_negatives
from moco.pretraining.optimizer import inner_kernels
from moco.pretraining.pretexts import describe_pretext
from moco.runtime.device import describe_precision
from moco.runtime.fields import require

SOURCES = {"queue": "the queue", "memory-bank": "the memory bank", "in-batch": "its own batch"}
"""Dictionary -> where it takes the keys from, in a sentence."""


def describe_run(config: PretrainConfig, encoder: Encoder, images: Images) -> str:
    """Describe what a person should know before the first step."""
    chance, mixed = math.log(negatives(config) + 1), config.mix + config.mix_query
    count = negatives(config) + 1 if mixed else "K+1"
    more = f" and {mixed} mixed of the hardest {config.hard_negatives}" if mixed else ""
    keys = SOURCES[config.dictionary] if config.teacher is None else f"{config.teacher_views} keys of {config.teacher}"
    keys += " and its own batch" if config.batch_keys else ""
    documents = reads_bytes(require(config.arch))
    item, views = ("document", "spans") if documents else ("image", "views")
    return (
        f"{counted(len(images), item)}, {counted(config.max_steps, 'step')} of {config.batch_size}; {config.arch} with "
        f"{parameter_count(encoder.backbone) / 1e6:.1f} million parameters, {views} of {config.view_size} "
        f"{'bytes' if documents else 'pixels'}"
        f"{describe_pretext(config)}\n"
        f"each query has K = {counted(shared_negatives(config), 'negative')} from {keys}{more}; guessing gives a loss "
        f"of log({count}) = {chance:.2f}, and the loss may exceed that at first\n"
        f"learning rate {config.lr:g}{_optimizer(config, encoder)}, {_norms(config, encoder)}, "
        f"{describe_precision(config.precision, config.device)} with {counted(config.threads, 'thread')} and "
        f"{counted(config.workers, 'loading process')}{describe_form(images.form)}\n"
        f"in the log: accuracy = how often a query finds its own key (guessing gives "
        f"{100 / (negatives(config) + 1):.2g}%), data wait = share of time spent waiting for images"
    )


def _optimizer(config: PretrainConfig, encoder: Encoder) -> str:
    of_head = [] if config.head_lr is None else [f"{config.head_lr:g} for the head"]
    if alone := count_head_steps(config):
        of_head.append(f"only the head learns for {counted(alone, 'step')}")
    said = f" ({'; '.join(of_head)})" if of_head else ""
    if config.optimizer == "muon":
        kernels = inner_kernels(config, encoder)
        said += f", Muon at {config.muon_lr:g} for {len(kernels)} kernels" if kernels else ", no kernels for Muon"
    elif config.optimizer != "sgd":
        said += f" by {config.optimizer}"
    if config.freeze_patches:
        frozen = patch_projection(encoder.backbone) is not None
        said += ", patch projection frozen" if frozen else ", no patch projection to freeze"
    return said


def _norms(config: PretrainConfig, encoder: Encoder) -> str:
    """Which layers normalise by statistics of the batch, and in which groups."""
    backbone, heads = (
        any(isinstance(module, GroupedBatchNorm) for part in parts for module in part.modules())
        for parts in ((encoder.backbone,), (encoder.head, encoder.predictor))
    )
    if backbone:
        return counted(config.bn_groups, "BN group") if config.bn == "train" else "BN statistics of the weights"
    if heads:
        return f"{counted(config.bn_groups, 'BN group')} in the heads (no batch normalisation in the backbone)"
    return "no batch normalisation (--bn and --bn-groups have no effect)"
