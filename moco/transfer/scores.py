"""Predictions to the figures of the benchmarks."""

from collections.abc import Iterable
from typing import Any, Literal

from torch import Tensor

from moco.transfer.examples import Examples

ApRule = Literal["11-point", "area"]
"""How VOC's average precision is read off a curve: VOC2007's eleven points, or the area under it (from 2010 on)."""
Prediction = dict[str, Tensor] | Tensor


class Scorer:
    """Collects predictions, image by image and compactly, and scores those of the images that were added."""

    def __init__(self, examples: Examples, ap_rule: ApRule = "11-point") -> None:
        self.examples, self.ap_rule = examples, ap_rule
        self.records = dict[int, Any]()

    def add(self, index: int, prediction: Prediction) -> None:
        """Take the prediction for an image, at the image's own size; a second one replaces the first."""
        raise NotImplementedError

    def state(self) -> dict[int, Any]:
        """What was collected, for `merge` on another process."""
        return dict(self.records)

    def merge(self, states: Iterable[dict[int, Any]]) -> None:
        """Take what other processes collected; an image that several have counts once."""
        for state in states:
            self.records.update(state)

    def result(self) -> dict[str, float]:
        """The figures of the images that were added, in percent."""
        raise NotImplementedError


def scores(examples: Examples, predictions: Iterable[Prediction], ap_rule: ApRule = "11-point") -> dict[str, float]:
    """The figures of predictions for the first images of `examples`, in percent."""
    scorer = Scorer(examples, ap_rule)
    for index, prediction in enumerate(predictions):
        scorer.add(index, prediction)
    return scorer.result()
