"""A small huggingface.co on this machine, of which `huggingface_hub` itself asks and to which it sends."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest
from huggingface_hub import constants

LARGE = 1000
"""Files of so many bytes are known by their SHA-256, smaller ones as git knows them."""
COMMIT = "c" * 40


class FakeHub(ThreadingHTTPServer):
    """Repositories in memory: kind and name -> path -> content."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = dict[str, dict[str, bytes]]()
        self.objects = dict[str, bytes]()
        self.private, self.asked = dict[str, bool](), list[str]()
        self.damaged, self.token = False, ""

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


def digest(content: bytes) -> str:
    """The digest by which the hub knows a file."""
    git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return hashlib.sha256(content).hexdigest() if len(content) >= LARGE else git.hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does, as far as files are fetched and sent."""

    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def answer(self, content: bytes | dict[str, Any] | list[Any], code: int = 200, **headers: str) -> None:
        """Send an answer."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: int, error: str) -> None:
        """Say no in the hub's way."""
        self.answer({"error": error}, code, X_Error_Code=error, X_Error_Message=error)

    def do_HEAD(self) -> None:
        """Answer without content."""
        self.do_GET()

    def do_GET(self) -> None:
        """A file, or what a repository holds."""
        path = unquote(self.path.partition("?")[0]).lstrip("/")
        self.server.asked.append(f"{self.command} {path}")
        if path.startswith("api/"):
            if path.count("/") < 3:
                return self.refuse(404, "NotFound")
            kind, owner, name, *rest = path.removeprefix("api/").split("/")
            files = self.server.repositories.get(f"{kind}/{owner}/{name}")
            if files is None or (rest and "convert" in rest[-1] and not any("convert" in one for one in files)):
                return self.refuse(404, "RepoNotFound" if files is None else "RevisionNotFound")
            listed = [{"rfilename": one} for one in files]
            return self.answer(
                {"id": f"{owner}/{name}", "sha": COMMIT, "siblings": listed, "private": False, "tags": []}
            )
        name, _, place = path.partition("/resolve/")
        files = self.server.repositories.get(name if name.startswith("datasets/") else f"models/{name}")
        if files is None:
            return self.refuse(404, "RepoNotFound")
        content = files.get(place.partition("/")[2])
        if content is None:
            return self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        sent = b"?" * len(content) if self.server.damaged else content
        self.answer(sent, ETag=f'"{digest(content)}"', X_Repo_Commit=COMMIT)
        return None

    def do_PUT(self) -> None:
        """Take the content of a large file."""
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[self.path.rpartition("/")[2]] = content
        self.answer(b"", ETag='"x"')

    def do_POST(self) -> None:
        """Make a repository, say how files are sent, take a commit, and say what it holds."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(self.path.partition("?")[0]).lstrip("/")
        self.server.asked.append(f"POST {path}")
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.refuse(401, "Unauthorized")
        if path == "api/repos/create":
            asked = json.loads(body)
            name = f"models/{asked.get('organization') or 'me'}/{asked['name']}"
            url = f"{self.server.address}/{name.removeprefix('models/')}"
            if name in self.server.repositories:
                return self.answer({"error": "exists", "url": url}, 409)
            self.server.repositories[name] = {}
            self.server.private[name] = bool(asked.get("private")) or asked.get("visibility") == "private"
            return self.answer({"url": url})
        if path.endswith("/objects/batch"):
            return self.answer({"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{self.server.address}/put/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]})  # fmt: skip
        if path == "api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        _, kind, owner, name, what = path.split("/")[:5]
        files = self.server.repositories[f"{kind}/{owner}/{name}"]
        if what == "preupload":
            return self.answer({"files": [
                {"path": one["path"], "uploadMode": "lfs" if one["size"] >= LARGE else "regular", "shouldIgnore": False}
                for one in json.loads(body)["files"]
            ]})  # fmt: skip
        if what == "commit":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = self.server.objects[value["oid"]]
            url = f"{self.server.address}/{owner}/{name}/commit/{COMMIT}"
            return self.answer({"commitUrl": url, "commitOid": COMMIT, "success": True})
        asked_for = parse_qs(body.decode()).get("paths", [])
        return self.answer([self.describe(one, files[one]) for one in asked_for if one in files])

    def describe(self, path: str, content: bytes) -> dict[str, Any]:
        """What the hub says of a file."""
        content = content[:-1] if self.server.damaged else content
        large = (
            {"lfs": {"oid": digest(content), "size": len(content), "pointerSize": 1}} if len(content) >= LARGE else {}
        )
        return {"type": "file", "path": path, "size": len(content), "oid": digest(content), **large}


@contextmanager
def fake_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[FakeHub]:
    """Start one, and let `huggingface_hub` use it with a cache of its own."""
    hub = FakeHub()
    hub.token = "of-a-test"
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    for name, value in (
        ("ENDPOINT", hub.address), ("HF_HUB_CACHE", str(cache)), ("HF_HUB_OFFLINE", False),
        ("HF_HUB_DISABLE_XET", True),
        ("HUGGINGFACE_CO_URL_TEMPLATE", hub.address + "/{repo_id}/resolve/{revision}/{filename}"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", True),
    ):  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
