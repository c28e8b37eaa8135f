"""A config is what its JSON says, its fields explain themselves, and values out of range are refused by their flag."""

import ast
import dataclasses
import inspect
import json
import math
import typing
from pathlib import Path
from typing import Any

import pytest

from moco import config as module
from moco.config import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARES,
    BenchConfig,
    KnnConfig,
    PackConfig,
    PretrainConfig,
    ResumeConfig,
    check,
    flag,
    from_json,
    negatives,
    settled,
    to_json,
)
from moco.errors import BadInputError
from moco.recipes import RECIPES, recipe

WHERE = Path("run/config.json")
PRETRAIN = recipe("cifar10", data="photos", out=Path("run"))
KNN = KnnConfig("run", "digits")
PACK = PackConfig("digits", Path("pack"))
CONFIGS = [
    *(recipe(name, data="my photos/é", out=Path("runs") / name) for name in RECIPES),
    dataclasses.replace(
        PRETRAIN, max_steps=7, lr=0.5, hidden_dim=3, workers=0, milestones=(0.1, 0.2, 0.3), symmetric=True, knn_every=0
    ),
    dataclasses.replace(PRETRAIN, milestones=()),
    ResumeConfig(Path("runs/a")),
    ResumeConfig(Path("runs/a"), workers=3, json=True),
    KNN,
    KnnConfig("random", "digits", like=Path("run"), image_size=32, features="head"),
    BenchConfig(only="peak,step", seconds=0.5),
]


# --- JSON -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_json_gives_back_the_config(config: Any) -> None:
    """Equal, with values of the same types, from text that any JSON reader takes."""
    text = to_json(config)
    found = from_json(type(config), text, WHERE)
    assert found == config
    assert {name: type(value) for name, value in vars(found).items()} == {
        name: type(value) for name, value in vars(config).items()
    }
    assert to_json(found) == text
    values = json.loads(text)
    assert values["version"] == 1
    assert list(values)[1:] == [field.name for field in dataclasses.fields(config)]


def changed(**values: Any) -> str:
    """The JSON of a config with other values."""
    return json.dumps({**json.loads(to_json(PRETRAIN)), **values})


def refusal(text: str) -> str:
    """What `from_json` says against a text: one line that names the file."""
    with pytest.raises(BadInputError) as caught:
        from_json(PretrainConfig, text, WHERE)
    message = str(caught.value)
    assert message.startswith(f"{WHERE}: ")
    assert len(message.splitlines()) == 1
    return message


def test_an_unknown_key_is_named() -> None:
    """It is not passed over: a misspelt value would be lost."""
    assert "unknown key 'queue_sizes'" in refusal(changed(queue_sizes=3))


@pytest.mark.parametrize("name", ["data", "queue_size", "json"])
def test_a_missing_key_is_named(name: str) -> None:
    """Also where the class has a default: the file says everything."""
    values = json.loads(to_json(PRETRAIN))
    del values[name]
    assert f"missing key '{name}'" in refusal(json.dumps(values))


WRONG_TYPES: list[tuple[str, Any]] = [
    ("data", 3),
    ("data", None),
    ("out", ["run"]),
    ("batch_size", "256"),
    ("batch_size", 256.0),
    ("batch_size", True),
    ("batch_size", None),
    ("hidden_dim", "wide"),
    ("hidden_dim", 1.5),
    ("temperature", "0.1"),
    ("temperature", False),
    ("temperature", [0.1]),
    ("symmetric", 1),
    ("symmetric", "yes"),
    ("augment", "v9"),
    ("augment", 2),
    ("augment", ["v1"]),
    ("mean", [0.5, 0.5]),
    ("mean", [0.5, 0.5, "0.5"]),
    ("mean", 0.5),
    ("milestones", [0.6, None]),
    ("milestones", {"0.6": 1}),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_a_wrong_type_is_named(name: str, value: Any) -> None:
    """Nothing is converted, but that 1 is a float too."""
    assert f"{WHERE}: {name} is " in refusal(changed(**{name: value}))


def test_a_whole_number_is_a_float() -> None:
    """JSON writers drop the point."""
    found = from_json(PretrainConfig, changed(temperature=1, mean=[0, 1, 0.5], lr=2), WHERE)
    assert (found.temperature, found.mean, found.lr) == (1.0, (0.0, 1.0, 0.5), 2.0)
    assert isinstance(found.temperature, float)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_version_is_refused(version: Any) -> None:
    """The message says which one is expected."""
    assert "version 1" in refusal(changed(version=version))


def test_no_version_is_refused() -> None:
    """It is not one of ours."""
    values = json.loads(to_json(PRETRAIN))
    del values["version"]
    assert "version 1" in refusal(json.dumps(values))


@pytest.mark.parametrize("text", ["", "{", "data: photos", "[]", "3", "null", '"text"', to_json(PRETRAIN)[:-10]])
def test_what_is_no_config_is_refused(text: str) -> None:
    """No JSON, or none of an object."""
    assert "JSON" in refusal(text) or "version" in refusal(text)


def test_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks like code is text."""
    monkeypatch.chdir(tmp_path)
    for code in ("__import__('os').mkdir('sprung')", "$(mkdir sprung)", "!!python/object/apply:os.mkdir [sprung]"):
        assert from_json(PretrainConfig, changed(data=code, arch=code), WHERE).data == code
        refusal(changed(batch_size=code))
        refusal(code)
        refusal(changed(**{code: 1}))
    assert list(tmp_path.iterdir()) == []


# --- ranges ---------------------------------------------------------------------------------------------------------


def kinds(hint: Any) -> tuple[Any, ...]:
    """The types in a hint: (int, NoneType) of `int | None`, (float, float, float) of a tuple."""
    return typing.get_args(hint) or (hint,)


def with_value(config: Any, name: str, value: float) -> Any:
    """A config with another value of the field's own type, in the first place of a tuple."""
    number = float(value) if float in kinds(typing.get_type_hints(type(config))[name]) else int(value)
    before = getattr(config, name)
    return dataclasses.replace(config, **{name: (number, *before[1:]) if isinstance(before, tuple) else number})


OUTSIDE = {"POSITIVE": (0, -1), "NOT_NEGATIVE": (-1,), "SHARES": (-0.1, 1.1)}


@pytest.mark.parametrize("kind", [PretrainConfig, ResumeConfig, KnnConfig, PackConfig])
@pytest.mark.parametrize("names", OUTSIDE)
def test_a_value_out_of_range_is_refused_by_its_flag(kind: type[Any], names: str) -> None:
    """For every field with a range: the message starts with the flag and says what is expected."""
    config = {PretrainConfig: PRETRAIN, ResumeConfig: ResumeConfig(Path("run")), KnnConfig: KNN, PackConfig: PACK}[kind]
    for name, hint in typing.get_type_hints(kind).items():
        if name not in getattr(module, names):
            continue
        for value in (*OUTSIDE[names], *([math.nan] if float in kinds(hint) else [])):
            with pytest.raises(BadInputError, match=rf"^{flag(name)} is {value}(\.0)?: expected "):
                check(with_value(config, name, value))


@pytest.mark.parametrize("name", ["lr", "base_lr", "temperature", "std", "weight_decay", "warmup_epochs"])
def test_infinity_is_refused(name: str) -> None:
    """No rate, no temperature and no number of epochs is infinite."""
    with pytest.raises(BadInputError, match=f"^{flag(name)} is inf"):
        check(with_value(PRETRAIN, name, math.inf))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_sound_values_pass(config: Any) -> None:
    """Every recipe does."""
    check(config)


@pytest.mark.parametrize("name", ["log_every", "checkpoint_every", "knn_every", "workers", "weight_decay", "seed"])
def test_zero_means_never_or_none(name: str) -> None:
    """And is allowed there."""
    check(with_value(PRETRAIN, name, 0))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_of_a_share_are_allowed(value: float) -> None:
    """A momentum of 0 is a row of the paper's ablation."""
    for name in SHARES:
        check(with_value(PRETRAIN, name, value))


@pytest.mark.parametrize("kind", [PretrainConfig, ResumeConfig, KnnConfig, PackConfig])
def test_every_number_has_a_range(kind: type[Any]) -> None:
    """A field that is added must be put into one of the sets, and only into one."""
    for name, hint in typing.get_type_hints(kind).items():
        sets = [name in names for names in (POSITIVE, NOT_NEGATIVE, SHARES)]
        assert sum(sets) == (1 if int in kinds(hint) or float in kinds(hint) else 0), name


def test_no_range_is_for_nothing() -> None:
    """Each name in the sets is a field's."""
    fields = {
        field.name
        for kind in (PretrainConfig, ResumeConfig, KnnConfig, PackConfig, BenchConfig)
        for field in dataclasses.fields(kind)
    }
    assert fields >= POSITIVE | NOT_NEGATIVE | SHARES


# --- help -----------------------------------------------------------------------------------------------------------


def undocumented(source: str) -> list[str]:
    """The fields of every class in a source text that no string follows."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            for field, after in zip(node.body, [*node.body[1:], None], strict=True):
                text = after.value if isinstance(after, ast.Expr) else None
                if isinstance(field, ast.AnnAssign) and not (
                    isinstance(text, ast.Constant) and isinstance(text.value, str) and text.value.strip()
                ):
                    found.append(f"{node.name}.{ast.unparse(field.target)}")
    return found


def test_every_field_has_a_docstring() -> None:
    """It is the help text."""
    assert undocumented(inspect.getsource(module)) == []
    assert undocumented('class A:\n    x: int\n    """About x."""\n    y: int = 0\n    z: int\n') == ["A.y", "A.z"]


def test_flags_spell_the_field() -> None:
    """With hyphens."""
    assert flag("knn_temperature") == "--knn-temperature"


# --- what follows from a config -------------------------------------------------------------------------------------


def test_negatives() -> None:
    """K is the queue's, or what is left of the batch, or of a part of it."""
    assert negatives(PRETRAIN) == 4096
    assert negatives(dataclasses.replace(PRETRAIN, dictionary="memory-bank")) == 4096
    assert negatives(dataclasses.replace(PRETRAIN, dictionary="in-batch")) == 511
    assert negatives(dataclasses.replace(PRETRAIN, dictionary="in-batch", accumulate=4)) == 127


def test_settled() -> None:
    """0 is a value, None is a mistake of the program."""
    assert settled(0) == 0
    with pytest.raises(AssertionError):
        settled(None)
