"""What the names of folders and files mean: splits, images, masks and annotations beside them."""

import os
import re
from collections.abc import Collection, Sequence

from moco.data.images import Split
from moco.data.kinds import word_set

EXACT: dict[str, Split] = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
"""Names that mean a split wherever there is a `train`."""
SPLIT_WORDS: dict[str, Split] = {
    **EXACT, "training": "train", "trainval": "train", "trainset": "train", "trn": "train", "imagestr": "train",
    "labeled": "train", "labelled": "train", "valset": "val", "validate": "val", "dev": "val", "eval": "val",
    "evaluation": "val", "testing": "test", "testset": "test", "tst": "test", "imagests": "test",
    "unlabeled": "unlabeled", "unlabelled": "unlabeled", "unsupervised": "unlabeled", "unsup": "unlabeled",
}  # fmt: skip
"""Words in a name that mean a split, if the other words of the name are about images or sets."""
IMAGE_WORDS = word_set(
    "image images img imgs jpeg jpegs jpg jpegimages png pngs photo photos picture pictures frame frames rgb color "
    "colour leftimg bit original originals input inputs scan scans"
)
"""Words of folders that hold images rather than a class of them."""
SET_WORDS = word_set("set sets data dataset datasets split splits folder folders sample samples seg all")
ANNOTATION_WORDS = word_set(
    "mask masks label labels labelstr labelsts annotation annotations annot annots anno annos segmentation "
    "segmentations segmentationclass segmentationobject segmentationclassaug segmentationclassraw gt gts ground "
    "truth groundtruth gtfine gtcoarse depth depths disparity semantic instance instances panoptic stuffthingmaps "
    "pixelmap pixelmaps trimap trimaps heatmap heatmaps matte mattes alpha normals edges boundaries saliency"
)
"""Words of folders that hold pictures about the images beside them."""
NEVER_CLASSES = word_set(
    "truth groundtruth gtfine gtcoarse annotation annotations segmentationclass segmentationobject pixelmaps trimaps "
    "stuffthingmaps"
)
"""Those that never name a class, whatever else the folder holds."""
MASK_ENDING = re.compile(rb"(.+?)[ ._-](?:mask|masks|seg|segmentation|gt|label|labels|labelids|depth)(?:[_-]?\d+)?")


def split_words(name: str) -> set[str]:
    """Split the words of a name, in small letters and without numbers: train2017 is `train`."""
    return set(re.findall(r"[a-z]+", name.lower()))


def split_of(name: str) -> Split | None:
    """Find the split that a folder's name means; None where it means none, or several."""
    words = split_words(name)
    found = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    if {"train", "val"} <= words:  # train_val: both together, to train on
        found.discard("val")
    meant = words <= SPLIT_WORDS.keys() | IMAGE_WORDS | SET_WORDS
    return found.pop() if meant and len(found) == 1 else None


def holds_no_class(name: str) -> bool:
    """Tell whether a folder is called for holding images, a set or a split, which is no class."""
    words = split_words(name)
    return bool(words) and words <= IMAGE_WORDS | SET_WORDS | SPLIT_WORDS.keys()


def is_annotation(name: str) -> bool:
    """Tell whether a folder is called for holding masks or annotations."""
    words = split_words(name)
    return bool(words & ANNOTATION_WORDS) and words <= ANNOTATION_WORDS | IMAGE_WORDS | SET_WORDS | SPLIT_WORDS.keys()


def find_annotations(folders: Collection[bytes]) -> list[bytes]:
    """Return which of the folders hold masks or annotations of the images in the others, by their names."""
    names = {name: os.fsdecode(name) for name in folders}
    beside = [name for name, text in names.items() if is_annotation(text)]
    holders = [text for name, text in names.items() if name not in beside]
    if any(holds_no_class(text) for text in holders):
        return sorted(beside)
    return sorted(name for name in beside if holders and split_words(names[name]) & NEVER_CLASSES)


def find_mixed_splits(folders: Collection[bytes]) -> list[str]:
    """Find the folders that are called train and test or validation, where there are both."""
    found: dict[Split, str] = {}
    for name in sorted(map(os.fsdecode, folders)):
        split = EXACT.get(name.lower()) or split_of(name)
        if split is not None:
            found.setdefault(split, name)
    if "train" not in found or not found.keys() & {"val", "test"}:
        return []
    return [found["train"], *(found[split] for split in ("val", "test") if split in found)]


def find_masks(files: Sequence[bytes]) -> list[bytes]:
    """Find the files that are called like masks of others beside them: `1_mask.png` beside `1.jpg`."""
    suspects = {}
    for name in files:
        match = MASK_ENDING.fullmatch(os.path.splitext(name.lower())[0])
        if match:
            suspects[name] = match[1]
    if not suspects:
        return []
    stems = {os.path.splitext(name.lower())[0] for name in files if name not in suspects}
    return sorted(name for name, stem in suspects.items() if stem in stems)
