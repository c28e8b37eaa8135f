"""Features of images in a file that any numpy reads, without executing anything."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def run(config: EmbedConfig) -> dict[str, Any]:
    """`moco embed`: write features (N, C), labels (-1: none), paths, splits and the classes' names to an .npz."""
    check(config)
    if config.out.suffix != ".npz":
        raise BadInputError(f"--out {config.out}: expected a name that ends in .npz")
    if not config.out.parent.is_dir():
        raise BadInputError(f"--out {config.out}: there is no folder {config.out.parent}: make it first")
    require_file_name("--out", config.out)
    with session(config) as subject:
        parts = all_splits(config.data, config.split, config.exclude, subject.weights.white_level)
        features = []
        for name, images in parts.items():
            how = dataclasses.replace(subject.how, unit=config.unit, workers=workers_for(config, images))
            features.append(encode(subject.encoder, images, how, title=f"encoding {len(images)} images of {name}"))
        arrays = {"features": np.concatenate([part.numpy() for part in features]), **describe_rows(parts)}
        if distributed.rank() == 0:
            write_npz(config.out, arrays)
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


def write_npz(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays so that the file is at every moment the old one or the new one; no pickled object is in it."""
    try:
        with written_aside(path) as partial:
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            partial.replace(path)
    except OSError as error:
        raise BadInputError(f"--out {path}: cannot be written ({error.strerror})") from error
