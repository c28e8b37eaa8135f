"""A folder that `moco pack` wrote -> the images of its splits."""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch.utils.dlpack

from moco.data import columns
from moco.data.forms import Form
from moco.data.images import ArrayImages, Images, PathTable, Split
from moco.data.shards import open_index
from moco.errors import BadInputError
from moco.runtime.files import read_bounded
from moco.shapes import Bytes

Format = Literal["arrays", "shards"]

PACK, PIXELS, INDEX = "pack.json", "pixels.npy", "index"
"""A pack holds pack.json; SPLIT/pixels.npy or SPLIT/000000.tar; SPLIT/index/."""
VERSION = 1
ARRAY_COLUMNS = {"labels": "i8", "names": "u1", "name_ends": "i8"}


def is_pack(path: Path) -> bool:
    """Tell whether `moco pack` wrote this folder."""
    return (path / PACK).is_file()


def open_pack(path: Path) -> dict[Split, Images]:
    """Open the splits of a pack. Raises BadInputError where something in it is missing, cut off, or of another size."""
    facts, form = _read_facts(path)
    if facts["format"] == "shards":
        return {split: open_packed_shards(path / split) for split in facts["splits"]}
    return {split: open_arrays(path / split, form) for split in facts["splits"]}


def describe_packed(form: Form) -> dict[str, Any]:
    """Return what pack.json says of arrays that are no bytes of RGB."""
    return {name: value for name, value in dataclasses.asdict(form).items() if name != "shown"}


def _read_form(facts: dict[str, Any]) -> Form:
    """Read what `describe_packed` wrote. Raises BadInputError, KeyError, TypeError or ValueError for anything else."""
    return Form(**{**facts, **{name: tuple(facts[name]) for name in ("mean", "std", "bands")}})


def _read_facts(path: Path) -> tuple[dict[str, Any], Form | None]:
    form: Form | None = None
    try:
        facts = json.loads(read_bounded(path / PACK))
        sound = (
            facts["moco_pack"] == VERSION
            and facts["format"] in get_args(Format)
            and "train" in facts["splits"]
            and set(facts["splits"]) <= set(get_args(Split))
        )
        form = _read_form(facts["form"]) if "form" in facts else None
    except (BadInputError, OSError, ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise BadInputError(f"--data {path}: its {PACK} is not that of a pack of version {VERSION}: pack again")
    assert isinstance(facts, dict)
    return facts, form


def open_arrays(folder: Path, form: Form | None = None) -> ArrayImages:
    """Open a split of arrays; its pixels are mapped from disk, and only those are read that are asked for."""
    stored = columns.load_columns(folder / INDEX, ARRAY_COLUMNS)
    pixels = _map_pixels(folder / PIXELS, form)
    if (
        stored is None
        or len(stored[0]["name_ends"]) != len(pixels) + 1
        or not columns.labels_fit(stored[0]["labels"], len(pixels), stored[1].get("classes", []))
    ):
        raise BadInputError(f"--data {folder}: its index is missing or damaged: pack again")
    arrays, facts = stored
    labels = arrays["labels"] if len(arrays["labels"]) else None
    return ArrayImages(
        pixels, labels, tuple(facts.get("classes", ())), PathTable.from_arrays(arrays["names"], arrays["name_ends"]),
        form=form,
    )  # fmt: skip


def _map_pixels(path: Path, form: Form | None) -> Bytes:
    """Map the file as a tensor, read-only: writing to it ends the process.

    A private mapping could be written to, but Linux refuses one that is larger than the memory.
    """
    try:
        pixels = columns.map_array(path)
    except columns.DAMAGED as error:
        raise BadInputError(f"{path}: missing, cut off or damaged ({error}): pack again") from error
    kind, channels, words = (np.uint8, 3, "bytes") if form is None else (np.float32, form.channels, "float32")
    if pixels.dtype != kind or pixels.ndim != 4 or pixels.shape[1] != channels or not pixels.flags.c_contiguous:
        raise BadInputError(
            f"{path}: holds {pixels.dtype} {pixels.shape}, expected {words} (n, {channels}, H, W): pack again"
        )
    return torch.utils.dlpack.from_dlpack(pixels)  # from_numpy would warn that it cannot be written to


def open_packed_shards(folder: Path) -> Images:
    """Open a split of shards, which must have the sizes that they were written with."""
    paths = sorted(folder.glob("*.tar"))
    images = open_index(folder / INDEX, paths, times=False)
    if images is None:
        raise BadInputError(
            f"--data {folder}: its index is missing or damaged, or a shard is missing or has another size than when "
            f"it was packed: copy it again whole, or pack again"
        )
    return images
