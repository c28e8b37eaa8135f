"""The run folder: what an earlier command left in it, and whether a run goes on there."""

from collections.abc import Collection
from typing import Any

from moco.errors import BadInputError, DivergedError
from moco.runtime.configfile import from_json
from moco.runtime.fields import flag
from moco.runtime.runlog import read_status

OF_EACH_PROCESS = frozenset({"data", "out", "threads", "workers", "json"})
"""Fields that may differ between the processes of a run, say because their machines do."""


HOW_NOT_WHAT = frozenset({
    "out", "json", "workers", "threads", "log_every", "checkpoint_every", "knn_every", "timeout", "accept_changed_data",
})  # fmt: skip
"""Fields that do not change what a run computes: a run goes on where only these differ."""


def earlier_of(config: Any, free: Collection[str]) -> dict[str, Any]:
    """The status of the run that lies in `config.out`; empty where there is none. The fields of `free` may differ.

    Raises BadInputError where it is of another config, naming the first field that differs, and DivergedError where it
    diverged.
    """
    path = config.out / "config.json"
    if not path.is_file():
        return {}
    theirs = from_json(type(config), path.read_bytes(), path)
    status = read_status(config.out)
    for name, value in vars(config).items():
        if name not in free and value != getattr(theirs, name):
            raise BadInputError(
                f"--out {config.out} holds a run with {flag(name)} {getattr(theirs, name)}, and now it is {value}: "
                f"give another folder, or the same flags to go on"
            )
    if status.get("state") == "diverged":
        raise DivergedError(
            f"{config.out} diverged at step {status.get('step')}: give another --out and a smaller --lr"
        )
    return status or {"state": "running"}
