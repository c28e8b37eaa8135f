"""Converts the result of a curation command to a data frame."""

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from moco.errors import BadInputError


def frame(result: Mapping[str, Any]) -> Any:
    """Make a data frame of the table that `run` returned for a command on a set: pandas', else polars'.

    Raises BadInputError where there is no table, or neither is installed.
    """
    if "table" not in result:
        raise BadInputError("this result has no table: expected one of duplicates, outliers, select, search or groups")
    for library in ("pandas", "polars"):
        if find_spec(library) is not None:
            return importlib.import_module(library).DataFrame(result["table"])
    raise BadInputError("a frame needs pandas or polars: pip install one of them, or use result['table']")
