"""What Hugging Face's `datasets` saved, and Parquet files, as `--data`: against what `datasets` itself reads."""

import importlib
import io
import json
import os
import pickle
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

from moco.data import notes, parquet
from moco.data.ahead import load_ahead
from moco.data.catalog import load
from moco.data.images import Images
from moco.data.shards import ShardImages
from moco.errors import BadInputError

datasets: Any = importlib.import_module("datasets")
pyarrow: Any = importlib.import_module("pyarrow")
written: Any = importlib.import_module("pyarrow.parquet")
NAMES = ["zebra", "ant", "newt"]
FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tables are converted, and indices kept; every line is printed anew, and `datasets` draws no bars."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(notes, "_printed", set())
    datasets.disable_progress_bars()
    return tmp_path / "home"


def picture(seed: int, kind: str = "png") -> bytes:
    """An image file of noise."""
    buffer, pixels = io.BytesIO(), np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def table(count: int, first: int = 0) -> Any:
    """A data set of `datasets`, in which image i is of class i modulo 3."""
    content = [{"bytes": picture(first + i), "path": f"{first + i}.png"} for i in range(count)]
    return datasets.Dataset.from_dict({"image": content, "label": [i % 3 for i in range(count)]}, features=FEATURES)


def assert_same_images(images: Images, rows: Any) -> None:
    """The images and labels are those that `datasets` reads."""
    assert len(images) == len(rows)
    assert images.labels is not None
    assert images.labels.tolist() == rows["label"]
    assert images.classes == tuple(rows.features["label"].names)
    for index, row in enumerate(rows):
        assert images[index].permute(1, 2, 0).tolist() == np.asarray(row["image"]).tolist()


def refusal(data: Path) -> str:
    """What `load` says against it, in one line."""
    with pytest.raises(BadInputError) as caught:
        load(str(data))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def save_dict(folder: Path) -> Any:
    """A DatasetDict of three splits on disk, one of them in two files."""
    splits = datasets.DatasetDict(train=table(7), validation=table(3, 10), test=table(4, 20))
    splits.save_to_disk(folder, num_shards={"train": 2, "validation": 1, "test": 1})
    return splits


def test_a_saved_dataset_dict(tmp_path: Path) -> None:
    """Splits, images, classes in their own order; nothing is copied, and the second time the index is opened."""
    rows = save_dict(tmp_path / "set")
    splits = load(str(tmp_path / "set"))
    assert list(splits) == ["train", "val", "test"]
    for split, name in (("train", "train"), ("val", "validation"), ("test", "test")):
        assert_same_images(splits[split], rows[name])  # type: ignore[index]
    assert splits["train"].name(5) == "data-00001-of-00002/0000001-5.png"
    assert not (tmp_path / "home").exists()
    assert isinstance(splits["train"], ShardImages)
    assert splits["train"].identify(np.arange(2)).contents.tolist() == [zlib.crc32(picture(i)) for i in range(2)]
    index = tmp_path / "set" / "train" / ".moco-index" / "train" / "index.json"
    before = index.stat().st_mtime_ns
    assert_same_images(load(str(tmp_path / "set"))["train"], rows["train"])
    assert index.stat().st_mtime_ns == before
    assert_same_images(load(str(tmp_path / "set" / "test"))["train"], rows["test"])


def test_what_datasets_makes_of_a_set(tmp_path: Path) -> None:
    """Shuffled, selected, of images in files of their own: saved, all of it lies in the Arrow files."""
    rows = table(9).shuffle(seed=1).select(range(5))
    rows.save_to_disk(tmp_path / "selected")
    assert_same_images(load(str(tmp_path / "selected"))["train"], rows)
    for name in ("a", "b"):
        (tmp_path / "files" / name).mkdir(parents=True)
        (tmp_path / "files" / name / "1.jpg").write_bytes(picture(3, "jpeg"))
    folder = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "files"), cache_dir=str(tmp_path / "hf"))
    folder.save_to_disk(tmp_path / "saved")
    assert_same_images(load(str(tmp_path / "saved"))["train"], folder["train"])


def test_a_cached_dataset(tmp_path: Path) -> None:
    """The folder of Arrow files that load_dataset keeps, with the splits that their names say."""
    for split, count, first in (("train", 5, 0), ("test", 4, 10)):
        table(count, first).to_parquet(tmp_path / "from" / f"{split}.parquet")
    files = {split: str(tmp_path / "from" / f"{split}.parquet") for split in ("train", "test")}
    rows = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "hf"))
    folder = Path(rows["train"].cache_files[0]["filename"]).parent
    splits = load(str(folder))
    assert_same_images(splits["train"], rows["train"])
    assert_same_images(splits["test"], rows["test"])


@pytest.mark.parametrize("names", [
    ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test-00000-of-00001.parquet"),
    ("data/train-0.parquet", "data/train-1.parquet", "data/test-0.parquet"),
    ("train/0.parquet", "train/1.parquet", "test/0.parquet"),
])  # fmt: skip
def test_parquet_files(tmp_path: Path, home: Path, names: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """They are converted once, which is said; images, labels and classes are those that `datasets` reads."""
    parts = [table(4), table(3, 4), table(2, 20)]
    for name, part in zip(names, parts, strict=True):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        part.to_parquet(tmp_path / "set" / name)
    splits = load(str(tmp_path / "set"))
    assert "converting it once" in capsys.readouterr().err
    assert_same_images(splits["train"], datasets.concatenate_datasets(parts[:2]))
    assert_same_images(splits["test"], parts[2])
    assert len(list(home.glob("tables/*/*.arrow"))) == 3
    assert_same_images(load(str(tmp_path / "set"))["train"], datasets.concatenate_datasets(parts[:2]))
    assert "converting" not in capsys.readouterr().err


def test_one_parquet_file_of_plain_bytes(tmp_path: Path) -> None:
    """Without a word of `datasets`: the column whose content is images, and the one that is called like classes."""
    labels = ["b", "a", "b"]
    columns = {"id": [b"x", b"y", b"z"], "jpg": [picture(i, "jpeg") for i in range(3)], "category": labels}
    written.write_table(pyarrow.table(columns), tmp_path / "x.parquet", row_group_size=2)
    images = load(str(tmp_path / "x.parquet"))["train"]
    assert images.labels is not None
    assert [images.classes[label] for label in images.labels] == labels
    assert images.classes == ("a", "b")
    assert images.encoded(2) == picture(2, "jpeg")
    assert images.name(1) == "x/0000001"


def test_rows_without_image_or_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row without an image is left out, which is said; where one has no class there are no labels."""
    rows = {"image": [{"bytes": picture(0), "path": None}, None, {"bytes": picture(2), "path": "a/b/c.png"}],
            "label": [0, 1, -1]}  # fmt: skip
    datasets.Dataset.from_dict(rows, features=FEATURES).save_to_disk(tmp_path / "set")
    images = load(str(tmp_path / "set"))["train"]
    assert images.labels is None
    assert [images.encoded(i) for i in range(len(images))] == [picture(0), picture(2)]
    assert [images.name(i).partition("/")[2] for i in range(2)] == ["0000000", "0000002-c.png"]
    said = capsys.readouterr().err
    assert "left out: 1 row without an image" in said
    assert "1 of 2 rows have no class in label" in said


def test_several_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Which of several columns of images and classes is used is said."""
    label = datasets.ClassLabel(names=["u", "v"])
    features = datasets.Features({"mask": datasets.Image(), "image": datasets.Image(), "coarse": label, "fine": label})
    cell = {"bytes": picture(1), "path": None}
    rows = {"mask": [{"bytes": picture(0), "path": None}], "image": [cell], "coarse": [1], "fine": [0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "set")
    images = load(str(tmp_path / "set"))["train"]
    assert images.encoded(0) == picture(1)
    assert images.labels is not None
    assert images.labels.tolist() == [1]
    said = capsys.readouterr().err
    assert "the images are those of column image; not used: mask" in said
    assert "the classes are those of column coarse; not used: fine" in said


def test_other_processes_read_the_same(tmp_path: Path) -> None:
    """Loading processes, forked or spawned, read what this one does."""
    table(4).to_parquet(tmp_path / "x.parquet")
    images = load(str(tmp_path / "x.parquet"))["train"]
    own = [images.encoded(row) for row in range(4)]
    assert list(load_ahead(images.encoded, range(4), 2)) == own
    assert [pickle.loads(pickle.dumps(images)).encoded(row) for row in range(4)] == own  # noqa: S301


def damage_magic(path: Path) -> None:
    """Another beginning and another end."""
    path.write_bytes(b"XXXX" + path.read_bytes()[4:-4] + b"XXXX")


def cut_off(path: Path) -> None:
    """Without its second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [damage_magic, cut_off, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_a_damaged_table(tmp_path: Path, home: Path, damage: Callable[[Path], None], kind: str) -> None:
    """One line that names the file, and nothing is left of its conversion."""
    if kind == "arrow":
        table(5).save_to_disk(tmp_path / "set")
        path = tmp_path / "set" / "data-00000-of-00001.arrow"
    else:
        path = tmp_path / "x.parquet"
        table(5).to_parquet(path)
    damage(path)
    assert path.name in refusal(path.parent if kind == "arrow" else path)
    assert not list(home.glob("tables/**/*"))


def test_changed_bytes_are_noticed(tmp_path: Path) -> None:
    """An image whose bytes changed behind the index is refused by its checksum."""
    table(2).save_to_disk(tmp_path / "set")
    images = load(str(tmp_path / "set"))["train"]
    path = tmp_path / "set" / "data-00000-of-00001.arrow"
    content, place = path.read_bytes(), path.read_bytes().index(picture(1)) + 60
    path.write_bytes(content[:place] + b"\0\0\0" + content[place + 3 :])
    with pytest.raises(BadInputError, match="another checksum"):
        images.encoded(1)


def test_a_table_that_only_names_images(tmp_path: Path) -> None:
    """Paths in a table are never opened: they may lead anywhere."""
    rows = pyarrow.table({"image": pyarrow.array([{"bytes": None, "path": "/etc/passwd"}],
                          pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())]))})  # fmt: skip
    kept = rows.replace_schema_metadata(table(1).data.table.schema.metadata)
    written.write_table(kept, tmp_path / "x.parquet")
    assert "holds the paths of images and not their bytes" in refusal(tmp_path / "x.parquet")


def change_state(key: str, value: object) -> Callable[[Path], None]:
    """Give `train/state.json` another value."""

    def change(folder: Path) -> None:
        path = folder / "train" / "state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))

    return change


@pytest.mark.parametrize(("change", "said"), [
    (lambda folder: (folder / "dataset_dict.json").write_text('{"splits": ["../train"]}'), "names no splits"),
    (change_state("_data_files", [{"filename": "/etc/passwd"}]), "names its files"),
    (change_state("_data_files", [{"filename": "gone.arrow"}]), "gone.arrow, which its state.json names, is missing"),
    (change_state("_indices_data_files", [{"filename": "i.arrow"}]), "selection of rows"),
    (lambda folder: shutil.rmtree(folder / "test"), "has no state.json"),
])  # fmt: skip
def test_a_saved_set_that_is_not_whole(tmp_path: Path, change: Callable[[Path], object], said: str) -> None:
    """One line; no path from a file is followed out of the folder."""
    save_dict(tmp_path / "set")
    change(tmp_path / "set")
    assert said in refusal(tmp_path / "set")


def test_folders_that_are_not_plain(tmp_path: Path) -> None:
    """Several sets in one folder, tables without a split beside others, no column of images: one line each."""
    for name in ("one/a/train.parquet", "one/b/train.parquet", "two/train.parquet", "two/more.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        table(1).to_parquet(tmp_path / name)
    assert "several data sets, in a, b" in refusal(tmp_path / "one")
    assert "more.parquet does not say which split" in refusal(tmp_path / "two")
    written.write_table(pyarrow.table({"text": ["a"], "n": [1]}), tmp_path / "text.parquet")
    assert "its columns are text, n" in refusal(tmp_path / "text.parquet")


def test_images_come_before_tables(tmp_path: Path) -> None:
    """A folder of images in which a table lies stays what it was."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "1.png").write_bytes(picture(1))
    table(2).to_parquet(tmp_path / "set" / "metadata.parquet")
    assert [load(str(tmp_path / "set"))["train"].name(0)] == ["1.png"]


def test_too_large_for_the_disk(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a table unpacks to is bounded, and nothing stays of one that is larger."""
    written.write_table(pyarrow.table({"image": [picture(0), bytes(1 << 20)]}), tmp_path / "x.parquet")
    monkeypatch.setattr(parquet, "LEAST_LIMIT", 1000)
    monkeypatch.setattr(parquet, "LARGEST_RATIO", 1)
    assert "unpacks to more than" in refusal(tmp_path / "x.parquet")
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that says what to install."""
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr("moco.data.arrow.find_spec", lambda name: None)
    assert refusal(tmp_path / "x.parquet").endswith("pip install 'momentum-contrast[table]'")


def test_excluded_splits_and_rows(tmp_path: Path) -> None:
    """--exclude leaves out a split's folder, and images by their names."""
    save_dict(tmp_path / "set")
    splits = load(str(tmp_path / "set"), exclude=("validation", "*-3.png"))
    assert list(splits) == ["train", "test"]
    assert len(splits["train"]) == 6
    assert os.fsdecode(b"data-00000-of-00002/0000003-3.png") not in [splits["train"].name(i) for i in range(6)]
