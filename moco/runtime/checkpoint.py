"""Tensors in safetensors files that are whole or refused: written aside, then renamed; read against their digest."""

import hashlib
import json
import warnings
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from moco.errors import BadInputError
from moco.runtime.files import replace_file

Metadata = dict[str, Any]
Newest = tuple[Path, dict[str, Tensor], Metadata, list[str]]
"""A checkpoint's path, tensors and metadata, and what was wrong with each newer one."""
KEPT = 2
"""Checkpoints that a run keeps."""


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
    """Copies on the CPU, which later steps do not change."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Metadata) -> None:
    """Write tensors and metadata (JSON) so that `path` is at every moment the old file or the new one."""
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({**metadata, "sha256": digest(own, metadata)}, sort_keys=True)
    replace_file(path, save(own, {"moco": text}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Metadata]:
    """Read what `save_tensors` wrote. Raises BadInputError where the file is not that, or not whole."""
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("moco")
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    except (SafetensorError, OSError) as error:
        raise BadInputError(f"{path}: not a sound safetensors file ({error})") from error
    if text is None:
        raise BadInputError(f"{path}: a safetensors file, but not one of moco's (no moco metadata)")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: damaged, its metadata is not JSON ({error})") from error
    if not isinstance(metadata, dict) or metadata.pop("sha256", None) != digest(tensors, metadata):
        raise BadInputError(f"{path}: damaged, its digest does not fit its contents")
    return tensors, metadata


def digest(tensors: Mapping[str, Tensor], metadata: Metadata) -> str:
    """SHA-256 over metadata, and over the names, types, shapes and bytes of tensors, in the order of their names."""
    sha = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        sha.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def checkpoint_path(run: Path, step: int) -> Path:
    """Where a run keeps its checkpoint of `step`."""
    return run / "checkpoints" / f"{step:09d}.safetensors"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, newest first; unfinished ones are not among them."""
    return sorted((run / "checkpoints").glob("[0-9]*.safetensors"), reverse=True)


def newest_checkpoint(run: Path) -> Newest | None:
    """The newest sound checkpoint of a run, and what was wrong with each newer one; None where there is none at all.

    Raises BadInputError where there are some and all are damaged: to start over is not for the machine to decide.
    """
    refused: list[str] = []
    for path in checkpoints(run):
        try:
            return path, *load_tensors(path), refused
        except BadInputError as error:
            refused.append(str(error))
    if refused:
        raise BadInputError(
            f"{run}: none of its {len(refused)} checkpoints is sound (the newest: {refused[0]}): "
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
