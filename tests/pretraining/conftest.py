"""What the tests of pretraining share."""

from collections.abc import Iterator

import pytest

from tests.distributed.session import shallow_nets


@pytest.fixture(scope="module", autouse=True)
def _shallow() -> Iterator[None]:
    """There are nets of one block in each stage."""
    with pytest.MonkeyPatch.context() as patch:
        shallow_nets(patch)
        yield
