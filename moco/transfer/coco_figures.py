"""COCO's average precision of boxes, masks and keypoints, and LVIS', by faster-coco-eval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moco.transfer.objects import Floats, Integers, ObjectTable
from moco.transfer.outlines import coco_masks, coco_outline, pack_rectangle

FIGURES = {"bbox": "box", "segm": "mask", "keypoints": "keypoint"}
"""faster-coco-eval's names of what is compared, and ours."""
COUNTED = {"bbox": 100, "segm": 100, "keypoints": 20}
"""Detections of each class in an image that count in COCO, the best scores first ..."""
COUNTED_LVIS = 300
"""... and in LVIS, of all classes together."""
PAIRS_AT_A_TIME = 2_000_000
"""Pairs of an image and a class that faster-coco-eval holds in memory at once. LVIS has 24 million."""
FREQUENCIES = {"r": "rare", "c": "common", "f": "frequent"}

SIGMAS = {
    "nose": 0.026, "left_eye": 0.025, "right_eye": 0.025, "left_ear": 0.035, "right_ear": 0.035,
    "left_shoulder": 0.079, "right_shoulder": 0.079, "left_elbow": 0.072, "right_elbow": 0.072, "left_wrist": 0.062,
    "right_wrist": 0.062, "left_hip": 0.107, "right_hip": 0.107, "left_knee": 0.087, "right_knee": 0.087,
    "left_ankle": 0.089, "right_ankle": 0.089,
}  # fmt: skip
"""COCO's spread of people's marks for each keypoint, as a part of the object's size."""
MEAN_SIGMA = sum(SIGMAS.values()) / len(SIGMAS)
"""The spread of keypoints that COCO does not have."""


@dataclass(frozen=True)
class Found:
    """The m objects predicted for an image."""

    boxes: npt.NDArray[np.float32]
    """(m, 4): x1 y1 x2 y2."""
    labels: Integers
    scores: npt.NDArray[np.float32]
    masks: tuple[bytes, ...] | None = None
    """COCO's run lengths."""
    keypoints: npt.NDArray[np.float32] | None = None
    """(m, P, 3)."""


def coco_figures(table: ObjectTable, found: Mapping[int, Found], counted: int | None = None) -> dict[str, float]:
    """AP, AP50, AP75, APs by size, and AP of each class, in percent, of what was predicted for some images.

    Of each image `counted` detections count, None: as many as the benchmark says. Crowds, objects without keypoints and
    LVIS' incomplete classes are left out by the benchmarks' rules.
    """
    types = ["bbox"]
    if table.outlines is not None and any(one.masks is not None for one in found.values()):
        types.append("segm")
    if table.skeleton is not None and any(one.keypoints is not None for one in found.values()):
        types.append("keypoints")
    figures = dict[str, float]()
    for kind in types:
        truth = _truth(table, sorted(found), kind)
        most = counted or (COUNTED[kind] if table.federation is None else COUNTED_LVIS)
        results = [entry for index in sorted(found) for entry in _results(table, index, found[index], kind, most)]
        precision = _precision(table, truth, results, kind, most)
        figures |= {f"{FIGURES[kind]}_{name}": value for name, value in _summary(table, precision, kind).items()}
    return figures


def _truth(table: ObjectTable, images: Sequence[int], kind: str) -> dict[str, Any]:
    """The annotations of some images in COCO's format; images and classes are numbered anew, from 1."""
    entries = list[dict[str, Any]]()
    for index in images:
        rows, size = table.rows(index), table.size(index)
        for row in range(rows.start, rows.stop):
            x1, y1, x2, y2 = table.boxes[row].tolist()
            entry: dict[str, Any] = {
                "id": len(entries) + 1,
                "image_id": index + 1,
                "category_id": int(table.labels[row]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": float(table.area[row]),
                "iscrowd": int(table.iscrowd[row]),
            }
            if kind == "segm" and table.outlines is not None:
                packed = table.outlines[row]
                entry["segmentation"] = coco_outline(packed or pack_rectangle([x1, y1, x2, y2]), size)
                if not packed:  # detections there can be neither right nor wrong
                    entry["iscrowd"] = 1
            if kind == "keypoints" and table.keypoints is not None:
                entry["keypoints"] = _as_annotated(table.keypoints[row])
                entry["num_keypoints"] = int((table.keypoints[row, :, 2] > 0).sum())
            entries.append(entry)
    pictures = [_picture(table, index) for index in images]
    categories = [{"id": label, "name": name} for label, name in enumerate(table.classes, start=1)]
    if table.federation is not None:
        for category, frequency in zip(categories, table.federation.frequency, strict=True):
            category["frequency"] = frequency
    return {"info": {}, "images": pictures, "annotations": entries, "categories": categories}


def _picture(table: ObjectTable, index: int) -> dict[str, Any]:
    height, width = table.size(index)
    picture: dict[str, Any] = {"id": index + 1, "height": height, "width": width}
    if table.federation is not None:
        picture["neg_category_ids"] = list(table.federation.absent[index])
        picture["not_exhaustive_category_ids"] = list(table.federation.incomplete[index])
    return picture


def _as_annotated(keypoints: npt.NDArray[np.floating[Any]]) -> list[float]:
    """Keypoints (P, 3) as COCO's numbers of pixels, in one list."""
    numbered = keypoints.astype(np.float64)
    numbered[:, :2] -= 0.5
    return [float(value) for value in numbered.ravel()]


def _results(table: ObjectTable, index: int, found: Found, kind: str, most: int) -> list[dict[str, Any]]:
    """What was predicted for an image in COCO's format."""
    order = np.argsort(-found.scores, kind="stable")
    rows = order if table.federation is None else _looked_for(table, index, found, order[:most])
    results = []
    for row in rows.tolist():
        entry: dict[str, Any] = {"image_id": index + 1, "category_id": int(found.labels[row])}
        entry["score"] = float(found.scores[row])
        if kind == "bbox":
            x1, y1, x2, y2 = found.boxes[row].astype(np.float64).tolist()
            entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        elif kind == "segm" and found.masks is not None:
            entry["segmentation"] = {"size": list(table.size(index)), "counts": found.masks[row]}
        elif found.keypoints is not None:
            entry["keypoints"] = _as_annotated(found.keypoints[row])
        results.append(entry)
    return results


def _looked_for(table: ObjectTable, index: int, found: Found, rows: Integers) -> Integers:
    """Keep an image's detections of classes that LVIS knows to be there or not to be there.

    faster-coco-eval 1.8 leaves out the others too, but fails where nothing else is left of an image.
    """
    assert table.federation is not None
    known = {*table.federation.absent[index], *table.labels[table.rows(index)].tolist()}
    return rows[np.isin(found.labels[rows], sorted(known))]


def _precision(
    table: ObjectTable, truth: dict[str, Any], results: list[dict[str, Any]], kind: str, most: int
) -> Floats:
    """Precision at (10 overlaps, 101 recalls, classes, sizes of objects); -1 where there is no object."""
    coco_masks()  # says so where faster-coco-eval is missing
    from faster_coco_eval import COCO, COCOeval_faster

    names = None if table.skeleton is None else table.skeleton.names
    sigmas = None if names is None else [SIGMAS.get(name, MEAN_SIGMA) for name in names]
    labels = list(range(1, len(table.classes) + 1))
    at_a_time = max(1, PAIRS_AT_A_TIME // max(1, len(truth["images"])))
    annotated = COCO(truth)
    predicted = annotated.loadRes(results)
    parts = []
    for start in range(0, len(labels), at_a_time):
        lvis = table.federation is not None
        judge = COCOeval_faster(
            annotated, predicted, kind, print_function=_say_nothing, kpt_oks_sigmas=sigmas, lvis_style=lvis
        )
        judge.params.imgIds = [picture["id"] for picture in truth["images"]]
        judge.params.catIds = labels[start : start + at_a_time]
        judge.params.maxDets = [most]
        judge.evaluate()
        judge.accumulate()
        parts.append(np.asarray(judge.eval["precision"])[..., -1])
    return np.concatenate(parts, axis=2)


def _summary(table: ObjectTable, precision: Floats, kind: str) -> dict[str, float]:
    """The benchmark's figures of a table of precisions, and AP of each class."""
    sizes = ("medium", "large") if kind == "keypoints" else ("small", "medium", "large")
    figures = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    figures |= {f"AP_{name}": precision[..., number] for number, name in enumerate(sizes, start=1)}
    if table.federation is not None:
        frequency = np.array(table.federation.frequency)
        figures |= {f"AP_{name}": precision[:, :, frequency == key, 0] for key, name in FREQUENCIES.items()}
    figures |= {f"AP/{name}": precision[:, :, row, 0] for row, name in enumerate(table.classes)}
    known = {name: values[values > -1] for name, values in figures.items()}
    return {name: 100 * float(values.mean()) for name, values in known.items() if len(values)}


def _say_nothing(*_: object) -> None:
    """faster-coco-eval reports every step of its own."""
