"""Chooses the encoder that a run with --keep best ends with: the first unless another is clearly better."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moco.errors import BadInputError
from moco.pretraining.health import JUDGED
from moco.runtime.checkpoint import File, load_tensors, save_tensors

BEST, LAST = "encoder-best.safetensors", "encoder-last.safetensors"
ERRORS = 2.0
"""Standard errors by which an evaluation must beat the first: by luck alone one in 44 does."""


@dataclass(frozen=True)
class BestLook:
    """The best evaluation so far, with its encoder in the run folder, and the first and latest to compare.

    Looks are compared by the same images, each of which an encoder classifies rightly or not. A look can be kept if it
    is right about b images where the first is wrong, wrong about c where the first is right, and b - c is more than two
    standard errors, sqrt(b + c) each (McNemar's test). Of those the look with most images right is kept, the earliest
    of equal ones; the first where there is none.
    """

    first: Tensor
    """Which images the first look has right, (n,)."""
    step: int
    right: int
    """Images that the kept look has right."""
    latest: int
    """Images that the latest look has right."""

    @classmethod
    def begin(cls, file: File, right: Tensor) -> "BestLook":
        """Keep the encoder of the first look."""
        count = int(right.sum())
        look = cls(right.cpu(), 0, count, count)
        look._write(file)
        return look

    @classmethod
    def read(cls, run: Path) -> "BestLook":
        """Read what was kept until a run was interrupted. Raises BadInputError where that is gone or damaged."""
        path = run / BEST
        try:
            if not path.is_file():
                raise BadInputError(f"{path}: missing")
            _, metadata = load_tensors(path)
            look = metadata["look"]
            bits = np.unpackbits(np.frombuffer(bytes.fromhex(look["first"]), np.uint8), count=look["images"])
            right = int(look["right"])
            return cls(torch.from_numpy(bits.astype(bool)), int(metadata["step"]), right, right)
        except (BadInputError, KeyError, TypeError, ValueError) as error:
            raise BadInputError(
                f"{error}: it holds the best encoder so far, and --keep best cannot continue without it: give the same "
                f"command with --keep last"
            ) from error

    def compare(self, file: File, step: int, right: Tensor) -> "BestLook":
        """Keep the encoder of a later look, `file`, where it is better. Raises BadInputError for other images."""
        right = right.cpu()
        if len(right) != len(self.first):
            raise BadInputError(
                f"--keep best compares evaluations of the same images: the first had {len(self.first)}, this one has "
                f"{len(right)}: give the same command with --keep last"
            )
        count = int(right.sum())
        if count <= self.right or not is_clearly_better(right, self.first):
            return dataclasses.replace(self, latest=count)
        look = BestLook(self.first, step, count, count)
        look._write(file)
        return look

    def finish(self, last: File) -> None:
        """Name the last encoder so, and give the run's encoder, in the file that `last` has, the best one's tensors."""
        save_tensors(last.path.with_name(LAST), last.tensors, last.metadata)
        tensors, metadata = load_tensors(last.path.with_name(BEST))
        del metadata["look"]
        save_tensors(last.path, tensors, metadata)

    def figures(self, last: int) -> dict[str, Any]:
        """Say for a result what was kept, and what the first and the last look have reached, in percent."""
        shares = {"top1": self.right, "first_top1": int(self.first.sum()), "last_top1": self.latest}
        percent = {name: round(100 * count / len(self.first), 3) for name, count in shares.items()}
        return {"step": self.step, "last_step": last, "images": len(self.first), **percent}

    def describe(self, last: int, by: str) -> str:
        """Describe the same in words; `by` is what says that an image is right, of `health.JUDGED`."""
        top1, first, end = (self.figures(last)[name] for name in ("top1", "first_top1", "last_top1"))
        reached = f"the last one, of step {last}, has {end:.1f}% and is {LAST}"
        if self.step == 0:
            return (
                f"kept the encoder that the run began with: {first:.1f}% of {len(self.first)} images "
                f"{JUDGED[by]}, and no later encoder is clearly better; {reached}"
            )
        return (
            f"kept the encoder of step {self.step}: {top1:.1f}% of {len(self.first)} images {JUDGED[by]}, "
            f"{first:.1f}% before the first step; {reached}"
        )

    def _write(self, file: File) -> None:
        bits = np.packbits(self.first.numpy()).tobytes().hex()
        look = {"images": len(self.first), "first": bits, "right": self.right}
        save_tensors(file.path.with_name(BEST), file.tensors, {**file.metadata, "look": look})


def is_clearly_better(right: Tensor, first: Tensor) -> bool:
    """Return whether a look (n,) beats the first by more than two standard errors of their paired difference."""
    gained, lost = int((right & ~first).sum()), int((first & ~right).sum())
    return gained - lost > ERRORS * math.sqrt(gained + lost)
