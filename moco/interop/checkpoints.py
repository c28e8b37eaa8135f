"""Weights by name: a run, a checkpoint, an encoder file, another project's -> an encoder and its images' form."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from moco.core.encoder import (
    Encoder,
    EncoderPlan,
    Head,
    build_filled_encoder,
    encoder_tensors,
    file_names,
    load_encoder_tensors,
)
from moco.core.networks import Stem
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.errors import BadInputError
from moco.interop.architecture import complete_tensors, infer
from moco.interop.layouts import Found, recognise
from moco.interop.published import TORCHVISION, is_published, load_published, torchvision_file
from moco.interop.unpickling import load_foreign
from moco.runtime.checkpoint import Metadata, load_tensors, newest_checkpoint
from moco.shapes import require_same_shapes

IMAGE_SIZES: dict[Stem, int] = {"imagenet": 224, "cifar": 32}
"""Image size of other projects' encoders, whose files do not say it."""
LINEAR_HEAD = ("weight", "bias")
MLP_HEAD = ("0.weight", "0.bias", "2.weight", "2.bias")


@dataclass(frozen=True)
class Weights:
    """An encoder (f_q), what images must look like for it, and what else its file held to train on from."""

    encoder: Encoder
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: str = "moco"
    """The project whose layout the file has."""
    momentum: Mapping[str, Tensor] | None = None
    """f_k, named as by `encoder_tensors`, where the file has it."""
    queue: Tensor | None = None
    """The keys of the queue, (K, C), where the file has them."""
    pointer: int = 0
    """The row of the oldest key."""
    step: int = 0
    """Steps that it was trained for, where one of ours says so."""


class NoHead(nn.Module):
    """Stands where an encoder file has no projection head, so that no random one is mistaken for a trained one."""

    def forward(self, _: Tensor) -> Tensor:
        """Raises BadInputError."""
        raise BadInputError("these weights have no projection head, only a backbone: give --features backbone")


def encoder_metadata(plan: EncoderPlan, mean: tuple[float, ...], std: tuple[float, ...], step: int) -> Metadata:
    """What is stored beside an encoder's weights."""
    return {"encoder": dataclasses.asdict(plan), "mean": list(mean), "std": list(std), "step": step}


def random_weights(plan: EncoderPlan, seed: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Weights:
    """The encoder that a run of that seed starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Weights(Encoder(plan), mean, std)


def load_weights(weights: str) -> Weights:
    """Read an encoder (f_q) from a run, a checkpoint, an encoder.safetensors, or another project's checkpoint.

    Other projects' are known by their tensors' names (docs/interop.md); timm:NAME, timm:NAME@FILE and torchvision:NAME
    are published weights. Raises BadInputError where there is none, where it is damaged, where it does not fit its own
    description, where any part of its backbone is missing or left over, or where a number in it is not finite.
    """
    found = _read(weights)
    for name, value in encoder_tensors(found.encoder).items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise BadInputError(
                f"--weights {weights}: {name} has numbers that are not finite, as of a training that diverged: give "
                f"an earlier checkpoint"
            )
    return found


def find_run(weights: str) -> Path | None:
    """Find the run folder that weights lie in: the path itself, its folder, or that of its checkpoints."""
    path = Path(weights)
    folders = (path, path.parent, path.parent.parent) if path.exists() else ()  # else it is a name
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def _read(weights: str) -> Weights:
    if is_published(weights):
        return _published(weights)
    path = torchvision_file(weights) if weights.startswith(TORCHVISION) else Path(weights)
    if path.is_dir():
        path = _in_folder(path)
    if not path.is_file():
        raise BadInputError(
            f"--weights {weights}: no such run or file, expected a run folder, a checkpoint, an encoder.safetensors, "
            f"another project's checkpoint, timm:NAME, timm:NAME@FILE or torchvision:NAME (and for evaluations random)"
        )
    content = load_foreign(path)
    if content is not None:
        return _foreign_weights(recognise(content, str(path)), str(path))
    tensors, metadata = load_tensors(path)
    try:
        plan = EncoderPlan(**metadata["encoder"])
        mean, std = _colours(metadata["mean"]), _colours(metadata["std"])
        if min(std) <= 0:
            raise ValueError(f"std {std}, expected numbers more than 0")
        step = int(metadata["step"])
    except (BadInputError, KeyError, TypeError, ValueError) as error:
        raise BadInputError(f"{path}: its metadata does not describe an encoder ({error})") from error
    if metadata.get("kind") == "backbone":
        encoder = Encoder(plan)
        encoder.head = NoHead()
        load_encoder_tensors(encoder, tensors)
        return Weights(encoder, mean, std, step=step)
    if metadata.get("kind") != "checkpoint":
        return Weights(build_filled_encoder(plan, tensors), mean, std, step=step)
    encoder = build_filled_encoder(plan, _part(tensors, "f_q.", plan.arch))
    counters = tensors.get("dictionary._extra_state", torch.zeros(2))
    queue = tensors.get("dictionary.keys")
    return Weights(
        encoder, mean, std, "moco", _part(tensors, "f_k.", plan.arch) or None, queue, int(counters[-1]), step
    )


def _colours(values: object) -> tuple[float, ...]:
    """A number for each of red, green and blue."""
    if not isinstance(values, list) or len(values) != 3 or not all(type(value) in (int, float) for value in values):
        raise ValueError(f"{values!r}, expected three numbers")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"{values!r}, expected finite numbers")
    return tuple(float(value) for value in values)


def _in_folder(folder: Path) -> Path:
    for name in ("encoder.safetensors", "model.safetensors"):
        if (folder / name).is_file():
            return folder / name
    newest = newest_checkpoint(folder)
    if newest is None:
        raise BadInputError(f"--weights {folder}: a folder without encoder.safetensors and without a sound checkpoint")
    return newest[0]


def _part(tensors: Mapping[str, Tensor], prefix: str, arch: str) -> dict[str, Tensor]:
    """One encoder of a checkpoint, named as by `encoder_tensors`."""
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return file_names(own, arch)


def _published(name: str) -> Weights:
    """A network with published weights, without a projection head."""
    found = load_published(name)
    encoder = Encoder(found.plan)
    encoder.head = NoHead()
    load_encoder_tensors(encoder, found.tensors_for(encoder.backbone))
    return Weights(encoder, found.mean, found.std, found.origin)


def _foreign_weights(found: Found, where: str) -> Weights:
    """An encoder of the architecture that its tensors show."""
    arch, stem = infer(found.backbone, where)
    kind, feature_dim, hidden_dim = _head(found.head, where)
    plan = EncoderPlan(arch, stem, kind, feature_dim, hidden_dim, IMAGE_SIZES[stem])
    with torch.device("meta"):
        encoder = Encoder(plan)
        if not found.head:
            encoder.head = NoHead()
    tensors = _checked(encoder, found, where)
    named = {name if name.startswith("head.") else f"backbone.{name}": value for name, value in tensors.items()}
    encoder.load_state_dict(named, assign=True)
    if stem == "cifar":
        convolution = encoder.backbone.get_submodule("conv1")
        assert isinstance(convolution, nn.Conv2d)
        convolution.padding = (found.stem_padding, found.stem_padding)
    momentum = None if found.momentum is None else _checked(encoder, found.momentum, where)
    queue = None if found.queue is None or len(found.queue) != feature_dim else found.queue.float().T.contiguous()
    pointer = 0 if queue is None or not len(queue) else found.pointer % len(queue)
    return Weights(encoder, IMAGENET_MEAN, IMAGENET_STD, found.project, momentum, queue, pointer)


def _checked(encoder: Encoder, found: Found, where: str) -> dict[str, Tensor]:
    """The tensors of one encoder in the file, named as by `encoder_tensors`, all of them and of the right shapes."""
    backbone = complete_tensors(found.backbone, encoder.plan.arch, encoder.plan.stem, where)
    head = {f"head.{name}": value.float().contiguous() for name, value in found.head.items()}
    require_same_shapes(encoder_tensors(encoder), {**backbone, **head}, f"{where}: {found.project}'s encoder")
    return {**backbone, **head}


def _head(tensors: Mapping[str, Tensor], where: str) -> tuple[Head, int, int | None]:
    """Kind, C and hidden width of a projection head; the defaults where there is none."""
    flat = all(value.dim() == 2 for name, value in tensors.items() if name.endswith("weight"))
    if not tensors:
        return "linear", EncoderPlan.feature_dim, None
    if flat and tensors.keys() == set(LINEAR_HEAD):
        return "linear", len(tensors["weight"]), None
    if flat and tensors.keys() == set(MLP_HEAD):
        return "mlp", len(tensors["2.weight"]), len(tensors["0.weight"])
    raise BadInputError(
        f"{where}: its projection head fc has {', '.join(list(tensors)[:6])}: expected {' and '.join(LINEAR_HEAD)} (v1)"
        f" or {', '.join(MLP_HEAD)} (v2)"
    )
