"""What is computed in fp32 whatever the precision of the encoders, on a GPU too."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode

from moco.core.dictionary import Keys
from moco.core.loss import info_nce, match_teacher
from moco.data.augment import AUGMENTATIONS
from moco.data.crops import COLUMNS
from moco.data.feed import Feed
from moco.data.images import ArrayImages
from moco.data.views import Look
from moco.evaluation.knn import nearest
from moco.evaluation.logistic import cross_entropy, pose
from moco.runtime.device import preserve_torch_state, set_precision


class Products(TorchFunctionMode):
    """Notes for each product of matrices whether a GPU would round its fp32 numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.rounded = list[bool]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("matmul", "__matmul__", "linear", "bmm", "einsum"):
            self.rounded.append(torch.backends.cuda.matmul.allow_tf32)
        return func(*args, **(kwargs or {}))


def finish_some_views() -> None:
    """Finish views of photographs with a blur, as on a GPU."""
    crops = torch.zeros(1, 2, 3, 32, 32, dtype=torch.uint8)
    drawn = torch.zeros(1, 2, COLUMNS)
    images = ArrayImages(torch.zeros(0, 3, 32, 32, dtype=torch.uint8))
    look = Look(AUGMENTATIONS["v2"], 32, (0.0,) * 3, (1.0,) * 3)
    Feed(images, look, "cpu").finish(crops, drawn, torch.arange(2))


X, LABELS = torch.eye(4, 3), np.arange(4) % 2


@pytest.mark.parametrize("compute", [
    lambda: info_nce(X, Keys(X, X), 0.1), lambda: match_teacher(X, Keys(X, X), 0.1, 0.1), lambda: nearest(X, X, 1),
    lambda: cross_entropy(pose(X[None], LABELS, 2, np.arange(4)), torch.zeros(2, 4, dtype=torch.float64)),
    finish_some_views,
], ids=["loss", "teacher", "neighbours", "classifier", "views"])  # fmt: skip
def test_what_is_fp32_is_so_with_tf32(compute: Callable[[], object]) -> None:
    """Encoders alone are rounded; what comes after is as before."""
    with preserve_torch_state("cpu"):
        set_precision("tf32")
        with Products() as products:
            compute()
        assert products.rounded
        assert not any(products.rounded)
        assert torch.backends.cuda.matmul.allow_tf32
