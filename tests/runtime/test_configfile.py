"""A config is what its JSON says, and what is not one is refused by its key."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from moco.bench.config import BenchConfig
from moco.data.config import CheckConfig, PackConfig
from moco.errors import BadInputError
from moco.evaluation.config import KnnConfig
from moco.pretraining.config import PretrainConfig, ResumeConfig
from moco.pretraining.recipes import RECIPES, recipe
from moco.runtime.configfile import from_json, to_json

WHERE = Path("run/config.json")
PRETRAIN = recipe("cifar10", data="photos", out=Path("run"))
CONFIGS = [
    *(recipe(name, data="my photos/é", out=Path("runs") / name) for name in RECIPES),
    dataclasses.replace(
        PRETRAIN, max_steps=7, lr=0.5, hidden_dim=3, workers=0, milestones=(0.1, 0.2, 0.3), symmetric=True, knn_every=0
    ),
    dataclasses.replace(PRETRAIN, milestones=()),
    ResumeConfig(Path("runs/a")),
    ResumeConfig(Path("runs/a"), workers=3, json=True),
    KnnConfig("run", "digits"),
    PackConfig("digits", Path("pack")),
    CheckConfig("digits"),
    KnnConfig("random", "digits", like=Path("run"), image_size=32, features="head"),
    BenchConfig(only="peak,step", seconds=0.5),
]


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


@pytest.mark.parametrize("name", ["data", "out"])
def test_a_missing_key_is_named(name: str) -> None:
    """Where nothing stands for it."""
    values = json.loads(to_json(PRETRAIN))
    del values[name]
    assert f"missing key '{name}'" in refusal(json.dumps(values))


def test_a_file_from_before_a_field_means_what_was_done_then() -> None:
    """The default, but that JPEGs were decoded exactly before --decode; what the file says stays."""
    values = json.loads(to_json(dataclasses.replace(PRETRAIN, seed=7)))
    for name in ("decode", "keep", "init", "head_lr", "hard_negatives"):
        del values[name]
    found = from_json(PretrainConfig, json.dumps(values), WHERE)
    assert found == dataclasses.replace(PRETRAIN, seed=7, decode="exact")


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
    ("temperature", 10**400),
    ("symmetric", 1),
    ("symmetric", "yes"),
    ("augment", "v9"),
    ("augment", 2),
    ("augment", ["v1"]),
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


@pytest.mark.parametrize(("name", "value"), [
    ("pretext", "my.py:pairs"), ("pretext", "os:system"), ("logger", ["wandb", "my.py:connect"]), ("logger", ["./w"]),
])  # fmt: skip
def test_code_in_a_config_is_refused(name: str, value: Any) -> None:
    """What a command line would run is never run because a file names it; what a run stored of it names no file."""
    assert f"{WHERE}: {name} is " in refusal(changed(**{name: value}))
    stored = from_json(PretrainConfig, changed(pretext="own:pairs@sha256:0", logger=["wandb", "own:connect@0"]), WHERE)
    assert stored.logger == ("wandb", "own:connect@0")


@pytest.mark.parametrize(("before", "now"), [(True, "on"), (False, "off"), ("auto", "auto")])
def test_a_value_that_older_files_wrote_otherwise_is_read(before: object, now: str) -> None:
    """--compile was a switch; a number that is equal to one is none."""
    assert from_json(PretrainConfig, changed(compile=before), WHERE).compile == now
    assert "compile is 1, expected" in refusal(changed(compile=1))
