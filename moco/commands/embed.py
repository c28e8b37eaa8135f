"""Features of images in files that any numpy or spreadsheet reads, without executing anything."""

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from moco.data.images import Images
from moco.errors import BadInputError
from moco.evaluation.config import EmbedConfig
from moco.evaluation.features import encode
from moco.evaluation.session import all_splits, say, session, workers_for
from moco.runtime import distributed
from moco.runtime.fields import check
from moco.runtime.files import require_file_name, written_aside

UNLABELLED = -1
Arrays = Mapping[str, npt.NDArray[Any]]


def run(config: EmbedConfig) -> dict[str, Any]:
    """`moco embed`: write features (N, C), labels (-1: none), paths, splits and the classes' names."""
    check(config)
    if config.out.suffix not in WRITERS:
        raise BadInputError(f"--out {config.out}: expected a name that ends in {', '.join(WRITERS)}")
    if not config.out.parent.is_dir():
        raise BadInputError(f"--out {config.out}: there is no folder {config.out.parent}: make it first")
    require_file_name("--out", config.out)
    with session(config) as subject:
        parts = all_splits(config.data, config.split, config.exclude, subject.weights.white_level, subject.weights.form)
        features = []
        for name, images in parts.items():
            how = dataclasses.replace(subject.how, unit=config.unit, workers=workers_for(config, images))
            features.append(encode(subject.encoder, images, how, title=f"encoding {len(images)} images of {name}"))
        arrays = {"features": np.concatenate([part.numpy() for part in features]), **describe_rows(parts)}
        if distributed.rank() == 0:
            WRITERS[config.out.suffix](config.out, arrays)
        count, width = arrays["features"].shape
        say(f"{config.out}: {count} features of {width} numbers ({', '.join(parts)})")
    return {"out": str(config.out), "images": count, "width": width, "splits": list(parts), "weights": config.weights}


def describe_rows(parts: Mapping[Any, Images]) -> dict[str, npt.NDArray[Any]]:
    """What stands beside the features, a row each, as arrays of numbers and text of fixed length; and the classes."""
    classes = tuple(dict.fromkeys(name for images in parts.values() for name in images.classes))
    number = {name: i for i, name in enumerate(classes)}
    labels = [
        np.full(len(images), UNLABELLED)
        if images.labels is None
        else np.array([number[name] for name in images.classes], np.int64)[images.labels]  # splits may differ in these
        for images in parts.values()
    ]
    return {
        "labels": np.concatenate(labels).astype(np.int64),
        "paths": np.array([images.name(row) for images in parts.values() for row in range(len(images))], np.str_),
        "splits": np.array([name for name, images in parts.items() for _ in range(len(images))], np.str_),
        "classes": np.array(classes, np.str_),
    }


def write_npz(path: Path, arrays: Arrays) -> None:
    """Write arrays so that the file is at every moment the old one or the new one; no pickled object is in it."""
    with _replaced(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def write_npy(path: Path, arrays: Arrays) -> None:
    """Write the features (N, C), which numpy maps into memory, and NAME.index.csv beside them with a row for each."""
    with _replaced(path.with_suffix(".index.csv")) as file:
        _write_rows(file, arrays, features=False)
    with _replaced(path) as file:
        np.save(file, arrays["features"], allow_pickle=False)


def write_csv(path: Path, arrays: Arrays) -> None:
    """Write a table: path, split, label (a class's name, or empty) and the numbers f0 to f(C-1)."""
    with _replaced(path) as file:
        _write_rows(file, arrays, features=True)


def _write_rows(file: BinaryIO, arrays: Arrays, *, features: bool) -> None:
    text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
    writer, width = csv.writer(text, lineterminator="\n"), arrays["features"].shape[1] if features else 0
    writer.writerow(["path", "split", "label", *(f"f{column}" for column in range(width))])
    classes = arrays["classes"].tolist()
    for path, split, label, row in zip(
        arrays["paths"].tolist(), arrays["splits"].tolist(), arrays["labels"].tolist(), arrays["features"], strict=True
    ):
        numbers = map(str, row) if features else ()  # the shortest text that gives the same fp32 back
        writer.writerow([path, split, "" if label < 0 else classes[label], *numbers])
    text.flush()
    text.detach()


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """Give a file beside `path` that takes its place when it is whole. Raises BadInputError where that fails."""
    try:
        with written_aside(path) as partial:
            with partial.open("wb") as file:
                yield file
            partial.replace(path)
    except OSError as error:
        raise BadInputError(f"--out {path}: cannot be written ({error.strerror})") from error


WRITERS: dict[str, Callable[[Path, Arrays], None]] = {".npz": write_npz, ".csv": write_csv, ".npy": write_npy}
"""The ending of --out -> what writes it."""
