"""A task's model, optimiser and schedule, and what a person should know of them before the first step."""

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from moco.core.encoder import parameter_count
from moco.errors import counted
from moco.interop.checkpoints import Weights
from moco.runtime import distributed
from moco.runtime.device import describe_precision
from moco.runtime.schedule import Schedule
from moco.transfer.backbones import with_synchronised_norms
from moco.transfer.batches import TrainingBatches
from moco.transfer.config import TransferConfig
from moco.transfer.detectors import REFERENCE, DetectorPlan, Heads, build_detector
from moco.transfer.examples import Examples
from moco.transfer.recipes import TASKS, Task
from moco.transfer.segmentation import SegmentationNet

MOST_WARMUP = 10
"""The warm-up takes at most one step of so many."""


def build_model(config: TransferConfig, weights: Weights, train: Examples) -> tuple[nn.Module, str]:
    """Build the model of a task on a copy of the encoder, on the device, and describe its BN in words."""
    task, mean, std = TASKS[config.task], weights.mean, weights.std
    model: nn.Module
    if task.features == "fcn" or task.heads == "pixels":
        classes = len(train.classes)
        model = SegmentationNet(
            weights.encoder, classes, config.head_channels, mean, std, config.frozen_stages, config.head_dilation
        )
    else:
        skeleton = train.keypoints
        plan = DetectorPlan(
            task.features, heads_for(task, train), len(train.classes), 0 if skeleton is None else len(skeleton.names),
            config.head_channels, config.anchor_sizes, config.test_size, config.longest_side, mean, std,
            config.detections, config.score_threshold, config.regions, config.frozen_stages,
            config.anchor_ratios, config.nms_threshold, task.values.get("test_size", REFERENCE),
        )  # fmt: skip
        model = build_detector(weights.encoder, plan)
    return with_synchronised_norms(model.to(config.device), config.device, distributed.world_size())


def heads_for(task: Task, train: Examples) -> Heads:
    """Return what a detector learns: what its task says, but no masks where the annotations have none."""
    assert task.heads != "pixels"
    return "box" if task.heads == "mask" and train.kind != "instance" else task.heads


def build_transfer_optimizer(config: TransferConfig, model: nn.Module) -> torch.optim.SGD:
    """Build SGD over all that is trained; BN's parameters have their own weight decay."""
    norms = {id(p) for module in model.modules() if isinstance(module, _BatchNorm) for p in module.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if (id(p) in norms) == of_norms], "weight_decay": decay}
        for of_norms, decay in ((False, config.weight_decay), (True, config.norm_weight_decay))
    ]
    return torch.optim.SGD(groups, momentum=config.sgd_momentum)


def build_transfer_schedule(config: TransferConfig) -> Schedule:
    """Build the learning rate over the run: a warm-up, then steps."""
    warmup = min(config.warmup_steps, config.max_steps // MOST_WARMUP)
    return Schedule("step", config.lr, config.max_steps, warmup, config.milestones, config.lr_decay, config.lr_drops)


def describe_transfer(
    config: TransferConfig, weights: Weights, model: nn.Module, norms: str, batches: TrainingBatches, test: Examples
) -> str:
    """Describe what a person should know before the first step."""
    plan, train, task = weights.encoder.plan, batches.examples, TASKS[config.task]
    masks = task.heads != "mask" or heads_for(task, train) == "mask"
    return (
        f"{config.task}: {task.about}{'' if masks else '; boxes only: the annotations have no masks'}\n"
        f"{len(train)} training and {counted(len(test), 'test image')}, {counted(len(train.classes), 'class')}"
        f"{batches.passes.describe()}; "
        f"{config.weights} "
        f"({plan.arch}, {weights.origin}), {parameter_count(model) / 1e6:.1f} M parameters with the new layers\n"
        f"{counted(config.max_steps, 'step')} of {config.batch_size}, lr {config.lr:g}; {norms}; "
        f"{describe_precision(config.precision, config.device)} with {counted(config.threads, 'thread')} and "
        f"{counted(config.workers, 'loading process')}"
    )
