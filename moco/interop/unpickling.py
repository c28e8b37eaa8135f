"""Other projects' files: safetensors, and pickles read by torch's restricted unpickler. Nothing in them runs."""

import pickletools
import re
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING  # Python 2's names, which protocol 2 has
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from moco.errors import BadInputError
from moco.interop.signatures import require_weights

FOREIGN = frozenset({
    "addict", "argparse", "classy_vision", "datetime", "easydict", "fvcore", "hydra", "iopath", "lightly", "lightning",
    "lightning_fabric", "lightning_utilities", "mmcls", "mmcv", "mmengine", "mmpretrain", "mmselfsup", "numpy",
    "omegaconf", "pathlib", "pytorch_lightning", "solo", "typing", "vissl", "yacs",
})  # fmt: skip
"""Packages whose classes other projects leave in their checkpoints, beside the tensors."""
TYPES = ("bool", "dict", "float", "frozenset", "int", "list", "object", "slice", "str", "tuple")
HARMLESS = frozenset({"collections.defaultdict", *(f"builtins.{name}" for name in TYPES)})
MAPPINGS = frozenset({"AttributeDict", "CfgNode", "ConfigDict", "Dict", "EasyDict", "defaultdict"})
"""Classes among them that are filled like a dict."""
UNREADABLE = (
    UnpicklingError, RuntimeError, EOFError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    AssertionError, MemoryError, OverflowError, RecursionError, zipfile.BadZipFile,
)  # fmt: skip
"""What torch and pickletools raise for files that are damaged, cut off or made up."""
COSTLY = frozenset({
    "builtins.bytearray", "torch.Tensor", "torch.storage.TypedStorage", "torch.storage.UntypedStorage",
    *(f"{kind.__module__}.{kind.__name__}" for kind in torch._tensor_classes),
})  # fmt: skip
"""Classes that torch's unpickler allows, and that take as much memory as a number in the file says."""
ENCODE = "_codecs.encode"
"""Turns text into bytes for protocol 2; with a codec of GROWING, forty calls make more bytes than any memory has."""
GROWING = frozenset({
    "base64", "base_64", "base64_codec", "bz2", "bz2_codec", "hex", "hex_codec", "quopri", "quopri_codec",
    "quoted_printable", "quotedprintable", "uu", "uu_codec", "zip", "zlib", "zlib_codec",
})  # fmt: skip
"""Codecs from bytes to bytes."""
ZIP = b"PK\x03\x04"
LEGACY_PICKLES = 4
"""torch.save before 1.6 wrote a magic number, a protocol and a system's description before the object."""


class Stub:
    """Stands for any object of a foreign class: takes whatever it is given, and keeps nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class Record(Stub):
    """Stands for an `argparse.Namespace`: keeps what it is given as a plain dict."""

    def __init__(self, *_: object) -> None:
        self.values: dict[str, object] = {}

    def __setstate__(self, state: object) -> None:
        self.values = dict(state) if isinstance(state, dict) else {}


class StubMapping:
    """Stands for a foreign dict: what is made in its place is a plain one."""

    def __new__(cls, *_: object) -> Any:
        """Return an empty dict, which the unpickler may fill."""
        return OrderedDict()


def load_foreign(path: Path) -> object | None:
    """Load another project's file; None for moco's own safetensors files, and for a damaged one.

    Raises BadInputError where it is neither safetensors nor a sound checkpoint of torch.save.
    """
    with path.open("rb") as file:
        safetensors = file.read(9)[8:] == b"{"  # behind the header's length
    if not safetensors:
        require_weights(path)
        return load_pickle(path)
    try:
        with safe_open(path, "pt") as opened:
            if "moco" in (opened.metadata() or {}):
                return None
            return {name: opened.get_tensor(name) for name in list(opened.keys())}
    except (SafetensorError, OSError):
        return None


def load_pickle(path: Path) -> object:
    """Read what torch.save wrote, with stubs for objects of FOREIGN packages; nothing in the file is executed.

    Nothing is written to disk. Raises BadInputError where the file is damaged, or names any other class.
    """
    try:
        names = set(_global_names(path))
        growing = [name for name in names if name.startswith(f"{ENCODE} ")] if ENCODE in names else []
        costly = sorted((names & COSTLY).union(growing))
        if costly:
            raise BadInputError(_refusal(path, costly[0]))
        stubs: list[Any] = [(_stub(name), name) for name in sorted(names) if _is_foreign(name)]
        with path.open("rb") as file, warnings.catch_warnings(), torch.serialization.safe_globals(stubs):
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)  # by content: a path's suffix can mislead
        if content is None:
            raise BadInputError(f"{path}: holds nothing, as torch.save(None) writes it: expected weights by name")
        return content
    except BadInputError:
        raise
    except UNREADABLE as error:
        message = str(error)
        refused = re.search(r"GLOBAL (\S+)", message)
        if refused is not None:
            raise BadInputError(_refusal(path, refused[1])) from error
        reason = " ".join(message.split())[:200] or type(error).__name__
        raise BadInputError(f"{path}: not a valid checkpoint of torch.save ({reason})") from error


def _refusal(path: Path, name: str) -> str:
    return (
        f"{path}: refused: reading it needs {name}, which is not a class allowed in a checkpoint: save only its "
        f"state_dict, with torch.save, where it was made"
    )


def _global_names(path: Path) -> Iterator[str]:
    """The classes and functions that the file names, found without running it."""
    with path.open("rb") as file:
        if file.read(len(ZIP)) != ZIP:
            file.seek(0)
            for _ in range(LEGACY_PICKLES):
                yield from _named_in(file)
            return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("it would unpack to more than its own size, and torch.save does not compress")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                with archive.open(entry) as file:
                    yield from _named_in(file)


def _named_in(file: Any) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL":
            module, _, name = str(argument).partition(" ")
            module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
            yield f"{module}.{name}"
        elif isinstance(argument, str) and argument.lower().replace("-", "_").replace(" ", "_") in GROWING:
            yield f"{ENCODE} to {argument}"


def _is_foreign(name: str) -> bool:
    return name.split(".")[0] in FOREIGN or name in HARMLESS


def _stub(name: str) -> type[Stub] | type[StubMapping]:
    if name == "argparse.Namespace":
        return Record
    return StubMapping if name.split(".")[-1] in MAPPINGS else Stub
