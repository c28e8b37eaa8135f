"""Computes what follows from images once: results are kept under a digest of everything that they depend on."""

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from moco.core.encoder import Encoder, Output
from moco.data.derived import Readable
from moco.data.fingerprint import digest_images
from moco.data.forms import describe_digest
from moco.data.images import Images
from moco.data.named import data_home
from moco.errors import BadInputError
from moco.evaluation.features import Earlier, Encoding, encode
from moco.evaluation.session import backbone_digest
from moco.interop.checkpoints import Weights
from moco.runtime import distributed
from moco.runtime.checkpoint import Metadata, digest, load_tensors, save_tensors
from moco.runtime.files import takes_files
from moco.shapes import Features

FOLDER = "features"
"""Their folder in $MOCO_DATA."""
DO = "make room, or give MOCO_DATA another folder"
IMAGES_IN_A_PART = 8192
"""Approximate number of images that a kill costs."""

Kept = tuple[dict[str, Tensor], Metadata]


@dataclass(frozen=True)
class Parts:
    """The finished parts of an interrupted computation of a file, as PATH-0000 and so on."""

    path: Path

    def read(self) -> list[Kept]:
        """Read the parts in order, up to the first that is missing or damaged."""
        found = list[Kept]()
        with contextlib.suppress(BadInputError):
            for number in itertools.count():
                if not self._part(number).is_file():
                    break
                found.append(load_tensors(self._part(number)))
        return found

    def write(self, number: int, tensors: dict[str, Tensor], more: Metadata) -> None:
        """Write a part. Raises BadInputError where that fails."""
        _save(self._part(number), tensors, more)

    def remove(self) -> None:
        """Remove all of them: the whole is kept."""
        for part in self.path.parent.glob(f"{self.path.name}-*"):
            with contextlib.suppress(OSError):
                part.unlink()

    def _part(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}-{number:04}")


def compute_once(about: Metadata, compute: Callable[[], Kept]) -> Kept:
    """Read tensors and metadata from $MOCO_DATA/features, or compute and keep them there.

    `about` says everything that they depend on. Raises BadInputError where they cannot be kept, before they are
    computed where that can be seen.
    """
    path = _file_of(about)
    kept: Kept | None = None
    with contextlib.suppress(BadInputError):  # a damaged file is written anew
        kept = load_tensors(path) if path.is_file() else None
    if not distributed.on_any_rank(kept is None)[0]:
        assert kept is not None
        return kept
    if distributed.on_any_rank(distributed.rank() == 0 and not takes_files(path.parent))[0]:
        raise BadInputError(f"{path.parent}: cannot be written, and features are kept there: {DO}")
    tensors, more = compute()
    if distributed.rank() == 0:
        _save(path, tensors, {**about, **more})
    return tensors, more


def compute_in_parts(about: Metadata, compute: Callable[[Parts], Kept]) -> Kept:
    """Compute as `compute_once` does, in parts: `compute` continues those of an interrupted call."""
    parts = Parts(_file_of(about))
    kept = compute_once(about, lambda: compute(parts))
    if distributed.rank() == 0:
        parts.remove()
    return kept


def _file_of(about: Metadata) -> Path:
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    return data_home() / FOLDER / f"{name}.safetensors"


def _save(path: Path, tensors: dict[str, Tensor], about: Metadata) -> None:
    try:
        save_tensors(path, tensors, about)
    except OSError as error:
        raise BadInputError(f"{path}: cannot be written ({error.strerror}): {DO}") from error


def encode_once(weights: Weights, images: Images, how: Encoding, title: str) -> Features:
    """Read the features (n, C) of images by these weights where they are kept, or encode and keep them.

    A file that was changed, or has another time of change, is encoded again. What one process had encoded when it was
    interrupted is kept too, up to the last whole part.
    """
    encoder = weights.encoder
    about = {
        "weights": digest_encoder(encoder, how.output),
        "images": digest_images(images, times=True), "image_size": how.image_size, "output": how.output,
        "unit": how.unit, "precision": how.precision, "mean": list(how.mean), "std": list(how.std),
        "white_level": images.white_level,
    } | ({} if images.form is None else {"form": describe_digest(images.form)})  # fmt: skip

    def compute(parts: Parts) -> Kept:
        stored = [part[0]["features"] for part in parts.read()]
        number = itertools.count(len(stored))
        earlier = Earlier(stored, lambda z: parts.write(next(number), {"features": z}, {}), IMAGES_IN_A_PART)
        alone = distributed.world_size() == 1
        return {"features": encode(encoder, Readable(images), how, None, title, earlier if alone else None)}, {}

    return compute_in_parts({"kind": "features", **about}, compute)[0]["features"]


def digest_encoder(encoder: Encoder, output: Output) -> str:
    """Compute the SHA-256 of the tensors that an output depends on: the backbone's and its whitening's, or all."""
    if output != "head":
        return backbone_digest(encoder)
    return digest({name: tensor.detach().cpu() for name, tensor in encoder.state_dict().items()}, {})
