"""How other projects lay out a checkpoint: which of its tensors are the backbone's, under torchvision's names."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

import torch
from torch import Tensor, nn

from moco.errors import BadInputError


@dataclass(frozen=True)
class Layout:
    """How a project names an encoder's tensors: f_q's prefix, and f_k's where `fc` is MoCo's projection head."""

    project: str
    query: str
    key: str | None = None


LAYOUTS = (
    Layout("lightly", "backbone."),
    Layout("mmselfsup", "encoder_q.0."),
    Layout("MoCo's notebook", "encoder_q.net.", "encoder_k.net."),
    Layout("MoCo", "encoder_q.", "encoder_k."),
    Layout("MoCo v3", "base_encoder."),
    Layout("VISSL", "_feature_blocks."),
    Layout("solo-learn", "encoder."),
    Layout("torchvision", ""),
)
"""In the order in which they are tried: the first whose prefix stands before a first convolution."""
FIRST_CONVOLUTIONS = ("conv1.weight", "0.weight", "conv1.0.weight", "stem.0.weight")
"""torchvision's, that of a Sequential of its children, and those of the deep stems of ResNet-C and -D."""
WRAPPERS = ("module.", "_orig_mod.", "model.", "base_model.")
"""Put before every name by DataParallel, torch.compile and modules that hold the model."""
CONTAINERS = ("state_dict", "model_state_dict", "model")
CHILDREN = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")
"""torchvision's children that have parameters, in their order: so many numbers a Sequential of them has."""
NUMBER = re.compile("0|[1-9][0-9]{0,3}")
CLASSIFIERS = ("fc.", "linear.")
"""What may follow the backbone in its own module, and is not part of it."""


@dataclass(frozen=True)
class Found:
    """The tensors of one encoder in a file, under torchvision's names; `head` is a projection head, if it is MoCo's."""

    project: str
    backbone: dict[str, Tensor]
    head: dict[str, Tensor] = field(default_factory=dict)
    momentum: "Found | None" = None
    """f_k, where the file has all of it."""
    queue: Tensor | None = None
    """The reference's queue, (C, K)."""
    pointer: int = 0
    """The column of the queue's oldest key."""
    stem_padding: int = 1
    """Padding of a 3x3 stem."""


def recognise(content: object, where: str) -> Found:
    """Find the encoder among a checkpoint's tensors by their names.

    Raises BadInputError where there are no tensors, or none that look like a ResNet's.
    """
    tensors = named_tensors(content, where)
    for layout in LAYOUTS:
        if any(layout.query + name in tensors for name in FIRST_CONVOLUTIONS):
            break
    else:
        raise BadInputError(
            f"{where}: no ResNet's first convolution is among its {len(tensors)} tensors ({_first(tensors)}): expected "
            f"a ResNet of MoCo, MoCo v3, lightly, solo-learn, mmselfsup, mmpretrain, VISSL, torchvision or timm; for "
            f"another network of timm give its name too, timm:NAME@{where}"
        )
    if any(layout.query + name in tensors for name in FIRST_CONVOLUTIONS[2:]):
        raise BadInputError(
            f"{where}: a ResNet with a deep stem of three convolutions (ResNet-C or -D), none of ours: give one "
            f"with torchvision's stem, or timm's name of the network too, such as timm:resnet50d@{where}"
        )
    project = _project(layout, tensors, content)
    found = _encoder(project, layout.query, tensors)
    if layout.key is None:
        return Found(project, found.backbone, stem_padding=2 if project == "solo-learn" else 1)
    momentum = _encoder(project, layout.key, tensors)
    same = momentum.backbone.keys() == found.backbone.keys() and momentum.head.keys() == found.head.keys()
    queue, pointer = tensors.get("queue"), tensors.get("queue_ptr")
    return Found(
        project,
        found.backbone,
        found.head,
        momentum if same else None,
        queue if queue is not None and queue.dim() == 2 else None,
        int(pointer) if pointer is not None and pointer.numel() == 1 else 0,
    )


def named_tensors(content: object, where: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint's model, without what stands before every name.

    Raises BadInputError where there are none.
    """
    return _unwrapped(_tensors(content, where))


def _tensors(content: object, where: str) -> dict[str, Tensor]:
    """The tensors of the checkpoint's model, by name."""
    node = _down(content, "classy_state_dict", "base_model", "model", "trunk")  # VISSL's
    for name in CONTAINERS:
        if node is None and isinstance(inner := _down(content, name), dict):
            node = inner
    if node is None:
        node = content
    items = dict.items(node) if isinstance(node, dict) else ()
    tensors = {name: value.detach() for name, value in items if isinstance(name, str) and _is_plain(value)}
    if not tensors:
        raise BadInputError(f"{where}: holds no tensors by name, expected a checkpoint with a state_dict")
    return tensors


def _is_plain(value: object) -> TypeGuard[Tensor]:
    """Whether it is a tensor of real numbers, each of them in the file."""
    if type(value) not in (Tensor, nn.Parameter) or not isinstance(value, Tensor):
        return False
    if value.layout is not torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
        return False
    return value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def _down(node: object, *names: str) -> object:
    for name in names:
        node = dict.get(node, name) if isinstance(node, dict) else None
    return node


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without what stands before every name."""
    for _ in range(len(WRAPPERS)):
        for wrapper in WRAPPERS:
            if all(name.startswith(wrapper) for name in tensors):
                tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return tensors


def _project(layout: Layout, tensors: Mapping[str, Tensor], content: object) -> str:
    """Whose file it is, where several projects use the same prefix."""
    numbered = f"{layout.query}0.weight" in tensors
    if layout.query == "" and numbered:
        return "lightly"
    if layout.query not in ("backbone.", "encoder."):
        return layout.project
    meta = _down(content, "meta")
    if isinstance(meta, dict) and any(str(name).startswith("mm") for name in dict.keys(meta)):
        return "mmselfsup or mmpretrain"
    beside = {name.split(".")[0] for name in tensors}
    if "classifier" in beside and beside & {"projector", "momentum_backbone", "momentum_encoder"}:
        return "solo-learn"
    return layout.project if numbered else f"a module with {layout.query}*"


def _encoder(project: str, prefix: str, tensors: Mapping[str, Tensor]) -> Found:
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    named = {name.replace(".shortcut.", ".downsample."): value for name, value in _numbers_to_names(own).items()}
    backbone = {name: value for name, value in named.items() if not name.startswith(CLASSIFIERS)}
    head = {name.removeprefix("fc."): value for name, value in named.items() if name.startswith("fc.")}
    return Found(project, backbone, head)


def _numbers_to_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of torchvision's children in place of their numbers in a Sequential, where these are all there is."""
    first = {name.split(".")[0] for name in tensors}
    numbers = sorted((part for part in first if NUMBER.fullmatch(part)), key=int)
    if len(numbers) != len(first) or not len(CHILDREN) - 1 <= len(numbers) <= len(CHILDREN):
        return dict(tensors)
    named = dict(zip(numbers, CHILDREN, strict=False))
    split = [(*name.partition("."), value) for name, value in tensors.items()]
    return {f"{named[number]}.{rest}": value for number, _, rest, value in split}


def _first(names: Mapping[str, Tensor], count: int = 3) -> str:
    return ", ".join(list(names)[:count]) + (", ..." if len(names) > count else "")
