"""The segmentation net, and what its loss leaves out."""

import pytest
import torch

from moco.core.encoder import Encoder, EncoderPlan
from moco.transfer.segmentation import SegmentationNet
from moco.transfer.targets import VOID


def test_void_pixels_teach_nothing() -> None:
    """The loss is the mean over the others, by a plain loop; of a crop that is void all over it is 0."""
    torch.manual_seed(0)
    model = SegmentationNet(Encoder(EncoderPlan("resnet18-w16")), 3, 16, (0.5,) * 3, (0.2,) * 3)
    x, labels = torch.rand(2, 3, 32, 32), torch.randint(3, (2, 32, 32))
    labels[:, :10] = VOID
    losses = model(list(x), list(labels))
    assert isinstance(losses, dict)
    log = model.logits(x).detach().log_softmax(1)
    kept = [(n, i, j) for n in range(2) for i in range(10, 32) for j in range(32)]
    expected = -sum(float(log[n, int(labels[n, i, j]), i, j]) for n, i, j in kept) / len(kept)
    assert losses["loss_pixels"].item() == pytest.approx(expected, rel=1e-4)
    nothing = model(list(x), [torch.full((32, 32), VOID)] * 2)
    assert isinstance(nothing, dict)
    assert nothing["loss_pixels"].item() == 0
