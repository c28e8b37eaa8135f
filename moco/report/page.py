"""Everything that was read -> one HTML file that asks for nothing from outside."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from importlib.resources import files

from moco.report.embedding_map import render_embedding_map
from moco.report.evaluations import render_tables
from moco.report.markup import duration, element, escape, escape_whole, number, percent, show
from moco.report.pictures import render_confusion, render_filters, render_neighbours, render_views
from moco.report.runs import Run
from moco.report.setup import render_reasons, render_settings, render_summary
from moco.report.training import render_curves, render_loss
from moco.report.transfer import is_transfer, transfer_sections
from moco.report.verdict import judge

SMALL_VIEW = 64
"""Views up to this size are shown with their pixels as squares."""
FIRST_NEIGHBOURS = (3, 4)
"""Images on the first screen, and neighbours of each."""


def page(runs: Sequence[Run], made: str) -> str:
    """Return the page on some runs; `made` says by what and when, at its end."""
    title = runs[0].name if len(runs) == 1 else f"{len(runs)} runs: {', '.join(run.name for run in runs)}"
    footer = f"{made} This page holds everything it shows, thumbnails and names of images among it, and asks"
    script = files("moco.report").joinpath("page.js").read_text(encoding="utf-8")
    parts = [section for section in _sections(runs) if section[2]]
    return page_of_parts(
        title, _lead(runs), parts, f"{footer} for nothing from elsewhere.", first="verdict", script=script
    )


def page_of_parts(
    title: str, lead: str, parts: Sequence[tuple[str, str, str]], footer: str, *, first: str, script: str = ""
) -> str:
    """Return a page of parts, each a name, a heading and its HTML; title, lead and footer are text.

    A policy forbids it everything but its own style, script and pictures.
    """
    style = files("moco.report").joinpath("page.css").read_text(encoding="utf-8")
    links = "".join(element("li", element("a", escape(heading), href=f"#{name}")) for name, heading, _ in parts)
    header = element("h1", escape(title)) + element("p", escape_whole(lead), class_="lead")
    header += element("nav", element("ul", links), aria_label="Parts of this page")
    main = "".join(element("section", element("h2", escape(heading)) + body, id=name) for name, heading, body in parts)
    body = (
        f'<a class="skip" href="#{first}">to the {first}</a><header>{header}</header><main>{main}</main>'
        f"<footer>{element('p', escape_whole(footer))}</footer>"
    )
    return document(title, body, style, script)


def document(title: str, body: str, style: str, script: str = "") -> str:
    """Wrap HTML into a self-contained page; its policy allows only this style and script."""
    scripts = f"'{_digest(script)}'" if script else "'none'"
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src {scripts}; "
        f"base-uri 'none'; form-action 'none'"
    )
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="referrer" content="no-referrer">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{style}</style>'
    )
    end = f"<script>{script}</script>" if script else ""
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}{end}</body></html>\n'


def _digest(text: str) -> str:
    """How a content security policy names a style or a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _lead(runs: Sequence[Run]) -> str:
    data = list(dict.fromkeys(str(run.config.get("data")) for run in runs))
    if all(map(is_transfer, runs)):
        tasks = ", ".join(dict.fromkeys(str(run.config["task"]) for run in runs))
        return f"Transfer of encoders to {tasks} on {', '.join(data)}."
    archs = list(dict.fromkeys(str(run.config.get("arch")) for run in runs if not is_transfer(run)))
    return f"Momentum-contrast pre-training of {', '.join(archs)} on {', '.join(data)}, without labels."


def _sections(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """Name, heading and content of every part, in the order of the page: of pre-training, then of transfer."""
    transferred = [run for run in runs if is_transfer(run)]
    trained = [run for run in runs if not is_transfer(run)]
    more = transfer_sections(transferred) if transferred else []
    return [*(_of_training(trained) if trained else []), *more, ("notes", "Left out", _notes(runs))]


def _describe_setup(runs: Sequence[Run]) -> str:
    return render_summary(runs) + element("h3", "Settings") + render_settings(runs) + render_reasons(runs)


def _of_training(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    places = {id(run): place for place, run in enumerate(runs)}
    charts = render_curves(runs)
    return [
        (
            "verdict",
            "Verdict",
            element("div", "".join(_card(run, alone=len(runs) == 1) for run in runs), class_="cards"),
        ),
        ("setup", "What was run", _describe_setup(runs)),
        ("training", "Training", element("div", charts, class_="charts") if charts else ""),
        ("evaluations", "Evaluations", render_tables(runs)),
        ("views", "What the model saw", _each(runs, render_views)),
        ("neighbours", "Nearest neighbours", _each(runs, render_neighbours)),
        ("map", "Map of the embeddings", _each(runs, lambda run: render_embedding_map(run, places[id(run)]))),
        ("confusion", "Confused classes", _each(runs, render_confusion)),
        ("filters", "First-layer filters", _each(runs, render_filters)),
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
        heading = element("h3", escape(run.name)) if len(runs) > 1 else ""
        blocks += element("section", heading + body, class_=f"part{large}")
    return element("div", blocks, class_="single" if len(found) == 1 else "side wide")


def _card(run: Run, *, alone: bool) -> str:
    """The verdict with its figures; of a run that is alone on the page with its loss and some neighbours beside."""
    verdict = judge(run)
    knn, loss, chance = run.last("knn_top1"), run.last("loss"), run.last("chance_loss")
    linear = next((c.get("top1") for name, c in run.evaluations.items() if name.startswith("linear")), None)
    tested = run.evaluations.get("knn", {}).get("top1")
    figures = [
        ("kNN, test", percent(tested), number(tested)),
        ("kNN in the run", percent(knn), knn),
        ("linear", percent(linear), number(linear)),
        ("loss", f"{show(loss)} <small>chance {show(chance)}</small>", loss),
        ("training time", duration(run.seconds), run.seconds),
    ]
    terms = "".join(
        element("div", element("dt", name) + element("dd", text)) for name, text, there in figures if there is not None
    )
    sign = {"good": "✓", "mixed": "◐", "bad": "✗", "open": "…"}[verdict.mood]
    content = element("h3", escape(run.name)) + element("p", f"{sign} {escape(verdict.headline)}", class_="headline")
    content = element("div", content + (element("dl", terms) if terms else ""))
    beside = render_loss(run) + render_neighbours(run, *FIRST_NEIGHBOURS) if alone else ""
    content += element("div", beside, class_="beside") if beside else ""
    content += element("ul", "".join(element("li", escape_whole(sentence)) for sentence in verdict.sentences))
    return element("div", content, class_=f"card {verdict.mood}{' first' if beside else ''}")


def _notes(runs: Sequence[Run]) -> str:
    notes = [(run.name, note) for run in runs for note in run.notes]
    said = [f"{escape(name)}: {escape_whole(note)}" if len(runs) > 1 else escape_whole(note) for name, note in notes]
    items = "".join(element("li", text) for text in said)
    return element("ul", items) if items else ""
