"""The map of the embeddings: points as SVG that needs no script, thumbnails and names by a few lines of script."""

from collections import Counter
from typing import Any

from moco.errors import counted
from moco.report.config import MOST_POINTS
from moco.report.markup import as_list, data_block, element, escape, number, picture, show, to_plain_text
from moco.report.runs import Run

OWN_COLOURS = 10
"""Classes with a colour of the style sheet; further ones get hues that lie a golden angle apart."""
GOLDEN_ANGLE = 137.508
MOST_BUTTONS = 60
"""Classes that can be switched on and off."""


def render_embedding_map(run: Run, place: int) -> str:
    """Render the map of a run's embeddings, number `place` of the page; empty where none is stored."""
    content = run.gallery.get("map")
    if not isinstance(content, dict):
        return ""
    points = _points(content)
    if not points:
        return ""
    classes = [to_plain_text(name) for name in as_list(run.gallery.get("classes"))]
    labels = _labels(content.get("classes"), len(points), len(classes))
    predicted = _labels(content.get("predicted"), len(points), len(classes))
    counts = Counter(labels)
    paths = "".join(
        _path(label, [points[i] for i, own in enumerate(labels) if own == label]) for label in sorted(counts)
    )
    title = f"Map of {show(len(points), 0)} images by their features"
    said = f"{title}, {escape(content.get('method'))}."
    svg = (
        f'<svg viewBox="-24 -24 1048 1048" role="img" aria-label="{escape(said)}">{paths}'
        f'<circle class="ring" r="14" cx="0" cy="0" visibility="hidden"/></svg>'
    )
    names = as_list(content.get("names"))
    data = data_block(f"map-{place}", {
        "x": [x for x, _ in points], "y": [y for _, y in points], "names": names[: len(points)], "labels": labels,
        "predicted": predicted, "classes": classes, "tile": number(content.get("tile")) or 1,
        "columns": number(content.get("columns")) or 1,
    })  # fmt: skip
    tip = element(
        "div", '<canvas width="96" height="96" aria-hidden="true"></canvas><output></output>', class_="tip", hidden=True
    )
    sheet = picture(content.get("sprite"), "", class_="sheet", hidden="hidden")
    frame = element(
        "div", svg + tip, class_="frame", tabindex="0", role="group",
        aria_label="Map. Arrow keys go to the next image in that direction, Escape ends.",
    )  # fmt: skip
    text = (
        f"{said} Images that lie near each other have similar features; distances between far groups mean little. "
        f"Point at an image, or press Tab and the arrow keys, to see it."
    )
    return element("p", text, class_="note") + element(
        "div", frame + _legend(classes, counts, labels, predicted) + sheet + data, class_="map"
    )


def _points(content: dict[str, Any]) -> list[tuple[int, int]]:
    """The places, 0 to 1000; none where the columns are not numbers of equal length."""
    columns = [content.get("x"), content.get("y")]
    if not all(isinstance(column, list) and all(number(v) is not None for v in column) for column in columns):
        return []
    x, y = columns
    assert isinstance(x, list)
    assert isinstance(y, list)
    return [(round(a), round(b)) for a, b in zip(x, y, strict=False)][:MOST_POINTS]


def _labels(values: Any, count: int, classes: int) -> list[int]:
    """A class for each point; -1 where there is none."""
    values = values if isinstance(values, list) else []
    found = [value if isinstance(value, int) and 0 <= value < classes else -1 for value in values[:count]]
    return found + [-1] * (count - len(found))


def _path(label: int, points: list[tuple[int, int]]) -> str:
    """All points of a class as dots of one line: a tenth of the bytes of as many circles."""
    dots = "".join(f"M{x} {y}h.1" for x, y in points)
    return f'<path {_colour(label)} data-label="{label}" d="{dots}"/>'


def _colour(label: int) -> str:
    if label < OWN_COLOURS:
        return f'class="dots k{label}"' if label >= 0 else 'class="dots none"'
    return f'class="dots" stroke="hsl({label * GOLDEN_ANGLE % 360:.0f} 60% 55%)"'


def _legend(classes: list[str], counts: Counter[int], labels: list[int], predicted: list[int]) -> str:
    """A button for each class that shows or hides it, with the share that the neighbours classify correctly."""
    right = Counter(label for label, guess in zip(labels, predicted, strict=True) if label == guess)
    guessed = any(guess >= 0 for guess in predicted)
    buttons = []
    for label in [label for label in sorted(counts) if label >= 0][:MOST_BUTTONS]:
        dot = f'<svg viewBox="0 0 10 10" aria-hidden="true"><path {_colour(label)} d="M5 5h.1"/></svg>'
        share = f" · {show(100 * right[label] / counts[label], 0)}%" if guessed else ""
        small = element("small", f"{show(counts[label], 0)}{share}")
        text = f"{dot}<span>{escape(classes[label])}</span>{small}"
        buttons.append(element("button", text, type="button", aria_pressed="true", data_label=label))
    if not buttons:
        return ""
    head = "images of each class" + (", and the share that their neighbours classify correctly" if guessed else "")
    more = (
        ""
        if len(counts) <= MOST_BUTTONS
        else element("p", f"and {counted(len(counts) - MOST_BUTTONS, 'more class')}", class_="note")
    )
    return element(
        "div",
        element("p", head, class_="note") + "".join(buttons) + more,
        class_="classes",
        role="group",
        aria_label="Classes shown",
    )
