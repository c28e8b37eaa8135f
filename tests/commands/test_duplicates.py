"""`moco duplicates` from folder to lists and page: planted copies are found and nothing is deleted."""

import csv
import io
import json
import os
import tarfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PillowImage

import moco
from moco.cli import main
from moco.commands import curate, duplicates
from moco.commands.duplicates import run
from moco.curation import neighbours
from moco.curation.config import DuplicatesConfig
from moco.curation.facts import Facts, measure_image
from moco.data.catalog import load
from moco.errors import BadInputError
from moco.shapes import Image

CPU: dict[str, Any] = {"device": "cpu", "precision": "fp32", "threads": 1, "workers": 0}
HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Digits, three copies of some (the file, its pixels, nearly these), a hostile name and a file that is no image."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    where, digits = tmp_path / "photos", load("digits")["train"]
    where.mkdir()
    for row in range(24):
        PillowImage.fromarray(digits[row].permute(1, 2, 0).numpy()).save(where / f"{row:02}.png")
    (where / "copy.png").write_bytes((where / "00.png").read_bytes())
    PillowImage.open(where / "01.png").save(where / HOSTILE, compress_level=0)
    near = np.array(PillowImage.open(where / "02.png")).astype(int)
    near[4, 4] += 1 if near[4, 4].max() < 255 else -1
    PillowImage.fromarray(near.astype(np.uint8)).save(where / "near.png")
    (where / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    return where


def test_from_folder_to_lists_and_page(tiny_run: Path, folder: Path, tmp_path: Path) -> None:
    """The copies are found; every image is in one of both lists; names stay text."""
    out, before = tmp_path / "out", sorted(folder.iterdir())
    with pytest.warns(UserWarning, match=r"left out 1 image that cannot be read: broken\.png"):
        result = run(DuplicatesConfig(str(tiny_run), str(folder), out, threshold=0.9995, **CPU))
    pairs = {frozenset(group) for group in result["groups"]}
    assert {frozenset({"00.png", "copy.png"}), frozenset({"01.png", HOSTILE})} <= pairs
    assert any({"02.png", "near.png"} <= group for group in pairs)
    assert [one["path"] for one in result["unreadable"]] == ["broken.png"]
    assert set(result["baselines"]) == {"random"}
    keep, drop = ((out / name).read_text().splitlines() for name in ("keep.txt", "drop.txt"))
    assert {Path(path).name for path in drop} == set(result["drop"])
    assert len(keep) + len(drop) == 27 == len({*keep, *drop})
    assert len(load(str(out / "keep.txt"))["train"]) == len(keep)  # a list that --data takes
    table = list(csv.DictReader(io.StringIO((out / "duplicates.csv").read_text())))
    kinds = {row["path"]: row["kind"] for row in table}
    assert (kinds["copy.png"], sorted([kinds["01.png"], kinds[HOSTILE]])) == ("same bytes", ["", "same pixels"])
    page = (out / "duplicates.html").read_text()
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert "http://" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert sorted(folder.iterdir()) == before


def test_images_that_are_no_files_of_their_own(
    tiny_run: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No command takes a list of the members of an archive as --data, and that is said; one of files is taken."""
    (folder / "broken.png").unlink()
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    for data, taken in (("photos.tar", False), ("photos", True)):
        out = tmp_path / f"of-{data}"
        run(DuplicatesConfig(str(tiny_run), str(tmp_path / data), out, threshold=0.9995, baseline=False, **CPU))
        said = f"--data takes no list of these images, which are no files of their own: to train on a list, unpack " \
               f"{tmp_path / data} and repeat duplicates on the folder"  # fmt: skip
        assert (said in capsys.readouterr().out) is not taken
        with nullcontext() if taken else pytest.raises(BadInputError, match="not a file"):
            load(str(out / "keep.txt"))


def test_features_are_kept(
    tiny_run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """A second call encodes no whole image again; a changed one is, and what could not be read is tried again."""
    config = DuplicatesConfig(str(tiny_run), str(folder), baseline=False, **CPU)
    first = run(config)
    count = len(list((tmp_path / "home" / "features").iterdir()))
    assert run(config) == first
    assert len(list((tmp_path / "home" / "features").iterdir())) == count == 2
    (folder / "broken.png").write_bytes((folder / "05.png").read_bytes())
    later = run(config)
    assert later["unreadable"] == []
    assert ["05.png", "broken.png"] in later["groups"]
    assert len(recwarn) == 2


def test_files_of_another_folder_are_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the same names, sizes and times, as those of two archives without compression often do."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    found = []
    for value in (10, 200):
        where = tmp_path / str(value)
        where.mkdir()
        for name in ("0.ppm", "1.ppm"):
            (where / name).write_bytes(b"P6 8 8 255\n" + bytes([value] * 192))
            os.utime(where / name, (0, 0))
        found.append(curate.measure_images(load(str(where))["train"], 0)[0].content)
    assert not np.array_equal(found[0], found[1])


def test_an_interrupted_command_goes_on(tiny_run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured is not measured again, and what could not be read is still named."""
    (folder / "broken.png").rename(folder / "0.png")  # the first
    monkeypatch.setattr(curate, "MEASURED_AT_A_TIME", 2)
    monkeypatch.setattr(curate, "IMAGES_IN_A_PART", 8)
    config, measured = DuplicatesConfig(str(tiny_run), str(folder), baseline=False, **CPU), list[int]()

    def measure(image: Image, content: bytes | None) -> Facts:
        measured.append(1)
        if len(measured) == 20:
            raise KeyboardInterrupt
        return measure_image(image, content)

    monkeypatch.setattr(curate, "measure_image", measure)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    with pytest.warns(UserWarning, match=r"left out 1 image that cannot be read: 0\.png"):
        later = run(config)
    assert len(measured) == 20 + 28 - 16
    monkeypatch.setenv("MOCO_DATA", f"{folder.parent}/elsewhere")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert run(config) == later


def test_an_index_of_many_images(
    tiny_run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Takes the place of comparing all with all, and says how good it is; here it looks at all lists."""
    pytest.importorskip("faiss")
    (folder / "broken.png").unlink()
    config = DuplicatesConfig(str(tiny_run), str(folder), baseline=False, threshold=0.99, **CPU)
    exact = run(config)
    monkeypatch.setattr(neighbours, "EXACT_UP_TO", 5)
    assert run(config) == exact
    assert "of the 10 nearest (16 lists searched)" in capsys.readouterr().out


def test_a_threshold_that_finds_hardly_anything(
    tiny_run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is said with what to do, unless it was given."""
    (folder / "broken.png").unlink()
    monkeypatch.setattr(duplicates, "FEW", 101)
    for threshold, said in [(None, True), (0.9, False)]:
        run(DuplicatesConfig(str(tiny_run), str(folder), baseline=False, threshold=threshold, false_pairs=2.0, **CPU))
        assert ("--false-pairs 200" in capsys.readouterr().out) is said


def test_from_the_command_line_and_from_python(
    tiny_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One object for programs, the same rows from Python; images without files have numbers."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path))
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    flags = ["--weights", str(tiny_run), "--data", "digits", "--split", "test", "--no-baseline", "--device", "cpu"]
    assert main(["duplicates", *flags, "--threads", "1", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert "expected false pairs: about" in err
    rows = moco.run(
        "duplicates", weights=tiny_run, data="digits", split="test", baseline=False, device="cpu", threads=1
    )
    assert rows["groups"] == found["groups"]
    assert "table" not in found
    assert [row["path"] for row in rows["table"]] == [path for group in found["groups"] for path in group]
    assert {type(value) for row in rows["table"] for value in row.values()} <= {int, float, str}
    assert found["images"] == 360
    assert all(name.startswith("#") for group in found["groups"] for name in group)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"threshold": 1.5}, r"--threshold is 1\.5: expected 0 to 1"),
        ({"weights": "gone"}, "gone"),
        ({"data": "gone"}, "--data gone: no such folder"),
        ({"split": "val"}, "--split val: --data digits has no such split"),
        ({"out": Path(__file__)}, "that is a file: give the name of a folder"),
    ],
    ids=str,
)
def test_mistakes(tiny_run: Path, flags: dict[str, Any], message: str) -> None:
    """Are one line."""
    with pytest.raises(BadInputError, match=message):
        run(DuplicatesConfig(**{"weights": str(tiny_run), "data": "digits", **flags}, **CPU))


def test_too_few_images(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image has no duplicates."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    (tmp_path / "d").mkdir()
    PillowImage.new("RGB", (8, 8)).save(tmp_path / "d" / "a.png")
    with pytest.raises(BadInputError, match="1 images can be read, expected 2 or more"):
        run(DuplicatesConfig(str(tiny_run), str(tmp_path / "d"), **CPU))
