"""A name, folder, list or tar file -> the images of its splits."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from moco.data.archives import open_archive
from moco.data.bandfiles import group_bands
from moco.data.brightness import settle_white_level
from moco.data.folder import open_folder, open_kept
from moco.data.foldernames import EXACT
from moco.data.forms import AUTO, Form
from moco.data.hosted import fetch_data, is_hosted
from moco.data.images import Images
from moco.data.images import Split as Split
from moco.data.indexing import leave_out, open_shards, part_shards
from moco.data.kinds import Exclude, is_archive, is_readable, is_tar, read_head, sniff
from moco.data.layout import find_splits
from moco.data.lists import open_list
from moco.data.named import CATALOG, data_home, part_choice
from moco.data.notes import DATA, Notes
from moco.data.packed import is_pack, open_pack
from moco.data.settling import Asked, require_files, settle_form
from moco.data.tables import ARROW, PARQUET, find_tables, open_tables
from moco.data.tree import DiskTree
from moco.data.video import ENDINGS, drop_clips, find_videos, open_videos
from moco.errors import BadInputError, quote
from moco.runtime.files import expand_home
from moco.runtime.phases import say_if_slow


def load(
    data: str, exclude: Sequence[str] = (), white_level: int | None = None, form: Form | Asked | None = None,
    flag: str = DATA,
) -> dict[Split, Images]:  # fmt: skip
    """Open the splits of a catalogue name, a folder (flat, class folders, or splits of either), a list, or shards.

    Shards are a folder of tar files in WebDataset layout, splits of such, or a single one; a folder may also be what
    `moco pack` wrote. A set without splits is all `train`. Files and folders whose names fit a pattern of `exclude` are
    left out. Files of 16 bits are scaled so that `white_level` becomes white, by default the range that they use.
    With a `form`, that of weights or as it is asked for, they are channels at full depth where they are more than bytes
    of RGB, and NumPy and DICOM files are images too.
    What is left out, and how folders are understood where that is not plain, is printed to standard error, with the
    `flag` that named the set.
    Raises BadInputError where there is no such thing, or no image in it.
    """
    notes, patterns = Notes(), Exclude(exclude)
    with say_if_slow(f"listing the images of {data}"):
        splits = _open(data, patterns, notes) if form is None else _open_channels(data, patterns, notes, form.bands)
    if patterns.patterns and "by --exclude" not in notes.skipped:
        notes.remark(f"--exclude {' '.join(patterns.patterns)} fits nothing in it")
    first = next(iter(splits.values()))
    if isinstance(form, Asked):
        form = None if white_level is not None and form.channels == AUTO else settle_form(first, form, notes, data)
    elif form is not None:
        require_files(first, form, data)
    if form is None and first.form is not None:
        raise BadInputError(
            f"--data {data}: a pack of {first.form.kind}, but this command takes 8-bit RGB: pack the files again with "
            f"--channels rgb"
        )
    if form is not None:
        notes.print(data, {split: len(images) for split, images in splits.items()}, flag)
        return {split: images.with_form(form) for split, images in splits.items()}
    level = settle_white_level(first, white_level, notes)
    notes.print(data, {split: len(images) for split, images in splits.items()}, flag)
    return {split: images if level is None else images.with_white_level(level) for split, images in splits.items()}


def _open_channels(data: str, exclude: Exclude, notes: Notes, bands: Sequence[str]) -> dict[Split, Images]:
    """Open splits as `_open` does, of NumPy and DICOM files where there are no others, and put bands together."""
    try:
        splits = _open(data, exclude, notes)
    except BadInputError as error:
        if not expand_home(data).is_dir():
            raise
        notes.skipped.clear()
        try:
            splits = _open(data, Exclude(exclude.patterns, arrays=True), notes)
        except BadInputError:
            raise error from None
    if not bands or is_pack(expand_home(data)):  # which has them together
        return splits
    return {split: group_bands(images, bands, notes, data) for split, images in splits.items()}


def _open(data: str, exclude: Exclude, notes: Notes) -> dict[Split, Images]:
    every, place = part_choice(data)
    path = fetch_data(place) if is_hosted(place) else expand_home(place)
    if data in CATALOG and not path.exists():
        folder = data_home() / data
        named = load_folder(folder, notes=Notes()) if os.path.isdir(folder / "train") else CATALOG[data]()
        return {split: leave_out(images, exclude, notes) for split, images in named.items()}
    videos = find_videos(path, exclude) if path.is_dir() and not is_pack(path) else []
    if path.suffix.lower() in ENDINGS and path.is_file():
        path, videos = path.parent, [path.name]
    if videos or every is not None:
        return _open_videos(path, videos, every, data, exclude, notes)
    if path.is_dir():
        if is_pack(path):
            return {split: leave_out(images, exclude, notes) for split, images in open_pack(path).items()}
        return load_folder(path, exclude, notes)
    if path.is_file():
        return _open_file(path, exclude, notes)
    if os.path.lexists(path):
        raise BadInputError(f"--data {data}: {_describe_special(path)}, expected a folder, a text list or a tar file")
    names = ", ".join(CATALOG)
    raise BadInputError(f"--data {data}: no such folder or file, and not one of the names {names}")


def _open_videos(
    root: Path, videos: Sequence[str], every: int | None, data: str, exclude: Exclude, notes: Notes
) -> dict[Split, Images]:
    if not videos:
        raise BadInputError(f"--data {data}: no videos there, expected a file or a folder of {' '.join(ENDINGS)}")
    splits = _open_tar(open_videos(root, videos, every, data), exclude, notes)
    return {split: drop_clips(images, videos) for split, images in splits.items()}


def _describe_special(path: Path) -> str:
    return "a link that leads nowhere" if not path.exists() else "a pipe, socket or device"


def _open_file(path: Path, exclude: Exclude, notes: Notes) -> dict[Split, Images]:
    """Open a single file by its content. Raises BadInputError, naming what it is, if it holds no images."""
    try:
        head = read_head(os.fspath(path))
    except OSError as error:
        raise BadInputError(f"--data {path}: cannot be read ({error.strerror})") from error
    kind = sniff(head)
    if path.suffix.lower() in (ARROW, PARQUET):
        return {"train": leave_out(open_tables([path], path.name, notes), exclude, notes)}
    if path.suffix.lower() == ".tar" or is_tar(path):
        return _open_tar(path, exclude, notes)
    if is_archive(kind) and path.suffix.lower() not in (".npz", ".docx", ".xlsx", ".pptx", ".pt", ".pth", ".jar"):
        made = open_archive(path)
        try:
            return _open_tar(made, exclude, notes)
        except BadInputError as error:  # a user knows the archive, and not what was made of it
            raise BadInputError(str(error).replace(os.fspath(made.parent), os.fspath(path))) from error
    if is_readable(kind):
        raise BadInputError(
            f"--data {path}: one image ({kind}), expected a folder of images, a text list of paths, or a tar file: "
            f"give its folder"
        )
    if kind is not None or head[:1] in (b"{", b"[", b"<"):
        what = kind or {b"{": "JSON", b"[": "JSON", b"<": "XML or HTML"}[head[:1]]
        raise BadInputError(
            f"--data {path}: a file of another kind ({what}), expected a folder of images, a text list of paths, or a "
            f"tar file"
        )
    return {"train": open_list(path, exclude, notes)}


def _open_tar(path: Path, exclude: Exclude, notes: Notes) -> dict[Split, Images]:
    images, parts = open_shards([path], path.name, notes)
    return {split: leave_out(part, exclude, notes) for split, part in part_shards(images, parts).items()}


def load_folder(root: Path, exclude: Exclude | None = None, notes: Notes | None = None) -> dict[Split, Images]:
    """Open the splits of a folder, each flat or with a folder for every class."""
    exclude, notes = exclude or Exclude(), notes or Notes()
    kept = open_kept(root, exclude, notes)  # then it has no splits: no folder in it was added since
    if kept is not None:
        return {"train": kept}
    tables = find_tables(root, exclude, notes)
    if tables:
        opened = {split: leave_out(open_tables(paths, split, notes), exclude, notes) for split, paths in tables.items()}
        first = {split: paths[0] if paths[0].parent == root else paths[0].parent for split, paths in tables.items()}
        return {
            split: _number_as_train(split, images, opened["train"], first[split]) for split, images in opened.items()
        }
    tree = DiskTree(os.fspath(root), exclude)
    folders = find_splits(tree, notes)
    if not folders or list(folders) == ["train"]:
        top = folders.get("train", b"")
        if (shards := find_shards(tree, top)) and not folders:
            return _open_by_name(root, shards, exclude, notes)
        return {"train": _open_split(tree, "train", top, exclude, notes)}
    splits = {split: _open_split(tree, split, top, exclude, notes) for split, top in folders.items()}
    return {
        split: _number_as_train(split, images, splits["train"], root / os.fsdecode(folders[split][:-1]))
        for split, images in splits.items()
    }


def _number_as_train(split: Split, images: Images, train: Images, where: Path) -> Images:
    """Give the images of an evaluation's split the labels that their classes have in train."""
    same = split in ("train", "unlabeled") or not train.classes
    return images if same else _number_as(images, train.classes, where)


def _open_split(tree: DiskTree, split: Split, top: bytes, exclude: Exclude, notes: Notes) -> Images:
    shards = find_shards(tree, top)
    if shards:
        return leave_out(open_shards(shards, split, notes)[0], exclude, notes)
    return open_folder(Path(tree.name, os.fsdecode(top)), exclude, notes, top)


def find_shards(tree: DiskTree, top: bytes) -> list[Path]:
    """List the tar files of a folder that holds nothing else to take for a data set: no image and no folder."""
    listing = tree.list(top)
    if listing.folders or listing.annotations or listing.loose:
        return []
    return [Path(tree.name, os.fsdecode(top + name)) for name in sorted(listing.shards)]


def _open_by_name(root: Path, shards: Sequence[Path], exclude: Exclude, notes: Notes) -> dict[Split, Images]:
    """Open shards in one folder, in splits where the name of each has one as a word (imagenet-train-0001.tar)."""
    named: dict[Split | None, list[Path]] = {}
    for shard in shards:
        found = {EXACT[word] for word in re.split(r"[^a-z]+", shard.name.lower()) if word in EXACT}
        named.setdefault(found.pop() if len(found) == 1 else None, []).append(shard)
    if "train" not in named:
        images, parts = open_shards(shards, "train", notes)
        return {split: leave_out(part, exclude, notes) for split, part in part_shards(images, parts).items()}
    if None in named:
        raise BadInputError(
            f"--data {root}: some shards say train in their name, and {named[None][0].name} does not say which split "
            f"it is of: expected train, val or test in each, or folders of these names"
        )
    train = open_shards(named["train"], "train", notes)[0]
    splits: dict[Split, Images] = {"train": leave_out(train, exclude, notes)}
    for split, paths in named.items():
        if split is not None and split != "train":
            part = _number_as(open_shards(paths, split, notes)[0], train.classes, root)
            splits[split] = leave_out(part, exclude, notes)
    return splits


def _number_as(images: Images, known: tuple[str, ...], where: Path) -> Images:
    """Give the images of another split the labels that their classes have in train, however a letter is composed."""
    if images.labels is None or not known or images.classes == known:
        return images
    composed = [unicodedata.normalize("NFC", name) for name in known]
    exact, number = {name: i for i, name in enumerate(known)}, {name: i for i, name in enumerate(composed)}
    places = [exact.get(name, number.get(unicodedata.normalize("NFC", name), -1)) for name in images.classes]
    if -1 in places:
        few = ", ".join(map(repr, known[:5])) + (", ..." if len(known) > 5 else "")
        unknown = images.classes[places.index(-1)]
        raise BadInputError(
            f"--data {where}: class {quote(unknown)} is not in the train split, which has {few}: leave {where.name}/ "
            f"out with --exclude {where.name}, or give the training split's folder as --data"
        )
    labels = np.array(places, np.int64)[images.labels]
    images.labels, images.classes = labels, known
    return images
