"""Command lines of every command with odd values, for `fuzz.py`: read and checked, and some of them run."""

import contextlib
import dataclasses
import io
import os
import typing
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np

from moco.cli import COMMANDS, main, parse
from moco.errors import BadInputError, one_line
from moco.pretraining.recipes import RECIPES
from moco.runtime.fields import check, flag
from moco.transfer.recipes import TASKS
from scripts.fuzz_readers import Damage, Reader, Seeds

ODD = (
    "", " ", "0", "-1", "1", "2", "1.5", "nan", "inf", "-inf", "1e999", "1e-320", "9" * 30, "9" * 5000, "0x10", "1_000",
    "\uff11\uff12", "None", "null", "True", "[]", "{}", "../..", "/dev/null", "/dev/zero", "/proc/self/mem", "~",
    "~nobody/x", "a\0b", "\n", "\udcff", "\u00e9", "<b>", "$(id)", "--", "-", "--help=1", "%s", "a,b", "=", "x" * 300,
    "x" * 5000, "resnet18-w0", "timm:", "timm:nothing", "timm:resnet18@", "torchvision:", "stem=@", "random", "digits",
)  # fmt: skip
CHEAP = ("knn", "linear", "lowshot", "finetune", "embed", "pack", "check", "export", "report", "pretrain")
LIGHT = {
    "linear": ("--protocol", "fast", "--penalties", "0.1"),
    "lowshot": ("--draws", "1", "--finetune-steps", "1", "--penalties", "0.1"),
    "finetune": ("--max-steps", "1"),
    "pretrain": (
        "--max-steps", "1", "--arch", "resnet18-w4", "--batch-size", "4", "--queue-size", "4", "--knn-every", "0",
    ),
    "export": ("--format", "safetensors"),
}  # fmt: skip
HEAVY = ("--workers", "--threads", "--timeout", "--epochs", "--max-steps", "--draws", "--finetune-steps", "--port")
"""Flags whose odd values may be fine and make a command long, or start many processes."""
NEW_PLACE = ("--out", "--save", "--device", "--json")


def _flags(command: str) -> list[str]:
    fields = dataclasses.fields(COMMANDS[command])
    positional = [name for name, hint in typing.get_type_hints(COMMANDS[command], include_extras=True).items()
                  if "Positional" in repr(hint)]  # fmt: skip
    return [flag(one.name) for one in fields if one.name not in (*positional, "task")]


def _pick(values: Any, rng: np.random.Generator) -> Any:
    return values[int(rng.integers(0, len(values)))]


def parse_line(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """Read a command line of a few flags with odd values, and check its numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)  # a flag that must be given has a placeholder
    command = _pick(sorted(COMMANDS), rng)
    words = [command]
    if command == "pretrain":
        words.append(_pick([*RECIPES, "auto", _pick(ODD, rng)], rng))
    if command == "transfer":
        words.append(_pick([*TASKS, "compare", _pick(ODD, rng)], rng))
    words += ["--data", "d", "--out", "o", "--weights", "w"] if rng.random() < 0.7 else []
    for _ in range(int(rng.integers(0, 4))):
        name = _pick(_flags(command), rng)
        words += [f"{name}={_pick(ODD, rng)}"] if rng.random() < 0.2 else [name, _pick(ODD, rng)]
    if rng.random() < 0.1:
        words.insert(int(rng.integers(0, len(words) + 1)), _pick(ODD, rng))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            config, _ = parse(words)
        except BadInputError as error:
            raise BadInputError(one_line(error)) from error  # as `main` prints it
        except SystemExit as end:
            if end.code not in (0, None):
                raise AssertionError(f"exit code {end.code}: {words}") from end
            return
    check(config)


def run_line(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """Run a cheap command on eight images, one of its values odd: whatever comes, no error gets out of it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    work.mkdir()
    os.chdir(work)
    command = _pick(CHEAP, rng)
    words = [command, "quick"] if command == "pretrain" else [command]
    if command == "report":
        words += [str(seeds.root / "run"), "--no-gallery", "--out", str(work / "x.html")]
    elif command != "export":
        words += ["--data", str(seeds.root / "folder")]
    if command not in ("pack", "check", "report", "pretrain"):
        words += ["--weights", str(seeds.root / "run" / "encoder.safetensors")]
    if command in ("embed", "pack", "export", "pretrain"):
        words += ["--out", str(work / ("x.npz" if command == "embed" else "out"))]
    if command not in ("pack", "check", "export", "report"):
        words += ["--workers", "0", "--threads", "1", "--device", "cpu"]
    words += LIGHT.get(command, ())
    named = [name for name in _flags(command) if name not in (*HEAVY, *NEW_PLACE)]
    for _ in range(int(rng.integers(1, 3))):
        words += [_pick(named, rng), _pick(ODD, rng)]
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            code = main(words)
        except SystemExit as end:
            code = int(end.code or 0)
    if code not in (0, 1, 2, 3) or "Traceback" in said.getvalue():
        raise AssertionError(f"exit code {code}: {words}: {said.getvalue()[-300:]}")
    if code:
        raise BadInputError("refused")


COMMAND_LINES: dict[str, Reader] = {"parse": parse_line, "run-line": run_line}
