"""Every file that a fine-tuning reads is in the fingerprint of its data; names lead to their files and nowhere else."""

import os
from pathlib import Path

import pytest

from moco.errors import BadInputError
from moco.transfer.examples import Layout, files_of, open_examples
from moco.transfer.files import Folder
from moco.transfer.recipes import TASKS
from tests.transfer.scenes import write


@pytest.mark.parametrize("layout", sorted({task.layout for task in TASKS.values()}))
def test_every_file_is_known_of(tmp_path: Path, layout: Layout) -> None:
    """The fingerprint is of all images and annotations, by their places in the folder of the data."""
    data = write(layout, tmp_path / "data", 2, (96, 64))
    files = files_of(data, *(open_examples(layout, data, split) for split in ("train", "test")))
    found = {files.name(index) for index in range(len(files))}
    unread = "labelIds" if layout == "cityscapes-instance" else "instanceIds"
    every = [path for path in data.rglob("*") if path.suffix in (".jpg", ".png", ".xml", ".json")]
    assert found == {str(path.relative_to(data)) for path in every if unread not in path.name}


@pytest.mark.parametrize("layout", sorted({task.layout for task in TASKS.values()}))
def test_a_pipe_in_place_of_any_file(tmp_path: Path, layout: Layout) -> None:
    """Nothing waits for it: it is refused, or passed over where it is not needed."""
    data, refused = write(layout, tmp_path / "data", 2, (96, 64)), list[str]()
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        content = path.read_bytes()
        path.unlink()
        os.mkfifo(path)
        for split in ("train", "test"):
            try:
                examples = open_examples(layout, data, split)
                for index in range(len(examples)):
                    examples[index]
            except BadInputError as error:
                refused.append(str(error))
        path.unlink()
        path.write_bytes(content)
    assert any("pipe" in text for text in refused)


NAMES = {
    "Screen\u00a0shot.png": "Screen\u00a0shot.png",
    "at 8.55\u202fPM.png": "at 8.55\u202fPM.png",
    "at 8.56 PM.png": "at 8.56\u202fPM.png",
    "IMG_0.jpg": "IMG_0.JPG",
    "caf\u00e9.jpg": "cafe\u0301.jpg",
    r"images\0.jpg": "0.jpg",
    "./1.jpg": "1.jpg",
    "train/2.jpg": "2.jpg",
    "/home/someone/set/sub/3.jpg": "sub/3.jpg",
    r"C:\Users\someone\sub\4.jpg": "sub/4.jpg",
    r"odd\name.jpg": r"odd\name.jpg",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_finds_its_file(tmp_path: Path, name: str) -> None:
    """Odd spaces, another case, other accents, back-slashes, and folders of another machine."""
    (tmp_path / "sub").mkdir()
    for file in NAMES.values():
        (tmp_path / file).touch()
    assert Folder(tmp_path, "files").find(name, Path("list")) == str(tmp_path / NAMES[name])


def test_names_that_find_nothing(tmp_path: Path) -> None:
    """Two files that differ by case, two folders' names for one file, pipes, control characters, and the way out."""
    for file in ("A.jpg", "a.JPG", "1.jpg", "._2.jpg"):
        (tmp_path / file).touch()
    os.mkfifo(tmp_path / "pipe.jpg")
    folder = Folder(tmp_path, "files")
    for name in ("a.jpg", "pipe.jpg", "._2.jpg"):
        with pytest.raises(BadInputError, match="no such file, and list names it"):
            folder.find(name, Path("list"))
    for wrong in ("../1.jpg", r"a\..\1.jpg", "a\n.jpg", "a\x1b.jpg", "\ud800.jpg", "", ".", "\\", "/", None):
        with pytest.raises(BadInputError, match="expected one inside the folder of images"):
            folder.find(wrong, Path("list"))
    folder.find("cats/1.jpg", Path("list"))
    with pytest.raises(BadInputError, match=r"'dogs/1\.jpg' and one from another folder both match"):
        folder.find("dogs/1.jpg", Path("list"))
