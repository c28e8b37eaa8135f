"""What an encoder cannot be evaluated on."""

import pytest

from moco.core.encoder import Encoder, EncoderPlan
from moco.errors import BadInputError
from moco.evaluation.refusals import require_fitting


def test_images_that_a_network_does_not_take() -> None:
    """A net that halves them too often; ResNets take any."""
    small = Encoder(EncoderPlan("alexnet", image_size=63))
    require_fitting(small, 63, "cpu")
    with pytest.raises(BadInputError, match="--image-size 20: alexnet does not take such images"):
        require_fitting(small, 20, "cpu")
    require_fitting(Encoder(EncoderPlan("resnet18-w16", "cifar", image_size=16)), 1, "cpu")
