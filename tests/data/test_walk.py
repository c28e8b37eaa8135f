"""The walk of one image through docs/design.md names functions that are there."""

import importlib
import re
from pathlib import Path

import moco

DESIGN = (Path(moco.__file__).parents[1] / "docs" / "design.md").read_text(encoding="utf-8")
WALK = DESIGN.partition("## One image from disk to a kNN number")[2].partition("\n## ")[0]


def test_the_walk_is_there() -> None:
    """From the file to the number, each hop with the functions that do it."""
    hops = re.findall(r"^\| ([\w ]+) \| (`.+?`) \|", WALK, re.MULTILINE)
    assert [name for name, _ in hops][:: len(hops) - 1] == ["file", "number"]
    assert len(hops) >= 12


def test_every_function_of_the_walk_exists() -> None:
    """`room.module.name`, or `room.module.Class.method`, as written there."""
    named = set(re.findall(r"`((?:data|core|pretraining|evaluation|commands)(?:\.\w+){2,3})`", WALK))
    assert len(named) >= 20
    for name in named:
        room, module, *inner = name.split(".")
        found = importlib.import_module(f"moco.{room}.{module}")
        for part in inner:
            found = getattr(found, part)
        assert callable(found), name
