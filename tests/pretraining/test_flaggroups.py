"""The groups of flags name fields that exist, each once."""

import dataclasses

import pytest

from moco.pretraining.config import PretrainConfig
from moco.pretraining.flaggroups import PRETRAIN_GROUPS
from moco.pretraining.recipes import RECIPES
from moco.transfer.config import TRANSFER_GROUPS, TransferConfig


@pytest.mark.parametrize(("groups", "kind"), [(PRETRAIN_GROUPS, PretrainConfig), (TRANSFER_GROUPS, TransferConfig)])
def test_groups_name_each_field_once(groups: dict[str, tuple[str, ...]], kind: type) -> None:
    """A field that was renamed is noticed; what must be given is among the common ones."""
    named = [name for fields in groups.values() for name in fields]
    assert len(named) == len(set(named))
    assert set(named) <= {field.name for field in dataclasses.fields(kind)}
    assert {"data", "out", "json"} <= set(groups["Common"])


def test_a_recipe_s_own_flags_are_fields_that_others_do_not_list() -> None:
    """A field that was renamed is noticed, and none is named twice."""
    for recipe in RECIPES.values():
        assert set(recipe.own_flags) <= {field.name for field in dataclasses.fields(PretrainConfig)}
        assert not set(recipe.own_flags) & set(PRETRAIN_GROUPS["Common"])
