"""`moco search`: finds the images most similar to a file, to an image of the set, or to several files together."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.commands.curate import Collected, collect_images, write_results
from moco.curation.config import SearchConfig
from moco.curation.neighbours import find_nearest
from moco.curation.page import Strip, Tile, render_strips
from moco.data.images import ArrayImages, FileImages, Images, PathTable
from moco.errors import BadInputError, counted
from moco.evaluation.config import RANDOM
from moco.evaluation.features import encode
from moco.evaluation.session import at_random, say
from moco.runtime.fields import check
from moco.shapes import Features


def run(config: SearchConfig) -> dict[str, Any]:
    """Print the most similar images, nearest first, and write a table and a page to --out."""
    check(config)
    files = _require_one_query(config)
    with collect_images(config) as found:
        if config.index is not None and config.index >= len(found.names):
            raise BadInputError(f"--index {config.index}: --data {config.data} has {len(found.names)} readable images")
        ranked, recall = {}, dict[str, float]()
        for name in (config.weights, *found.baselines):
            z = found.encode(name)
            own = None if config.index is None else config.index
            query = z[own : own + 1] if own is not None else _encode_files(found, files, name)
            index = found.index(name, z, config.k)
            recall[name] = 1.0 if index is None else index.recall
            similarity, rows = find_nearest(query, z, config.k + (own is not None), index)
            ranked[name] = [(int(row), float(value)) for value, row in zip(similarity[0], rows[0], strict=True)
                            if int(row) != own][: config.k]  # fmt: skip
        say(f"similarity and path of {counted(len(ranked[config.weights]), 'image')}, the most similar first:")
        for row, value in ranked[config.weights]:
            say(f"{value:.4f}  {found.names[row]}")
        written = _write(found, files, ranked)
    return {
        "neighbours": _as_rows(found, ranked[config.weights]), "images": len(found.names),
        "unreadable": list(found.unreadable), "recall": round(recall[config.weights], 4),
        "weights": config.weights, "data": config.data, **written,
        "baselines": {name: {"neighbours": _as_rows(found, ranked[name])} for name in found.baselines},
    }  # fmt: skip


def _require_one_query(config: SearchConfig) -> tuple[Path, ...]:
    """Give the files to search by. Raises BadInputError unless one of the three flags says by what."""
    files = ((config.image,) if config.image is not None else ()) + config.near
    given = [flag for flag, there in
             (("--image", config.image is not None), ("--index", config.index is not None), ("--near", config.near))
             if there]  # fmt: skip
    if len(given) != 1:
        raise BadInputError(
            f"{' and '.join(given) or 'no query'}: expected one of --image FILE, --index N and --near FILE FILE ..."
        )
    return files


def _encode_files(found: Collected, files: tuple[Path, ...], name: str) -> Features:
    """Compute the mean feature (1, C) of files, at unit length."""
    subject = at_random(found.config_of_session, found.subject) if name == RANDOM else found.subject
    how = dataclasses.replace(found.how, workers=0)
    features: list[Tensor] = [encode(subject.encoder, _read_one(path, found.images), how) for path in files]
    return F.normalize(torch.cat(features).mean(0, keepdim=True))


def _read_one(path: Path, images: Images) -> ArrayImages:
    """Read a file as the images of a set are read."""
    table = PathTable([os.fsencode(path)])
    one = FileImages(b"", table, white_level=images.white_level, form=images.form)
    return ArrayImages(one[0][None], form=images.form)


def _as_rows(found: Collected, ranked: list[tuple[int, float]]) -> list[dict[str, Any]]:
    return [{"path": found.names[row], "similarity": round(value, 4)} for row, value in ranked]


def _write(found: Collected, files: tuple[Path, ...], ranked: dict[str, list[tuple[int, float]]]) -> dict[str, Any]:
    config = found.config
    assert isinstance(config, SearchConfig)
    query = ", ".join(path.name for path in files) or found.names[config.index or 0]
    strips = {
        name: [
            Strip(None, [Tile(row, found.names[row], f"{value:.3f}") for row, value in own[start : start + 12]])
            for start in range(0, len(own), 12)
        ]
        for name, own in ranked.items()
    }  # fmt: skip
    table = [[place, found.names[row], round(value, 4)] for place, (row, value) in enumerate(ranked[config.weights], 1)]
    own = [] if config.index is None else [Strip(None, [Tile(config.index, query, "searched for")])]
    parts = [("neighbours", "Most similar images", render_strips([*own, *strips[config.weights]], found.picture))]
    parts += [(name, f"By {name} weights", render_strips(strips[name], found.picture)) for name in found.baselines]
    return write_results(
        found, "search", table=(["rank", "path", "similarity"], table),
        lists={"search.txt": [row for row, _ in ranked[config.weights]]},
        lead=f"The images of {config.data} most similar to {query}, by the cosine of their features.", parts=parts,
    )  # fmt: skip
