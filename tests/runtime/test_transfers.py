"""What is begun ahead comes in order, and errors come after what was sound; results are fetched each into its place."""

from collections.abc import Iterator

import pytest
import torch

from moco.runtime.transfers import Fetcher, Sender, start_ahead


def test_each_is_begun_before_the_one_ahead_of_it_is_used() -> None:
    """All of them, in order, one ahead and no more."""
    begun = list[int]()

    def start(item: int) -> int:
        begun.append(item)
        return -item

    for count, item in enumerate(start_ahead(iter(range(1, 5)), start), 1):
        assert item == -count
        assert begun == list(range(1, min(count + 1, 4) + 1))
    assert list(start_ahead(iter([7]), start)) == [-7]
    assert list(start_ahead(iter([]), start)) == []


def test_an_error_comes_after_what_was_made_before_it() -> None:
    """As without anything ahead: the last sound item is used first."""

    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the third")

    seen = list[int]()
    with pytest.raises(OSError, match="the third"):
        seen.extend(start_ahead(items(), lambda item: item))
    assert seen == [1, 2]


def test_tensors_arrive() -> None:
    """None stays None."""
    sender = Sender("cpu")
    found = sender.receive(sender.send(torch.arange(3), None))
    assert found[1] is None
    assert found[0] is not None
    assert found[0].tolist() == [0, 1, 2]


def test_results_are_written_one_late_and_all_at_the_end() -> None:
    """Each into its own place."""
    fetcher, places = Fetcher("cpu"), torch.zeros(3, 2)
    for row in range(3):
        fetcher.fetch(torch.full((2,), row + 1.0), places[row])
    assert places[:, 0].tolist() == [1, 2, 0]
    fetcher.finish()
    fetcher.finish()
    assert places[:, 1].tolist() == [1, 2, 3]
