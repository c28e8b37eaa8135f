"""`moco study`: plans, runs the missing cells, and writes the result after every cell. Imports no torch."""

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from moco.bench.alone import run_alone
from moco.errors import BadInputError, StoppedError, counted
from moco.report.markup import duration
from moco.runtime.configfile import drop_nonfinite
from moco.runtime.fields import check
from moco.runtime.files import replace_file, takes_files
from moco.runtime.phases import say_if_slow
from moco.runtime.signals import EXIT_CODE, StopRequest
from moco.study import statistics
from moco.study.budgets import AtBudget, name_budgets, require_budgets
from moco.study.config import StudyConfig
from moco.study.definition import Arm, Study
from moco.study.estimate import estimate_seconds, find_cost
from moco.study.formula import add_predictions, check_formula
from moco.study.page import study_page
from moco.study.plan import (
    Cell,
    cells,
    collect_fixed_flags,
    equal_budget,
    equal_budgets,
    keep_plan,
    read_plan,
    recipe_of,
    require_arms,
    select_arms,
)
from moco.study.power import describe_power, settle_seeds
from moco.study.rows import list_rows, list_values, write_csv
from moco.study.running import (
    FINISHED,
    Result,
    collect_result,
    keep_cell_result,
    read_cell_result,
    read_finished,
    read_last_words,
    run_cell,
)
from moco.study.sweep import best_arms, plan_rounds, settle_study
from moco.study.verdict import describe_budgets, write_verdict


def run(config: StudyConfig) -> dict[str, Any]:
    """Run the cells that are left, and return the content of study.json; exit code 75 after a signal."""
    check(config)
    study = settle_study(config)
    recipe_of(study, config)
    if config.images is not None and config.minutes is not None:
        raise BadInputError("--images and --minutes both say how long a cell trains: leave one out")
    if not takes_files(config.out):
        raise BadInputError(f"--out {config.out}: no folder can be made or written there: give another")
    require_budgets(study, config)
    plan = settle_plan(study, config)
    config = dataclasses.replace(config, budgets=tuple(plan["budgets"]))
    arms, left_out = select_arms(study, config, plan["survey"]["images"])
    known = show_budgets(study, config, list(cells(study, config, plan["images"], arms)))[-1].rows
    config = settle_seeds(study, config, known, len(arms))
    every = list(cells(study, config, plan["images"], arms))
    say = (lambda text: None) if config.json else print
    if config.commands:
        keep_plan(config, plan)
        for text in left_out:
            print(text, file=sys.stderr)
        lines = [cell.line for cell in every if cell.images == plan["images"]]
        print("\n".join(lines))
        return {"cells": len(every), "commands": lines}
    say(_describe_plan(study, config, plan, every, left_out))
    power = describe_power(study, config, known, len(arms), plan["survey"])
    say(power)
    if config.plan:
        return {"plan": plan, "cells": [cell.name for cell in every], "left_out": left_out, "power": power}
    keep_plan(config, plan)
    code = 0
    try:
        if config.halving:
            every, dropped = _run_rounds(study, config, plan, arms, say)
            left_out = [*left_out, *dropped]
        else:
            left_out = [*left_out, *_run_all(study, config, plan, every, left_out, say)]
    except StoppedError:
        code = EXIT_CODE
        say("stopped and saved: run the same command to continue")
    result = write_result(study, config, plan, every, left_out)
    say(f"{result['verdict']}\nthe study is {config.out / 'study.html'} (and study.json, study.csv)")
    return {**result, "exit_code": code or int(bool(result["failed"]))}


def settle_plan(study: Study, config: StudyConfig) -> dict[str, Any]:
    """Read the plan of an existing study, or make one: a survey of images and machine, and the budget."""
    known = json.loads(json.dumps(dataclasses.asdict(study)))
    earlier = read_plan(config, known)
    if earlier:
        return earlier
    number = counted(len(study.arms), "arm")
    doing = f"measuring how fast this machine trains {number} (minutes for large networks on a CPU)"
    with say_if_slow(doing):
        survey = run_alone("moco.study.speeds:measure_speeds", config, Path(), "")
    arms, left_out = select_arms(study, config, survey["images"])
    require_arms(study, config, arms, left_out)
    wanted = float(config.images or survey["images"])
    if config.minutes is not None:
        wanted = 60 * config.minutes / (sum(1 / survey["rates"][arm.name] for arm in arms) / len(arms))
    budgets = equal_budgets(study, config, arms)
    images = budgets[-1] if budgets else equal_budget(study, config, wanted, arms)
    with say_if_slow("counting the memory of the papers' setting"):
        extra = (
            run_alone("moco.study.memory:count_memory", config, Path(), str(survey["images"]))
            if study.extrapolate
            else None
        )
    plan = {
        "asked": collect_fixed_flags(config),
        "study": known,
        "images": images,
        "budgets": budgets,
        "survey": survey,
        "extrapolation": extra,
    }
    once = cells(study, dataclasses.replace(config, seeds=1, budgets=tuple(budgets)), images, arms)
    return {**plan, "cost": {cell.kind: round(estimate_seconds(cell, survey), 1) for cell in once}}


def _describe_plan(
    study: Study, config: StudyConfig, plan: dict[str, Any], every: Sequence[Cell], left_out: Sequence[str]
) -> str:
    """The plan for people."""
    source = f" ({study.source})" if study.source else ""
    lines = [f"{study.name}: {study.about}{source}", budget(study, config, plan)]
    for cell in every:
        if cell.seed == 0:
            steps = counted(cell.steps, "more step" if cell.earlier else "step")
            begin = f"  {cell.kind:<20} {steps:>13} of {cell.training.batch_size:<5}"
            lines.append(f"{begin} {duration(find_cost(plan, cell))}")
    waiting = [cell for cell in every if read_cell_result(config.out, cell) is None]
    left = sum(find_cost(plan, cell) for cell in waiting)
    lines += [*left_out, f"{counted(len(every), 'cell')}, {len(waiting)} of them not run yet: about {duration(left)}"]
    return "\n".join(lines)


def budget(study: Study, config: StudyConfig, plan: dict[str, Any]) -> str:
    """Return what is equal in all cells."""
    much = counted(study.steps, "step") if study.steps else counted(plan["images"], "image")
    set_of = f"{config.data} ({counted(plan['survey']['images'], 'training image')})"
    how = f"recipe {recipe_of(study, config)}, {config.precision}; seeds 0 to {config.seeds - 1}"
    at = f" Evaluated at {name_budgets(plan['budgets'])} images, at a constant rate." if plan["budgets"] else ""
    return f"Each cell: {much} of {set_of}, {how}.{at}"


def _run_rounds(
    study: Study, config: StudyConfig, plan: dict[str, Any], arms: Sequence[Arm], say: Any
) -> tuple[list[Cell], list[str]]:
    """Run the rounds of successive halving: the cells of the last round, and which arms were dropped, and when."""
    rounds, dropped = plan_rounds(len(arms)), list[str]()
    for place, (this, following) in enumerate(itertools.zip_longest(rounds, rounds[1:])):
        images = equal_budget(study, config, plan["images"] * this.share, arms)
        part = "" if following is None else f"-r{place}"
        every = list(cells(study, config, images, arms, part))
        _run_all(study, config, plan, every, dropped, say)
        if following is None:
            break
        rows = list_rows(study, arms, read_finished(config.out, every))
        kept = best_arms(rows, arms, following.arms)
        means = {row.arm.name: "diverged" if row.mean is None else f"{row.mean:.2f}" for row in rows}
        lost = ", ".join(f"{arm.name} ({means[arm.name]})" for arm in arms if arm not in kept)
        stay = ", ".join(f"{arm.name} ({means[arm.name]})" for arm in kept)
        dropped.append(f"After {images} images {lost} dropped out; {stay} went on.")
        say(dropped[-1])
        arms = kept
    return every, dropped


def _run_all(
    study: Study, config: StudyConfig, plan: dict[str, Any], every: Sequence[Cell], left_out: Sequence[str], say: Any
) -> list[str]:
    """Run the cells that are not finished, one after the other, and write the result after each.

    With --skip-settled cells that cannot matter any more are left out; returns a note on each.
    """
    waiting = [cell for cell in every if read_cell_result(config.out, cell) is None]
    skipped = dict[str, int]()
    with StopRequest() as request:
        for number, cell in enumerate(waiting, 1):
            if not _is_due(study, config, every, cell):
                skipped.setdefault(cell.arm.name, cell.seed)
                continue
            done = collect_result(study, cell)
            started = time.monotonic()
            if done is None or done["state"] not in FINISHED:  # otherwise it was run by hand or elsewhere
                done = collect_result(study, cell, run_cell(cell, request))
            log = config.out / "logs" / f"{cell.name}.txt"
            if done is None:
                raise OSError(f"cell {cell.name} failed before it began: {read_last_words(log)} (all of it: {log})")
            keep_cell_result(config.out, {**done, "wall_seconds": round(time.monotonic() - started, 1)})
            write_result(study, config, plan, every, [*left_out, *_notes(skipped)])
            left = sum(find_cost(plan, other) for other in waiting[number:])
            figures = ", ".join(f"{name} {value:.2f}" for name, value in done["figures"].items() if value is not None)
            said = f"{read_last_words(log)} (all of it: {log})" if done["state"] == "failed" else figures
            say(f"{number}/{len(waiting)} {cell.name}: {done['state']} {said} (about {duration(left)} left)")
    return _notes(skipped)


def _is_due(study: Study, config: StudyConfig, every: Sequence[Cell], cell: Cell) -> bool:
    """Whether a cell can still move a claim, by what the seeds before its own show; the first two always can."""
    if not config.skip_settled or cell.seed < 2:
        return True
    before = read_finished(config.out, [other for other in every if other.seed < cell.seed])
    arms = list({other.arm.name: other.arm for other in every}.values())
    return cell.arm.name in statistics.arms_to_go_on(study, list_rows(study, arms, before), config.seeds)


def _notes(skipped: dict[str, int]) -> list[str]:
    return [
        f"{arm} is left out from seed {seed} on: every claim about it was settled." for arm, seed in skipped.items()
    ]


def show_budgets(
    study: Study, config: StudyConfig, every: Sequence[Cell], sure: float = statistics.SURE
) -> list[AtBudget]:
    """Judge the finished cells of each budget; the last is the largest of which a cell is finished, or the smallest."""
    arms, looks = list({cell.arm.name: cell.arm for cell in every}.values()), list[AtBudget]()
    for images in sorted({cell.images for cell in every}) or [0]:
        results = read_finished(config.out, [cell for cell in every if cell.images == images])
        if results or not looks:
            rows = list_rows(study, arms, results)
            looks.append(AtBudget(images, rows, statistics.judge_claims(study, rows, sure)))
    return looks


def write_result(
    study: Study, config: StudyConfig, plan: dict[str, Any], every: Sequence[Cell], left_out: Sequence[str]
) -> Result:
    """Write study.json, study.csv and study.html of the cells that are finished, and return what the first holds."""
    sure = statistics.looks_level(config.seeds) if config.skip_settled else statistics.SURE
    looks, results = show_budgets(study, config, every, sure), read_finished(config.out, every)
    rows, judged = looks[-1].rows, looks[-1].judged
    agreed = statistics.agreement(rows)
    randoms = [result["random"] for result in results if result.get("random") is not None]
    random = sum(randoms) / len(randoms) if randoms else None
    known = {result["cell"] for result in results}
    missing = [cell.name for cell in every if cell.name not in known and _is_due(study, config, every, cell)]
    notes = [*left_out, *([f"Not finished: {', '.join(missing)}."] if missing else [])]
    verdict = write_verdict(study, rows, agreed, judged, random)
    if plan["budgets"]:
        verdict = f"{write_verdict(study, rows, agreed, [], random)} {describe_budgets(looks)}"
    check = check_formula(rows, (plan["extrapolation"] or {}).get("arms", {}))
    verdict += f" {check.sentence}" if check else ""
    findings = {
        "verdict": verdict, "random": random, "results": results, "looks": looks if plan["budgets"] else [],
        "notes": notes, "budget": budget(study, config, plan), "extrapolation": plan["extrapolation"],
        "check": check,
    }  # fmt: skip
    table = [row for look in looks for row in list_values(look.rows, None if study.steps else look.images)]
    add_predictions(table, check)
    result = {
        "study": study.name, "source": study.source, "rows": table, "failed": missing,
        "agreement": None if agreed is None else dataclasses.asdict(agreed),
        "claims": [_flat(one) for one in judged], "images": plan["images"],
        "formula_check": None if check is None else {**dataclasses.asdict(check), "trusted": check.trusted},
        "budgets": [{"images": look.images, "claims": [_flat(one) for one in look.judged]} for look in looks],
        **{name: findings[name] for name in ("verdict", "random", "notes", "budget", "extrapolation")},
        "cells": [{name: value for name, value in one.items() if name != "over_time"} for one in results],
    }  # fmt: skip
    made = f"Made by momentum-contrast {version('momentum-contrast')} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC."
    replace_file(config.out / "study.json", (json.dumps(result, indent=2) + "\n").encode())
    replace_file(config.out / "study.csv", write_csv(table).encode())
    replace_file(config.out / "study.html", study_page(study, rows, agreed, judged, findings, made).encode())
    return result


def _flat(one: statistics.Judged) -> dict[str, Any]:
    own = {"difference": one.difference, "error": one.error, "verdict": one.verdict}
    return dict(drop_nonfinite({**dataclasses.asdict(one.claim), **own}))
