"""Whatever lies in the data, a run of days goes on or ends with one clear line (rows 17 and 22-30 of the faults).

Every test injects the real file into a real training. The decoders' and readers' own refusals are tested beside them.
"""

import io
import json
import os
import pickle
import re
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from moco.cli import main
from moco.core.encoder import EncoderPlan, encoder_tensors
from moco.data.replacement import MOST_NAMED, TOLERATED, TRIES
from moco.interop.checkpoints import random_weights
from moco.runtime.checkpoint import checkpoints, load_tensors, save_tensors
from tests.faults.malformed import UNREADABLE, events, flags, folder_of, jpeg, lines, train, write
from tests.faults.processes import finish, start


@pytest.fixture(autouse=True)
def as_for_users(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Types are not checked (a flag that must be given has a placeholder), threads are put back, the cache is empty."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The one line with which a command must end, its exit code being 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    line = err.splitlines()[-1]
    assert line.startswith("moco: error: "), err
    assert "Traceback" not in out + err
    return line


def encoder(run: Path) -> dict[str, Tensor]:
    """The weights that a run left."""
    return load_tensors(run / "encoder.safetensors")[0]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether they are equal bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def timeless(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same lines without their times."""
    return [{name: value for name, value in line.items() if name != "time"} for line in found]


# --- rows 22 to 24: images that cannot be read ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def some_bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """53 pictures and one file of every kind that is none."""
    return folder_of(tmp_path_factory.mktemp("data") / "some", 53, UNREADABLE)


def test_bad_images_are_replaced_and_named(some_bad: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run ends well; each is named once by path, in the log and on the terminal, with what stands in for it."""
    assert train(some_bad, tmp_path / "run") == 0
    found = events(tmp_path / "run", "replaced")
    assert len(found) == len({event["path"] for event in found}) >= len(UNREADABLE) - 1  # 60 images, each seen
    assert {event["path"] for event in found} <= {f"{name}.jpg" for name in UNREADABLE}
    assert all((some_bad / event["by"]).read_bytes() in map(jpeg, range(53)) for event in found)
    said = capsys.readouterr().out.splitlines()
    for event in found:
        (notice,) = [line for line in said if f"replaces {some_bad / event['path']}: " in line]
        assert notice.startswith(f"step {event['step']}: {event['by']} ")


def test_workers_and_resuming_change_nothing(some_bad: Path, tmp_path: Path) -> None:
    """The same stand-ins with two loading processes, and after going on in the middle of an epoch: bit for bit."""
    whole, helped, resumed = (tmp_path / name for name in ("whole", "helped", "resumed"))
    assert train(some_bad, whole) == 0
    assert train(some_bad, helped, workers=2) == 0
    assert train(some_bad, resumed, checkpoint_every=4) == 0
    checkpoints(resumed)[0].unlink()
    (resumed / "encoder.safetensors").unlink()
    (resumed / "status.json").unlink()
    assert main(["resume", str(resumed)]) == 0
    assert [event["step"] for event in events(resumed, "resume")] == [8]
    for run in (helped, resumed):
        assert same(encoder(run), encoder(whole))
        assert timeless(events(run, "replaced")) == timeless(events(whole, "replaced"))


def test_the_dictionary_is_told_what_was_used(some_bad: Path, tmp_path: Path) -> None:
    """No key in the queue is of an image that was never read."""
    names = sorted(os.listdir(some_bad))
    bad = {names.index(f"{name}.jpg") for name in UNREADABLE}
    assert train(some_bad, tmp_path, queue_size=60) == 0
    index = load_tensors(checkpoints(tmp_path)[0])[0]["dictionary.index"].tolist()
    assert len(index) == 60
    assert not bad & set(index)
    assert set(index) <= set(range(60))


def test_small_images_in_memory_too(tmp_path: Path) -> None:
    """They are decoded before the first step; the run is the same."""
    data = folder_of(tmp_path / "data", 0, UNREADABLE)
    for i in range(53):
        (data / f"{i:03}.jpg").write_bytes(jpeg(i, side=32))
    assert train(data, tmp_path / "run") == 0
    assert len(events(tmp_path / "run", "replaced")) >= len(UNREADABLE) - 1


@pytest.mark.parametrize(("sound", "bad"), [(40, 30), (0, 40)])
def test_too_many_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], sound: int, bad: int) -> None:
    """Within the first steps; ten paths are named, and a number, on one line."""
    data = folder_of(tmp_path / "data", sound, {f"bad-{i:02}": b"" for i in range(bad)})
    line = refusal(capsys, flags(data, tmp_path / "run", batch_size=20))
    assert line.split("; the first:")[0].count("bad-") == MOST_NAMED
    assert f"{TRIES + 1} images" in line or "of the first" in line
    if sound:
        assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == 2
        assert len(events(tmp_path / "run", "replaced")) > TOLERATED


def test_two_ranks_agree(some_bad: Path, tmp_path: Path) -> None:
    """Both replace as one process does, one writes what both met, and both stop where there are too many."""
    folder_of(some_bad.parent / "most", 40, {f"bad-{i:02}": b"" for i in range(30)})
    finish(flags(some_bad, tmp_path / "run"), tmp_path, ranks=2)
    too_many = flags(some_bad.parent / "most", tmp_path / "too-many", batch_size=20)
    assert start(too_many, tmp_path, ranks=2).exit_codes() == [2, 2]
    assert train(some_bad, tmp_path / "alone") == 0

    def read_events_of(run: str) -> list[tuple[object, ...]]:
        return sorted((line["step"], line["path"], line["by"]) for line in events(tmp_path / run, "replaced"))

    assert read_events_of("run") == read_events_of("alone")
    own, others = ([line["loss"] for line in lines(tmp_path / run, "loss")[:3]] for run in ("run", "alone"))
    assert own == pytest.approx(others, rel=1e-3)


def test_an_image_never_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow would call Ghostscript for an EPS file, whatever its ending: here it is a program that leaves a trace."""
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    data = folder_of(tmp_path / "data", 19, {"drawing": UNREADABLE["eps"]})
    assert train(data, tmp_path / "run", epochs=1) == 0
    assert [event["path"] for event in events(tmp_path / "run", "replaced")] == ["drawing.jpg"]
    assert not (tmp_path / "started").exists()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("labelled", [True, False])
def test_the_monitor_passes_over_bad_images(tmp_path: Path, capsys: pytest.CaptureFixture[str], labelled: bool) -> None:
    """Another image of the class stands in, and each is named once; with labels, without, in bank and queries."""
    for split in ("train", "val"):
        for place in ("a", "b") if labelled else (".",):
            folder = tmp_path / "data" / split / place
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(20):
                (folder / f"{i:03}.jpg").write_bytes(jpeg(i) if i != 7 else b"")
    assert train(tmp_path / "data", tmp_path / "run", knn_every=2, epochs=1) == 0
    key = "knn_top1" if labelled else "uniformity"
    assert len(lines(tmp_path / "run", key)) >= 2
    warned = [
        line for line in capsys.readouterr().err.splitlines() if "in the monitor the next image of its class" in line
    ]
    assert len(warned) == len(set(warned)) == (4 if labelled else 1)
    assert all("007.jpg: cannot be read" in line for line in warned)


# --- row 25: tar files ----------------------------------------------------------------------------------------------


def shard(path: Path, names: list[str]) -> Path:
    """A tar file of sound pictures under these names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for seed, name in enumerate(names):
            content = jpeg(seed)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_shard_that_is_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before its index is made, and after: named by path, and nothing is trained on what is left."""
    path = shard(tmp_path / "data" / "7.tar", [f"{i}.jpg" for i in range(20)])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert f"{path}: at byte" in refusal(capsys, flags(path.parent, tmp_path / "run"))
    path.write_bytes(content)
    assert train(path.parent, tmp_path / "run", epochs=1) == 0
    path.write_bytes(content[: len(content) // 2])
    assert f"{path}: at byte" in refusal(capsys, flags(path.parent, tmp_path / "new"))


def test_a_shard_that_is_damaged_while_it_is_read(tmp_path: Path) -> None:
    """Another checksum than the index has: the member is replaced like an image, and named with its shard."""
    path = shard(tmp_path / "data" / "7.tar", [f"{i:02}.jpg" for i in range(20)])
    assert train(path.parent, tmp_path / "first", epochs=1) == 0
    status, content = path.stat(), bytearray(path.read_bytes())
    content[512 + 300] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a failing disk does it
    assert train(path.parent, tmp_path / "run", epochs=1) == 0
    (event,) = events(tmp_path / "run", "replaced")
    assert event["path"] == "7.tar/00.jpg"
    assert str(path) in event["reason"]
    assert "another checksum" in event["reason"]


def test_members_with_hostile_names_are_read_in_place(tmp_path: Path) -> None:
    """`../`, absolute paths and links: the run trains on the bytes in the shard, and writes only into its folder."""
    names = ["../../up.jpg", "/absolute.jpg", *(f"{i}.jpg" for i in range(18))]
    path = shard(tmp_path / "deep" / "data" / "0.tar", names)
    with tarfile.open(path, "a") as tar:
        for kind, name in ((tarfile.SYMTYPE, "link.jpg"), (tarfile.LNKTYPE, "hard.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            tar.addfile(info)
    assert train(path.parent, tmp_path / "deep" / "run", epochs=1) == 0
    assert sorted(os.listdir(tmp_path)) == ["deep"]
    assert sorted(os.listdir(tmp_path / "deep")) == ["data", "run"]
    assert sorted(os.listdir(path.parent)) == [".moco-index", "0.tar"]
    assert not Path("/absolute.jpg").exists()


# --- row 26: other data than before ---------------------------------------------------------------------------------


Change = Callable[[Path], None]
"""Something that happens to a folder of images `000.jpg` ... `039.jpg`."""


def add(data: Path) -> None:
    """Two more, of which one comes first."""
    (data / "000-a.jpg").write_bytes(jpeg(100))
    (data / "zzz.jpg").write_bytes(jpeg(101))


def remove(data: Path) -> None:
    """One less."""
    (data / "007.jpg").unlink()


def change(data: Path) -> None:
    """One of another size."""
    (data / "012.jpg").write_bytes(jpeg(12, side=104))


def touch(data: Path) -> None:
    """One of the same size, written later."""
    content = bytearray((data / "012.jpg").read_bytes())
    content[-10] ^= 1
    (data / "012.jpg").write_bytes(content)


CHANGES = pytest.mark.parametrize(
    ("what", "parts"),
    [
        (add, ("40 images then, 42 now: 2 added", "the first 000-a.jpg")),
        (remove, ("40 images then, 39 now: 1 removed", "the first missing before 008.jpg")),
        (change, ("40 images then, 40 now: 1 changed", "the first 012.jpg")),
        (touch, ("40 images then, 40 now: 1 changed", "the first 012.jpg")),
    ],
    ids=["added", "removed", "changed", "touched"],
)


@pytest.fixture(scope="module")
def halted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 images, `data`, and a run on it, `run`, that ended after four of eight steps."""
    folder = tmp_path_factory.mktemp("halted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        assert train(folder_of(folder / "data", 40), folder / "run", checkpoint_every=4) == 0
    checkpoints(folder / "run")[0].unlink()
    (folder / "run" / "status.json").unlink()
    return folder


@pytest.fixture
def halted(halted_once: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of both, as if they had always been there."""
    data, run = (Path(shutil.copytree(halted_once / name, tmp_path / name)) for name in ("data", "run"))
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace(str(halted_once), str(tmp_path)))
    return data, run


@CHANGES
def test_other_images_than_before(
    halted: tuple[Path, Path], capsys: pytest.CaptureFixture[str], what: Change, parts: tuple[str, ...]
) -> None:
    """The run does not go on, and says what changed and how to accept it; once accepted, it is as with the new ones."""
    data, run = halted
    kept = (run / "config.json").read_bytes()
    what(data)
    for arguments in (["resume", str(run)], flags(data, run, checkpoint_every=4)):
        line = refusal(capsys, arguments)
        assert all(part in line for part in (*parts, "--accept-changed-data")), line
    assert checkpoints(run)[0].stem == "000000004"
    assert main(["resume", str(run), "--accept-changed-data"]) == 0
    assert [event["step"] for event in events(run, "resume")] == [4]
    (event,) = events(run, "data_changed")
    assert parts[0] in event["what"]
    assert (run / "config.json").read_bytes() == kept
    (run / "status.json").unlink()
    assert main(["resume", str(run)]) == 0  # what was accepted is what is expected now


def test_the_same_images_are_no_change(halted: tuple[Path, Path]) -> None:
    """The run goes on as it did before there were fingerprints."""
    _, run = halted
    assert main(["resume", str(run)]) == 0
    assert events(run, "data_changed") == []


@pytest.mark.filterwarnings("default:.*treated as a copy")
def test_a_copy_is_taken_for_the_same(
    halted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every time of change is another, names and sizes are not: a warning, as on a machine they were copied to."""
    data, run = halted
    shutil.move(data, tmp_path / "old")
    data.mkdir()
    for path in (tmp_path / "old").iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    assert main(["resume", str(run)]) == 0
    assert "treated as a copy" in capsys.readouterr().err


def test_a_fingerprint_that_is_damaged(halted: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    """It is an error too, with the same way out; a run from before there were any gets one."""
    _, run = halted
    path = run / "data.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert "--accept-changed-data" in refusal(capsys, ["resume", str(run)])
    path.unlink()
    assert main(["resume", str(run)]) == 0
    assert path.is_file()


# --- row 27: too few images -----------------------------------------------------------------------------------------


def test_fewer_images_than_a_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both numbers are named."""
    line = refusal(capsys, flags(folder_of(tmp_path / "data", 9), tmp_path / "run"))
    assert "--batch-size is 10, and there are 9 images" in line
    assert not (tmp_path / "run").exists()


def test_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And one with other files only."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "readme.txt").write_text("no image")
    assert "no image in it, expected files ending in" in refusal(capsys, flags(tmp_path / "data", tmp_path / "run"))


# --- row 28: hostile names ------------------------------------------------------------------------------------------

HOSTILE = [
    b"<img onerror=alert(1)>",
    b"<",
    b"new\nmoco: all is well",
    b"caf\xe9",
    b"\x1b[2Jcleared",
    "\u202egpj".encode(),
]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are UTF-8")
def test_hostile_names_are_inert(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Files that cannot be read, so that they are named: on the terminal each is one line without control characters.

    In the log a name is as it is, within one line of JSON; TensorBoard's files have none.
    """
    data = folder_of(tmp_path / "data", 24)
    hostile = [b"</script>.jpg" if name == b"<" else name + b".jpg" for name in HOSTILE]
    for name in hostile:
        write(data, name, b"")
    assert train(data, tmp_path / "run", batch_size=15, bn_groups=3) == 0
    found = events(tmp_path / "run", "replaced")
    assert {os.fsencode(event["path"]) for event in found} == set(hostile)
    out, err = capfdbinary.readouterr()
    text = (out + err).decode("utf-8")
    assert all(char.isprintable() for line in text.split("\n") for char in line)
    assert not any(line.startswith("moco: all is well") for line in text.splitlines())
    (board,) = tmp_path.glob("run/events.out.tfevents.*")
    assert b"onerror" not in board.read_bytes()


def test_hostile_classes_are_inert(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """A class is named where there is only one."""
    for i in range(20):
        write(tmp_path, b"data/\x1b[2J\xff<b>/%d.jpg" % i, jpeg(i))
    assert train(tmp_path / "data", tmp_path / "run", epochs=1) == 0
    out = capfdbinary.readouterr().out.decode("utf-8")
    assert "the images have one class only (\\x1b[2J\\udcff<b>)" in out
    assert "\x1b" not in out


# --- row 29: labels -------------------------------------------------------------------------------------------------


def test_labels_in_one_split_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The kNN monitor is off and says so; features are watched without labels."""
    for i in range(20):
        write(tmp_path, b"data/train/%s/%d.jpg" % (b"ab"[i % 2 : i % 2 + 1], i), jpeg(i))
        write(tmp_path, b"data/val/%d.jpg" % i, jpeg(i))
    assert train(tmp_path / "data", tmp_path / "run", epochs=1, knn_every=2) == 0
    assert "the images have labels in one split only: no kNN accuracy" in capsys.readouterr().out
    assert lines(tmp_path / "run", "uniformity")
    assert not lines(tmp_path / "run", "knn_top1")


def test_one_class_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same."""
    for i in range(20):
        write(tmp_path, b"data/cat/%d.jpg" % i, jpeg(i))
    assert train(tmp_path / "data", tmp_path / "run", epochs=1, knn_every=2) == 0
    assert "the images have one class only (cat): no kNN accuracy" in capsys.readouterr().out


def test_classes_that_train_does_not_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The class and the folder are named."""
    for i in range(20):
        write(tmp_path, b"data/train/%s/%d.jpg" % (b"ab"[i % 2 : i % 2 + 1], i), jpeg(i))
        write(tmp_path, b"data/test/%s/%d.jpg" % (b"bc"[i % 2 : i % 2 + 1], i), jpeg(i))
    line = refusal(capsys, flags(tmp_path / "data", tmp_path / "run"))
    assert f"{tmp_path / 'data' / 'test'}: class 'c' is not in the train split" in line


# --- rows 17 and 30: checkpoints and configs ------------------------------------------------------------------------


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_a_pickle_as_a_checkpoint(
    halted: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run passes it over, says so, and goes on from the one before it; nothing is run."""
    _, run = halted
    (run / "checkpoints" / "000000007.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, run / "checkpoints" / "000000006.safetensors")
    capsys.readouterr()
    assert main(["resume", str(run)]) == 0
    out = capsys.readouterr().out
    assert all(f"{number}.safetensors: not a valid safetensors file" in out for number in ("000000006", "000000007"))
    assert [event["step"] for event in events(run, "resume")] == [4]
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text.replace('"seed": 0', '"seed": "0"'), "seed is '0', expected int"),
        (lambda text: text.replace('"seed"', '"sead"'), "unknown key 'sead'"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "version 1"),
        (lambda text: "[" * 100_000, "not JSON"),
        (lambda text: text.replace('"seed": 0', '"seed": ' + "9" * 5000), "not JSON"),
        (lambda text: text.replace('"arch": "resnet10-w4"', '"arch": "__import__(\'os\')"'), "--arch"),
    ],
    ids=["type", "key", "version", "nested", "digits", "code"],
)
def test_a_config_that_is_none(
    halted: tuple[Path, Path], capsys: pytest.CaptureFixture[str], damage: Callable[[str], str], message: str
) -> None:
    """What is wrong is named."""
    _, run = halted
    path = run / "config.json"
    path.write_text(damage(path.read_text()))
    assert message in refusal(capsys, ["resume", str(run)])


# --- weights for another kind of input ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the encoder of a run on documents, and with documents of two classes in `data`."""
    folder = tmp_path_factory.mktemp("documents")
    made = random_weights(EncoderPlan("bytes-tiny", image_size=16), 0, (0.0,) * 3, (1.0,) * 3)
    save_tensors(folder / "encoder.safetensors", encoder_tensors(made.encoder), made.metadata)
    for place in (folder / "data" / split / name for split in ("train", "test") for name in "ab"):
        place.mkdir(parents=True)
        for number in range(6):
            (place / f"{number}.txt").write_text(f"{place} {number} " * 9)
    return folder


OF_IMAGES = ["--data", "digits", "--out", "OUT"]
WEIGHTS = ["--weights", "RUN", "--data", "RUN/data"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", "auto", *OF_IMAGES, "--teacher", "RUN"], "--teacher .* takes documents, and .* on images"),
        (["pretrain", "auto", *OF_IMAGES, "--init-weights", "RUN"], "--init-weights .* takes documents"),
        (["pretrain", "continued", *OF_IMAGES, "--init-weights", "RUN"], "bytes-tiny takes documents"),
        (["explore", "RUN", "--data", "digits", "--static", "OUT"], "takes documents, and the images are bytes"),
        (["knn", "--weights", "random", "--like", "RUN", "--data", "digits"], "no such folder or file"),
        (["export", "--weights", "RUN", "--format", "safetensors", "--out", "OUT"], "takes documents"),
        (["export", "--weights", "RUN", "--format", "onnx", "--out", "OUT"], "takes documents"),
        (["linear", *WEIGHTS, "--protocol", "paper"], "these are documents: give --protocol fast"),
        (["finetune", *WEIGHTS], "these are documents: .* linear --protocol fast and lowshot --finetune-steps 0"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_weights_of_documents(
    documents: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    """They are refused by what they take, in whatever place something else is meant."""
    monkeypatch.setenv("MOCO_DATA", str(tmp_path / "kept"))
    words = [word.replace("RUN", str(documents)).replace("OUT", str(tmp_path / "out")) for word in arguments]
    device = [] if "export" in words else ["--device", "cpu", "--threads", "1"]
    assert re.search(message, refusal(capsys, [*words, *device]))
