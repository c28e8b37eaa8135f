"""A study and its budget -> cells, each of which is an ordinary run, and the commands that make it."""

import itertools
import json
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.errors import BadInputError
from moco.pretraining.config import PretrainConfig
from moco.pretraining.recipes import RECIPES
from moco.runtime.fields import flag
from moco.runtime.files import replace_file
from moco.runtime.records import read_object
from moco.study.budgets import CONSTANT, describe_length_flag, hand_over_line
from moco.study.config import StudyConfig
from moco.study.definition import Arm, Study, arm_values

LINES = 50
"""Lines of metrics of a cell, about."""
PAPERS_K = 200
"""Neighbours that vote in the arms' kNN where a study does not say it: with one number the arms stay comparable."""
LOOKS = 8
"""Number of kNN evaluations if a figure is drawn over time."""


@dataclass(frozen=True)
class Cell:
    """One arm with one seed: a run in its own folder."""

    arm: Arm
    seed: int
    run: Path
    training: PretrainConfig
    commands: tuple[tuple[str, ...], ...]
    """Arguments of `moco`, one after the other: the training, then the evaluations."""
    evaluations: tuple[str, ...]
    """The files that the evaluations leave in the run's evaluations/, without their ending."""
    images: int = 0
    """Images that it has trained on in the end."""
    earlier: "Cell | None" = None
    """The cell of the budget before, whose training it continues."""

    @property
    def name(self) -> str:
        """Return the name of its folder."""
        return self.run.name

    @property
    def kind(self) -> str:
        """Return what cells that differ by the seed have in common: the arm, and the budget if it is a smaller one."""
        return self.name.removesuffix(f"-s{self.seed}")

    @property
    def steps(self) -> int:
        """Count the steps that it makes itself."""
        return (self.training.max_steps or 0) - (self.earlier.training.max_steps or 0 if self.earlier else 0)

    @property
    def line(self) -> str:
        """Write the cell as one line of shell, which begins with the cell that it continues."""
        before = [self.earlier.line, hand_over_line(self.earlier.run, self.run)] if self.earlier else []
        return " && ".join([*before, *(shlex.join(("moco", *command)) for command in self.commands)])


def build_training(
    study: Study, arm: Arm, config: StudyConfig, images: int, seed: int = 0, part: str = ""
) -> PretrainConfig:
    """Build the config of a cell that trains on so many images, those seen several times counted each time.

    `part` is in the name of a cell that has fewer images than the study's others.
    """
    values = {**RECIPES[recipe_of(study, config)].values, **arm_values(study, arm, recipe_of(study, config))}
    batch = values.get("batch_size", PretrainConfig.batch_size)
    steps = study.steps or max(1, round(images / batch))
    every = max(1, steps // LOOKS) if "knn_top1" in study.over_time else 0
    folder = config.out / "cells" / f"{arm.name}{part}-s{seed}"
    own: dict[str, Any] = {
        "data": config.data, "out": folder, "seed": seed, "max_steps": steps,
        "log_every": 1 if study.steps else max(1, steps // LINES), "knn_every": every, "precision": config.precision,
        "device": config.device, "threads": config.threads, "knn_k": values.get("knn_k") or PAPERS_K,
        "exclude": config.exclude, "most_pixels": config.most_pixels,
    }  # fmt: skip
    return PretrainConfig(**{**values, **own, **(CONSTANT if config.budgets else {})})


def recipe_of(study: Study, config: StudyConfig) -> str:
    """Return the recipe that the arms depart from. Raises BadInputError where there is none of that name."""
    name = study.recipe or config.recipe
    if name not in RECIPES:
        raise BadInputError(f"--recipe {name}: expected one of {', '.join(RECIPES)}")
    return name


def cells(study: Study, config: StudyConfig, images: int, arms: Sequence[Arm], part: str = "") -> Iterator[Cell]:
    """Yield every arm with every seed; seeds outermost, so that an interrupted study has whole repetitions.

    Budgets follow next: all arms reach the smallest one first.
    """
    stages = [*((count, f"-n{count}") for count in config.budgets[:-1]), (images, part)]
    latest = dict[str, Cell]()
    for seed in range(config.seeds):
        for (count, label), arm in itertools.product(stages, arms):
            trained = build_training(study, arm, config, count, seed, label)
            machine = _common_flags(config)
            commands = [("pretrain", recipe_of(study, config), *_flags(study, arm, config, trained), *machine)]
            for name, (command, *flags) in study.evaluate.items():
                compares = name == "knn" and arm is arms[0] and count == stages[0][0]
                words = [word for word in flags if not (compares and word == "--no-baseline")]
                if command == "knn" and not any(word.partition("=")[0] == "--knn-k" for word in words):
                    words += ["--knn-k", str(PAPERS_K)]
                places = ("--weights", str(trained.out), "--data", config.data, "--seed", str(seed))
                commands.append((command, *places, *words, *machine))
            earlier = None if count == stages[0][0] else latest[arm.name]
            cell = Cell(arm, seed, trained.out, trained, tuple(commands), tuple(study.evaluate), count, earlier)
            latest[arm.name] = cell
            yield cell


def _flags(study: Study, arm: Arm, config: StudyConfig, trained: PretrainConfig) -> list[str]:
    words = ["--data", trained.data, "--out", str(trained.out), "--seed", str(trained.seed)]
    names = ("max_steps", "log_every", "knn_every", "knn_k", *(CONSTANT if config.budgets else ()))
    given = {**arm_values(study, arm, recipe_of(study, config)), **{name: getattr(trained, name) for name in names}}
    for name, value in given.items():
        if isinstance(value, bool):
            words.append(flag(name) if value else flag(f"no_{name}"))
        elif value is not None:
            words += [flag(name), *(str(part) for part in (value if isinstance(value, tuple) else (value,)))]
    return words


def _common_flags(config: StudyConfig) -> tuple[str, ...]:
    threads = () if config.threads is None else ("--threads", str(config.threads))
    excluded = tuple(word for pattern in config.exclude for word in ("--exclude", pattern))
    most = () if config.most_pixels is None else ("--most-pixels", str(config.most_pixels))
    return ("--precision", config.precision, "--device", config.device, *threads, *excluded, *most)


def select_arms(study: Study, config: StudyConfig, images: int) -> tuple[list[Arm], list[str]]:
    """Select the arms that a set of so many images is large enough for; of the others, why they are left out."""
    kept, left_out = [], []
    for arm in study.arms:
        own = describe_length_flag(study, arm, recipe_of(study, config)) if config.budgets else None
        if own is not None:
            left_out.append(f"{arm.name} is left out: {own} depends on the length of a run, which --budgets rules out")
            continue
        trained = build_training(study, arm, config, images)
        keys = trained.queue_size if trained.dictionary != "in-batch" and not trained.mask_own_keys else 0
        if trained.batch_size > images or keys > images:
            large = f"a batch of {trained.batch_size}" if trained.batch_size > images else f"K = {keys}"
            left_out.append(f"{arm.name} is left out: {large}, and there are only {images} images")
        else:
            kept.append(arm)
    return kept, left_out


def require_arms(study: Study, config: StudyConfig, arms: Sequence[Arm], left_out: Sequence[str]) -> None:
    """Raise BadInputError, with the first reason, where every arm of a study is left out."""
    if not arms:
        raise BadInputError(
            f"--data {config.data}: no arm of {study.name} is left: {'; '.join(left_out[:1])}. Give other images or "
            f"another study"
        )


def equal_budgets(study: Study, config: StudyConfig, arms: Sequence[Arm]) -> list[int]:
    """Return --budgets as `equal_budget` rounds them, the smallest first.

    Raises BadInputError where two become one.
    """
    found = [equal_budget(study, config, images, arms) for images in sorted(config.budgets)]
    for place, images in enumerate(found[1:]):
        if images == found[place]:
            raise BadInputError(
                f"--budgets {' '.join(map(str, config.budgets))}: two of them become {images} images, whole batches of "
                f"every arm: give budgets that lie further apart"
            )
    return found


def equal_budget(study: Study, config: StudyConfig, images: float, arms: Sequence[Arm]) -> int:
    """So many images, or a few more, that every arm's batch goes into them."""
    batches = [build_training(study, arm, config, 1).batch_size for arm in arms]
    whole = math.lcm(*batches)
    whole = whole if whole <= 4 * max(batches) else max(batches)
    return max(1, round(images / whole)) * whole


# --- what was settled when a study began ----------------------------------------------------------------------------


def keep_plan(config: StudyConfig, settled: dict[str, Any]) -> None:
    """Write down what a study that goes on must find again."""
    (config.out / "cells").mkdir(parents=True, exist_ok=True)
    replace_file(config.out / "plan.json", (json.dumps(settled, indent=2) + "\n").encode())


def read_plan(config: StudyConfig, study: dict[str, Any]) -> dict[str, Any]:
    """Read the plan of the study that lies in `config.out`; empty where none has begun there.

    Raises BadInputError where the study is another one, or was of other images or another budget.
    """
    if not any((config.out / folder).is_dir() for folder in ("cells", "results")):
        return {}
    try:
        plan = read_object(config.out / "plan.json")
        plan.setdefault("budgets", [])
        asked = {"exclude": [], "most_pixels": None, "halving": False, "budgets": [], **plan["asked"]}
        theirs = asked, plan["study"], plan["images"], plan["survey"]["images"], dict(plan["cost"])
        plan["survey"]["rates"], plan["extrapolation"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInputError(f"--out {config.out}: no valid plan.json beside its cells: give another folder") from error
    asked = collect_fixed_flags(config)
    lengths = ("images", "minutes", "budgets")
    known = lengths if not any(asked[name] for name in lengths) else ()  # a study that goes on need not be told again
    for name, value in asked.items():
        if theirs[0].get(name) != value and name not in known:
            raise BadInputError(
                f"--out {config.out} holds a study with {flag(name)} {theirs[0].get(name)}, and now it is {value}: "
                f"give another folder, or the same flags to continue"
            )
    if theirs[1] != study:
        raise BadInputError(f"--out {config.out} holds another study, or an earlier form of it: give another folder")
    return dict(plan)


def collect_fixed_flags(config: StudyConfig) -> dict[str, Any]:
    """Return the flags that must not change when a study continues; more seeds may be added."""
    names = ("data", "images", "minutes", "recipe", "precision", "halving", "most_pixels")
    lists = {"exclude": list(config.exclude), "budgets": sorted(config.budgets)}
    return {**{name: getattr(config, name) for name in names}, **lists}
