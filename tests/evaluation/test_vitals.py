"""Staleness of keys, effective negatives and the rest equal plain loops; and looking changes nothing."""

import copy
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from moco.core.dictionary import InBatch, MemoryBank, Queue
from moco.core.encoder import Encoder, EncoderPlan
from moco.data.augment import AUGMENTATIONS, draw, render
from moco.data.catalog import load
from moco.data.derived import Subset
from moco.data.images import ArrayImages, Images
from moco.data.loader import ViewBatches
from moco.data.views import COMPILED
from moco.evaluation import vitals as module
from moco.evaluation.alignment import EPOCH, effective_rank
from moco.evaluation.vitals import key_figures, likeness, vitals
from moco.runtime.fields import Precision
from moco.runtime.randomness import Stream
from tests import oracles
from tests.slow import slow

MEAN = STD = (0.5, 0.5, 0.5)
BATCH, K, STEPS = 8, 48, 13
"""Over forty images an epoch has five steps; the queue holds the keys of six, from two epochs."""


def encoder(seed: int) -> Encoder:
    """A small network with random weights, and running statistics that are not those of the start."""
    torch.manual_seed(seed)
    made = Encoder(EncoderPlan("resnet18-w4", "cifar", feature_dim=16, image_size=12))
    with torch.no_grad():
        for _ in range(3):
            made(torch.randn(16, 3, 12, 12))
    return made


@pytest.fixture(scope="module")
def batches() -> ViewBatches:
    """Views of forty digits."""
    return ViewBatches(digits(40), AUGMENTATIONS["v2"], 12, MEAN, STD, BATCH, seed=5)


def digits(count: int) -> Images:
    """Some digits."""
    return Subset(load("digits")["train"], np.arange(count))


@pytest.mark.parametrize(
    "compiled",
    [False, pytest.param(True, marks=pytest.mark.skipif(not COMPILED, reason="numba is not installed"))],
    ids=["torch", "numba"],
)
def test_views_are_in_fp32_whatever_the_network_is_in(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    """The views that are examined are those that fp32 gives, bit for bit, blurred ones among them."""
    seen: dict[Precision, list[Tensor]] = {"fp32": [], "bf16": []}
    blurred = dataclasses.replace(AUGMENTATIONS["v2"], blur_probability=1.0)
    for precision, views in seen.items():
        drawn = ViewBatches(digits(40), blurred, 24, MEAN, STD, BATCH, seed=5)
        look = dataclasses.replace(drawn.look, compiled=compiled)
        monkeypatch.setattr(ViewBatches, "look", look)
        f_q = encoder(0)
        forward = f_q.forward

        def remember(x: Tensor, views: list[Tensor] = views, forward: Callable[[Tensor], Tensor] = forward) -> Tensor:
            views.append(x)
            return forward(x)

        monkeypatch.setattr(f_q, "forward", remember)
        vitals({"f_q": f_q}, drawn, precision=precision)
    assert len(seen["fp32"]) > 0
    assert all(x.dtype == torch.float32 for x in seen["bf16"])
    torch.testing.assert_close(seen["bf16"], seen["fp32"], rtol=0, atol=0)


def trained(batches: ViewBatches, *, symmetric: bool) -> tuple[Encoder, Queue, list[tuple[Tensor, Tensor]]]:
    """f_k after some steps, its queue, and every (view, stored key) in the order in which they were written.

    At each step f_k is another network, the more so the longer ago.
    """
    last, other = encoder(0), encoder(1)
    queue = Queue(K, 16)
    history: list[tuple[Tensor, Tensor]] = []
    for step in range(STEPS):
        f_k = copy.deepcopy(last)
        with torch.no_grad():
            for old, theirs in zip(f_k.parameters(), other.parameters(), strict=True):
                old.lerp_(theirs, 0.05 * (STEPS - 1 - step))
            x_q, x_k, index, _ = batches[step]
            assert x_k is not None
            for x in (x_k, x_q)[: 1 + symmetric]:
                k = f_k(x)  # with the statistics of the batch, as in training
                queue.write(k, k, index)
                history += list(zip(x, k, strict=True))
    return last.eval(), queue, history


@pytest.mark.parametrize("symmetric", [slow(False), True])
def test_key_figures_equal_a_loop(batches: ViewBatches, symmetric: bool) -> None:
    """The views are those that training saw, in whichever epoch; one forward pass for each, and plain sums."""
    f_k, queue, history = trained(batches, symmetric=symmetric)
    held = history[-K:]
    expected = {}
    for name, part in (("old_keys", held[: K // 2]), ("new_keys", held[K // 2 :])):
        with torch.no_grad():
            now = [f_k(x[None])[0].double().numpy() for x, _ in part]
        stored = [k.double().numpy() for _, k in part]
        own = [float(a @ b) for a, b in zip(stored, now, strict=True)]
        others = [float(a @ b) for i, a in enumerate(stored) for j, b in enumerate(now) if i != j]
        expected[f"{name}_similarity"] = math.fsum(own) / len(own)
        expected[f"{name}_own"] = math.fsum(own) / len(own) - math.fsum(others) / len(others)
    found = key_figures(f_k, queue, batches, symmetric=symmetric)
    groups = [key_figure for key_figure in found if key_figure.startswith(("key_age", "key_similarity"))]
    assert len(groups) == 8
    assert found["key_age_1"] < found["key_age_2"] < found["key_age_3"] < found["key_age_4"]
    assert found["key_similarity_4"] < found["key_similarity_3"] < found["key_similarity_1"]
    assert {name: value for name, value in found.items() if name not in groups} == {
        name: pytest.approx(value, abs=2e-5) for name, value in expected.items()
    }
    assert found["old_keys_similarity"] < found["new_keys_similarity"] - 0.02  # which it could have missed
    mistaken = key_figures(f_k, queue, batches, symmetric=not symmetric)
    assert mistaken["new_keys_similarity"] < found["new_keys_similarity"] - 1e-3


def test_random_keys_are_left_out(batches: ViewBatches) -> None:
    """A queue that is filling has few keys, and of a single write none is older than another."""
    f_k, queue = encoder(0).eval(), Queue(K, 16)
    assert key_figures(f_k, queue, batches) == {}
    for step in range(2):
        _, x_k, index, _ = batches[step]
        assert x_k is not None
        with torch.no_grad():
            k = f_k(x_k)
        queue.write(k, k, index)
        if step == 0:
            assert key_figures(f_k, queue, batches) == {}
    found = key_figures(f_k, queue, batches)
    assert found["new_keys_similarity"] == pytest.approx(1, abs=1e-5)  # the same network, the same statistics
    assert found["old_keys_similarity"] == pytest.approx(1, abs=1e-5)


def test_likeness() -> None:
    """Against loops; equal vectors have nothing of their own, orthogonal ones all."""
    rng = np.random.default_rng(0)
    stored, now = rng.standard_normal((2, 5, 7))
    own = [float(a @ b) for a, b in zip(stored, now, strict=True)]
    others = [float(stored[i] @ now[j]) for i in range(5) for j in range(5) if i != j]
    found = likeness(torch.from_numpy(stored).float(), torch.from_numpy(now).float())
    assert found == pytest.approx((sum(own) / 5, sum(own) / 5 - sum(others) / 20), rel=1e-5)
    assert likeness(torch.eye(4), torch.eye(4)) == (1, 1)
    assert likeness(torch.ones(4, 1), torch.ones(4, 1)) == (1, 0)
    assert likeness(torch.ones(1, 1), torch.ones(1, 1)) == (1, 1)


def test_of_the_encoder_equal_the_oracles(batches: ViewBatches) -> None:
    """The head's vectors of two views of each image, of an epoch that no run reaches, encoded one by one."""
    f_q, n = encoder(0), 40
    found = vitals({"f_q": f_q, "dictionary": InBatch()}, batches)
    z = []
    for view in (Stream.VIEW_QUERY, Stream.VIEW_KEY):
        parameters = draw(AUGMENTATIONS["v2"], np.full((n, 2), 8), seed=5, epoch=EPOCH, index=range(n), view=view)
        x = (render([batches.images[i] for i in range(n)], parameters, AUGMENTATIONS["v2"], 12) - 0.5) / 0.5
        with torch.no_grad():
            z.append(torch.cat([copy.deepcopy(f_q).eval()(row[None]) for row in x]))
    arrays = [features.double().numpy() for features in z]
    assert found == {
        "blank_views": 0.0,
        "dark_views": 0.0,
        "effective_rank": pytest.approx(effective_rank(z[0]), abs=2e-3),
        "head_alignment": pytest.approx(oracles.alignment(*arrays), abs=2e-4),
        "head_uniformity": pytest.approx(oracles.uniformity(arrays[0]), abs=2e-4),
    }
    assert found["head_alignment"] > 0.001


def test_blank_and_dark_views_are_counted() -> None:
    """By the images they are cut from: one colour, 12 bits of 16, and noise of every brightness."""
    noise = np.random.default_rng(0).integers(0, 256, (10, 3, 12, 12))
    noise[:3] = np.array([[[0]], [[90]], [[255]]])[:, None]  # 3 blank, of which one is black
    noise[3:5] = noise[3:5] * 4095 // 65535
    pixels = torch.from_numpy(noise).to(torch.uint8)
    crops = dataclasses.replace(AUGMENTATIONS["cifar"], jitter_probability=0.0)
    found = vitals({"f_q": encoder(0)}, ViewBatches(ArrayImages(pixels), crops, 12, MEAN, STD, BATCH))
    assert (found["blank_views"], found["dark_views"]) == (30.0, 30.0)


def test_specks_hide_no_blank_or_dark_view() -> None:
    """Hot pixels of a camera, dust on paper: one pixel in a thousand; a white margin around half a picture is none."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (10, 3, 160, 160))
    pixels[:4] = np.array([[[255]], [[255]], [[0]], [[0]]])[:, None]
    pixels[4:7] //= 16
    specks = generator.integers(0, 160, (2, 26))
    pixels[:7, :, specks[0], specks[1]] = np.array([0] * 2 + [255] * 5).reshape(7, 1, 1)
    pixels[7:, :, :, :80] = 255
    crops = dataclasses.replace(AUGMENTATIONS["cifar"], jitter_probability=0.0)
    batches = ViewBatches(ArrayImages(torch.from_numpy(pixels).to(torch.uint8)), crops, 80, MEAN, STD, BATCH)
    found = vitals({"f_q": encoder(0)}, batches)
    assert (found["blank_views"], found["dark_views"]) == (40.0, 50.0)


def modules_with(dictionary: nn.Module) -> dict[str, nn.Module]:
    """What a run trains."""
    f_q = encoder(0)
    return {"f_q": f_q, "dictionary": dictionary} | ({"f_k": encoder(1)} if isinstance(dictionary, Queue) else {})


@pytest.mark.parametrize("dictionary", [Queue(K, 16), MemoryBank(40, 16, negatives=8), InBatch()], ids=str)
def test_looking_changes_nothing(batches: ViewBatches, dictionary: nn.Module) -> None:
    """Weights, running statistics, modes, dictionary and random state are as before; the same look gives the same."""
    modules = modules_with(dictionary)
    before = {name: copy.deepcopy(value.state_dict()) for name, value in modules.items()}
    state = torch.get_rng_state()
    first = vitals(modules, batches)
    assert vitals(modules, batches) == first
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in modules.items():
        assert value.training
        after = value.state_dict()
        assert all(torch.equal(tensor, after[key]) for key, tensor in before[name].items())


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_share_the_views(batches: ViewBatches, monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    """Each encodes its part, also where they cannot be equal, and what is gathered is what one process finds."""
    f_q, count = encoder(0).eval(), 40

    def features() -> Tensor:
        return module._encode(f_q, lambda rows: batches.make_views(rows, 0, (Stream.VIEW_QUERY,))[0], count, "fp32")

    alone, shares = features(), list[Tensor]()
    monkeypatch.setattr(module, "world_size", lambda: ranks)
    for place in range(ranks):

        def gather(share: Tensor) -> Tensor:
            shares.append(share)
            return torch.cat(shares) if len(shares) == ranks else share

        monkeypatch.setattr(module, "rank", lambda place=place: place)
        monkeypatch.setattr(module, "gather", gather)
        together = features()
    assert {len(share) for share in shares} == {-(-count // ranks)}
    assert together.shape == alone.shape
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
