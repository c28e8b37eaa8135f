"""The command line: a command -> (its config, "module:function"), imported when it is called."""

import contextlib
import importlib
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any, TextIO

import tyro

from moco.config import BenchConfig, KnnConfig, PackConfig, PretrainConfig, ResumeConfig
from moco.errors import BadInputError, DivergedError, StalledError, one_line
from moco.evaluation.config import EmbedConfig, FinetuneConfig, LinearConfig, LowshotConfig
from moco.interop.config import ExportConfig
from moco.recipes import RECIPES
from moco.report.config import ExploreConfig, ReportConfig

COMMANDS: dict[str, tuple[type[Any], str]] = {
    "pretrain": (PretrainConfig, "moco.commands:pretrain"),
    "resume": (ResumeConfig, "moco.commands:resume"),
    "knn": (KnnConfig, "moco.evaluation.knn:run"),
    "linear": (LinearConfig, "moco.evaluation.linear:run"),
    "lowshot": (LowshotConfig, "moco.evaluation.lowshot:run"),
    "finetune": (FinetuneConfig, "moco.evaluation.finetune:run"),
    "embed": (EmbedConfig, "moco.evaluation.embed:run"),
    "export": (ExportConfig, "moco.interop.export:run"),
    "pack": (PackConfig, "moco.data.pack:run"),
    "bench": (BenchConfig, "moco.bench.command:run"),
    "report": (ReportConfig, "moco.reporting:report"),
    "explore": (ExploreConfig, "moco.exploring:explore"),
}
HELP = ("-h", "--help")
HELP_INDENT = 8
INTERRUPTED = 130
"""Exit code after Ctrl-C where there is nothing to save, or a second one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 bad input, 3 diverged, 75 saved after a signal."""
    warnings.showwarning = _show_warning
    try:
        config, function = parse(list(sys.argv[1:] if arguments is None else arguments))
        result = function(config)
    except BadInputError as error:
        return _fail(error, 2)
    except DivergedError as error:
        return _fail(error, 3)
    except (OSError, StalledError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail(KeyboardInterrupt("interrupted"), INTERRUPTED)
    if config.json and os.environ.get("RANK", "0") == "0":  # of torchrun's processes one speaks
        print(json.dumps(result))
    return int(result.get("exit_code", 0))


def parse(arguments: list[str]) -> tuple[Any, Callable[[Any], dict[str, Any]]]:
    """Read a command line: the config and the function that runs it.

    Raises BadInputError in one line, and SystemExit after `--help` and `--version`.
    """
    if not arguments or arguments[0] in HELP:
        print(_overview())
        raise SystemExit(0)
    if arguments[0] == "--version":
        print(version("momentum-contrast"))
        raise SystemExit(0)
    command, *rest = arguments
    kind, target = COMMANDS[_known(command, COMMANDS, "command", "moco --help")]
    prog, default = f"moco {command}", tyro.MISSING_NONPROP
    if kind is PretrainConfig:
        if not rest or rest[0] in HELP:
            print(_recipes())
            raise SystemExit(0)
        name = _known(rest.pop(0), RECIPES, "recipe", "moco pretrain --help")
        prog, default = f"{prog} {name}", PretrainConfig(data=tyro.MISSING, out=tyro.MISSING, **RECIPES[name].values)
    config = _flags(kind, rest, prog, default)
    module, function = target.split(":")
    return config, getattr(importlib.import_module(module), function)


def _flags(kind: type[Any], arguments: list[str], prog: str, default: Any) -> Any:
    """Read the flags of a config; what tyro says in a box of several lines becomes one line."""
    if set(arguments) & set(HELP):
        return tyro.cli(kind, args=arguments, prog=prog, default=default)
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box), _environment(COLUMNS="1000"):
            return tyro.cli(kind, args=arguments, prog=prog, default=default)
    except SystemExit:
        raise BadInputError(f"{_one_line(box.getvalue())} (see {prog} --help)") from None


def _one_line(box: str) -> str:
    """What a box says, without its frame, its rulers and the deeply indented help texts."""
    lines = [line.strip("│") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    told = [line.strip() for line in lines if len(line) - len(line.lstrip()) < HELP_INDENT]
    sections = " ".join(told).split("──")
    said = [section.strip(" ─") for section in sections if section.strip(" ─")]
    return "; ".join(text for text in said if not text.startswith("For full helptext"))


def _known(given: str, names: Sequence[str] | dict[str, Any], what: str, where: str) -> str:
    if given in names:
        return given
    similar = get_close_matches(given, names, n=1, cutoff=0.4)
    hint = f"did you mean {similar[0]}?" if similar else f"expected one of {', '.join(names)}"
    raise BadInputError(f"{given} is not a {what}: {hint} (see {where})")


def _overview() -> str:
    lines = [f"  {name:<10} {(kind.__doc__ or '').splitlines()[0]}" for name, (kind, _) in COMMANDS.items()]
    return "usage: moco COMMAND [flags]\n\n" + "\n".join(lines) + "\n\nmoco COMMAND --help says more."


def _recipes() -> str:
    lines = [f"  {name:<10} {recipe.about}" for name, recipe in RECIPES.items()]
    return (
        "usage: moco pretrain RECIPE --data D --out RUN [flags]\n\n"
        + "\n".join(lines)
        + "\n\nmoco pretrain RECIPE --help lists every flag with its symbol in the paper and its value in that recipe."
    )


@contextlib.contextmanager
def _environment(**values: str) -> Any:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _fail(error: BaseException, code: int) -> int:
    print(f"moco: error: {one_line(error)}", file=sys.stderr)
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"moco: warning: {one_line(message)}", file=sys.stderr)
