"""What an encoder saw and how it orders images, as pictures and tables: `evaluations/gallery.json`, for the report."""

import base64
import hashlib
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from torch import Tensor, nn

from moco.core.encoder import Encoder
from moco.data.derived import Subset, take_evenly
from moco.data.images import Images, Split, see
from moco.data.named import CATALOG, data_home
from moco.data.replacement import ChosenImages
from moco.data.splits import final_split
from moco.data.unreadable import find_unreadable
from moco.data.views import Look, make_views
from moco.evaluation.alignment import effective_rank
from moco.evaluation.features import Encoding, encode_readable
from moco.evaluation.knn import choose_k, count_votes, nearest
from moco.evaluation.preparation import prepare_whole
from moco.evaluation.scores import describe_predictions, score_votes
from moco.evaluation.session import labels_of
from moco.explore.embedding_map import FEWEST, flat_map
from moco.pretraining.config import PretrainConfig
from moco.pretraining.pretexts import augmentation_of
from moco.runtime.fields import require
from moco.runtime.phases import say_if_slow
from moco.runtime.randomness import Stream
from moco.shapes import Features

VERSION = 1
"""Version of the file's format."""
VIEWED, EPOCHS = 8, 3
"""Number of images shown with their views, and of epochs."""
QUERIES, FOUND = 12, 8
"""Number of images shown with their neighbours, and of these."""
VIEW_SIDE, THUMBNAIL_SIDE, TILE_SIDE = 112, 96, 32
"""Largest sides in pixels of views, of single images, and of the tiles of the map."""
SHEET_QUALITY = 60
"""WebP's quality: 10,000 photographs at 32 pixels then take about 5 MB."""
MOST_FILTERS = 64


@dataclass(frozen=True)
class Scope:
    """How much is computed."""

    map_images: int = 2000
    """Images in the map, at most; they are also those whose classes are guessed."""
    bank_images: int = 10_000
    """Images that neighbours are searched in, at most."""
    map_seconds: float = 60.0
    """Time that the map may take, about."""


def gallery(
    encoder: Encoder, splits: dict[Split, Images], config: PretrainConfig, how: Encoding, scope: Scope
) -> dict[str, Any]:
    """Build all that the report shows of an encoder and images, ready for JSON; pictures are WebP in base64.

    Queries come from the test split, else validation, else a tenth of train, and their neighbours from train.
    """
    started = time.monotonic()
    bank, queries = final_split(splits)
    bank, queries = take_evenly(bank, scope.bank_images), take_evenly(queries, scope.map_images)
    with say_if_slow(f"encoding {len(bank) + len(queries)} images"):
        (bank, z_bank), (queries, z) = (encode_readable(encoder, images, how) for images in (bank, queries))
    labelled = bank.labels is not None and queries.labels is not None and len(bank.classes) > 1
    temperature, k = config.knn_temperature, config.knn_k or FOUND
    if labelled and config.knn_k is None:
        k = choose_k(z_bank, labels_of(bank), temperature=temperature, classes=len(bank.classes))
    similarity, neighbour = nearest(z, z_bank, max(k, FOUND))
    content: dict[str, Any] = {
        "version": VERSION, "data": config.data, "splits": {name: len(images) for name, images in splits.items()},
        "classes": list(bank.classes) if bank.labels is not None else None, "bank": len(bank), "queries": len(queries),
        "feature_width": z.shape[1], "effective_rank": round(effective_rank(z), 2),
        "views": seen_views(splits["train"], config), "filters": first_filters(encoder),
        "neighbours": collect_neighbours(bank, queries, similarity, neighbour),
    }  # fmt: skip
    predicted = None
    if labelled:
        label = torch.from_numpy(labels_of(bank))[neighbour[:, :k]]
        votes = count_votes(similarity[:, :k], label, temperature=temperature, classes=len(bank.classes))
        found = score_votes(votes, labels_of(queries))
        predicted = found.predicted
        content["knn"] = {"k": min(k, len(bank)), "temperature": temperature, "top1": round(found.top1, 2)}
        content |= {
            name: table for name, table in describe_predictions(queries, predicted).items() if name == "confusion"
        }
    content["map"] = build_map(queries, z, predicted, scope, how.image_size)
    return {**content, "seconds": round(time.monotonic() - started, 1)}


def is_here(data: str) -> bool:
    """Return whether `data` can be had without a download."""
    if data not in CATALOG or Path(data).exists():
        return Path(data).exists()
    known = {"cifar10": ("cifar10", "cifar-10-batches-bin"), "fashion-mnist": ("fashion-mnist",)}
    places = [data_home() / name for name in known.get(data, ())]
    return data not in known or any(place.is_dir() for place in (*places, Path("/usr/share/datasets") / data))


def file_digest(path: Path) -> str:
    """Compute the SHA-256 of a file of weights: a gallery belongs to these weights only."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- what the model saw ---------------------------------------------------------------------------------------------


def seen_views(train: Images, config: PretrainConfig) -> dict[str, Any]:
    """Return the very views, query and key, that some training images had in the first epochs of the run."""
    index = np.linspace(0, len(train) - 1, min(VIEWED, len(train))).astype(np.int64)
    index = np.delete(index, [place for place, _ in find_unreadable(Subset(train, index), 1)])
    size = require(config.view_size or config.image_size)
    channels = 3 if train.form is None else train.form.channels
    plain, form = ((0.0,) * channels, (1.0,) * channels), train.form
    look = Look(augmentation_of(config), size, *plain, scaled=config.decode == "scaled")
    streams = {"query": Stream.VIEW_QUERY, "key": Stream.VIEW_KEY}
    columns, titles = [], []
    for epoch in range(EPOCHS):
        for name, stream in list(streams.items())[: 1 if config.dictionary == "memory-bank" else 2]:
            chosen = ChosenImages(train, index, epoch, config.seed, stand_ins=False)
            (views,) = make_views(chosen, (stream,), look)
            columns.append(views if form is None else torch.stack([form.show(view) for view in views]))
            titles.append({"epoch": epoch + 1, "view": name})
    rows = [
        {**describe_image(train, int(i)), "views": [_picture(column[row], VIEW_SIDE, 90) for column in columns]}
        for row, i in enumerate(index)
    ]
    return {"size": size, "augment": config.augment, "titles": titles, "rows": rows}


def first_filters(encoder: Encoder) -> dict[str, Any] | None:
    """Return the filters of the first convolution, each scaled to its own largest weight; or None.

    Of other channels than three none are shown.
    """
    for name, module in encoder.backbone.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            weight = module.weight.detach().float().cpu()  # (O, 3, k, k)
            scaled = 0.5 + 0.5 * weight / weight.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
            shown = [_picture(one, side=0, quality=None) for one in scaled[:MOST_FILTERS]]
            return {"layer": name, "count": len(weight), "side": weight.shape[2], "images": shown}
    return None


# --- neighbours -----------------------------------------------------------------------------------------------------


def collect_neighbours(bank: Images, queries: Images, similarity: Features, neighbour: Tensor) -> list[dict[str, Any]]:
    """Return some queries, spread over the set, with their most similar images of the bank and the similarities."""
    rows = []
    for row in _spread_over_classes(queries):
        found = [
            {**describe_image(bank, int(neighbour[row, place])), "similarity": round(float(similarity[row, place]), 3)}
            for place in range(min(FOUND, neighbour.shape[1]))
        ]
        rows.append({**describe_image(queries, row), "found": found})
    return rows


def _spread_over_classes(images: Images) -> list[int]:
    """Rows of images of as many classes as possible; the images need not be in any order."""
    if images.labels is None:
        return [int(row) for row in np.linspace(0, len(images) - 1, min(QUERIES, len(images)))]
    classes = np.unique(images.labels)
    chosen = classes[np.linspace(0, len(classes) - 1, min(QUERIES, len(classes))).astype(int)]
    members = [np.flatnonzero(images.labels == label) for label in chosen]
    rows = [int(own[len(own) // 2]) for own in members]
    rows += [int(own[len(own) // 4]) for own in members if len(own) > 2][: QUERIES - len(rows)]
    return sorted(rows, key=lambda row: int(images.labels[row]) if images.labels is not None else 0)


def describe_image(images: Images, row: int) -> dict[str, Any]:
    """Describe an image: its name, its class, and its thumbnail."""
    label = None if images.labels is None else int(images.labels[row])
    return {"name": _text(images.name(row)), "class": label, "image": _picture(see(images, row), THUMBNAIL_SIDE, 80)}


# --- the map --------------------------------------------------------------------------------------------------------


def build_map(
    images: Images, z: Features, predicted: npt.NDArray[np.int64] | None, scope: Scope, image_size: int
) -> dict[str, Any]:
    """Return where each image lies in a plane, what it is called, and all thumbnails in one picture."""
    how = f"t-SNE, {scope.map_seconds:.0f} seconds at most" if len(z) >= FEWEST else "first two principal components"
    with say_if_slow(f"arranging {len(z)} images on a map ({how})"):
        place, method = flat_map(z.numpy().astype(np.float64), scope.map_seconds)
    low, high = place.min(0), place.max(0)
    scaled = np.round(1000 * (place - low) / np.maximum(high - low, 1e-12)).astype(int)
    side, columns = min(TILE_SIDE, image_size), max(1, round(len(images) ** 0.5))
    return {
        "method": method, "tile": side, "columns": columns, "sprite": sheet(images, side, columns),
        "x": scaled[:, 0].tolist(), "y": scaled[:, 1].tolist(),
        "names": [_text(images.name(row)) for row in range(len(images))],
        "classes": None if images.labels is None else images.labels.tolist(),
        "predicted": None if predicted is None else predicted.tolist(),
    }  # fmt: skip


def sheet(images: Images, side: int, columns: int) -> str:
    """Return all images in rows of `columns`, each `side` pixels wide and high."""
    pixels = torch.zeros(3, -(-len(images) // columns) * side, columns * side, dtype=torch.uint8)
    for row in range(len(images)):
        top, left = row // columns * side, row % columns * side
        pixels[:, top : top + side, left : left + side] = _bytes(prepare_whole(see(images, row), side))
    return base64.b64encode(_webp(pixels, SHEET_QUALITY)).decode("ascii")


# --- pictures -------------------------------------------------------------------------------------------------------


def thumbnail(image: Tensor, side: int, quality: int | None) -> bytes:
    """Return an image (3, H, W), bytes or in [0, 1], brought to at most `side` pixels (0: as it is), as WebP."""
    pixels = image.float() / 255 if image.dtype == torch.uint8 else image.float()
    longest = max(pixels.shape[1:])
    if side and longest > side:
        size = [max(1, round(length * side / longest)) for length in pixels.shape[1:]]
        pixels = F.interpolate(pixels[None], size, mode="bilinear", antialias=True, align_corners=False)[0]
    return _webp(_bytes(pixels), quality)


def _picture(image: Tensor, side: int, quality: int | None) -> str:
    return base64.b64encode(thumbnail(image, side, quality)).decode("ascii")


def _bytes(pixels: Tensor) -> Tensor:
    return (pixels.clamp(0, 1) * 255).round().to(torch.uint8)


def _webp(pixels: Tensor, quality: int | None) -> bytes:
    out = io.BytesIO()
    image = PillowImage.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.save(out, "WEBP", lossless=quality is None, quality=quality or 100)
    return out.getvalue()


def _text(name: str) -> str:
    """A name that JSON and HTML can hold: bytes that are no UTF-8 become question marks in a diamond."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
