"""How other projects lay out a checkpoint: which of its tensors are the backbone's, under torchvision's names."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from moco.core.stems import Stem
from moco.errors import BadInputError
from moco.interop.contents import below, choose_encoder, first_names, flatten
from moco.interop.descriptions import Colours, Description, find_colours, find_form

WRAPPER = re.compile(r"(?:(?:module|model|base_model|net|network|state_dict|model_state_dict)\.)*")
"""What says nothing of the project: containers, DataParallel, and modules that hold the model."""
FIRST = re.compile(r"((?:.*\.)?)(?:conv1|0)\.weight")
"""The first convolution, torchvision's or that of a Sequential of its children, and what stands before it."""
DEEP = re.compile(r"((?:.*\.)?)(?:conv1|stem)\.0\.weight")
"""That of the deep stems of ResNet-C and -D, of timm and of mmpretrain."""
STAGE = re.compile(r"(?:layer)?([0-9]{1,3})\.0\.conv1\.weight")
"""The first block of a stage, and the stage's number."""
REFERENCE = re.compile(r"(?:.*\.)?encoder_q\.(?:net\.)?")
"""Where the MoCo authors have f_q, with the projection head as its fc."""
GAPS: dict[int, tuple[Stem, Stem]] = {
    2: ("cifar-linear", "imagenet-linear"),
    3: ("cifar", "imagenet-unpooled"),
    4: ("cifar", "imagenet"),
}
"""Number of the first stage in a Sequential: 3x3 and 7x7 stem. From 2 on stand ReLU and max-pooling, or neither."""
POOLED: dict[tuple[int, bool], Stem] = {
    (3, True): "cifar-pooled", (3, False): "cifar", (7, True): "imagenet", (7, False): "imagenet-unpooled",
}  # fmt: skip
"""Maps the first convolution's kernel, and whether max-pooling follows it, to the stem, where the file says so."""
UNSAID = Description()
TRANSFORMERS: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"embedder\.embedder\.convolution\."), "conv1."),
    (re.compile(r"embedder\.embedder\.normalization\."), "bn1."),
    (re.compile(r"encoder\.stages\.([0-3])\.layers\."), lambda found: f"layer{int(found[1]) + 1}."),
    (re.compile(r"\blayer\.([0-2])\.convolution\."), lambda found: f"conv{int(found[1]) + 1}."),
    (re.compile(r"\blayer\.([0-2])\.normalization\."), lambda found: f"bn{int(found[1]) + 1}."),
    (re.compile(r"\bshortcut\.convolution\."), "downsample.0."),
    (re.compile(r"\bshortcut\.normalization\."), "downsample.1."),
)
"""Names of Hugging Face's ResNets, and torchvision's."""


@dataclass(frozen=True)
class Found:
    """The tensors of one encoder in a file, under torchvision's names; `head` is a projection head, if it is MoCo's."""

    project: str
    backbone: dict[str, Tensor]
    stem: Stem | None = None
    """The first layers, where a convolution of 3x3 or 7x7 begins them."""
    head: dict[str, Tensor] = field(default_factory=dict)
    momentum: "Found | None" = None
    """f_k, where the file has all of it."""
    queue: Tensor | None = None
    """The reference's queue, (C, K)."""
    pointer: int = 0
    """The column of the queue's oldest key."""
    beside: tuple[str, ...] = ()
    """Tensors elsewhere in the file."""
    notes: tuple[str, ...] = ()
    """What was assumed where the file does not say, and how to say otherwise."""
    form: str | None = None
    """How the backbone differs from torchvision's, where what stands beside it tells so."""
    colours: tuple[str, Colours, Colours] | None = None
    """The mean and deviation by which the network normalises images itself, and the mean's name."""


def recognise(content: object, where: str, part: str | None = None, about: Description = UNSAID) -> Found:
    """Find the encoder among a checkpoint's tensors by their names, or below `part` of these.

    `about` is what the file says of itself, such as whose it is. Raises BadInputError where there are no tensors, none
    that look like a ResNet's, or several encoders of equal right.
    """
    tensors = _with_known_names(flatten(content, where))
    prefixes = _trunks(FIRST, tensors)
    wanted = [prefix for prefix in prefixes if part is None or _is_at(prefix, part)]
    if not wanted:
        raise _refusal(part, prefixes, tensors, where)
    prefix, others = choose_encoder(wanted, tensors, where)
    own, stage = _as_torchvision(below(prefix, tensors))
    project = about.project or _project(prefix, stage, tensors, content)
    stem, notes = _stem(project, own, stage, where, about.pooled)
    if others and not REFERENCE.fullmatch(prefix):
        other = f"part={others[0].rstrip('.') or '.'}@{where}"
        notes += (f"{where} holds {1 + len(others)} encoders, {prefix}* is read: {other} is another",)
    beside = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    if not REFERENCE.fullmatch(prefix):
        form, colours = find_form(beside), find_colours(beside)
        return Found(project, own, stem, beside=tuple(beside), notes=notes, form=form, colours=colours)
    backbone, head = _split_head(own)
    found = Found(project, backbone, stem, head, beside=tuple(beside), notes=notes)
    return _with_momentum(found, prefix.replace("encoder_q.", "encoder_k."), tensors)


def _with_known_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of Hugging Face's ResNets torchvision's names."""
    if not any("embedder.embedder.convolution." in name for name in tensors):
        return dict(tensors)
    renamed = {}
    for name, value in tensors.items():
        known = name
        for pattern, new in TRANSFORMERS:
            known = pattern.sub(new, known)
        renamed[known] = value
    return renamed


def _trunks(first: re.Pattern[str], tensors: Mapping[str, Tensor]) -> list[str]:
    """What stands before the names of each ResNet: before its first convolution, and its first stage."""
    starts = [match[1] for name, value in tensors.items() if value.dim() == 4 and (match := first.fullmatch(name))]
    return [prefix for prefix in starts if any(map(STAGE.fullmatch, below(prefix, tensors)))]


def _is_at(prefix: str, part: str) -> bool:
    return prefix.startswith(f"{part.rstrip('.')}.") if part.strip(".") else not prefix


def _refusal(part: str | None, prefixes: Sequence[str], tensors: Mapping[str, Tensor], where: str) -> BadInputError:
    if prefixes:
        names = ", ".join(prefix.rstrip(".") or "." for prefix in prefixes)
        return BadInputError(f"{where}: there is no encoder at part={part}: expected one of {names}")
    if _trunks(DEEP, tensors):
        return BadInputError(
            f"{where}: a ResNet with a deep stem of three convolutions (ResNet-C or -D), which moco does not "
            f"have: give one with torchvision's stem, or add timm's name of the network, as in timm:resnet50d@{where}"
        )
    return BadInputError(
        f"{where}: no ResNet's first convolution is among its {len(tensors)} tensors ({first_names(tensors)}): "
        f"expected a ResNet of MoCo, MoCo v3, lightly, solo-learn, mmselfsup, mmpretrain, VISSL, torchvision or timm; "
        f"for another network of timm give its name too, timm:NAME@{where}"
    )


def _as_torchvision(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int | None]:
    """The tensors under torchvision's names, and the number of the first stage where they are a Sequential's."""
    named = {re.sub(r"^(layer\d\.\d+)\.shortcut\.", r"\1.downsample.", name): v for name, v in tensors.items()}
    numbers = sorted(int(match[1]) for name in tensors if (match := STAGE.fullmatch(name)) and name[0].isdigit())
    if "0.weight" not in tensors or not numbers:
        return named, None
    children = {0: "conv1", 1: "bn1"} | {number: f"layer{at}" for at, number in enumerate(numbers, 1)}
    later = sorted({int(name.split(".")[0]) for name in tensors if re.match(r"\d{1,4}\.", name)} - children.keys())
    children |= dict.fromkeys(later[:1], "fc")
    split = [(*name.partition("."), value) for name, value in tensors.items()]
    named = {f"{children.get(_number(first), first)}.{rest}": value for first, _, rest, value in split}
    return {name.replace(".shortcut.", ".downsample."): value for name, value in named.items()}, numbers[0]


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"0|[1-9]\d{0,3}", text) else -1


def _split_head(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The backbone without fc, and fc."""
    return {name: value for name, value in tensors.items() if not name.startswith("fc.")}, below("fc.", tensors)


def _with_momentum(found: Found, key: str, tensors: Mapping[str, Tensor]) -> Found:
    """Add f_k and the queue if the file has them."""
    backbone, head = _split_head(_as_torchvision(below(key, tensors))[0])
    same = backbone.keys() == found.backbone.keys() and head.keys() == found.head.keys()
    above = key[: key.index("encoder_k.")]
    queue, pointer = tensors.get(f"{above}queue"), tensors.get(f"{above}queue_ptr")
    number = float(pointer) if pointer is not None and pointer.numel() == 1 else 0.0
    kept = queue if queue is not None and queue.dim() == 2 and bool(queue.isfinite().all()) else None
    at = int(number) if math.isfinite(number) else 0
    momentum = Found(found.project, backbone, head=head) if same else None
    return dataclasses.replace(found, momentum=momentum, queue=kept, pointer=at)


def _project(prefix: str, stage: int | None, tensors: Mapping[str, Tensor], content: object) -> str:
    """Whose file it is."""
    known = {
        r"encoder_q\.0\.": "mmselfsup", r"encoder_q\.net\.": "MoCo's notebook", r"encoder_q\.": "MoCo",
        r"base_encoder\.": "MoCo v3", r"_feature_blocks\.": "VISSL", r"f\.": "SimCLR",
    }  # fmt: skip
    meta = content.get("meta") if isinstance(content, dict) else None
    if isinstance(meta, dict) and any(str(name).startswith("mm") for name in dict.keys(meta)):
        return "mmselfsup or mmpretrain"
    for pattern, project in known.items():
        if re.search(rf"(?:^|\.){pattern}$", prefix):
            return project
    inner = WRAPPER.sub("", prefix, count=1) if WRAPPER.match(prefix) else prefix
    above = prefix.removesuffix(inner)
    if inner in ("backbone.", "encoder.") and f"{above}classifier.weight" in tensors and _is_lightnings(content):
        return "solo-learn"
    if stage is not None and inner in ("", "backbone."):
        return "lightly"
    return f"a module with {inner}*" if inner else "torchvision"


def _is_lightnings(content: object) -> bool:
    """Whether Lightning wrote it for a module that keeps no hyper-parameters, as solo-learn's do not."""
    return isinstance(content, dict) and "pytorch-lightning_version" in content and not content.get("hyper_parameters")


def _stem(
    project: str, tensors: Mapping[str, Tensor], stage: int | None, where: str, pooled: bool | None
) -> tuple[Stem | None, tuple[str, ...]]:
    """The first layers, and what was assumed of them."""
    kernel = tensors["conv1.weight"].shape[2]
    small = kernel == 3
    if kernel not in (3, 7):
        return None, ()
    if stage is not None and stage not in GAPS:
        raise BadInputError(
            f"{where}: in its Sequential the first stage has number {stage}: expected {', '.join(map(str, GAPS))}"
        )
    if stage is None and pooled is not None:
        return POOLED[kernel, pooled], ()
    stem: Stem = GAPS[stage or 4][0 if small else 1]
    why = "the file says neither how the 3x3 convolution pads nor whether max-pooling follows"
    if small and project == "solo-learn":
        stem, why = "cifar-padded", "solo-learn's 3x3 convolution pads by 2"
    elif stage == 2:
        why = "no ReLU stands between the first normalisation and the first stage, as in lightly's ResNetGenerator"
    elif stage == 3:
        why = "no max-pooling stands before the first stage"
    elif not small or project == "MoCo's notebook":
        return stem, ()
    return stem, (f"first layers read as {stem} ({why}): stem=NAME@{where} reads others",)
