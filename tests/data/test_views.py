"""Views of arrays and of files equal torchvision's, by the compiled kernels and by torch; files are decoded once."""

import dataclasses
import io
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision.transforms.functional as reference
from PIL import Image as PillowImage
from torch import Tensor

import moco.data
from moco.data import photos as module
from moco.data.augment import AUGMENTATIONS, ViewParameters, crop_batch, draw
from moco.data.derived import Subset, make_readable
from moco.data.images import ArrayImages, FileImages, Images, PathTable
from moco.data.jpeg import decode_plain
from moco.data.replacement import ChosenImages
from moco.data.views import COMPILED, Look, can_compile, crop_fraction, make_views, render_array
from moco.errors import BadInputError
from moco.runtime.randomness import Integers, Stream
from tests.data.test_augment import digits, drawn, photographs, reference_view
from tests.slow import slow

LARGEST_SMALL, LARGEST_PHOTOGRAPH = 4e-6, 1e-4
"""Of 1: largest difference to torchvision's pixels; 1.4e-6 and 4.5e-5 seen. See test_augment for the reasons."""
LARGEST_SCALED, MEAN_SCALED = 0.25, 0.003
"""Of 1: largest and mean difference of views decoded at a smaller size to exact views; docs/views.md has more."""

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
PLAIN = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

WAYS = (False, True) if COMPILED else (False,)
"""By torch, and by the compiled kernels where numba is installed."""
needs_numba = pytest.mark.skipif(not COMPILED, reason="numba is not installed")
both_ways = pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_numba)], ids=["torch", "numba"])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileImages:
    """Large JPEG photographs, a small one, a turned one, a PNG."""
    root = tmp_path_factory.mktemp("files")
    large = [PillowImage.fromarray(photo.permute(1, 2, 0).numpy()).resize((1500, 1001)) for photo in photographs()[:2]]
    for i, image in enumerate(large):
        image.save(root / f"{i}.jpg", quality=90)
    small = large[0].resize((120, 90))
    small.save(root / "2.jpg", quality=90)
    turned = PillowImage.Exif()
    turned[0x0112] = 6
    small.save(root / "3.jpg", quality=90, exif=turned)
    small.save(root / "4.png")
    return FileImages(os.fsencode(root), PathTable([b"0.jpg", b"1.jpg", b"2.jpg", b"3.jpg", b"4.png"]))


STREAMS = (Stream.VIEW_QUERY, Stream.VIEW_KEY)


def draw_pair(name: str, sizes: Integers, index: list[int]) -> list[ViewParameters]:
    """Two views of each image of `index`."""
    return [draw(AUGMENTATIONS[name], sizes, seed=0, epoch=0, index=index, view=stream) for stream in STREAMS]


def make_pair(images: Images, index: list[int], look: Look) -> list[Tensor]:
    """The same views, made; nothing stands in for an image that cannot be read."""
    return make_views(ChosenImages(images, np.array(index), 0, 0, stand_ins=False), STREAMS, look)


@pytest.mark.parametrize(
    ("size", "name"),
    [
        slow(size, name) if size == 224 and name != "v2" else (size, name)
        for size in (224, 32)
        for name in AUGMENTATIONS
    ],
)
def test_views_of_photographs_equal_torchvision(name: str, size: int) -> None:
    """Fifteen views, in which every operation and most orders occur."""
    n = 15
    parameters = drawn(name, n, (427, 640), seed=5)
    images = [photographs()[i % 3] for i in range(n)]
    expected = torch.stack([reference_view(image, name, parameters, i, size) for i, image in enumerate(images)])
    for compiled in WAYS:
        look = Look(AUGMENTATIONS[name], size, *PLAIN, compiled=compiled)
        found = render_array(torch.stack(images), parameters, look)
        assert found.shape == (n, 3, size, size)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (found - expected).abs().max() <= LARGEST_PHOTOGRAPH, compiled


@pytest.mark.parametrize("name", [name if name in ("v2", "cifar") else slow(name) for name in AUGMENTATIONS])
def test_views_of_small_images_equal_torchvision_in_all_orders(name: str) -> None:
    """A few hundred views from 32 and from 8 pixels, normalised."""
    patches = torch.stack([photographs()[i % 3][:, i : i + 32, i : i + 32] for i in range(200)])
    for images in (patches, digits().repeat(25, 1, 1, 1)):
        parameters = drawn(name, 200, (images.shape[2], images.shape[3]))
        assert len({tuple(order) for order in parameters.order.tolist()}) >= 24
        expected = torch.stack([reference_view(image, name, parameters, i, 32) for i, image in enumerate(images)])
        normal = reference.normalize(expected, list(MEAN), list(STD))
        for compiled in WAYS:
            found = render_array(images, parameters, Look(AUGMENTATIONS[name], 32, MEAN, STD, compiled=compiled))
            assert (found - normal).abs().max() <= LARGEST_SMALL / min(STD), compiled


@needs_numba
def test_a_compiled_view_does_not_depend_on_its_batch() -> None:
    """Alone: bit-equal."""
    images, look = digits(), Look(AUGMENTATIONS["v2"], 32, MEAN, STD, compiled=True)
    parameters = drawn("v2", 8, (8, 8))
    together = render_array(images, parameters, look)
    for i in range(8):
        fields = dataclasses.fields(parameters)
        given = {field.name: getattr(parameters, field.name) for field in fields}
        alone: dict[str, Any] = {name: None if rows is None else rows[i : i + 1] for name, rows in given.items()}
        one = ViewParameters(**alone)
        assert torch.equal(render_array(images[i : i + 1], one, look)[0], together[i])


@needs_numba
@pytest.mark.parametrize("size", [1, 2, 7, 96])
def test_compiled_views_of_odd_sizes_equal_torch(size: int) -> None:
    """From images of one pixel and of thousands of lines, to views of one pixel and of sizes that fill no strip."""
    for height, width in ((1, 1), (3, 2000), (2000, 3), (37, 41)):
        images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (9, 3, height, width), dtype=np.uint8))
        parameters = drawn("v2", 9, (height, width), seed=2)
        ways = [
            render_array(images, parameters, Look(AUGMENTATIONS["v2"], size, *PLAIN, compiled=way))
            for way in (True, False)
        ]
        assert (ways[0] - ways[1]).abs().max() <= LARGEST_PHOTOGRAPH


@both_ways
@pytest.mark.parametrize("scaled", [False, True])
def test_views_of_files_are_those_of_the_decoded_images(files: FileImages, compiled: bool, scaled: bool) -> None:
    """Turned pictures, PNG files and small JPEGs are never decoded at a smaller size."""
    index, look = [3, 2, 4, 3], Look(AUGMENTATIONS["v2"], 32, *PLAIN, scaled=scaled, compiled=compiled)
    found = make_pair(files, index, look)
    decoded = [files[i] for i in index]
    drawn_views = draw_pair("v2", np.array([image.shape[1:] for image in decoded]), index)
    for views, parameters in zip(found, drawn_views, strict=True):
        for i, image in enumerate(decoded):
            if not scaled or index[i] != 2:
                expected = reference_view(image, "v2", parameters, i, 32)
                assert (views[i] - expected).abs().max() <= LARGEST_PHOTOGRAPH


@both_ways
def test_views_at_a_smaller_size_differ_little(files: FileImages, compiled: bool) -> None:
    """What is drawn is the same; the largest and mean differences are those stated above."""
    look, eight = Look(AUGMENTATIONS["v2"], 96, *PLAIN, compiled=compiled), Subset(files, np.array([0, 1] * 4))
    exact = make_pair(eight, list(range(8)), look)
    scaled = make_pair(eight, list(range(8)), dataclasses.replace(look, scaled=True))
    for a, b in zip(exact, scaled, strict=True):
        difference = (a - b).abs()
        assert 0 < difference.max() <= LARGEST_SCALED
        assert difference.mean() <= MEAN_SCALED


def test_a_photograph_is_decoded_once_and_no_larger_than_needed(
    files: FileImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the largest shrink that leaves both crops a view's pixels, or at its full size."""
    asked: list[int] = []

    def counted(content: bytes, shrink: int) -> Tensor | None:
        asked.append(shrink)
        return decode_plain(content, shrink)

    monkeypatch.setattr(module, "decode_plain", counted)
    look = Look(AUGMENTATIONS["v2"], 96, *PLAIN)
    make_pair(files, [0, 1], look)
    assert asked == [1, 1]
    asked.clear()
    make_pair(files, [0, 1], dataclasses.replace(look, scaled=True))
    crops = [parameters.crop[:, 2:] for parameters in draw_pair("v2", np.array([[1001, 1500]] * 2), [0, 1])]
    shortest = np.minimum(crops[0].min(1), crops[1].min(1)) / 96
    assert asked == [max(shrink for shrink in (1, 2, 4, 8) if shrink <= room or shrink == 1) for room in shortest]
    assert max(asked) > 1


def triangle_weights(start: float, length: float, in_size: int, out_size: int) -> npt.NDArray[np.float64]:
    """The weights (out, in) that resize [start, start + length), by plain loops."""
    weights = np.zeros((out_size, in_size))
    step = length / out_size
    for i in range(out_size):
        for j in range(in_size):
            if start <= j + 0.5 <= start + length:
                distance = abs(j + 0.5 - (start + step * (i + 0.5)))
                weights[i, j] = max(0.0, 1 - distance / max(step, 1.0))
        weights[i] /= weights[i].sum()
    return weights


@pytest.mark.parametrize("shrink", [2, 3.5])
def test_a_crop_by_fractions_of_pixels_equals_the_oracle(shrink: float) -> None:
    """Weights by plain loops in float64, and whole windows as `crop_one` has them."""
    image = photographs()[0]
    top, left, height, width = 31 / shrink, 77 / shrink, 401 / shrink, 333 / shrink
    found = crop_fraction(image, (top, left, height, width), 32)
    rows = triangle_weights(top, height, 427, 32)
    columns = triangle_weights(left, width, 640, 32)
    expected = torch.from_numpy(rows @ (image.double().numpy() / 255) @ columns.T)
    assert (found - expected).abs().max() <= LARGEST_PHOTOGRAPH
    whole = crop_fraction(image, (31.0, 77.0, 201.0, 333.0), 32)
    assert (whole - crop_batch(image[None], np.array([[31, 77, 201, 333]]), 32)[0]).abs().max() <= LARGEST_PHOTOGRAPH
    if COMPILED:
        from moco.data.compiled_crop import crop

        pixels = np.empty((1, 3, 32, 32), np.float32)
        lines = image.permute(1, 2, 0).reshape(1, 427, -1).numpy()
        crop(lines, np.array([[top, left, height, width]]), pixels)
        assert (torch.from_numpy(pixels[0]) - expected).abs().max() <= LARGEST_PHOTOGRAPH


@pytest.mark.parametrize(
    "wrap",
    [
        lambda files: Subset(Subset(files, np.array([4, 1, 0])), np.array([2, 1])),  # 0 and 1, as in the whole set
        lambda files: make_readable(files),
        lambda files: make_readable(Subset(files, np.arange(2))),
    ],
    ids=["part of a part", "with stand-ins", "part with stand-ins"],
)
def test_sets_made_of_files_keep_the_fast_decoder(
    files: FileImages, wrap: Callable[[Images], Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their photographs are decoded at a smaller size where those of the whole set would be."""
    look = Look(AUGMENTATIONS["v2"], 32, *PLAIN, scaled=True)
    expected, asked = make_pair(files, [1, 0], look), list[int]()

    def counted(content: bytes, shrink: int) -> Tensor | None:
        asked.append(shrink)
        return decode_plain(content, shrink)

    monkeypatch.setattr(module, "decode_plain", counted)
    found = make_pair(wrap(files), [1, 0], look)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert len(asked) == 2
    assert min(asked) > 1


@pytest.mark.parametrize("cut", [100, 20000])
def test_a_damaged_photograph_is_named(tmp_path: Path, cut: int) -> None:
    """A header without a picture, and half a picture."""
    file = io.BytesIO()
    PillowImage.fromarray(photographs()[0].permute(1, 2, 0).numpy()).save(file, "jpeg")
    (tmp_path / "x.jpg").write_bytes(file.getvalue()[:cut])
    images = FileImages(os.fsencode(tmp_path), PathTable([b"x.jpg"]))
    with pytest.raises(BadInputError, match=r"x\.jpg: cannot be read as an image"):
        make_pair(images, [0], Look(AUGMENTATIONS["v2"], 32, *PLAIN))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """It was there when the folder was read."""
    images = FileImages(os.fsencode(tmp_path), PathTable([b"gone.jpg"]))
    with pytest.raises(BadInputError, match=r"gone\.jpg: cannot be read"):
        make_pair(images, [0], Look(AUGMENTATIONS["v2"], 32, *PLAIN))


@both_ways
@pytest.mark.parametrize("in_memory", [False, True])
def test_views_are_turned_as_drawn(files: FileImages, compiled: bool, in_memory: bool) -> None:
    """Every view of files and of images in memory is the view without turns, turned by what was drawn for it."""
    images: Images = ArrayImages(digits().repeat(3, 1, 1, 1)) if in_memory else files
    index = list(range(20)) if in_memory else [0, 2, 3, 4, 2, 3, 4]
    turning = dataclasses.replace(AUGMENTATIONS["v2"], quarter_turns=True)
    pairs = [
        make_pair(images, index, Look(one, 16, *PLAIN, compiled=compiled)) for one in (AUGMENTATIONS["v2"], turning)
    ]
    sizes = np.array([images[i].shape[1:] for i in index])
    seen = set()
    for stream, before, after in zip(STREAMS, *pairs, strict=True):
        turns = draw(turning, sizes, seed=0, epoch=0, index=index, view=stream).turns
        assert turns is not None
        seen |= set(turns.tolist())
        for i, quarters in enumerate(turns.tolist()):
            assert torch.equal(after[i], torch.from_numpy(np.rot90(before[i].numpy(), quarters, (1, 2)).copy()))
    assert seen == {0, 1, 2, 3}


@both_ways
def test_images_in_memory_are_rendered_together(compiled: bool) -> None:
    """What is drawn is the same as for files; a part of them has the views that an array of these images has."""
    look, pixels = Look(AUGMENTATIONS["v2"], 32, *PLAIN, compiled=compiled), digits()
    found = make_pair(ArrayImages(pixels), [0, 1], look)
    for views, parameters in zip(found, draw_pair("v2", np.array([[8, 8]] * 2), [0, 1]), strict=True):
        for i in range(2):
            expected = reference_view(pixels[i], "v2", parameters, i, 32)
            assert (views[i] - expected).abs().max() <= LARGEST_SMALL
    rows = np.array([5, 2, 7])
    part, copied = Subset(ArrayImages(pixels), rows), ArrayImages(pixels[torch.from_numpy(rows)])
    for a, b in zip(make_pair(part, [2, 0], look), make_pair(copied, [2, 0], look), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("wrap", [lambda images: images, lambda images: Subset(images, np.arange(3))], ids=["", "part"])
def test_an_unreadable_image_in_memory_is_named(wrap: Callable[[Images], Images]) -> None:
    """Where nothing stands in for it; the others have their views."""
    images = wrap(ArrayImages(digits(), unreadable={1: "1.png: cannot be read"}))
    look = Look(AUGMENTATIONS["v2"], 16, *PLAIN)
    with pytest.raises(BadInputError, match=r"1\.png: cannot be read"):
        make_pair(images, [0, 1, 2], look)
    assert len(make_pair(images, [0, 2], look)[0]) == 2


VIEWS = """
import hashlib, sys
from pathlib import Path
from moco.data.catalog import load
from moco.pretraining.prepare import build_batches, resolve_config
from moco.pretraining.recipes import recipe

images = load("digits")["train"]
config = recipe("quick", data="digits", out=Path("run"), image_size=12, view_size=None, batch_size=32, device="cpu",
                precision="fp32", threads=1, workers=0)
x_q = build_batches(resolve_config(config, images), images)[0].x_q
print(hashlib.sha256(x_q.numpy().tobytes()).hexdigest())
"""


@needs_numba
@pytest.mark.slow
def test_the_process_that_compiles_makes_the_same_views(tmp_path: Path) -> None:
    """As one that reads the machine code from disk: else a first run that is stopped would go on with other pixels."""
    environment = {
        **os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(module.__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", VIEWS]
    said = [subprocess.run(command, capture_output=True, text=True, env=environment, check=True) for _ in range(2)]
    assert said[0].stdout == said[1].stdout != ""


@needs_numba
def test_numba_that_fails_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder for its machine code, or a version that cannot be imported: one warning, and torch makes the views."""
    broken = types.ModuleType("moco.data.compiled_crop")

    def crop(*_: object) -> None:
        raise RuntimeError("cannot cache function 'crop': no locator available")

    broken.crop = crop  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "moco.data.compiled_crop", broken)
    monkeypatch.setattr(moco.data, "compiled_crop", broken, raising=False)
    can_compile.cache_clear()
    try:
        with pytest.warns(UserWarning, match="numba does not work here .*set NUMBA_CACHE_DIR"):
            assert not Look(AUGMENTATIONS["v1"], 8, (0.5,) * 3, (0.5,) * 3).compiled
    finally:
        can_compile.cache_clear()
