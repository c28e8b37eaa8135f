"""Every number of a command's settings carries its range, every field its help text, and every config goes to JSON."""

import ast
import dataclasses
import importlib
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jaxtyping
import pytest

from moco.bench.config import BenchConfig
from moco.cli import COMMANDS, main, parse
from moco.commands import auto
from moco.curation.config import DuplicatesConfig, GroupsConfig, OutliersConfig, SearchConfig, SelectConfig
from moco.data.config import CheckConfig, PackConfig
from moco.errors import BadInputError
from moco.evaluation.config import EmbedConfig, FinetuneConfig, KnnConfig, LinearConfig, LowshotConfig
from moco.explore.config import ExploreConfig
from moco.interop.config import ExportConfig, JoinConfig
from moco.pretraining.config import AutoConfig, ResumeConfig
from moco.pretraining.counts import negatives
from moco.pretraining.recipes import RECIPES, recipe
from moco.report.config import ReportConfig
from moco.runtime.configfile import from_json, to_json
from moco.runtime.fields import Range, check, flag, require
from moco.study.config import StudyConfig
from moco.transfer.config import CompareConfig
from moco.transfer.recipes import TASKS, transfer_config

RUN = Path("run")
PRETRAIN = recipe("cifar10", data="photos", out=RUN)
CONFIGS: dict[str, Any] = {
    "pretrain": PRETRAIN,
    "resume": ResumeConfig(RUN),
    "knn": KnnConfig("run", "digits"),
    "linear": LinearConfig("run", "digits"),
    "lowshot": LowshotConfig("run", "digits"),
    "finetune": FinetuneConfig("run", "digits"),
    "transfer": transfer_config("voc-c4", weights="run", data="photos", out=RUN),
    "embed": EmbedConfig("run", "digits", Path("f.npz")),
    "export": ExportConfig("run", "onnx", Path("f.onnx")),
    "join": JoinConfig(("run", "other"), "digits", Path("j.safetensors")),
    "pack": PackConfig("digits", Path("pack")),
    "check": CheckConfig("digits"),
    "bench": BenchConfig(),
    "report": ReportConfig((RUN,)),
    "study": StudyConfig("momentum", "digits", Path("study")),
    "explore": ExploreConfig((RUN,)),
    "duplicates": DuplicatesConfig("run", "digits"),
    "outliers": OutliersConfig("run", "digits"),
    "select": SelectConfig("run", "digits"),
    "search": SearchConfig("run", "digits"),
    "groups": GroupsConfig("run", "digits"),
    "pretrain auto": AutoConfig("photos", RUN),
    "transfer compare": CompareConfig((RUN,)),
}
"""A config of every command."""

every_command = pytest.mark.parametrize("command", CONFIGS)


def hints_of(config: Any) -> dict[str, Any]:
    """The types of a config's fields, with all that is noted in them."""
    return typing.get_type_hints(type(config), include_extras=True)


def numbers(hint: Any, noted: tuple[Any, ...] = ()) -> Iterator[tuple[type[Any], list[Range]]]:
    """Each int and float in a type, however deep, with the ranges that stand right at it."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint in (int, float):
        yield hint, [note for note in noted if isinstance(note, Range)]
    elif origin is Annotated:
        yield from numbers(parts[0], (*parts[1:], *noted))
    elif origin is not typing.Literal:
        for part in parts:
            yield from numbers(part)


def placed(hint: Any, number: float) -> Iterator[Any]:
    """The values of a field that hold a number: itself, or in each place of a tuple beside sound ones of its type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType, Annotated):
        yield from (value for part in parts for value in placed(part, number))
    elif origin is tuple:
        own = parts[:1] * 2 if parts[-1] is ... else parts
        sound = [next(placed(part, type(number)(1))) for part in own]
        for place, part in enumerate(own):
            yield from ((*sound[:place], value, *sound[place + 1 :]) for value in placed(part, number))
    elif hint in (int, float):
        yield number


# --- ranges ---------------------------------------------------------------------------------------------------------


@every_command
def test_every_number_has_one_range(command: str) -> None:
    """Wherever it stands in a field's type; and no whole number is without an upper limit."""
    for name, hint in hints_of(CONFIGS[command]).items():
        for kind, ranges in numbers(hint):
            assert len(ranges) == 1, f"{command} {flag(name)}"
            assert kind is float or ranges[0].most < math.inf, f"{command} {flag(name)}"


def test_every_command_is_looked_at() -> None:
    """And the two that hide behind another."""
    assert {command: type(config) for command, config in CONFIGS.items()} == {
        **COMMANDS,
        "pretrain auto": AutoConfig,
        "transfer compare": CompareConfig,
    }


@every_command
def test_limits(command: str) -> None:
    """At a limit a value passes; beyond it the one line names the flag, the value and what is expected."""
    config = CONFIGS[command]
    for name, hint in hints_of(config).items():
        for kind, (limits,) in numbers(hint):
            least, most, above = limits.least, limits.most, limits.above
            whole = kind is int
            inside = [number for number in (least, most) if abs(number) < math.inf]
            inside += [math.nextafter(above, math.inf)] if above > -math.inf else []
            outside = [most + 1, least - 1, 10**30] if whole else [math.nan, math.inf, -math.inf]
            outside += [-1.0] if max(least, above) > -math.inf and not whole else []
            outside += [above] if above > -math.inf else [math.nextafter(least, -math.inf)] * (not whole)
            outside += [math.nextafter(most, math.inf)] * (most < math.inf and not whole)
            for number in inside:
                for value in placed(hint, kind(number)):
                    check(dataclasses.replace(config, **{name: value}))
            for number in outside:
                for value in placed(hint, kind(number)):
                    line = f"{flag(name)} is {kind(number)}: expected {limits}"
                    with pytest.raises(BadInputError, match=f"^{re.escape(line)}$"):
                        check(dataclasses.replace(config, **{name: value}))


HUGE = 10**30
EXPECTED: list[tuple[str, str, Any, str]] = [
    ("pretrain", "queue_size", HUGE, f"--queue-size is {HUGE}: expected 0 to 16777216"),
    ("pretrain", "queue_size", -1, "--queue-size is -1: expected 0 to 16777216"),
    ("pretrain", "threads", HUGE, f"--threads is {HUGE}: expected 1 to 1024"),
    ("pretrain", "view_size", HUGE, f"--view-size is {HUGE}: expected 1 to 16384"),
    ("resume", "workers", HUGE, f"--workers is {HUGE}: expected 0 to 512"),
    ("pretrain", "seed", 2**63, "--seed is 9223372036854775808: expected 0 to 9223372036854775807"),
    ("pretrain", "lr", math.inf, "--lr is inf: expected a finite number more than 0"),
    ("pretrain", "temperature", 0.0, "--temperature is 0.0: expected a finite number more than 0"),
    ("pretrain", "weight_decay", math.nan, "--weight-decay is nan: expected a finite number of 0 or more"),
    ("pretrain", "milestones", (0.5, 1.5), "--milestones is 1.5: expected 0 to 1"),
    ("pretrain", "std", (0.2, 0.2, 0.0), "--std is 0.0: expected a finite number more than 0"),
    ("pretrain", "timeout", 1e30, "--timeout is 1e+30: expected more than 0, at most 31622400"),
    ("pretrain auto", "minutes", 0.0, "--minutes is 0.0: expected more than 0, at most 527040"),
    ("transfer", "frozen_stages", 5, "--frozen-stages is 5: expected 0 to 4"),
    ("transfer", "lr_drops", (3, -1), "--lr-drops is -1: expected 0 to 1000000000"),
    ("transfer", "train_sizes", (480, 10**6), "--train-sizes is 1000000: expected 1 to 16384"),
    ("report", "map_images", 10_001, "--map-images is 10001: expected 1 to 10000"),
    ("explore", "port", 65536, "--port is 65536: expected 0 to 65535"),
    ("explore", "images", 1, "--images is 1: expected 2 to 200000"),
    ("explore", "clusters", 0, "--clusters is 0: expected 1 to 1000"),
    ("explore", "map_seconds", -1.0, "--map-seconds is -1.0: expected more than 0, at most 31622400"),
]


@pytest.mark.parametrize(("command", "name", "value", "line"), EXPECTED)
def test_the_line_of_an_error(command: str, name: str, value: Any, line: str) -> None:
    """As a person reads it."""
    with pytest.raises(BadInputError) as caught:
        check(dataclasses.replace(CONFIGS[command], **{name: value}))
    assert str(caught.value) == line


@pytest.mark.parametrize(
    "command", [name for name in COMMANDS if any(map(list, map(numbers, hints_of(CONFIGS[name]).values())))]
)
def test_every_command_refuses_first(command: str) -> None:
    """Before it looks for anything: none of these runs and images is there."""
    config = CONFIGS[command]
    name = next(name for name in ("workers", "threads", "shard_bytes") if hasattr(config, name))
    run = importlib.import_module(f"moco.commands.{command}").run
    with pytest.raises(BadInputError, match=f"^{flag(name)} is {HUGE}: expected "):
        run(dataclasses.replace(config, **{name: HUGE}))


def test_auto_refuses_first() -> None:
    """It is no command of its own."""
    with pytest.raises(BadInputError, match=r"^--minutes is 0\.0: expected more than 0, at most"):
        auto.run(AutoConfig("photos", RUN, minutes=0.0), {}, 0.0)


def test_sound_values_pass() -> None:
    """Every command's defaults, every recipe and every task do."""
    recipes = {name: recipe(name, data="d", out=RUN) for name in RECIPES}
    tasks = {name: transfer_config(name, weights="w", data="d", out=RUN) for name in TASKS}
    refused = {}
    for name, config in (*CONFIGS.items(), *recipes.items(), *tasks.items()):
        try:
            check(config)
        except BadInputError as error:
            refused[name] = str(error)
    assert refused == {}


def test_zero_means_never_or_none() -> None:
    """And is allowed there, but nothing below it."""
    names = ("log_every", "checkpoint_every", "knn_every", "workers", "seed", "hard_negatives")
    check(dataclasses.replace(PRETRAIN, weight_decay=0.0, **dict.fromkeys(names, 0)))  # type: ignore[arg-type]
    for name in names:
        with pytest.raises(BadInputError, match=f"--{name.replace('_', '-')} is -1"):
            check(dataclasses.replace(PRETRAIN, **{name: -1}))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_of_a_share_are_allowed(value: float) -> None:
    """A momentum of 0 is a row of the paper's ablation."""
    check(dataclasses.replace(PRETRAIN, key_momentum=value, bank_momentum=value, sgd_momentum=value))
    with pytest.raises(BadInputError, match="--key-momentum"):
        check(dataclasses.replace(PRETRAIN, key_momentum=3 * value - 1))


# --- help -----------------------------------------------------------------------------------------------------------


def undocumented(source: str) -> set[str]:
    """The fields of every class in a source text that no string follows."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                text = after.value if isinstance(after, ast.Expr) else None
                if isinstance(field, ast.AnnAssign) and not (
                    isinstance(text, ast.Constant) and isinstance(text.value, str) and text.value.strip()
                ):
                    found.add(f"{node.name}.{ast.unparse(field.target)}")
    return found


def test_undocumented() -> None:
    """No string follows y and z."""
    assert undocumented('class A:\n    x: int\n    """X."""\n    y: int = 0\n    z: int\n') == {"A.y", "A.z"}


@every_command
def test_every_field_has_one_help_text(command: str) -> None:
    """Its docstring or its type says it, and not both: tyro would show only the type's."""
    kind = type(CONFIGS[command])
    by_type = {
        f"{kind.__name__}.{name}"
        for name, hint in hints_of(CONFIGS[command]).items()
        if any(getattr(note, "help", None) for note in getattr(hint, "__metadata__", ()))
    }
    source = inspect.getsource(sys.modules[kind.__module__])
    assert {name for name in undocumented(source) if name.startswith(f"{kind.__name__}.")} == by_type


@pytest.mark.parametrize("command", [
    *(name for name in COMMANDS if name not in ("pretrain", "transfer")), "pretrain v1", "transfer voc-c4",
    "transfer compare",
])  # fmt: skip
def test_help_shows_no_marker(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The types are shown as INT and FLOAT, the help text once."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # tyro marks values that are missing
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        main([*command.split(), "--help"])
    shown = capsys.readouterr().out
    assert "--json" in shown
    for marker in ("Range", "Annotated", "ArgConfig", "least=", "typing"):
        assert marker not in shown
    for line in shown.splitlines():
        if re.search(r"--(seed|threads|workers|image-size|batch-size|queue-size) ", line):
            assert re.search(r"--[a-z-]+ (INT|\{None\}\|INT) ", line), line


@pytest.mark.parametrize("command", ["pretrain v1", "transfer voc-c4 --weights w"])
def test_a_mistake_shows_no_marker(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A word in place of a number, for each form that a field's type takes: its flag is named as --help shows it."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    forms = {str(hint): name for name, hint in hints_of(CONFIGS[command.split()[0]]).items() if list(numbers(hint))}
    for hint, name in forms.items():
        words = ["x"] * max(1, hint.count("Range(")) if "tuple" in hint else ["x"]
        with pytest.raises(BadInputError, match=rf"{flag(name)}[: ].*\bx\b") as caught:
            parse([*command.split(), "--data", "d", "--out", "o", flag(name), *words])
        assert not re.search("Annotated|Range|ArgConfig|least=|typing|NoneType", str(caught.value))


def test_flags_spell_the_field() -> None:
    """With hyphens."""
    assert flag("knn_temperature") == "--knn-temperature"


# --- JSON -----------------------------------------------------------------------------------------------------------


@every_command
def test_json_gives_back_the_config(command: str) -> None:
    """Ranges change nothing of what is written and read, in optional fields and tuples too."""
    config = CONFIGS[command]
    assert from_json(type(config), to_json(config), Path("x.json")) == config
    for name, hint in hints_of(config).items():
        for kind, _ in numbers(hint):
            for value in placed(hint, kind(1)):
                changed = dataclasses.replace(config, **{name: value})
                found = from_json(type(config), to_json(changed), Path("x.json"))
                assert found == changed
                assert type(getattr(found, name)) is type(value)


# --- what follows from a config -------------------------------------------------------------------------------------


def test_negatives() -> None:
    """K is the queue's, or what is left of the batch, or of a part of it."""
    assert negatives(PRETRAIN) == 4096
    assert negatives(dataclasses.replace(PRETRAIN, dictionary="memory-bank")) == 4096
    assert negatives(dataclasses.replace(PRETRAIN, dictionary="in-batch")) == 511
    assert negatives(dataclasses.replace(PRETRAIN, dictionary="in-batch", accumulate=4)) == 127


def test_settled() -> None:
    """0 is a value, None is a mistake of the program."""
    assert require(0) == 0
    with pytest.raises(AssertionError):
        require(None)
