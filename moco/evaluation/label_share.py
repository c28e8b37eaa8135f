"""How many labels are kept where there are few: `1%` or `5`."""

import dataclasses
import re

from moco.errors import BadInputError


@dataclasses.dataclass(frozen=True)
class LabelShare:
    """How many images of each class keep their label: a share of them, or a number."""

    share: float | None
    number: int | None

    @property
    def name(self) -> str:
        """Return the name for files."""
        return f"{self.share:g}pct" if self.share is not None else str(self.number)


def read_label_share(labels: str) -> LabelShare:
    """Read `1%` or `5`. Raises BadInputError for anything else."""
    match = re.fullmatch(r"(\d{1,3}(?:\.\d{1,6})?)%|(\d{1,9})", labels)
    share = float(match[1]) if match and match[1] else None
    number = int(match[2]) if match and match[2] else None
    if not (share is not None and 0 < share <= 100) and not (number is not None and number >= 1):
        raise BadInputError(
            f"--labels {labels}: expected a share of each class (1%, 10%) or a number for each class (5)"
        )
    return LabelShare(share, number)
