"""Weights by name: a run, a checkpoint, an encoder file, another project's -> an encoder and its images' form."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

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
from moco.core.resnet import resnet_plan
from moco.core.stems import STEMS, Stem
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.data.forms import Form
from moco.errors import BadInputError
from moco.interop.architecture import complete_tensors, infer, note_plain, require_finite_features
from moco.interop.calling import WEIGHTS, call, given_by
from moco.interop.contents import first_names, flatten
from moco.interop.descriptions import Description, require_torchvisions
from moco.interop.folders import exported_metadata, find_file, load_pieces, read_description
from moco.interop.hub import fetch_weights
from moco.interop.layouts import Found, recognise
from moco.interop.metadata import CLASSIFIER, encoder_metadata, read_metadata
from moco.interop.published import (
    TORCHVISION,
    Published,
    describe_timm,
    is_published,
    load_published,
    require_pooling,
    torchvision_file,
)
from moco.runtime.checkpoint import Metadata, load_tensors
from moco.runtime.folder import BROKEN_OFF, read_status
from moco.runtime.hub import HUB
from moco.shapes import require_same_shapes

IMAGE_SIZES = {7: 224, 3: 32}
"""Image size of other projects' encoders without a description, by the kernel of their first convolution."""
COMPLETE = ("MoCo", "MoCo's notebook")
"""Projects whose files hold all that moco knows: f_q, f_k and the queue."""
UNSAID = ("torchvision", "a module with ")
"""How origins begin that tell names of tensors only, not whose network it is."""
CHOICE = re.compile(r"((?:stem|part)=[^@]*)@(.+)")
LINEAR_HEAD = ("weight", "bias")
MLP_HEAD = ("0.weight", "0.bias", "2.weight", "2.bias")


@dataclass(frozen=True)
class Weights:
    """An encoder (f_q), what images must look like for it, and what else of its file training can continue from."""

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
    white_level: int | None = None
    """The value of 16-bit files that was white in training; None without such files."""
    form: Form | None = None
    """What its images are where they are no bytes of RGB."""
    notes: tuple[str, ...] = ()
    """What was assumed or left aside, a line each, where the file does not say all."""

    @property
    def metadata(self) -> Metadata:
        """Return the metadata of moco's own files."""
        return encoder_metadata(self.encoder.plan, self.mean, self.std, self.step, self.white_level, self.form)


class NoHead(nn.Module):
    """Stands for a missing projection head, so that no random one is mistaken for a trained one."""

    def forward(self, _: Tensor) -> Tensor:
        """Raises BadInputError."""
        raise BadInputError("these weights have no projection head, only a backbone: give --features backbone")


def random_weights(
    plan: EncoderPlan, seed: int, mean: tuple[float, ...], std: tuple[float, ...], white_level: int | None = None,
    form: Form | None = None,
) -> Weights:  # fmt: skip
    """Return the encoder that a run of that seed starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Weights(Encoder(plan), mean, std, white_level=white_level, form=form)


def load_weights(weights: str, flag: str = WEIGHTS) -> Weights:
    """Read an encoder (f_q) from a run, a checkpoint, an encoder.safetensors, or another project's checkpoint.

    Other projects' are known by their tensors' names (docs/interop.md); stem=NAME@FILE and part=NAME@FILE say what such
    a file does not. timm:NAME, timm:NAME@FILE and torchvision:NAME are published weights. Raises BadInputError where
    there is none, where it is damaged, where it does not fit its own description, where any part of its backbone is
    missing or left over, or where a number in it is not finite; the error names the `flag` that was given.
    """
    with given_by(flag, weights):
        return _load(weights)


def _load(weights: str) -> Weights:
    found = _read(weights)
    for name, value in encoder_tensors(found.encoder).items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise BadInputError(
                f"{call(weights)}: {name} has numbers that are not finite, as after a diverged training: give "
                f"an earlier checkpoint"
            )
    require_finite_features(found.encoder, call(weights))
    run = find_run(weights)
    said = None if run is None else BROKEN_OFF.get(read_status(run).get("state", ""))
    if said is not None:
        note = f"{run}: {said}: using the weights that it saved last"
        found = dataclasses.replace(found, notes=(*found.notes, note))
    return found


def find_run(weights: str) -> Path | None:
    """Find the run folder that weights lie in: the path itself, its folder, or that of its checkpoints."""
    path = Path(weights)
    folders = (path, path.parent, path.parent.parent) if path.exists() else ()  # else it is a name
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def _read(weights: str) -> Weights:
    if is_published(weights):
        return _published(load_published(weights))
    choice, name = _choice(weights)
    path = fetch_weights(name) if name.startswith(HUB) else Path(name)
    path = torchvision_file(name) if name.startswith(TORCHVISION) else path
    if path.is_dir():
        path = find_file(path)
    if not path.exists():
        raise BadInputError(
            f"{call(weights)}: no such run or file, expected a run folder, a checkpoint, an encoder.safetensors, "
            f"another project's checkpoint, hf://OWNER/NAME, timm:NAME, timm:NAME@FILE or torchvision:NAME (and for "
            f"evaluations random)"
        )
    content = load_pieces(path)
    if content is None:
        return _own(path)
    exported = exported_metadata(content)
    if exported is not None and not choice:
        return _described(path, flatten(content, str(path)), exported)
    about = read_description(path, content)
    if about.arch is not None and resnet_plan(about.arch) is None:
        read = _published(describe_timm(about, path, content))
        note = f"{path}: read as {read.encoder.plan.arch}, as its name says"
        return dataclasses.replace(read, notes=(note, *read.notes)) if about.by_name else read
    if name.startswith(TORCHVISION):
        about = dataclasses.replace(about, project="torchvision")
    require_pooling(about, "avg", path)
    found = recognise(content, str(path), choice.get("part"), about)
    return _foreign_weights(found, about, choice.get("stem"), str(path))


def _choice(weights: str) -> tuple[dict[str, str], str]:
    """What `stem=NAME,part=NAME@FILE` says of a file that does not say it, and the file."""
    match = CHOICE.fullmatch(weights)
    if match is None:
        return {}, weights
    choice = dict(pair.partition("=")[::2] for pair in match[1].split(","))
    stem = choice.get("stem", "cifar")
    if not choice.keys() <= {"stem", "part"} or stem not in STEMS:
        raise BadInputError(
            f"{call(weights)}: expected stem=NAME@FILE, part=NAME@FILE or stem=NAME,part=NAME@FILE; stems are "
            f"{', '.join(STEMS)}"
        )
    return choice, match[2]


def _own(path: Path) -> Weights:
    """Read a file of moco's own."""
    tensors, metadata = load_tensors(path)
    if metadata.get("kind") != "checkpoint":
        return _described(path, tensors, metadata)
    plan, about = read_metadata(path, metadata)
    encoder = build_filled_encoder(plan, _part(tensors, "f_q.", plan.arch))
    counters = tensors.get("dictionary._extra_state", torch.zeros(2))
    queue = tensors.get("dictionary.keys")
    momentum = _part(tensors, "f_k.", plan.arch) or None
    return Weights(encoder, **about, momentum=momentum, queue=queue, pointer=int(counters[-1]))


def _described(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata) -> Weights:
    """An encoder, or a backbone alone, with our own description."""
    if metadata.get("kind") == CLASSIFIER:
        raise BadInputError(
            f"{path}: a classifier of moco finetune --save, expected an encoder: moco.load_classifier reads it"
        )
    plan, about = read_metadata(path, metadata)
    if metadata.get("kind") != "backbone":
        return Weights(build_filled_encoder(plan, tensors), **about)
    encoder = Encoder(plan)
    encoder.head = NoHead()
    load_encoder_tensors(encoder, tensors)
    return Weights(encoder, **about)


def _part(tensors: Mapping[str, Tensor], prefix: str, arch: str) -> dict[str, Tensor]:
    """One encoder of a checkpoint, named as by `encoder_tensors`."""
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return file_names(own, arch)


def _published(found: Published) -> Weights:
    """A network with published weights, without a projection head."""
    encoder = Encoder(found.plan)
    encoder.head = NoHead()
    tensors, beside = found.tensors_for(encoder.backbone)
    load_encoder_tensors(encoder, tensors)
    return Weights(encoder, found.mean, found.std, found.origin, notes=_notes(found.where, beside))


def _notes(where: str, beside: Sequence[str]) -> tuple[str, ...]:
    """Describe what is not used."""
    return (
        (f"{where}: {len(beside)} tensors beside the backbone are not used ({first_names(beside)})",) if beside else ()
    )


def _foreign_weights(found: Found, about: Description, chosen: str | None, where: str) -> Weights:
    """An encoder of the architecture that its tensors show."""
    arch, base = infer(found.backbone, where)
    stem = cast(Stem, chosen) if chosen is not None else found.stem or base
    if STEMS[stem].kernel != STEMS[base].kernel:
        raise BadInputError(f"--weights stem={stem}@{where}: its first convolution is of the stem {base}: give that")
    if chosen is None:
        require_torchvisions(about.form or found.form, found.backbone, stem, where)
    kind, feature_dim, hidden_dim = _head(found.head) or ("linear", EncoderPlan.feature_dim, None)
    plan = EncoderPlan(arch, stem, kind, feature_dim, hidden_dim, about.image_size or IMAGE_SIZES[STEMS[stem].kernel])
    with torch.device("meta"):
        encoder = Encoder(plan)
        if not _head(found.head):
            encoder.head = NoHead()
    tensors, beside = _checked(encoder, found, where)
    named = {name if name.startswith("head.") else f"backbone.{name}": value for name, value in tensors.items()}
    encoder.load_state_dict(named, assign=True)
    momentum = None if found.momentum is None else _checked(encoder, found.momentum, where)[0]
    queue = None if found.queue is None or len(found.queue) != feature_dim else found.queue.float().T.contiguous()
    pointer = 0 if queue is None or not len(queue) else found.pointer % len(queue)
    unsaid = (about.arch, about.project, about.pooled) == (None, None, None) and found.project.startswith(UNSAID)
    notes = (*found.notes, *(note_plain(arch, base, where) if unsaid else ())) if chosen is None else ()
    if found.project not in COMPLETE:
        notes += _notes(where, (*beside, *found.beside))
    mean, std = about.mean or IMAGENET_MEAN, about.std or IMAGENET_STD
    if about.mean is None and found.colours is not None:
        name, mean, std = found.colours
        notes += (f"{where}: images are normalised by the mean and deviation in the network ({name})",)
    return Weights(
        encoder, mean, std, found.project, momentum, queue, pointer, white_level=about.white_level, notes=notes
    )


def _checked(encoder: Encoder, found: Found, where: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of one encoder in the file, named as by `encoder_tensors`, all of them, and what is left aside."""
    backbone, beside = complete_tensors(found.backbone, encoder.plan.arch, encoder.plan.stem, where)
    if isinstance(encoder.head, NoHead):
        return backbone, [*beside, *(f"fc.{name}" for name in found.head)]
    head = {f"head.{name}": value.float().contiguous() for name, value in found.head.items()}
    require_same_shapes(encoder_tensors(encoder), {**backbone, **head}, f"{where}: {found.project}'s encoder")
    return {**backbone, **head}, beside


def _head(tensors: Mapping[str, Tensor]) -> tuple[Head, int, int | None] | None:
    """Kind, C and hidden width of a projection head as the MoCo papers have it; None for any other and for none."""
    flat = all(value.dim() == 2 for name, value in tensors.items() if name.endswith("weight"))
    if flat and tensors.keys() == set(LINEAR_HEAD):
        return "linear", len(tensors["weight"]), None
    if flat and tensors.keys() == set(MLP_HEAD):
        return "mlp", len(tensors["2.weight"]), len(tensors["0.weight"])
    return None
