"""The schema of an Arrow or Parquet table -> which of its columns hold the images and their classes."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from moco.data.kinds import is_readable, sniff
from moco.data.lists import LABEL_NAMES
from moco.data.notes import Notes
from moco.errors import BadInputError
from moco.runtime.records import parse_json

IMAGE_NAMES = ("image", "img", "images", "jpg", "jpeg", "png", "webp", "picture", "photo")
"""The column that is taken where several hold images; else it is the first."""
FEATURES = b"huggingface"
"""The key in a schema's metadata where Hugging Face's `datasets` says what each column is, as JSON."""
MOST_NAMED = 8
BYTES = re.compile(r"(large_)?binary|struct<(.*, )?bytes: (large_)?binary.*>")
"""Types of columns that can hold files: bytes, or Hugging Face's pair of bytes and path."""
PATHS = re.compile(r"(large_)?string|struct<.*path: (large_)?string.*>")
NUMBERS = re.compile(r"u?int\d+|bool")
TEXTS = re.compile(r"(large_)?string|dictionary<values=(large_)?string.*>")
First = Callable[[str], bytes]
"""Maps a column to the bytes of its first image; nothing if it has none."""


@dataclass(frozen=True)
class Roles:
    """The columns of a table that are used."""

    image: str
    label: str | None = None
    classes: tuple[str, ...] | None = None
    """The names of the classes that `label` numbers; None if it holds text or other numbers."""

    @property
    def columns(self) -> list[str]:
        """Return all columns."""
        return [self.image] if self.label is None else [self.image, self.label]


def find_roles(schema: Any, where: str, first: First, notes: Notes) -> Roles:
    """Find the columns of images and classes, by what `datasets` says of them, else by their names, types and contents.

    `where` is what errors call the table. Raises BadInputError where no column holds images.
    """
    types = {field.name: str(field.type) for field in schema}
    features = _read_features(schema.metadata)
    said = [name for name in types if _kind(features, name) == "Image"]
    images = [name for name in said if BYTES.fullmatch(types[name])]
    if said and not images and PATHS.fullmatch(types[said[0]]):
        raise BadInputError(describe_paths(where, said[0]))
    if not images:
        binary = [name for name in types if BYTES.fullmatch(types[name])]
        images = [name for name in binary if is_readable(sniff(first(name)))]
    if not images:
        raise BadInputError(
            f"--data {where}: no column with images, expected one that holds image files as bytes; its columns are "
            f"{_list(list(types))}"
        )
    image = next((name for wanted in IMAGE_NAMES for name in images if name.lower() == wanted), images[0])
    if len(images) > 1:
        notes.remark(f"the images are those of column {image}; not used: {_list([n for n in images if n != image])}")
    label, classes = _find_label(types, features, notes)
    return Roles(image, label, classes)


def describe_paths(where: str, column: str) -> str:
    """Say that a table holds paths of images in place of the images."""
    return (
        f"--data {where}: column {column} holds the paths of images and not their bytes: give the folder of the "
        f"images, or save the data set with its images embedded (save_to_disk of a current datasets does)"
    )


def _find_label(
    types: dict[str, str], features: dict[str, Any], notes: Notes
) -> tuple[str | None, tuple[str, ...] | None]:
    """Find the column of classes, and their names where `datasets` gives them."""
    known = {
        name: tuple(features[name]["names"]) for name in types
        if _kind(features, name) == "ClassLabel" and NUMBERS.fullmatch(types[name]) and _are_names(features[name])
    }  # fmt: skip
    usable = [name for name, kind in types.items() if NUMBERS.fullmatch(kind) or TEXTS.fullmatch(kind)]
    found = list(known) or [name for name in usable if name.lower() in LABEL_NAMES]
    if not found:
        return None, None
    label = next((name for name in found if name.lower() in LABEL_NAMES), found[0])
    if len(found) > 1:
        notes.remark(f"the classes are those of column {label}; not used: {_list([n for n in found if n != label])}")
    return label, known.get(label)


def _read_features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """Read what `datasets` says of each column; nothing where there is no such text, or a damaged one."""
    try:
        features = parse_json((metadata or {})[FEATURES])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _kind(features: dict[str, Any], name: str) -> str | None:
    feature = features.get(name)
    kind = feature.get("_type") if isinstance(feature, dict) else None
    return kind if isinstance(kind, str) else None


def _are_names(feature: dict[str, Any]) -> bool:
    names = feature.get("names")
    return isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
