"""Files that hold no weights by name are refused by what they are."""

import gzip
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from moco.errors import BadInputError
from moco.interop.checkpoints import load_weights


def refused(path: Path) -> str:
    """The message, on one line."""
    with pytest.raises(BadInputError) as caught:
        load_weights(str(path))
    message = str(caught.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"\n<!DOCTYPE html><html></html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(8), "HDF5"),
        (gzip.compress(b"weights"), "gzip"),
        (
            b"# moco\n\nTrains an encoder on images.\n" + b"x" * 4050 + "ü".encode(),
            "a text file, not weights",
        ),
        (b"", "empty, not weights: expected a run folder"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(64), "an image (JPEG), not weights"),
        (b"(dp0\nVmodel\n", "not a valid checkpoint"),
        (b"\x08\x0a\x12\x07pytorch" + bytes(64), "an ONNX network"),
        (pickle.dumps({"model": {}, "__author__": "MOCO", "matching_heuristics": True}), "detectron2"),
    ],
    ids=["pointer", "page", "hdf5", "gzip", "text", "empty", "image", "pickle", "onnx", "detectron2"],
)
def test_by_how_they_begin(tmp_path: Path, content: bytes, message: str) -> None:
    """Whatever their name is."""
    (tmp_path / "weights.pth").write_bytes(content)
    assert message in refused(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("flax_model.msgpack", b"\x82\xa6params\x81\xa4conv" + bytes(64), "Flax"),
        ("checkpoint_7", b"\xde\x00\x11\xd9\x28vision_model" + bytes(64), "Flax"),
        ("net.tflite", b"\x1c\0\0\0TFL3" + bytes(64), "TensorFlow Lite"),
        ("saved_model.pb", b"\x08\x01\x12\xe0\x08\x0a" + bytes(64), r"TensorFlow (.pb)"),
        ("frozen.pb", b"\x0a\x2f\x0a\x05input\x12\x0bPlaceholder" + bytes(64), r"TensorFlow (.pb)"),
        ("net.h5", b"\x89HDF\r\n\x1a\n" + bytes(8), "Keras and TensorFlow"),
        ("net.ckpt.index", bytes(64) + bytes.fromhex("57fb808b247547db"), "a part of a checkpoint of TensorFlow"),
        ("net.ckpt.data-00000-of-00001", bytes(range(7, 107)), "a part of a checkpoint of TensorFlow"),
    ],
)
def test_files_of_other_frameworks(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Named, with what to do."""
    (tmp_path / name).write_bytes(content)
    said = refused(tmp_path / name)
    assert message in said
    assert "convert it to PyTorch" in said or "was made from" in said


def test_folders_of_other_frameworks(tmp_path: Path) -> None:
    """A SavedModel, Orbax's, and Keras' archive."""
    for name, message in (("saved_model.pb", "a SavedModel of TensorFlow"), ("_METADATA", "JAX")):
        (tmp_path / name).write_bytes(b"{}")
        assert message in refused(tmp_path)
        (tmp_path / name).unlink()
    with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
        for member in ("metadata.json", "config.json", "model.weights.h5"):
            archive.writestr(member, "{}")
    assert "Keras" in refused(tmp_path / "net.keras")


def test_a_torchscript_program(tmp_path: Path) -> None:
    """torch.jit.save writes a zip file as torch.save does."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.jit.trace(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8))  # type: ignore[no-untyped-call]
        program.save(str(tmp_path / "net.pt"))
    assert "a TorchScript program" in refused(tmp_path / "net.pt")


def test_an_archive_of_numpy(tmp_path: Path) -> None:
    """Such as `moco embed` writes."""
    np.savez(tmp_path / "features.npz", features=np.zeros(3))
    assert "an archive of NumPy" in refused(tmp_path / "features.npz")
