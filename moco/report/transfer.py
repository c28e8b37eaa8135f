"""Runs of `moco transfer`: what they reached, their curves, and pictures of what is true and what was found."""

from collections.abc import Sequence
from typing import Any

from moco.report.charts import Axes, Curve, chart
from moco.report.markup import NOTHING, as_list, duration, element, escape, number, picture, show, show_setting, table
from moco.report.runs import Run
from moco.report.setup import NO_FLAGS

RESULT = "transfer"
LOSSES = {
    "loss_classifier": "Loss of the classes", "loss_box_reg": "Loss of the boxes", "loss_mask": "Loss of the masks",
    "loss_keypoint": "Loss of the keypoints", "loss_objectness": "Loss of the proposals",
    "loss_rpn_box_reg": "Loss of the proposals' boxes", "loss_pixels": "Loss of the pixels",
}  # fmt: skip
FIGURES = ("AP50", "AP", "AP75", "box_AP", "mask_AP", "keypoint_AP", "mIoU")
"""What the tasks measure, in percent."""
SHOWN = {"truth": "what is true", "found": "what was found"}


def is_transfer(run: Run) -> bool:
    """Return whether a run was one of `moco transfer`: only these have a task."""
    return isinstance(run.config.get("task"), str)


def transfer_sections(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """Name, heading and content of every part."""
    charts = render_transfer_curves(runs)
    return [
        ("transfer", "What transfer reached", render_results(runs)),
        ("transfer-classes", "By class and size", render_details(runs)),
        ("transfer-training", "Training for the tasks", element("div", charts, class_="charts") if charts else ""),
        ("transfer-pictures", "What is true, what was found", render_transfer_pictures(runs)),
        ("transfer-settings", "Settings of the transfer runs", render_transfer_settings(runs)),
    ]


def render_results(runs: Sequence[Run]) -> str:
    """Render a row for each run: task, weights and the task's figures, with the deviation over trials."""
    if not runs:
        return ""
    names = [name for name in FIGURES if any(name in _result(run) for run in runs)]
    rows = []
    for run in runs:
        result, deviation = _result(run), _result(run).get("deviation")
        spread = deviation if isinstance(deviation, dict) else {}
        cells = [_figure(result.get(name), spread.get(name)) for name in names]
        origin = [run.name, run.config["task"], run.config.get("weights"), run.config.get("data")]
        seconds = result.get("seconds", run.seconds)
        rows.append([*map(escape, origin), *cells, duration(seconds), escape(run.state)])
    header = ["run", "task", "weights", "data", *map(escape, names), "time", "state"]
    body = table(header, rows, label="What transfer reached", numbers=range(4, 4 + len(names)))
    note = "Percentages on the test images, by the rules of each benchmark; ± is the standard deviation over trials."
    return body + element("p", note, class_="note")


def render_details(runs: Sequence[Run]) -> str:
    """Render all figures of the runs, of single classes among them."""
    figures = [(run, values) for run in runs if isinstance(values := _result(run).get("figures"), dict)]
    names = list(dict.fromkeys(str(name) for _, values in figures for name in values))
    rows = [[escape(name), *(show(values.get(name)) for _, values in figures)] for name in names]
    if not rows:
        return ""
    header = ["figure (%)", *(escape(run.name) for run, _ in figures)]
    body = table(header, rows, label="All figures", numbers=range(1, len(header)))
    return element("details", element("summary", f"all {len(names)} figures") + body)


def render_transfer_curves(runs: Sequence[Run]) -> str:
    """Draw losses, figures over the run, and the learning rate."""
    parts = [
        *(
            (name, title, Axes("step", "loss", digits=3))
            for name, title in (("loss", "Loss, all parts"), *LOSSES.items())
        ),
        *((name, f"{name} on the test images", Axes("step", "%", from_zero=True)) for name in FIGURES),
        ("lr", "Learning rate", Axes("step", "learning rate", digits=5, from_zero=True)),
        ("images_per_second", "Throughput", Axes("step", "images per second", digits=1, from_zero=True)),
    ]
    charts = ""
    for name, title, axes in parts:
        shown_curves = [Curve(run.name, run.series(name), style) for style, run in enumerate(runs)]
        charts += chart(f"transfer-{name.replace('_', '-')}", title, shown_curves, axes)
    return charts


def render_transfer_pictures(runs: Sequence[Run]) -> str:
    """Test images with what is true of them, and beside it with what each run found."""
    body = ""
    for run in runs:
        rows = [row for row in as_list(_result(run).get("pictures")) if isinstance(row, dict)]
        if not rows:
            continue
        cells = [
            [picture(row.get(name), f"test image {i}: {said}") for name, said in SHOWN.items()]
            for i, row in enumerate(rows, 1)
        ]
        body += element("h3", escape(run.name)) + table(["true", "found"], cells, label=f"Pictures of {run.name}")
    return body


def render_transfer_settings(runs: Sequence[Run]) -> str:
    """Render every setting of every run."""
    names = list(dict.fromkeys(name for run in runs for name in run.config if name not in NO_FLAGS))
    if not runs:
        return ""
    values = {name: [escape(show_setting(run.config.get(name))) for run in runs] for name in names}
    rows = [[escape("--" + name.replace("_", "-")), *cells] for name, cells in values.items()]
    body = table(["setting", *(escape(run.name) for run in runs)], rows, label="Settings of the transfer runs")
    return element("details", element("summary", f"all {len(names)} settings") + body)


def _result(run: Run) -> dict[str, Any]:
    return run.evaluations.get(RESULT, {})


def _figure(value: Any, deviation: Any) -> str:
    if number(value) is None:
        return NOTHING
    return element("strong", show(value)) + ("" if number(deviation) is None else f" ± {show(deviation)}")
