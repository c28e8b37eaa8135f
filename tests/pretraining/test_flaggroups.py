"""The groups of flags name fields that exist, each once."""

import dataclasses

import pytest

from moco.pretraining.config import PretrainConfig
from moco.pretraining.flaggroups import PRETRAIN_GROUPS
from moco.transfer.config import TRANSFER_GROUPS, TransferConfig


@pytest.mark.parametrize(("groups", "kind"), [(PRETRAIN_GROUPS, PretrainConfig), (TRANSFER_GROUPS, TransferConfig)])
def test_groups_name_each_field_once(groups: dict[str, tuple[str, ...]], kind: type) -> None:
    """A field that was renamed is noticed; what must be given is among the common ones."""
    named = [name for fields in groups.values() for name in fields]
    assert len(named) == len(set(named))
    assert set(named) <= {field.name for field in dataclasses.fields(kind)}
    assert {"data", "out", "json"} <= set(groups["Common"])
