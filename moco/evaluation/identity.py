"""Says everything that the features of images depend on, as metadata and digests."""

import dataclasses
import os
from collections.abc import Sequence
from importlib.metadata import version

import torch

from moco.core.encoder import Encoder, Output
from moco.core.joined import JoinedBackbone, Part
from moco.data.forms import describe_digest
from moco.data.images import Images
from moco.evaluation.features import Encoding
from moco.evaluation.preparation import describe_preparation
from moco.evaluation.session import backbone_digest
from moco.runtime.checkpoint import Metadata, digest
from moco.runtime.machine import processor


def describe_features(kind: str, encoder: Encoder, digest_of_images: str, images: Images, how: Encoding) -> Metadata:
    """Say everything that features depend on: networks with tensors of the same names and shapes may differ."""
    plan = encoder.plan
    return {
        **describe_encoding(kind, digest_encoder(encoder, how.output), digest_of_images, images, how),
        "arch": plan.arch, "stem": plan.stem, "own_size": plan.image_size, "image_size": how.image_size,
        "mean": list(how.mean), "std": list(how.std), **describe_preparation(how.image_size),
    }  # fmt: skip


def describe_encoding(kind: str, weights: str, digest_of_images: str, images: Images, how: Encoding) -> Metadata:
    """Say of features what is known without their network: the digest of its weights, and how images are encoded."""
    about = {
        "kind": kind, "weights": weights, "images": digest_of_images, "text": how.text, "output": how.output,
        "unit": how.unit, "precision": how.precision, "white_level": images.white_level,
    }  # fmt: skip
    return about | ({} if images.form is None else {"form": describe_digest(images.form)})


def place_of(images: Images) -> str | None:
    """Return the folder of files: files of two folders may have the same names, sizes and times."""
    return None if images.root is None else os.path.abspath(os.fsdecode(images.root))


def computed_by(device: torch.device) -> list[str]:
    """List what else a figure depends on: versions, and the GPU or processor, each of which rounds in its own way."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return [*(f"{part} {version(part)}" for part in ("momentum-contrast", "torch", "timm")), device.type, name]


def digest_networks(parts: Sequence[Part], joined: JoinedBackbone) -> str:
    """Compute the SHA-256 of the networks of a joined encoder and of how each gets its images."""
    about = [{**dataclasses.asdict(part), "whitens": None, "numbers": None} for part in parts]
    return digest({name: tensor.detach().cpu() for name, tensor in joined.parts.state_dict().items()}, {"parts": about})


def digest_encoder(encoder: Encoder, output: Output) -> str:
    """Compute the SHA-256 of the tensors that an output depends on: the backbone's and its whitening's, or all."""
    if output != "head":
        return backbone_digest(encoder)
    return digest({name: tensor.detach().cpu() for name, tensor in encoder.state_dict().items()}, {})
