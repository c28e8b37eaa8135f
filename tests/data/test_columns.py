"""Flat arrays on disk: what is read equals what was written, and what is not whole is not read."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moco.data import columns

KINDS = {"place": "i8", "length": "u4", "text": "u1"}


def some(count: int = 3, seed: int = 0) -> dict[str, columns.Column]:
    """Columns of these kinds."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 100, count).astype(kind) for name, kind in KINDS.items()}


@given(
    place=st.lists(st.integers(-(2**63), 2**63 - 1)),
    length=st.lists(st.integers(0, 2**32 - 1)),
    text=st.binary(),
    note=st.text() | st.lists(st.text()),
)
@settings(max_examples=40, deadline=None)
def test_what_is_read_is_what_was_written(place: list[int], length: list[int], text: bytes, note: object) -> None:
    """Any values, none at all, and any JSON beside them; the arrays are mapped and cannot be written to."""
    with tempfile.TemporaryDirectory() as folder:
        arrays: dict[str, columns.Column] = {
            "place": np.array(place, np.int64),
            "length": np.array(length, np.uint32),
            "text": np.frombuffer(text, np.uint8),
        }
        columns.save_columns(Path(folder) / "index", arrays, {"note": note})
        stored = columns.load_columns(Path(folder) / "index", KINDS)
        assert stored is not None
        assert [stored[0][name].tolist() for name in KINDS] == [place, length, list(text)]
        assert stored[1]["note"] == note
        assert not any(array.flags.writeable for array in stored[0].values())
        assert np.load(Path(folder) / "index" / "place.npy").tolist() == place  # any numpy reads it
        assert [path.name for path in Path(folder).iterdir()] == ["index"]


def test_a_new_one_takes_the_place_of_the_old(tmp_path: Path) -> None:
    """Who has the old one open goes on reading it; nothing is left beside it."""
    columns.save_columns(tmp_path / "index", some(seed=1), {})
    old = columns.load_columns(tmp_path / "index", KINDS)
    columns.save_columns(tmp_path / "index", some(5, seed=2), {})
    new = columns.load_columns(tmp_path / "index", KINDS)
    assert old is not None
    assert new is not None
    assert old[0]["place"].tolist() == some(seed=1)["place"].tolist()
    assert new[0]["place"].tolist() == some(5, seed=2)["place"].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_failed_one_leaves_the_old(tmp_path: Path) -> None:
    """Where writing breaks off, nothing has changed."""
    columns.save_columns(tmp_path / "index", some(), {})
    with pytest.raises(TypeError):
        columns.save_columns(tmp_path / "index", some(9), {"no JSON": object()})
    stored = columns.load_columns(tmp_path / "index", KINDS)
    assert stored is not None
    assert len(stored[0]["place"]) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("name", ["place.npy", "length.npy", "text.npy", "index.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut off", "noise"])
def test_what_is_not_whole_is_not_read(tmp_path: Path, name: str, damage: str) -> None:
    """A column that is missing, cut off or something else; so too the facts."""
    columns.save_columns(tmp_path / "index", some(), {})
    path = tmp_path / "index" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut off": content[:-3], "noise": b"\x80\x02" + content[2:]}[damage])
    assert columns.load_columns(tmp_path / "index", KINDS) is None


def test_a_header_that_python_cannot_tokenize(tmp_path: Path) -> None:
    """Found by fuzzing: numpy lets the tokenizer's own error out."""
    columns.save_columns(tmp_path / "index", some(), {})
    path = tmp_path / "index" / "place.npy"
    path.write_bytes(path.read_bytes().replace(b"(3,)", b"(3(("))
    assert columns.load_columns(tmp_path / "index", KINDS) is None


@pytest.mark.parametrize(
    ("labels", "rows", "classes", "fit"),
    [
        ([0, 1, 1], 3, ["a", "b"], True),
        ([], 3, [], True),
        ([0, 1], 3, ["a", "b"], False),
        ([0, 1, 2], 3, ["a", "b"], False),
        ([0, -1, 1], 3, ["a", "b"], False),
        ([0, 1, 1], 3, [5, 6], False),
        ([0, 1, 1], 3, 5, False),
    ],
)
def test_every_label_has_a_class(labels: list[int], rows: int, classes: object, fit: bool) -> None:
    """Found by fuzzing: a damaged index named classes that there were not."""
    assert columns.labels_fit(np.array(labels, np.int64), rows, classes) is fit


@pytest.mark.parametrize("facts", [{"version": 2}, {}, []])
def test_another_version_is_not_read(tmp_path: Path, facts: object) -> None:
    """Nor what is no index."""
    columns.save_columns(tmp_path / "index", some(), {})
    (tmp_path / "index" / "index.json").write_text(json.dumps(facts))
    assert columns.load_columns(tmp_path / "index", KINDS) is None


def test_another_kind_of_column_is_not_read(tmp_path: Path) -> None:
    """Objects, which would need pickle, least of all."""
    columns.save_columns(tmp_path / "index", some(), {})
    assert columns.load_columns(tmp_path / "index", {**KINDS, "place": "i4"}) is None
    np.save(tmp_path / "index" / "place.npy", np.array([{}], object), allow_pickle=True)
    assert columns.load_columns(tmp_path / "index", KINDS) is None


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    """An OSError, which the caller turns into another place."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        columns.save_columns(tmp_path / "file" / "index", some(), {})
    with pytest.raises(OSError, match="file"):
        columns.save_columns(tmp_path / "file", some(), {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_each_path_has_a_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is spelt."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to("b")
    assert columns.cache_place(tmp_path / "b") == columns.cache_place(tmp_path / "link")
    assert columns.cache_place(tmp_path / "b") != columns.cache_place(tmp_path / "c")
    assert columns.cache_place(tmp_path / "b").parent == tmp_path / "moco" / "index"
