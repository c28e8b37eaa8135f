"""Malformed and hostile files, byte for byte, and small trainings on folders in which they lie."""

import io
import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from moco.cli import main

SIDE = 100
"""Of the images: too large to be held in memory, so that they are decoded while a run goes on."""


def jpeg(seed: int, side: int = SIDE) -> bytes:
    """A sound picture."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).resize((side, side)).save(file, "jpeg")
    return file.getvalue()


def png(width: int, height: int, content: bytes) -> bytes:
    """A PNG whose header claims a size, whatever it holds."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(content)) + chunk(b"IEND", b"")


def postscript(program: str) -> bytes:
    """An EPS file, which Pillow would hand to Ghostscript."""
    return f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n{program}\nshowpage\n%%EOF\n".encode()


UNREADABLE: Mapping[str, bytes] = {
    "empty": b"",
    "truncated": jpeg(0)[:800],
    "header-only": jpeg(0)[:200],
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "bomb": png(100_000, 100_000, bytes(100)),
    "zeros": bytes(4096),
    "eps": postscript("0 0 moveto"),
}
"""What is called an image and is none."""


def folder_of(path: Path, count: int, bad: Mapping[str, bytes] | None = None) -> Path:
    """A folder of `count` sound pictures, and files `NAME.jpg` of the given contents among them."""
    path.mkdir(parents=True)
    for i in range(count):
        (path / f"{i:03}.jpg").write_bytes(jpeg(i))
    for name, content in (bad or {}).items():
        (path / f"{name}.jpg").write_bytes(content)
    return path


def flags(data: Path | str, out: Path, **given: object) -> list[str]:
    """The command line of a training of a second or two."""
    values: dict[str, object] = {
        "data": data, "out": out, "arch": "resnet10-w4", "dictionary": "queue", "image-size": 16, "batch-size": 10,
        "queue-size": 20, "bn-groups": 2, "epochs": 2, "knn-every": 0, "log-every": 1, "checkpoint-every": 0,
        "device": "cpu", "precision": "fp32", "threads": 1, "workers": 0,
    }  # fmt: skip
    values |= {name.replace("_", "-"): value for name, value in given.items()}
    return ["pretrain", "quick", *(text for name, value in values.items() for text in (f"--{name}", str(value)))]


def train(data: Path | str, out: Path, **given: object) -> int:
    """Train in this process, as the command line does, and return the exit code."""
    return main(flags(data, out, **given))


def lines(run: Path, key: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics that have a key."""
    text = (run / "metrics.jsonl").read_bytes()
    return [line for line in map(json.loads, text.splitlines()) if key in line]


def events(run: Path, name: str) -> list[dict[str, Any]]:
    """The events of this name."""
    return [line for line in lines(run, "event") if line["event"] == name]


def write(folder: Path, name: bytes, content: bytes) -> None:
    """Write a file of any name."""
    path = os.fsencode(folder) + b"/" + name
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
