"""Views that are finished on a device are those of the CPU to a rounding of their crops, and nobody waits for them."""

import dataclasses
import warnings
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from moco.data.augment import AUGMENTATIONS, BRIGHTNESS, HUE, ViewParameters, adjust_hue, draw
from moco.data.catalog import load
from moco.data.crops import COLUMNS, Crops, make_crops, pack_drawn
from moco.data.feed import Feed, compile_or_not
from moco.data.images import ArrayImages, FileImages, Images
from moco.data.loader import Batch, ViewBatches
from moco.data.replacement import ChosenImages
from moco.data.views import Look, make_views
from moco.evaluation.linear import CROP_AND_FLIP
from moco.runtime.randomness import Stream
from tests.data.test_augment import photographs
from tests.data.test_views import both_ways

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
ROUNDING = 0.5 / 255
"""Largest difference of a crop's pixel to its byte."""
HUE_GAIN = 3.0
"""Turning the hue is linear in each sixth of the circle: +-a largest +- middle +- b smallest with a + 1 + b <= 3."""
FP32 = 2e-4
"""Twice what the views may differ from torchvision's by order of operations (tests/data/test_views.py)."""
STREAMS = (Stream.VIEW_QUERY, Stream.VIEW_KEY)
ALL = {**AUGMENTATIONS, "linear": CROP_AND_FLIP, "turned": dataclasses.replace(AUGMENTATIONS["v2"], quarter_turns=True)}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """JPEG photographs and noise of two sizes, a PNG, and one that cannot be read."""
    root = tmp_path_factory.mktemp("files")
    for i in range(9):
        image = PillowImage.fromarray(photographs()[i % 3].permute(1, 2, 0).numpy())
        image.resize((300 + 40 * (i % 2), 220)).save(root / f"{i}.jpg", quality=90)
    PillowImage.fromarray(photographs()[0].permute(1, 2, 0).numpy()).save(root / "9.png")
    (root / "a.jpg").write_bytes(b"\xff\xd8\xff no picture")
    images = load(str(root))["train"]
    assert isinstance(images, FileImages)
    return images


def small_images(n: int = 48, side: int = 20) -> ArrayImages:
    """Patches of photographs in memory."""
    patches = [photographs()[i % 2][:, 5 * i : 5 * i + side, 3 * i : 3 * i + side] for i in range(n)]
    return ArrayImages(torch.stack(patches))


def gains(parameters: ViewParameters) -> Tensor:
    """By how much the operations of each view enlarge a difference of its pixels, at most: a product, view by view."""
    found = []
    for order, factors in zip(parameters.order.tolist(), parameters.factors.tolist(), strict=True):
        gain = 1.0
        for operation in order:
            if operation == HUE:
                gain *= HUE_GAIN
            elif operation >= 0:
                factor = factors[operation]
                gain *= factor if operation == BRIGHTNESS else factor + abs(1 - factor)
        found.append(gain)
    return torch.tensor(found)


def fed(images: Images, look: Look, index: list[int], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Two views of each image, finished by a feed."""
    feed = Feed(images, look, "cpu", dtype)
    crops = make_crops(ChosenImages(images, np.array(index), 0, 0), STREAMS, look, with_pixels=feed.held is None)
    return feed.finish(crops.pixels, crops.drawn, crops.index)


@pytest.mark.parametrize("name", ALL)
@both_ways
def test_views_of_files_are_within_their_bound(files: Images, name: str, compiled: bool) -> None:
    """View by view: half of 1/255 times the gains of its own operations, and far less in the mean."""
    index, look = list(range(10)), Look(ALL[name], 96, MEAN, STD, scaled=True, compiled=compiled)
    expected = make_views(ChosenImages(files, np.array(index), 0, 0), STREAMS, look)
    sizes = np.array([files[i].shape[1:] for i in index])
    for stream, view, found in zip(STREAMS, expected, fed(files, look, index), strict=True):
        parameters = draw(ALL[name], sizes, seed=0, epoch=0, index=index, view=stream)
        difference = (found - view).abs() * torch.tensor(STD).view(3, 1, 1)
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (difference.amax((1, 2, 3)) <= ROUNDING * gains(parameters) + FP32).all()
        assert 0 < difference.mean() < 1 / 255


def test_the_gain_of_turning_the_hue() -> None:
    """Three: by differences over colours of every sixth, grey and saturated ones among them."""
    rng = torch.Generator().manual_seed(0)
    colours = torch.rand(4000, 3, 1, 1, generator=rng)
    colours[::4] = colours[::4].mean(1, keepdim=True) + 0.01 * colours[::4]
    shift = torch.rand(4000, 1, 1, 1, generator=rng) - 0.5
    step = 1e-3 * (2 * torch.rand(4000, 3, 1, 1, generator=rng) - 1).sign()
    gain = (adjust_hue(colours + step, shift) - adjust_hue(colours, shift)).abs().amax((1, 2, 3)) / 1e-3
    assert 2.5 < gain.max() <= HUE_GAIN + 0.01


@pytest.mark.parametrize("name", ALL)
def test_views_of_images_in_memory_are_equal(name: str) -> None:
    """They are cropped on the device from bytes, so there is nothing to round: in all orders, to fp32's accuracy."""
    images, look = small_images(), Look(ALL[name], 32, MEAN, STD)
    index = list(range(48)) * 4
    expected = make_views(ChosenImages(images, np.array(index), np.arange(192), 0), STREAMS, look)
    feed, chosen = Feed(images, look, "cpu"), ChosenImages(images, np.array(index), np.arange(192), 0)
    crops = make_crops(chosen, STREAMS, look, with_pixels=False)
    assert crops.pixels is None
    for view, found in zip(expected, feed.finish(None, crops.drawn, crops.index), strict=True):
        assert torch.allclose(found, view, atol=1e-5 / min(STD), rtol=0)
    sent = make_crops(chosen, STREAMS, look)
    assert sent.pixels is not None
    assert torch.equal(torch.stack(feed.finish(*sent[:3])), torch.stack(feed.finish(None, *crops[1:3])))


def test_every_operation_is_in_its_drawn_place() -> None:
    """Each view has its three blends and the hue, in the order that was drawn, and nothing else that changes pixels."""
    sizes = np.full((400, 2), 20)
    parameters = draw(AUGMENTATIONS["v2"], sizes, seed=3, epoch=0, index=range(400), view=Stream.VIEW_KEY)
    packed = pack_drawn(parameters)
    assert packed.shape == (400, COLUMNS)
    for row, order in enumerate(parameters.order.tolist()):
        blends = packed[row, 4:22].reshape(3, 6).T  # (place, share of itself, own luminance, mean luminance)
        found = [(place, blends[place]) for place in range(6) if blends[place].tolist() != [1, 0, 0]]
        wanted = [operation for operation in order if operation not in (-1, HUE)]
        assert [blend[0] for _, blend in found] == [parameters.factors[row, operation] for operation in wanted]
        assert sum(place < 3 for place, _ in found) == (order.index(HUE) if HUE in order else 0)
        for operation, (_, (share, own, mean)) in zip(wanted, found, strict=True):
            rest = np.float32(1) - share
            assert (own, mean) == {0: (0, 0), 1: (0, rest), 2: (rest, 0)}[operation]


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_bf16_is_the_rounding_of_the_last_operation(files: Images, kind: str) -> None:
    """What autocast would do to the views of fp32."""
    images = files if kind == "files" else small_images()
    look = Look(AUGMENTATIONS["v2"], 24, MEAN, STD)
    exact, rounded = (fed(images, look, [1, 2, 3], dtype) for dtype in (torch.float32, torch.bfloat16))
    for view, found in zip(exact, rounded, strict=True):
        assert torch.equal(found, view.bfloat16())
        assert found.is_contiguous(memory_format=torch.channels_last)


# --- calls ----------------------------------------------------------------------------------------------------------

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "bincount", "equal.default")


class Calls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that are called, and those among them for which a host would wait."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names = list[str]()
        self.waits = list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        masks = func is torch.ops.aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1])
        if masks or any(name in str(func) for name in WAITS):
            self.waits.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["files", "memory"])
@pytest.mark.parametrize("name", ALL)
def test_a_batch_takes_few_calls_and_the_host_never_waits(files: Images, name: str, kind: str) -> None:
    """As many for thirty images as for three."""
    images: Images = files if kind == "files" else small_images()
    look, counts = Look(ALL[name], 24, MEAN, STD), []
    feed = Feed(images, look, "cpu")
    for index in ([0, 1, 2], [0, 1, 2, 3, 4] * 6):
        chosen = ChosenImages(images, np.array(index), 0, 0)
        crops = make_crops(chosen, STREAMS, look, with_pixels=feed.held is None)
        with Calls() as calls:
            feed.finish(crops.pixels, crops.drawn, crops.index)
        assert calls.waits == []
        counts.append(len(calls.names))
    assert counts[0] == counts[1] <= 300


def test_it_is_one_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler sees all of it, without a break."""
    look = Look(AUGMENTATIONS["v2"], 24, MEAN, STD)
    crops = make_crops(ChosenImages(small_images(), np.arange(4), 0, 0), STREAMS, look)
    plain, compiled = (Feed(small_images(), look, "cpu", compiled=False) for _ in range(2))
    compiled._finish = torch.compile(plain._finish, backend="eager", fullgraph=True, dynamic=False)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # checks of shapes are no part of the graph
    assert torch.equal(torch.stack(compiled.finish(*crops[:3])), torch.stack(plain.finish(*crops[:3])))


def test_where_nothing_can_be_compiled_it_goes_on_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a warning that says why, once."""

    def refuse(function: Any, **_: Any) -> Any:
        def call(*arguments: Any) -> Any:
            raise OSError("no compiler")

        return call

    monkeypatch.setattr(torch, "compile", refuse)
    call = compile_or_not(lambda x: x / 2)
    with pytest.warns(UserWarning, match=r"cannot be finished by compiled code here .*no compiler"):
        assert call(torch.ones(2)).tolist() == [0.5, 0.5]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert call(torch.ones(2)).tolist() == [0.5, 0.5]


# --- runs -----------------------------------------------------------------------------------------------------------


def batches(images: Images, feed: bool, **more: Any) -> ViewBatches:
    """Batches of four."""
    return ViewBatches(images, AUGMENTATIONS["v2"], 24, MEAN, STD, 4, seed=1, feed=feed, **more)


def same(a: Batch, b: Batch) -> bool:
    """Whether two batches are equal bit for bit."""
    keys = (a.x_k is None) == (b.x_k is None) and (a.x_k is None or b.x_k is None or torch.equal(a.x_k, b.x_k))
    return keys and torch.equal(a.x_q, b.x_q) and torch.equal(a.index, b.index) and a.replaced == b.replaced


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_a_run_is_the_same_run(files: Images, kind: str) -> None:
    """The images, their stand-ins and (within the bound) the views of a run without feed; workers change nothing."""
    images: Images = files if kind == "files" else small_images(11)
    plain, alone, helped = (
        list(batches(images, feed).run(0, 4, workers)) for feed, workers in ((False, 0), (True, 0), (True, 2))
    )
    assert len(plain) == len(alone) == 4
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))
    assert same(next(batches(images, feed=True).run(3, 4, 0)), alone[3])
    assert (kind == "files") == any(batch.replaced for batch in plain)
    for a, b in zip(plain, alone, strict=True):
        assert torch.equal(a.index, b.index)
        assert a.replaced == b.replaced
        assert a.x_k is not None
        assert b.x_k is not None
        worst = ROUNDING * 1.4 * 1.8**2 * HUE_GAIN / min(STD)
        assert max(float((a.x_q - b.x_q).abs().max()), float((a.x_k - b.x_k).abs().max())) < worst


@pytest.mark.parametrize("kind", ["files", "memory"])
def test_ranks_and_a_single_view(files: Images, kind: str) -> None:
    """Each rank makes its block, and a memory bank's run has the same query views and no keys."""
    images: Images = files if kind == "files" else small_images(11)
    whole = next(batches(images, feed=True).run(1, 2, 0))
    blocks = [next(batches(images, feed=True, rank=rank, ranks=2).run(1, 2, 0)) for rank in range(2)]
    assert torch.equal(torch.cat([block.index for block in blocks]), whole.index)
    assert torch.allclose(torch.cat([block.x_q for block in blocks]), whole.x_q, atol=1e-5)
    single = next(batches(images, feed=True, key_views=False).run(1, 2, 0))
    assert single.x_k is None
    assert torch.allclose(single.x_q, whole.x_q, atol=1e-5)


def test_only_another_device_feeds_by_itself() -> None:
    """On a CPU the views are those that workers finish, bit for bit."""
    found = next(batches(small_images(11), feed=None).run(0, 1, 0))  # type: ignore[arg-type]
    assert same(found, next(batches(small_images(11), feed=False).run(0, 1, 0)))


def test_what_is_handed_over_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """All three tensors, where there is a GPU to read them; here copying is noted instead."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor + 1)
    crops = Crops(torch.zeros(2, dtype=torch.uint8), torch.zeros(3), torch.zeros(4, dtype=torch.int64)).pin_memory()
    assert crops.pixels is not None
    assert [int(tensor.sum()) for tensor in crops[:3] if tensor is not None] == [2, 3, 4]
    assert Crops(None, torch.zeros(3), torch.zeros(4)).pin_memory().pixels is None
