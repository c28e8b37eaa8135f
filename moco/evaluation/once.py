"""Computes what follows from images once: results are kept under a digest of everything that they depend on."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from moco.data.derived import Readable
from moco.data.fingerprint import digest_files
from moco.data.images import Images
from moco.data.named import data_home
from moco.errors import BadInputError
from moco.evaluation.features import Earlier, Encoding, RandomViews, encode
from moco.evaluation.identity import describe_encoding, describe_features
from moco.interop.checkpoints import Weights
from moco.runtime import distributed
from moco.runtime.checkpoint import Metadata, load_tensors, peek_metadata, save_tensors
from moco.runtime.files import remove_unless_written, takes_files
from moco.runtime.room import limit_room, note_use
from moco.shapes import Features

FOLDER = "features"
"""Their folder in $MOCO_DATA."""
DO = "make room, or give MOCO_DATA another folder"
IMAGES_IN_A_PART = 8192
"""Approximate number of images that a kill costs."""
NAMED = "[0-9a-f]" * 32 + ".safetensors"
"""Matches the names of their files."""
MOST_COMPUTED = 16 << 30
"""Bytes that all which `compute_once` keeps may take: beyond, what was not read for longest is removed. A million
features of 1,280 numbers take 5 GB, and as much for each crop."""
FIRST = "first"
"""In the metadata of a part: the row in which it begins."""
_in_use = set[Path]()
"""What this process computed or read by `compute_once`: it stays."""

Kept = tuple[dict[str, Tensor], Metadata]


@dataclass(frozen=True)
class Parts:
    """The finished parts of an interrupted computation of a file, as PATH-0000 and so on.

    Two processes may compute the same and divide it in other places: a part says in which row it begins.
    """

    path: Path

    def read(self) -> list[Kept]:
        """Read the parts in order, up to the first that is missing, damaged, or begins in another row."""
        found, rows = list[Kept](), 0
        with contextlib.suppress(BadInputError, OSError):
            for number in itertools.count():
                if not self._part(number).is_file():
                    break
                tensors, more = load_tensors(self._part(number))
                if more.pop(FIRST, rows) != rows:
                    break
                found.append((tensors, more))
                rows += len(next(iter(tensors.values())))
        return found

    def write(self, number: int, tensors: dict[str, Tensor], more: Metadata, first: int) -> None:
        """Write a part that begins in the row `first`. Raises BadInputError where that fails."""
        save_kept(self._part(number), tensors, {**more, FIRST: first})

    def remove(self) -> None:
        """Remove all of them, and what killed processes left of them: the whole is kept.

        What another process, which computes the same, is writing stays: it will remove that.
        """
        for part in self.path.parent.glob(f"{self.path.name}-*"):
            with contextlib.suppress(OSError):
                remove_unless_written(part)

    def _part(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}-{number:04}")


def compute_once(about: Metadata, compute: Callable[[], Kept]) -> Kept:
    """Read tensors and metadata from $MOCO_DATA/features, or compute and keep them there.

    `about` says everything that they depend on. Raises BadInputError where they cannot be kept, before they are
    computed where that can be seen.
    """
    kept, new = _compute(about, compute)
    if new:
        _limit()
    return kept


def _compute(about: Metadata, compute: Callable[[], Kept]) -> tuple[Kept, bool]:
    """Read or compute; tell whether a file was written."""
    path = file_of(about)
    _in_use.add(path)
    kept = read_kept(path)
    if kept is not None:
        if distributed.rank() == 0:
            note_use(path)
        return kept, False
    if distributed.on_any_rank(distributed.rank() == 0 and not takes_files(path.parent))[0]:
        raise BadInputError(f"{path.parent}: cannot be written, and features are kept there: {DO}")
    tensors, more = compute()
    if distributed.rank() == 0:
        save_kept(path, tensors, {**about, **more})
    return (tensors, more), True


def _limit() -> None:
    """Remove what was not read for longest, and what killed processes left."""
    if distributed.rank() == 0:
        limit_room((data_home() / FOLDER).glob(f"{NAMED}*"), MOST_COMPUTED, _in_use)


def compute_in_parts(about: Metadata, compute: Callable[[Parts], Kept]) -> Kept:
    """Compute as `compute_once` does, in parts: `compute` continues those of an interrupted call."""
    parts = Parts(file_of(about))
    kept, new = _compute(about, lambda: compute(parts))
    if distributed.rank() == 0:
        parts.remove()
    if new:
        _limit()
    return kept


def read_kept(path: Path) -> Kept | None:
    """Read a file that every rank finds whole."""
    kept: Kept | None = None
    with contextlib.suppress(BadInputError, OSError):  # a damaged file, or one that may not be read, is computed anew
        kept = load_tensors(path) if path.is_file() else None
    return None if distributed.on_any_rank(kept is None)[0] else kept


def file_of(about: Metadata, prefix: str = "") -> Path:
    """Return the file in $MOCO_DATA/features for what depends on this."""
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    return data_home() / FOLDER / f"{prefix}{name}.safetensors"


def save_kept(path: Path, tensors: dict[str, Tensor], about: Metadata) -> None:
    """Write a file of tensors and what they depend on. Raises BadInputError where that fails."""
    try:
        save_tensors(path, tensors, about)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be written ({error.strerror}): {DO}") from error


def encode_once(
    weights: Weights, images: Images, how: Encoding, title: str, views: RandomViews | None = None
) -> Features:
    """Read the features (n, C) of images, or of random views, by these weights where they are kept, or encode and keep.

    A file that was changed, or has another time of change, is encoded again, and so are files of another folder that
    have the same names, sizes and times. What one process had encoded when it was interrupted is kept too, up to the
    last whole part.
    """
    encoder = weights.encoder

    def compute(parts: Parts) -> Kept:
        stored = [part[0]["features"] for part in parts.read()]
        done = [len(part) for part in stored]

        def keep(z: Features) -> None:
            parts.write(len(done), {"features": z}, {}, sum(done))
            done.append(len(z))

        earlier = Earlier(stored, keep, IMAGES_IN_A_PART)
        alone = distributed.world_size() == 1
        return {"features": encode(encoder, Readable(images), how, views, title, earlier if alone else None)}, {}

    about = describe_features("features", encoder, digest_files(images), images, how)
    about |= {} if views is None else {"views": dataclasses.asdict(views)}
    return compute_in_parts(about, compute)[0]["features"]


def recall(sha256: str, images: Images, how: Encoding, size: int | None, views: RandomViews | None) -> Features | None:
    """Read what `encode_once` keeps of these images by weights of this digest, which are no longer there.

    `size` is the side in pixels, None for the weights' own; what else `how` says of the weights does not count. Returns
    None where nothing, or more than one thing, is kept.
    """
    about = describe_encoding("features", sha256, digest_files(images), images, how)
    wanted = json.loads(json.dumps(about | ({} if views is None else {"views": dataclasses.asdict(views)})))
    found = list[Path]()
    for path in (data_home() / FOLDER).glob(NAMED):
        kept = peek_metadata(path)
        sizes = (kept.get("image_size"), kept.get("own_size") if size is None else size)
        if sizes[0] == sizes[1] and all(kept.get(name) == wanted.get(name) for name in {*wanted, "views", "form"}):
            found.append(path)
    path = found[0] if len(found) == 1 else Path(os.devnull)
    whole = read_kept(path)
    if whole is not None:
        _in_use.add(path)
        note_use(path)
    return None if whole is None else whole[0]["features"]
