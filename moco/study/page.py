"""A study as one HTML page that asks for nothing from outside."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from moco.report.charts import Axes, Curve, Level, chart
from moco.report.markup import NOTHING, element, escape, escape_whole, number, show, table
from moco.report.page import page_of_parts
from moco.study.budgets import AtBudget, describe_crossing, follow_claims
from moco.study.definition import Outcome, Study
from moco.study.formula import Check
from moco.study.rows import Row
from moco.study.statistics import Agreement, Judged
from moco.study.verdict import describe_difference

RECALLED = "\u2020"
"""Mark of a number that was not re-checked."""


def study_page(
    study: Study,
    rows: Sequence[Row],
    agreed: Agreement | None,
    judged: Sequence[Judged],
    findings: Mapping[str, Any],
    made: str,
) -> str:
    """Return the page.

    `findings` has `verdict`, `random`, `results`, `looks` (at each of several budgets), `budget`, `notes`,
    `extrapolation` and `check` (of its formula).
    """
    sections = [
        (
            "verdict",
            "Verdict",
            element("div", element("p", escape_whole(str(findings["verdict"]))), class_="card open"),
        ),
        ("charts", "Charts", element("div", _charts(study, rows, findings["random"]), class_="charts")),
        ("budgets", "Over the budgets", _budgets(findings.get("looks", ()))),
        ("table", "Figures", _tables(rows, findings.get("looks", ())) + _agreement(agreed)),
        ("claims", "What the paper says, and what holds here", _claims(judged)),
        (
            "over-time",
            "Over time",
            element("div", _over_time(study, rows, findings["results"]), class_="charts") if study.over_time else "",
        ),
        ("formula", "The formula for memory against the measurement", _check(findings.get("check"))),
        ("extrapolation", "In the papers' setting", _extrapolation(findings["extrapolation"])),
        ("setup", "What was run", _setup(study, findings)),
    ]
    lead = f"{study.about}. {study.source}."
    return page_of_parts(study.name, lead, [section for section in sections if section[2]], made, first="verdict")


def _charts(study: Study, rows: Sequence[Row], random: float | None) -> str:
    """The figures of each kind over the x axis, and the paper's in a chart of its own beside them."""
    kinds = list(dict.fromkeys(_kind(row.outcome) for row in rows))
    content = ""
    for place, kind in enumerate(kinds):
        own = [row for row in rows if _kind(row.outcome) == kind]
        levels = (
            [Level(f"random weights: {show(random)}", random)]
            if random is not None and own[0].outcome.key == "knn.top1"
            else []
        )
        here = [(row, row.mean, row.deviation) for row in own]
        content += _chart(study, f"here-{place}", f"Here: {kind}", here, kind, levels)
        paper = [(row, row.paper, None) for row in own if row.paper is not None]
        if len(paper) > 1:
            content += _chart(study, f"paper-{place}", "In the paper", paper, "top-1 (%), ImageNet", [])
    return content


def _kind(outcome: Outcome) -> str:
    """What stands at the y axis."""
    return "top-1 (%)" if outcome.series else outcome.name


def _chart(
    study: Study,
    name: str,
    title: str,
    points: Sequence[tuple[Row, float | None, float | None]],
    y: str,
    levels: Sequence[Level],
) -> str:
    places = _places(study, [row for row, _, _ in points])
    curves = []
    for style, series in enumerate(dict.fromkeys(row.series for row, _, _ in points)):
        own = sorted(
            ((places[row.x], mean, error) for row, mean, error in points if row.series == series), key=lambda p: p[0]
        )
        errors = tuple(error for _, _, error in own)
        curves.append(Curve(series or y, [(place, mean) for place, mean, _ in own], style, errors))
    ticks = tuple((place, _label(x)) for x, place in places.items())
    note = "Bars: one standard deviation over the seeds." if any(error for _, _, error in points) else ""
    return chart(name, title, curves, Axes(study.x or "arm", y, ticks=ticks), levels, note)


def _places(study: Study, rows: Sequence[Row]) -> dict[float | str, float]:
    """Place each value of x: by its logarithm, its value, or the order of the arms."""
    values = list(dict.fromkeys(row.x for row in rows))
    numbers = [value for value in values if not isinstance(value, str)]
    if len(numbers) < len(values) or study.axis == "categories" or (study.axis == "log" and min(numbers) <= 0):
        return {value: float(place) for place, value in enumerate(values)}
    ordered = sorted(numbers)
    return {value: math.log2(value) - math.log2(ordered[0]) if study.axis == "log" else value for value in ordered}


def _label(x: float | str) -> str:
    return x if isinstance(x, str) else f"{x:g}"


def _budgets(looks: Sequence[AtBudget]) -> str:
    """The main figure over the budgets, and the verdict on each claim at each of them."""
    if len(looks) < 2:
        return ""
    places = {look.images: math.log2(look.images / looks[0].images) for look in looks}
    curves = []
    for style, row in enumerate(row for row in looks[-1].rows if row.outcome == looks[-1].rows[0].outcome):
        own = [(place, next(each for each in look.rows if each.name == row.name))
               for look, place in zip(looks, places.values(), strict=True)]  # fmt: skip
        points = [(place, each.mean) for place, each in own]
        curves.append(Curve(row.name, points, style, tuple(each.deviation for _, each in own)))
    ticks = tuple((place, f"{images:,}") for images, place in places.items())
    axes = Axes("images", looks[0].rows[0].outcome.name, ticks=ticks)
    content = element("div", chart("budgets", "Over the budgets", curves, axes), class_="charts")
    cells = []
    for text, judged in follow_claims(looks):
        known = {images: f"{one.verdict} ({describe_difference(one)})" for images, one in judged}
        verdicts = [escape(known.get(images, NOTHING)) for images in places]
        cells.append([escape_whole(text), *verdicts, escape_whole(describe_crossing(judged) or NOTHING)])
    header = ["claim", *(f"{images:,} images" for images in places), "crossing"]
    return content + (table(header, cells, label="Claims at each budget") if cells else "")


def _tables(rows: Sequence[Row], looks: Sequence[AtBudget]) -> str:
    """The figures, of each budget apart."""
    if not looks:
        return _table(rows)
    return "".join(element("h3", f"At {look.images:,} images") + _table(look.rows) for look in looks)


def _table(rows: Sequence[Row]) -> str:
    header = ["arm", "figure", "mean", "deviation", "seeds", "each", "paper"]
    cells = []
    for row in rows:
        each = ", ".join(show(value) for value in row.values) + (f" ({row.diverged} diverged)" if row.diverged else "")
        cells.append([
            escape(row.name), escape(row.outcome.name), element("strong", show(row.mean)), show(row.deviation),
            str(len(row.values)), escape(each or NOTHING), paper_number(row),
        ])  # fmt: skip
    note = f"{RECALLED} from memory, not checked against the paper." if any(row.arm.recalled for row in rows) else ""
    return table(header, cells, label="Figures of every arm", numbers=range(2, 7)) + element("p", note, class_="note")


def paper_number(row: Row) -> str:
    """Return the paper's number, marked where it is only recalled."""
    if row.arm.fails:
        return "fails"
    return NOTHING if row.paper is None else show(row.paper, 1) + (RECALLED if row.arm.recalled else "")


def _agreement(agreed: Agreement | None) -> str:
    if agreed is None:
        return ""
    text = (
        f"Agreement of the order with the paper's over {agreed.rows} arms: Kendall's tau-b {show(agreed.tau)}, 95% "
        f"interval {show(agreed.low)} to {show(agreed.high)} (figures drawn from normal distributions with the "
        f"deviation over seeds); orders without any relation agree or disagree as much with probability "
        f"{show(agreed.p, 3)}."
    )
    return element("p", escape_whole(text))


def _claims(judged: Sequence[Judged]) -> str:
    cells = [
        [
            escape_whole(one.claim.text),
            escape(f"{one.claim.better} minus {one.claim.worse}"),
            escape(describe_difference(one)),
            escape(f"± {show(one.unpaired)}" if math.isfinite(one.unpaired) else NOTHING),
            one.verdict,
        ]
        for one in judged
    ]
    if not cells:
        return ""
    note = (
        "The interval is by Student's t on paired seeds: what arm and seed together leave unexplained, pooled over the "
        "arms; unpaired is the interval that the deviations over seeds give. A positive difference favours the first "
        "arm. Of several claims some may hold or fail by chance."
    )
    return table(["claim", "compared", "difference", "unpaired", "here"], cells, label="Claims") + element(
        "p", note, class_="note"
    )


def _over_time(study: Study, rows: Sequence[Row], results: Sequence[Mapping[str, Any]]) -> str:
    """Curves of the first seed that each arm has; of several budgets, which the results have in order, the largest."""
    content = ""
    for name in study.over_time:
        curves = []
        for style, arm in enumerate(dict.fromkeys(row.arm.name for row in rows)):
            own = [result for result in results if result["arm"] == arm]
            if own:
                longest = [result for result in own if result["seed"] == own[0]["seed"]][-1]
                points = [(float(step), number(value)) for step, value in longest["over_time"].get(name, [])]
                curves.append(Curve(arm, points, style))
        content += chart(
            f"time-{name.replace('_', '-')}", f"{name.replace('_', ' ')} over time", curves, Axes("step", "%")
        )
    return content


def _check(check: Check | None) -> str:
    """What the formula predicts for each cell, beside what was measured."""
    if check is None:
        return ""
    cells = [
        [
            escape(one.row), show(one.measured, 0), show(one.predicted, 0), f"{one.error:+.1f}",
            f"{one.own_error:+.0f}" if one.held_out else NOTHING, "held out" if one.held_out else "fitted",
        ]
        for one in check.predictions
    ]  # fmt: skip
    header = [
        "arm",
        "measured (MiB)",
        "formula and constant (MiB)",
        "error (%)",
        "error beyond the constant (%)",
        "constant",
    ]
    note = (
        "The constant stands for what the formula leaves out, for example libraries and images; in the papers' setting "
        "it is negligible, so the error beyond it counts there. The largest batch of each curve is held out."
    )
    said = element("p", escape_whole(check.sentence)) + table(header, cells, label="Formula", numbers=range(1, 5))
    return said + element("p", note, class_="note")


def _extrapolation(formula: Mapping[str, Any] | None) -> str:
    if not formula:
        return ""
    cells = [[escape(row["setting"]), show(row["gigabytes"], 1), show(row["paper"], 1)] for row in formula["rows"]]
    header = ["ResNet-50 at 224 pixels, on each of 8 GPUs", "GB by the formula", "GB in the paper"]
    return element("p", escape_whole(formula["formula"])) + table(header, cells, label="Memory", numbers=range(1, 3))


def _setup(study: Study, findings: Mapping[str, Any]) -> str:
    lines = "".join(
        element("li", element("code", escape_whole(str(result["command"])))) for result in findings["results"]
    )
    machine: dict[str, Any] = next((result["machine"] for result in findings["results"] if result.get("machine")), {})
    parts = [str(findings["budget"])]
    parts += [", ".join(f"{name}: {value}" for name, value in machine.items())] if machine else []
    parts += [str(note) for note in findings["notes"]]
    content = "".join(element("p", escape_whole(part)) for part in parts)
    return content + element("details", element("summary", "the command of every cell") + element("ul", lines))
