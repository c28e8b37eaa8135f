"""The explorer's answers about the tray: lists to look through, marks, the way back, and lists to take away."""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moco.errors import BadInputError
from moco.explore.tray import MARKS, Tray
from moco.explore.upload import read_body

NOT_STORED = {"Cache-Control": "no-store"}
MOST_BYTES = 1024
"""The largest mark that may be sent."""
Groups = list[list[int]]


@dataclass
class Marking:
    """The tray, and what computes its lists when they are first asked for."""

    tray: Tray
    lists: Mapping[str, Callable[[], Groups]]
    """Name -> groups of the images' numbers; in a thread."""
    made: dict[str, Groups] = field(default_factory=dict)


def marking_routes(marking: Marking) -> list[Route]:
    """Build the routes of a tray."""
    computing, changing = asyncio.Lock(), asyncio.Lock()

    async def tray(_: Request) -> Response:
        return JSONResponse(marking.tray.describe(), headers=NOT_STORED)

    async def listed(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in marking.lists:
            return _refused(f"there is no such list: expected one of {', '.join(marking.lists)}", 404)
        async with computing:
            if name not in marking.made:
                try:
                    marking.made[name] = await asyncio.to_thread(marking.lists[name])
                except BadInputError as error:
                    return _refused(str(error), 422)
        return JSONResponse(marking.made[name], headers=NOT_STORED)

    async def mark(request: Request) -> Response:
        try:
            row, own = _read_mark(await read_body(request, "mark", MOST_BYTES), len(marking.tray.names))
        except BadInputError as error:
            return _refused(str(error), 422)
        return await change(lambda: marking.tray.mark(row, own))  # type: ignore[arg-type]  # _read_mark checked it

    async def undo(_: Request) -> Response:
        return await change(marking.tray.undo)

    async def change(work: Callable[[], None]) -> Response:
        async with changing:
            try:
                await asyncio.to_thread(work)
            except BadInputError as error:
                return _refused(str(error), 507)
            return JSONResponse(marking.tray.describe(), headers=NOT_STORED)

    async def taken(request: Request) -> Response:
        name = request.path_params["mark"]
        if name not in MARKS:
            return _refused(f"expected one of {', '.join(MARKS)}", 404)
        headers = {**NOT_STORED, "Content-Disposition": f'attachment; filename="{name}.txt"'}
        return Response(marking.tray.write_list(name), media_type="text/plain; charset=utf-8", headers=headers)

    return [
        Route("/tray", tray), Route("/tray/{name}", listed), Route("/mark", mark, methods=["POST"]),
        Route("/undo", undo, methods=["POST"]), Route("/marks/{mark}.txt", taken),
    ]  # fmt: skip


def _read_mark(content: bytes, count: int) -> tuple[int, str | None]:
    try:
        found = json.loads(content)
        row, own = found["row"], found["mark"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadInputError("expected an object with a row and a mark") from error
    if type(row) is not int or not 0 <= row < count or (own is not None and own not in MARKS):
        raise BadInputError(f"expected a row from 0 to {count - 1}, and a mark of {', '.join(MARKS)} or null")
    return row, own


def _refused(reason: str, status: int) -> Response:
    return JSONResponse({"error": reason}, status, headers=NOT_STORED)
