"""The fields of a config explain themselves, and values out of range are refused by their flag."""

import ast
import dataclasses
import inspect
import math
import typing
from pathlib import Path
from typing import Any

import pytest

from moco.bench.config import BenchConfig
from moco.data.config import PackConfig
from moco.errors import BadInputError
from moco.evaluation.config import EmbedConfig, FinetuneConfig, KnnConfig, LinearConfig, LowshotConfig
from moco.pretraining.config import PretrainConfig, ResumeConfig, negatives
from moco.pretraining.recipes import RECIPES, recipe
from moco.runtime import fields as module
from moco.runtime.fields import NOT_NEGATIVE, POSITIVE, SHARES, check, flag, settled
from moco.study.config import StudyConfig
from moco.transfer.config import TransferConfig
from moco.transfer.recipes import transfer_config

PRETRAIN = recipe("cifar10", data="photos", out=Path("run"))
KNN = KnnConfig("run", "digits")
KINDS: dict[type[Any], Any] = {
    PretrainConfig: PRETRAIN,
    ResumeConfig: ResumeConfig(Path("run")),
    KnnConfig: KNN,
    PackConfig: PackConfig("digits", Path("pack")),
    BenchConfig: BenchConfig(),
    LinearConfig: LinearConfig("run", "digits"),
    LowshotConfig: LowshotConfig("run", "digits"),
    FinetuneConfig: FinetuneConfig("run", "digits"),
    EmbedConfig: EmbedConfig("run", "digits", Path("f.npz")),
    TransferConfig: transfer_config("voc-c4", weights="run", data="photos", out=Path("run")),
    StudyConfig: StudyConfig("momentum", "digits", Path("study")),
}
"""A config of every command."""


# --- ranges ---------------------------------------------------------------------------------------------------------


def kinds(hint: Any) -> tuple[Any, ...]:
    """The types in a hint: (int, NoneType) of `int | None`, (float, float, float) of a tuple, and of one within."""
    return tuple(kind for part in typing.get_args(hint) for kind in kinds(part)) or (hint,)


def with_value(config: Any, name: str, value: float) -> Any:
    """A config with another value of the field's own type, in the first place of a tuple."""
    hint, before = typing.get_type_hints(type(config))[name], getattr(config, name)
    number = float(value) if float in kinds(hint) else int(value)
    several = any(typing.get_origin(part) is tuple for part in (hint, *typing.get_args(hint)))
    return dataclasses.replace(config, **{name: (number, *(before or ())[1:]) if several else number})


OUTSIDE = {"POSITIVE": (0, -1), "NOT_NEGATIVE": (-1,), "SHARES": (-0.1, 1.1)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", OUTSIDE)
def test_a_value_out_of_range_is_refused_by_its_flag(kind: type[Any], names: str) -> None:
    """For every field with a range: the message starts with the flag and says what is expected."""
    config = KINDS[kind]
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


@pytest.mark.parametrize("config", [*KINDS.values(), *(recipe(name, data="d", out=Path("run")) for name in RECIPES)])
def test_sound_values_pass(config: Any) -> None:
    """Every command's defaults and every recipe do."""
    check(config)


@pytest.mark.parametrize("name", ["log_every", "checkpoint_every", "knn_every", "workers", "weight_decay", "seed"])
def test_zero_means_never_or_none(name: str) -> None:
    """And is allowed there."""
    check(with_value(PRETRAIN, name, 0))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_of_a_share_are_allowed(value: float) -> None:
    """A momentum of 0 is a row of the paper's ablation."""
    for config in (PRETRAIN, KINDS[TransferConfig]):
        for name in SHARES & vars(config).keys():
            check(with_value(config, name, value))


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_has_a_range(kind: type[Any]) -> None:
    """A field that is added must be put into one of the sets, and only into one."""
    for name, hint in typing.get_type_hints(kind).items():
        sets = [name in names for names in (POSITIVE, NOT_NEGATIVE, SHARES)]
        assert sum(sets) == (1 if int in kinds(hint) or float in kinds(hint) else 0), name


def test_no_range_is_for_nothing() -> None:
    """Each name in the sets is a field's."""
    fields = {field.name for kind in KINDS for field in dataclasses.fields(kind)}
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
