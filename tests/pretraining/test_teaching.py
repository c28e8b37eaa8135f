"""What follows from a teacher."""

from pathlib import Path
from typing import Any

import pytest

from moco.errors import BadInputError
from moco.pretraining.recipes import recipe
from moco.pretraining.teaching import require_cached, with_teacher


@pytest.mark.parametrize(
    ("given", "keys"),
    [({}, 99), ({"teacher_crops": 7}, 99 * 8), ({"queue_size": 50, "teacher_crops": 7}, 50),
     ({"teacher_views": "live"}, 100)],
)  # fmt: skip
def test_keys_of_other_images_and_of_their_crops_are_negatives(given: dict[str, Any], keys: int) -> None:
    """As many as there are, or a queue of the last K."""
    assert with_teacher(recipe("taught", data="", out=Path(), teacher="", **given), 100).queue_size == keys


def test_crops_are_encoded_before_the_first_step() -> None:
    """By a teacher that encodes views at each step they never are."""
    both = recipe("taught", data="", out=Path(), teacher="", teacher_crops=3, teacher_views="live")
    with pytest.raises(BadInputError, match="--teacher-crops is 3, and with --teacher-views live"):
        require_cached(both)
