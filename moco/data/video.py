"""Video files -> a tar file of their frames in the cache, made once, which is read by offset as images are."""

import contextlib
import importlib
import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from moco.data.archives import require_room
from moco.data.conversion import convert_once
from moco.data.images import Images
from moco.data.kinds import Exclude, has_image_ending, is_system
from moco.data.search import is_folder, is_regular
from moco.errors import BadInputError, one_line
from moco.runtime.progress import show_progress

FOLDER = "frames"
"""Below the folder of the named data sets."""
ENDINGS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
QUALITY = 95
"""Quality of the JPEG files that frames become, with full colour."""
MOST_FRAMES = 10_000_000
MOST_LOOKED_AT = 20_000


def find_videos(path: Path, exclude: Exclude) -> list[str]:
    """List the videos below a folder, sorted by the bytes of their paths; nothing where an image lies there too."""
    found, waiting, looked = list[str](), [""], 0
    while waiting:
        below = waiting.pop()
        with contextlib.suppress(OSError), os.scandir(path / below) as entries:
            for entry in entries:
                looked, name = looked + 1, os.fsencode(entry.name)
                if entry.name.startswith(".") or is_system(name) or exclude.fits(os.fsencode(below + entry.name)):
                    continue
                if has_image_ending(name) or looked > MOST_LOOKED_AT:
                    return []
                if is_folder(entry):
                    waiting.append(f"{below}{entry.name}/")
                elif entry.name.lower().endswith(ENDINGS) and is_regular(entry):
                    found.append(below + entry.name)
    return sorted(found, key=os.fsencode)


def open_videos(root: Path, names: Sequence[str], every: int | None, data: str) -> Path:
    """Return the tar file with frames of videos below `root`; it is made at the first time, and that is said.

    Every Nth frame is taken, counted from the first in the order of display; without N about one a second. Its name is
    the video's path without the ending, and its number. Raises BadInputError where a video cannot be decoded.
    """
    if find_spec("av") is None:
        raise BadInputError(f"--data {data}: videos need PyAV: pip install 'momentum-contrast[video]'")
    facts = [os.path.realpath(root), str(every)]
    for name in names:
        status = (root / name).stat()
        facts.append(f"{name} {status.st_size} {status.st_mtime_ns}")

    def write(partial: Path, room: int) -> None:
        with tarfile.open(partial, "w", format=tarfile.GNU_FORMAT) as tar:
            for name in show_progress(names, "writing frames", len(names)):
                _add_frames(tar, root / name, os.path.splitext(name)[0], every, room)

    doing, failed = f"writing the frames of {len(names)} videos", "frames cannot be written"
    return convert_once(data, FOLDER, f"{root.stem or 'videos'}.tar", facts, doing, failed, write)


def drop_clips(images: Images, names: Sequence[str]) -> Images:
    """Take the labels away where the classes are no folders, but the videos themselves."""
    if set(images.classes) <= {os.path.splitext(os.path.basename(name))[0] for name in names}:
        images.labels, images.classes = None, ()
    return images


def _add_frames(tar: tarfile.TarFile, path: Path, name: str, every: int | None, limit: int) -> None:
    """Write every Nth frame of a video as a JPEG file."""
    for number, frame in _read_frames(path, every):
        buffer = io.BytesIO()
        frame.save(buffer, "jpeg", quality=QUALITY, subsampling=0)
        member = tarfile.TarInfo(f"{name}/{number:08d}.jpg")
        member.size = len(buffer.getvalue())
        require_room(path, tar.offset + member.size, limit)
        tar.addfile(member, io.BytesIO(buffer.getvalue()))


def _read_frames(path: Path, every: int | None) -> Iterator[tuple[int, PillowImage.Image]]:
    """Decode a video's first stream of pictures by one thread, and yield the chosen frames with their numbers."""
    av: Any = importlib.import_module("av")
    try:
        with av.open(str(path)) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise BadInputError(f"--data {path}: no pictures in this video: remove it, or --exclude it")
            stream.codec_context.thread_count = 1
            step = every or max(1, round(float(stream.average_rate or 1)))
            for number, frame in enumerate(container.decode(stream)):
                if number >= MOST_FRAMES:
                    raise BadInputError(f"--data {path}: more than {MOST_FRAMES} frames: cut it up")
                if number % step == 0:
                    yield number, frame.to_image()
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, BadInputError):
            raise
        raise BadInputError(
            f"--data {path}: cannot be decoded ({one_line(error)}): get it again, or --exclude it"
        ) from error
