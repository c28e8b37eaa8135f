"""The step as it runs (channels_last, grouped kernels, fused updates) against the plain one, state by state.

Whole trajectories diverge by rounding; so the plain step starts anew from every checkpoint of a run.
"""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.encoder import Encoder
from moco.data.catalog import load
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain
from moco.pretraining.prepare import build_batches, encoder_plan, resolve
from moco.runtime import keeping
from moco.runtime.checkpoint import checkpoint_path, load_tensors
from moco.runtime.randomness import Stream, permuted
from tests.pretraining.test_loop import losses, small

STATES = 20


def plain_step(config: PretrainConfig, state: dict[str, Tensor], views: tuple[Tensor, Tensor]) -> tuple[float, Tensor]:
    """Loss and gradient of one step of Algorithm 1 from a state: ordinary layers, contiguous images, group by group."""
    plan = encoder_plan(config)
    f_q, f_k = Encoder(plan), Encoder(plan)
    for name, encoder in (("f_q", f_q), ("f_k", f_k)):
        prefix = f"{name}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        encoder.load_state_dict({key: value.contiguous() for key, value in own.items()})
    groups, n = config.bn_groups or 0, len(views[0])
    order = permuted(range(n), n, seed=config.seed, stream=Stream.SHUFFLE, epoch=int(state["step"]))
    with torch.no_grad():
        shuffled = torch.cat([f_k(group) for group in views[1][torch.from_numpy(order)].chunk(groups)])
    k = torch.empty_like(shuffled)
    k[torch.from_numpy(order)] = shuffled
    q = torch.cat([f_q(group) for group in views[0].chunk(groups)])
    logits = torch.cat([(q * k).sum(1, keepdim=True), q @ state["dictionary.keys"].T], dim=1) / config.temperature
    loss = F.cross_entropy(logits, torch.zeros(n, dtype=torch.long))
    gradients = torch.autograd.grad(loss, list(f_q.parameters()))
    return float(loss.detach()), torch.cat([gradient.flatten() for gradient in gradients])


def state_of(run: Path, step: int) -> dict[str, Tensor]:
    """What the run had after `step` steps."""
    tensors, _ = load_tensors(checkpoint_path(run, step))
    return {**tensors, "step": torch.tensor(step)}


def gradient_between(config: PretrainConfig, before: dict[str, Tensor], after: dict[str, Tensor]) -> Tensor:
    """The gradient that SGD was given, from its momenta: v' = 0.9 v + g + decay theta."""
    encoder = Encoder(encoder_plan(config))
    parts = []
    for number, (name, _) in enumerate(encoder.named_parameters()):
        decay = config.weight_decay * before[f"f_q.{name}"]
        parts.append(after[f"sgd.{number}"] - config.sgd_momentum * before[f"sgd.{number}"] - decay)
    return torch.cat([part.flatten() for part in parts])


def test_the_fast_step_equals_the_plain_one_at_20_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss within 1e-5, gradient within 1e-4 of its length.

    The net is narrow, so that no activation is so near 0 that rounding turns a ReLU on or off: that alone would change
    the gradient by 1e-3.
    """
    monkeypatch.setattr(keeping, "remove_old_checkpoints", lambda run, step: None)
    config = small(tmp_path / "run", max_steps=STATES + 1, checkpoint_every=1, arch="resnet18-w4")
    images = load("digits")["train"]
    pretrain(config, images)
    config = resolve(config, images)
    batches, found = build_batches(config, images), losses(tmp_path / "run")
    distances = []
    for step in range(1, STATES + 1):
        before, after = state_of(tmp_path / "run", step), state_of(tmp_path / "run", step + 1)
        x_q, x_k, _ = batches[step]
        assert x_k is not None
        loss, gradient = plain_step(config, before, (x_q.contiguous(), x_k.contiguous()))
        assert found[step] == pytest.approx(loss, abs=1e-5)
        distance = (gradient_between(config, before, after) - gradient).norm() / gradient.norm()
        distances.append(float(distance))
    assert max(distances) < 1e-4
