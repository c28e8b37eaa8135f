"""GroupedBatchNorm against the oracle, and against torch's own batch normalisation of each block."""

import copy
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import Tensor, nn

from moco.core.batchnorm import (
    GroupedBatchNorm,
    fitting_groups,
    group_batch_norms,
    nearest_groups,
)
from moco.core.encoder import Encoder, EncoderPlan
from moco.errors import BadInputError
from tests import oracles
from tests.slow import slow

BATCH, CHANNELS, SIDE = 6, 3, 4
GROUPS = (1, 2, 3, 6)
MEMORY = (torch.contiguous_format, torch.channels_last)
EPS, MOMENTUM = 1e-3, 0.3

every_layout = pytest.mark.parametrize("memory", MEMORY, ids=["contiguous", "channels_last"])
every_grouping = pytest.mark.parametrize("groups", GROUPS)


def layer_and_batch(groups: int, memory: torch.memory_format, dtype: torch.dtype) -> tuple[GroupedBatchNorm, Tensor]:
    """A layer whose every number is random, and images of any mean and spread."""
    torch.manual_seed(groups)
    layer = GroupedBatchNorm(CHANNELS, EPS, MOMENTUM).to(dtype)
    layer.group_size = BATCH // groups
    for value in (*layer.parameters(), layer.running_mean, layer.running_var):
        assert value is not None
        value.data.uniform_(0.5, 2.0)
    x = torch.randn(BATCH, CHANNELS, SIDE, SIDE, dtype=dtype) * 3 + torch.arange(BATCH, dtype=dtype).view(-1, 1, 1, 1)
    return layer, x.contiguous(memory_format=memory)


@every_layout
@every_grouping
def test_forward_equals_the_oracle(groups: int, memory: torch.memory_format) -> None:
    """Each block is normalised with its own statistics (float64: 1e-12 is its rounding over 100 values)."""
    layer, x = layer_and_batch(groups, memory, torch.float64)
    expected = oracles.grouped_batch_norm(
        x.numpy(), layer.weight.detach().numpy(), layer.bias.detach().numpy(), groups, EPS
    )
    y = layer(x)
    torch.testing.assert_close(y.detach(), torch.from_numpy(expected), rtol=0, atol=1e-12)
    assert y.is_contiguous(memory_format=memory)


@every_layout
@every_grouping
def test_running_statistics_equal_the_oracle(groups: int, memory: torch.memory_format) -> None:
    """The running statistics become the mean of what each block would have recorded."""
    layer, x = layer_and_batch(groups, memory, torch.float64)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    mean, var = oracles.grouped_running_statistics(
        x.numpy(), layer.running_mean.clone().numpy(), layer.running_var.clone().numpy(), groups, MOMENTUM
    )
    layer(x)
    torch.testing.assert_close(layer.running_mean, torch.from_numpy(mean), rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.running_var, torch.from_numpy(var), rtol=0, atol=1e-12)
    assert layer.num_batches_tracked == 1


@every_layout
@every_grouping
def test_gradients_equal_the_oracle(groups: int, memory: torch.memory_format) -> None:
    """The gradients of x, weight and bias are those of the block-wise formula (float64)."""
    layer, x = layer_and_batch(groups, memory, torch.float64)
    grad_y = torch.randn_like(x)
    expected = oracles.grouped_batch_norm_backward(
        x.numpy(), layer.weight.detach().numpy(), grad_y.numpy(), groups, EPS
    )
    x.requires_grad_()
    layer(x).backward(grad_y)
    for value, wanted in zip((x, layer.weight, layer.bias), expected, strict=True):
        assert value.grad is not None
        torch.testing.assert_close(value.grad, torch.from_numpy(wanted), rtol=0, atol=1e-11)


@every_layout
@every_grouping
def test_equals_torch_on_each_block(groups: int, memory: torch.memory_format) -> None:
    """In float32 it does what BatchNorm2d does on one device per block: the same kernels, summed in another order."""
    layer, x = layer_and_batch(groups, memory, torch.float32)
    plain = nn.BatchNorm2d(CHANNELS, EPS, MOMENTUM)
    plain.load_state_dict(layer.state_dict())
    devices = [copy.deepcopy(plain) for _ in range(groups)]
    grad_y = torch.randn_like(x)

    own, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = layer(own)
    expected = torch.cat([device(block) for device, block in zip(devices, theirs.chunk(groups), strict=True)])
    torch.autograd.backward((y, expected), (grad_y, grad_y))

    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(own.grad, theirs.grad, rtol=0, atol=1e-6)
    for name, parameter in layer.named_parameters():
        gradients = [dict(device.named_parameters())[name].grad for device in devices]
        torch.testing.assert_close(parameter.grad, sum(g for g in gradients if g is not None), rtol=1e-5, atol=1e-5)
    for name in ("running_mean", "running_var"):
        mean = torch.stack([device.get_buffer(name) for device in devices]).mean(0)
        torch.testing.assert_close(layer.get_buffer(name), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (2, 1, 3, 0)])
def test_any_strides_give_the_same(order: tuple[int, int, int, int]) -> None:
    """What lies otherwise in memory, as a transposed tensor does, is normalised all the same."""
    layer, x = layer_and_batch(3, torch.contiguous_format, torch.float64)
    inverse = [order.index(axis) for axis in range(4)]
    strided = x.permute(order).contiguous().permute(inverse)
    assert strided.shape == x.shape
    torch.testing.assert_close(layer(strided), layer(x), rtol=0, atol=1e-12)


def test_every_other_channel_is_normalised_alike() -> None:
    """A slice of channels, which is not contiguous, is normalised as its copy is."""
    layer, x = layer_and_batch(3, torch.contiguous_format, torch.float64)
    sliced = x.repeat_interleave(2, dim=1)[:, ::2]
    torch.testing.assert_close(layer(sliced), layer(x), rtol=0, atol=1e-12)


@every_layout
def test_gradient_of_any_strides(memory: torch.memory_format) -> None:
    """A gradient that pooling has expanded, or that lies otherwise than x, gives the same as its copy."""
    layer, x = layer_and_batch(3, memory, torch.float64)
    expanded = torch.randn(BATCH, CHANNELS, 1, 1, dtype=torch.float64).expand_as(x)
    found = []
    for grad_y in (expanded, expanded.contiguous(), expanded.contiguous(memory_format=torch.channels_last)):
        own = x.clone().requires_grad_()
        layer(own).backward(grad_y)
        found.append(own.grad)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-12)


def test_bf16_images_with_fp32_parameters() -> None:
    """Under autocast the layer's input is bf16 and its parameters stay fp32, as for torch's own layer."""
    layer, x = layer_and_batch(2, torch.contiguous_format, torch.float32)
    x = x.bfloat16()
    plain = nn.BatchNorm2d(CHANNELS, EPS, MOMENTUM)
    plain.load_state_dict(layer.state_dict())
    y = layer(x)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, torch.cat([plain(block) for block in x.chunk(2)]))
    assert layer.get_buffer("running_mean").dtype == torch.float32


@every_layout
def test_evaluation_is_ordinary(memory: torch.memory_format) -> None:
    """In evaluation mode it is BatchNorm2d, whatever the group size, and records nothing."""
    layer, x = layer_and_batch(3, memory, torch.float32)
    plain = nn.BatchNorm2d(CHANNELS, EPS, MOMENTUM)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer.eval()(x[:5]), plain.eval()(x[:5]))
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in layer.state_dict().items())


def test_group_size_zero_is_the_whole_batch() -> None:
    """Without groups it is BatchNorm2d in training too."""
    layer, x = layer_and_batch(1, torch.contiguous_format, torch.float32)
    layer.group_size = 0
    plain = nn.BatchNorm2d(CHANNELS, EPS, MOMENTUM)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), plain(x), rtol=0, atol=1e-6)
    torch.testing.assert_close(layer.running_var, plain.running_var, rtol=1e-5, atol=1e-6)


def test_a_batch_that_does_not_divide_raises() -> None:
    """The error names the batch and the group size."""
    layer, x = layer_and_batch(2, torch.contiguous_format, torch.float32)
    with pytest.raises(ValueError, match=r"batch of 5 .* groups of 3"):
        layer(x[:5])


def test_group_batch_norms_replaces_every_layer() -> None:
    """Every BatchNorm2d of a torchvision net is replaced; names, values and modes stay."""
    net = torchvision.models.get_model("resnet18", weights=None)
    net.get_submodule("layer1").eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes = {name: module.training for name, module in net.named_modules()}

    assert group_batch_norms(net, 4) == 20  # ResNet-18: 17 after convolutions, 3 in shortcuts
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20
    assert all(isinstance(module, GroupedBatchNorm) and module.group_size == 4 for module in norms)
    assert {name: module.training for name, module in net.named_modules()} == modes
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_group_batch_norms_again_only_sets_the_size() -> None:
    """A second call keeps the layers, which an optimiser may already hold."""
    net = nn.Sequential(nn.BatchNorm2d(CHANNELS), nn.Sequential(nn.BatchNorm2d(CHANNELS)))
    group_batch_norms(net, 4)
    before = list(net.parameters())
    assert group_batch_norms(net, 2) == 2
    assert all(new is old for new, old in zip(net.parameters(), before, strict=True))
    assert [module.group_size for module in net.modules() if isinstance(module, GroupedBatchNorm)] == [2, 2]


def test_group_batch_norms_keeps_eps_and_momentum() -> None:
    """What the replaced layer was configured with goes on."""
    net = nn.Sequential(nn.BatchNorm2d(CHANNELS, eps=EPS, momentum=MOMENTUM))
    group_batch_norms(net, 2)
    layer = net[0]
    assert isinstance(layer, GroupedBatchNorm)
    assert (layer.eps, layer.momentum) == (EPS, MOMENTUM)


def test_group_batch_norms_keeps_frozen_parameters_frozen() -> None:
    """What was not trained, as in f_k, is not trained after the replacement either."""
    net = nn.Sequential(nn.BatchNorm2d(CHANNELS)).requires_grad_(False)
    group_batch_norms(net, 2)
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_group_batch_norms_keeps_the_type() -> None:
    """A net in float64 stays one."""
    net = nn.Sequential(nn.BatchNorm2d(CHANNELS)).double()
    group_batch_norms(net, 2)
    assert all(parameter.dtype == torch.float64 for parameter in net.parameters())


# --- other kinds ----------------------------------------------------------------------------------------------------

FUSED: dict[str, dict[str, Any]] = {
    "ReLU": {},
    "nothing": {"apply_act": False},
    "SiLU": {"act_layer": nn.SiLU, "inplace": False},
    "trained": {"act_layer": nn.PReLU, "act_kwargs": {"num_parameters": CHANNELS}, "inplace": False},
    "dropout": {"drop_layer": lambda: nn.Dropout(0.5)},
}
"""What may stand in timm's layer behind the normalisation."""


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fused", FUSED)
def test_what_is_fused_with_it_stays(fused: str, training: bool) -> None:
    """In one group it is timm's own layer: values, gradients, statistics and the names of tensors."""
    torch.manual_seed(0)
    theirs = nn.Sequential(BatchNormAct2d(CHANNELS, EPS, MOMENTUM, **FUSED[fused]))
    for value in (*theirs.parameters(), *(b for b in theirs.buffers() if b.is_floating_point())):
        value.data.uniform_(0.5, 2.0)
    ours = copy.deepcopy(theirs)
    assert group_batch_norms(ours, 0) == 1
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x, grad_y = torch.randn(BATCH, CHANNELS, SIDE, SIDE), torch.randn(BATCH, CHANNELS, SIDE, SIDE)
    found = []
    for net in (ours.train(training), theirs.train(training)):
        torch.manual_seed(1)  # of the dropout
        own = x.clone().requires_grad_()
        y = net(own)
        y.backward(grad_y)
        gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        found.append([y.detach(), own.grad, *gradients, *net.buffers()])
    assert (found[0][0] < 0).any() == (fused in ("nothing", "SiLU", "trained"))
    for value, expected in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


NETWORKS = {
    "test_resnet": 32,  # BatchNorm2d
    "test_efficientnet": 32,  # with an activation
    "test_byobnet": 32,  # with another one, and attention over channels
    "test_coatnet": 64,
    "levit_128s": 64,  # images cut into tokens, as rows
    "efficientvit_m0": 128,  # into windows
}


@pytest.mark.parametrize(
    ("name", "size"), [slow(*one) if one[0] == "efficientvit_m0" else one for one in NETWORKS.items()]
)
def test_groups_of_a_network_are_passes_of_their_own(name: str, size: int) -> None:
    """G groups in one pass give what G passes of timm's own network give, and their mean statistics (float64)."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderPlan(f"timm:{name}", image_size=size)).double()
    theirs = [copy.deepcopy(encoder) for _ in range(2)]
    assert encoder.set_bn_group_size(3) > 0
    x = torch.randn(6, 3, size, size, dtype=torch.float64)
    y = encoder.train()(x)
    expected = torch.cat([device.train()(block) for device, block in zip(theirs, x.chunk(2), strict=True)])
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-9)
    grad = torch.randn_like(y)
    torch.autograd.backward((y, expected), (grad, grad))
    first, second = (dict(device.named_parameters()) for device in theirs)
    for key, parameter in encoder.named_parameters():
        gradients = [p[key].grad for p in (first, second)]
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, sum(g for g in gradients if g is not None), rtol=1e-6, atol=1e-9)
    for key, value in encoder.named_buffers():
        if key.endswith(("running_mean", "running_var")):
            mean = torch.stack([device.get_buffer(key) for device in theirs]).mean(0)
            torch.testing.assert_close(value, mean, rtol=0, atol=1e-9)


def test_a_network_in_one_group_is_itself() -> None:
    """In evaluation bit for bit, after it was trained in groups too."""
    torch.manual_seed(0)
    net = timm.create_model("test_efficientnet", num_classes=0)
    own, x = copy.deepcopy(net), torch.randn(4, 3, 32, 32)
    group_batch_norms(own, 2)
    own.train()(x)
    net.load_state_dict(own.state_dict())
    with torch.no_grad():
        assert torch.equal(own.eval()(x), net.eval()(x))


def test_rows_of_numbers() -> None:
    """BatchNorm1d over (N, C) and (N, C, L) is grouped too; of N images that were cut, their rows stay together."""
    torch.manual_seed(0)
    for shape, images in (((6, CHANNELS), 0), ((6, CHANNELS, 5), 0), ((24, CHANNELS), 6)):
        plain = nn.Sequential(nn.BatchNorm1d(CHANNELS)).double()
        grouped = copy.deepcopy(plain)
        group_batch_norms(grouped, 2)
        layer = grouped[0]
        assert isinstance(layer, GroupedBatchNorm)
        layer.images = images
        x = torch.randn(shape, dtype=torch.float64)
        torch.testing.assert_close(grouped(x), torch.cat([plain(block) for block in x.chunk(3)]), rtol=0, atol=1e-12)
        assert torch.equal(grouped.eval()(x), nn.functional.batch_norm(x, *layer_numbers(layer), False, 0.0, layer.eps))


def layer_numbers(layer: GroupedBatchNorm) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What it normalises by in evaluation."""
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var, layer.weight, layer.bias


@pytest.mark.parametrize(
    "norm",
    [
        SplitBatchNorm2d(CHANNELS, num_splits=2),  # type: ignore[no-untyped-call]
        nn.BatchNorm2d(CHANNELS, affine=False),
        nn.BatchNorm2d(CHANNELS, track_running_stats=False), nn.SyncBatchNorm(CHANNELS),
    ],
    ids=lambda norm: type(norm).__name__,
)  # fmt: skip
def test_kinds_that_groups_would_change(norm: nn.Module) -> None:
    """Are refused by name, rather than replaced by something else."""
    with pytest.raises(BadInputError, match=rf"{type(norm).__name__}\({CHANNELS}\), which --bn-groups cannot divide"):
        group_batch_norms(nn.Sequential(norm), 2)


@pytest.mark.parametrize("shares", [1, 2, 3, 4, 6, 8, 16, 64])
def test_default_groups_hold_two_images_and_lie_in_one_share(shares: int) -> None:
    """For every batch from 2 to 512: none is nearer to the aim, and one group is the last resort."""
    for batch in (batch for batch in range(2, 513) if batch % shares == 0):
        fitting = fitting_groups(batch, shares)
        possible = [g for g in range(1, batch // 2 + 1) if batch % g == 0 and (batch // shares) % (batch // g) == 0]
        assert sorted(fitting) == possible
        assert bool(fitting) == (batch >= 2 * shares)
        for aim in (1, 4, 8, 64):
            if fitting:
                several = [groups for groups in possible if groups > 1] or [1]
                found = nearest_groups(fitting, aim)
                assert found in several
                assert abs(found - aim) == min(abs(groups - aim) for groups in several)
