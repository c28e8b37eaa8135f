"""How the folders of a set of images are understood: which are splits, which are classes, and what lies beside them."""

import os

from moco.data.foldernames import EXACT, holds_no_class, split_of
from moco.data.images import Split
from moco.data.notes import Notes
from moco.data.tree import Listing, Tree
from moco.errors import BadInputError

MOST_LOOKED_INTO = 20
"""Folders without a split's name are searched for images only where there are no more than these."""
DEEPEST = 6
"""So many folders that hold nothing but one folder are gone through."""


def find_splits(tree: Tree, notes: Notes, top: bytes = b"") -> dict[Split, bytes]:
    """Find the folders of the splits, as paths with a slash at the end; empty where all is one set.

    `train`, `val`, `validation`, `valid` and `test` are splits wherever there is a `train`. Other names, such as
    train2017, training_set or unlabeled, are splits where two of them are there, or nothing else is. A folder around
    the splits is gone through. Raises BadInputError where two folders are of one split, and where there is no training
    split beside the others.
    """
    listing = tree.list(top)
    texts = {os.fsdecode(name): name for name in listing.folders}
    named = {text: split for text in texts if (split := EXACT.get(text.lower()) or split_of(text))}
    found = set(named.values())
    trains = bool(found & {"train", "unlabeled"})
    others = [text for text in texts if text not in named]
    if named and len(others) <= MOST_LOOKED_INTO:
        others = [text for text in others if tree.holds_data(top + texts[text] + b"/")]
    alone = not others and not listing.loose
    if "train" in {EXACT.get(text.lower()) for text in named} or (trains and (len(found) > 1 or alone)):
        folders = _give_each_its_folder(tree.name, named)
        _remark(folders, others, listing, notes)
        return {split: top + texts[text] + b"/" for split, text in folders.items()}
    if len(found) > 1 and alone:
        raise BadInputError(f"--data {tree.name}: has {', '.join(named)} and no train: name one of them, or add train/")
    if len(named) == 1 and alone and not listing.shards:
        return {"train": top + texts[next(iter(named))] + b"/"}  # a lone split
    if named:
        notes.remark(f"{', '.join(f'{text}/' for text in named)}: not a split, for there is no train/ beside it")
    return {} if listing.loose or listing.shards else _find_below(tree, listing, notes, top)


def _find_below(tree: Tree, listing: Listing, notes: Notes, top: bytes) -> dict[Split, bytes]:
    """Find splits in the only folder that holds images."""
    if len(listing.folders) > MOST_LOOKED_INTO or top.count(b"/") >= DEEPEST:
        return {}
    holding = [name for name in listing.folders if tree.holds_data(top + name + b"/")]
    if len(holding) != 1:
        return {}
    inside = Notes()
    splits = find_splits(tree, inside, top + holding[0] + b"/")
    if "train" not in splits or len(splits) == 1:
        return {}
    notes.add(inside)
    notes.remark(f"its splits lie in {os.fsdecode(holding[0])}/")
    return splits


def _give_each_its_folder(where: str, named: dict[str, Split]) -> dict[Split, str]:
    folders: dict[Split, str] = {}
    for text, split in sorted(named.items()):
        if split in folders:
            raise BadInputError(
                f"--data {where}: both {folders[split]}/ and {text}/ are its {split} split: leave one out with "
                f"--exclude, or put them into one folder"
            )
        folders[split] = text
    if "train" not in folders:
        folders["train"] = folders.pop("unlabeled")
    return dict(sorted(folders.items(), key=lambda item: item[0] != "train"))


def _remark(folders: dict[Split, str], others: list[str], listing: Listing, notes: Notes) -> None:
    """Say how the folders are understood, where that is not plain."""
    for name in listing.annotations:
        notes.skip("folder(s) of masks or annotations", os.fsdecode(name))
    if any(text.lower() not in EXACT for text in folders.values()):
        notes.remark(f"its splits: {', '.join(f'{split} is {text}/' for split, text in folders.items())}")
    if others:
        few = ", ".join(f"{text}/" for text in others[:5]) + (", ..." if len(others) > 5 else "")
        notes.remark(
            f"not used: {few} beside {', '.join(f'{text}/' for text in folders.values())}; if all of these are "
            f"classes, put them into one folder train/"
        )
    if listing.loose:
        notes.remark(f"not used: images beside the splits, such as {os.fsdecode(min(listing.loose))}")


def find_start(tree: Tree, top: bytes = b"") -> bytes:
    """Find the folder in which the class folders of a set lie: below those that are called images, data or train.

    Returns its path below `top` and a slash, or nothing.
    """
    start = b""
    for _ in range(DEEPEST):
        listing = tree.list(top + start)
        suspects = [name for name in listing.folders if holds_no_class(os.fsdecode(name))]
        if listing.loose or not suspects or len(listing.folders) > MOST_LOOKED_INTO:
            break
        holding = [name for name in listing.folders if tree.holds_data(top + start + name + b"/")]
        if len(holding) != 1 or holding[0] not in suspects:
            break
        start += holding[0] + b"/"
    return start
