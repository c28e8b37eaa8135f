"""A pretext of single items: its random numbers, its batches, and what a wrong one is told."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from moco.data.images import ArrayImages
from moco.data.pairs import PairBatches
from moco.data.pretext import Draw, EachItem, Pairing
from moco.data.replacement import ChosenImages
from moco.errors import BadInputError
from moco.runtime.fields import require
from moco.runtime.randomness import Stream, uniforms

BOTH = (Stream.VIEW_QUERY, Stream.VIEW_KEY)
SPAN = torch.ones(8, dtype=torch.uint8)
PAIR = torch.zeros(3, 4, 4)


def images(count: int = 12) -> ArrayImages:
    """Images of one colour, their number."""
    return ArrayImages(torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous())


def shifted(item: Any, draw: Draw) -> tuple[Any, Any]:
    """The item's colour plus a number drawn for each side."""
    u = draw.uniforms(2)
    return item.float() + u[0], item.float() + u[1]


def paired(pretext: Callable[..., Any], like: torch.Tensor = PAIR) -> Pairing:
    """The pretext for whole batches."""
    return EachItem(pretext, lambda images, index: images[index], like, "--pretext my.py:pairs")


def test_draws_are_the_numbers_of_their_place() -> None:
    """Those of the counter-based generator in order, however they are asked for."""
    expected = uniforms(9, seed=3, stream=Stream.PRETEXT, epoch=2, index=5)[0]
    draw = Draw(3, 2, 5)
    assert np.array_equal(np.concatenate([draw.uniforms(4), draw.uniforms(1), draw.uniforms(4)]), expected)
    whole = [Draw(0, 0, index).integer(3) for index in range(300)]
    assert {whole.count(value) > 60 for value in (0, 1, 2)} == {True}


def test_batches_are_a_function_of_seed_epoch_and_index() -> None:
    """For any number of workers and ranks; an epoch has every item once."""
    batches = PairBatches(images(), paired(shifted), 4, 4, seed=7)
    alone = [batches[step] for step in range(6)]
    for step, batch in enumerate(batches.run(0, 6, workers=1)):
        assert torch.equal(batch.x_q, alone[step].x_q)
        assert torch.equal(require(batch.x_k), require(alone[step].x_k))
    for epoch in range(2):
        seen = torch.cat([batch.index for batch in alone[3 * epoch : 3 * epoch + 3]])
        assert sorted(seen.tolist()) == list(range(12))
    shares = [PairBatches(images(), paired(shifted), 4, 4, 7, rank, 2)[5].x_q for rank in range(2)]
    assert torch.equal(torch.cat(shares), alone[5].x_q)
    index = int(alone[4].index[0])
    u = Draw(7, 1, index).uniforms(2)
    assert torch.allclose(alone[4].x_q[0], torch.full((3, 4, 4), index + u[0]).float())
    (again,) = batches.make_views(alone[4].index.numpy(), 1, (Stream.VIEW_KEY,))
    assert torch.equal(again, require(alone[4].x_k))


def test_short_spans_are_padded_with_zeros() -> None:
    """Up to the length that the encoder is built for; arrays are taken too."""
    pairing = paired(lambda _, __: (np.full(3, 7, np.uint8), torch.full((8,), 9, dtype=torch.uint8)), SPAN)
    x_q, x_k = pairing(ChosenImages(images(), np.array([1]), 0, 0), BOTH)
    assert x_q.tolist() == [[7, 7, 7, 0, 0, 0, 0, 0]]
    assert x_k.tolist() == [[9] * 8]


BYTES = torch.ones(3, dtype=torch.uint8)


def leave(*_: object) -> None:
    """A pretext that ends the process; `sys.exit` itself is one of wandb's functions after its tests."""
    raise SystemExit(0)


WRONG: list[tuple[Any, torch.Tensor, str]] = [
    (lambda *_: PAIR, PAIR, "gives Tensor: expected a pair"),
    (lambda *_: (PAIR, PAIR, PAIR), PAIR, "gives a tuple of 3: expected a pair"),
    (lambda *_: (PAIR, PAIR[:, :3]), PAIR, r"x_k of item #2 has shape \(3, 3, 4\).*expected \(3, 4, 4\) of float32"),
    (lambda *_: (PAIR.double(), PAIR), PAIR, "x_q .* type float64: expected .* of float32"),
    (lambda *_: (PAIR, PAIR * torch.nan), PAIR, "x_k of item #2 has 48 numbers that are not finite: expected finite"),
    (lambda *_: (BYTES, BYTES[:0]), SPAN, r"x_k of item #2 has shape \(0,\) \(empty\).*expected \(1 to 8,\) of uint8"),
    (lambda *_: (BYTES.repeat(3), BYTES), SPAN, r"x_q of item #2 has shape \(9,\).*expected \(1 to 8,\)"),
    (lambda *_: ("a", "b"), PAIR, "x_q of item #2 is str: expected a tensor"),
    (lambda *_: 1 / 0, PAIR, r"ZeroDivisionError for item #2 \(line \d+ of <lambda>: division by zero\)"),
    (leave, PAIR, r"SystemExit for item #2 \(line \d+ of leave: 0\)"),
    (lambda _, draw: draw.integer(0), PAIR, r"ValueError for item #2 \(line \d+ of <lambda>: 0: expected 1 or more\)"),
]


@pytest.mark.parametrize(("pretext", "like", "message"), WRONG)
def test_a_wrong_pair_is_told_with_its_item(pretext: Any, like: torch.Tensor, message: str) -> None:
    """In one line that says what was expected."""
    with pytest.raises(BadInputError, match=f"--pretext my.py:pairs: .*{message}") as error:
        paired(pretext, like)(ChosenImages(images(), np.array([2]), 0, 0), BOTH)
    assert "\n" not in str(error.value)


def test_another_item_stands_in_for_one_that_cannot_be_read() -> None:
    """As an image does; the batch says so."""

    def read(images: Any, index: int) -> Any:
        if index == 2:
            raise BadInputError("#2: is damaged")
        return images[index]

    chosen = ChosenImages(images(), np.array([1, 2]), 0, 0)
    EachItem(shifted, read, PAIR)(chosen, BOTH)
    (replaced,) = chosen.replaced()
    assert replaced.name == "#2"
    assert int(chosen.index[1]) != 2


def test_a_batch_larger_than_the_set_is_refused() -> None:
    """With both numbers."""
    with pytest.raises(BadInputError, match="13, and there are 12 items"):
        PairBatches(images(), paired(shifted), 13, 4)
