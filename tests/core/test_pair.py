"""The momentum update and shuffled keys, against the oracle and against doing it by hand."""

import copy
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from moco.core.dictionary import Mechanism, Queue
from moco.core.encoder import Encoder, EncoderPlan
from moco.core.loss import info_nce
from moco.core.pair import EncoderPair
from moco.runtime.randomness import Stream, permute
from tests import oracles

TINY = EncoderPlan(arch="resnet18-w4", stem="cifar", feature_dim=8, image_size=16)
BATCH, GROUP, SEED = 12, 4, 7


def assert_close(found: Tensor, expected: Tensor) -> None:
    """Equal within 1e-5: unit vectors after 18 layers in fp32, whose convolutions may sum in another order."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def build_pair(mechanism: Mechanism) -> EncoderPair:
    """A tiny pair in BN groups."""
    torch.manual_seed(0)
    encoder = Encoder(TINY)
    encoder.set_bn_group_size(GROUP)
    return EncoderPair(encoder, mechanism, seed=SEED)


def views() -> Tensor:
    """A batch of views."""
    return torch.randn(BATCH, 3, 16, 16)


def order_of(step: int) -> Tensor:
    """The order in which a step's key batch is to be encoded."""
    return torch.from_numpy(permute(range(BATCH), BATCH, seed=SEED, stream=Stream.SHUFFLE, epoch=step))


def copy_of(encoder: nn.Module) -> Encoder:
    """A copy that normalises whatever it is given as one batch."""
    assert isinstance(encoder, Encoder)
    copied = copy.deepcopy(encoder)
    copied.set_bn_group_size(0)
    return copied


@torch.no_grad()
def move(f_q: nn.Module) -> None:
    """Change f_q as training would."""
    for parameter in f_q.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)


def numbers(net: nn.Module) -> list[oracles.Array]:
    """The parameters in float64."""
    return [parameter.detach().double().numpy() for parameter in net.parameters()]


@pytest.mark.parametrize(("steps", "m"), [(1, 0.999), (1, 0.0), (1, 1.0), (4, 0.9)])
def test_momentum_update_equals_the_oracle(steps: int, m: float) -> None:
    """theta_k <- m theta_k + (1 - m) theta_q, once and often (fp32: values below 8 round by 2.4e-7 a step)."""
    pair = build_pair("queue")
    assert pair.f_k is not None
    expected = numbers(pair.f_k)
    for _ in range(steps):
        move(pair.f_q)
        expected = oracles.momentum_update(expected, numbers(pair.f_q), m)
        pair.update(m)
    for found, wanted in zip(numbers(pair.f_k), expected, strict=True):
        assert abs(found - wanted).max() < 2e-6


def test_a_small_step_is_not_lost() -> None:
    """With the paper's m = 0.999 every parameter that differs from f_q's moves towards it by a thousandth."""
    pair = build_pair("queue")
    assert pair.f_k is not None
    before, wanted = pair.f_k.head.get_parameter("weight").clone(), pair.encoder.head.get_parameter("weight")
    move(pair.f_q)
    pair.update(0.999)
    moved = pair.f_k.head.get_parameter("weight") - before
    torch.testing.assert_close(moved, (wanted - before) * 0.001, rtol=0, atol=1e-7)  # weights round by 3e-8


def test_momentum_update_leaves_the_buffers_alone() -> None:
    """The running statistics of f_k are its own."""
    pair = build_pair("queue")
    assert pair.f_k is not None
    pair.f_q(views())
    before = {name: value.clone() for name, value in pair.f_k.named_buffers()}
    assert any(not torch.equal(value, before[name]) for name, value in pair.f_q.named_buffers())
    pair.update(0.5)
    assert all(torch.equal(value, before[name]) for name, value in pair.f_k.named_buffers())


@pytest.mark.parametrize("mechanism", ["memory-bank", "in-batch"])
def test_only_the_queue_has_a_momentum_encoder(mechanism: Mechanism) -> None:
    """Without f_k there are no keys beforehand, and the update does nothing."""
    pair = build_pair(mechanism)
    before = numbers(pair.f_q)
    assert pair.f_k is None
    assert pair.keys(views(), 0) is None
    pair.update(0.9)
    assert all((new == old).all() for new, old in zip(numbers(pair.f_q), before, strict=True))


def test_encoders_start_equal_and_apart() -> None:
    """f_k is a copy of f_q that shares no memory with it and is not trained."""
    pair = build_pair("queue")
    assert pair.f_k is not None
    for theta_q, theta_k in zip(pair.f_q.parameters(), pair.f_k.parameters(), strict=True):
        assert torch.equal(theta_q, theta_k)
        assert theta_q.data_ptr() != theta_k.data_ptr()
        assert theta_q.requires_grad
        assert not theta_k.requires_grad


def test_keys_are_those_of_the_shuffled_groups() -> None:
    """By hand: permute x_k, encode each group of 4 as a batch of its own, put the keys back in order."""
    pair = build_pair("queue")
    assert pair.f_k is not None
    x_k, order = views(), order_of(step=5)
    encoder = copy_of(pair.f_k)
    with torch.no_grad():
        shuffled = torch.cat([encoder(block) for block in torch.split(x_k[order], GROUP)])
        unshuffled = torch.cat([encoder(block) for block in torch.split(x_k, GROUP)])
    expected = torch.empty_like(shuffled)
    expected[order] = shuffled
    k = pair.keys(x_k, step=5)
    assert k is not None
    assert_close(k, expected)
    assert (k - unshuffled).abs().max() > 1e-2


def test_shuffling_is_exactly_undone() -> None:
    """Where no statistics are shared, in evaluation mode, the keys are f_k(x_k) in the order of the views."""
    pair = build_pair("queue").eval()
    assert pair.f_k is not None
    x_k = views()
    k = pair.keys(x_k, step=5)
    assert k is not None
    with torch.no_grad():
        assert_close(k, pair.f_k(x_k))


def test_each_step_shuffles_anew_and_repeatably() -> None:
    """The order is a function of (seed, step): the same step gives the same keys, another step others."""
    pair = build_pair("queue")
    x_k = views()
    first, again, later = (pair.keys(x_k, step) for step in (5, 5, 6))
    assert first is not None
    assert again is not None
    assert later is not None
    assert torch.equal(first, again)
    assert (first - later).abs().max() > 1e-2


def test_queries_are_not_shuffled() -> None:
    """Queries are f_q of each group in order; the given keys pass through."""
    pair = build_pair("queue")
    encoder, x_q, x_k = copy_of(pair.f_q), views(), views()
    k = pair.keys(x_k, 0)
    q, same = pair(x_q, x_k, k, 0)
    assert same is k
    assert_close(q, torch.cat([encoder(block) for block in torch.split(x_q, GROUP)]))


def test_memory_bank_needs_no_key_views() -> None:
    """With a memory bank only the queries are encoded."""
    q, k = build_pair("memory-bank")(views(), None, None, 0)
    assert q.shape == (BATCH, 8)
    assert k is None


def test_no_gradient_reaches_the_momentum_encoder() -> None:
    """After a backward pass f_q has gradients and f_k has none; the keys have no history."""
    pair, queue = build_pair("queue"), Queue(16, 8)
    x_q, x_k = views(), views()
    q, k = pair(x_q, x_k, pair.keys(x_k, 0), 0)
    assert not k.requires_grad
    torch.autograd.backward(info_nce(q, queue.read(k, torch.arange(BATCH)), 0.2).loss)
    assert pair.f_k is not None
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in pair.f_k.parameters())
    assert all(parameter.grad is not None for parameter in pair.f_q.parameters())


def test_in_batch_keys_equal_those_by_hand() -> None:
    """Queries and keys come from f_q in one pass; the key half, and only it, is shuffled and put back."""
    pair = build_pair("in-batch")
    encoder, x_q, x_k, order = copy_of(pair.f_q), views(), views(), order_of(step=5)
    q, k = pair(x_q, x_k, None, 5)
    with torch.no_grad():
        assert_close(q, torch.cat([encoder(block) for block in torch.split(x_q, GROUP)]))
        shuffled = torch.cat([encoder(block) for block in torch.split(x_k[order], GROUP)])
    assert_close(k[order], shuffled)


@pytest.mark.parametrize("side", ["q", "k"])
def test_in_batch_gradient_reaches_both_sides(side: str) -> None:
    """The gradient of queries alone and of keys alone is that of encoding them by hand (fp32, relative to 1)."""
    pair = build_pair("in-batch")
    encoder, x_q, x_k, order = copy_of(pair.f_q), views(), views(), order_of(step=5)
    weights = torch.randn(BATCH, 8)
    q, k = pair(x_q, x_k, None, 5)
    torch.autograd.backward(q if side == "q" else k, weights)

    blocks = torch.split(x_q if side == "q" else x_k[order], GROUP)
    by_hand = torch.cat([encoder(block) for block in blocks])
    torch.autograd.backward(by_hand, weights if side == "q" else weights[order])
    for found, expected in zip(pair.f_q.parameters(), encoder.parameters(), strict=True):
        assert found.grad is not None
        assert expected.grad is not None
        error = (found.grad - expected.grad).norm() / expected.grad.norm().clamp(min=1)
        assert error < 1e-4


@pytest.mark.parametrize("mechanism", get_args(Mechanism))
def test_encoder_is_f_q(mechanism: Mechanism) -> None:
    """The encoder that is kept in the end is the one that was trained."""
    pair = build_pair(mechanism)
    assert pair.encoder is pair.f_q
