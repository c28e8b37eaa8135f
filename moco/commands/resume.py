"""`moco resume`: go on with a run by its own config."""

import dataclasses
from typing import Any, TypeVar

from moco.commands import conclusion, pretrain, transfer
from moco.data.hosted import is_hosted
from moco.data.named import CATALOG, absolute_data, part_choice
from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig, ResumeConfig
from moco.runtime.configfile import from_json, read_command
from moco.runtime.fields import check
from moco.runtime.files import expand_home, read_bounded
from moco.runtime.folder import BROKEN_OFF, read_status
from moco.runtime.loggers import add_loggers, settle_loggers
from moco.runtime.owncode import OWN
from moco.transfer.config import TransferConfig

SOURCES = {"data": "images", "partner": "images of --partner", "series": "lines of --series"}
"""What lies in the place that each of these fields names."""
Config = TypeVar("Config", PretrainConfig, TransferConfig)


def run(config: ResumeConfig) -> dict[str, Any]:
    """`moco resume`: go on with a run by its own config."""
    check(config)
    path = config.run / "config.json"
    if not path.is_file():
        raise BadInputError(f"{config.run}: no run to continue: expected a folder with a config.json")
    now: dict[str, Any] = {
        "out": config.run, "json": config.json, "accept_changed_data": config.accept_changed_data,
    }  # fmt: skip
    if config.workers is not None:
        now["workers"] = config.workers
    content = read_bounded(path)
    command = read_command(content, path)
    status = read_status(config.run)
    if said := BROKEN_OFF.get(status.get("state", "")):
        print(f"{config.run}: {said} after step {status.get('step')} or later: continuing")
    if command == "pretrain":
        before = _with_pretext(_with_loggers(from_json(PretrainConfig, content, path), config), config, now)
        own = _find_sources(before, config)
        return conclusion.conclude(own, pretrain.run(own), own.data)
    if command == "transfer":
        stored = _with_loggers(from_json(TransferConfig, content, path), config)
        return transfer.run(_find_sources(dataclasses.replace(stored, **now), config))
    raise BadInputError(f"{path}: a run of {command!r}: only runs of pretrain and transfer can be resumed")


def _with_loggers(before: Config, config: ResumeConfig) -> Config:
    """Return the config of a run with the loggers that it had and those that are given now."""
    return dataclasses.replace(before, logger=add_loggers(before.logger, settle_loggers(config.logger)))


def _with_pretext(before: PretrainConfig, config: ResumeConfig, now: dict[str, Any]) -> PretrainConfig:
    """Return the config of a run; code of the user's own is only run where the command line names it."""
    if config.pretext is not None and not before.pretext.startswith(OWN):
        raise BadInputError(f"{config.run}: its pretext is {before.pretext}: leave --pretext out")
    return dataclasses.replace(before, pretext=config.pretext or before.pretext, **now)


def _find_sources(before: Config, config: ResumeConfig) -> Config:
    """Return the config of a run with the places of now, after checking that its data are there.

    Raises BadInputError if not, or where the run does not have what is given.
    """
    places: dict[str, Any] = {}
    for name, noun in SOURCES.items():
        was, now = getattr(before, name, None), getattr(config, name)
        if was is None and now is not None:
            raise BadInputError(f"{config.run}: the run has no --{name}: leave it out")
        data = now or was
        if data is None:
            continue
        place = part_choice(data)[1]
        if not (place in CATALOG or is_hosted(place) or expand_home(place).exists()):
            raise BadInputError(
                f"{config.run}: its {noun} are not in {data}{', where they were' if now is None else ''}: give "
                f"--{name} with where they are now"
            )
        places[name] = absolute_data(data)
    return dataclasses.replace(before, **places)
