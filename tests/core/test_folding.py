"""Folded batch normalisation against the unfolded network in float64."""

import copy
from collections.abc import Sequence

import pytest
import torch
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn

from moco.core.batchnorm import group_batch_norms, keep_statistics
from moco.core.depthwise import quicken_depthwise
from moco.core.encoder import Encoder, EncoderPlan
from moco.core.folding import Foldable, find_foldable, fold_norms, folded_copy
from moco.core.networks import build_backbone

Network = tuple[str, int]
NETWORKS: list[Network] = [
    ("resnet18-w4", 20), ("resnet50-w4", 53), ("timm:tf_efficientnet_lite0", 49), ("timm:test_resnet", 15),
    ("timm:test_vit", 0),
]  # fmt: skip
"""Names, and how many of their convolutions have a batch normalisation behind them."""
SIZE = 32


def fill_statistics(network: nn.Module) -> nn.Module:
    """Give every norm statistics, scale and shift that change its input."""
    torch.manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor, low in ((norm.running_mean, -0.5), (norm.running_var, 0.5), (norm.weight, 0.5), (norm.bias, 0)):
                assert tensor is not None
                tensor.data.uniform_(low, low + 1)
    return network.double().eval()


def build(arch: str) -> nn.Module:
    """A network with statistics, in float64 and in evaluation mode."""
    return fill_statistics(build_backbone(arch, "cifar" if arch.startswith("resnet18") else "imagenet", SIZE, 3)[0])


def images(count: int = 2) -> Tensor:
    """Random ones."""
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)).double()


def values_and_gradients(network: nn.Module, x: Tensor, pairs: Sequence[Foldable] = ()) -> dict[str, Tensor]:
    """The network's values, and the gradients by each parameter of a sum that weighs them unevenly."""
    names, parameters = zip(*network.named_parameters(), strict=True)
    with fold_norms(pairs):
        y = network(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).double()
    return {"values": y.detach()} | dict(zip(names, torch.autograd.grad((y * weights).sum(), parameters), strict=True))


@pytest.mark.parametrize(("arch", "count"), NETWORKS)
def test_values_and_gradients_stay(arch: str, count: int) -> None:
    """Folding changes neither values nor gradients, and leaves parameters as it found them."""
    network, x = build(arch), images()
    group_batch_norms(network, 1)
    quicken_depthwise(network)
    expected, before = values_and_gradients(network, x), copy.deepcopy(network.state_dict())
    pairs = find_foldable(network, x[:1])
    assert len(pairs) == count

    found = values_and_gradients(network, x, pairs)

    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(network(x), expected["values"])


@pytest.mark.parametrize(("arch", "count"), NETWORKS)
def test_a_folded_copy_computes_the_same(arch: str, count: int) -> None:
    """It does, without the network that it was copied from changing."""
    network, x = build(arch), images()
    expected = network(x).detach()
    folded = folded_copy(network, x[:1])
    assert (folded is network) == (count == 0)
    torch.testing.assert_close(folded(x), expected, rtol=1e-9, atol=1e-11)
    assert torch.equal(network(x), expected)


class Odd(nn.Module):
    """A convolution, a norm behind it, and another reader of the convolution or another call of a part."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.other = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        """Encode x as the kind says."""
        y: Tensor = self.conv(x)
        if self.kind == "changed between":
            y = y.relu()
        z: Tensor = self.norm(y)
        if self.kind == "read twice":
            return z + y
        if self.kind == "two norms":
            z = z + self.other(y)
        if self.kind == "convolves twice":
            z = self.other(self.conv(z))
        elif self.kind == "norm twice":
            z = self.norm(z)
        return z


@pytest.mark.parametrize("kind", ["changed between", "read twice", "two norms", "convolves twice", "norm twice"])
def test_what_cannot_be_folded_stays(kind: str) -> None:
    """A convolution whose output something else needs as it is keeps its norm."""
    network, x = fill_statistics(Odd(kind)), images()
    expected = network(x).detach()
    assert find_foldable(network, x) == []
    assert torch.equal(folded_copy(network, x)(x), expected)
    assert len(find_foldable(fill_statistics(Odd("plain")), x)) == 1


def test_layers_that_change_their_weights_stay() -> None:
    """A standardised or parametrised weight is none to be scaled."""
    spectral = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3))
    standard = StdConv2d(3, 4, 3)
    for conv in (spectral, standard):
        assert find_foldable(nn.Sequential(conv, nn.BatchNorm2d(4)).double().eval(), images()) == []
    trained = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double()
    assert find_foldable(trained, images()) == []


def test_a_training_step_folds_kept_norms() -> None:
    """With kept statistics, encoder and momentum copy compute in training what they compute without folding."""
    encoder = Encoder(EncoderPlan("timm:tf_efficientnet_lite0", "imagenet", "mlp", 8, 16, SIZE))
    fill_statistics(encoder.backbone)
    encoder.float().train().set_bn_group_size(1)
    keep_statistics(encoder.backbone, affine=True)
    x = images(3)
    expected = values_and_gradients(copy.deepcopy(encoder).double(), x)
    encoder.fold_kept_norms()
    encoder.double()
    f_k = encoder.momentum_copy()

    found = values_and_gradients(encoder, x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(f_k(x), expected["values"], rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        f_k.get_parameter("backbone.conv_stem.weight").mul_(-1)
    assert not torch.allclose(f_k(x), expected["values"])
    assert torch.equal(encoder(x), found["values"])
