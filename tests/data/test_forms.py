"""Forms: what may stand in a file, and what people see of channels."""

import math
from typing import Any

import pytest
import torch

from moco.data.forms import Form
from moco.errors import BadInputError

FORM = Form(4, "float", (0.0, 10.0, 100.0, 1000.0), (1.0, 2.0, 3.0, 4.0))


@pytest.mark.parametrize(
    "changed",
    [
        {"channels": 0}, {"channels": 65}, {"channels": True}, {"mean": (1.0,)},
        {"std": (0.0, 1.0, 1.0, 1.0)}, {"mean": (math.nan,) * 4}, {"bands": ("",)}, {"no_data": "x"},
    ],
)  # fmt: skip
def test_forms_that_there_are_not(changed: dict[str, Any]) -> None:
    """A form may come from a file."""
    values = {"channels": 4, "depth": "float", "mean": (0.0,) * 4, "std": (1.0,) * 4, **changed}
    with pytest.raises(BadInputError):
        Form(**values)


def test_what_people_see() -> None:
    """Three channels from two deviations below the mean to two above, in the order that is asked for."""
    image = torch.tensor(FORM.mean).view(4, 1, 1) + torch.tensor(FORM.std).view(4, 1, 1) * torch.tensor([[-3.0, -1, 2]])
    shown = FORM.with_shown((4, 3, 2)).show(image)
    assert shown.dtype == torch.uint8
    assert shown.tolist() == [[[0, 64, 255]]] * 3
    changed = image.clone()
    changed[3] = 1000.0
    assert FORM.with_shown((4, 3, 2)).show(changed)[0].tolist() == [[128, 128, 128]]
    assert FORM.with_shown((4,)).show(changed).tolist() == [[[128, 128, 128]]] * 3
    assert torch.equal(FORM.show(image), FORM.with_shown((1, 2, 3)).show(image))


@pytest.mark.parametrize("chosen", [(1, 2), (0, 1, 2), (5,), (1, 2, 3, 4)])
def test_channels_that_cannot_be_shown(chosen: tuple[int, ...]) -> None:
    """One or three of those that there are."""
    with pytest.raises(BadInputError, match=r"expected one channel, or three .* from 1 to 4"):
        FORM.with_shown(chosen)
