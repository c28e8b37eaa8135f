"""Encodes images by a frozen teacher, whose features are the keys that a student is trained with (SEED)."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from moco.core.pair import KeySource
from moco.data.catalog import data_home
from moco.data.fingerprint import digest_images
from moco.data.images import Images, evenly
from moco.data.replacement import readable
from moco.errors import BadInputError
from moco.evaluation.features import Encoding, encode
from moco.evaluation.session import backbone_digest, placed
from moco.interop.checkpoints import Weights, load_weights
from moco.runtime import distributed
from moco.runtime.checkpoint import load_tensors, save_tensors
from moco.runtime.device import autocast
from moco.runtime.fields import Precision
from moco.shapes import Features, Views

CENTRED_BY = 4096
"""Images whose mean feature is the centre where the keys are encoded at each step."""


@dataclass(frozen=True)
class Teacher:
    """A frozen network that makes the keys: of every image once, or of each view."""

    weights: Weights
    """Its encoder is on the device, in evaluation."""
    centre: Tensor
    """(C,): the mean feature, which is subtracted before features are scaled to unit length."""
    features: Features | None
    """(images, C), centred and of unit length, where every image is encoded once."""

    @property
    def width(self) -> int:
        """C, the width of its features."""
        return self.weights.encoder.num_features

    def keys(self, mean: Sequence[float], std: Sequence[float], precision: Precision) -> KeySource:
        """Where the keys come from, for a student whose views are normalised by `mean` and `std`."""
        if self.features is not None:
            features = self.features.to(self.centre.device)
            return lambda x_k, index: features[index]
        return lambda x_k, index: self._encode(x_k, mean, std, precision)

    @torch.no_grad()
    def _encode(self, x_k: Views | None, mean: Sequence[float], std: Sequence[float], precision: Precision) -> Features:
        """Encode views as the teacher wants them: at its own normalisation, and at the size that they have."""
        assert x_k is not None
        own, theirs = (
            (_column(m, x_k), _column(s, x_k)) for m, s in ((mean, std), (self.weights.mean, self.weights.std))
        )
        x = (x_k * own[1] + own[0] - theirs[0]) / theirs[1]
        with autocast(precision, x_k.device.type):
            h = self.weights.encoder.backbone(x)
        return F.normalize(h.float() - self.centre)


def load_teacher(name: str, images: Images, how: Encoding, device: str, *, cached: bool) -> Teacher:
    """Load a teacher by its name, any W, and encode the images where its features are to be cached.

    `how` says size, precision and number of loading processes; the normalisation is the teacher's own. The features of
    a set lie in $MOCO_DATA/teachers under the digest of weights, images and size. Raises BadInputError where the weights
    cannot be had, give features that are no numbers, or the file cannot be written.
    """
    weights = placed(load_weights(name), device)
    weights.encoder.eval().requires_grad_(False)
    how = Encoding(
        how.image_size, weights.mean, weights.std, batch_size=how.batch_size, precision=how.precision, unit=False,
        workers=how.workers,
    )  # fmt: skip
    seen = images if cached else evenly(images, CENTRED_BY)
    features = encode_once(weights, seen, how, device)
    if not bool(features.isfinite().all()):
        raise BadInputError(f"--teacher {name}: it gives features that are no numbers, and can teach nothing")
    centre = features.mean(0)
    return Teacher(weights, centre.to(device), F.normalize(features - centre) if cached else None)


def encode_once(weights: Weights, images: Images, how: Encoding, device: str) -> Features:
    """Read the features (n, C) of images by these weights from the cache, or encode and keep them there."""
    about = {
        "weights": backbone_digest(weights.encoder), "images": digest_images(images), "image_size": how.image_size,
        "precision": how.precision, "mean": list(how.mean), "std": list(how.std),
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    path = data_home() / "teachers" / f"{name}.safetensors"
    kept = _kept(path)
    if not distributed.on_any_rank(device, kept is None)[0]:
        assert kept is not None
        return kept
    features = encode(weights.encoder, readable(images), how, title=f"teacher: encoding {len(images)} images")
    if distributed.rank() == 0:
        try:
            save_tensors(path, {"features": features}, {"kind": "teacher", **about})
        except OSError as error:
            told = f"{path}: cannot be written ({error.strerror}): make room, or give MOCO_DATA another folder"
            raise BadInputError(told) from error
    return features


def _kept(path: Path) -> Features | None:
    """The features of an earlier run; None where there are none, or the file is damaged."""
    try:
        return load_tensors(path)[0]["features"] if path.is_file() else None
    except (BadInputError, KeyError):
        return None


def _column(values: Sequence[float], x: Tensor) -> Tensor:
    return torch.tensor(values, dtype=x.dtype, device=x.device).view(1, -1, 1, 1)
