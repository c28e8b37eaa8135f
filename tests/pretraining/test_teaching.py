"""What follows from a teacher."""

from pathlib import Path
from typing import Any

import pytest

from moco.pretraining.recipes import recipe
from moco.pretraining.teaching import count_teacher_crops, with_teacher


@pytest.mark.parametrize(
    ("given", "n", "expected"),
    [({}, 100, 7), ({}, 2048, 7), ({}, 2049, 0), ({"teacher_crops": 3}, 10**6, 3), ({"teacher_views": "live"}, 100, 0)],
)
def test_crops_are_encoded_of_few_images(given: dict[str, Any], n: int, expected: int) -> None:
    """Where their number was not given."""
    assert count_teacher_crops(recipe("taught", data="", out=Path(), teacher="", **given), n) == expected


@pytest.mark.parametrize(("given", "keys"), [({}, 99 * 8), ({"teacher_crops": 0}, 99), ({"queue_size": 50}, 50)])
def test_keys_of_other_images_and_of_their_crops_are_negatives(given: dict[str, Any], keys: int) -> None:
    """As many as there are, or a queue of the last K."""
    assert with_teacher(recipe("taught", data="", out=Path(), teacher="", **given), 100).queue_size == keys
