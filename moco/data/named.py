"""Data sets by name: their files in $MOCO_DATA, or fetched from where they were published."""

import gzip
import hashlib
import os
import re
import tarfile
import urllib.request
import zlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from moco.data.images import ArrayImages, Images, Labels, Split
from moco.errors import BadInputError
from moco.runtime.files import expand_home, home_folder, replace_file, written_aside

ByteArray = npt.NDArray[np.uint8]


CHOICE = re.compile(r"every=(\d{1,6})@(.+)", re.DOTALL)
"""How `--data` says which frames: every Nth of these videos."""


def data_home() -> Path:
    """Return the folder of the named data sets: $MOCO_DATA, else ~/.cache/moco.

    It may lie where this user may not look: `os.path.isfile` calls that missing, `Path.is_file` raises OSError.
    """
    place = os.environ.get("MOCO_DATA")  # containers do not expand ~
    return expand_home(place) if place else home_folder() / ".cache" / "moco"


def part_choice(data: str) -> tuple[int | None, str]:
    """Split `every=N@PATH` into N and the path; N is None if not given. Raises BadInputError if N is 0."""
    found = CHOICE.fullmatch(data)
    if found is None:
        return None, data
    if int(found[1]) == 0:
        raise BadInputError(f"--data {data}: expected every=N@PATH with N of 1 or more, for every Nth frame")
    return int(found[1]), found[2]


def absolute_data(data: str) -> str:
    """Write the place of images so that it holds in any working directory; a name stays a name."""
    place = part_choice(data)[1]
    path = expand_home(place)
    return data.removesuffix(place) + os.path.abspath(path) if path.exists() else data


FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR10_BATCHES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _open_fashion_mnist() -> dict[Split, Images]:
    """Open Zalando's 60,000 + 10,000 grey 28x28 pictures of clothes (arXiv:1708.07747)."""
    places = [data_home() / "fashion-mnist", Path("/usr/share/datasets/fashion-mnist")]
    folder = next(
        (place for place in places if all(os.path.isfile(place / name) for name in FASHION_MNIST_FILES)), None
    )
    if folder is None:
        folder = places[0]
        for name, md5 in FASHION_MNIST_FILES.items():
            _download("fashion-mnist", FASHION_MNIST_URL + name, folder / name, md5)

    def split(prefix: str) -> ArrayImages:
        pixels = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz").astype(np.int64)
        return ArrayImages(_repeat_grey(pixels), labels, FASHION_MNIST_CLASSES)

    return {"train": split("train"), "test": split("t10k")}


def _open_cifar10() -> dict[Split, Images]:
    """Open Krizhevsky's 50,000 + 10,000 colour 32x32 images of ten classes, in binary form."""
    binary = data_home() / "cifar-10-batches-bin"
    if not os.path.isfile(binary / "test_batch.bin"):
        archive = data_home() / "cifar-10-binary.tar.gz"
        _download("cifar10", CIFAR10_URL, archive, CIFAR10_MD5)
        _unpack_cifar10(archive, binary)

    def split(names: list[str]) -> ArrayImages:
        records = np.concatenate([_read_cifar10(binary / name) for name in names])
        pixels = torch.from_numpy(records[:, 1:].reshape(-1, 3, 32, 32).copy())
        return ArrayImages(pixels, records[:, 0].astype(np.int64), CIFAR10_CLASSES)

    return {"train": split(CIFAR10_BATCHES[:-1]), "test": split(CIFAR10_BATCHES[-1:])}


def _unpack_cifar10(archive: Path, folder: Path) -> None:
    """Take the six batches out of the archive, by name, and nothing else."""
    folder.mkdir(exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            for name in CIFAR10_BATCHES:
                content = tar.extractfile(f"{folder.name}/{name}")
                if content is None:
                    raise KeyError(name)
                replace_file(folder / name, content.read())
    except (KeyError, EOFError, tarfile.TarError) as error:
        raise BadInputError(f"{archive}: not CIFAR-10's archive ({error}): remove it and try again") from error


def _read_cifar10(path: Path) -> ByteArray:
    """Read records, each a label, then the red, the green and the blue plane."""
    try:
        return np.fromfile(path, np.uint8).reshape(-1, 3073)
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: not a whole batch of CIFAR-10 ({error}): remove its folder, try again") from error


def _open_digits() -> dict[Split, Images]:
    """Open the 1,797 grey 8x8 digits that come with scikit-learn; the last fifth is the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = _repeat_grey(np.round(bunch.images * (255 / 16)).astype(np.uint8))
    labels: Labels = bunch.target.astype(np.int64)
    classes, cut = tuple(str(name) for name in bunch.target_names), len(labels) * 4 // 5
    return {
        "train": ArrayImages(pixels[:cut], labels[:cut], classes),
        "test": ArrayImages(pixels[cut:], labels[cut:], classes),
    }


CATALOG: dict[str, Callable[[], dict[Split, Images]]] = {
    "cifar10": _open_cifar10,
    "fashion-mnist": _open_fashion_mnist,
    "digits": _open_digits,
}


def _repeat_grey(grey: ByteArray) -> torch.Tensor:
    return torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1)


def _read_idx(path: Path) -> ByteArray:
    """Read LeCun's IDX format: magic number with type and rank, sizes, bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
        if content[:3] != b"\0\0\x08":
            raise ValueError("another magic number")
        rank = content[3]
        shape = np.frombuffer(content, ">i4", rank, offset=4)
        return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape).copy()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise BadInputError(f"{path}: not a whole IDX file of bytes ({error}): remove it and try again") from error


def _download(name: str, url: str, target: Path, md5: str) -> None:
    """Fetch a file and keep it only if its published checksum is right."""
    if os.path.isfile(target):
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(
            f"--data {name}: {target.parent} cannot be made ({error.strerror}): set MOCO_DATA to a folder of your own"
        ) from error
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with written_aside(target) as partial:  # another process may fetch it too
            with urllib.request.urlopen(url, timeout=20) as response, partial.open("wb") as file:
                while block := response.read(1 << 20):
                    digest.update(block)
                    file.write(block)
            if digest.hexdigest() != md5:
                raise BadInputError(f"--data {name}: {url} gave a file with another checksum than {md5}: try again")
            partial.replace(target)
    except (OSError, HTTPException) as error:
        raise BadInputError(
            f"--data {name}: not in {target.parent}, and {url} cannot be reached ({error}): "
            f"put it there, or set MOCO_DATA to where it is"
        ) from error
