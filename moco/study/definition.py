"""A study as data: its arms, what is measured, the paper's numbers; from the table of ours or from a user's file."""

import dataclasses
import itertools
import math
import re
import shlex
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from moco.errors import BadInputError
from moco.evaluation.config import KEPT, result_name
from moco.pretraining.config import PretrainConfig
from moco.pretraining.recipes import RECIPES
from moco.runtime.configfile import convert_value, require_no_code
from moco.runtime.fields import check, flag
from moco.runtime.files import read_bounded
from moco.runtime.records import parse_json, require_numbers
from moco.study.evaluations import evaluation

Values = Mapping[str, Any]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,-]{0,59}")
"""Names of studies, arms and evaluations, which become names of files."""
LARGEST_STUDY = 1 << 20
"""Bytes of a user's file."""
MOST_ARMS = 1000
"""Maximum number of arms of a study, each of which is a training; a grid multiplies quickly."""
OWN_FLAGS = frozenset({
    "data", "out", "seed", "epochs", "max_steps", "json", "log_every", "knn_every", "init_weights", "precision",
    "device", "threads", "accept_changed_data", "exclude", "most_pixels",
})  # fmt: skip
"""Flags that the study sets itself, so that arms stay comparable."""


@dataclass(frozen=True)
class Outcome:
    """A figure of a cell: where it is found, and where it is drawn."""

    name: str
    key: str
    """`run.NAME`, of the training, or `EVALUATION.NAME...`."""
    series: str = ""
    """The curve that it belongs to, where that is not the arm's."""
    x: float | str | None = None
    """Its place on the x axis, where that is not the arm's."""
    paper: float | None = None
    lower_is_better: bool = False


@dataclass(frozen=True)
class Arm:
    """One way to train: what is different in it, its place in the chart, and what the paper has there."""

    name: str
    values: Values = field(default_factory=dict)
    series: str = ""
    x: float | str | None = None
    paper: float | None = None
    recalled: bool = False
    """The paper's number was not re-checked."""
    fails: bool = False
    """The paper says that it does not train."""


@dataclass(frozen=True)
class Claim:
    """What the paper says: one row of the table is better than another, or not worse."""

    text: str
    better: str
    worse: str
    not_worse: bool = False


@dataclass(frozen=True)
class Study:
    """Arms that differ in what is studied and in nothing else."""

    name: str
    about: str
    arms: tuple[Arm, ...]
    source: str = ""
    """Where the paper's numbers stand, and what they measure."""
    recipe: str | None = None
    values: Values = field(default_factory=dict)
    axis: Literal["log", "linear", "categories"] = "categories"
    x: str = ""
    """The label of the x axis."""
    outcomes: tuple[Outcome, ...] = (Outcome("kNN top-1 (%)", "knn.top1"),)
    evaluate: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: {"knn": ("knn", "--no-baseline")})
    """Evaluations of each cell: the name of the file in the run's evaluations/ -> the command and its flags."""
    claims: tuple[Claim, ...] = ()
    over_time: tuple[str, ...] = ()
    """Figures of metrics.jsonl that are drawn over steps."""
    steps: int | None = None
    """Steps of each cell, where the budget is not in images."""
    extrapolate: bool = False
    """Also tell what the formula of moco.study.memory gives in the papers' setting."""


def find_study(name: str) -> Study:
    """Find one of moco's studies by its name, or read one from a .toml or .json file.

    Raises BadInputError where there is none, or it is not of this form.
    """
    path = Path(name)
    if path.suffix.lower() in (".toml", ".json"):
        return read_study(path)
    ours = tomllib.loads(files("moco.study").joinpath("studies.toml").read_text(encoding="utf-8"))
    if name not in ours:
        similar = get_close_matches(name, ours, n=1, cutoff=0.4)
        hint = f"did you mean {similar[0]}?" if similar else f"expected one of {', '.join(ours)}, or a .toml or .json"
        raise BadInputError(f"{name} is not a study: {hint}")
    return build_study({"name": name, **ours[name]}, name)


def read_study(path: Path) -> Study:
    """Read the study in a user's file, which is data: types are checked, nothing is executed."""
    try:
        text = read_bounded(path, LARGEST_STUDY).decode("utf-8")
        table = parse_json(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror})") from error
    except BadInputError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: neither TOML nor JSON by its ending ({error})") from error
    if not isinstance(table, dict):
        raise BadInputError(f"{path}: expected a table with about, and arms or grid")
    study = build_study({"name": path.stem, **table}, str(path))
    for values in (study.values, *(arm.values for arm in study.arms)):
        require_no_code(PretrainConfig, values, str(path))
    return study


def build_study(table: dict[str, Any], where: str) -> Study:
    """Convert a table to a study. Raises BadInputError naming the first unknown, missing or mistyped key."""
    require_numbers(table, where)
    table = dict(table)
    for key in ("arms", "outcomes", "claims"):
        _require_few(len(_mapping(table, key, where, list)), key, where)
    grid = table.pop("grid", None)
    if grid is not None:
        table["arms"] = [*_mapping(table, "arms", where, list), *_grid(grid, table.get("x"), where)]
    arms = tuple(_built(Arm, arm, f"{where}: arms") for arm in _mapping(table, "arms", where, list))
    outcomes = tuple(_built(Outcome, o, f"{where}: outcomes") for o in _mapping(table, "outcomes", where, list))
    claims = tuple(_built(Claim, claim, f"{where}: claims") for claim in _mapping(table, "claims", where, list))
    given = {**table, "arms": arms, "claims": claims}
    given |= {"outcomes": outcomes} if outcomes else {}
    if "evaluate" in table:
        commands = _mapping(table, "evaluate", where, dict)
        given["evaluate"] = {name: _command(name, line, where) for name, line in commands.items()}
    study: Study = _built(Study, given, where)
    _require_sound(study, where)
    return study


def _mapping(table: Values, key: str, where: str, kind: type) -> Any:
    value = table.get(key, kind())
    if not isinstance(value, kind):
        raise BadInputError(f"{where}: {key} is {value!r}, expected a {kind.__name__}")
    return value


def _built(kind: Any, table: Any, where: str) -> Any:
    """A dataclass of a table's values."""
    if not isinstance(table, dict):
        raise BadInputError(f"{where}: expected a table, found {table!r}")
    hints = typing.get_type_hints(kind)
    needed = {f.name for f in dataclasses.fields(kind) if (f.default, f.default_factory) == (dataclasses.MISSING,) * 2}
    for name in sorted((table.keys() - hints.keys()) | (needed - table.keys())):
        raise BadInputError(f"{where}: {'unknown' if name in table else 'missing'} key {name!r}")
    given = {}
    for name, value in table.items():
        if name in ("values", "arms", "claims", "outcomes", "evaluate"):
            given[name] = value
        elif name == "x" and kind is not Study:
            given[name] = value if isinstance(value, str) else convert_value(float, value, f"{where}: x")
        else:
            given[name] = convert_value(hints[name], value, f"{where}: {name}")
    return kind(**given)


def _require_few(count: int, what: str, where: str) -> None:
    if count > MOST_ARMS:
        raise BadInputError(f"{where}: {count} {what}, expected at most {MOST_ARMS}: give a smaller grid")


def _grid(grid: Any, x: Any, where: str) -> list[dict[str, Any]]:
    """An arm for every combination of the values; the flag that is called like the x axis gives the place there."""
    if (
        not isinstance(grid, dict)
        or not grid
        or not all(isinstance(column, list) and column for column in grid.values())
    ):
        raise BadInputError(f"{where}: grid is {grid!r}, expected flags, each with a list of values")
    _require_few(math.prod(len(column) for column in grid.values()), "arms", where)
    arms = []
    for combination in itertools.product(*grid.values()):
        values = dict(zip(grid, combination, strict=True))
        others = ", ".join(f"{flag(name)} {value}" for name, value in values.items() if name != x)
        place = values.get(x, ",".join(str(value) for value in combination)) if isinstance(x, str) else None
        place = place if isinstance(place, int | float) and not isinstance(place, bool) else str(place)
        arms.append({
            "name": ",".join(f"{name}={value}" for name, value in values.items()), "values": values, "x": place,
            "series": others if x in grid else "",
        })  # fmt: skip
    return arms


def _command(name: str, line: Any, where: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(line)) if isinstance(line, str) else ()
    except ValueError as error:
        raise BadInputError(f"{where}: evaluate {name} is {line!r}: {error}") from None
    if not words or words[0] not in KEPT:
        raise BadInputError(f"{where}: evaluate {name} is {line!r}, expected one of {', '.join(KEPT)} and flags")
    _require_name(name, where)
    taken = {"--weights", "--data", "--save", "--seed"} & {word.split("=")[0] for word in words}
    if taken:
        raise BadInputError(f"{where}: evaluate {name} gives {sorted(taken)[0]}, which the study sets itself")
    try:
        left = result_name(evaluation(words))
    except BadInputError as error:
        raise BadInputError(f"{where}: evaluate {name} is {line!r}: {error}") from None
    if name != left:
        raise BadInputError(f"{where}: evaluate {name} is {line!r}, whose result is called {left}: call it so")
    return words


def _require_name(name: str, where: str) -> None:
    """Raise BadInputError for what cannot be the name of a file."""
    if not NAME.fullmatch(name) or ".." in name:
        raise BadInputError(f"{where}: {name!r} is not a name: expected letters, digits and . _ = , -")


def _require_sound(study: Study, where: str) -> None:
    """Raise BadInputError for names that are no names of files or come twice, and for values that no run may have."""
    if not study.arms:
        raise BadInputError(f"{where}: no arms: give arms, or a grid of flags")
    names = [arm.name for arm in study.arms]
    for name in (study.name, *names):
        _require_name(name, where)
    for name in study.over_time:
        if not re.fullmatch(r"[a-z0-9_]{1,40}", name):
            raise BadInputError(f"{where}: over_time names {name!r}, expected a figure of metrics.jsonl")
    figures = [outcome.name for outcome in study.outcomes]
    for kind, some in (("arms", names), ("outcomes", figures)):
        folded = [name.casefold() for name in some]  # they name folders, and not every file system tells a from A
        twice = next((name for name in some if folded.count(name.casefold()) > 1), None)
        if twice is not None:
            raise BadInputError(f"{where}: two {kind} are called {twice!r}")
    if study.steps is not None and study.steps < 1:
        raise BadInputError(f"{where}: steps is {study.steps}, expected 1 or more")
    for outcome in study.outcomes:
        if outcome.key.split(".")[0] not in {"run", *study.evaluate} or "." not in outcome.key:
            known = ", ".join(f"{name}.NAME" for name in ("run", *study.evaluate))
            raise BadInputError(f"{where}: outcome {outcome.name!r} has the key {outcome.key!r}, expected {known}")
    if study.recipe is not None and study.recipe not in RECIPES:
        raise BadInputError(f"{where}: {study.recipe!r} is not a recipe: expected one of {', '.join(RECIPES)}")
    for arm in study.arms:
        arm_values(study, arm, study.recipe or "quick", where)
    rows = {row_name(study, arm, outcome) for arm in study.arms for outcome in study.outcomes}
    for claim in study.claims:
        for name in (claim.better, claim.worse):
            if name not in {*names, *rows}:
                raise BadInputError(f"{where}: a claim is about {name!r}, which is not an arm")


def arm_values(study: Study, arm: Arm, recipe: str, where: str = "") -> dict[str, Any]:
    """Convert an arm's flags, those beside the recipe's, to their types. Raises BadInputError naming a wrong one."""
    hints = typing.get_type_hints(PretrainConfig)
    values = {}
    for name, value in {
        **_mapping(vars(study), "values", where, dict),
        **_mapping(vars(arm), "values", where, dict),
    }.items():
        known = name.replace("-", "_")
        if known not in hints or known in OWN_FLAGS:
            reason = "which the study sets itself" if known in OWN_FLAGS else "which is not a flag of moco pretrain"
            raise BadInputError(f"{where or study.name}: {arm.name} gives {flag(known)}, {reason}")
        values[known] = convert_value(hints[known], value, f"{where or study.name}: {arm.name}: {flag(known)}")
    try:
        check(PretrainConfig("", Path(), **{**RECIPES[recipe].values, **values}))
    except BadInputError as error:
        raise BadInputError(f"{where or study.name}: {arm.name}: {error}") from None
    return values


def row_name(study: Study, arm: Arm, outcome: Outcome) -> str:
    """Return what a row of the table is called: the arm, and the outcome where there are several."""
    return arm.name if outcome is study.outcomes[0] and not outcome.series else f"{arm.name}: {outcome.name}"
