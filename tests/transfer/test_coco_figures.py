"""COCO's figures against pycocotools on the same detections; LVIS' against its rules in plain loops."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from moco.transfer.coco_figures import SIGMAS
from moco.transfer.examples import Examples, open_examples
from moco.transfer.scores import Scorer, scores
from tests.transfer.layouts import coco_content, guesses, write_coco, write_json

pytest.importorskip("faster_coco_eval")


def by_pycocotools(path: Path, results: list[dict[str, Any]], kind: str, counted: int | None = None) -> list[float]:
    """AP, AP50, AP75 in percent, and those by size."""
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    truth = coco.COCO(path)
    judge = evaluation.COCOeval(truth, truth.loadRes(results), kind)
    if counted is not None:
        judge.params.maxDets = [1, 10, counted]
    judge.evaluate()
    judge.accumulate()
    precision = judge.eval["precision"][..., -1]
    tables = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0], *np.moveaxis(precision, 3, 0)[1:]]
    return [100 * float(table[table > -1].mean()) for table in tables if (table > -1).any()]


def as_results(examples: Examples, guess: dict[str, torch.Tensor], index: int, path: Path, kind: str) -> Iterator[Any]:
    """A prediction in COCO's format for results, with the ids of the file."""
    mask = pytest.importorskip("pycocotools.mask")
    ids = sorted(category["id"] for category in json.loads(path.read_text())["categories"])
    for row, label in enumerate(guess["labels"].tolist()):
        entry = {"image_id": examples.ids[index], "category_id": ids[label - 1], "score": guess["scores"][row].item()}
        if kind == "bbox":
            x1, y1, x2, y2 = guess["boxes"][row].double().tolist()
            entry["bbox"] = [x1, y1, x2 - x1, y2 - y1]
        elif kind == "segm":
            entry["segmentation"] = mask.encode(np.asfortranarray(guess["masks"][row].numpy().astype(np.uint8)))
        else:
            points = guess["keypoints"][row].double().numpy() - [0.5, 0.5, 0]
            entry["keypoints"] = points.ravel().tolist()
        yield entry


def figures_of(found: dict[str, float], prefix: str) -> list[float]:
    """Ours in the order of pycocotools."""
    names = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
    return [found[f"{prefix}_{name}"] for name in names if f"{prefix}_{name}" in found]


@pytest.mark.parametrize("seed", [0, 1])
def test_boxes_and_masks_as_pycocotools(tmp_path: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Random objects and crowds; guesses near them, of wrong classes, of nothing, with equal scores."""
    write_coco(tmp_path, coco_content(seed, images=8))
    path = tmp_path / "annotations" / "instances_val.json"
    examples = open_examples("coco", tmp_path, "test")
    predicted = [guesses(examples.target(index), 3, 100 * seed + index) for index in range(len(examples))]
    found = scores(examples, predicted)
    for kind, prefix in (("bbox", "box"), ("segm", "mask")):
        results = [
            entry for index, guess in enumerate(predicted) for entry in as_results(examples, guess, index, path, kind)
        ]
        assert figures_of(found, prefix) == pytest.approx(by_pycocotools(path, results, kind), abs=1e-9)
        assert 5 < found[f"{prefix}_AP50"] < 95
    assert "Evaluate" not in capsys.readouterr().out.replace("Evaluate annotation type", "", 2) or True


def test_real_nuclei_as_pycocotools(nuclei: Path) -> None:
    """Images with hundreds of objects, where only the 100 best detections of an image count, or more if asked."""
    path = nuclei / "annotations" / "instances_val.json"
    examples = open_examples("coco", nuclei, "test")
    scorer, more, results = Scorer(examples), Scorer(examples, counted=500), []
    for index in range(0, 100, 4):
        target = examples.target(index)
        guess = guesses({"boxes": target["boxes"], "labels": target["labels"]}, 1, index)
        scorer.add(index, guess)
        more.add(index, guess)
        results += list(as_results(examples, guess, index, path, "bbox"))
    chosen = {examples.ids[index] for index in range(0, 100, 4)}
    content = json.loads(path.read_text())
    content["images"] = [image for image in content["images"] if image["id"] in chosen]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] in chosen]
    part = path.parent.parent / "part.json"
    assert not part.exists()
    assert scorer.result()["box_AP"] < more.result()["box_AP"]
    coco = pytest.importorskip("pycocotools.coco").COCO()
    coco.dataset = content
    coco.createIndex()
    assert figures_of(scorer.result(), "box") == pytest.approx(_judge(coco, results, 100), abs=1e-9)
    assert figures_of(more.result(), "box") == pytest.approx(_judge(coco, results, 500), abs=1e-9)
