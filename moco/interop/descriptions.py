"""What a checkpoint says of itself: the settings that its training script kept beside the tensors."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from moco.core.networks import TIMM, is_known_name
from moco.data.decoding import WHITEST
from moco.errors import BadInputError
from moco.interop.unpickling import Record

Colours = tuple[float, ...]

OWN = "moco"
"""Where we leave our own description in files of another form."""
LARGEST_COLOUR = 1e6
SETTINGS = ("args", "opt", "hyper_parameters")
"""Where training scripts keep their arguments, the last by Lightning."""
NETWORK = (
    "model", "arch", "model_name", "architecture", "backbone", "backbone_name", "encoder", "encoder_name",
    "base_encoder", "network",
)  # fmt: skip
"""What they call their network."""
LONGEST = 100
"""Characters of a network's name."""
TIMMS = {"gp", "bn_eps"}
"""Among the arguments of timm's train.py."""
IGNORED_OPTIONS = frozenset({
    "img_size", "dynamic_img_size", "global_pool", "num_classes", "in_chans", "pretrained", "drop_rate",
    "drop_path_rate", "drop_block_rate", "proj_drop_rate", "attn_drop_rate", "patch_drop_rate",
})  # fmt: skip
"""Options of timm's networks that our own building settles, and those that act in training only."""
DOWNLOAD = re.compile(r"(resnet(?:aa|blur)\d+[a-z]*)[-_.]")
"""The beginning of the file names of timm's anti-aliased ResNets, whose tensors are those of plain ones."""
DILATED = "its backbone is dilated in place of strides"
CAFFE = "its backbone is in Caffe's style, with the strides in other convolutions"
FORMS = (
    (re.compile(r"""\bdilations["']?\s*[=:]\s*[(\[][\s\d,]*[2-9]"""), DILATED),
    (re.compile(r"""\bstyle["']?\s*[=:]\s*["']caffe"""), CAFFE),
)
"""In the configuration that mm's libraries keep as text: forms of a ResNet that no tensor shows."""
LARGEST_TEXT = 1 << 20
SEGMENTER = re.compile(r"(?:^|\.)(?:classifier|aux_classifier|aspp|fpa|decode_head|auxiliary_head)\.")
"""Heads of torchvision's, segmentation_models' and mmsegmentation's networks with dilated backbones."""
NORMALISER = re.compile(r"(.*\.)?(?:((?:new_|image_|norm_)?)mean|mu)")
"""A mean inside of a network; its deviation is called `std`, or `sigma` beside `mu`."""


@dataclass(frozen=True)
class Description:
    """What weights, or the files beside them, say of their network and its images; None: nothing."""

    arch: str | None = None
    """timm's name of the network."""
    mean: Colours | None = None
    std: Colours | None = None
    image_size: int | None = None
    project: str | None = None
    pooling: str | None = None
    """How timm's network pools its features."""
    white_level: int | None = None
    """The value of 16-bit files that was white to it."""
    by_name: bool = False
    """Whether the file's name alone says which network it is."""
    pooled: bool | None = None
    """Whether max-pooling follows a ResNet's first convolution."""
    form: str | None = None
    """How a ResNet differs from torchvision's where no tensor shows it."""


def describe_content(content: object, path: Path) -> Description:
    """Read what a checkpoint keeps beside its tensors. Raises BadInputError where a name cannot express its network."""
    own: Mapping[str, Any] = content if isinstance(content, dict) else {}
    images = own.get(OWN)
    if isinstance(images, dict):  # the reference's layout, as we write it
        plan = images.get("encoder")
        size = read_side(plan.get("image_size")) if isinstance(plan, dict) else None
        level = images.get("white_level")
        return Description(
            mean=read_colours(images.get("mean"), path), std=read_colours(images.get("std"), path, 0.0),
            image_size=size, white_level=level if type(level) is int and 0 < level <= WHITEST else None,
        )  # fmt: skip
    settings = _settings(own)
    names = [name for name in (own.get("arch"), *map(settings.get, NETWORK)) if isinstance(name, str) and name]
    known = (name.partition(".")[0] for name in names if len(name) < LONGEST)  # without timm's tag
    arch = next((name for name in known if is_known_name(name)), None)
    called = DOWNLOAD.match(path.name)
    by_name = not names and called is not None and is_known_name(called[1])
    arch = called[1] if by_name and called is not None else arch
    pooled = settings.get("maxpool1")
    form = DILATED if settings.get("dilation") is True else _form(own.get("meta"))
    images = _images_of_timm(settings, arch, path) if settings.keys() >= TIMMS else {}
    return Description(
        arch, by_name=by_name, pooled=pooled if isinstance(pooled, bool) else None, form=form, **images
    )  # fmt: skip


def _settings(own: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of all kinds, those of argparse too."""
    settings = dict[str, Any]()
    for name in SETTINGS:
        kept = own.get(name)
        settings |= kept.values if isinstance(kept, Record) else kept if isinstance(kept, dict) else {}
    return settings


def _images_of_timm(settings: Mapping[str, Any], arch: str | None, path: Path) -> dict[str, Any]:
    """What timm's arguments say of images and of their features' pooling."""
    options = settings.get("model_kwargs")
    changed = ["bn_eps"] if settings["bn_eps"] is not None else []
    require_plain([*(options if isinstance(options, dict) else ()), *changed], arch, path)
    sizes, pooling = settings.get("input_size"), settings["gp"]
    side = sizes[-1] if isinstance(sizes, list | tuple) and sizes else settings.get("img_size")
    return {
        "mean": read_colours(settings.get("mean"), path), "std": read_colours(settings.get("std"), path, 0.0),
        "image_size": read_side(side), "pooling": pooling if isinstance(pooling, str) else None,
    }  # fmt: skip


def require_plain(options: list[Any], arch: str | None, where: Path) -> None:
    """Raise BadInputError where timm's network has options that change its features, and that no name tells."""
    unknown = sorted({str(name) for name in options} - IGNORED_OPTIONS)
    if unknown:
        raise BadInputError(
            f"{where}: a {arch} with options ({', '.join(unknown)[:100]}) that a network's name cannot express: export "
            f"it from timm as an ONNX file, or train --arch {TIMM}{arch}"
        )


def _form(meta: object) -> str | None:
    """What the configuration in mm's checkpoints says of the backbone."""
    texts = [meta.get(name) for name in ("cfg", "config")] if isinstance(meta, dict) else []
    text = next((text[:LARGEST_TEXT] for text in texts if isinstance(text, str)), "")
    return next((form for pattern, form in FORMS if pattern.search(text)), None)


def find_form(beside: Mapping[str, Tensor]) -> str | None:
    """Tell by the convolutions of the heads beside it that a ResNet is dilated."""
    return DILATED if any(value.dim() == 4 and SEGMENTER.search(name) for name, value in beside.items()) else None


def require_torchvisions(form: str | None, backbone: Collection[str], stem: str, where: str) -> None:
    """Raise BadInputError where a ResNet's form is not torchvision's; Caffe's strides differ in deep blocks only."""
    if form is not None and (form != CAFFE or "layer1.0.conv3.weight" in backbone):
        raise BadInputError(
            f"{where}: {form}, which no tensor shows and moco does not have: stem={stem}@{where} reads it as "
            f"torchvision's all the same"
        )


def find_colours(tensors: Mapping[str, Tensor]) -> tuple[str, Colours, Colours] | None:
    """Find the mean and deviation by which a network normalises its images itself, and the mean's name."""
    found = dict[tuple[Colours, Colours], str]()
    for name, values in tensors.items():
        match = NORMALISER.fullmatch(name)
        other = (match[1] or "") + ("sigma" if match[2] is None else f"{match[2]}std") if match else ""
        if other in tensors and values.numel() == tensors[other].numel() == 3:
            found.setdefault((_listed(values), _listed(tensors[other])), name)
    if len(found) != 1:
        return None
    (mean, std), name = next(iter(found.items()))
    return (
        (name, mean, std) if all(0 <= value <= 1 for value in mean) and all(0 < value <= 1 for value in std) else None
    )


def _listed(values: Tensor) -> Colours:
    return tuple(float(value) for value in values.flatten())


def read_side(value: object) -> int | None:
    """Return a number of pixels, and None for anything else."""
    return value if type(value) is int and 0 < value < 1 << 14 else None


def read_colours(values: object, path: Path, above: float = -LARGEST_COLOUR) -> Colours | None:
    """Return three finite numbers; None where there are none. Raises BadInputError for anything else."""
    if values is None:
        return None
    numbers = list(values) if isinstance(values, list | tuple) else []
    if len(numbers) != 3 or not all(
        type(value) in (int, float) and above < value < LARGEST_COLOUR for value in numbers
    ):
        raise BadInputError(
            f"{path}: its description gives {str(values)[:60]} as mean or std: expected three finite numbers, std "
            f"above 0"
        )
    return tuple(float(value) for value in numbers)
