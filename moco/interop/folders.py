"""Weights in a folder: which file, in how many pieces, and what other files of the folder say of it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moco.core.networks import TIMM, is_known_name
from moco.data.decoding import WHITEST
from moco.errors import BadInputError
from moco.interop.unpickling import Record, load_foreign
from moco.interop.vits import NETWORKS, name_network
from moco.runtime.checkpoint import Metadata, newest_checkpoint
from moco.runtime.files import require_regular

NAMES = (
    "encoder.safetensors", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)  # fmt: skip
"""Ours, and Hugging Face's: a file, or an index of its pieces."""
OTHERS = (".ckpt", ".pth", ".pt", ".tar", ".bin", ".safetensors")
INDEX = ".index.json"
LARGEST_COLOUR = 1e6
VITS = "transformers' vision transformers"
"""The project of these, whose tensors get timm's names."""
OWN = "moco"
"""Where we leave our own description in files of another form."""
LARGEST_TEXT = 1 << 24
"""Bytes of a description: an index of the pieces of a large model has some hundred kilobytes."""
IGNORED_OPTIONS = frozenset({"img_size", "dynamic_img_size", "global_pool", "num_classes", "in_chans", "pretrained"})
"""Options of timm's networks that our own building settles."""
DOWNLOAD = re.compile(r"(resnet(?:aa|blur)\d+[a-z]*)[-_.]")
"""The beginning of the file names of timm's anti-aliased ResNets, whose tensors are those of plain ones."""


@dataclass(frozen=True)
class Description:
    """What the files beside weights say of them; None: nothing."""

    arch: str | None = None
    """timm's name of the network."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    image_size: int | None = None
    project: str | None = None
    pooling: str | None = None
    """How timm's network pools its features."""
    white_level: int | None = None
    """The value of 16-bit files that was white to it."""
    by_name: bool = False
    """Whether the file's name alone says which network it is."""


def find_file(folder: Path) -> Path:
    """Find the weights of a folder: our encoder's file, Hugging Face's, a run's newest valid checkpoint, a lone file.

    Raises BadInputError where there are none, or several of which none has a known name.
    """
    named = next((folder / name for name in NAMES if (folder / name).exists()), None)
    if named is not None:
        require_regular(named)
    newest = None if named is not None else newest_checkpoint(folder)
    if named is not None or newest is not None:
        return named or newest.path  # type: ignore[union-attr]
    alone = sorted(path for path in folder.iterdir() if path.suffix in OTHERS and path.is_file())
    if len(alone) == 1:
        return alone[0]
    found = f", and with {len(alone)} other files of weights: give one of them" if alone else ""
    raise BadInputError(
        f"--weights {folder}: a folder without encoder.safetensors and without a valid checkpoint{found}"
    )


def load_pieces(path: Path) -> object | None:
    """Read a file of weights, or all pieces that an index names; None for a file of ours or a damaged one."""
    require_regular(path)
    if not path.name.endswith(INDEX):
        return load_foreign(path)
    tensors: dict[str, Any] = {}
    for name in read_pieces(path):
        if not (path.parent / name).is_file():
            raise BadInputError(f"{path}: its piece {name} is missing: get it again")
        piece = load_foreign(path.parent / name)
        if not isinstance(piece, dict):
            raise BadInputError(f"{path.parent / name}: not a valid part of {path.name}")
        tensors |= piece
    return tensors


def read_pieces(path: Path) -> list[str]:
    """Read which files beside an index hold the weights. Raises BadInputError where it names none, or any elsewhere."""
    places = _read(path).get("weight_map")
    if not isinstance(places, dict) or not places or not all(_is_name(name) for name in places.values()):
        raise BadInputError(f"{path}: no index of weights: expected a weight_map of tensors' names to files beside it")
    return sorted(set(places.values()))


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def exported_metadata(content: object) -> Metadata | None:
    """Read what `moco export` wrote into its own state dict, beside the versions of its modules; None for others."""
    versions = getattr(content, "_metadata", None)
    root = versions.get("") if isinstance(versions, dict) else None
    own = root.get(OWN) if isinstance(root, dict) else None
    return own if isinstance(own, dict) else None


def read_description(path: Path, content: object) -> Description:
    """Read what a file of weights says of itself, and the files beside it.

    These are timm's and Hugging Face's config.json, and solo-learn's args.json. Raises BadInputError where a network of
    another form is described than its tensors can show.
    """
    if path.suffix == ".ckpt" and (path.parent / "args.json").is_file():
        args = _read(path.parent / "args.json")
        return Description(project="solo-learn") if "backbone" in args or "encoder" in args else Description()
    config = _read(path.parent / "config.json") if path.name in NAMES else {}
    if OWN in config:
        return Description()
    if config.get("model_type") == "resnet":
        return _of_transformers(config, path.parent)
    if config.get("model_type") in tuple(NETWORKS):
        mean, std, _ = _images_of_transformers(path.parent)
        name = name_network(config, str(path.parent / "config.json"))
        return Description(name, mean, std, _side(config.get("image_size")), project=VITS)
    inner = config.get("pretrained_cfg")
    arch = config.get("architecture")
    if not isinstance(arch, str):
        return _of_content(content, path)
    given = config.get("model_args")
    options = given if isinstance(given, dict) else {}
    unknown = sorted(set(options) - IGNORED_OPTIONS)
    if unknown:
        raise BadInputError(
            f"{path.parent / 'config.json'}: a {arch} with options ({', '.join(map(str, unknown))}) that a network's "
            f"name cannot express: export it from timm as an ONNX file, or train --arch {TIMM}{arch}"
        )
    images = inner if isinstance(inner, dict) else config
    size = images.get("input_size")
    pool = options.get("global_pool", config.get("global_pool"))
    return Description(
        arch.partition(".")[0], _colours(images.get("mean"), path), _colours(images.get("std"), path, 0.0),
        _side(size[-1] if isinstance(size, list) and size else None),
        pooling=pool if isinstance(pool, str) else None,
    )  # fmt: skip


def _of_content(content: object, path: Path) -> Description:
    """The `arch` that a training script keeps beside the tensors or in its arguments, where it is a known one."""
    own = content if isinstance(content, dict) else {}
    kept = own.get("args", own.get("opt"))
    args = kept.values if isinstance(kept, Record) else kept if isinstance(kept, dict) else {}
    arch = next(
        (name for name in (own.get("arch"), args.get("model"), args.get("arch")) if isinstance(name, str)), None
    )
    images = own.get(OWN)
    if isinstance(images, dict):  # the reference's layout, as we write it
        plan = images.get("encoder")
        size = _side(plan.get("image_size")) if isinstance(plan, dict) else None
        level = images.get("white_level")
        return Description(
            mean=_colours(images.get("mean"), path), std=_colours(images.get("std"), path, 0.0), image_size=size,
            white_level=level if type(level) is int and 0 < level <= WHITEST else None,
        )  # fmt: skip
    called = DOWNLOAD.match(path.name)
    if arch is None and called is not None and is_known_name(called[1]):
        return Description(called[1], by_name=True)
    return Description(arch if arch is not None and is_known_name(arch) else None)


def _of_transformers(config: dict[str, Any], folder: Path) -> Description:
    """A ResNet of Hugging Face's, whose preprocessor_config.json has mean and deviation."""
    for name, expected in (
        ("hidden_act", "relu"),
        ("downsample_in_first_stage", False),
        ("downsample_in_bottleneck", False),
    ):
        if config.get(name, expected) != expected:
            raise BadInputError(f"{folder / 'config.json'}: {name} is {config[name]!r}: expected {expected!r}")
    mean, std, side = _images_of_transformers(folder)
    return Description(mean=mean, std=std, image_size=side, project="transformers")


def _images_of_transformers(folder: Path) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, int | None]:
    """Mean, deviation and size of images, as far as a preprocessor_config.json says them."""
    images = _read(folder / "preprocessor_config.json")
    size = images.get("size")
    side = (
        next((size[key] for key in ("shortest_edge", "height") if key in size), None)
        if isinstance(size, dict)
        else size
    )
    mean, std = _colours(images.get("image_mean"), folder), _colours(images.get("image_std"), folder, 0.0)
    return mean, std, _side(side)


def _side(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 14 else None


def _colours(values: object, path: Path, above: float = -LARGEST_COLOUR) -> tuple[float, ...] | None:
    """Three finite numbers; None where there are none."""
    if values is None:
        return None
    numbers = values if isinstance(values, list) else []
    if len(numbers) != 3 or not all(
        type(value) in (int, float) and above < value < LARGEST_COLOUR for value in numbers
    ):
        raise BadInputError(
            f"{path}: its description gives {str(values)[:60]} as mean or std: expected three finite numbers, std "
            f"above 0"
        )
    return tuple(float(value) for value in numbers)


def _read(path: Path) -> dict[str, Any]:
    """An object of JSON; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(LARGEST_TEXT))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInputError(
            f"{path}: not JSON ({str(error)[:80]}): get it again, or give the file of weights elsewhere"
        ) from error
    return found if isinstance(found, dict) else {}
