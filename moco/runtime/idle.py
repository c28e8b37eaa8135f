"""Flags that are given and change nothing, because of other settings: they are said, in one line for each reason."""

import os
import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from moco.runtime.fields import flag


class Idle(NamedTuple):
    """Fields that have no effect with some settings of a command."""

    names: tuple[str, ...]
    why: Callable[[Any], str]
    """The reason for a config; empty where the fields have an effect."""


def warn_of_idle(config: Any, given: Collection[str], rules: Sequence[Idle]) -> None:
    """Warn, in the first process, of flags that are given and have no effect."""
    if os.environ.get("RANK", "0") != "0":
        return
    for names, why in rules:
        flags = [flag(name) for name in names if name in given]
        reason = why(config) if flags else ""
        if reason:
            have = "has" if len(flags) == 1 else "have"
            print(f"moco: warning: {', '.join(flags)} {have} no effect: {reason}", file=sys.stderr)
