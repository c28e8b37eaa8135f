"""One paragraph on a study, which its numbers generate."""

import math
from collections.abc import Sequence

from moco.errors import counted
from moco.report.markup import show
from moco.study.budgets import AtBudget, describe_crossing, follow_claims
from moco.study.definition import Study
from moco.study.rows import Row
from moco.study.statistics import Agreement, Judged, standard_errors

Z_95 = 1.96
MAIN = 0.5
"""Kendall's tau from which on an order is called the paper's: three of four pairs are as there."""


def write_verdict(
    study: Study, rows: Sequence[Row], agreed: Agreement | None, judged: Sequence[Judged], random: float | None
) -> str:
    """Write what was measured, how far the order is the paper's, which of its claims hold, and what failed."""
    main = [row for row in rows if row.outcome == study.outcomes[0] or row.outcome.series]
    known = [row for row in main if row.mean is not None]
    if not known:
        return "No cell is finished yet."
    parts = [_extremes(study, known), _against_random(known, random), _order(agreed), *_claims(judged)]
    failed = [row.name for row in main if row.diverged]
    if failed:
        parts.append(f"Of {_listed(failed)} at least one run diverged.")
    if max(len(row.values) for row in known) < 2:
        parts.append("With one seed the spread between runs is not known, so differences of a point mean little.")
    return " ".join(part for part in parts if part)


def _extremes(study: Study, known: Sequence[Row]) -> str:
    seeds = max(len(row.values) for row in known)
    sign = -1 if known[0].outcome.lower_is_better else 1
    ordered = sorted(known, key=lambda row: sign * (row.mean or 0.0), reverse=True)
    best, last = ordered[0], ordered[-1]
    sentence = f"{study.about}: over {counted(seeds, 'seed')} {best.name} did best, {_figure(best)}"
    if len(ordered) > 1:
        errors = standard_errors(known)
        second = ordered[1]
        gap = abs((best.mean or 0.0) - (second.mean or 0.0))
        clear = gap > Z_95 * math.hypot(errors[best.name], errors[second.name])
        sentence += f", {'clearly ahead of' if clear else 'within the noise of'} {second.name} ({_figure(second)})"
        sentence += f"; {last.name} did worst, {_figure(last)}" if len(ordered) > 2 else ""
    return sentence + "."


def _figure(row: Row) -> str:
    deviation = "" if row.deviation is None else f" ± {show(row.deviation)}"
    return f"{show(row.mean)}{deviation}"


def _against_random(known: Sequence[Row], random: float | None) -> str:
    if random is None or known[0].outcome.key != "knn.top1":
        return ""
    errors = standard_errors(known)
    below = [row.name for row in known if (row.mean or 0.0) < random + Z_95 * errors[row.name]]
    if not below:
        return f"Every arm is above random weights ({show(random)}%)."
    return f"Not above random weights ({show(random)}%): {_listed(below)}."


def _order(agreed: Agreement | None) -> str:
    if agreed is None:
        return ""
    interval = f"Kendall's tau {show(agreed.tau)}, 95% interval {show(agreed.low)} to {show(agreed.high)}"
    said = (
        "mostly agrees with the paper's" if agreed.low > 0 and agreed.tau >= MAIN
        else "rather agrees with the paper's" if agreed.low > 0
        else "rather reverses the paper's" if agreed.high < 0
        else "neither clearly agrees nor clearly disagrees with the paper's"
    )  # fmt: skip
    return f"The order of the {agreed.rows} arms {said} ({interval})."


def _claims(judged: Sequence[Judged]) -> list[str]:
    said = []
    for one in judged:
        compared = f"{one.claim.better} minus {one.claim.worse}: {describe_difference(one)}"
        said.append(f"The paper: {one.claim.text} Here that {one.verdict} ({compared}).")
    return said


def describe_budgets(looks: Sequence[AtBudget]) -> str:
    """Say of each claim whether it holds at each budget, and where that changes; of which budget the figures are."""
    if not any(row.values or row.diverged for row in looks[-1].rows):
        return ""
    said = [f"These figures are at {looks[-1].images:,} images."]
    for text, judged in follow_claims(looks):
        compared = f"{judged[0][1].claim.better} minus {judged[0][1].claim.worse}"
        verdicts = [f"{one.verdict} at {images:,} images ({describe_difference(one)})" for images, one in judged]
        crossing = describe_crossing(judged)
        said.append(f"The paper: {text} Here ({compared}) that {', '.join(verdicts)}.")
        said += [f"The crossing: {crossing}."] if crossing else []
    return " ".join(said)


def describe_difference(one: Judged) -> str:
    """Describe a claim's difference with its interval."""
    if not math.isfinite(one.difference):
        return "the other diverged"
    return f"{'+' if one.difference >= 0 else ''}{show(one.difference)} ± {show(one.error)}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
