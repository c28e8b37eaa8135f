"""The explorer behind its real server, in this process, for those who speak to it by socket."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from moco.explore.embedding import Collection
from moco.explore.server import application
from tests.explore.explored import embedding

TOKEN = "t0ken"


@contextmanager
def served(collection: Collection) -> Iterator[int]:
    """Serve a collection; yields the port."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    app = application(collection, [embedding(), embedding(seed=1, name="other")], TOKEN, port)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield port
    finally:
        server.should_exit = server.force_exit = True
        thread.join()
        listening.close()


@contextmanager
def upload(port: int, body: bytes, length: int | str) -> Iterator[socket.socket]:
    """Send the beginning of an upload of which `length` bytes are announced, and leave the socket open."""
    asking = socket.create_connection(("127.0.0.1", port), timeout=30)
    with asking:
        head = f"POST /neighbours HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nX-Moco-Token: {TOKEN}\r\n"
        asking.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + body)
        yield asking


def status(asking: socket.socket) -> int:
    """The status of the answer."""
    with asking.makefile("rb") as answer:
        return int(answer.readline().split()[1])
