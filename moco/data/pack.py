"""Images -> memory-mapped arrays (small ones of one size) or tar shards with an index."""

import contextlib
import errno
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage

from moco.data import columns
from moco.data.channels import write_tiff
from moco.data.config import PackConfig
from moco.data.decoding import require_header
from moco.data.images import EXTENSIONS, SMALL_IMAGE, Images, Labels, PathTable, Split
from moco.data.kinds import ARRAY_EXTENSIONS
from moco.data.packed import INDEX, PIXELS, Format
from moco.data.samples import Rows
from moco.data.shards import describe
from moco.data.tar import BLOCK, Member
from moco.errors import BadInputError
from moco.runtime.fields import require
from moco.runtime.folder import lock
from moco.runtime.progress import show_progress
from moco.shapes import Image

LOCK = ".lock"
LONGEST = 64
"""Times its shorter side, beyond which a longer side is cut before an image is resized."""
KEY_DIGITS = 9
"""A member is named by the image's number: names from elsewhere may hold anything."""


@contextlib.contextmanager
def write_aside(out: Path) -> Iterator[Path]:
    """Give a folder to write into that becomes `out` in the end, and is removed where that is not reached.

    Raises BadInputError where `out` is there already, cannot be made, or does not fit on the disk.
    """
    taken = f"--out {out}: is there already, and is not overwritten: expected a new folder, give another or remove it"
    if os.path.lexists(out) and not (out.is_dir() and not any(out.iterdir())):
        raise BadInputError(taken)
    partial = out.with_name(f".{out.name}.moco-partial")
    if partial.is_symlink():
        raise BadInputError(f"--out {out}: {partial} is a link, expected nothing there: remove it")
    with lock(partial):
        try:
            _clear(partial)  # what a killed process left
            yield partial
            partial.rename(out)
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            number = error.errno if isinstance(error, OSError) else None
            if number in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise BadInputError(taken) from error
            if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise BadInputError(f"--out {out}: the disk is full ({error}): give another place") from error
            raise
        (out / LOCK).unlink()  # not before: somebody else could take the folder for a killed one's


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def write(splits: dict[Split, Images], folder: Path, config: PackConfig) -> Format:
    """Write all splits as `config.format`, or as suits the images, and return the format."""
    size, auto = config.image_size, config.format == "auto" and config.image_size is None
    if config.format == "arrays" or size or (auto and all(_is_small(images[0]) for images in splits.values())):
        message = _write_all_arrays(splits, folder, size)
        if message is None:
            return "arrays"
        if not auto:
            raise BadInputError(message)
        _clear(folder)
    for split, images in splits.items():
        (folder / split).mkdir()
        write_shards(images, folder / split, config.shard_bytes)
    return "shards"


def _is_small(image: Image) -> bool:
    return max(image.shape[1:]) <= SMALL_IMAGE


def _write_all_arrays(splits: dict[Split, Images], folder: Path, size: int | None) -> str | None:
    """Write all splits as arrays; return why that cannot be, where it cannot."""
    for split, images in splits.items():
        (folder / split).mkdir()
        other = write_arrays(images, folder / split, size)
        if other is not None:
            return (
                f"--format arrays: {images.name(other)} has another size than {images.name(0)}, expected images of one "
                f"size: give --image-size to bring them to one, or --format shards"
            )
    return None


def write_arrays(images: Images, folder: Path, size: int | None) -> int | None:
    """Write a split as one array (n, 3, H, W), or (n, 3, size, size); return the first image of another size, if any.

    Channels at full depth are written as 32-bit floating point. One image is in memory at a time.
    """
    first = images[0] if size is None else crop_to_square(images[0], size)
    header = {
        "descr": "|u1" if images.form is None else "<f4",
        "fortran_order": False,
        "shape": (len(images), *first.shape),
    }
    with (folder / PIXELS).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for index in show_progress(range(len(images)), f"packing {folder.name}", len(images)):
            image = images[index] if size is None else crop_to_square(images[index], size)
            if image.shape != first.shape:
                return index
            file.write(image.contiguous().numpy().data)
        _sync(file)
    names = PathTable(os.fsencode(images.name(index)) for index in range(len(images)))
    arrays: dict[str, columns.Column] = {"labels": _list_labels(images), "names": names.text, "name_ends": names.ends}
    columns.save_columns(folder / INDEX, arrays, {"classes": list(images.classes)})
    return None


def crop_to_square(image: Image, size: int) -> Image:
    """Resize the shorter side to `size` (bilinear, antialiased), and cut out the centre.

    Of a very long image the ends are cut first, which are not seen and, enlarged, would not fit into memory.
    """
    height, width = image.shape[1:]
    if max(height, width) > LONGEST * min(height, width):
        height, width = (min(side, LONGEST * min(height, width)) for side in (height, width))
        y, x = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
        image = image[:, y : y + height, x : x + width]
    rows, wide = (round(size * side / min(height, width)) for side in (height, width))
    pixels = F.interpolate(image[None].float(), (rows, wide), mode="bilinear", antialias=True)[0]
    top, left = (rows - size) // 2, (wide - size) // 2
    square = pixels[:, top : top + size, left : left + size]
    return square.round().to(torch.uint8) if image.dtype == torch.uint8 else square


def write_shards(images: Images, folder: Path, shard_bytes: int) -> None:
    """Write a split as tar files NUMBER.tar with members KEY.EXTENSION and KEY.cls, and their index.

    A new one is begun where `shard_bytes` would be exceeded; each holds an image at least.
    """
    rows, labels, paths = Rows(), _list_labels(images), list[Path]()
    tar: tarfile.TarFile | None = None
    with contextlib.ExitStack() as stack:
        for index in show_progress(range(len(images)), f"packing {folder.name}", len(images)):
            content, ending = _read_file(images, index) if images.form is None else _read_bands(images, index)
            if tar is None or _predict_size(tar, len(content)) > shard_bytes:
                stack.close()
                paths.append(folder / f"{len(paths):06d}.tar")
                tar = stack.enter_context(_open_tar(paths[-1]))
            place = tar.offset + BLOCK
            _add(tar, f"{index:0{KEY_DIGITS}d}{ending}", content)
            if len(labels):
                _add(tar, f"{index:0{KEY_DIGITS}d}.cls", str(labels[index]).encode())
            member = Member(os.fsencode(images.name(index)), place, len(content))
            rows.add(len(paths) - 1, member, zlib.crc32(content))
    arrays = rows.columns(labels)
    columns.save_columns(folder / INDEX, arrays, {"shards": describe(paths), "classes": list(images.classes)})


def _predict_size(tar: tarfile.TarFile, length: int) -> int:
    """Compute the size of a tar file closed after one more image and its class: it is filled to whole records."""
    end = tar.offset + (3 + -(-length // BLOCK) + 2) * BLOCK
    return -(-end // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


@contextlib.contextmanager
def _open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    with path.open("wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            yield tar
        _sync(file)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # the same for everybody: no time, no owner
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _read_file(images: Images, index: int) -> tuple[bytes, str]:
    """Read an image's file, or write it as PNG where it has none; with the ending of its name."""
    content, name = images.encoded(index), images.name(index)
    if content is None:
        buffer = io.BytesIO()
        PillowImage.fromarray(images[index].permute(1, 2, 0).numpy()).save(buffer, "png")
        return buffer.getvalue(), ".png"
    require_header(content, name)
    ending = os.path.splitext(name)[1].lower()
    return content, ending if ending in EXTENSIONS else ".png"


def _read_bands(images: Images, index: int) -> tuple[bytes, str]:
    """Read the file of an image of channels; write a TIFF of what has none, or lies in several, a file a band.

    Raises BadInputError where it cannot be read, or has other channels than the set.
    """
    image, form, name = images[index], require(images.form), images.name(index)
    content = images.encoded(index)
    if content is None or form.bands:
        array = image.numpy() if content is None else images.read_values(index, form.channels).array
        return write_tiff(array, form.no_data), ".tif"
    ending = os.path.splitext(name)[1].lower()
    return content, ending if ending in (*EXTENSIONS, *ARRAY_EXTENSIONS) else ".tif"


def _list_labels(images: Images) -> Labels:
    return np.zeros(0, np.int64) if images.labels is None else images.labels


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
