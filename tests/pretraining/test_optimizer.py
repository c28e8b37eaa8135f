"""Muon's and LARS's steps against plain formulas in NumPy, AdamW and SGD against torch's own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moco.core.encoder import Encoder, EncoderPlan
from moco.pretraining.config import PretrainConfig
from moco.pretraining.optimizer import build_optimizer, orthogonalize, set_rate, take_step
from moco.pretraining.recipes import recipe

LR, MUON_LR, MU = 0.1, 0.05, 0.6


def config(**values: Any) -> PretrainConfig:
    """The settings that matter to an optimiser."""
    given = {
        "optimizer": "sgd",
        "lr": LR,
        "muon_lr": MUON_LR,
        "muon_momentum": MU,
        "precision": "fp32",
        "weight_decay": 0.01,
        **values,
    }
    return recipe("quick", data="digits", out=Path("unused"), **given)


def small_encoder() -> Encoder:
    """The narrowest ResNet."""
    torch.manual_seed(0)
    return Encoder(EncoderPlan("resnet10-w2", "cifar", feature_dim=4, image_size=8))


def quintic_by_hand(singular: np.ndarray) -> np.ndarray:
    """The polynomial, three times."""
    for _ in range(3):
        singular = 3.4445 * singular - 4.7750 * singular**3 + 2.0315 * singular**5
    return singular


def orthogonalized_by_svd(matrix: np.ndarray) -> np.ndarray:
    """What the iteration computes, by singular values."""
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    result: np.ndarray = u * quintic_by_hand(s / np.linalg.norm(matrix)) @ v
    return result


@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6), (1, 5)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int]) -> None:
    """As a decomposition gives, for wide, tall and square matrices."""
    matrix = np.random.default_rng(0).normal(size=shape)
    found = orthogonalize(torch.from_numpy(matrix)).numpy()
    np.testing.assert_allclose(found, orthogonalized_by_svd(matrix), atol=1e-6)
    values = np.linalg.svd(found, compute_uv=False)
    assert values.min() > 0.68
    assert values.max() < 1.21


def test_a_gradient_of_zero_moves_nothing() -> None:
    """Neither a division by zero nor a direction out of nothing."""
    assert not orthogonalize(torch.zeros(3, 4)).any()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_steps_are_those_of_plain_formulas(layout: torch.memory_format) -> None:
    """Three steps: kernels by Muon, the first convolution, the norms and the head by SGD with momentum and decay."""
    encoder = small_encoder().to(memory_format=layout)
    optimizer = build_optimizer(config(optimizer="muon"), encoder)
    named = dict(encoder.named_parameters())
    expected = {name: p.detach().double().numpy().copy() for name, p in named.items()}
    momenta = {name: np.zeros_like(value) for name, value in expected.items()}
    rng = np.random.default_rng(0)
    for step in range(3):
        share = 1 - step / 3
        set_rate(optimizer, LR * share)
        for name, parameter in named.items():
            gradient = rng.normal(size=parameter.shape)
            parameter.grad = torch.empty_like(parameter).copy_(torch.from_numpy(gradient))
            value = expected[name]
            if value.ndim == 4 and name != "backbone.conv1.weight":
                momenta[name] = MU * momenta[name] + gradient
                matrix = (gradient + MU * momenta[name]).reshape(len(value), -1)
                value *= np.sqrt(len(value)) / np.linalg.norm(value)
                value -= MUON_LR * share * orthogonalized_by_svd(matrix).reshape(value.shape)
            else:
                momenta[name] = 0.9 * momenta[name] + gradient + 0.01 * value
                value -= LR * share * momenta[name]
        take_step(optimizer)
        optimizer.zero_grad()
    for name, parameter in named.items():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], atol=2e-5, err_msg=name)


def test_sgd_is_unchanged() -> None:
    """Without Muon the step is SGD's own."""
    ours, plain = small_encoder(), small_encoder()
    optimizer = build_optimizer(config(), ours)
    reference = torch.optim.SGD(plain.parameters(), LR, 0.9, weight_decay=0.01)
    set_rate(optimizer, LR)
    for _ in range(2):
        for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
            one.grad = torch.ones_like(one)
            other.grad = torch.ones_like(other)
        take_step(optimizer)
        reference.step()
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-7)


def encoder_with_heads() -> Encoder:
    """The narrowest ResNet with v3's heads."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderPlan("resnet10-w2", "cifar", "mlp-bn", feature_dim=4, hidden_dim=6, image_size=8))
    encoder.add_predictor()
    return encoder


def test_adamw_is_torchs() -> None:
    """With decay for matrices and kernels alone, and another rate for the heads."""
    ours, plain = encoder_with_heads(), encoder_with_heads()
    optimizer = build_optimizer(config(optimizer="adamw", head_lr=3 * LR), ours)
    named = dict(plain.named_parameters())
    reference = torch.optim.AdamW(
        [
            {"params": [p], "lr": LR if name.startswith("backbone") else 3 * LR,
             "weight_decay": 0.0 if name.endswith("bias") or p.dim() == 1 else 0.01}
            for name, p in named.items()
        ]
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(3):
        set_rate(optimizer, LR)
        for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
            one.grad = torch.from_numpy(rng.normal(size=one.shape)).float()
            other.grad = one.grad.clone()
        take_step(optimizer)
        reference.step()
    for one, (name, other) in zip(ours.parameters(), named.items(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("decay", [0.01, 0.0])
def test_lars_is_its_formula(decay: float) -> None:
    """Three steps of w <- w - lr M with M <- 0.9 M + 0.001 |w| / |g + b w| (g + b w); vectors by plain SGD."""
    encoder = encoder_with_heads()
    named = dict(encoder.named_parameters())
    with torch.no_grad():
        named["head.0.weight"].zero_()  # a norm of 0 is no reason not to move
    optimizer = build_optimizer(config(optimizer="lars", weight_decay=decay), encoder)
    expected = {name: p.detach().double().numpy().copy() for name, p in named.items()}
    momenta = {name: np.zeros_like(value) for name, value in expected.items()}
    rng = np.random.default_rng(0)
    for step in range(3):
        rate = LR * (1 - step / 3)
        set_rate(optimizer, rate)
        for name, parameter in named.items():
            gradient = rng.normal(size=parameter.shape)
            parameter.grad = torch.empty_like(parameter).copy_(torch.from_numpy(gradient))
            value = expected[name]
            if value.ndim > 1:
                gradient = gradient + decay * value
                length, of_step = np.linalg.norm(value), np.linalg.norm(gradient)
                gradient = gradient * (0.001 * length / of_step if length > 0 else 1.0)
            momenta[name] = 0.9 * momenta[name] + gradient
            value -= rate * momenta[name]
        take_step(optimizer)
        optimizer.zero_grad()
    for name, parameter in named.items():
        np.testing.assert_allclose(parameter.detach().numpy(), expected[name], atol=2e-6, err_msg=name)


def test_every_parameter_is_trained_once() -> None:
    """Whatever the optimiser, those of the prediction head among them."""
    for name in ("sgd", "muon", "adamw", "lars"):
        encoder = encoder_with_heads()
        groups = build_optimizer(config(optimizer=name), encoder).param_groups
        given = [id(p) for group in groups for p in group["params"]]
        assert sorted(given) == sorted(map(id, encoder.parameters()))


@pytest.mark.parametrize("values", [{"arch": "mobilenet_v3_small", "stem": "imagenet"}, {"bn": "keep"}])
def test_kernels_whose_scale_matters_are_left_to_sgd(values: dict[str, Any]) -> None:
    """A fixed norm is right only where a trained batch normalisation takes it out."""
    plan = EncoderPlan(values.get("arch", "resnet10-w2"), values.get("stem", "cifar"), image_size=32)
    encoder = Encoder(plan)
    optimizer = build_optimizer(config(optimizer="muon", **values), encoder)
    assert not any("kernels" in group for group in optimizer.param_groups)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(encoder.parameters()))
