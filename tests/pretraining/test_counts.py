"""How many negatives a query meets, by hand."""

from pathlib import Path
from typing import Any

import pytest

from moco.pretraining.counts import negatives, shared_negatives
from moco.pretraining.recipes import recipe


@pytest.mark.parametrize(("values", "shared", "whole"), [
    ({"dictionary": "queue", "queue_size": 512}, 512, 512),
    ({"dictionary": "queue", "queue_size": 512, "hard_negatives": 16, "mix": 8, "mix_query": 4}, 512, 524),
    ({"dictionary": "queue", "queue_size": 512, "batch_size": 64, "batch_keys": True}, 575, 575),
    ({"dictionary": "in-batch", "batch_size": 64, "accumulate": 2}, 31, 31),
    ({"dictionary": "memory-bank", "queue_size": 100}, 100, 100),
])  # fmt: skip
def test_negatives(values: dict[str, Any], shared: int, whole: int) -> None:
    """K, the batch's other keys where they count, and what is mixed."""
    config = recipe("v1", data="d", out=Path("run"), **values)
    assert (shared_negatives(config), negatives(config)) == (shared, whole)
