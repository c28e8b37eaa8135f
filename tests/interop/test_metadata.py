"""What lies beside the weights is what was put there, and numbers that no encoder has are refused."""

from pathlib import Path
from typing import Any

import pytest

from moco.core.encoder import EncoderPlan
from moco.errors import BadInputError
from moco.interop.metadata import encoder_metadata, read_metadata

PLAN, MEAN, STD = EncoderPlan("resnet18-w4", "cifar", image_size=8), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
PATH = Path("encoder.safetensors")


@pytest.mark.parametrize("level", [None, 4095, 65535])
def test_what_is_written_is_read(level: int | None) -> None:
    """Plan, colours, steps and the white level; a file from before there was one scales by the full range."""
    metadata = encoder_metadata(PLAN, MEAN, STD, 7, level)
    own = {"mean": MEAN, "std": STD, "step": 7, "form": None}
    assert read_metadata(PATH, metadata) == (PLAN, {**own, "white_level": level})
    del metadata["white_level"]
    assert read_metadata(PATH, metadata) == (PLAN, {**own, "white_level": 65535})


@pytest.mark.parametrize("level", [0, -1, 65536, 10**30, 4095.0, True, "4095", float("nan"), [4095]])
def test_white_levels_that_are_none(level: Any) -> None:
    """One line names the file."""
    with pytest.raises(BadInputError, match=r"encoder\.safetensors: .*white_level"):
        read_metadata(PATH, {**encoder_metadata(PLAN, MEAN, STD, 7), "white_level": level})
