"""Images that are handed over as bytes give the features of those that are not, to a rounding; they are read once."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from moco.data.images import Images
from moco.data.kept import KeptImages
from moco.evaluation import features
from moco.evaluation.features import Encoding, RandomViews, outputs
from moco.evaluation.linear import CROP_AND_FLIP
from tests.data.test_feed import small_images

HOW = Encoding(24, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), batch_size=4, unit=False)
FED = dataclasses.replace(HOW, feed=True)
ROUNDING = 0.5 / 255 / min(HOW.std) + 1e-5


pytestmark = pytest.mark.usefixtures("one_thread")


def look(images: Images, how: Encoding, views: RandomViews | None = None) -> Tensor:
    """All pixels as features."""
    return outputs(nn.Flatten(), 3 * how.image_size**2, images, how, views, device=torch.device("cpu"))


@pytest.mark.parametrize("size", [24, 80])
@pytest.mark.parametrize("workers", [0, 2])
def test_pixels_are_rounded_and_no_more(size: int, workers: int) -> None:
    """Small sizes, centre crops of larger ones, and a last batch that is not full."""
    images = KeptImages(small_images(11))
    plain, fed = (dataclasses.replace(how, image_size=size, workers=workers) for how in (HOW, FED))
    difference = (look(images, plain) - look(images, fed)).abs()
    assert 0 < difference.max() <= ROUNDING


def test_images_of_one_size_are_not_rounded_at_all() -> None:
    """Bytes as they lie in memory."""
    images, how = small_images(6), dataclasses.replace(HOW, image_size=20)
    assert torch.allclose(look(images, how), look(images, dataclasses.replace(how, feed=True)), atol=1e-6)


def test_random_views_are_the_same_views() -> None:
    """Of the linear protocol: crops and flips by the same numbers."""
    images, views = small_images(11), RandomViews(CROP_AND_FLIP, 3, 1)
    assert torch.allclose(look(images, HOW, views), look(images, FED, views), atol=1e-4)


def test_a_second_look_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was prepared is kept as bytes, up to a limit; the rest is prepared again."""
    prepared = list[int]()

    def note(image: Tensor, size: int) -> Tensor:
        prepared.append(1)
        return image[:, :size, :size].float() / 255

    monkeypatch.setattr(features, "prepare_image", note)
    how, images = dataclasses.replace(FED, image_size=16), small_images(11)
    for limit, again in ((1 << 30, 0), (8 * 3 * 16 * 16, 3)):
        kept = KeptImages(images, limit)
        first, count = look(kept, how), len(prepared)
        assert torch.equal(look(kept, how), first)
        assert len(prepared) == count + again


def test_all_features_arrive() -> None:
    """Each is written while the next batch is encoded, the last one too."""
    images = small_images(11)
    found = look(images, dataclasses.replace(FED, image_size=20))
    expected = torch.stack([images[i] for i in range(11)]).float().div(255)
    expected = (expected - torch.tensor(HOW.mean).view(3, 1, 1)) / torch.tensor(HOW.std).view(3, 1, 1)
    assert torch.allclose(found, expected.flatten(1), atol=1e-6)
