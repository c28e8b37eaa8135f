"""Computes what follows from images once: results are kept under a digest of everything that they depend on."""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.encoder import Encoder
from moco.core.joined import JoinedBackbone, PlainParts
from moco.data.derived import Readable
from moco.data.fingerprint import digest_files, digest_fingerprint, fingerprint
from moco.data.images import Images
from moco.data.named import data_home
from moco.errors import BadInputError
from moco.evaluation.features import ROWS_AT_A_TIME, Earlier, Encoding, RandomViews, encode, encode_grids, outputs
from moco.evaluation.identity import computed_by, describe_encoding, describe_features, digest_networks, place_of
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
LEAST_SECONDS = 2.0
"""Evaluations encode again what took them less."""
MOST_BYTES = 1 << 28
"""Evaluations encode again what takes more: 524,288 features of 128 numbers, 52,428 of 1,280."""
NAMED = "[0-9a-f]" * 32 + ".safetensors"
"""Matches the names of their files."""
MOST_COMPUTED = 16 << 30
"""Bytes that all which `compute_once` keeps may take: beyond, what was not read for longest is removed. A million
features of 1,280 numbers take 5 GB, and as much for each crop."""
EVALUATED = "evaluated-"
"""Prefix of the names of files with features of evaluations, which take less long to compute."""
MOST_KEPT = 4 << 30
"""Bytes that those may take in all."""
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
        _save(self._part(number), tensors, {**more, FIRST: first})

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
    path = _file_of(about)
    _in_use.add(path)
    kept = _read(path)
    if kept is not None:
        if distributed.rank() == 0:
            note_use(path)
        return kept, False
    if distributed.on_any_rank(distributed.rank() == 0 and not takes_files(path.parent))[0]:
        raise BadInputError(f"{path.parent}: cannot be written, and features are kept there: {DO}")
    tensors, more = compute()
    if distributed.rank() == 0:
        _save(path, tensors, {**about, **more})
    return (tensors, more), True


def _limit() -> None:
    """Remove what was not read for longest, and what killed processes left."""
    if distributed.rank() == 0:
        limit_room((data_home() / FOLDER).glob(f"{NAMED}*"), MOST_COMPUTED, _in_use)


def compute_in_parts(about: Metadata, compute: Callable[[Parts], Kept]) -> Kept:
    """Compute as `compute_once` does, in parts: `compute` continues those of an interrupted call."""
    parts = Parts(_file_of(about))
    kept, new = _compute(about, lambda: compute(parts))
    if distributed.rank() == 0:
        parts.remove()
    if new:
        _limit()
    return kept


def _read(path: Path) -> Kept | None:
    """Read a file that every rank finds whole."""
    kept: Kept | None = None
    with contextlib.suppress(BadInputError, OSError):  # a damaged file, or one that may not be read, is computed anew
        kept = load_tensors(path) if path.is_file() else None
    return None if distributed.on_any_rank(kept is None)[0] else kept


def _file_of(about: Metadata, prefix: str = "") -> Path:
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    return data_home() / FOLDER / f"{prefix}{name}.safetensors"


def _save(path: Path, tensors: dict[str, Tensor], about: Metadata) -> None:
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
    whole = _read(path)
    if whole is not None:
        _in_use.add(path)
        note_use(path)
    return None if whole is None else whole[0]["features"]


@torch.no_grad()
def encode_again(encoder: Encoder, images: Images, how: Encoding, title: str | None = None) -> Features:
    """Encode as `encode` does, but read the plain features (n, C) of images where an earlier evaluation kept them.

    They are kept where that pays: encoding took `LEAST_SECONDS`, and they take at most `MOST_BYTES`. Where they cannot
    be kept, nothing is lost but time.
    """
    computes = any(True for _ in encoder.backbone.parameters())  # raw pixels take much room and little time
    if how.stored == "fp16" or how.output == "head" or not computes:
        return encode(encoder, images, how, title=title)
    device, over_grid = next(encoder.parameters()).device, how.output == "backbone" and encoder.grid > 1
    features = encode_networks(encoder, images, how, title, encoder.grid if over_grid else 1)
    width = encoder.width(how.output)
    finished = features if features.shape[1] == width else features.new_empty(len(features), width)
    for part, to in zip(torch.split(features, ROWS_AT_A_TIME), torch.split(finished, ROWS_AT_A_TIME), strict=True):
        z = part.to(device)
        if isinstance(encoder.backbone, JoinedBackbone):
            z = encoder.backbone.combine(torch.split(z, encoder.backbone.widths, 1))
        if how.output == "backbone":
            z = encoder.whitening(z)
        to.copy_(F.normalize(z) if how.unit else z)
    return finished


def encode_networks(
    encoder: Encoder, images: Images, how: Encoding, title: str | None = None, grid: int = 1
) -> Features:
    """Encode images to plain features (n, C), or to averages over a grid, or read what an earlier evaluation kept.

    Those of a joined encoder are what its networks give, one behind the other, before any whitening and scaling.
    """
    device, plain = next(encoder.parameters()).device, dataclasses.replace(how, output="plain", unit=False)
    joined = encoder.backbone if isinstance(encoder.backbone, JoinedBackbone) else None

    def compute() -> Features:
        if joined is None and grid == 1:
            return encode(encoder, images, plain, title=title)
        if joined is None:
            return encode_grids(encoder, images, plain, (grid,), title)
        return outputs(PlainParts(joined), sum(joined.widths), images, plain, title=title, device=device)

    about = _describe_networks(encoder, images, plain, grid)
    if about is None:
        return compute()
    path = _file_of(about, EVALUATED)
    kept = _read(path)
    started = time.monotonic()
    features = compute() if kept is None else kept[0]["features"]
    if distributed.rank() == 0 and kept is not None:
        note_use(path)
    if kept is None and time.monotonic() - started >= LEAST_SECONDS:
        _keep_for_evaluations(path, features, about)
    return features


def keep_networks(encoder: Encoder, images: Images, how: Encoding, features: Features) -> None:
    """Keep what `encode_networks` would compute, where it was computed in another way."""
    about = _describe_networks(encoder, images, dataclasses.replace(how, output="plain", unit=False), 1)
    if about is not None:
        _keep_for_evaluations(_file_of(about, EVALUATED), features, about)


def _keep_for_evaluations(path: Path, features: Features, about: Metadata) -> None:
    if distributed.rank() == 0 and features.nbytes <= MOST_BYTES and takes_files(path.parent):
        with contextlib.suppress(BadInputError):
            _save(path, {"features": features}, about)
        limit_room(path.parent.glob(f"{EVALUATED}{NAMED}*"), MOST_KEPT)


def _describe_networks(encoder: Encoder, images: Images, plain: Encoding, grid: int) -> Metadata | None:
    """Say everything that the features depend on; None where a change of an image would not be seen."""
    marks = fingerprint(images)
    if marks.block > 1:  # an image has no marks of its own
        return None
    about = describe_features("evaluated", encoder, digest_fingerprint(marks, times=True), images, plain)
    about |= {"root": place_of(images), "computed by": computed_by(next(encoder.parameters()).device)}
    about |= {} if grid == 1 else {"grid": grid}
    if isinstance(encoder.backbone, JoinedBackbone):  # by whatever they are whitened
        about |= {"weights": digest_networks(encoder.plan.parts, encoder.backbone), "networks": True}
    return about
