"""What a study can tell before it is run: the difference that its seeds resolve, and the seeds that one needs."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from moco.errors import BadInputError
from moco.report.markup import show
from moco.study.config import StudyConfig
from moco.study.definition import Study
from moco.study.pairs import (
    ASSUMED_DEVIATION,
    DISCORDANT,
    POWER,
    fit_effects,
    images_to_resolve,
    resolved_difference,
    sampling_error,
    seeds_to_resolve,
)
from moco.study.rows import Row

MOST_SEEDS = 100
"""Beyond that a smaller question is the better answer."""


def settle_seeds(study: Study, config: StudyConfig, rows: Sequence[Row], arms: int) -> StudyConfig:
    """Return the config with as many seeds as `--resolve` needs; as it is without.

    Raises BadInputError where more than MOST_SEEDS would be needed, or where figures are no percentages.
    """
    if config.resolve is None:
        return config
    if not is_percentage(study):
        raise BadInputError(f"--resolve: {study.name} measures {study.outcomes[0].name}, no percentage: give --seeds")
    deviation, _ = find_deviation(study, rows)
    seeds = seeds_to_resolve(config.resolve, deviation, arms, MOST_SEEDS)
    if seeds is None:
        raise BadInputError(
            f"--resolve {config.resolve:g}: with figures that vary by {deviation:.2f} points more than {MOST_SEEDS} "
            f"seeds are needed: give a larger difference, or train longer"
        )
    return dataclasses.replace(config, seeds=seeds)


def describe_power(study: Study, config: StudyConfig, rows: Sequence[Row], arms: int, survey: dict[str, Any]) -> str:
    """Say which difference of two arms the study tells; an empty text where its figures are no percentages."""
    if not is_percentage(study):
        return ""
    deviation, source = find_deviation(study, rows)
    told = resolved_difference(deviation, config.seeds, arms)
    if math.isinf(told):
        return "One seed cannot show a difference between arms: give --seeds 2 or more."
    at = ", at each budget," if config.budgets else ""
    lines = [
        f"{config.seeds} seeds detect a difference of {show(told)} points between two arms{at} with probability "
        f"{POWER:g} (95% confidence; a cell deviates by {show(deviation)} points, {source})."
    ]
    tested = survey.get("tested")
    if tested:
        error = sampling_error(tested)
        lines.append(
            f"The choice of {tested} test images alone moves a difference by up to {show(error)} points (95%, if "
            f"{DISCORDANT:.0%} of the images tell two arms apart): it is the same for all seeds."
        )
        if config.resolve is not None and error > config.resolve:
            lines.append(
                f"To find {config.resolve:g} points on other images of this kind, the study needs "
                f"{images_to_resolve(config.resolve)} test images; with these it speaks only for these images."
            )
    return "\n".join(lines)


def find_deviation(study: Study, rows: Sequence[Row]) -> tuple[float, str]:
    """Find how many points a cell deviates from its arm and seed, and say where that is known from."""
    fit = fit_effects([row for row in rows if row.outcome == study.outcomes[0]])
    if fit.freedom >= 2:
        return fit.deviation, f"measured on the cells that are finished, {fit.freedom} degrees of freedom"
    return ASSUMED_DEVIATION, "an assumption: no two seeds are finished"


def is_percentage(study: Study) -> bool:
    """Return whether the study's main figure is a percentage."""
    return "%" in study.outcomes[0].name
