"""What an evaluation refuses before it computes anything."""

from pathlib import Path

import pytest

from moco.errors import BadInputError
from moco.evaluation.config import KnnConfig
from moco.evaluation.requirements import require_own_flags


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            KnnConfig("timm:test_vit", "digits", arch="timm:test_vit"),
            "--arch is for --weights random",
        ),
        (KnnConfig("run", "digits", like=Path("other")), "--like is for --weights random, and --weights is run"),
        (
            KnnConfig("random", "digits", like=Path("other"), arch="resnet18"),
            "--like and --arch both say which",
        ),
    ],
)
def test_flags_that_would_be_passed_over(config: KnnConfig, message: str) -> None:
    """They name a network, and the weights are one already, or two flags do."""
    with pytest.raises(BadInputError, match=message):
        require_own_flags(config)
    require_own_flags(KnnConfig("random", "digits", arch="timm:test_vit"))
