"""A name, folder or list -> the images of its splits."""

import dataclasses
import gzip
import hashlib
import os
import re
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from moco.data.folder import open_folder, open_kept
from moco.data.images import EXTENSIONS, ArrayImages, FileImages, Images, Labels, PathTable
from moco.data.images import Split as Split
from moco.data.indexing import open_shards
from moco.data.packed import is_pack, open_pack
from moco.data.shards import ShardImages
from moco.errors import BadInputError

ByteArray = npt.NDArray[np.uint8]

SPLIT_FOLDERS: dict[str, Split] = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}


def load(data: str) -> dict[Split, Images]:
    """Open the splits of a catalogue name, a folder (flat, class folders, or splits of either), a list, or shards.

    Shards are a folder of tar files in WebDataset layout, splits of such, or a single one; a folder may also be what
    `moco pack` wrote. A set without splits is all `train`. Raises BadInputError where there is no such thing, or no
    image in it.
    """
    if data in CATALOG and not Path(data).exists():
        return CATALOG[data]()
    path = Path(data)
    if path.is_dir():
        return open_pack(path) if is_pack(path) else load_folder(path)
    if path.is_file() and path.suffix.lower() == ".tar":
        return {"train": open_shards([path], path.name)}
    if path.is_file():
        return {"train": _open_list(path)}
    names = ", ".join(CATALOG)
    raise BadInputError(f"--data {data}: no such folder or file, and not one of the names {names}")


def load_folder(root: Path) -> dict[Split, Images]:
    """Open the splits of a folder, each flat or with a folder for every class."""
    kept = open_kept(root)  # then it has no splits: no folder in it was added since
    if kept is not None:
        return {"train": kept}
    folders: dict[Split, Path] = {}
    with os.scandir(root) as entries:
        seen = (entry for entry in entries if entry.name[0] != ".")
        inside = {e.name if e.is_dir() else "" for e in seen if e.is_dir() or e.name.lower().endswith(EXTENSIONS)}
    names = sorted(name for name in inside if name.lower() in SPLIT_FOLDERS)
    for name in names:
        split = SPLIT_FOLDERS[name.lower()]
        if split in folders:
            raise BadInputError(f"--data {root}: both {folders[split].name}/ and {name}/ are its {split} split")
        folders[split] = root / name
    if "train" not in folders:
        if len(folders) > 1 and len(names) == len(inside):  # else a class is called so
            raise BadInputError(f"--data {root}: has {', '.join(names)} and no train: name one of them, or add train/")
        root = root / names[0] if len(inside) == len(names) == 1 else root  # a lone split
        shards = find_shards(root)
        return _open_by_name(root, shards) if shards else {"train": open_folder(root)}
    splits: dict[Split, Images] = {}
    for split, path in sorted(folders.items(), key=lambda item: item[0] != "train"):
        shards = find_shards(path)
        images = open_shards(shards, split) if shards else open_folder(path)
        splits[split] = images if split == "train" else _number_as(images, splits["train"].classes, path)
    return splits


def find_shards(folder: Path) -> list[Path]:
    """List the tar files of a folder that holds nothing else to take for a data set: no image and no folder."""
    shards = []
    with os.scandir(folder) as entries:
        for entry in entries:
            ending = os.path.splitext(entry.name)[1].lower()
            if entry.name.startswith("."):
                continue
            if ending in EXTENSIONS or entry.is_dir():
                return []
            if ending == ".tar":
                shards.append(folder / entry.name)
    return sorted(shards, key=os.fsencode)


def _open_by_name(folder: Path, shards: Sequence[Path]) -> dict[Split, Images]:
    """Open shards in one folder, in splits where the name of each has one as a word (imagenet-train-0001.tar)."""
    parts: dict[Split | None, list[Path]] = {}
    for shard in shards:
        found = {SPLIT_FOLDERS[word] for word in re.split(r"[^a-z]+", shard.name.lower()) if word in SPLIT_FOLDERS}
        parts.setdefault(found.pop() if len(found) == 1 else None, []).append(shard)
    if "train" not in parts:
        return {"train": open_shards(shards, "train")}
    if None in parts:
        raise BadInputError(
            f"--data {folder}: some shards say train in their name, and {parts[None][0].name} does not say which split "
            f"it is of: expected train, val or test in each, or folders of these names"
        )
    train = open_shards(parts["train"], "train")
    splits: dict[Split, Images] = {"train": train}
    for split, paths in parts.items():
        if split is not None and split != "train":
            splits[split] = _number_as(open_shards(paths, split), train.classes, folder)
    return splits


def _number_as(images: FileImages | ShardImages, known: tuple[str, ...], where: Path) -> FileImages | ShardImages:
    """Give the images of another split the labels that their classes have in train."""
    if images.labels is None or not known or images.classes == known:
        return images
    unknown = next((name for name in images.classes if name not in known), None)
    if unknown is not None:
        few = ", ".join(map(repr, known[:5])) + (", ..." if len(known) > 5 else "")
        raise BadInputError(f"--data {where}: class {unknown!r} is not in the train split, which has {few}")
    number = {name: i for i, name in enumerate(known)}
    labels = np.array([number[name] for name in images.classes], np.int64)[images.labels]
    return dataclasses.replace(images, labels=labels, classes=known)


def _open_list(path: Path) -> FileImages:
    """Open a text list: a path on each line, relative to the list's folder; it skips empty lines and `# comments`."""
    lines = [line.strip() for line in path.read_bytes().splitlines()]
    paths = sorted(line for line in lines if line and not line.startswith(b"#"))
    if not paths:
        raise BadInputError(f"--data {path}: no path in it, expected one on each line")
    root = os.fsencode(path.parent)
    missing = next((name for name in paths if not os.path.isfile(os.path.join(root, name))), None)
    if missing is not None:
        raise BadInputError(f"--data {path}: lists {os.fsdecode(missing)!r}, which is not a file")
    return FileImages(root, PathTable(paths))


def data_home() -> Path:
    """Return the folder of the named data sets: $MOCO_DATA, else ~/.cache/moco."""
    return Path(os.environ.get("MOCO_DATA") or Path.home() / ".cache" / "moco")


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
    folder = next((place for place in places if all((place / name).is_file() for name in FASHION_MNIST_FILES)), None)
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
    """Open Krizhevsky's 50,000 + 10,000 colour 32x32 images of ten classes, in image folders or in binary form."""
    folders = data_home() / "cifar10"
    if (folders / "train").is_dir():
        return load_folder(folders)
    binary = data_home() / "cifar-10-batches-bin"
    if not (binary / "test_batch.bin").is_file():
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
                (folder / name).write_bytes(content.read())
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
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=20) as response, partial.open("wb") as file:
            digest = hashlib.md5(usedforsecurity=False)
            while block := response.read(1 << 20):
                digest.update(block)
                file.write(block)
    except OSError as error:
        raise BadInputError(
            f"--data {name}: not in {target.parent}, and {url} cannot be reached ({error}): "
            f"put it there, or set MOCO_DATA to where it lies"
        ) from error
    if digest.hexdigest() != md5:
        partial.unlink()
        raise BadInputError(f"--data {name}: {url} gave a file with another checksum than {md5}: try again")
    partial.replace(target)
