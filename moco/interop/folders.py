"""Weights in a folder: which file, in how many pieces, and what other files of the folder say of it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from moco.errors import BadInputError
from moco.interop.calling import call
from moco.interop.descriptions import (
    DILATED,
    OWN,
    Description,
    describe_content,
    read_colours,
    read_side,
    require_plain,
)
from moco.interop.unpickling import load_foreign
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
VITS = "transformers' vision transformers"
"""The project of these, whose tensors get timm's names."""
LARGEST_TEXT = 1 << 24
"""Bytes of a description: an index of the pieces of a large model has some hundred kilobytes."""


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
    raise BadInputError(f"{call(folder)}: a folder without encoder.safetensors and without a valid checkpoint{found}")


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
        return Description(name, mean, std, read_side(config.get("image_size")), project=VITS)
    inner = config.get("pretrained_cfg")
    arch = config.get("architecture")
    if not isinstance(arch, str):
        found = describe_content(content, path)
        return dataclasses.replace(found, form=DILATED) if config.get("dilation") is True else found
    given = config.get("model_args")
    options = given if isinstance(given, dict) else {}
    require_plain(list(options), arch, path.parent / "config.json")
    images = inner if isinstance(inner, dict) else config
    size = images.get("input_size")
    pool = options.get("global_pool", config.get("global_pool"))
    return Description(
        arch.partition(".")[0], read_colours(images.get("mean"), path), read_colours(images.get("std"), path, 0.0),
        read_side(size[-1] if isinstance(size, list) and size else None),
        pooling=pool if isinstance(pool, str) else None,
    )  # fmt: skip


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
    mean, std = read_colours(images.get("image_mean"), folder), read_colours(images.get("image_std"), folder, 0.0)
    return mean, std, read_side(side)


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
