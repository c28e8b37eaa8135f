"""Checkpoints are whole or refused: round trips, damage of every kind, failing writes."""

import contextlib
import errno
import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from moco.errors import BadInputError
from moco.runtime.checkpoint import (
    checkpoint_path,
    checkpoints,
    digest,
    load_tensors,
    newest_checkpoint,
    remove_old_checkpoints,
    save_tensors,
)

TENSORS = {
    "weight": torch.arange(12, dtype=torch.float32).reshape(3, 4) / 7,
    "half": torch.tensor([1.5, -2.0, float("nan")]).bfloat16(),
    "fp16": torch.tensor([1.5, float("inf")]).half(),
    "double": torch.tensor([[1 / 3]], dtype=torch.float64),
    "mask": torch.tensor([True, False, True]),
    "count": torch.tensor(2**40),
    "index": torch.tensor([-1, 5]),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "nothing": torch.empty(0, 3),
}
METADATA = {"step": 7, "plan": {"arch": "resnet18", "mean": [0.5, 0.25]}, "name": "ü \n"}


def bits(tensor: Tensor) -> list[int]:
    """The bytes of a tensor: NaN equals itself."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


SMALL = {"weight": torch.arange(3.0), "count": torch.tensor(5)}


def flipped_headers(content: bytes) -> Iterator[tuple[bytes, str]]:
    """Copies of a file with one byte of its header changed, and which."""
    for place in range(header_length(content)):
        changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        yield changed, f"byte {place}, {changed[max(0, place - 12) : place + 12]!r}"


def header_length(content: bytes) -> int:
    """Where the tensors begin in a safetensors file."""
    return 8 + int.from_bytes(content[:8], "little")


def test_round_trip(tmp_path: Path) -> None:
    """Every type and shape comes back bit for bit, 0-d and empty ones too, and the metadata equal."""
    path = tmp_path / "new" / "file.safetensors"
    save_tensors(path, TENSORS, METADATA)
    tensors, metadata = load_tensors(path)
    assert metadata == METADATA
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert (tensors[name].dtype, tensors[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(tensors[name]) == bits(tensor)


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    """As those of a network that uses one layer at several places (timm's coat): each name has its values."""
    shared = torch.arange(4.0)
    save_tensors(tmp_path / "x.safetensors", {"a": shared, "b": shared, "c": shared[1:]}, {})
    found = load_tensors(tmp_path / "x.safetensors")[0]
    assert {name: value.tolist() for name, value in found.items()} == {
        "a": [0, 1, 2, 3], "b": [0, 1, 2, 3], "c": [1, 2, 3],
    }  # fmt: skip


def test_round_trip_of_other_memory_layouts(tmp_path: Path) -> None:
    """Tensors that lie otherwise in memory, and parameters, are saved as what they contain."""
    images = torch.randn(2, 3, 4, 5)
    parameter = torch.nn.Parameter(images.contiguous(memory_format=torch.channels_last))
    path = tmp_path / "file.safetensors"
    save_tensors(path, {"images": parameter, "turned": images.transpose(0, 1), "row": images[1]}, {})
    tensors, _ = load_tensors(path)
    assert torch.equal(tensors["images"], images)
    assert torch.equal(tensors["turned"], images.transpose(0, 1))
    assert torch.equal(tensors["row"], images[1])


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    """The order in which names and metadata were put in does not show: one key, sorted JSON."""
    one, other = tmp_path / "one", tmp_path / "other"
    save_tensors(one, TENSORS, METADATA)
    save_tensors(other, dict(reversed(TENSORS.items())), dict(reversed(METADATA.items())))
    content = one.read_bytes()
    assert content == other.read_bytes()
    header = json.loads(content[8 : header_length(content)])
    assert list(header["__metadata__"]) == ["moco"]
    values = json.loads(header["__metadata__"]["moco"])
    assert list(values) == sorted(values)


@pytest.mark.parametrize("change", [{"a": torch.zeros(2, 2)}, {"a": torch.zeros(4).int()}, {"b": torch.zeros(4)}, {}])
def test_digest_is_of_names_types_shapes_and_bytes(change: dict[str, Tensor]) -> None:
    """Whatever is changed, even where the bytes stay the same, the digest is another."""
    assert digest({"a": torch.zeros(4)}, {}) != digest(change, {})
    assert digest({"a": torch.zeros(4)}, {}) == digest({"a": torch.zeros(4)}, {})


def test_a_flipped_byte_in_the_tensors_is_refused(tmp_path: Path) -> None:
    """Every single byte of the data counts."""
    path = tmp_path / "file"
    save_tensors(path, TENSORS, METADATA)
    content = path.read_bytes()
    for place in range(header_length(content), len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        with pytest.raises(BadInputError, match=r"file: damaged, its digest does not fit its contents"):
            load_tensors(path)


def test_a_flipped_byte_in_the_header_is_bad_input(tmp_path: Path) -> None:
    """Damaged names, shapes, types, offsets and metadata are bad input, so that a run falls back to the one before."""
    path, crashes = tmp_path / "file", []
    save_tensors(path, SMALL, METADATA)
    for content, where in flipped_headers(path.read_bytes()):
        path.write_bytes(content)
        try:
            load_tensors(path)
        except BadInputError:
            pass
        except ValueError as error:
            crashes.append(f"{where}: {type(error).__name__}")
    assert crashes == []


def test_a_flipped_byte_in_the_header_is_not_believed(tmp_path: Path) -> None:
    """What is read after damage to the header is what was saved: the metadata, as the step, count as the tensors do."""
    path, believed = tmp_path / "file", []
    save_tensors(path, SMALL, METADATA)
    for content, where in flipped_headers(path.read_bytes()):
        path.write_bytes(content)
        with contextlib.suppress(ValueError):
            tensors, metadata = load_tensors(path)
            if metadata != METADATA or digest(tensors, {}) != digest(SMALL, {}):
                believed.append(f"{where}: {metadata}")
    assert believed == []


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    """Cut anywhere, in the length, the header or the data, it is no checkpoint."""
    path = tmp_path / "file"
    save_tensors(path, {"weight": torch.zeros(500)}, METADATA)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BadInputError, match="file: not a valid safetensors file"):
        load_tensors(path)


class Trap:
    """A pickle that runs code when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        """Say what unpickling would do: make the marker."""
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    """Neither a bare pickle nor one in torch's own format is executed."""
    path, marker = tmp_path / "file", tmp_path / "executed"
    if zipped:
        torch.save(Trap(marker), path)
    else:
        path.write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(BadInputError, match="not a valid safetensors file"):
        load_tensors(path)
    assert not marker.exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    """A file of another project is sound, but not one of ours."""
    path = tmp_path / "file"
    save_file({"weight": torch.zeros(3)}, path, metadata)
    with pytest.raises(BadInputError, match="not one of moco's"):
        load_tensors(path)


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    """A path that leads nowhere, or to a folder, is bad input."""
    with pytest.raises(BadInputError, match=r"not a valid safetensors file|expected a regular file"):
        load_tensors(tmp_path / name)


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
def test_a_failing_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """Where the disk is full, the old file stays, no half-written one does, and the error says path and size."""
    path = tmp_path / "file"
    save_tensors(path, {"weight": torch.zeros(3)}, {"step": 1})
    before = path.read_bytes()

    def fail(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match=r"cannot write \d+ bytes \(No space left on device\)") as caught:
        save_tensors(path, {"weight": torch.ones(3000)}, {"step": 2})
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)
    assert int(str(caught.value).split("cannot write ")[1].split()[0]) > 3000 * 4
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Where a file lies in the way of the folder, the error says path and size too."""
    (tmp_path / "run").write_text("a file")
    path = tmp_path / "run" / "file"
    with pytest.raises(OSError, match=r"cannot write \d+ bytes") as caught:
        save_tensors(path, {"weight": torch.zeros(3)}, {})
    assert caught.value.filename == str(path)


def save_steps(run: Path, *steps: int) -> None:
    """Save a checkpoint for each step."""
    for step in steps:
        save_tensors(checkpoint_path(run, step), {"weight": torch.tensor(float(step))}, {"step": step})


def test_newest_checkpoint(tmp_path: Path) -> None:
    """The one of the highest step is taken; what is being written aside is not looked at."""
    save_steps(tmp_path, 900, 1000, 20)
    checkpoint_path(tmp_path, 2000).with_suffix(".safetensors.part").write_bytes(b"half")
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    path, tensors, metadata, refused = newest
    assert path == checkpoint_path(tmp_path, 1000)
    assert (float(tensors["weight"]), metadata, refused) == (1000.0, {"step": 1000}, [])


def test_newest_checkpoint_falls_back(tmp_path: Path) -> None:
    """Damaged ones are passed over, newest first, and each reason is reported with its path."""
    save_steps(tmp_path, 1, 2, 3)
    truncated, flipped = checkpoint_path(tmp_path, 3), checkpoint_path(tmp_path, 2)
    truncated.write_bytes(truncated.read_bytes()[:-1])
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"!")
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    path, _, metadata, refused = newest
    assert path == checkpoint_path(tmp_path, 1)
    assert metadata == {"step": 1}
    assert [reason.split(": ")[0] for reason in refused] == [str(truncated), str(flipped)]
    assert "not a valid safetensors file" in refused[0]
    assert "digest" in refused[1]


def test_no_checkpoint(tmp_path: Path) -> None:
    """A new run has none."""
    assert newest_checkpoint(tmp_path) is None


def test_none_is_sound(tmp_path: Path) -> None:
    """A run whose checkpoints are all damaged does not quietly start over: the error says where to look."""
    save_steps(tmp_path, 1, 2)
    for step in (1, 2):
        checkpoint_path(tmp_path, step).write_bytes(b"")
    message = (
        r"none of its 2 checkpoints is valid \(the newest: .*000000002.*\): remove the folder .*checkpoints to start"
    )
    with pytest.raises(BadInputError, match=message):
        newest_checkpoint(tmp_path)


def test_damaged_checkpoints_do_not_crowd_out_the_new_one(tmp_path: Path) -> None:
    """A run that fell back behind its damaged checkpoints keeps what it saves from then on, though of a lower step."""
    save_steps(tmp_path, 4, 30, 40)
    for step in (30, 40):
        checkpoint_path(tmp_path, step).write_bytes(b"damaged")
    save_steps(tmp_path, 5)
    remove_old_checkpoints(tmp_path, [checkpoint_path(tmp_path, step) for step in (4, 5)])
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest[2] == {"step": 5}
    assert checkpoints(tmp_path) == [checkpoint_path(tmp_path, step) for step in (5, 4)]


def test_what_is_to_be_kept_is_kept(tmp_path: Path) -> None:
    """Removing old ones leaves those that are known to be sound, and every other file; half-written ones go."""
    save_steps(tmp_path, 5, 30, 200, 1000)
    other = tmp_path / "checkpoints" / "notes.txt"
    other.write_text("mine")
    half = checkpoint_path(tmp_path, 2000).with_suffix(".safetensors.part")
    half.write_bytes(b"half")
    sound = [checkpoint_path(tmp_path, step) for step in (1000, 30)]
    remove_old_checkpoints(tmp_path, sound)
    assert checkpoints(tmp_path) == sound
    assert other.exists()
    assert not half.exists()


def test_a_pipe_in_place_of_a_checkpoint(tmp_path: Path) -> None:
    """It is refused; to open it would wait for a writer, deaf to signals."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(BadInputError, match="expected a regular file"):
        load_tensors(tmp_path / "pipe.safetensors")
