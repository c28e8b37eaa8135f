"""The explorer's answers: the page, the map, thumbnails by number, neighbours of a number or of a dropped image."""

import asyncio
import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from moco.errors import BadInputError
from moco.explore.embedding import Collection, Embedding, describe_maps
from moco.explore.guard import Guard
from moco.explore.marking import Marking, marking_routes
from moco.explore.neighbours import Floats, Rows, Search, distances
from moco.explore.page import live_page
from moco.explore.upload import BrokenOffError, TooLargeError, read_upload

NEIGHBOURS = 24
"""Images that are shown beside another."""
KEPT_THUMBNAILS = 8192
"""In memory: a few kilobytes each."""
LONGEST_NUMBER = 12
WAITING_UPLOADS = 8
"""Dropped images that may wait for the encoder; further ones are turned away."""
ASSETS = {
    "page.css": ("moco.report", "text/css"), "explore.css": ("moco.explore", "text/css"),
    "map.js": ("moco.explore", "text/javascript"), "tray.js": ("moco.explore", "text/javascript"),
    "pictures.js": ("moco.explore", "text/javascript"),
    "explore.js": ("moco.explore", "text/javascript"),
}  # fmt: skip
NOT_KEPT = {"Cache-Control": "no-store"}


def application(
    collection: Collection, embeddings: Sequence[Embedding], token: str, port: int, marking: Marking | None = None
) -> ASGIApp:
    """Return the ASGI application; it answers those who know the token (`Guard`)."""
    count = len(collection.names)
    shown = {**describe_maps(collection, embeddings), "tray": marking is not None}
    content = json.dumps(shown, separators=(",", ":")).encode()
    searches = [Search(embedding.features, NEIGHBOURS + 1) for embedding in embeddings]
    thumbnail = lru_cache(KEPT_THUMBNAILS)(collection.thumbnail)
    encoder, uploads = asyncio.Lock(), asyncio.Semaphore(WAITING_UPLOADS)

    async def page(_: Request) -> Response:
        return Response(live_page(), media_type="text/html", headers=NOT_KEPT)

    async def atlas(_: Request) -> Response:
        return Response(content, media_type="application/json", headers=NOT_KEPT)

    def numbered(request: Request) -> int | None:
        text = request.path_params["row"]
        row = int(text) if text.isascii() and text.isdigit() and len(text) <= LONGEST_NUMBER else count
        return row if row < count else None

    unknown = _failed(f"there is no such image: they are numbered from 0 to {count - 1}", 404)

    async def picture(request: Request) -> Response:
        row = numbered(request)
        if row is None:
            return unknown
        try:
            found = await asyncio.to_thread(thumbnail, row)
        except (BadInputError, OSError):
            return _failed(f"image {row} can no longer be read", 404)
        return Response(found, media_type="image/webp", headers={"Cache-Control": "private, max-age=3600"})

    async def beside(request: Request) -> Response:
        row = numbered(request)
        if row is None:
            return unknown
        found = await asyncio.gather(*(search.beside(row) for search in searches))
        return JSONResponse(_listed(found), headers=NOT_KEPT)

    async def beside_upload(request: Request) -> Response:
        if uploads.locked():
            return _failed("several images are being looked at: try again in a moment", 503)
        async with uploads:
            try:
                image = await read_upload(request)
                async with encoder:
                    queries = await asyncio.to_thread(collection.encode, image)
            except TooLargeError as error:
                return _failed(str(error), 413)
            except BrokenOffError as error:
                return _failed(str(error), 408)
            except BadInputError as error:
                return _failed(str(error), 422)
        pairs = zip(searches, queries, strict=True)
        found = await asyncio.gather(*(search.nearest(query) for search, query in pairs))
        return JSONResponse(_listed([(rows[:NEIGHBOURS], near[:NEIGHBOURS]) for rows, near in found]), headers=NOT_KEPT)

    routes = [
        Route("/", page), Route("/atlas", atlas), Route("/thumbnail/{row}", picture),
        Route("/neighbours/{row}", beside), Route("/neighbours", beside_upload, methods=["POST"]),
        *(Route(f"/{name}", _asset(name)) for name in ASSETS), *([] if marking is None else marking_routes(marking)),
    ]  # fmt: skip
    return Guard(Starlette(routes=routes), token, port)


def _asset(name: str) -> Any:
    package, kind = ASSETS[name]
    content = files(package).joinpath(name).read_bytes()

    async def asset(_: Request) -> Response:
        return Response(content, media_type=kind, headers=NOT_KEPT)

    return asset


def _listed(found: Sequence[tuple[Rows, Floats]]) -> list[dict[str, Any]]:
    """List rows and cosine distances for every embedding."""
    return [{"rows": rows.tolist(), "distances": distances(similarity)} for rows, similarity in found]


def _failed(reason: str, status: int) -> Response:
    return JSONResponse({"error": reason}, status, headers=NOT_KEPT)
