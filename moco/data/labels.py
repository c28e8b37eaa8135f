"""Classes as texts -> labels and the names of the classes."""

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moco.data.images import Labels


def number_classes(codes: npt.NDArray[np.int64], texts: Sequence[str]) -> tuple[Labels | None, tuple[str, ...]]:
    """Turn codes, (n,) places in `texts`, into labels and the names of the classes; None where a code is negative.

    Numbers stay as they are; names are numbered in the order of their bytes.
    """
    if not len(codes) or codes.min() < 0:
        return None, ()
    if all(re.fullmatch(r"[0-9]{1,6}", text) for text in texts):
        numbers = np.array([int(text) for text in texts], np.int64)
        return numbers[codes], tuple(str(i) for i in range(int(numbers.max()) + 1))
    names = sorted(texts, key=lambda text: text.encode("utf-8", "surrogateescape"))
    rank = {text: i for i, text in enumerate(names)}
    return np.array([rank[text] for text in texts], np.int64)[codes], tuple(names)
