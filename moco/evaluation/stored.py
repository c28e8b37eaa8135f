"""Records how a file of features was made, so that new images can be added to it."""

import csv
import importlib
import os
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from moco.data.images import Images, Labels, PathTable
from moco.data.replacement import list_names
from moco.errors import BadInputError
from moco.evaluation.pieces import Floats, checksum_rows
from moco.evaluation.tables import COLUMNS, ROWS_AT_A_TIME
from moco.runtime.checkpoint import load_tensors, save_tensors
from moco.runtime.files import LARGEST_LIST, open_bounded
from moco.runtime.randomness import Words

ENDING = ".origin.safetensors"
"""Suffix of the file that describes a file of features."""
COPIED = 1 << 20


@dataclass(frozen=True)
class Origin:
    """The images and the encoder that a file of features was made from."""

    settings: Mapping[str, Any]
    """All that a feature depends on but its image."""
    names: PathTable
    """`split/path` of each."""
    contents: Words
    """What tells an image from another one of the same name; the contents of `Marks`."""
    times: Words
    checksum: int
    """CRC-32 of the features."""


def record_origin(
    parts: Mapping[Any, Images], rows: Mapping[Any, Labels], settings: Mapping[str, Any], features: Floats
) -> Origin:
    """Describe features of some rows of each split."""
    marks = [images.identify(rows[split]) for split, images in parts.items()]
    kinds = dict.fromkeys(mark.kind for mark in marks)
    names = PathTable(
        os.fsencode(f"{split}/{images.name(row)}") for split, images in parts.items() for row in rows[split].tolist()
    )
    return Origin(
        {**settings, "images from": " and ".join(kinds)}, names, np.concatenate([mark.contents for mark in marks]),
        np.concatenate([mark.times for mark in marks]), checksum_rows(features),
    )  # fmt: skip


def write_origin(out: Path, origin: Origin) -> None:
    """Write it beside the features. Raises BadInputError where that fails."""
    tensors = {
        "text": torch.from_numpy(origin.names.text.copy()), "ends": torch.from_numpy(origin.names.ends.copy()),
        "contents": torch.from_numpy(origin.contents.view(np.int32)),
        "times": torch.from_numpy(origin.times.view(np.int32)),
    }  # fmt: skip
    path = out.with_name(out.name + ENDING)
    try:
        save_tensors(path, tensors, {"settings": dict(origin.settings), "checksum": origin.checksum})
    except OSError as error:
        raise BadInputError(f"--out {path}: cannot be written ({error.strerror})") from error


def read_origin(out: Path) -> Origin:
    """Read what a file of features was made of. Raises BadInputError where that is not known."""
    path = out.with_name(out.name + ENDING)
    if not out.is_file() or not path.is_file():
        missing = path if out.is_file() else out
        raise BadInputError(f"--add: there is no file {missing}: leave --add out, which encodes all images")
    try:
        tensors, about = load_tensors(path)
        names = PathTable.from_arrays(tensors["text"].numpy(), tensors["ends"].numpy())
        marks = [tensors[name].numpy().view(np.uint32) for name in ("contents", "times")]
        return Origin(dict(about["settings"]), names, marks[0], marks[1], int(about["checksum"]))
    except (BadInputError, KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{path}: cannot be read ({error}): leave --add out, which encodes all images") from error


# --- comparing with the stored file -----------------------------------------------------------------------------------


def find_stored(out: Path, was: Origin, parts: Mapping[Any, Images], settings: Mapping[str, Any]) -> dict[Any, Labels]:
    """Give for each split the stored row of each image; -1 for new ones.

    Raises BadInputError where the features were made with other settings or weights, or are older than their images:
    it names those that were removed or changed since. Files that all have another time, and no other size, are copies.
    """
    rows = {split: np.arange(len(images)) for split, images in parts.items()}
    now = record_origin(parts, rows, settings, np.zeros((0, 1), np.float32))
    for name, value in now.settings.items():
        if was.settings.get(name) != value:
            raise BadInputError(
                f"--add: {out} was made with {_say(name, was.settings.get(name))}, and now it is {_say(name, value)}: "
                f"give the same, or leave --add out"
            )
    places = {was.names[row]: row for row in range(len(was.names))}
    row = np.array([places.pop(now.names[number], -1) for number in range(len(now.names))], np.int64)
    old = row >= 0
    other_content = was.contents[row[old]] != now.contents[old]
    other_time = was.times[row[old]] != now.times[old]
    if len(row[old]) > 1 and other_time.all() and not other_content.any():
        warnings.warn(f"{out}: all its images have a new modification time and the same size: treated as copies",
                      stacklevel=2)  # fmt: skip
        other_time[:] = False
    changed = np.flatnonzero(old)[other_content | other_time]
    said = [
        f"{len(names)} {what} ({list_names(map(os.fsdecode, names))})"
        for what, names in (("removed", list(places)), ("changed", [now.names[one] for one in changed.tolist()]))
        if names
    ]
    if said:
        raise BadInputError(
            f"--add: {out} is older than its images ({' and '.join(said)}): leave --add out to encode all images"
        )
    ends = np.cumsum([len(images) for images in parts.values()])[:-1]
    return dict(zip(parts, np.split(row, ends), strict=True))


def _say(name: str, value: Any) -> str:
    return f"{name} {str(value)[:12] if name == 'weights' else value}"


# --- the features of a file -----------------------------------------------------------------------------------------


def map_stored(out: Path, was: Origin, width: int, folder: Path) -> Floats:
    """Copy the features (N, width) of a file to a plain one in `folder`, and map it.

    Raises BadInputError where they are not the ones that the file beside it describes.
    """
    plain, count = folder / "stored.f32", len(was.names)
    try:
        with plain.open("wb") as file:
            for part in READERS[out.suffix](out):
                file.write(part)
        sound = plain.stat().st_size == 4 * count * width
        features = np.memmap(plain, np.float32, "r", shape=(count, width)) if sound and count else None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BadInputError(f"--add: {out} cannot be read ({error}): leave --add out") from error
    if features is None or checksum_rows(features) != was.checksum:
        described = f"{out.name}{ENDING}"
        raise BadInputError(f"--add: {out} does not hold the features that {described} describes: leave --add out")
    return features


@contextmanager
def _features_of(path: Path) -> Iterator[BinaryIO]:
    """Open the .npy file that the features of a .npz or .npy file are."""
    if path.suffix == ".npy":
        with path.open("rb") as file:
            yield file
    else:
        with zipfile.ZipFile(path) as archive, archive.open("features.npy") as member:
            yield member  # type: ignore[misc]  # a file that is only read


def _read_numpy(path: Path) -> Iterator[bytes]:
    with _features_of(path) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        _, by_columns, kind = read(file)
        if by_columns or kind != np.float32:
            raise ValueError(f"features of {kind}, expected float32 by rows")
        while part := file.read(COPIED):
            yield part


def _read_csv(path: Path) -> Iterator[bytes]:
    with open_bounded(path, LARGEST_LIST << 8) as file:
        lines = (line.decode("utf-8", "surrogateescape") for line in file)
        reader = csv.reader(lines)
        next(reader, None)
        for row in reader:
            yield np.array(row[len(COLUMNS) :], np.float32).tobytes()


def _read_parquet(path: Path) -> Iterator[bytes]:
    parquet = importlib.import_module("pyarrow.parquet")
    with path.open("rb") as file:
        for batch in parquet.ParquetFile(file).iter_batches(ROWS_AT_A_TIME, columns=["features"]):
            numbers: npt.NDArray[np.float32] = batch.column(0).flatten().to_numpy()
            yield np.ascontiguousarray(numbers, np.float32).tobytes()


READERS = {".npz": _read_numpy, ".npy": _read_numpy, ".csv": _read_csv, ".parquet": _read_parquet}
"""The ending of a file -> what reads the bytes of its features."""
