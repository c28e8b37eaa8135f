"""Documents from folders and files: what is one, what it is called, and to which class it belongs."""

import gzip
import os
import subprocess
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
    assert "1 file without text (a/x)" in said
    assert "1 empty document (a/empty)" in said
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
    with pytest.raises(BadInputError, match=r"no document in train \(left out: 1 file without text"):
        open_documents(str(tmp_path / "bin"))
    with pytest.raises(BadInputError, match="line 1 has no tab"):
        open_documents(str(tmp_path / "bad.tsv"))
    with pytest.raises(BadInputError, match="class 'c' is not in the train split"):
        open_documents(str(tmp_path))
    with pytest.raises(BadInputError, match="no document in train"):
        open_documents(str(tmp_path / "train"), ["a"])


def test_folders_that_are_hard_to_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As among images: links lead to further documents, and what cannot be read is counted."""
    write(tmp_path, data__a__1="one", data__masks__2="two", data__b__empty="", other__3="three")
    data, here = tmp_path / "data", os.getcwd()
    (data / "c").symlink_to("../other")
    (data / "again").symlink_to(".")
    os.mkfifo(data / "pipe")
    try:
        os.chdir(data / "b")
        for _ in range(1100):
            os.mkdir("deep")
            os.chdir("deep")
        Path("4").write_text("four")
    finally:
        os.chdir(here)
    train = open_documents(str(data))["train"]
    names = [train.name(row) for row in range(len(train))]
    subprocess.run(["rm", "-rf", "b"], cwd=data, check=True)  # Python's own removal is recursive
    assert [name for name in names if not name.startswith("b")] == ["a/1", "c/3", "masks/2"]
    said = capsys.readouterr().err
    assert ("nested too deep" in said) != (len(names) == 4)
    for reason in ("1 link to a folder above (again)", "1 pipe, socket or device (pipe)"):
        assert reason in said


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt.gz", gzip.compress(b"one\ntwo\n" * 99, mtime=1 << 29 | 0x01010101), "gzip, expected text"),
        ("x.bin", b"one\ntwo\n\0\nthree\n", "a binary file, expected text"),
        ("wide.txt", "one\ntwo\n".encode("utf-16"), "UTF-16, expected text in UTF-8"),
        ("x.jsonl", b'{"text": "one", "label": 1}\n{"text": "two", "label": 0}\n', "JSON, expected a document on each"),
        ("x", b'\n["one",\n "two"]\n', "JSON, expected a document on each"),
        ("x.csv", b"text,label\none,1\n", r"a table, expected a document on each line, or a \.tsv of a class, a tab"),
    ],
)
def test_files_of_other_forms(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Refused by what they are: their lines are no documents."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=f"{name}: {message}"):
        open_documents(str(tmp_path / name))


def test_files_without_end(tmp_path: Path) -> None:
    """Neither is read."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInputError, match="pipe: a pipe, socket or device, expected text files"):
        open_documents(str(tmp_path / "pipe"))
    (tmp_path / "long").touch()
    os.truncate(tmp_path / "long", 1 << 40)
    with pytest.raises(BadInputError, match="long: has 1099511627776 bytes, and all documents must fit in"):
        open_documents(str(tmp_path / "long"))


def test_braces_are_no_json(tmp_path: Path) -> None:
    """A document may begin as JSON does."""
    (tmp_path / "x").write_text("{curly} words\n[1] a note\n")
    assert len(open_documents(str(tmp_path / "x"))["train"]) == 2
