"""COCO's figures against pycocotools on the same detections; LVIS' against its rules in plain loops."""

import contextlib
import copy
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moco.transfer import coco_figures
from moco.transfer.average_precision import THRESHOLDS, box_overlaps
from moco.transfer.coco_figures import SIGMAS
from moco.transfer.examples import Examples, open_examples
from moco.transfer.scores import Scorer, score_predictions
from tests.transfer.layouts import coco_content, guesses, save_image, write_coco, write_json

pytest.importorskip("faster_coco_eval")

Guess = dict[str, torch.Tensor]


def by_pycocotools(content: dict[str, Any], results: list[Any], kind: str, counted: int) -> list[float]:
    """AP, AP50, AP75 in percent, and AP by size of object where there are such."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = json.loads(json.dumps(content))
        truth.createIndex()
        judge = evaluation.COCOeval(truth, truth.loadRes(results), kind)
        judge.params.maxDets = [counted]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][..., -1]
    tables = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *np.moveaxis(precision, 3, 0)[1:]]
    return [100 * float(table[table > -1].mean()) for table in tables if (table > -1).any()]


def as_results(examples: Examples, guess: Guess, index: int, ids: list[int], kind: str) -> list[dict[str, Any]]:
    """A prediction in COCO's format for results, with the ids of the file."""
    mask, results = pytest.importorskip("pycocotools.mask"), []
    for row, label in enumerate(guess["labels"].tolist()):
        entry = {"image_id": examples.ids[index], "category_id": ids[label - 1], "score": guess["scores"][row].item()}
        if kind == "bbox":
            x1, y1, x2, y2 = guess["boxes"][row].double().tolist()
            entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        elif kind == "segm":
            entry["segmentation"] = mask.encode(np.asfortranarray(guess["masks"][row].numpy().astype(np.uint8)))
        else:
            entry["keypoints"] = (guess["keypoints"][row].double().numpy() - [0.5, 0.5, 0]).ravel().tolist()
        results.append(entry)
    return results


def in_order(found: dict[str, float], prefix: str) -> list[float]:
    """Our figures in the order of `by_pycocotools`."""
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    return [found[f"{prefix}_{name}"] for name in names if f"{prefix}_{name}" in found]


@pytest.mark.parametrize("seed", [0, 1])
def test_boxes_and_masks_as_pycocotools(tmp_path: Path, seed: int) -> None:
    """Random objects and crowds; guesses near them, of wrong classes, of nothing, some of equal score."""
    content = coco_content(seed, images=8)
    write_coco(tmp_path, content)
    examples = open_examples("coco", tmp_path, "test")
    predicted = [guesses(examples.target(index), 3, 100 * seed + index) for index in range(len(examples))]
    found = score_predictions(examples, predicted)
    for kind, prefix in (("bbox", "box"), ("segm", "mask")):
        each = [as_results(examples, guess, index, [70, 80, 90], kind) for index, guess in enumerate(predicted)]
        expected = by_pycocotools(content, [entry for entries in each for entry in entries], kind, 100)
        assert in_order(found, prefix) == pytest.approx(expected, abs=1e-9)
        assert 5 < found[f"{prefix}_AP50"] < 95


def test_objects_without_an_outline_are_neither_found_nor_missed(tmp_path: Path) -> None:
    """For masks they are as crowds in their boxes; boxes count them as any object."""
    content = coco_content(2, images=8)
    known = copy.deepcopy(content)
    for annotation, seen in list(zip(content["annotations"], known["annotations"], strict=True))[1::4]:
        x, y, width, height = annotation["bbox"]
        annotation["segmentation"] = []
        seen["iscrowd"] = 1
        seen["segmentation"] = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    write_coco(tmp_path / "known", known)
    write_coco(tmp_path / "partly", content)
    with pytest.warns(UserWarning, match="objects have no outline that can be drawn"):
        examples = open_examples("coco", tmp_path / "partly", "test")
    whole = open_examples("coco", tmp_path / "known", "test")
    predicted = [guesses(whole.target(index), 3, index) for index in range(len(whole))]
    found = score_predictions(examples, predicted)
    each = [as_results(examples, guess, index, [70, 80, 90], "segm") for index, guess in enumerate(predicted)]
    expected = by_pycocotools(known, [entry for entries in each for entry in entries], "segm", 100)
    assert in_order(found, "mask") == pytest.approx(expected, abs=1e-9)
    assert found["box_AP50"] != pytest.approx(score_predictions(whole, predicted)["box_AP50"])


def crowded(images: int, objects: int) -> dict[str, Any]:
    """Images of one class with more objects than COCO counts detections."""
    rng, annotations = np.random.default_rng(0), list[dict[str, Any]]()
    for number in range(images):
        for _ in range(objects):
            x, y, width, height = (float(value) for value in (*rng.uniform(0, 200, 2).round(), *rng.integers(8, 30, 2)))
            annotations.append({
                "id": len(annotations) + 1, "image_id": number + 1, "category_id": 1, "bbox": [x, y, width, height],
                "area": width * height, "iscrowd": 0,
            })  # fmt: skip
    files = [{"id": n + 1, "file_name": f"{n}.jpg", "width": 240, "height": 240} for n in range(images)]
    return {"images": files, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}


@pytest.mark.filterwarnings("ignore:.*no object has an outline")
def test_many_objects_as_pycocotools(tmp_path: Path) -> None:
    """Where images hold hundreds of objects only the 100 best detections count, or more where that is asked for."""
    content = crowded(images=2, objects=170)
    write_coco(tmp_path, content)
    examples = open_examples("coco", tmp_path, "test")
    benchmark, more, results = Scorer(examples), Scorer(examples, counted=500), list[dict[str, Any]]()
    for index in range(len(examples)):
        guess = guesses(examples.target(index), 1, index)
        benchmark.add(index, guess)
        more.add(index, guess)
        results += as_results(examples, guess, index, [1], "bbox")
    few, all_of_them = benchmark.result(), more.result()
    assert in_order(few, "box") == pytest.approx(by_pycocotools(content, results, "bbox", 100), abs=1e-9)
    assert in_order(all_of_them, "box") == pytest.approx(by_pycocotools(content, results, "bbox", 500), abs=1e-9)
    assert few["box_AP50"] < all_of_them["box_AP50"]


def keypoint_content(seed: int) -> dict[str, Any]:
    """People with COCO's keypoints, some not annotated, some people without any."""
    rng, content = np.random.default_rng(seed), coco_content(seed, images=8, classes=1, size=(200, 240))
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        points = np.stack([rng.uniform(x, x + width, 17), rng.uniform(y, y + height, 17), rng.integers(0, 3, 17)], 1)
        points[:, :2] = points[:, :2].round()
        points[points[:, 2] == 0] = 0
        if rng.random() < 0.2:
            points[:] = 0
        annotation["keypoints"] = points.ravel().tolist()
        annotation["num_keypoints"] = int((points[:, 2] > 0).sum())
    content["categories"][0]["keypoints"] = list(SIGMAS)
    return content


def test_keypoints_as_pycocotools(tmp_path: Path) -> None:
    """Object keypoint similarity; keypoints that are predicted lie in the middle of COCO's pixels."""
    content = keypoint_content(3)
    write_coco(tmp_path, content, prefix="person_keypoints")
    examples, rng = open_examples("coco-keypoints", tmp_path, "test"), np.random.default_rng(0)
    assert examples.kind == "keypoints"
    assert examples.keypoints is not None
    assert [examples.keypoints.names[left] for left, _ in examples.keypoints.pairs][:2] == ["left_eye", "left_ear"]
    assert len(examples.keypoints.pairs) == 8
    predicted = list[Guess]()
    for index in range(len(examples)):
        target = examples.target(index)
        points = target["keypoints"] + torch.tensor(rng.normal(0, 3, target["keypoints"].shape)).float()
        points[..., 2] = 1
        values = torch.tensor(rng.random(len(points))).float()
        predicted.append({"boxes": target["boxes"], "labels": target["labels"], "scores": values, "keypoints": points})
    found = score_predictions(examples, predicted)
    each = [as_results(examples, guess, index, [90], "keypoints") for index, guess in enumerate(predicted)]
    expected = by_pycocotools(content, [entry for entries in each for entry in entries], "keypoints", 20)
    assert in_order(found, "keypoint") == pytest.approx(expected, abs=1e-9)
    assert 5 < found["keypoint_AP"] < 95
    assert found["box_AP50"] > 50


def lvis_content(seed: int) -> dict[str, Any]:
    """Random objects of six classes, some not looked for in an image, some looked for but not all annotated."""
    rng, content = np.random.default_rng(seed), coco_content(seed, images=12, classes=6)
    content["annotations"] = [annotation for annotation in content["annotations"] if not annotation["iscrowd"]]
    for category, frequency in zip(content["categories"], "rcfrcf", strict=True):
        category["frequency"] = frequency
    for image in content["images"]:
        there = {one["category_id"] for one in content["annotations"] if one["image_id"] == image["id"]}
        others = {category["id"] for category in content["categories"]} - there
        image["neg_category_ids"] = [number for number in sorted(others) if rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [number for number in sorted(there) if rng.random() < 0.3]
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image['file_name']}"
    return content


def lvis_by_loops(content: dict[str, Any], results: list[dict[str, Any]], category: int, threshold: float) -> float:
    """LVIS' average precision of boxes of a class at one overlap; NaN without objects."""
    outcomes, objects = list[tuple[float, bool]](), 0
    for image in content["images"]:
        truth = [
            one for one in content["annotations"] if (one["image_id"], one["category_id"]) == (image["id"], category)
        ]
        objects += len(truth)
        if not truth and category not in image["neg_category_ids"]:
            continue
        free = list(range(len(truth)))
        found = [one for one in results if (one["image_id"], one["category_id"]) == (image["id"], category)]
        for one in sorted(found, key=lambda result: -result["score"]):
            boxes = [np.array([[x, y, x + w, y + h]]) for x, y, w, h in (t["bbox"] for t in [one, *truth])]
            overlaps = [(box_overlaps(boxes[0], boxes[1 + place]).item(), place) for place in free]
            best = max(overlaps, default=(0.0, 0))
            if best[0] >= threshold:
                free.remove(best[1])
                outcomes.append((one["score"], True))
            elif category not in image["not_exhaustive_category_ids"]:
                outcomes.append((one["score"], False))
    if not objects:
        return float("nan")
    outcomes.sort(key=lambda outcome: -outcome[0])
    curve, hits = list[tuple[float, float]](), 0
    for rank, (_, right) in enumerate(outcomes, start=1):
        hits += right
        curve.append((hits / objects, hits / rank))
    levels = [
        max((precision for recall, precision in curve if recall >= level / 100), default=0) for level in range(101)
    ]
    return sum(levels) / 101


def test_lvis_by_its_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes that were not looked for in an image, classes not all annotated, frequencies; and classes in parts."""
    content = lvis_content(4)
    write_json(tmp_path / "annotations" / "lvis_v1_val.json", content)
    for image in content["images"]:
        save_image(tmp_path / "val2017" / image["file_name"], 60, 80)
    examples = open_examples("lvis", tmp_path, "test")
    predicted = [guesses(examples.target(index), 6, index) for index in range(len(examples))]
    for guess in predicted:  # without equal scores, whose order the rules leave open
        guess["scores"] = torch.rand(
            len(guess["scores"]), generator=torch.Generator().manual_seed(len(guess["scores"]))
        )
    found = score_predictions(examples, predicted)
    ids = sorted(category["id"] for category in content["categories"])
    each = [as_results(examples, guess, index, ids, "bbox") for index, guess in enumerate(predicted)]
    results = [entry for entries in each for entry in entries]
    table = np.array([[lvis_by_loops(content, results, number, t) for t in THRESHOLDS] for number in ids])
    assert found["box_AP"] == pytest.approx(100 * float(np.nanmean(table)), abs=1e-9)
    assert found["box_AP50"] == pytest.approx(100 * float(np.nanmean(table[:, 0])), abs=1e-9)
    rare = [category["id"] for category in content["categories"] if category["frequency"] == "r"]
    rows = [ids.index(number) for number in rare]
    assert found["box_AP_rare"] == pytest.approx(100 * float(np.nanmean(table[rows])), abs=1e-9)
    assert {"mask_AP", "mask_AP_common", "mask_AP_frequent"} <= set(found)
    monkeypatch.setattr(coco_figures, "PAIRS_AT_A_TIME", 24)
    assert score_predictions(examples, predicted) == found


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    """Each scores its own images, one of them twice; what is merged is what one process finds."""
    write_coco(tmp_path, coco_content(5))
    examples = open_examples("coco", tmp_path, "test")
    predicted = [guesses(examples.target(index), 3, index) for index in range(len(examples))]
    parts = [Scorer(examples), Scorer(examples)]
    for index, guess in enumerate([*predicted, predicted[0]]):
        parts[index % 2].add(index % len(examples), guess)
    whole = Scorer(examples)
    whole.merge(part.state() for part in parts)
    assert whole.result() == score_predictions(examples, predicted)


def test_nothing_found(tmp_path: Path) -> None:
    """A model that finds nothing has AP 0, not an error."""
    write_coco(tmp_path, coco_content(6))
    examples = open_examples("coco", tmp_path, "test")
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long(), "scores": torch.zeros(0)}
    masks = torch.zeros(0, 1, 60, 80)
    found = score_predictions(examples, [nothing | {"masks": masks} for _ in range(len(examples))])
    assert found["box_AP"] == found["mask_AP"] == 0
