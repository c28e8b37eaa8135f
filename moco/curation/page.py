"""Images and what was found about them, as one HTML page that asks for nothing from outside."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from moco.report.markup import element, escape, escape_whole, picture, show, table, to_plain_text
from moco.report.page import page_of_parts

MOST_ROWS = 200
"""Rows of pictures on a page."""
MOST_TILES = 12
"""Pictures of a row."""

Mark = Literal["same", "other"]
"""Green or red."""


@dataclass(frozen=True)
class Tile:
    """An image on the page, with the text below it."""

    row: int
    """Its number."""
    name: str
    caption: str
    mark: Mark | None = None


@dataclass(frozen=True)
class Strip:
    """An image and others beside it, or only others."""

    query: Tile | None
    tiles: Sequence[Tile]
    text: str = ""
    """The text above them."""


Thumbnails = Callable[[int], str]
"""Maps an image's number to its picture, WebP in base64; empty if it cannot be read."""


def render_strips(strips: Sequence[Strip], thumbnails: Thumbnails) -> str:
    """Show at most 200 rows of at most 12 pictures, and say how many more there are."""
    if not strips:
        return element("p", "None.", class_="note")
    items = ""
    for strip in strips[:MOST_ROWS]:
        shown = "".join(_tile(tile, thumbnails) for tile in strip.tiles[:MOST_TILES])
        more = len(strip.tiles) - MOST_TILES
        shown += element("span", f"and {more} more", class_="caption") if more > 0 else ""
        own = "" if strip.query is None else _tile(strip.query, thumbnails, query=True)
        text = element("p", escape_whole(strip.text), class_="note") if strip.text else ""
        items += element("li", own + element("div", text + element("div", shown, class_="found")))
    left = len(strips) - MOST_ROWS
    note = element("p", f"{left} more rows are in the table beside this page.", class_="note") if left > 0 else ""
    return element("ul", items, class_="neighbours large") + note


def _tile(tile: Tile, thumbnails: Thumbnails, *, query: bool = False) -> str:
    alt = f"{to_plain_text(tile.name)}: {tile.caption}"
    kind = " ".join(word for word in ("tile", "query" if query else "", tile.mark or "") if word)
    caption = element("span", escape(tile.caption), class_="caption")
    name = element("span", escape(tile.name), class_="caption")
    shown = picture(thumbnails(tile.row) or None, alt, class_="thumb")
    return element("div", shown + name + caption, class_=kind, title=alt)


def render_figures(rows: Mapping[str, Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Show figures of the weights and of the baseline below each other; `columns` maps a key to its heading."""
    body = [[escape(name), *(_figure(own.get(column)) for column in columns)] for name, own in rows.items()]
    return table(["weights", *map(escape, columns.values())], body, label="Figures", numbers=range(1, len(columns) + 1))


def _figure(value: Any) -> str:
    """Escape text, and show a count without digits behind the point."""
    return escape(value) if isinstance(value, str) else show(value, 0 if isinstance(value, int) else 2)


def render_unreadable(unreadable: Sequence[Mapping[str, str]]) -> str:
    """List the images that were left out; nothing where there are none."""
    items = "".join(
        element("li", f"{escape(one['path'])}: {escape_whole(one['reason'])}") for one in unreadable[:MOST_ROWS]
    )
    more = len(unreadable) - MOST_ROWS
    return element("ul", items + (element("li", f"and {more} more") if more > 0 else "")) if items else ""


def curation_page(
    title: str, lead: str, parts: Sequence[tuple[str, str, str]], unreadable: Sequence[Mapping[str, str]], made: str
) -> str:
    """Make the page: parts of a name, a heading and HTML each, and the images that cannot be read."""
    shown = [*parts, ("unreadable", "Images that cannot be read", render_unreadable(unreadable))]
    footer = f"{made} This page holds the pictures and names that it shows, and asks for nothing from elsewhere."
    return page_of_parts(title, lead, [part for part in shown if part[2]], footer, first=shown[0][0])
