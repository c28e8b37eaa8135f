"""Computes what follows from images once: results are kept under a digest of everything that they depend on."""

import contextlib
import hashlib
import json
from collections.abc import Callable

from torch import Tensor

from moco.core.encoder import Encoder, Output
from moco.data.derived import Readable
from moco.data.fingerprint import digest_images
from moco.data.forms import describe_digest
from moco.data.images import Images
from moco.data.named import data_home
from moco.errors import BadInputError
from moco.evaluation.features import Encoding, encode
from moco.evaluation.session import backbone_digest
from moco.interop.checkpoints import Weights
from moco.runtime import distributed
from moco.runtime.checkpoint import Metadata, digest, load_tensors, save_tensors
from moco.runtime.files import takes_files
from moco.shapes import Features

FOLDER = "features"
"""Where they lie in $MOCO_DATA."""

Kept = tuple[dict[str, Tensor], Metadata]


def compute_once(about: Metadata, compute: Callable[[], Kept]) -> Kept:
    """Read tensors and metadata from $MOCO_DATA/features, or compute and keep them there.

    `about` says everything that they depend on. Raises BadInputError where they cannot be kept, before they are
    computed where that can be seen.
    """
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    path = data_home() / FOLDER / f"{name}.safetensors"
    kept: Kept | None = None
    with contextlib.suppress(BadInputError):  # a damaged file is written anew
        kept = load_tensors(path) if path.is_file() else None
    if not distributed.on_any_rank(kept is None)[0]:
        assert kept is not None
        return kept
    do = "make room, or give MOCO_DATA another folder"
    if distributed.on_any_rank(distributed.rank() == 0 and not takes_files(path.parent))[0]:
        raise BadInputError(f"{path.parent}: cannot be written, and features are kept there: {do}")
    tensors, more = compute()
    if distributed.rank() == 0:
        try:
            save_tensors(path, tensors, {**about, **more})
        except OSError as error:
            raise BadInputError(f"{path}: cannot be written ({error.strerror}): {do}") from error
    return tensors, more


def encode_once(weights: Weights, images: Images, how: Encoding, title: str) -> Features:
    """Read the features (n, C) of images by these weights where they are kept, or encode and keep them.

    A file that was changed, or has another time of change, is encoded again.
    """
    encoder = weights.encoder
    about = {
        "weights": digest_encoder(encoder, how.output),
        "images": digest_images(images, times=True), "image_size": how.image_size, "output": how.output,
        "unit": how.unit, "precision": how.precision, "mean": list(how.mean), "std": list(how.std),
        "white_level": images.white_level,
    } | ({} if images.form is None else {"form": describe_digest(images.form)})  # fmt: skip

    def compute() -> Kept:
        return {"features": encode(encoder, Readable(images), how, title=title)}, {}

    return compute_once({"kind": "features", **about}, compute)[0]["features"]


def digest_encoder(encoder: Encoder, output: Output) -> str:
    """Compute the SHA-256 of the tensors that an output depends on: the backbone's, or all."""
    if output == "backbone":
        return backbone_digest(encoder)
    return digest({name: tensor.detach().cpu() for name, tensor in encoder.state_dict().items()}, {})
