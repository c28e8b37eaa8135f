"""The explorer's page: served with its parts beside it, or as one file to send on."""

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from moco.explore.embedding import Collection, Embedding, describe_maps
from moco.explore.neighbours import distances, find_neighbours
from moco.report.markup import Base64, data_block, element, escape
from moco.report.page import document

STATIC_NEIGHBOURS = 12
QUERIES_AT_A_TIME = 512


def live_page() -> str:
    """Return what the server answers first; style, scripts and data are asked for by it."""
    body = _part("page.html")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,"><title>Embedding</title>'
        '<link rel="stylesheet" href="page.css"><link rel="stylesheet" href="explore.css">'
    )
    scripts = "".join(f'<script src="{name}.js"></script>' for name in ("map", "pictures", "tray", "explore"))
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}{scripts}</body></html>\n'


def static_page(collection: Collection, embeddings: Sequence[Embedding], sheet: dict[str, Any], made: str) -> str:
    """Return one file that asks for nothing, with the neighbours of every image among these.

    `sheet` has all thumbnails as one WebP picture in base64 (`picture`), `columns` of them in a row, `tile` pixels
    each; `made` says by what and when.
    """
    found = [_neighbours(embedding) for embedding in embeddings]
    stored = {"found": found, **sheet, "picture": Base64(sheet["picture"])}
    content = {**describe_maps(collection, embeddings), "stored": stored}
    style = files("moco.report").joinpath("page.css").read_text(encoding="utf-8") + _part("explore.css")
    note = f"{escape(made)} This page holds everything it shows, thumbnails and names of images among it."
    body = _part("page.html") + element("footer", element("p", note)) + data_block("data", content)
    return document("Embedding", body, style, _part("map.js") + _part("pictures.js") + _part("explore.js"))


def _neighbours(embedding: Embedding) -> list[dict[str, Any]]:
    found = []
    for start in range(0, len(embedding.features), QUERIES_AT_A_TIME):
        own = np.arange(start, min(start + QUERIES_AT_A_TIME, len(embedding.features)))
        rows, similarity = find_neighbours(embedding.features, embedding.features[own], STATIC_NEIGHBOURS + 1)
        for row, near, values in zip(own, rows, similarity, strict=True):
            others = np.flatnonzero(near != row)[:STATIC_NEIGHBOURS]
            found.append({"rows": near[others].tolist(), "distances": distances(values[others])})
    return found


def _part(name: str) -> str:
    return files("moco.explore").joinpath(name).read_text(encoding="utf-8")
