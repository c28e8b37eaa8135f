"""Files that hold no weights by name, by how they begin: each is refused by what it is."""

import re
import zipfile
from pathlib import Path

from moco.data.kinds import is_readable, sniff
from moco.errors import BadInputError

SOURCE = "give the run, the encoder.safetensors or the checkpoint that it was made from"
CONVERT = "convert it to PyTorch with the library that wrote it, and give its checkpoint or safetensors"
BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself: fetch it, git lfs pull"),
    (b"<!doctype", "a web page, not the file itself: download it again"),
    (b"<html", "a web page, not the file itself: download it again"),
    (b"\x89hdf\r\n", f"an HDF5 file, as Keras and TensorFlow write: {CONVERT}"),
    (b"\x93numpy", "an array of NumPy, not weights by name: give a checkpoint of torch.save or safetensors"),
    (b"gguf", f"a GGUF file: {SOURCE}"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"(lp", f"a pickle of lists, not a checkpoint of torch.save: {SOURCE}"),
)
"""In lower case."""
PROGRAMS = (
    ("model.weights.h5", f"a network of Keras (.keras): {CONVERT}"),
    ("constants.pkl", f"a TorchScript program (torch.jit.save), not weights by name: {SOURCE}"),
    ("serialized_exported_program.json", f"a program of torch.export, not weights by name: {SOURCE}"),
    ("models/model.json", f"a program of torch.export, not weights by name: {SOURCE}"),
    ("[Content_Types].xml", "a document, not weights"),
)
"""Members of zip archives."""
WANTED = "expected a run folder, an encoder.safetensors, a checkpoint, or timm:NAME"
TEXT_PICKLE = re.compile(rb"\(|[}\]]|c[\w.]+\r?\n\w+\r?\n")
"""Matches the beginning of a pickle of protocol 0, which is text too."""
DETECTRON2 = b"matching_heuristics"
SAVED_MODEL = "saved_model.pb"
TF_LITE, TF_INDEX, TF_SAVED = b"TFL3", bytes.fromhex("57fb808b247547db"), b"\x08\x01\x12"
"""Behind the first four bytes, at the end of the file, and at its beginning."""
TF_DATA = re.compile(r"\.data-\d+-of-\d+$")
MSGPACK = re.compile(rb"(?:[\x81-\x8f]|\xde..)(?:[\xa1-\xbf]|\xd9.)[\w/.:-]", re.DOTALL)
"""Matches the beginning of a map in MessagePack whose first name is text."""
NEAR = 4096
"""Bytes at the beginning and at the end that are looked at."""


def require_weights(path: Path) -> None:
    """Raise BadInputError where a file is known to be something other than weights by name."""
    with path.open("rb") as file:
        head = file.read(NEAR)
        file.seek(max(0, path.stat().st_size - NEAR))
        tail = file.read(NEAR)
    what = next((what for start, what in BEGINNINGS if head.lstrip().lower().startswith(start)), None)
    if what is None and head.startswith(b"PK\x03\x04"):
        what = _program(path)
    if what is None:
        what = _other_framework(path, head, tail)
    if what is None and (path.suffix == ".onnx" or _is_onnx(head)):
        what = f"an ONNX network, not weights by name: {SOURCE}"
    if what is None and head.startswith(b"\x80") and DETECTRON2 in head + tail:
        what = f"a .pkl for detectron2, as moco export writes it: {SOURCE}"
    if what is None and is_readable(sniff(head)):
        what = f"an image ({sniff(head)}), not weights: {WANTED}"
    if what is None and not head:
        what = f"empty, not weights: {WANTED}"
    if what is None and _is_text(head) and not TEXT_PICKLE.match(head):
        what = f"a text file, not weights: {WANTED}"
    if what is not None:
        raise BadInputError(f"{path}: {what}")


def require_no_folder_of_tensorflow(folder: Path) -> None:
    """Raise BadInputError for a folder that is a network of TensorFlow or JAX."""
    for name, what in ((SAVED_MODEL, "a SavedModel of TensorFlow"), ("_METADATA", "a checkpoint of JAX (Orbax)")):
        if (folder / name).is_file():
            raise BadInputError(f"{folder}: {what}, not weights by name: {CONVERT}")


def _other_framework(path: Path, head: bytes, tail: bytes) -> str | None:
    """Name a file of TensorFlow or JAX."""
    if head[4:8] == TF_LITE:
        return f"a network of TensorFlow Lite, not weights by name: {SOURCE}"
    if head.startswith(TF_SAVED) or path.suffix == ".pb":
        return f"a network of TensorFlow (.pb): {CONVERT}"
    if tail.endswith(TF_INDEX) or TF_DATA.search(path.name):
        return f"a part of a checkpoint of TensorFlow: {CONVERT}"
    if (MSGPACK.match(head) and head[8:9] != b"{") or path.suffix == ".msgpack":
        return f"weights of Flax (MessagePack): {CONVERT}"
    return None


def _program(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return None  # damaged: torch says how
    if any(name.endswith(".npy") for name in names):
        return "an archive of NumPy (.npz), not weights by name: give a checkpoint of torch.save or safetensors"
    return next((what for end, what in PROGRAMS if any(name.endswith(end) for name in names)), None)


def _is_text(head: bytes) -> bool:
    """Tell whether bytes are text in UTF-8, of which the last character may be cut off."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\n\r\f\ufeff" for character in text)


def _is_onnx(head: bytes) -> bool:
    """A ModelProto begins with the format's version, and mostly the name of the program that wrote it."""
    return len(head) > 3 and head[0] == 8 and 0 < head[1] < 32 and (head[2] == 0x12 or head[2] == 0x3A)
