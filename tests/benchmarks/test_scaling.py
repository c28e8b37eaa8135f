"""Scaling on paper: the formulas against plain counting, and the tables of the documentation against the formulas.

That the payloads are those of a real step is tested where real steps are run (tests/distributed/test_equality.py).
"""

import itertools
from pathlib import Path

import pytest
import torch

from benchmarks import scaling
from benchmarks.scaling import NIC, PARAMETERS, PER_NODE, Job
from moco.core.dictionary import MemoryBank, Queue
from moco.core.encoder import Encoder, EncoderPlan, parameter_count

PAGE = Path(__file__).parents[2] / "docs" / "scaling.md"


@pytest.mark.parametrize("title", scaling.tables())
def test_the_page_shows_what_is_computed(title: str) -> None:
    """Every table of the page is that of the formulas, line by line."""
    assert "\n".join(scaling.tables()[title]) in PAGE.read_text(encoding="utf-8")


def test_parameters_are_those_of_v1() -> None:
    """ResNet-50 with a linear head."""
    with torch.device("meta"):
        assert parameter_count(Encoder(EncoderPlan())) == PARAMETERS


@pytest.mark.parametrize("ranks", [2, 8, 64])
def test_a_ring_sends_what_is_counted(ranks: int) -> None:
    """A ring passes a share of the sum on in each of R - 1 rounds, and then a finished share in each of R - 1."""
    job = Job(ranks, 32 * ranks, parameters=ranks * 1000)
    share = job.parameters * 4 // ranks
    assert scaling.sent(job)["gradients"] == sum(share for _ in range(ranks - 1)) + sum(share for _ in range(ranks - 1))
    own = scaling.payload(job)["keys"]
    assert scaling.sent(job)["keys"] == sum(own for _ in range(ranks - 1))


@pytest.mark.parametrize("ranks", [2, 16, 64])
def test_images_that_change_places_are_counted(ranks: int) -> None:
    """Where every image may go to every rank alike, as many leave their rank, and their node, as pairs of ranks say."""
    job = Job(ranks, 32 * ranks)
    pairs = list(itertools.product(range(ranks), repeat=2))
    moved = sum(a != b for a, b in pairs) / len(pairs)
    assert scaling.sent(job)["images"] == pytest.approx(moved * scaling.payload(job)["images"])
    outside = sum(a // PER_NODE != b // PER_NODE for a, b in pairs) / len(pairs)
    given = scaling.payload(job)["images"] + scaling.payload(job)["keys back"]
    ring = sum(scaling.sent(job)[name] for name in ("gradients", "keys", "indices", "flags"))
    expected = PER_NODE * outside * given + ring if ranks > PER_NODE else 0
    assert scaling.out_of_a_node(job) == pytest.approx(expected)
    if ranks > PER_NODE:
        assert scaling.wire_seconds(job) == pytest.approx(expected / NIC)


def test_memory_is_that_of_the_dictionaries() -> None:
    """What the buffers of a real queue and a real bank hold."""
    queue, bank = Queue(100, 128), MemoryBank(1000, 128, negatives=10)
    assert sum(buffer.nbytes for buffer in queue.buffers()) == scaling.queue_bytes(100)
    assert sum(buffer.nbytes for buffer in bank.buffers()) == scaling.bank_bytes(1000)
