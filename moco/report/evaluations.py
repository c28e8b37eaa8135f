"""The tables of evaluations, with the baselines that were measured beside them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from moco.errors import counted
from moco.pretraining.health import TO_BEAT
from moco.report.gains import describe_measured
from moco.report.markup import NOTHING, element, escape, number, percent, show, table
from moco.report.runs import Run

NAMES = {"knn": "kNN", "finetune": "fine-tuned, all labels"}
BASELINES = {**TO_BEAT, "supervised": "supervised from scratch"}
NOT_FIGURES = {"seconds", "linear_seconds", "finetune_seconds", "version", "time"}


@dataclass(frozen=True)
class Figure:
    """One evaluation of one run."""

    name: str
    top1: Any
    deviation: Any = None
    top5: Any = None
    baselines: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Top-1 and its deviation, by the name of the baseline."""
    conditions: str = ""


def render_tables(runs: Sequence[Run]) -> str:
    """Render all evaluations of all runs: one table of accuracies, and one of what is no accuracy."""
    found = [
        (run, figure) for run in runs for name, content in run.evaluations.items() for figure in figures(name, content)
    ]
    others = [
        (run, name, key, value)
        for run in runs
        for name, content in run.evaluations.items()
        for key, value in other_figures(name, content)
    ]
    if not found and not others:
        said = (
            "No evaluation was run yet. <code>moco knn</code>, <code>moco linear</code> and <code>moco lowshot</code> "
            "with <code>--weights RUN --data D</code> leave theirs here."
        )
        return element("p", said, class_="note")
    order = list(dict.fromkeys(figure.name for _, figure in found))
    found.sort(key=lambda pair: order.index(pair[1].name))
    known = list(dict.fromkeys([name for _, figure in found for name in figure.baselines]))
    content = ""
    if found:
        header = ["evaluation", *(["run"] if len(runs) > 1 else []), "top-1", "top-5"]
        header += [escape(BASELINES.get(name, name)) for name in known] + ["conditions"]
        rows = []
        for run, figure in found:
            row = [escape(figure.name), *([escape(run.name)] if len(runs) > 1 else [])]
            row += [element("strong", _with_deviation(figure.top1, figure.deviation)), percent(figure.top5)]
            row += [_with_deviation(*figure.baselines.get(name, (None, None))) for name in known]
            rows.append([*row, escape(figure.conditions)])
        content += table(header, rows, label="Accuracies", numbers=range(1 + (len(runs) > 1), len(header) - 1))
        content += element(
            "p",
            "Percentages; ± is the standard deviation over draws. To the right of them, what the same network reaches "
            "without pre-training or with labels, and what raw pixels (16x16, centred) and other weights reach.",
            class_="note",
        )
    if others:
        rows = [[escape(name), escape(run.name), escape(key), show(value, 3)] for run, name, key, value in others]
        content += table(["evaluation", "run", "figure", "value"], rows, label="Other figures", numbers=range(3, 4))
    return content


def figures(name: str, content: dict[str, Any]) -> Iterator[Figure]:
    """Yield the accuracies in the JSON of an evaluation: its own, and those over draws with few labels."""
    beside = {key: value for key, value in _mapping(content.get("baselines")).items() if isinstance(key, str)}
    if number(content.get("top1")) is not None:
        against = {
            key: (value.get("top1") if isinstance(value, dict) else value, None) for key, value in beside.items()
        }
        yield Figure(_name(name, content), content["top1"], None, content.get("top5"), against, _conditions(content))
    for kind in ("linear", "finetune"):
        mean, deviation = _spread(content.get(kind))
        if mean is not None:
            over = {key: _spread(_mapping(value).get(kind)) for key, value in beside.items()}
            words = {"linear": "linear", "finetune": "fine-tuned"}
            over = {key: value for key, value in over.items() if value[0] is not None}
            if kind == "finetune":  # fine-tuning random weights is supervised training from scratch
                over = {("supervised" if key == "random" else key): value for key, value in over.items()}
            yield Figure(f"{_name(name, content)}, {words[kind]}", mean, deviation, None, over, _conditions(content))


def other_figures(name: str, content: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the numbers of an evaluation without accuracies, such as a task's own measures."""
    if any(True for _ in figures(name, content)):
        return
    for key, value in content.items():
        if number(value) is not None and key not in NOT_FIGURES:
            yield str(key), float(value)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _spread(value: Any) -> tuple[float | None, float | None]:
    if isinstance(value, dict):
        return number(value.get("mean", value.get("top1"))), number(value.get("deviation", value.get("std")))
    return number(value), None


def _name(name: str, content: dict[str, Any]) -> str:
    if name.startswith("lowshot"):
        labels = str(content.get("labels", name.removeprefix("lowshot-")))
        return f"{labels} of the labels" if labels.endswith("%") else f"{counted(labels, 'label')} for each class"
    if name.startswith("linear"):
        protocol = content.get("protocol") or name.removeprefix("linear").strip("-")
        return f"linear, {protocol} protocol" if protocol else "linear"
    return NAMES.get(name, name)


def _conditions(content: dict[str, Any]) -> str:
    parts = [str(content["data"])] if isinstance(content.get("data"), str) else []
    for key, said in (("test", "test images"), ("queries", "queries"), ("bank", "in the bank"), ("images", "labelled")):
        if number(content.get(key)) is not None:
            own = f"images{describe_measured(content)}" if key == "test" and describe_measured(content) else said
            parts.append(f"{show(content[key], 0)} {own}{describe_measured(content) if key == 'queries' else ''}")
    if number(content.get("draws")) is not None:
        parts.append(counted(show(content["draws"], 0), "draw"))
    parts += [f"{key} {content[key]:g}" for key in ("k", "lr", "penalty") if number(content.get(key)) is not None]
    agreement = _mapping(content.get("agreement"))
    if number(agreement.get("difference")) is not None:
        low, high = show(agreement.get("low")), show(agreement.get("high"))
        parts.append(f"minus {agreement.get('with')}: {show(agreement['difference'])} [{low} to {high}]")
    return ", ".join(parts)


def _with_deviation(value: Any, deviation: Any) -> str:
    if number(value) is None:
        return NOTHING
    return f"{show(value)}%" if number(deviation) is None else f"{show(value)} ± {show(deviation)}%"
