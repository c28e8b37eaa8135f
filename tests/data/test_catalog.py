"""Folders, lists and names become the images of their splits, or one message that a person can act on."""

import contextlib
import gzip
import hashlib
import io
import os
import socket
import struct
import sys
import tarfile
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image as PillowImage

from moco.data import named
from moco.data.catalog import load
from moco.data.images import ArrayImages, Images, Split
from moco.errors import BadInputError

OPEN = urllib.request.urlopen


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Named data sets lie in an empty folder, and there is no network."""

    def unreachable(url: str, timeout: float) -> None:
        raise URLError("no network in tests")

    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "home"))
    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    return tmp_path / "home"


def make(root: Path, *paths: str) -> Path:
    """Image files of 2x2 pixels, and empty files where the name ends otherwise."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if path.lower().endswith((".png", ".jpg")):
            PillowImage.new("RGB", (2, 2)).save(root / path)
        else:
            (root / path).touch()
    return root


def names(images: Images) -> list[str]:
    """The names of all images."""
    return [images.name(i) for i in range(len(images))]


def labels(images: Images) -> list[int]:
    """The labels of all images."""
    assert images.labels is not None
    assert images.labels.dtype == np.int64
    return [int(label) for label in images.labels]


def refusal(data: Path | str) -> str:
    """What `load` says against it, in one line."""
    with pytest.raises(BadInputError) as caught:
        load(str(data))
    message = str(caught.value)
    assert message.startswith("--data ")
    assert len(message.splitlines()) == 1
    return message


# --- folders --------------------------------------------------------------------------------------------------------


def test_flat_folder(tmp_path: Path) -> None:
    """Images without labels, all of them train."""
    splits = load(str(make(tmp_path / "d", "b.png", "a.jpg")))
    assert list(splits) == ["train"]
    assert names(splits["train"]) == ["a.jpg", "b.png"]
    assert splits["train"].labels is None
    assert splits["train"].classes == ()
    assert splits["train"][0].shape == (3, 2, 2)


def test_class_folders(tmp_path: Path) -> None:
    """Each folder is a class, numbered in the order of their names."""
    train = load(str(make(tmp_path / "d", "dog/1.png", "cat/1.png", "cat/2.png")))["train"]
    assert names(train) == ["cat/1.png", "cat/2.png", "dog/1.png"]
    assert train.classes == ("cat", "dog")
    assert labels(train) == [0, 0, 1]


def test_nested_folders(tmp_path: Path) -> None:
    """The first folder is the class, however deep an image lies below it."""
    train = load(str(make(tmp_path / "d", "cat/a/b/1.png", "dog/2.png", "cat/3.png")))["train"]
    assert names(train) == ["cat/3.png", "cat/a/b/1.png", "dog/2.png"]
    assert labels(train) == [0, 0, 1]


def test_images_beside_folders_have_no_labels(tmp_path: Path) -> None:
    """Where some images lie in no folder, folders are not classes."""
    train = load(str(make(tmp_path / "d", "cat/1.png", "2.png")))["train"]
    assert names(train) == ["2.png", "cat/1.png"]
    assert train.labels is None


@pytest.mark.parametrize("folder", ["val", "validation", "valid", "Val"])
def test_splits_of_class_folders(tmp_path: Path, folder: str) -> None:
    """All spellings of validation; every split numbers the classes as train does."""
    paths = ["train/cat/1.png", "train/dog/2.png", f"{folder}/dog/3.png", "test/cat/4.png", "test/dog/5.png"]
    splits = load(str(make(tmp_path / "d", *paths)))
    assert {split: names(images) for split, images in splits.items()} == {
        "train": ["cat/1.png", "dog/2.png"],
        "val": ["dog/3.png"],
        "test": ["cat/4.png", "dog/5.png"],
    }
    assert [images.classes for images in splits.values()] == [("cat", "dog")] * 3
    assert labels(splits["val"]) == [1]
    assert labels(splits["test"]) == [0, 1]


def test_splits_of_flat_folders(tmp_path: Path) -> None:
    """Splits need no labels."""
    splits = load(str(make(tmp_path / "d", "train/1.png", "test/2.png")))
    assert set(splits) == {"train", "test"}
    assert all(images.labels is None for images in splits.values())


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    """Hidden files and folders, and files that are not images by their ending; endings may be in capitals."""
    root = make(tmp_path / "d", "1.png", "._1.png", ".cache/2.png", "README.txt", "labels.csv", "3.JPG", "4.png.part")
    assert names(load(str(root))["train"]) == ["1.png", "3.JPG"]


def test_files_sort_by_the_bytes_of_their_paths(tmp_path: Path) -> None:
    """Capitals come first, `-` before `/`, numbers are text: the same on every machine."""
    root = make(tmp_path / "d", "b.png", "B.png", "a/1.png", "a-1.png", "a.png", "a/10.png", "a/2.png", "é.png")
    expected = ["B.png", "a-1.png", "a.png", "a/1.png", "a/10.png", "a/2.png", "b.png", "é.png"]
    assert expected == sorted(expected, key=os.fsencode)
    assert names(load(str(root))["train"]) == expected


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """A class and a file may have any name."""
    root = make(tmp_path / "d", "cat/1.png", "dog/2.png")
    (root / "dog").rename(os.fsdecode(os.fsencode(root) + b"/d\xf6g"))
    train = load(str(root))["train"]
    assert [os.fsencode(name) for name in names(train)] == [b"cat/1.png", b"d\xf6g/2.png"]
    assert labels(train) == [0, 1]
    assert train[1].shape == (3, 2, 2)


def test_a_folder_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called `digits` here is meant before the catalogue's."""
    make(tmp_path, "digits/1.png")
    monkeypatch.chdir(tmp_path)
    assert names(load("digits")["train"]) == ["1.png"]


def test_empty_folder(tmp_path: Path) -> None:
    """The message says what was expected."""
    assert ".png" in refusal(make(tmp_path / "d", "README.txt"))


def test_empty_split(tmp_path: Path) -> None:
    """The message names the split's folder."""
    root = make(tmp_path / "d", "train/1.png", "test/README.txt")
    assert str(root / "test") in refusal(root)


def test_missing_path() -> None:
    """The message gives the names of the catalogue, for it may be a misspelt one."""
    message = refusal("ciphar10")
    assert "ciphar10" in message
    assert "cifar10, fashion-mnist, digits" in message


@pytest.mark.parametrize("split", ["val", "test"])
def test_unknown_class(tmp_path: Path, split: str) -> None:
    """A split must not have a class that train lacks."""
    message = refusal(make(tmp_path / "d", "train/cat/1.png", "train/dog/1.png", f"{split}/cow/1.png"))
    assert "'cow'" in message
    assert split in message
    assert "cat" in message


def test_two_validation_folders(tmp_path: Path) -> None:
    """Both are named."""
    message = refusal(make(tmp_path / "d", "train/1.png", "val/1.png", "valid/1.png"))
    assert "val/ and valid/" in message


# --- text lists -----------------------------------------------------------------------------------------------------


def test_text_list(tmp_path: Path) -> None:
    """Paths are relative to the list or absolute; comments, empty lines and line ends do not count."""
    make(tmp_path, "d/b c.png", "d/a.png", "other/x.png")
    lines = ["# my photographs", "", "b c.png", "a.png\r", f"  {tmp_path}/other/x.png"]
    (tmp_path / "d" / "list.txt").write_text("\n".join(lines))
    splits = load(str(tmp_path / "d" / "list.txt"))
    assert list(splits) == ["train"]
    assert names(splits["train"]) == [f"{tmp_path}/other/x.png", "a.png", "b c.png"]
    assert splits["train"].labels is None
    assert all(splits["train"][i].shape == (3, 2, 2) for i in range(3))


def test_a_list_with_a_missing_file(tmp_path: Path) -> None:
    """The message names it."""
    make(tmp_path, "a.png")
    (tmp_path / "list.txt").write_text("a.png\ngone.png\n")
    assert "gone.png" in refusal(tmp_path / "list.txt")


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n"])
def test_an_empty_list(tmp_path: Path, text: str) -> None:
    """The message says what was expected."""
    (tmp_path / "list.txt").write_text(text)
    assert "one on each line" in refusal(tmp_path / "list.txt")


def test_an_image_is_not_a_list(tmp_path: Path) -> None:
    """One image given for data is refused in words that can be read."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PillowImage.fromarray(pixels).save(tmp_path / "x.png")
    message = refusal(tmp_path / "x.png")
    assert message.isprintable(), message


# --- names ----------------------------------------------------------------------------------------------------------


def test_digits() -> None:
    """The digits of scikit-learn: 1,437 + 360, the same every time, bright on black."""
    splits = load("digits")
    assert {split: len(images) for split, images in splits.items()} == {"train": 1437, "test": 360}
    again = load("digits")
    for split, images in splits.items():
        other = again[split]
        assert isinstance(images, ArrayImages)
        assert isinstance(other, ArrayImages)
        assert images.classes == tuple("0123456789")
        assert images.pixels.shape[1:] == (3, 8, 8)
        assert images.pixels.min() == 0
        assert images.pixels.max() == 255
        assert torch.equal(images.pixels, other.pixels)
        assert labels(images) == labels(other)
    assert labels(splits["train"])[:10] == list(range(10))


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    """LeCun's IDX format, compressed."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
    return gzip.compress(header + array.tobytes())


def fashion_files() -> dict[str, bytes]:
    """Three images and two, in files named as the original ones."""
    rng = np.random.default_rng(0)
    files = {}
    for prefix, count in (("train", 3), ("t10k", 2)):
        files[f"{prefix}-images-idx3-ubyte.gz"] = idx(rng.integers(0, 256, (count, 28, 28), dtype=np.uint8))
        files[f"{prefix}-labels-idx1-ubyte.gz"] = idx(rng.integers(0, 10, count, dtype=np.uint8))
    return files


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Put files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def check_fashion_mnist(splits: dict[Split, Images]) -> None:
    """The splits must be those of `fashion_files`."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("test", 2)):
        pixels, truth = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8), rng.integers(0, 10, count, np.uint8)
        images = splits["train" if split == "train" else "test"]
        assert len(images) == count
        assert labels(images) == truth.tolist()
        assert images.classes[9] == "Ankle boot"
        for i in range(count):
            assert torch.equal(images[i], torch.from_numpy(pixels[i]).expand(3, 28, 28))


def test_fashion_mnist_from_its_files(home: Path) -> None:
    """The IDX files in $MOCO_DATA/fashion-mnist."""
    write(home / "fashion-mnist", fashion_files())
    check_fashion_mnist(load("fashion-mnist"))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"<html>not found</html>",
        lambda content: content[: len(content) // 2],
        lambda content: gzip.compress(b"\0\0\x0d\x01" + bytes(8)),
        lambda content: gzip.compress(gzip.decompress(content)[:-5]),
    ],
    ids=["not gzip", "truncated", "not of bytes", "too few bytes"],
)
def test_damaged_fashion_mnist_is_refused(home: Path, damage: Callable[[bytes], bytes]) -> None:
    """The message names the file."""
    files = fashion_files()
    name = "train-images-idx3-ubyte.gz"
    write(home / "fashion-mnist", {**files, name: damage(files[name])})
    with pytest.raises(BadInputError, match=name):
        load("fashion-mnist")


def cifar_files() -> dict[str, bytes]:
    """Six binary batches of two images: a label, then red, green and blue planes."""
    rng = np.random.default_rng(0)
    batches = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
    return {
        name: b"".join(bytes([(2 * b + i) % 10]) + rng.bytes(3072) for i in range(2)) for b, name in enumerate(batches)
    }


def check_cifar10(splits: dict[Split, Images]) -> None:
    """The splits must be those of `cifar_files`."""
    assert {split: labels(images) for split, images in splits.items()} == {"train": list(range(10)), "test": [0, 1]}
    assert splits["train"].classes[:2] == ("airplane", "automobile")
    record = cifar_files()["data_batch_2.bin"][3073:]
    planes = np.frombuffer(record[1:], np.uint8).reshape(3, 32, 32)
    assert torch.equal(splits["train"][3], torch.from_numpy(planes.copy()))


def test_cifar10_from_its_binary_batches(home: Path) -> None:
    """The files in $MOCO_DATA/cifar-10-batches-bin."""
    write(home / "cifar-10-batches-bin", cifar_files())
    check_cifar10(load("cifar10"))


@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_damaged_cifar10_is_refused(home: Path, damage: str) -> None:
    """The message names the batch that is missing or cut off."""
    files = cifar_files()
    if damage == "missing":
        del files["data_batch_3.bin"]
    else:
        files["data_batch_3.bin"] = files["data_batch_3.bin"][:-1]
    write(home / "cifar-10-batches-bin", files)
    with pytest.raises(BadInputError, match="data_batch_3"):
        load("cifar10")


def test_cifar10_as_image_folders(home: Path) -> None:
    """$MOCO_DATA/cifar10 with train and test goes before the binary form."""
    write(home / "cifar-10-batches-bin", cifar_files())
    make(home / "cifar10", "train/cat/1.png", "train/dog/1.png", "test/cat/1.png")
    splits = load("cifar10")
    assert {split: len(images) for split, images in splits.items()} == {"train": 2, "test": 1}


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10"])
def test_a_place_that_may_not_be_looked_into(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Is taken for an empty one: what needs no file is there, and an error says what to do."""
    monkeypatch.setenv("MOCO_DATA", str(home.parent / (300 * "a")))
    assert len(load("digits")["test"]) == 360
    if name == "fashion-mnist" and Path("/usr/share/datasets/fashion-mnist").is_dir():
        return
    with pytest.raises(BadInputError, match="set MOCO_DATA to a folder of your own"):
        load(name)


# --- downloads ------------------------------------------------------------------------------------------------------


class Server:
    """Answers `urlopen` with the file of the address's last part, and counts what it is asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []

    def __call__(self, url: str, timeout: float) -> io.BytesIO:
        """Stand in for `urllib.request.urlopen`."""
        self.asked.append(url.rpartition("/")[2])
        return io.BytesIO(self.files[self.asked[-1]])


def serve(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> Server:
    """Let `urlopen` find these files, and no others."""
    server = Server(files)
    monkeypatch.setattr(urllib.request, "urlopen", server)
    return server


def md5(content: bytes) -> str:
    """The checksum that the sources publish."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


not_installed = pytest.mark.skipif(
    Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="this machine has Fashion-MNIST in /usr/share/datasets"
)


def test_moco_data_may_begin_with_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's settings leave it as it is."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("MOCO_DATA", "~/sets")
    assert named.data_home() == Path("/home/me/sets")


@not_installed
def test_fashion_mnist_is_downloaded_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four files with the right checksums; the second time nothing is fetched."""
    files = fashion_files()
    server = serve(monkeypatch, files)
    monkeypatch.setattr(named, "FASHION_MNIST_FILES", {name: md5(content) for name, content in files.items()})
    for _ in range(2):
        check_fashion_mnist(load("fashion-mnist"))
    assert sorted(server.asked) == sorted(files)
    assert sorted(path.name for path in (home / "fashion-mnist").iterdir()) == sorted(files)


def test_cifar10_is_downloaded_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One archive, unpacked; the second time nothing is fetched."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in cifar_files().items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    server = serve(monkeypatch, {"cifar-10-binary.tar.gz": buffer.getvalue()})
    monkeypatch.setattr(named, "CIFAR10_MD5", md5(buffer.getvalue()))
    for _ in range(2):
        check_cifar10(load("cifar10"))
    assert server.asked == ["cifar-10-binary.tar.gz"]


def test_two_processes_that_download_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One comes while the other writes: both end with the whole file, and nothing else stays."""
    content, target = bytes(3 << 20), home / "file"

    def fetch() -> None:
        named._download("x", "http://there/file", target, md5(content))

    class Slow(io.BytesIO):
        begun = False

        def read(self, size: int | None = -1, /) -> bytes:
            """Let another fetch the same file after the first piece."""
            if self.tell() and not Slow.begun:
                Slow.begun = True
                fetch()
                target.unlink()
            return super().read(size)

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Slow(content))
    fetch()
    assert Slow.begun
    assert target.read_bytes() == content
    assert [path.name for path in home.iterdir()] == ["file"]


@pytest.fixture
def answer() -> Iterator[Callable[[bytes], str]]:
    """A server that answers every request with these bytes, and hangs up."""
    listening = socket.create_server(("127.0.0.1", 0))
    content = [b""]

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                with listening.accept()[0] as connection:
                    connection.recv(4096)
                    connection.sendall(content[0])

    def given(what: bytes) -> str:
        content[0] = what
        return f"http://127.0.0.1:{listening.getsockname()[1]}/file"

    threading.Thread(target=serve, daemon=True).start()
    yield given
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n50\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nhello",
        b"HTTP/1.1 302 Found\r\nLocation: http:///\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:x y/\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
        b"HTTP/1.1 500 No\r\n\r\n",
    ],
    ids=lambda said: said[:60].decode().replace("\r\n", " ") or "nothing",
)
def test_a_server_that_answers_oddly(
    home: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[bytes], str], said: bytes
) -> None:
    """One line that names the address, and nothing is kept."""
    monkeypatch.setattr(urllib.request, "urlopen", OPEN)
    with pytest.raises(BadInputError, match=r"--data x: .*http://127\.0\.0\.1:\d+/file"):
        named._download("x", answer(said), home / "file", md5(b""))
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", ["cifar10", pytest.param("fashion-mnist", marks=not_installed)])
def test_without_network_the_message_says_what_to_do(home: Path, name: str) -> None:
    """One message: what is missing, from where, and how to do without."""
    message = refusal(name)
    assert name in message
    assert "http" in message
    assert "no network in tests" in message
    assert "MOCO_DATA" in message
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_a_wrong_checksum_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came is not kept, not even in part, and the next try asks again."""
    server = serve(monkeypatch, {"cifar-10-binary.tar.gz": b"something else"})
    for _ in range(2):
        assert "checksum" in refusal("cifar10")
    assert len(server.asked) == 2
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_a_connection_that_breaks_off_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without network; what came so far is not taken for the file."""

    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: Broken())
    assert "reset by peer" in refusal("cifar10")
    assert not (home / "cifar-10-binary.tar.gz").exists()


@pytest.mark.parametrize("name", ["test", "val", "Validation"])
def test_a_lone_split(tmp_path: Path, name: str) -> None:
    """Is the whole set: its folders are the classes, and not the split's name."""
    splits = load(str(make(tmp_path / "d", f"{name}/cat/1.png", f"{name}/dog/1.png")))
    assert list(splits) == ["train"]
    assert splits["train"].classes == ("cat", "dog")


def test_splits_without_train(tmp_path: Path) -> None:
    """Are no classes."""
    message = refusal(make(tmp_path / "d", "val/cat/1.png", "test/cat/1.png"))
    assert "test, val and no train" in message


def test_a_class_that_is_called_like_a_split(tmp_path: Path) -> None:
    """Beside others it is a class."""
    splits = load(str(make(tmp_path / "d", "valid/1.png", "invalid/1.png")))
    assert splits["train"].classes == ("invalid", "valid")
