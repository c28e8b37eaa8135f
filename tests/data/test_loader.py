"""The batches of a run are a pure function of (seed, step), whatever makes them and wherever it starts."""

import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from moco.data import loader
from moco.data.augment import AUGMENTATIONS, draw, normalize, render
from moco.data.images import ArrayImages, FileImages, Images, PathTable
from moco.data.loader import Batch, ViewBatches, choose_workers
from moco.errors import BadInputError
from moco.runtime.randomness import Stream

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
IMAGES, BATCH, SIZE = 23, 8, 16
STEPS_PER_EPOCH = 2


pytestmark = pytest.mark.usefixtures("one_thread")


def array_images() -> ArrayImages:
    """Noise in memory."""
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 3, 20, 20), dtype=np.uint8)
    return ArrayImages(torch.from_numpy(pixels))


@pytest.fixture(scope="module")
def file_images(tmp_path_factory: pytest.TempPathFactory) -> FileImages:
    """Noise on disk, each file of another size."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    names = [f"{i:02}.png" for i in range(IMAGES)]
    for i, name in enumerate(names):
        PillowImage.fromarray(rng.integers(0, 256, (20 + i, 60 - 2 * i, 3), dtype=np.uint8)).save(root / name)
    return FileImages(os.fsencode(root), PathTable([name.encode() for name in names]))


def batches(images: Images, *, seed: int = 0, key_views: bool = True, rank: int = 0, ranks: int = 1) -> ViewBatches:
    """The batches of a small run."""
    return ViewBatches(
        images, AUGMENTATIONS["v2"], SIZE, MEAN, STD, BATCH, seed=seed, key_views=key_views, rank=rank, ranks=ranks
    )  # fmt: skip


def equal(a: Batch, b: Batch) -> bool:
    """Whether two batches are equal bit for bit."""
    assert a.x_k is not None
    assert b.x_k is not None
    same = torch.equal(a.x_q, b.x_q) and torch.equal(a.x_k, b.x_k) and torch.equal(a.index, b.index)
    return same and a.replaced == b.replaced


def epoch_order(views: ViewBatches, epoch: int) -> list[int]:
    """The images of an epoch, in order."""
    first = epoch * views.steps_per_epoch
    return [int(i) for step in range(first, first + views.steps_per_epoch) for i in views.plan(step)]


# --- order ----------------------------------------------------------------------------------------------------------


def test_an_epoch_shows_no_image_twice_and_drops_what_fills_no_batch() -> None:
    """23 images make two batches of 8; each epoch leaves out others, so that all are seen."""
    views = batches(array_images())
    assert views.steps_per_epoch == STEPS_PER_EPOCH
    seen = set()
    for epoch in range(12):
        order = epoch_order(views, epoch)
        assert len(set(order)) == STEPS_PER_EPOCH * BATCH
        assert set(order) <= set(range(IMAGES))
        seen |= set(order)
    assert seen == set(range(IMAGES))


def test_a_full_epoch_is_a_permutation() -> None:
    """Where the batches come out even, every image is seen once."""
    images = ArrayImages(array_images().pixels[:16])
    for epoch in range(3):
        assert sorted(epoch_order(batches(images), epoch)) == list(range(16))


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    """The same in another object and for other images; another in the next epoch and for another seed."""
    views, order = batches(array_images()), epoch_order(batches(array_images()), 0)
    assert epoch_order(views, 0) == order
    assert epoch_order(batches(ArrayImages(torch.zeros(IMAGES, 3, 4, 4, dtype=torch.uint8))), 0) == order
    assert epoch_order(views, 1) != order
    assert epoch_order(batches(array_images(), seed=1), 0) != order
    assert views.plan(1).tolist() == order[BATCH:], "a step can be asked for alone"


def test_no_image_prefers_a_place() -> None:
    """Over many epochs, the mean place of each image is the middle: within five standard errors."""
    images = ArrayImages(torch.zeros(16, 3, 4, 4, dtype=torch.uint8))
    orders = np.array([epoch_order(batches(images), epoch) for epoch in range(400)])
    places = np.argsort(orders, axis=1).mean(0)
    assert np.abs(places - 7.5).max() < 5 * np.sqrt((16**2 - 1) / 12 / 400)


# --- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_holds_two_views_of_each_image(file_images: FileImages) -> None:
    """Each is what draw, render and normalize make of that image alone, with its stream and epoch."""
    step = 3
    x_q, x_k, index, _ = batches(file_images)[step]
    assert x_k is not None
    assert index.tolist() == batches(file_images).plan(step).tolist()
    assert x_q.shape == x_k.shape == (BATCH, 3, SIZE, SIZE)
    assert x_q.dtype == x_k.dtype == torch.float32
    for row, i in enumerate(index.tolist()):
        image = file_images[i]
        for found, view in ((x_q, Stream.VIEW_QUERY), (x_k, Stream.VIEW_KEY)):
            sizes = np.array([image.shape[1:]])
            parameters = draw(AUGMENTATIONS["v2"], sizes, seed=0, epoch=step // STEPS_PER_EPOCH, index=[i], view=view)
            alone = normalize(render([image], parameters, AUGMENTATIONS["v2"], SIZE), MEAN, STD)
            # matrix products of one image and of eight may add up in another order: a few 1e-7, divided by std 0.2
            assert torch.allclose(found[row], alone[0], atol=1e-5, rtol=0)


def test_query_and_key_are_different_views() -> None:
    """And another epoch, seed or image gives others again."""
    first = batches(array_images())[0]
    assert first.x_k is not None
    assert not torch.equal(first.x_q, first.x_k)
    assert not torch.equal(first.x_q, batches(array_images(), seed=1)[0].x_q)


def test_memory_and_list_give_the_same_views(tmp_path: Path) -> None:
    """Held images are cropped by matrix products, files by interpolation: equal within the error of the crop."""
    array = array_images()
    for i in range(IMAGES):
        PillowImage.fromarray(array[i].permute(1, 2, 0).numpy()).save(tmp_path / f"{i:02}.png")
    files = FileImages(os.fsencode(tmp_path), PathTable([f"{i:02}.png".encode() for i in range(IMAGES)]))
    held, read = batches(array)[1], batches(files)[1]
    assert torch.equal(held.index, read.index)
    for a, b in ((held.x_q, read.x_q), (held.x_k, read.x_k)):
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, atol=2e-5, rtol=0)  # 4e-6 in [0, 1] (see test_augment), divided by std 0.2


def test_without_key_views_there_is_no_key() -> None:
    """The memory bank needs one view only; it is the same one."""
    x_q, x_k, index, _ = batches(array_images(), key_views=False)[0]
    both = batches(array_images())[0]
    assert x_k is None
    assert torch.equal(x_q, both.x_q)
    assert torch.equal(index, both.index)
    loaded = next(batches(array_images(), key_views=False).run(0, 1, workers=0))
    assert loaded.x_k is None


@pytest.mark.parametrize("kind", ["array", "files"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_rank_gets_its_block_of_the_batch(file_images: FileImages, kind: str, ranks: int) -> None:
    """The blocks of all ranks, one after the other, are the batch of a single process."""
    images: Images = array_images() if kind == "array" else file_images
    for step in (0, 3):
        x_q, x_k, index, _ = batches(images)[step]
        shares = [batches(images, rank=rank, ranks=ranks)[step] for rank in range(ranks)]
        assert all(len(share.x_q) == BATCH // ranks for share in shares)
        assert torch.equal(torch.cat([share.index for share in shares]), index)
        # 1e-6 in [0, 1], divided by std 0.2
        assert torch.allclose(torch.cat([share.x_q for share in shares]), x_q, atol=5e-6, rtol=0)
        keys = [share.x_k for share in shares if share.x_k is not None]
        assert x_k is not None
        assert torch.allclose(torch.cat(keys), x_k, atol=5e-6, rtol=0)


@pytest.mark.parametrize("kind", ["array", "files"])
def test_worker_processes_change_nothing(file_images: FileImages, kind: str) -> None:
    """With none and with two: the same batches bit for bit, in the same order, over two epochs."""
    images: Images = array_images() if kind == "array" else file_images
    stop = 2 * STEPS_PER_EPOCH
    alone = list(batches(images).run(0, stop, workers=0))
    helped = list(batches(images).run(0, stop, workers=2))
    assert len(alone) == len(helped) == stop
    assert all(equal(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.mark.parametrize("start", [1, 2, 3])
def test_a_run_can_start_anywhere(file_images: FileImages, start: int) -> None:
    """In the middle of an epoch too: the batches are those of a run from the beginning."""
    stop = 2 * STEPS_PER_EPOCH
    whole = list(batches(file_images).run(0, stop, workers=0))
    rest = list(batches(file_images).run(start, stop, workers=0))
    assert len(rest) == stop - start
    assert all(equal(a, b) for a, b in zip(whole[start:], rest, strict=True))


def test_a_run_may_be_over() -> None:
    """From the last step on there is nothing."""
    assert list(batches(array_images()).run(4, 4, workers=0)) == []


def test_a_batch_larger_than_the_data_is_refused() -> None:
    """The message names the flag and both numbers; a batch of all images is one."""
    images = array_images()
    assert ViewBatches(images, AUGMENTATIONS["v1"], SIZE, MEAN, STD, IMAGES).steps_per_epoch == 1
    with pytest.raises(BadInputError, match=f"--batch-size is {IMAGES + 1}, and there are {IMAGES} images"):
        ViewBatches(images, AUGMENTATIONS["v1"], SIZE, MEAN, STD, IMAGES + 1)


@pytest.mark.slow
def test_processes_that_are_spawned_change_nothing(file_images: FileImages, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS and Windows, where nothing is inherited: all that a loading process needs is handed over."""
    before = multiprocessing.get_start_method()
    one = batches(file_images)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        spawned = list(one.run(0, 2, workers=1))
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert all(equal(a, b) for a, b in zip(spawned, one.run(0, 2, workers=0), strict=True))


def test_a_bad_image_is_named_from_a_worker_process(tmp_path: Path) -> None:
    """What a loading process raises comes out as it is, not as a traceback of that process."""
    names = [b"0.png", b"1.png"]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(b"")
    views = ViewBatches(FileImages(os.fsencode(tmp_path), PathTable(names)), AUGMENTATIONS["v1"], SIZE, MEAN, STD, 2)
    for workers in (0, 1):
        with pytest.raises(BadInputError, match=r"\.png: cannot be read") as caught:
            next(views.run(0, 1, workers=workers))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_views_are_made_where_the_run_computes(name: str) -> None:
    """Every operation of a view follows its pixels to the device (here one that only counts)."""
    made = ViewBatches(array_images(), AUGMENTATIONS[name], SIZE, MEAN, STD, BATCH, device="meta")
    x_q, x_k, index, _ = next(made.run(0, 1, workers=0))
    assert x_k is not None
    assert {x_q.device.type, x_k.device.type, index.device.type} == {"meta"}
    assert x_q.shape == x_k.shape == (BATCH, 3, SIZE, SIZE)


def test_two_cores_are_left_beside_a_gpu(monkeypatch: pytest.MonkeyPatch, file_images: FileImages) -> None:
    """To the process that keeps it busy; one process loads in any case."""
    for here, expected in ((16, 14), (2, 1), (1, 1)):
        monkeypatch.setattr(loader, "cores", lambda here=here: here)
        assert choose_workers(None, file_images, "cuda") == expected
        assert choose_workers(None, file_images) == here
