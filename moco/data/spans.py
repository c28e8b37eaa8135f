"""Spans of a document: two that belong together, and those that stand for the whole."""

import os

import numpy as np
import torch
from torch import Tensor

from moco.data.documents import Documents
from moco.data.images import Images, PathTable
from moco.data.pretext import Draw
from moco.errors import BadInputError

SPANS = 8
"""Maximum number of spans that encode a whole document; its features are their mean."""


def draw_spans(text: bytes, draw: Draw, *, length: int) -> tuple[Tensor, Tensor]:
    """Draw two spans of a document that do not overlap, in either order (after CPC, arXiv:1807.03748, 2.1).

    Each has `length` bytes where the document has twice as many, at places that are drawn. A shorter document is cut in
    two between a third and two thirds of it, and the span is what lies next to the cut.
    """
    size, u = len(text), draw.uniforms(3)
    if size >= 2 * length:
        first, second = sorted((u[:2] * (size - 2 * length + 1)).astype(int).tolist())
        spans = text[first : first + length], text[second + length : second + 2 * length]
    else:
        cut = min(max(1, int(size * (1 + u[0]) / 3)), size - 1)
        spans = text[max(0, cut - length) : cut], text[cut : cut + length]
    x_1, x_2 = map(as_bytes, spans)
    return (x_1, x_2) if u[2] < 0.5 else (x_2, x_1)


def as_bytes(text: bytes) -> Tensor:
    """Return a text as a tensor of its bytes (length,)."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def cut_whole(text: bytes, length: int) -> Tensor:
    """Cut a document into at most `SPANS` spans (SPANS, length) that are spread evenly over it; the rest is padding."""
    count = min(SPANS, -(-len(text) // length))
    starts = np.linspace(0, max(0, len(text) - length), count).astype(int).tolist()
    spans = torch.zeros(SPANS, length, dtype=torch.uint8)
    for row, start in enumerate(starts):
        span = as_bytes(text[start : start + length])
        spans[row, : len(span)] = span
    return spans


def pair_documents(images: Images, length: int, epoch: int) -> tuple[Images, Images]:
    """Draw two spans of each document, as two sets: the same whenever this is called."""
    pairs = [draw_spans(read_document(images, row), Draw(0, epoch, row), length=length) for row in range(len(images))]
    sides = zip(*pairs, strict=True)
    one, other = (PathTable(bytes(span.tolist()) for span in side) for side in sides)
    names = PathTable(os.fsencode(images.name(row)) for row in range(len(images)))
    return Documents(one, names), Documents(other, names)


def read_document(images: Images, index: int) -> bytes:
    """Read a document. Raises BadInputError where the set has none, or it is too long to be held."""
    text = images.encoded(index)
    if text is None:
        raise BadInputError(f"{images.name(index)}: has no text that could be read: remove it")
    return text
