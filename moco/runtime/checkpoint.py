"""Tensors in safetensors files that are whole or refused, and the places where the state of a training lies.

A file is written aside, then renamed, and is read against its digest.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from moco.errors import BadInputError
from moco.runtime.files import replace_file, require_regular

Metadata = dict[str, Any]
KEPT = 2
"""Checkpoints that a run keeps."""


class File(NamedTuple):
    """What is to be written, and where."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Metadata


class Newest(NamedTuple):
    """The newest valid state of a training."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: Metadata
    refused: list[str]
    """What was wrong with each newer one."""


@runtime_checkable
class Store(Protocol):
    """Where the state of a training lies."""

    def newest(self) -> Newest | None:
        """Return the newest valid state; None where there is none to go on from."""

    def path(self, step: int) -> Path:
        """Return the file for the state after `step` steps."""

    def keep(self, path: Path) -> None:
        """Take notice of a state that is written now: an older one may go."""


@dataclass
class Checkpoints:
    """The checkpoints of a run folder, of which the last two that were read or written stay."""

    run: Path
    _sound: list[Path] = field(default_factory=list)
    """Oldest first."""

    def newest(self) -> Newest | None:
        """Return the newest valid one. Raises BadInputError where there are some and all are damaged."""
        found = newest_checkpoint(self.run)
        self._sound = [] if found is None else [found.path]
        return found

    def path(self, step: int) -> Path:
        """Return the checkpoint of `step`."""
        return checkpoint_path(self.run, step)

    def keep(self, path: Path) -> None:
        """Remove all but this one and the sound one before it."""
        self._sound = [*self._sound, path][-KEPT:]
        remove_old_checkpoints(self.run, self._sound)


@dataclass(frozen=True)
class StateFile:
    """One file that is replaced by each later state; what does not fit is not gone on from, with a warning."""

    file: Path
    about: Metadata
    """What the training depends on."""

    def newest(self) -> Newest | None:
        """Return its state, where it is sound and of this training."""
        if not self.file.is_file():
            return None
        try:
            tensors, metadata = load_tensors(self.file)
        except BadInputError as error:
            warnings.warn(f"{error}: starting over", stacklevel=2)
            return None
        if metadata.get("about") != self.about:
            other = "holds a training with other settings, weights or images: starting over"
            warnings.warn(f"{self.file} {other}", stacklevel=2)
            return None
        return Newest(self.file, tensors, metadata, [])

    def path(self, step: int) -> Path:
        """Return the file, whatever the step."""
        return self.file

    def keep(self, path: Path) -> None:
        """Do nothing: the next state overwrites this one."""


class Writer:
    """Writes beside the training, one thing at a time; what fails is raised when the next is given, or by `check`."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None

    def submit(self, write: Callable[[], None]) -> None:
        """Begin `write` when the one before it has ended. It must hold what later steps cannot change."""
        self.wait()
        self._pending = self._thread.submit(write)

    def check(self) -> None:
        """Raise what the last write raised, if it has ended."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until all is written."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to the CPU, where later steps do not change them."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata) -> None:
    """Write tensors and metadata (JSON) so that `path` is at every moment the old file or the new one."""
    replace_file(path, serialize(tensors, metadata))


def serialize(tensors: Mapping[str, Tensor], metadata: Metadata) -> bytes:
    """Write tensors, metadata (JSON) and their digest as the bytes of a safetensors file."""
    own, storages = dict[str, Tensor](), set[int]()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        storage = value.untyped_storage().data_ptr()
        own[name] = value.clone() if storage in storages else value  # the format refuses memory that tensors share
        storages.add(storage)
    text = json.dumps({**metadata, "sha256": digest(own, metadata)}, sort_keys=True)
    return save(own, {"moco": text})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Metadata]:
    """Read what `save_tensors` wrote. Raises BadInputError where the file is not that, or not whole."""
    require_regular(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("moco")
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    except (SafetensorError, OSError) as error:
        raise BadInputError(f"{path}: not a valid safetensors file ({error})") from error
    if text is None:
        raise BadInputError(f"{path}: a safetensors file, but not one of moco's (no moco metadata)")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: damaged, its metadata is not JSON ({error})") from error
    if not isinstance(metadata, dict) or metadata.pop("sha256", None) != digest(tensors, metadata):
        raise BadInputError(f"{path}: damaged, its digest does not fit its contents")
    return tensors, metadata


def peek_metadata(path: Path) -> Metadata:
    """Read what a file says of its tensors without reading these, so that a damaged one is not noticed.

    It is empty where the file is not moco's, or cannot be read.
    """
    try:
        require_regular(path)
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {}).get("moco", "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError):  # also BadInputError
        return {}
    return found if isinstance(found, dict) else {}


def digest(tensors: Mapping[str, Tensor], metadata: Metadata) -> str:
    """Compute the SHA-256 of metadata and of tensors (name, type, shape, bytes) in the order of their names."""
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def checkpoint_path(run: Path, step: int) -> Path:
    """Return where a run keeps its checkpoint of `step`."""
    return run / "checkpoints" / f"{step:09d}.safetensors"


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first, without half-written ones."""
    return sorted((run / "checkpoints").glob("[0-9]*.safetensors"), reverse=True)


def newest_checkpoint(run: Path) -> Newest | None:
    """Find the newest valid checkpoint of a run, and what was wrong with each newer one; None if there is none.

    Raises BadInputError where there are some and all are damaged: to start over is not for the machine to decide.
    """
    refused: list[str] = []
    for path in checkpoints(run):
        try:
            return Newest(path, *load_tensors(path), refused)
        except BadInputError as error:
            refused.append(str(error))
    if refused:
        raise BadInputError(
            f"{run}: none of its {len(refused)} checkpoints is valid (the newest: {refused[0]}): "
            f"remove the folder {run / 'checkpoints'} to start over"
        )
    return None


def remove_old_checkpoints(run: Path, keep: Collection[Path]) -> None:
    """Remove all but `keep`, which are known to be sound, and half-written ones.

    What cannot be removed stays, with a warning: it harms nobody.
    """
    half_written = set((run / "checkpoints").glob("*.part"))
    for path in sorted((set(checkpoints(run)) | half_written) - set(keep)):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            warnings.warn(f"{path}: an old checkpoint that cannot be removed ({error.strerror})", stacklevel=2)
