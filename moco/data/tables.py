"""A folder of Arrow or Parquet files, such as a data set that `datasets` saved -> the images of its splits."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from moco.data.arrow import index_arrow, require_pyarrow
from moco.data.foldernames import EXACT, SPLIT_WORDS, split_of
from moco.data.images import Images, Split
from moco.data.indexing import open_shards
from moco.data.kinds import Exclude, has_image_ending, is_system
from moco.data.notes import Notes
from moco.data.parquet import convert_parquet
from moco.data.search import is_folder, is_regular
from moco.errors import BadInputError, one_line
from moco.runtime.records import read_object

SAVED, SAVED_SPLITS = "state.json", "dataset_dict.json"
"""Files that `datasets` writes beside a data set, and beside the folders of its splits."""
ARROW, PARQUET = ".arrow", ".parquet"
DEEPEST = 3
"""Number of folder levels below --data that are searched for tables."""
MOST_LOOKED_AT = 20_000
"""Number of files and folders that are inspected before a folder counts as one without tables."""

Tables = dict[Split, list[Path]]


def find_tables(root: Path, exclude: Exclude, notes: Notes) -> Tables:
    """Find the tables of each split in a folder that holds no images; nothing where there are none.

    What `datasets` saved says itself which files and splits it has. Other tables are split by the words in the names of
    their files and folders (train-00000-of-00002.parquet). Raises BadInputError where that is not plain.
    """
    if (root / SAVED_SPLITS).is_file():
        return _find_saved_splits(root, exclude, notes)
    if (root / SAVED).is_file():
        return {"train": _read_saved(root)}
    named: dict[Split | None, list[Path]] = {}
    folders = dict[str, None]()
    for name in sorted(_walk(root, exclude), key=os.fsencode):
        split, folder = _read_name(name)
        named.setdefault(split, []).append(root / name)
        folders[folder] = None
    if len({path.suffix.lower() for paths in named.values() for path in paths}) > 1:
        raise BadInputError(f"--data {root}: has {ARROW} and {PARQUET} files: leave one kind out, --exclude '*{ARROW}'")
    if len(folders) > 1:
        raise BadInputError(
            f"--data {root}: holds several data sets, in {', '.join(folder or '.' for folder in folders)}: give the "
            f"folder of one of them"
        )
    return _choose(root, named)


def open_tables(paths: Sequence[Path], split: str, notes: Notes) -> Images:
    """Open the images of Arrow or Parquet files. Raises BadInputError where one is damaged or has no images."""
    require_pyarrow(paths[0])
    label = split
    if paths[0].suffix.lower() == PARQUET:
        paths = [convert_parquet(path) for path in paths]
        label = f"{split}-{hashlib.sha256(os.fsencode(' '.join(map(str, paths)))).hexdigest()[:16]}"
    return open_shards(paths, label, notes, index_arrow)[0]


def _find_saved_splits(root: Path, exclude: Exclude, notes: Notes) -> Tables:
    """Read which splits a DatasetDict has; those whose names mean none are not used."""
    names = read_object(root / SAVED_SPLITS).get("splits")
    if not isinstance(names, list) or not names or not all(_is_name(name) for name in names):
        raise BadInputError(f"--data {root}: its {SAVED_SPLITS} names no splits: save the data set again")
    found: dict[Split | None, list[Path]] = {}
    for name in names:
        if exclude.fits(os.fsencode(name)):
            notes.skip("by --exclude", name)
            continue
        split = EXACT.get(name.lower()) or split_of(name)
        if split is None and len(names) > 1:
            notes.remark(f"not used: split {one_line(name)}, whose name is none of train, validation, test, unlabeled")
        elif split in found:
            raise BadInputError(f"--data {root}: two of its splits, {', '.join(names)}, are {split}: give one's folder")
        else:
            found[split] = _read_saved(root / name)
    return _choose(root, found)


def _read_saved(folder: Path) -> list[Path]:
    """Read which files a saved data set has. Raises BadInputError where they are not there."""
    state = read_object(folder / SAVED) if (folder / SAVED).is_file() else {}
    if state.get("_indices_data_files"):
        raise BadInputError(
            f"--data {folder}: holds a selection of rows that an old datasets saved: save it again with a newer one"
        )
    files = state.get("_data_files")
    listed = files if isinstance(files, list) else []
    names = [file.get("filename") if isinstance(file, dict) else None for file in listed]
    if not names or not all(_is_name(name) for name in names):
        raise BadInputError(f"--data {folder}: has no {SAVED} that names its files: save the data set again")
    paths = [folder / str(name) for name in names]
    for path in paths:
        if not path.is_file():
            raise BadInputError(
                f"--data {folder}: {path.name}, which its {SAVED} names, is missing: copy it again whole"
            )
    return paths


def _walk(root: Path, exclude: Exclude) -> Iterator[str]:
    """Yield the paths of tables below a folder; none where an image, or nothing for long, comes first."""
    found, waiting, looked = list[str](), [""], 0
    while waiting:
        below = waiting.pop()
        try:
            entries = os.scandir(root / below)
        except OSError:
            continue
        with entries:
            for entry in entries:
                looked += 1
                path, name = below + entry.name, os.fsencode(entry.name)
                if entry.name.startswith(".") or is_system(name) or exclude.fits(os.fsencode(path)):
                    continue
                if has_image_ending(name) or looked > MOST_LOOKED_AT:
                    return
                if is_folder(entry) and path.count("/") < DEEPEST:
                    waiting.append(f"{path}/")
                elif os.path.splitext(entry.name)[1].lower() in (ARROW, PARQUET) and is_regular(entry):
                    found.append(path)
    yield from found


def _read_name(name: str) -> tuple[Split | None, str]:
    """Say which split a table is of, by its name and its folders', and in which folder its data set lies."""
    *folders, last = name.split("/")
    split = _split_of_words(os.path.splitext(last)[0])
    while folders and (split_of(folders[-1]) or folders[-1].lower() in ("data", "default")):
        split = split or split_of(folders[-1])
        folders.pop()
    return split, "/".join(folders)


def _split_of_words(text: str) -> Split | None:
    """Return the split that the words of a name mean, among other words; None if they mean none."""
    words = re.findall(r"[a-z]+", text.lower())
    exact, wider = ({table[word] for word in words if word in table} for table in (EXACT, SPLIT_WORDS))
    found = exact or wider
    return found.pop() if len(found) == 1 else None


def _choose(root: Path, named: Mapping[Split | None, list[Path]]) -> Tables:
    """Give each split its tables; a lone one, and tables without a split's name, are `train`."""
    if len(named) == 1:
        return {"train": next(iter(named.values()))}
    if named and (None in named or not named.keys() & {"train", "unlabeled"}):
        lacking = (
            f"{named[None][0].name} does not say which split it is of"
            if None in named
            else f"has {', '.join(map(str, named))} and no train"
        )
        raise BadInputError(f"--data {root}: {lacking}: expected train, validation or test in the name of each table")
    tables = {split: paths for split, paths in named.items() if split is not None}
    if "train" not in tables and tables:
        tables["train"] = tables.pop("unlabeled")
    return dict(sorted(tables.items(), key=lambda item: item[0] != "train"))


def _is_name(name: object) -> bool:
    """Return whether a name from a file is the name of an entry of its folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")
