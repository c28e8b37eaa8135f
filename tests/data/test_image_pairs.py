"""Masked views, neighbours in a series, and pairs of files, against what they say of themselves."""

import numpy as np
import pytest
import torch

from moco.data.augment import AUGMENTATIONS
from moco.data.image_pairs import Hidden, ImagePairs, match_names
from moco.data.images import ArrayImages, PathTable
from moco.data.pairs import PairBatches
from moco.data.replacement import ChosenImages
from moco.data.series import Series, group_by_folder
from moco.data.views import Look, make_views
from moco.errors import BadInputError
from moco.runtime.randomness import Stream

BOTH = (Stream.VIEW_QUERY, Stream.VIEW_KEY)
LOOK = Look(AUGMENTATIONS["cifar"], 8, (0.5,) * 3, (0.5,) * 3, compiled=False)


def images(names: list[str], seed: int = 0) -> ArrayImages:
    """Random images of these names."""
    pixels = torch.randint(0, 256, (len(names), 3, 10, 10), generator=torch.Generator().manual_seed(seed))
    return ArrayImages(pixels.to(torch.uint8), names=PathTable(name.encode() for name in names))


FRAMES = ["b/f2.png", "b/f10.png", "a/1.png", "b/f1.png", "a/2.png", "c/0.png"]
SERIES = Series(group_by_folder(FRAMES), len(FRAMES), 1)


def test_the_query_hides_patches_and_the_key_none() -> None:
    """Of each query the same share, on a grid; what it shows are the pixels of the view, and so is all of the key."""
    chosen = ChosenImages(images(FRAMES), np.arange(6), 3, 1)
    x_q, x_k = ImagePairs(LOOK, hidden=Hidden(0.5, 4))(chosen, BOTH)
    whole, key = make_views(ChosenImages(images(FRAMES), np.arange(6), 3, 1), BOTH, LOOK)
    assert torch.equal(x_k, key)
    blocks = (x_q == 0).view(6, 3, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).flatten(3)
    assert (blocks.all(3).sum((1, 2)) == 2).all()
    assert torch.equal(x_q[x_q != 0], whole[x_q != 0])
    assert len({tuple(row.flatten().tolist()) for row in blocks.all(3)}) > 1
    odd = Hidden(0.25, 3).hide(torch.ones(4, 3, 8, 8), np.arange(4), np.zeros(4, np.int64), 0)
    assert odd.shape == (4, 3, 8, 8)


def test_the_key_is_a_view_of_the_neighbour() -> None:
    """With the neighbour's own crop, and the batch is the same by its parts."""
    pairs = ImagePairs(LOOK, SERIES)
    batches = PairBatches(images(FRAMES), pairs, 3, 8, seed=4)
    batch = batches[1]
    other = SERIES(batch.index.numpy(), np.zeros(3, np.int64), 4)
    (expected,) = make_views(ChosenImages(images(FRAMES), other, 0, 4), (Stream.VIEW_KEY,), LOOK)
    assert batch.x_k is not None
    assert torch.equal(batch.x_k, expected)
    (query,) = make_views(ChosenImages(images(FRAMES), batch.index.numpy(), 0, 4), (Stream.VIEW_QUERY,), LOOK)
    assert torch.equal(batch.x_q, query)


def test_a_neighbour_that_cannot_be_read_is_replaced_by_the_frame_itself() -> None:
    """The batch says so."""
    found = images(FRAMES)
    found.unreadable = {4: "a/2.png: is damaged"}
    chosen = ChosenImages(found, np.array([2]), 0, 0)
    x_k = ImagePairs(LOOK, SERIES)(chosen, (Stream.VIEW_KEY,))[0]
    (expected,) = make_views(ChosenImages(found, np.array([2]), 0, 0), (Stream.VIEW_KEY,), LOOK)
    assert torch.equal(x_k, expected)
    assert [(one.name, one.by) for one in chosen.replaced()] == [("a/2.png", "a/1.png")]


def test_files_of_one_name_are_paired() -> None:
    """Whatever their endings; each image has one."""
    left, right = images(["x.png", "y.png"]), images(["w.jpg", "x.jpg", "y.jpg"], seed=1)
    rows = match_names(left, right, "D")
    assert rows.tolist() == [1, 2]
    pairs = ImagePairs(LOOK, lambda index, epochs, seed: rows[index], right)
    x_q, x_k = pairs(ChosenImages(left, np.array([1, 0]), 0, 0), BOTH)
    (expected,) = make_views(ChosenImages(right, np.array([2, 1]), 0, 0), (Stream.VIEW_KEY,), LOOK)
    assert torch.equal(x_k, expected)
    assert not torch.equal(x_q, x_k)
    with pytest.raises(BadInputError, match=r"--partner D: no file for w.jpg \(and 0 others\)"):
        match_names(right, left, "D")
    with pytest.raises(BadInputError, match=r"x.jpg and x.png have one name"):
        match_names(left, images(["x.jpg", "x.png", "y.png"]), "D")
