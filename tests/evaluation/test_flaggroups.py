"""The help of the evaluations: a screen of common flags first."""

from dataclasses import fields
from typing import Any

import pytest
from tyro import MISSING_NONPROP

from moco.curation.config import SelectConfig
from moco.evaluation.config import FinetuneConfig, KnnConfig, LinearConfig, LowshotConfig
from moco.evaluation.flaggroups import SELDOM, group_flags
from moco.runtime.helptext import list_flags


@pytest.mark.parametrize("kind", [KnnConfig, LinearConfig, LowshotConfig, FinetuneConfig, SelectConfig])
def test_every_field_is_in_one_group(kind: type[Any]) -> None:
    """The few that everybody needs come first."""
    common, *others = group_flags(kind).values()
    named = [name for names in others for name in names]
    assert {"weights", "data", "json", "image_size"} <= set(common)
    assert len(named) == len(set(named))
    assert not set(common) & set(named)
    assert {field.name for field in fields(kind)} <= {*common, *named}
    assert len(common) <= 12


@pytest.mark.parametrize("kind", [KnnConfig, LinearConfig, LowshotConfig, FinetuneConfig])
def test_every_flag_is_in_one_group(kind: type[Any]) -> None:
    """Also one that is not named as its field is: `--baseline W`."""
    grouped = {name for names in group_flags(kind).values() for name in names}
    flags = {flag.field for flag in list_flags(kind, MISSING_NONPROP)}
    assert "baseline" in flags
    assert flags <= grouped


def test_no_group_names_what_no_command_has() -> None:
    """A field that is gone or renamed would silently be a common one."""
    known = {field.name for kind in (KnnConfig, LinearConfig, LowshotConfig, FinetuneConfig) for field in fields(kind)}
    assert {name for names in SELDOM.values() for name in names} <= known
