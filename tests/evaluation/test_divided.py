"""Features of parts of images become few enough for a linear classifier."""

import pytest
import torch
from sklearn.decomposition import PCA

from moco.core.encoder import Encoder, EncoderPlan
from moco.evaluation import divided
from moco.evaluation.divided import divide_features, list_grids
from moco.evaluation.features import Encoding


def test_many_numbers_are_turned_to_principal_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are scikit-learn's but for signs; what a whole image has stays as it is."""
    monkeypatch.setattr(divided, "MOST_READ", 4)
    torch.manual_seed(0)
    whole, parts = torch.randn(40, 3), torch.randn(40, 12) * torch.arange(1, 13)
    first, second = divide_features([whole, parts], (1, 2))
    assert torch.equal(first(whole), whole)
    expected = torch.from_numpy(PCA(4).fit_transform(parts.double().numpy())).float()
    torch.testing.assert_close(second(parts).abs(), expected.abs(), rtol=1e-4, atol=1e-4)


def test_averages_that_would_not_fit_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 128 + 512 numbers for each image."""
    encoder = Encoder(EncoderPlan("resnet10-w16", "cifar", image_size=16))
    how = Encoding(16, (0.5,) * 3, (0.5,) * 3)
    monkeypatch.setattr(divided, "MOST_AT_ONCE", 640 * 200)
    assert list_grids(encoder, how, 200) == (1, 2)
    assert list_grids(encoder, how, 201) == (1,)
