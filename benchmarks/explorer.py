"""What a hundred people who click at the same time wait for: neighbour queries of the explorer over HTTP.

    python -m benchmarks.explorer [--clients 100] [--seconds 60] [--images 50000] [--width 512] [--pause 1.0]

from the root of the repository. The server is the real one, in a process of its own, with random unit features; the
clients are HTTP connections that stay open, in this process. Each asks for the neighbours of a random image, waits for
the answer, then for `--pause` seconds on average (0: asks again at once), and so on. Every tenth answer is checked for
its first neighbour against a plain product. `server_ms` is the time of a core that an answer took, which does not
depend on what else the machine does.
"""

import asyncio
import json
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import tyro
import uvicorn

from moco.explore.embedding import Collection, Embedding
from moco.explore.neighbours import Floats
from moco.explore.server import application

TOKEN = "benchmark"
CHECKED = 10


@dataclass(frozen=True)
class Options:
    """What to measure."""

    clients: int = 100
    """Connections."""
    seconds: float = 60.0
    """How long they ask."""
    images: int = 50_000
    """N."""
    width: int = 512
    """C."""
    pause: float = 1.0
    """Mean seconds between an answer and the same client's next question, drawn evenly from 0 to twice that."""
    seed: int = 0
    """Of features and questions."""


def features(options: Options) -> Floats:
    """Random unit vectors (N, C)."""
    drawn = np.random.default_rng(options.seed).standard_normal((options.images, options.width), np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def serve(options: Options, ready: Connection) -> None:
    """The server; says its port when it listens, and at its end how many seconds of a core the answers took."""
    count = options.images
    shown = Collection("random", [f"#{row}" for row in range(count)], None, (), 32, lambda _: b"", lambda _: [])
    clusters, places = np.zeros(count, np.int64), np.zeros((count, 2), np.float32)
    embedding = Embedding("random", features(options), places, clusters, "none")
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    app = application(shown, [embedding], TOKEN, port)
    settings = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", ws="none", timeout_keep_alive=60
    )
    server = uvicorn.Server(settings)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # uvicorn has its own, and raises it once more when it has ended
    ready.send(port)
    before = time.process_time()
    asyncio.run(server.serve(sockets=[listening]))
    ready.send(time.process_time() - before)


@dataclass(frozen=True)
class Answer:
    """One question's."""

    row: int
    milliseconds: float
    status: int
    found: dict[str, Any]


async def client(port: int, options: Options, number: int, until: float) -> list[Answer]:
    """Ask until the time is over."""
    draw, answers = random.Random(options.seed * 1000 + number), list[Answer]()  # noqa: S311 - nothing is kept secret
    await asyncio.sleep(draw.uniform(0, options.pause))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < until:
        row, asked = draw.randrange(options.images), time.perf_counter()
        head = f"GET /neighbours/{row} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Moco-Token: {TOKEN}\r\n\r\n"
        writer.write(head.encode())
        headers = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        length = next(int(line.split(":")[1]) for line in headers if line.startswith("content-length:"))
        content = await reader.readexactly(length)
        took = 1000 * (time.perf_counter() - asked)
        answers.append(Answer(row, took, int(headers[0].split()[1]), json.loads(content)[0]))
        if options.pause:
            await asyncio.sleep(draw.uniform(0, 2 * options.pause))
    writer.close()
    return answers


async def ask(port: int, options: Options) -> list[Answer]:
    """All clients at the same time."""
    until = time.monotonic() + options.seconds
    parts = await asyncio.gather(*(client(port, options, number, until) for number in range(options.clients)))
    return [answer for part in parts for answer in part]


def wrong(answers: Sequence[Answer], z: Floats) -> int:
    """How many of every tenth answer do not begin with the neighbour that a plain product gives."""
    count = 0
    for answer in answers[::CHECKED]:
        similarity = z @ z[answer.row]
        similarity[answer.row] = -1
        count += answer.found["rows"][0] != int(similarity.argmax())
    return count


def main(options: Options) -> dict[str, Any]:
    """Start the server, ask, and print what the waits were."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(options, theirs))
    server.start()
    try:
        port, before = ours.recv(), os.getloadavg()[0]
        answers = asyncio.run(ask(port, options))
        server.terminate()
        seconds = ours.recv()
    finally:
        server.kill()
        server.join()
    waits = np.array([answer.milliseconds for answer in answers])
    p50, p95, p99 = (round(float(value), 1) for value in np.percentile(waits, [50, 95, 99]))
    result = {
        "clients": options.clients, "images": options.images, "width": options.width, "pause": options.pause,
        "queries": len(answers), "per_second": round(len(answers) / options.seconds, 1),
        "errors": sum(answer.status != 200 for answer in answers), "wrong": wrong(answers, features(options)),
        "server_ms": round(1000 * seconds / len(answers), 2),
        "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "longest_ms": round(float(waits.max()), 1),
        "load_before": round(before, 1), "load_after": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main(tyro.cli(Options))
