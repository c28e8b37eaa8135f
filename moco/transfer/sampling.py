"""Which training image comes when, and how often in a pass over them: a function of (seed, place in the run)."""

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from moco.errors import BadInputError
from moco.runtime.randomness import Stream, permute, uniforms
from moco.transfer.objects import Flags, Floats, Integers, ObjectTable
from moco.transfer.targets import Annotations


@dataclass(frozen=True)
class Chosen:
    """The image at a place in the run: in which pass that is, and how often the image came before in that pass."""

    epoch: int
    index: int
    occurrence: int


class Passes:
    """Passes over n images; in each of them image i comes `factors[i]` times, 0 or more, in an order of its own.

    What is left of a factor that is not whole is the chance of once more, drawn anew for every pass (arXiv:1908.03195).
    Nothing is drawn from a state: a run that goes on sees what one that was never interrupted does.
    """

    def __init__(self, factors: Floats, seed: int) -> None:
        self.factors, self.seed = factors, seed
        self._whole = bool((factors == np.floor(factors)).all())
        self._starts = [0]
        self._ends = dict[int, Integers]()

    def at(self, place: int) -> Chosen:
        """Return the image at a place, counted over all passes."""
        epoch, position = self._split(place)
        ends = self._ends_of(epoch)
        slot = int(permute(position, int(ends[-1]), seed=self.seed, stream=Stream.ORDER, epoch=epoch)[0])
        index = int(np.searchsorted(ends, slot, side="right"))
        return Chosen(epoch, index, slot - (int(ends[index - 1]) if index else 0))

    def epoch(self, place: int) -> float:
        """Return how many passes are done there."""
        epoch, position = self._split(place)
        return epoch + position / int(self._ends_of(epoch)[-1])

    def counts(self, epoch: int) -> Integers:
        """Return how often each image (n,) comes in a pass."""
        whole = np.floor(self.factors).astype(np.int64)
        if self._whole:
            return whole
        every = np.arange(len(whole))
        drawn = uniforms(1, seed=self.seed, stream=Stream.REPEAT, epoch=epoch, index=every)[:, 0]
        return np.asarray(whole + (drawn < self.factors - whole))

    def describe(self) -> str:
        """Describe which images do not come exactly once in a pass; empty where all do."""
        left_out = int((self.factors == 0).sum())
        used = self.factors[self.factors > 0]
        words = [f"{left_out} without an object left out"] if left_out else []
        if (used > 1).any():
            words.append(f"{int((used > 1).sum())} of rare classes come up to {used.max():.3g} times in a pass")
        return "".join(f", {text}" for text in words)

    def _split(self, place: int) -> tuple[int, int]:
        while self._starts[-1] <= place:
            self._starts.append(self._starts[-1] + int(self._ends_of(len(self._starts) - 1)[-1]))
        epoch = bisect_right(self._starts, place) - 1
        return epoch, place - self._starts[epoch]

    def _ends_of(self, epoch: int) -> Integers:
        """Where the places of each image end in a pass, before they are mixed; those of two passes are kept."""
        if epoch not in self._ends:
            self._ends = {**dict(list(self._ends.items())[-1:]), epoch: np.cumsum(self.counts(epoch))}
        return self._ends[epoch]


def build_passes(annotations: Annotations, repeat_threshold: float, skip_empty: bool, seed: int) -> Passes:
    """Plan passes that repeat images with rare classes and may skip images without objects.

    Raises BadInputError where the layout has no list of objects to tell that from, or no image has any.
    """
    if not (repeat_threshold or skip_empty):
        return Passes(np.ones(len(annotations)), seed)
    if not isinstance(annotations, ObjectTable):
        raise BadInputError(
            "--repeat-threshold and --skip-empty need a layout that lists its objects (VOC, COCO, LVIS): leave them out"
        )
    factors = repeat_factors(annotations, repeat_threshold, skip_empty)
    if not factors.any():
        raise BadInputError(
            "no training image has an object to learn from: correct the annotations, or --no-skip-empty"
        )
    return Passes(factors, seed)


def repeat_factors(table: ObjectTable, threshold: float, skip_empty: bool) -> Floats:
    """r(I) = max over the classes c of an image of max(1, sqrt(t / f(c))), f(c) being the share of images with c (n,).

    Where `skip_empty`, images without an object to learn from (a keypoint, where these are learned) have 0, and f is of
    the others.
    """
    image = np.repeat(np.arange(len(table)), np.diff(table.ends))
    learned = _learned(table)
    shown = learned if table.keypoints is None else learned & (table.keypoints[..., 2] > 0).any(1)
    kept = np.ones(len(table), bool)
    if skip_empty:
        kept[:] = False
        kept[image[shown]] = True
    factors = kept.astype(np.float64)
    if threshold:
        learned &= kept[image]
        pairs = np.unique(np.stack([image[learned], table.labels[learned]]), axis=1)
        frequency = np.bincount(pairs[1], minlength=len(table.classes) + 1) / max(int(kept.sum()), 1)
        np.maximum.at(factors, pairs[0], np.sqrt(threshold / frequency[pairs[1]]))
    return factors


def _learned(table: ObjectTable) -> Flags:
    """The objects that train, as `targets.for_training` has them."""
    sized = (table.boxes[:, 2:] > table.boxes[:, :2]).all(1)
    return np.asarray(sized & ~table.iscrowd & ~table.ignore)
