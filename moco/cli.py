"""The command line: reads a command and its flags, runs it, and turns errors into one line and an exit code."""

import contextlib
import dataclasses
import functools
import importlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any

import tyro

from moco.bench.config import BenchConfig
from moco.curation.config import ONE_OF, DuplicatesConfig, GroupsConfig, OutliersConfig, SearchConfig, SelectConfig
from moco.data.config import CheckConfig, PackConfig
from moco.errors import (
    BadInputError,
    DivergedError,
    NoMemoryError,
    StalledError,
    StoppedError,
    VoidError,
    explain_open_files,
    explain_torch,
    one_line,
    shorten,
)
from moco.evaluation.config import GONE, REPEATED, EmbedConfig, FinetuneConfig, KnnConfig, LinearConfig, LowshotConfig
from moco.evaluation.flaggroups import group_flags
from moco.evaluation.requirements import IDLE_IN_LINEAR
from moco.explore.config import ExploreConfig
from moco.interop.config import ExportConfig, JoinConfig
from moco.pretraining.config import AutoConfig, PretrainConfig, ResumeConfig
from moco.pretraining.flaggroups import PRETRAIN_GROUPS, group_with
from moco.pretraining.idle import IDLE as IDLE_IN_PRETRAINING
from moco.pretraining.recipes import RECIPES, fit_recipe, recipe_values
from moco.report.config import ReportConfig
from moco.runtime.configfile import drop_nonfinite
from moco.runtime.fields import check, flag
from moco.runtime.flagerrors import explain_mistake
from moco.runtime.helptext import WIDE, explain, flatten_error, set_environment
from moco.runtime.idle import warn_of_idle
from moco.runtime.mapped import explain_failed_reads
from moco.runtime.phases import say_if_slow
from moco.runtime.signals import CTRL_C, EXIT_CODE, terminate_as_interrupt
from moco.runtime.streams import forgive, open_closed_streams, speak_in_lines, why_lost
from moco.study.config import StudyConfig
from moco.transfer.config import TRANSFER_GROUPS, CompareConfig, TransferConfig
from moco.transfer.recipes import TASKS, transfer_config

SECTIONS: dict[str, dict[str, type[Any]]] = {
    "Train": {"pretrain": PretrainConfig, "resume": ResumeConfig},
    "Look at a run": {"report": ReportConfig, "explore": ExploreConfig},
    "Measure an encoder": {
        "knn": KnnConfig, "linear": LinearConfig, "lowshot": LowshotConfig, "finetune": FinetuneConfig,
        "transfer": TransferConfig,
    },
    "Use an encoder": {"embed": EmbedConfig, "export": ExportConfig, "join": JoinConfig},
    "Curate a folder of images": {
        "duplicates": DuplicatesConfig, "outliers": OutliersConfig, "select": SelectConfig, "search": SearchConfig,
        "groups": GroupsConfig,
    },
    "Prepare images": {"check": CheckConfig, "pack": PackConfig},
    "Compare settings, measure speed": {"study": StudyConfig, "bench": BenchConfig},
}  # fmt: skip
"""Title -> command -> its config. `run` of its module in `moco.commands` runs it, and is imported only then."""
COMMANDS = {name: kind for commands in SECTIONS.values() for name, kind in commands.items()}
GROUPS = {kind: group_flags(kind) for kind in COMMANDS.values() if hasattr(kind, "like")} | {
    PretrainConfig: PRETRAIN_GROUPS, TransferConfig: TRANSFER_GROUPS,
}  # fmt: skip
"""Where a command has many flags: in which order --help-all lists them; --help lists the first group."""
IDLE = {PretrainConfig: IDLE_IN_PRETRAINING, LinearConfig: IDLE_IN_LINEAR}
HELP = ("-h", "--help", "--help-all")
AUTO = "auto"
"""The recipe that is made for the images and the time: `moco.commands.auto`."""
HOME = re.compile(r"^(|--[\w-]+=|[\w.:=,-]+@|--[\w-]+=[\w.:=,-]+@)~(?=/|$)")
"""Matches the home folder where a shell leaves it as it is: in quotes, behind = and behind @."""
INTERRUPTED = 130
"""Exit code after Ctrl-C where there is nothing to save, or a second one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 bad input, 3 diverged, 75 saved after a signal."""
    speak_in_lines()
    explain_failed_reads(lambda why: print(f"moco: error: {one_line(why)}", file=sys.stderr, flush=True))
    open_closed_streams()
    sys.stdout, sys.stderr = forgive(sys.stdout), forgive(sys.stderr)
    try:
        with terminate_as_interrupt(CTRL_C):
            config, function = parse(list(sys.argv[1:] if arguments is None else arguments))
            with contextlib.redirect_stdout(sys.stderr if config.json else sys.stdout):
                result = function(config)
    except BadInputError as error:
        return _fail(error, 2)
    except DivergedError as error:
        return _fail(error, 3)
    except StoppedError as error:
        return _fail(error, EXIT_CODE)
    except (OSError, StalledError, VoidError, NoMemoryError) as error:
        return _fail(error, 1)
    except (MemoryError, RuntimeError) as error:
        explained = explain_torch(error)
        if explained is None:
            raise
        return _fail(RuntimeError(explained), 1)
    except KeyboardInterrupt:
        return _fail(KeyboardInterrupt("interrupted"), INTERRUPTED)
    if config.json and (os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"):  # one speaks
        said = {name: value for name, value in result.items() if name != "table"}  # as long as the set; --out has it
        print(json.dumps(drop_nonfinite(said), allow_nan=False))
    if why := why_lost(sys.stdout):
        return _fail(OSError(f"standard output cannot be written ({why}): what was printed is lost"), 1)
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
    _require_words(arguments)
    arguments = [HOME.sub(lambda found: found[1] + os.path.expanduser("~"), word) for word in arguments]
    command, *rest = arguments
    kind = COMMANDS[_known(command, COMMANDS, "command", "moco --help")]
    prog, default = f"moco {command}", tyro.MISSING_NONPROP
    if kind is PretrainConfig:
        if not rest or rest[0] in HELP:
            print(_recipes())
            raise SystemExit(0)
        name = _known(rest.pop(0), (AUTO, *RECIPES), "recipe", "moco pretrain --help; auto picks the settings")
        if name == AUTO:
            return _auto(rest) if not set(rest) & set(HELP) else _flags(AutoConfig, rest, f"{prog} {AUTO}", default)
        given, needs = _given(rest), RECIPES[name].needs
        if needs is not None and needs not in given and not set(rest) & set(HELP):
            raise BadInputError(f"{prog} {name} needs weights: give {flag(needs)} W, such as timm:NAME or a run")
        values = recipe_values(name, given)
        prog, default = f"{prog} {name}", PretrainConfig(data=tyro.MISSING, out=tyro.MISSING, **values)
    if kind is TransferConfig:
        if not rest or rest[0] in HELP:
            print(_tasks())
            raise SystemExit(0)
        name = _known(rest.pop(0), [*TASKS, "compare"], "task", "moco transfer --help")
        prog = f"{prog} {name}"
        if name == "compare":
            kind, command = CompareConfig, name
        else:
            default = transfer_config(name, weights=tyro.MISSING, data=tyro.MISSING, out=tyro.MISSING)
    config = _flags(kind, rest, prog, default)
    if isinstance(config, PretrainConfig):
        config = fit_recipe(config, _given(rest))
    check(config)
    warn_of_idle(config, _given(rest), IDLE.get(type(config), ()))
    return config, _runner(command)


def _runner(command: str) -> Callable[..., dict[str, Any]]:
    """Import the function that runs a command: torch takes seconds, so not before the flags are read."""
    watched = sys.stderr.isatty()  # in a log a mistake stays one line
    with say_if_slow("loading PyTorch and the other libraries") if watched else contextlib.nullcontext():
        runner: Callable[..., dict[str, Any]] = importlib.import_module(f"moco.commands.{command}").run
    return runner


def run(*words: object, **flags: object) -> dict[str, Any]:
    """Run a command from Python and return its figures: `run("pretrain", "quick", data="photos", out="runs/first")`.

    Flags are those of the command line, with underscores; several values are a list or a tuple. Raises BadInputError,
    DivergedError, and StoppedError where a signal (Ctrl-C, a scheduler's) ended the command: all is saved, and the same
    call continues.
    """
    arguments = [str(word) for word in words]
    for name, value in flags.items():
        dashed = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{dashed}" if value else f"--no-{dashed}")
        elif isinstance(value, list | tuple) and name in REPEATED:
            arguments += [word for one in value for word in (f"--{dashed}", str(one))]
        elif isinstance(value, list | tuple):
            arguments += [f"--{dashed}", *map(str, value)]
        else:
            arguments += [f"--{dashed}", str(value)]
    config, function = parse(arguments)
    result = function(config)
    if result.get("exit_code") == EXIT_CODE:  # what the caller does next would take it for finished
        done = f" after step {result['step']}" if "step" in result else ""
        raise StoppedError(f"{' '.join(arguments[:2])}: stopped by a signal{done}, and saved: the same call continues")
    return result


def _auto(arguments: list[str]) -> tuple[AutoConfig, Callable[[Any], dict[str, Any]]]:
    """Read the flags of auto, and those of pretrain that stay as they are given."""
    started = time.monotonic()  # before torch is imported, which takes seconds
    prog = f"moco pretrain {AUTO}"
    config, others = _flags(AutoConfig, arguments, prog, tyro.MISSING_NONPROP, return_unknown_args=True)
    placed = ["--data", config.data, "--out", str(config.out), "--device", config.device, *others]
    start = PretrainConfig(data=tyro.MISSING, out=tyro.MISSING, **recipe_values("quick", ()))
    read = _flags(PretrainConfig, placed, prog, start)
    check(config)
    check(read)
    words = {word.removeprefix("no_") for word in _given(others)} | _given(others)
    given = {field.name: getattr(read, field.name) for field in dataclasses.fields(read) if field.name in words}
    return config, functools.partial(_runner(AUTO), given=given, started=started)


def _given(arguments: Sequence[str]) -> set[str]:
    """The flags of a command line, named as fields are."""
    return {word[2:].split("=")[0].replace("-", "_") for word in arguments if word.startswith("--")}


def _flags(kind: type[Any], arguments: list[str], prog: str, default: Any, **how: Any) -> Any:
    """Read the flags of a config; what tyro says in a box of several lines becomes one line."""
    if set(arguments) & set(HELP):
        print(explain(kind, prog, default, everything="--help-all" in arguments, **_help_of(kind, prog.split()[-1])))
        raise SystemExit(0)
    for word in arguments:
        instead = GONE.get(kind, {}).get(word.partition("=")[0])
        if instead is not None:
            raise BadInputError(f"{word.partition('=')[0]} is gone: {instead} (see {prog} --help)")
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box), set_environment(COLUMNS=WIDE):
            return tyro.cli(kind, args=arguments, prog=prog, default=default, **how)
    except SystemExit:
        raise BadInputError(f"{explain_mistake(flatten_error(box.getvalue()), prog)} (see {prog} --help)") from None


def _help_of(kind: type[Any], name: str) -> dict[str, Any]:
    """Return what `explain` says beside the flags of a command, or of its recipe or task."""
    if kind is PretrainConfig:
        recipe = RECIPES[name]
        about = f"{recipe.opening} Recipe {name}: {recipe.about}."
        return {"groups": group_with(recipe.own_flags), "about": about, "needs": recipe.needs}
    about = f"{kind.__doc__} Task {name}: {TASKS[name].about}." if kind is TransferConfig else ""
    return {"groups": GROUPS.get(kind, {}), "about": about, "one_of": ONE_OF.get(kind, ())}


def _require_words(arguments: Sequence[str]) -> None:
    """Raise BadInputError for an empty argument, which would be taken for the current folder."""
    for place, word in enumerate(arguments):
        if not word or (word.startswith("--") and word.endswith("=")):
            before = word.removesuffix("=") or next((w for w in reversed(arguments[:place]) if w), "moco")
            raise BadInputError(f"the argument after {before} is empty (a variable that is not set?): give a value")


def _known(given: str, names: Sequence[str] | dict[str, Any], what: str, where: str) -> str:
    if given in names:
        return given
    similar = [] if given.startswith("-") else get_close_matches(given, names, n=1, cutoff=0.6)
    hint = f"did you mean {similar[0]}?" if similar else f"expected one of {', '.join(names)}"
    raise BadInputError(f"{shorten(given)} is not a {what}: {hint} (see {where})")


def _overview() -> str:
    lines = ["usage: moco COMMAND [flags]", "", "To begin: moco pretrain auto --data FOLDER --out RUN --minutes 30", ""]
    for title, commands in SECTIONS.items():
        lines += [
            f"{title}:",
            *(f"  {name:<11} {(kind.__doc__ or '').splitlines()[0]}" for name, kind in commands.items()),
            "",
        ]
    lines.append("moco COMMAND --help lists the flags of a command; if they are many, --help-all lists all of them.")
    return "\n".join(lines)


def _recipes() -> str:
    lines = [f"  {name:<10} {recipe.about}" for name, recipe in RECIPES.items()]
    lines.insert(0, f"  {AUTO:<10} picks settings for your images, machine and time (--minutes), and explains each")
    lines.insert(0, "usage: moco pretrain RECIPE --data D --out RUN [flags]\n")
    return "\n".join(lines) + (
        "\n\nPhotographs: auto. Images of 32 to 96 pixels on a CPU: quick. A GPU and plenty of time: v2."
        "\nW: a run, a checkpoint or published weights, such as timm:tf_efficientnet_lite0."
        "\n\nmoco pretrain RECIPE --help lists the common flags with the recipe's values, --help-all every flag."
    )


def _tasks() -> str:
    lines = [f"  {name:<20} {task.about}" for name, task in TASKS.items()]
    return (
        "usage: moco transfer TASK --weights W --data D --out RUN [flags]\n       moco transfer compare RUN...\n\n"
        + "\n".join(lines)
        + "\n\nmoco transfer TASK --help lists the common flags with the task's values, --help-all every flag."
    )


def _fail(error: BaseException, code: int) -> int:
    print(f"moco: error: {one_line(explain_open_files(error) or error)}", file=sys.stderr)
    return code
