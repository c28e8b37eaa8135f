"""Predictions to the figures of the benchmarks, in percent."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from moco.errors import BadInputError, DivergedError
from moco.transfer.average_precision import ApRule, voc_figures
from moco.transfer.coco_figures import Found, coco_figures
from moco.transfer.confusion import count_confusions, semantic_figures
from moco.transfer.examples import Examples
from moco.transfer.instance_overlaps import cityscapes_figures, measure_overlaps
from moco.transfer.objects import ObjectTable
from moco.transfer.outlines import coco_masks
from moco.transfer.targets import Annotations
from moco.transfer.value_maps import MappedImages

Prediction = dict[str, Tensor] | Tensor
"""boxes, labels, scores (and masks, keypoints) in torchvision's format, or the class of every pixel (H, W) int64."""
MASK_FROM = 0.5
"""Probability from which on a pixel belongs to a mask."""


class Scorer:
    """Collects predictions, image by image and compactly, and scores them against the images that were added.

    `ap_rule` is for VOC's rules; `counted` for COCO's and LVIS': how many detections of an image count (None: as many
    as the benchmark says, 100 of each class in COCO, too few for images with more objects).
    """

    def __init__(self, examples: Examples, ap_rule: ApRule = "11-point", counted: int | None = None) -> None:
        self.examples, self.ap_rule, self.counted = examples, ap_rule, counted
        self._records = dict[int, Any]()

    def __len__(self) -> int:
        """Count the images that were added."""
        return len(self._records)

    def add(self, index: int, prediction: Prediction) -> None:
        """Take the prediction for an image, at the image's own size; a second one replaces the first.

        Raises DivergedError where a score or box is not finite.
        """
        annotations = self.examples.annotations
        if self.examples.kind == "semantic":
            self._records[index] = _semantic_record(annotations, index, prediction)
        elif isinstance(prediction, Tensor):
            raise BadInputError(f"a label map was predicted, expected objects ({self.examples.kind})")
        elif isinstance(annotations, MappedImages):
            values, found = annotations.values(index), _arrays(prediction, annotations.classes)
            masks = _masks(prediction["masks"], values.shape)
            self._records[index] = measure_overlaps(values, masks, found.labels, found.scores.astype(np.float64))
        else:
            found, packed = _arrays(prediction, annotations.classes), None
            if "masks" in prediction and annotations.kind == "instance":
                packed = _pack(_masks(prediction["masks"], self.examples.size(index)))
            keypoints = prediction["keypoints"].cpu().float().numpy() if "keypoints" in prediction else None
            self._records[index] = Found(found.boxes, found.labels, found.scores, packed, keypoints)

    def state(self) -> dict[int, Any]:
        """Return what was collected, for `merge` on another process."""
        return dict(self._records)

    def merge(self, states: Iterable[dict[int, Any]]) -> None:
        """Take what other processes collected; an image that several of them have counts once."""
        for state in states:
            self._records.update(state)

    def result(self) -> dict[str, float]:
        """Return the figures of the images that were added; a class has none where no object of it is in them.

        voc: AP50, AP, AP75. coco, lvis: box_AP, mask_AP, keypoint_AP, each with AP50, AP75 and by size (lvis: and by
        frequency). cityscapes: mask_AP, mask_AP50. semantic: mIoU, pixel_accuracy. NAME/CLASS: of one class.
        """
        annotations = self.examples.annotations
        records = {index: self._records[index] for index in sorted(self._records)}
        if annotations.kind == "semantic":
            return semantic_figures(records.values(), annotations.classes)
        if annotations.rules == "cityscapes":
            return cityscapes_figures(list(records.values()))
        assert isinstance(annotations, ObjectTable)
        if annotations.rules != "voc":
            return coco_figures(annotations, records, self.counted)
        rows = [annotations.rows(index) for index in records]
        truths = [(annotations.boxes[row], annotations.labels[row], annotations.ignore[row]) for row in rows]
        found = [(one.boxes.astype(np.float64), one.labels, one.scores.astype(np.float64)) for one in records.values()]
        return voc_figures(truths, found, annotations.classes, self.ap_rule)


def score_predictions(
    examples: Examples, predictions: Iterable[Prediction], ap_rule: ApRule = "11-point"
) -> dict[str, float]:
    """Return the figures of predictions for the first images of `examples`, in their order."""
    scorer = Scorer(examples, ap_rule)
    for index, prediction in enumerate(predictions):
        scorer.add(index, prediction)
    return scorer.result()


def _arrays(prediction: dict[str, Tensor], classes: tuple[str, ...]) -> Found:
    """The boxes, labels and scores of a prediction."""
    boxes, values = (prediction[name].detach().cpu().float().numpy() for name in ("boxes", "scores"))
    labels = prediction["labels"].cpu().numpy().astype(np.int64)
    if not (np.isfinite(boxes).all() and np.isfinite(values).all()):
        raise DivergedError("a predicted box or score is not finite: lower the learning rate")
    if len(labels) and not 1 <= labels.min() <= labels.max() <= len(classes):
        raise BadInputError(f"labels from {labels.min()} to {labels.max()} predicted, expected 1 to {len(classes)}")
    return Found(boxes, labels, values)


def _masks(masks: Tensor, size: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Masks (n, H, W) from probabilities (n, 1, H, W), or such as they are."""
    if masks.is_floating_point():
        masks = masks >= MASK_FROM
    masks = masks.squeeze(1) if masks.ndim == 4 else masks
    if tuple(masks.shape[1:]) != size:
        raise BadInputError(f"masks of {tuple(masks.shape[1:])} predicted, expected {size} as the image")
    return masks.cpu().numpy().astype(bool)


def _pack(masks: npt.NDArray[np.bool_]) -> tuple[bytes, ...]:
    """COCO's run lengths of masks (n, H, W)."""
    if not len(masks):
        return ()
    packed = coco_masks().encode(np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8)))
    return tuple(one["counts"] for one in packed)


def _semantic_record(annotations: Annotations, index: int, prediction: Prediction) -> Any:
    truth = annotations.target(index)
    assert isinstance(truth, Tensor)
    truth = truth.numpy()
    if not isinstance(prediction, Tensor) or tuple(prediction.shape) != truth.shape:
        found = tuple(prediction.shape) if isinstance(prediction, Tensor) else "objects"
        raise BadInputError(f"{found} predicted, expected a label map of {truth.shape} as the image")
    predicted, classes = prediction.cpu().numpy().astype(np.int64), len(annotations.classes)
    if not 0 <= predicted.min() <= predicted.max() < classes:
        raise BadInputError(f"classes {predicted.min()} to {predicted.max()} predicted, expected 0 to {classes - 1}")
    return count_confusions(truth, predicted, classes)
