"""Documents from folders and files: what is one, what it is called, and to which class it belongs."""

from pathlib import Path

import numpy as np
import pytest

from moco.data.documents import open_documents
from moco.data.fingerprint import describe_changes, fingerprint
from moco.data.splits import final_split
from moco.errors import BadInputError


def write(root: Path, **files: str | bytes) -> Path:
    """Files by their paths, in which __ is a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def test_a_folder_with_classes_and_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the paths' bytes; what is no text is left out, and said."""
    write(tmp_path, train__b__2="two of b", train__a__1=" one of a \n", train__a__x=b"\x7fELF\0\0", train__a__empty=" ",
          train__a__deep__3="three", test__b__9="nine")  # fmt: skip
    splits = open_documents(str(tmp_path))
    train, test = final_split(splits)
    assert [train.name(row) for row in range(3)] == ["a/1", "a/deep/3", "b/2"]
    assert [train.encoded(row) for row in range(3)] == [b"one of a", b"three", b"two of b"]
    assert train.labels is not None
    assert train.labels.tolist() == [0, 0, 1]
    assert train.classes == test.classes == ("a", "b")
    assert test.labels is not None
    assert test.labels.tolist() == [1]
    said = capsys.readouterr().err
    assert "1 file(s) that are not text (a/x)" in said
    assert "1 empty document(s) (a/empty)" in said
    with pytest.raises(BadInputError, match="a/1: is a document, expected an image"):
        train[0]


def test_lines_of_a_file(tmp_path: Path) -> None:
    """A document on each; in a .tsv its class stands before it; a list of paths means files."""
    write(tmp_path, a="AA", b="BB")
    lines = open_documents(str(write(tmp_path, **{"l.txt": "first one\n\nsecond\n"}) / "l.txt"))["train"]
    assert [(lines.name(row), lines.encoded(row)) for row in range(2)] == [
        ("line 1", b"first one"), ("line 2", b"second"),
    ]  # fmt: skip
    assert lines.labels is None
    table = open_documents(str(write(tmp_path, **{"l.tsv": "x\tfirst\ny\tsecond\tpart\n"}) / "l.tsv"))["train"]
    assert table.classes == ("x", "y")
    assert table.encoded(1) == b"second\tpart"
    paths = open_documents(str(write(tmp_path, **{"list": "b\na\n"}) / "list"))["train"]
    assert [paths.name(row) for row in range(2)] == ["a", "b"]
    assert paths.encoded(0) == b"AA"


def test_a_set_knows_its_documents_again(tmp_path: Path) -> None:
    """By name and text, as images are known."""
    before = fingerprint(open_documents(str(write(tmp_path, a="AA", b="BB")))["train"])
    now = open_documents(str(write(tmp_path, b="other")))["train"]
    assert "1 changed, the first b" in describe_changes(before, fingerprint(now), now)
    assert now.identify(np.array([0])).contents[0] == before.contents[0]


def test_what_is_no_set_of_documents(tmp_path: Path) -> None:
    """One line each."""
    with pytest.raises(BadInputError, match="no such folder or file"):
        open_documents(str(tmp_path / "none"))
    write(tmp_path, bin__x=b"\0\0", **{"bad.tsv": "no tab\n"}, train__a__1="one", test__c__2="two")
    with pytest.raises(BadInputError, match=r"no document in train \(left out: 1 file\(s\) that are not text"):
        open_documents(str(tmp_path / "bin"))
    with pytest.raises(BadInputError, match="line 1 has no tab"):
        open_documents(str(tmp_path / "bad.tsv"))
    with pytest.raises(BadInputError, match="class 'c' is not in the train split"):
        open_documents(str(tmp_path))
    with pytest.raises(BadInputError, match="no document in train"):
        open_documents(str(tmp_path / "train"), ["a"])
