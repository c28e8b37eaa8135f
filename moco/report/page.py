"""Everything that was read -> one HTML file that asks for nothing from outside."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files

from moco.report.embedding_map import embedding_map
from moco.report.evaluations import tables
from moco.report.markup import duration, element, escaped, escaped_whole, number, percent, shown
from moco.report.pictures import confusion, filters, neighbours, views
from moco.report.runs import Run
from moco.report.setup import settings, summary
from moco.report.training import curves
from moco.report.verdict import judge

SMALL_VIEW = 64
"""Views up to this size are shown with their pixels as squares."""


def page(runs: Sequence[Run], made: str) -> str:
    """The page on some runs; `made` says by what and when, at its end."""
    style, script = (
        files("moco.report").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs: {', '.join(run.name for run in runs)}"
    parts = [(name, heading, body) for name, heading, body in _sections(runs) if body]
    links = "".join(element("li", element("a", escaped(heading), href=f"#{name}")) for name, heading, _ in parts)
    header = element("h1", escaped(title)) + element("p", escaped_whole(_lead(runs)), class_="lead")
    header += element("nav", element("ul", links), aria_label="Parts of this page")
    main = "".join(element("section", element("h2", escaped(heading)) + body, id=name) for name, heading, body in parts)
    footer = element(
        "p", f"{escaped(made)} This page holds everything it shows, thumbnails and names of images among it, and asks "
        f"for nothing from elsewhere.",
    )  # fmt: skip
    body = (
        f'<a class="skip" href="#verdict">to the verdict</a><header>{header}</header><main>{main}</main>'
        f"<footer>{footer}</footer>"
    )
    return document(title, body, style, script)


def document(title: str, body: str, style: str, script: str) -> str:
    """A whole page around HTML that asks for nothing from outside; its policy lets only this style and script work."""
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        f"base-uri 'none'; form-action 'none'"
    )
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="referrer" content="no-referrer">'
        f'<link rel="icon" href="data:,"><title>{escaped(title)}</title><style>{style}</style>'
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}<script>{script}</script></body></html>\n'
    )


def _digest(text: str) -> str:
    """How a content security policy names a style or a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _lead(runs: Sequence[Run]) -> str:
    data = list(dict.fromkeys(str(run.config.get("data")) for run in runs))
    archs = list(dict.fromkeys(str(run.config.get("arch")) for run in runs))
    return f"Momentum-contrast pre-training of {', '.join(archs)} on {', '.join(data)}, without labels."


def _sections(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """Name, heading and content of every part, in the order of the page."""
    places = {id(run): place for place, run in enumerate(runs)}
    charts = curves(runs)
    return [
        ("verdict", "Verdict", element("div", "".join(map(_card, runs)), class_="cards")),
        ("setup", "What was run", summary(runs) + element("h3", "Settings") + settings(runs)),
        ("training", "Training", element("div", charts, class_="charts") if charts else ""),
        ("evaluations", "Evaluations", tables(runs)),
        ("views", "What the model saw", _each(runs, views)),
        ("neighbours", "Nearest neighbours", _each(runs, neighbours)),
        ("map", "Map of the embeddings", _each(runs, lambda run: embedding_map(run, places[id(run)]))),
        ("confusion", "Classes taken for others", _each(runs, confusion)),
        ("filters", "First-layer filters", _each(runs, filters)),
        ("notes", "Left out", _notes(runs)),
    ]


def _each(runs: Sequence[Run], part: Callable[[Run], str]) -> str:
    """A part for every run that has it, side by side where there is room."""
    found = [(run, body) for run in runs if (body := part(run))]
    if not found:
        return ""
    blocks = ""
    for run, body in found:
        size = run.config.get("image_size")
        large = " large" if (number(size) or 0) > SMALL_VIEW else ""
        heading = element("h3", escaped(run.name)) if len(runs) > 1 else ""
        blocks += element("section", heading + body, class_=f"part{large}")
    return element("div", blocks, class_="single" if len(found) == 1 else "side wide")


def _card(run: Run) -> str:
    verdict = judge(run)
    knn, loss, chance = run.last("knn_top1"), run.last("loss"), run.last("chance_loss")
    linear = next((c.get("top1") for name, c in run.evaluations.items() if name.startswith("linear")), None)
    tested = run.evaluations.get("knn", {}).get("top1")
    figures = [
        ("kNN, test", percent(tested), number(tested)),
        ("kNN in the run", percent(knn), knn),
        ("linear", percent(linear), number(linear)),
        ("loss", f"{shown(loss)} <small>chance {shown(chance)}</small>", loss),
        ("training time", duration(run.seconds), run.seconds),
    ]
    terms = "".join(
        element("div", element("dt", name) + element("dd", text)) for name, text, there in figures if there is not None
    )
    sign = {"good": "✓", "mixed": "◐", "bad": "✗", "open": "…"}[verdict.mood]
    content = element("h3", escaped(run.name)) + element("p", f"{sign} {escaped(verdict.headline)}", class_="headline")
    content += element("dl", terms) if terms else ""
    content += element("ul", "".join(element("li", escaped_whole(sentence)) for sentence in verdict.sentences))
    return element("div", content, class_=f"card {verdict.mood}")


def _notes(runs: Sequence[Run]) -> str:
    notes = [(run.name, note) for run in runs for note in run.notes]
    said = [f"{escaped(name)}: {escaped_whole(note)}" if len(runs) > 1 else escaped_whole(note) for name, note in notes]
    items = "".join(element("li", text) for text in said)
    return element("ul", items) if items else ""
