"""Parameters that the slow tests alone take: the others show the same fact in `make test`."""

from typing import Any

import pytest


def slow(*values: Any, **options: Any) -> Any:
    """What `pytest.param` takes, marked as slow."""
    return pytest.param(*values, marks=pytest.mark.slow, **options)


def long(*values: Any, **options: Any) -> Any:
    """What `pytest.param` takes, marked as slow and as so long a list that CI leaves it out."""
    return pytest.param(*values, marks=[pytest.mark.slow, pytest.mark.long], **options)
