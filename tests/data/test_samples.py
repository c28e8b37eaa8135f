"""Shards as others write them: in any order, joined, with masks, dotted keys, JSON, system files."""

from pathlib import Path

import pytest

from moco.data.catalog import load
from moco.data.images import Images
from tests.data.test_layout import cache as cache
from tests.data.test_layout import classes, make_tar, png


def train(path: Path) -> Images:
    """All images of a tar file."""
    return load(str(path))["train"]


def members(path: Path, content: dict[str, bytes]) -> Path:
    """A tar file of these members, in this order."""
    from tests.data.test_indexing import shard

    return shard(path, content)


def test_classes_are_found_wherever_they_stand(tmp_path: Path) -> None:
    """All images first, then all classes, in another order."""
    images = {f"{i}.png": png() for i in range(5)}
    labels = {f"{i}.cls": str(i % 2).encode() for i in (3, 1, 4, 0, 2)}
    assert classes(train(members(tmp_path / "x.tar", {**images, **labels}))) == ["0", "1", "0", "1", "0"]


def test_joined_files(tmp_path: Path) -> None:
    """`cat a.tar b.tar`: the images of both, though keys come twice."""
    parts = [
        members(tmp_path / name, {"0.png": png(), "0.cls": label}).read_bytes()
        for name, label in (("a.tar", b"cat"), ("b.tar", b"dog"))
    ]
    (tmp_path / "x.tar").write_bytes(b"".join(parts))
    assert classes(train(tmp_path / "x.tar")) == ["cat", "dog"]


def test_bytes_behind_the_end_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are no tar file."""
    path = make_tar(tmp_path / "x.tar", "1.png")
    path.write_bytes(path.read_bytes() + b"rest" * 500)
    assert len(train(path)) == 1
    assert "other bytes behind" in capsys.readouterr().err


@pytest.mark.parametrize("ordered", [True, False])
def test_a_mask_beside_an_image(tmp_path: Path, ordered: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """KEY.seg.png is left out where there is KEY.png, and taken where there is not; it is counted."""
    content = {f"{i}{end}": png() for i in range(3) for end in (".png", ".seg.png")} | {"9.left.png": png()}
    names = sorted(content, key=lambda name: (ordered, name) if ordered else ("seg" in name, name))
    images = train(members(tmp_path / "x.tar", {name: content[name] for name in names}))
    assert [images.name(i) for i in range(len(images))] == [
        f"x.tar/{n}" for n in ("0.png", "1.png", "2.png", "9.left.png")
    ]
    assert "3 beside the image of the same key" in capsys.readouterr().err


def test_keys_with_dots(tmp_path: Path) -> None:
    """WebDataset would take all of them for one sample."""
    content = {f"shot_v1.{i}{end}": png() if end == ".png" else str(i % 3).encode()
               for i in range(6) for end in (".png", ".cls")}  # fmt: skip
    assert classes(train(members(tmp_path / "x.tar", content))) == ["0", "1", "2", "0", "1", "2"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (['{"label": 1}', '{"label": 0}'], ["1", "0"]), (['{"cls": "cat"}', '{"cls": "dog"}'], ["cat", "dog"]),
        (['{"label": 1.0}', '{"label": 2}'], ["1", "2"]), (['{"label": true}', "[]"], ["-", "-"]),
        (['{"caption": "x"}', "{"], ["-", "-"]), (['{"label": 1}', "{}"], ["-", "-"]),
    ],
)  # fmt: skip
def test_classes_in_json(tmp_path: Path, texts: list[str], expected: list[str]) -> None:
    """By the usual keys; whatever else stands there is no class."""
    content = {f"{i}{end}": png() if end == ".png" else text.encode()
               for i, text in enumerate(texts) for end in (".png", ".json")}  # fmt: skip
    assert classes(train(members(tmp_path / "x.tar", content))) == expected


def test_cls_goes_before_json(tmp_path: Path) -> None:
    """WebDataset's own label."""
    content = {"0.png": png(), "0.cls": b"cat", "0.json": b'{"label": 7}'}
    assert classes(train(members(tmp_path / "x.tar", content))) == ["cat"]


def test_files_of_systems_and_hidden_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They never count; hidden images are said."""
    paths = ("1.png", "._1.png", "__MACOSX/._2.png", "@eaDir/1.png/THUMB.png", ".cache/3.png", ".4.png", "photo")
    path = members(tmp_path / "x.tar", {name: png() for name in paths})
    images = train(path)
    assert [images.name(i) for i in range(len(images))] == ["x.tar/1.png", "x.tar/photo"]
    said = capsys.readouterr().err
    assert "2 hidden images" in said
    assert "3 files of an operating system" in said
    train(path)
    assert len(list((tmp_path / ".moco-index").iterdir())) == 1
