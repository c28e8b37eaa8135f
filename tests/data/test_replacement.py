"""What stands in for an image that cannot be read is a pure function, and too many of them end a run."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from moco.data.augment import AUGMENTATIONS
from moco.data.derived import Subset
from moco.data.images import ArrayImages, FileImages, Images, PathTable
from moco.data.loader import ViewBatches
from moco.data.replacement import MOST_NAMED, TRIES, ChosenImages, Damage, Replaced
from moco.data.views import Look, make_views
from moco.errors import BadInputError
from moco.runtime.randomness import Stream, permute

COUNT = 1000
ERROR = BadInputError("x.jpg: cannot be read")


def in_memory(count: int = COUNT, unreadable: dict[int, str] | None = None) -> ArrayImages:
    """Images of one pixel, the first one's value being its number."""
    pixels = torch.arange(count, dtype=torch.int64).remainder(256).to(torch.uint8)
    return ArrayImages(pixels.view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous(), unreadable=unreadable or {})


def stand_ins(index: list[int], epoch: int = 0, seed: int = 0) -> ChosenImages:
    """For a batch of these images."""
    return ChosenImages(in_memory(), np.array(index), epoch, seed)


def tried(index: int, times: int, *, epoch: int = 0, seed: int = 0, before: int = 0) -> list[int]:
    """What stands in for an image whose stand-ins cannot be read either; `before` other images are in the batch."""
    chosen = stand_ins([*range(before), index], epoch, seed)
    return [chosen.replace(before, ERROR) for _ in range(times)]


# --- which one ------------------------------------------------------------------------------------------------------


def test_a_stand_in_depends_on_seed_epoch_and_image_only() -> None:
    """Not on its place in the batch, nor on what stands in for others."""
    expected = tried(7, 5)
    assert tried(7, 5, before=3) == expected
    assert len(set(expected)) > 1
    assert tried(7, 5, epoch=1) != expected
    assert tried(7, 5, seed=1) != expected
    assert tried(8, 5) != expected


def test_stand_ins_are_spread_over_the_set() -> None:
    """At every try they are a permutation: no two images get the same one, and all take part."""
    for epoch in range(2):
        chosen = stand_ins(list(range(COUNT)), epoch)
        for _ in range(2):
            found = [chosen.replace(row, ERROR) for row in range(COUNT)]
            assert sorted(found) == list(range(COUNT))
            assert sum(a == b for a, b in enumerate(found)) < 10  # one in a thousand on average


def test_the_index_is_what_was_used() -> None:
    """And the message names what was planned, with the first reason."""
    chosen = stand_ins([4, 5, 6])
    chosen.replace(1, BadInputError("5.jpg: empty"))
    by = chosen.replace(1, BadInputError("other.jpg: empty"))
    assert chosen.index.tolist() == [4, by, 6]
    assert chosen.replaced() == (Replaced(5, "#5", f"#{by}", "5.jpg: empty"),)
    assert stand_ins([4, 5]).replaced() == ()


def test_where_nothing_can_be_read_that_is_said() -> None:
    """After so many tries, with the first paths and the first reason."""
    chosen = stand_ins([3])
    for _ in range(TRIES):
        chosen.replace(0, BadInputError("a.jpg: gone"))
    with pytest.raises(BadInputError, match=rf"none of {TRIES + 1} images .*: #3, (#\d+, ){{9}}\.\.\.; .*a\.jpg: gone"):
        chosen.replace(0, ERROR)


def test_what_is_known_to_be_unreadable_is_passed_over() -> None:
    """No stand-in is one of them."""
    unreadable = {i: f"#{i}: empty" for i in range(0, COUNT, 2)}
    chosen = ChosenImages(in_memory(unreadable=unreadable), np.arange(100), 0, 0)
    chosen.replace_known()
    assert (chosen.index % 2 == 1).all()
    assert chosen.index[1::2].tolist() == list(range(1, 100, 2))
    assert [one.index for one in chosen.replaced()] == list(range(0, 100, 2))


# --- views ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[int, int]], FileImages]:
    """A set of 24 JPEG and PNG files, of which some (numbers) are cut off after so many bytes."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (50 + i, 90 - i, 3), dtype=np.uint8) for i in range(24)]

    def make(cut: dict[int, int]) -> FileImages:
        root = tmp_path_factory.mktemp("photographs")
        for i, pixels in enumerate(pictures):
            path = root / f"{i:02}.{'jpg' if i % 3 else 'png'}"
            PillowImage.fromarray(pixels).save(path)
            if i in cut:
                path.write_bytes(path.read_bytes()[: cut[i]])
        names = sorted(path.name.encode() for path in root.iterdir())
        return FileImages(str(root).encode(), PathTable(names))

    return make


def batches(images: Images, rank: int = 0, ranks: int = 1) -> ViewBatches:
    """Two batches of twelve."""
    return ViewBatches(images, AUGMENTATIONS["v2"], 16, (0.5,) * 3, (0.2,) * 3, 12, rank=rank, ranks=ranks)


@pytest.mark.parametrize(
    "wrap", [lambda images: images, lambda images: Subset(images, np.arange(24))], ids=["", "part"]
)
def test_views_of_stand_ins_are_their_own(
    photographs: Callable[[dict[int, int]], FileImages], wrap: Callable[[Images], Images]
) -> None:
    """Empty files, headers and halves (noticed while decoding) are replaced; all other views are as without them."""
    bad = {1: 0, 5: 700, 10: 2000, 12: 2000}
    whole, damaged = batches(wrap(photographs({}))), batches(wrap(photographs(bad)))
    seen = set()
    for step in range(2):
        x_q, x_k, index, replaced = damaged[step]
        assert x_k is not None
        planned = whole.plan(step).tolist()
        assert {one.index for one in replaced} == set(planned) & set(bad)
        seen |= {one.index for one in replaced}
        expected = {int(i): row for row, i in enumerate(planned)}
        for row, i in enumerate(index.tolist()):
            assert i not in bad
            assert i == planned[row] or planned[row] in bad
            if i in expected:
                others = whole[step]
                assert others.x_k is not None
                assert torch.allclose(x_q[row], others.x_q[expected[i]], atol=5e-6, rtol=0)
                assert torch.allclose(x_k[row], others.x_k[expected[i]], atol=5e-6, rtol=0)
    assert seen == set(bad)


def test_ranks_share_the_same_stand_ins(photographs: Callable[[dict[int, int]], FileImages]) -> None:
    """The shares of two ranks, one after the other, are the batch of one."""
    images = photographs({1: 0, 5: 700, 10: 2000, 12: 2000})
    for step in range(2):
        alone = batches(images)[step]
        shares = [batches(images, rank, 2)[step] for rank in (0, 1)]
        assert torch.equal(torch.cat([share.index for share in shares]), alone.index)
        assert shares[0].replaced + shares[1].replaced == alone.replaced
        assert torch.allclose(torch.cat([share.x_q for share in shares]), alone.x_q, atol=5e-6, rtol=0)


def stand_in_for(index: int, bad: set[int], count: int, *, seed: int, epoch: int) -> int:
    """The rule in plain steps: at each try another permutation says who is next, until one is not bad."""
    found, tries = index, 0
    while found in bad:
        tries += 1
        found = int(permute(index, count, seed=seed, stream=Stream.STAND_IN, epoch=epoch * TRIES + tries)[0])
    return found


@pytest.mark.parametrize("decode", ["exact", "scaled"])
@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_that_break_off_get_the_stand_ins_of_the_rule(
    photographs: Callable[[dict[int, int]], FileImages], decode: Literal["exact", "scaled"], workers: int
) -> None:
    """Their headers are sound, so that it shows after their views are drawn; half of the pictures are such."""
    bad = dict.fromkeys(range(0, 24, 2), 2000)
    whole, damaged = (
        ViewBatches(photographs(cut), AUGMENTATIONS["v2"], 16, (0.5,) * 3, (0.2,) * 3, 12, seed=3, decode=decode)
        for cut in ({}, bad)
    )
    made = list(damaged.run(0, 4, workers))
    for step, (x_q, x_k, index, replaced) in enumerate(made):
        planned, epoch = damaged.plan(step), step // 2
        expected = [stand_in_for(int(i), set(bad), 24, seed=3, epoch=epoch) for i in planned]
        assert index.tolist() == expected
        assert [(one.index, one.by) for one in replaced] == [
            (i, whole.images.name(by)) for i, by in zip(planned.tolist(), expected, strict=True) if i in bad
        ]
        assert all(f"{one.name}: cannot be read as an image" in one.reason for one in replaced)
        views = whole.make_views(np.array(expected), epoch, (Stream.VIEW_QUERY, Stream.VIEW_KEY))
        assert x_k is not None
        assert torch.allclose(x_q, views[0], atol=5e-6, rtol=0)
        assert torch.allclose(x_k, views[1], atol=5e-6, rtol=0)
    assert any(len(one.replaced) > 1 for one in made)


def test_without_stand_ins_the_first_error_is_raised(photographs: Callable[[dict[int, int]], FileImages]) -> None:
    """As it is, and nothing is replaced; headers are read before pictures."""
    images = photographs({1: 2000, 5: 100})
    chosen = ChosenImages(images, np.arange(8), 0, 0, stand_ins=False)
    look = Look(AUGMENTATIONS["v2"], 16, (0.5,) * 3, (0.2,) * 3)
    with pytest.raises(BadInputError, match=r"05\.jpg: cannot be read as an image"):
        make_views(chosen, (Stream.VIEW_QUERY,), look)
    assert chosen.index.tolist() == list(range(8))
    assert chosen.replaced() == ()


# --- how many -------------------------------------------------------------------------------------------------------


def replaced(*indices: int) -> list[Replaced]:
    """Images that could not be read."""
    return [Replaced(index, f"{index}.jpg", "other.jpg", "empty") for index in indices]


def test_each_image_is_new_once() -> None:
    """Over the batches, and over the ranks of one."""
    damage = Damage(images=1000, batch_size=10)
    assert damage.add(replaced(3, 4, 3)) == replaced(3, 4)
    assert damage.add(replaced(4, 5)) == replaced(5)
    assert list(damage.names.values()) == ["3.jpg", "4.jpg", "5.jpg"]


@pytest.mark.parametrize(
    ("bad", "steps", "refused"),
    [
        (10, 2, False),  # few, though half of what was seen
        (11, 2, True),
        (11, 109, True),  # 1090 images seen
        (11, 110, False),  # 1% of 1100
        (21, 10_000, True),  # no more than 2000 images there are
        (20, 10_000, False),
        (10, 1, True),  # all of the first batch
        (9, 1, False),
    ],
)
def test_the_ceiling(bad: int, steps: int, refused: bool) -> None:
    """More than ten and more than one in a hundred of the images seen, or all of them: the first ten are named."""
    damage = Damage(images=2000, batch_size=10)
    damage.add(replaced(*range(bad)))
    if not refused:
        damage.check(steps)
        return
    with pytest.raises(BadInputError, match=f"^{bad} of the first") as caught:
        damage.check(steps)
    assert str(caught.value).count(".jpg") == min(bad, MOST_NAMED)
