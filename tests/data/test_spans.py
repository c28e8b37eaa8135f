"""Spans of a document: two that do not overlap, and those that stand for the whole."""

import numpy as np
import pytest

from moco.data.documents import Documents
from moco.data.images import PathTable
from moco.data.pretext import Draw
from moco.data.spans import SPANS, cut_whole, draw_spans, pair_documents

TEXT = bytes(np.arange(1, 201, dtype=np.uint8))
"""Each byte says its own place."""


@pytest.mark.parametrize("size", [2, 3, 15, 16, 17, 40, 200])
def test_two_spans_do_not_overlap(size: int) -> None:
    """Each is a piece of the document, of the whole length where that is long enough; both orders are drawn."""
    orders, starts = set(), set()
    for index in range(60):
        pair = [bytes(span.tolist()) for span in draw_spans(TEXT[:size], Draw(0, 0, index), length=8)]
        first, second = sorted(pair)
        assert first in TEXT
        assert second in TEXT
        assert first[-1] < second[0]
        assert 1 <= min(map(len, pair)) <= max(map(len, pair)) <= 8
        if size >= 16:
            assert len(first) == len(second) == 8
        orders.add(pair[0] < pair[1])
        starts.add(first[0])
    assert orders == {True, False}
    assert len(starts) > 20 or size < 200


def test_the_whole_is_spread_evenly() -> None:
    """From the first byte to the last; a short document has fewer spans, and the rest is padding."""
    spans = cut_whole(TEXT, 8)
    assert spans.shape == (SPANS, 8)
    assert spans[:, 0].tolist() == [1 + int(192 * place / (SPANS - 1)) for place in range(SPANS)]
    assert int(spans[-1, -1]) == 200
    short = cut_whole(TEXT[:11], 8)
    assert short[0].tolist() == list(range(1, 9))
    assert short[1].tolist() == list(range(4, 12))
    assert not short[2:].any()
    assert cut_whole(TEXT[:3], 8)[0].tolist() == [1, 2, 3, 0, 0, 0, 0, 0]


def test_pairs_of_a_whole_set_are_always_the_same() -> None:
    """They are what a monitor without labels looks at."""
    documents = Documents(PathTable([TEXT, TEXT[:9]]), PathTable([b"a", b"b"]))
    one, other = pair_documents(documents, 8, 5)
    expected = draw_spans(TEXT[:9], Draw(0, 5, 1), length=8)
    assert one.encoded(1) == bytes(expected[0].tolist())
    assert other.encoded(1) == bytes(expected[1].tolist())
    assert one.name(0) == "a"
