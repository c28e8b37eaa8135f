"""Views for training: what is drawn, and that boxes, masks and keypoints go where the pixels go."""

import numpy as np
import pytest
import torch

from moco.errors import BadInputError
from moco.transfer.targets import VOID, Skeleton
from moco.transfer.views import MEAN_COLOUR, detection_view, flip, resize, semantic_view

SKELETON = Skeleton(("nose", "left_eye", "right_eye"), ((1, 2),))


def example(height: int = 40, width: int = 60) -> tuple[torch.Tensor, dict[str, object]]:
    """A white rectangle on black, its box and mask, three keypoints in it, one of them not annotated."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, 10:20, 6:30] = 255
    return image, {
        "boxes": torch.tensor([[6.0, 10, 30, 20]]),
        "labels": torch.tensor([1]),
        "iscrowd": torch.tensor([False]),
        "ignore": torch.tensor([False]),
        "area": torch.tensor([240.0]),
        "image_id": 5,
        "masks": (image[:1] > 0).to(torch.uint8),
        "keypoints": torch.tensor([[[6.5, 10.5, 2], [8.5, 12.5, 1], [0, 0, 0]]]),
    }


def generator(seed: int = 0) -> torch.Generator:
    """Random numbers."""
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("shorter", "longest", "size"), [(80, 200, (80, 120)), (80, 90, (60, 90)), (20, 90, (20, 30))])
def test_resize(shorter: int, longest: int, size: tuple[int, int]) -> None:
    """The shorter side, or the longer one at its limit; the box is where the white pixels are."""
    image, target = resize(*example(), shorter, longest)
    assert image.shape[1:] == target["masks"].shape[1:] == size
    rows, columns = np.nonzero(target["masks"][0].numpy())
    assert target["boxes"].tolist() == [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    scale = size[0] / 40
    assert target["area"].item() == pytest.approx(240 * scale**2)
    assert target["keypoints"][0, 0].tolist() == pytest.approx([6.5 * scale, 10.5 * scale, 2])
    assert target["keypoints"][0, 2].tolist() == [0, 0, 0]
    bright = image[0] > 127
    assert (bright != target["masks"][0].bool()).float().mean() < 0.01


def test_boxes_are_cut_at_the_edge() -> None:
    """A box that reaches beyond its image does not, once it trains."""
    image, target = example()
    target["boxes"] = torch.tensor([[-5.0, 10, 100, 50]])
    assert resize(image, target, 20, 100)[1]["boxes"].tolist() == [[0, 5, 30, 20]]


def test_flip() -> None:
    """Twice is the same again; left and right change names; what is not annotated stays at 0."""
    image, target = example()
    mirrored, flipped = flip(image, target, SKELETON)
    assert flipped["boxes"].tolist() == [[30, 10, 54, 20]]
    assert (mirrored[0] > 0).equal(flipped["masks"][0].bool())
    assert flipped["keypoints"][0].tolist() == [[53.5, 10.5, 2], [0, 0, 0], [51.5, 12.5, 1]]
    again, back = flip(mirrored, flipped, SKELETON)
    assert again.equal(image)
    assert all(back[name].equal(target[name]) for name in ("boxes", "masks", "keypoints"))
    with pytest.raises(BadInputError, match="expected a skeleton"):
        flip(image, target)


def test_detection_views_are_drawn_from_the_generator() -> None:
    """All sides of the range, half of the images mirrored; the same again from the same seed."""
    drawn = generator()
    views = [detection_view(*example(), (16, 20), 100, drawn, SKELETON) for _ in range(200)]
    assert {view.shape[1] for view, _ in views} == {16, 17, 18, 19, 20}
    mirrored = sum(float(target["boxes"][0, 0]) > view.shape[2] / 2 - 1 for view, target in views)
    assert 70 < mirrored < 130
    again = detection_view(*example(), (16, 20), 100, generator(), SKELETON)
    assert again[0].equal(views[0][0])
    assert again[1]["boxes"].equal(views[0][1]["boxes"])


def test_no_objects() -> None:
    """An empty image has views as well."""
    image, target = example()
    nothing = {name: value[:0] if isinstance(value, torch.Tensor) else value for name, value in target.items()}
    view, seen = detection_view(image, nothing, (80, 80), 200, generator(), SKELETON)
    assert view.shape == (3, 80, 120)
    assert seen["boxes"].shape == (0, 4)
    assert seen["masks"].shape == (0, 80, 120)


def test_semantic_view() -> None:
    """Labels go with their pixels, what is beyond the image is mean colour and void, everything is seen."""
    labels = torch.arange(6).repeat_interleave(10).expand(40, 60).clone()
    labels[:, 59] = VOID
    colours = torch.tensor([0, 50, 100, 150, 200, 250], dtype=torch.uint8)
    image = colours[labels.clamp(max=5)].expand(3, 40, 60)
    drawn, seen, padded, mirrored = generator(), torch.zeros(6, dtype=torch.bool), 0, 0
    for _ in range(100):
        view, target = semantic_view(image, labels, 48, drawn)
        assert view.shape == (3, 48, 48)
        assert view.dtype == torch.uint8
        assert target.shape == (48, 48)
        known = target != VOID
        close = (view[0].int() - colours[target.clamp(max=5)].int()).abs() < 30
        assert close[known].float().mean() > 0.9
        seen[torch.unique(target[known])] = True
        beyond = (view == torch.tensor(MEAN_COLOUR, dtype=torch.uint8)[:, None, None]).all(0)
        padded += int(bool(beyond.any()))
        assert not (beyond & known).any()
        order = target[0][known[0]]
        mirrored += int(bool(order[0] > order[-1]))
    assert seen.all()
    assert 30 < padded < 100
    assert 30 < mirrored < 70
