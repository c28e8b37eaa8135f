"""Recomputed activations: the same numbers bit for bit, with less memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moco.core.batchnorm import GroupedBatchNorm
from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import load
from moco.errors import BadInputError
from moco.pretraining.loop import pretrain
from moco.pretraining.recipes import recipe
from moco.runtime.checkpoint import checkpoint_path, load_tensors
from tests.slow import slow

SMALL: dict[str, Any] = {
    "arch": "resnet10-w4", "image_size": 12, "view_size": None, "batch_size": 16, "queue_size": 40, "max_steps": 2,
    "bn_groups": 4, "log_every": 1, "checkpoint_every": 0, "knn_every": 0, "threads": 1, "precision": "fp32",
    "device": "cpu", "augment": "cifar",
}  # fmt: skip
PLAN = EncoderPlan(arch="resnet18-w16", stem="cifar", feature_dim=8, image_size=32)
IMAGES = 8


@pytest.mark.parametrize("dictionary", ["queue", slow("memory-bank"), slow("in-batch")])
def test_two_steps_are_bit_identical(tmp_path: Path, dictionary: str) -> None:
    """Losses, gradient norms, weights, running statistics and what counts the batches."""
    images = load("digits")["train"]
    for recompute in (False, True):
        out = tmp_path / str(recompute)
        pretrain(recipe("quick", data="digits", out=out, dictionary=dictionary, recompute=recompute, **SMALL), images)
    found = [logged(tmp_path / str(recompute)) for recompute in (False, True)]
    assert len(found[0]) == 2
    assert found[0] == found[1]
    without, recomputed = (load_tensors(checkpoint_path(tmp_path / str(way), 2))[0] for way in (False, True))
    assert without.keys() == recomputed.keys()
    assert any(name.endswith("running_var") for name in without)
    assert all(torch.equal(without[name], recomputed[name]) for name in without)


def logged(run: Path) -> list[tuple[float, float]]:
    """Loss and gradient norm of every step."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [(line["loss"], line["gradient_norm"]) for line in lines if "loss" in line]


def saved_bytes(encoder: Encoder, x: Tensor) -> tuple[int, Tensor]:
    """How much a forward pass keeps for the gradient, besides the parameters; and what it gave."""
    kept: dict[int, Tensor] = {}
    parameters = {parameter.data_ptr() for parameter in encoder.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = encoder(x)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in parameters), y


def peak_bytes(encoder: Encoder, x: Tensor) -> int:
    """The most that a forward and backward pass holds at a time, by torch's own record of what is allocated."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        encoder(x).sum().backward()
    held, most = 0, 0
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def test_far_less_is_kept_for_the_gradient() -> None:
    """Of each block its input only: less than a third is kept, and less than two thirds of the memory is needed."""
    torch.manual_seed(0)
    encoder, x = Encoder(PLAN), torch.randn(IMAGES, 3, 32, 32)
    encoder.set_bn_group_size(IMAGES // 2)
    all_of_it, y = saved_bytes(encoder, x)
    peak = peak_bytes(encoder, x)
    encoder.set_recompute(True)
    little, same = saved_bytes(encoder, x)
    assert torch.equal(y, same)
    blocks = [(16, 32)] * 2 + [(16, 32), (32, 16), (32, 16), (64, 8), (64, 8), (128, 4)]
    inputs = sum(IMAGES * channels * side**2 * 4 for channels, side in blocks)
    assert inputs <= little < all_of_it / 3
    assert peak_bytes(encoder, x) < 2 / 3 * peak


def test_statistics_are_recorded_once() -> None:
    """The second forward pass, for the gradient, counts for nothing, in any of the layers."""
    encoder = Encoder(PLAN)
    encoder.set_bn_group_size(2)
    encoder.set_recompute(True)
    encoder(torch.randn(4, 3, 32, 32)).sum().backward()
    norms = [module for module in encoder.modules() if isinstance(module, GroupedBatchNorm)]
    assert len(norms) == 20
    assert all(int(norm.get_buffer("num_batches_tracked")) == 1 for norm in norms)


def test_a_batch_in_one_group_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """There `torch.batch_norm` keeps the running statistics for the gradient: the second pass must keep as much."""
    monkeypatch.setattr(GroupedBatchNorm, "_by_kernel", lambda norm, kernel, x, size: norm._as_one(x))
    torch.manual_seed(0)
    encoder, x = Encoder(PLAN), torch.randn(4, 3, 32, 32)
    encoder.set_bn_group_size(4)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    found = []
    for recompute in (False, True):
        encoder.load_state_dict(before)
        encoder.set_recompute(recompute)
        encoder.zero_grad()
        encoder(x).sum().backward()
        gradients = {name: parameter.grad for name, parameter in encoder.named_parameters()}
        found.append({name: value.clone() for name, value in (encoder.state_dict() | gradients).items()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_other_nets_are_refused() -> None:
    """Only the ResNets are built so."""
    plan = EncoderPlan(arch="squeezenet1_1", image_size=32)
    with pytest.raises(BadInputError, match="--recompute is for ResNets, and --arch is squeezenet1_1"):
        Encoder(plan).set_recompute(True)
