"""What the report shows of encoders and images: the very views of the run, true neighbours."""

import base64
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image as PillowImage
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier

from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import load
from moco.data.derived import Subset
from moco.data.images import ArrayImages
from moco.evaluation.features import Encoding, encode
from moco.evaluation.knn import choose_k
from moco.explore.embedding_map import principal_components
from moco.explore.gallery import VIEWED, Scope, file_digest, first_filters, gallery, is_here, seen_views, sheet
from moco.pretraining.config import PretrainConfig
from moco.pretraining.prepare import build_batches
from moco.pretraining.recipes import recipe
from moco.runtime.fields import require

SMALL = Scope(map_images=40, bank_images=300)


def pixels(picture: str) -> npt.NDArray[np.uint8]:
    """A stored picture as bytes (H, W, 3)."""
    return np.asarray(PillowImage.open(io.BytesIO(base64.b64decode(picture))).convert("RGB"))


@pytest.fixture(scope="module")
def config() -> PretrainConfig:
    """Of a small run on the digits."""
    shape = {"image_size": 16, "batch_size": 1437, "bn_groups": 1}
    return recipe("quick", data="digits", out=Path("run"), knn_k=20, device="cpu", **shape)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """With random weights."""
    torch.manual_seed(0)
    return Encoder(EncoderPlan("resnet10-w16", "cifar", image_size=16))


@pytest.fixture(scope="module")
def how(config: PretrainConfig) -> Encoding:
    """As in the run's monitor."""
    return Encoding(16, require(config.mean), require(config.std))


@pytest.fixture(scope="module")
def stored(config: PretrainConfig, encoder: Encoder, how: Encoding) -> dict[str, Any]:
    """The gallery of the digits, after a journey through JSON."""
    content: dict[str, Any] = json.loads(json.dumps(gallery(encoder, load("digits"), config, how, SMALL)))
    return content


def test_the_views_are_those_that_the_run_gave(config: PretrainConfig) -> None:
    """Each equals the row of its image in the run's batches, query and key of three epochs, within WebP's loss."""
    train = load("digits")["train"]
    found = seen_views(train, config)
    batches = build_batches(config, train)
    assert batches.steps_per_epoch == 1
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    rows = np.linspace(0, len(train) - 1, 8).astype(int)
    assert [title["epoch"] for title in found["titles"]] == [1, 1, 2, 2, 3, 3]
    for epoch in range(3):
        x_q, x_k, index, _ = batches[epoch]
        assert x_k is not None
        for place, image in enumerate(rows):
            (row,) = np.flatnonzero(index.numpy() == image)
            for column, views in ((2 * epoch, x_q), (2 * epoch + 1, x_k)):
                wanted = 255 * (views[row] * std + mean).permute(1, 2, 0).numpy()
                shown = pixels(found["rows"][place]["views"][column])
                assert shown.shape == (16, 16, 3)
                assert np.abs(shown - wanted).mean() < 8
    others = pixels(found["rows"][0]["views"][0]).astype(float) - pixels(found["rows"][3]["views"][0])
    assert np.abs(others).mean() > 8  # the bound above tells views apart


def test_neighbours_and_confusions(stored: dict[str, Any], encoder: Encoder, how: Encoding) -> None:
    """As scikit-learn finds them: the same order by cosine, the same votes, the same table."""
    splits = load("digits")
    bank = Subset(splits["train"], np.linspace(0, 1436, 300).astype(np.int64))
    queries = Subset(splits["test"], np.linspace(0, 359, 40).astype(np.int64))
    assert bank.labels is not None
    assert queries.labels is not None
    z_bank, z = encode(encoder, bank, how).numpy(), encode(encoder, queries, how).numpy()

    def weights(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        weight: npt.NDArray[np.float64] = np.exp((1 - distance) / 0.1)
        return weight

    judge = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=weights).fit(z_bank, bank.labels)
    predicted = judge.predict(z)
    assert stored["map"]["predicted"] == predicted.tolist()
    assert stored["map"]["classes"] == queries.labels.tolist()
    assert stored["confusion"] == confusion_matrix(queries.labels, predicted, labels=range(10)).tolist()
    assert stored["knn"]["top1"] == pytest.approx(100 * (predicted == queries.labels).mean(), abs=0.01)
    names = {queries.name(row): row for row in range(len(queries))}
    assert {row["class"] for row in stored["neighbours"]} == set(range(10))
    for row in stored["neighbours"]:
        own = names[row["name"]]
        similarity = z_bank @ z[own]
        best = np.argsort(-similarity)[:8]
        assert [found["similarity"] for found in row["found"]] == pytest.approx(similarity[best].tolist(), abs=1e-3)
        assert [found["class"] for found in row["found"]] == bank.labels[best].tolist()
        assert row["class"] == queries.labels[own]


def test_k_is_chosen_where_none_is_given(config: PretrainConfig, encoder: Encoder, how: Encoding) -> None:
    """On the bank of the gallery; without labels only the neighbours that are shown are looked for."""
    splits, open_k = load("digits"), dataclasses.replace(config, knn_k=None)
    bank = Subset(splits["train"], np.linspace(0, 1436, 300).astype(np.int64))
    assert bank.labels is not None
    k = choose_k(encode(encoder, bank, how), bank.labels, temperature=0.1, classes=10)
    found = gallery(encoder, splits, open_k, how, SMALL)
    assert found["knn"] == gallery(encoder, splits, dataclasses.replace(config, knn_k=k), how, SMALL)["knn"]
    assert found["knn"]["k"] == k
    train = splits["train"]
    assert isinstance(train, ArrayImages)
    bare = gallery(encoder, {"train": ArrayImages(train.pixels[:200])}, open_k, how, SMALL)
    assert "knn" not in bare
    assert len(bare["neighbours"][0]["found"]) == 8


def test_the_map_s_sheet_holds_each_image_in_its_place(stored: dict[str, Any]) -> None:
    """Tile i is image i, within WebP's error."""
    content, test = stored["map"], load("digits")["test"]
    picture, side, columns = pixels(content["sprite"]), content["tile"], content["columns"]
    assert side == 16
    assert len(content["x"]) == len(content["y"]) == len(content["names"]) == 40
    assert (min(content["x"]), max(content["x"])) == (0, 1000)
    for place, row in enumerate(np.linspace(0, 359, 40).astype(int)):
        top, left = place // columns * side, place % columns * side
        image = PillowImage.fromarray(test[int(row)].permute(1, 2, 0).numpy()).resize(
            (16, 16), PillowImage.Resampling.BILINEAR
        )
        difference = np.abs(picture[top : top + side, left : left + side].astype(float) - np.asarray(image))
        assert difference.mean() < 25, place


def test_filters_are_the_weights(encoder: Encoder) -> None:
    """Grey is zero, and the largest weight of each is black or white."""
    found = first_filters(encoder)
    assert found is not None
    weight = dict(encoder.backbone.named_parameters())["conv1.weight"].detach().numpy()
    assert (found["layer"], found["count"], found["side"]) == ("conv1", 16, 3)
    for picture, one in zip(found["images"], weight, strict=True):
        wanted = np.round(255 * (0.5 + 0.5 * one / np.abs(one).max())).transpose(1, 2, 0)
        assert np.abs(pixels(picture) - wanted).max() <= 1


def test_without_labels(config: PretrainConfig, encoder: Encoder, how: Encoding) -> None:
    """Neither classes nor votes nor confusions; the tenth of train that no bank holds is looked up in the rest."""
    train = load("digits")["train"]
    assert isinstance(train, ArrayImages)
    found = gallery(encoder, {"train": ArrayImages(train.pixels[:100])}, config, how, SMALL)
    assert found["classes"] is None
    assert not {"knn", "confusion"} & set(found)
    assert found["map"]["predicted"] is None
    assert (found["bank"], found["queries"]) == (90, 10)
    assert found["map"]["method"] == "first two principal components"
    held_out = {row["name"] for row in found["neighbours"]}
    assert not held_out & {other["name"] for row in found["neighbours"] for other in row["found"]}


def test_principal_components() -> None:
    """Those of scikit-learn, up to their signs."""
    z = np.random.default_rng(0).normal(size=(40, 6)) * [5, 4, 3, 2, 1, 0.5]
    ours, theirs = principal_components(z, 3), PCA(3).fit_transform(z)
    assert np.abs(ours) == pytest.approx(np.abs(theirs), abs=1e-9)


def test_the_fingerprint_changes_with_a_byte(tmp_path: Path) -> None:
    """A gallery of other weights is not taken for this one's."""
    path = tmp_path / "weights"
    path.write_bytes(b"a" * 3_000_000)
    before = file_digest(path)
    path.write_bytes(b"a" * 2_999_999 + b"b")
    assert file_digest(path) != before


def test_images_that_are_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking the network."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "sets"))
    assert is_here("digits")
    assert is_here(str(tmp_path))
    assert not is_here(str(tmp_path / "gone"))
    assert not is_here("cifar10")
    (tmp_path / "sets" / "cifar10").mkdir(parents=True)
    assert is_here("cifar10")


def test_ten_thousand_thumbnails_are_small_enough(cifar10: Path) -> None:
    """Base64 of 10,000 photographs of 32 pixels: under 8 MB, so that the page stays under 10."""
    images = load(str(cifar10))["test"]
    assert len(images) == 10_000
    assert len(sheet(images, 32, 100)) < 8_000_000


def test_images_that_cannot_be_read_are_left_out(config: PretrainConfig, encoder: Encoder, how: Encoding) -> None:
    """Views, neighbours and map are of the others."""
    splits = {
        split: ArrayImages(
            torch.stack([images[row] for row in range(40)]), np.arange(40) % 2, ("a", "b"), unreadable={0: "damaged"}
        )
        for split, images in load("digits").items()
    }
    with pytest.warns(UserWarning, match="left out 1 image that cannot be read"):
        content = gallery(encoder, {**splits}, config, how, Scope(map_images=40, bank_images=40, map_seconds=1))
    assert len(content["views"]["rows"]) == VIEWED - 1
    assert (len(content["map"]["x"]), np.sum(content["confusion"])) == (39, 39)
