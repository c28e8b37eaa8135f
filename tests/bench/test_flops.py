"""The formula against torch's own counter, which watches the operations of a real step, and against closed forms."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from moco.bench.flops import layer_flops, step_flops
from moco.core.encoder import Encoder, EncoderPlan
from moco.core.pair import EncoderPair
from tests.slow import slow


@pytest.mark.parametrize(
    ("arch", "stem", "head", "bn_group_size"),
    [
        ("resnet18-w16", "cifar", "linear", 0), ("resnet50-w16", "imagenet", "mlp", 2),
        slow("resnet18-w16", "cifar", "linear", 2), slow("resnet50-w16", "imagenet", "mlp", 0),
    ],
)  # fmt: skip
def test_a_step_s_operations_are_those_that_torch_counts(arch: str, stem: Any, head: Any, bn_group_size: int) -> None:
    """Forward and backward of f_q and forward of f_k, with BN groups and without; the loss counts nothing here."""
    n, size = 4, 32
    encoder = Encoder(EncoderPlan(arch, stem, head, image_size=size))
    encoder.set_bn_group_size(bn_group_size)
    pair = EncoderPair(encoder, "queue")
    x_q, x_k = torch.randn(2, n, 3, size, size)
    with FlopCounterMode(display=False) as counter:
        k = pair.keys(x_k, 0)
        q, k = pair(x_q, None, k, 0)
        torch.autograd.backward(((q - k) ** 2).sum())
    assert counter.get_total_flops() == n * step_flops(encoder)


def test_grouped_convolutions_forward() -> None:
    """As torch counts them; for their backward pass its counter forgets the groups (measured with torch 2.14)."""
    encoder = Encoder(EncoderPlan("resnext50-32x8d", "cifar", image_size=16)).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.zeros(1, 3, 16, 16, device="meta"))
    assert counter.get_total_flops() == sum(layer_flops(encoder))


def test_a_small_network_by_hand() -> None:
    """ResNet-18 of base width 16 at 8 pixels with the small stem, from the shapes of its layers."""
    encoder = Encoder(EncoderPlan("resnet18-w16", "cifar", "linear", feature_dim=10, image_size=8))
    stem, stages = 3 * 16 * 9 * 64, 0
    for stage, side in enumerate((8, 4, 2, 1)):
        wide, narrow = 16 * 2**stage, 16 * 2 ** max(stage - 1, 0)
        first = narrow * wide * 9 + (narrow * wide if stage else 0)  # with the 1 x 1 convolution of the shortcut
        taps = 9 if side > 1 else 1  # of a single pixel's neighbours only padding is left
        stages += side**2 * (first + 3 * wide * wide * taps)
    assert sum(layer_flops(encoder)) == 2 * (stem + stages + 128 * 10)
    assert step_flops(encoder) == 4 * 2 * (stem + stages + 128 * 10) - 2 * stem


def test_resnet_50_takes_what_is_known() -> None:
    """About 4.09 billion multiplications for an image of 224 pixels without the classifier, on meta tensors."""
    encoder = Encoder(EncoderPlan("resnet50", head="linear", image_size=224)).to("meta")
    assert sum(layer_flops(encoder)) / 2 == pytest.approx(4.09e9, rel=2e-3)


def test_counting_leaves_the_network_as_it_was() -> None:
    """Its mode, its running statistics, and no hooks."""
    encoder = Encoder(EncoderPlan("resnet18-w16", "cifar", image_size=16)).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    step_flops(encoder)
    assert encoder.training
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert not any(layer._forward_hooks for layer in encoder.modules())


def test_layers_other_than_convolutions_and_linear_ones_count_nothing() -> None:
    """As many layers are counted as there are of these two kinds."""
    encoder = Encoder(EncoderPlan("resnet18-w16", "cifar", "mlp", image_size=16))
    kinds = [layer for layer in encoder.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layer_flops(encoder)) == len(kinds)
