"""What auto looks at before it trains is bounded, however many images there are: by counts, not by time."""

import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import jaxtyping
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from moco.cli import main
from moco.commands import pretrain, readiness, scene
from moco.commands.scene import judge_published
from moco.core.encoder import Encoder, EncoderPlan
from moco.data.catalog import load
from moco.data.channels import Values
from moco.data.derived import Subset
from moco.data.forms import Form
from moco.data.images import Images, Marks
from moco.errors import BadInputError
from moco.evaluation.feature_whitening import choose_whitening
from moco.evaluation.features import Encoding, encode_grids
from moco.evaluation.knn import choose_k
from moco.evaluation.session import labels_of
from moco.interop.checkpoints import Weights
from moco.pretraining.config import AutoConfig
from moco.pretraining.pace import Budget
from moco.pretraining.timing import StepTime
from moco.runtime.randomness import Integers
from moco.shapes import Bytes
from moco.shapes import Image as Pixels


class Listing:
    """A million small images that exist on a list only; counts what is decoded and identified."""

    in_memory: ClassVar[bool] = False
    unreadable: ClassVar[Mapping[int, str]] = {}
    name_table = None
    white_level = None
    form = None
    root = None

    def __init__(self, count: int, side: int = 16) -> None:
        self.side = side
        self.labels, self.classes = np.arange(count) % 2, ("a", "b")
        self.decoded, self.identified = 0, 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Pixels:
        self.decoded += 1
        return torch.full((3, self.side, self.side), index % 251, dtype=torch.uint8)

    def name(self, index: int) -> str:
        """Its number."""
        return str(index)

    def encoded(self, index: int) -> bytes | None:
        """None: they are no files."""
        return None

    def read_values(self, index: int, channels: int | None = None) -> Values:
        """Raise BadInputError: it has no file."""
        raise BadInputError(str(index))

    def stack(self, index: Integers) -> Bytes | None:
        """None: they are not in memory."""
        return None

    def with_white_level(self, level: int) -> Any:
        """Itself."""
        return self

    def with_form(self, form: Form) -> Any:
        """Itself."""
        return self

    def identify(self, index: Integers) -> Marks:
        """All the same."""
        self.identified += len(index)
        nothing = np.zeros(len(index), np.uint32)
        return Marks("listing", nothing, nothing)


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Images]:
    """A machine on which auto stops when training would begin; the training images that it then has."""
    images = list[Images]()

    def train(config: Any, splits: Mapping[str, Images], *_: Any) -> dict[str, Any]:
        images.append(splits["train"])
        return {"exit_code": 75}

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(readiness, "time_step", lambda *_: StepTime(0.1, 0.1))
    monkeypatch.setattr(pretrain, "train_prepared", train)
    monkeypatch.chdir(tmp_path)
    return images


COMMAND = [
    "pretrain",
    "auto",
    "--data",
    "many",
    "--out",
    "run",
    "--minutes",
    "0.1",
    "--device",
    "cpu",
    "--workers",
    "0",
    "--arch",
    "resnet10-w4",
]


def test_a_large_set_is_not_gone_through(prepared: list[Images], monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample for the size, and the monitor's images, twice at most, of a million."""
    listing = Listing(1_000_000)
    monkeypatch.setattr(scene, "load", lambda *_: {"train": listing})
    monkeypatch.setattr(scene, "HOLDING", 0.0)
    assert main(COMMAND) == 75
    assert len(prepared[0]) == 1_000_000
    assert not prepared[0].in_memory
    assert listing.decoded < 1500
    assert listing.identified == 0


@pytest.mark.parametrize(("side", "warned"), [(6, True), (16, False)])
def test_tiny_images_are_not_trained_on_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], side: int, warned: bool
) -> None:
    """It says that they are enlarged, and to what."""
    monkeypatch.setattr(scene, "load", lambda *_: {"train": Listing(8, side)})
    scene.open_scene(AutoConfig("tiny", Path("run"), device="cpu"), {}, Budget(60.0, 0.0))
    assert ("is 6 pixels: moco enlarges them to 16" in capsys.readouterr().err) == warned


def test_a_small_set_is_decoded_once(prepared: list[Images], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that takes little of the time."""
    listing = Listing(200)
    monkeypatch.setattr(scene, "load", lambda *_: {"train": listing})
    monkeypatch.setattr(scene, "HOLDING", 1e9)
    assert main([*COMMAND, "--batch-size", "8", "--knn-images", "20", "--precision", "fp32"]) == 75
    assert prepared[0].in_memory
    assert listing.decoded == 200 + 48


def write_noise(folder: Path, count: int) -> None:
    """Write pictures of 16x16 random pixels."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng(len(folder.name))
    for number in range(count):
        Image.fromarray(draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{number}.png")


@pytest.mark.parametrize("holding", [0.0, 1e9])
def test_few_labels_and_many_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, holding: float) -> None:
    """All images are trained on, each once; the labels of some compare encoders."""
    for name, count in (("train/a", 10), ("train/b", 12), ("unlabeled", 30), ("test/a", 3), ("test/b", 3)):
        write_noise(tmp_path / "set" / name, count)
    monkeypatch.setattr(scene, "HOLDING", holding)
    opened = scene.open_scene(
        AutoConfig(str(tmp_path / "set"), tmp_path / "run", device="cpu"), {}, Budget(60.0, time.monotonic())
    )
    assert opened.is_labelled
    assert [opened.images.name(row) for row in range(len(opened.images))] == sorted(
        path.relative_to(tmp_path / "set/train").as_posix() for path in (tmp_path / "set/train").rglob("*.png")
    ) + sorted(path.relative_to(tmp_path / "set").as_posix() for path in (tmp_path / "set/unlabeled").glob("*.png"))
    assert len(opened.splits["train"]) == 22
    assert opened.images.in_memory == (holding > 0)


def test_published_weights_are_judged_by_parts_at_their_better_size() -> None:
    """As a run would end with them; at another size by whole images, which take less time."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderPlan("resnet10-w4", "cifar", image_size=24)).eval()
    images = load("digits")["train"]
    bank, queries = Subset(images, np.arange(200)), Subset(images, np.arange(200, 240))
    its = SimpleNamespace(judged=(bank, queries), precision="fp32", device="cpu")
    found = judge_published(cast(Any, its), "W", Weights(encoder, (0.5,) * 3, (0.5,) * 3), {8: 0.1, 24: 0.2})
    best, other = sorted(found, key=lambda one: one.top1, reverse=True)
    assert (best.image_size, best.grids, best.seconds) == (24, (1, 2, 3), 0.2)
    assert (other.image_size, other.grids) == (8, (1,))
    how = Encoding(24, (0.5,) * 3, (0.5,) * 3, unit=False)
    z, q = (encode_grids(encoder, part, how, (1, 2, 3)) for part in (bank, queries))
    chosen = choose_whitening(z, bank.labels, 10, grids=(1, 2, 3))
    assert chosen is not None
    assert chosen.grid > 1
    known, asked = (F.normalize(chosen(part)) for part in (z, q))
    k = choose_k(known, labels_of(bank), temperature=0.1, classes=10)
    judge = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1))
    right = judge.fit(known.numpy(), labels_of(bank)).predict(asked.numpy()) == labels_of(queries)
    assert (best.right[200:].numpy() != right).sum() <= 1  # a tie may fall either way
