"""An environment is not assumed: a user without a name and a home, names that are no text, a plain locale."""

import functools
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from moco.data.columns import cache_place
from moco.data.named import data_home
from moco.runtime.files import expand_home, home_folder
from tests.faults.processes import command, finish, start, status
from tests.transfer import scenes

SMALL = (
    "--weights random --arch resnet10-w4 --max-steps 1 --batch-size 2 --crop-size 16 --head-channels 4 --precise-bn 0 "
    "--shown-images 0 --threads 1 --workers 0 --device cpu"
)
NOBODY = 54321
"""A number that no user has."""
needs_root = pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can become another")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which any user may write."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


def become_nobody(home: str | None) -> None:
    """Go on as a user of whom the system knows only a number, as OpenShift has it."""
    os.environ.pop("HOME", None)
    os.environ.pop("MOCO_DATA", None)
    os.environ.pop("XDG_CACHE_HOME", None)
    if home is not None:
        os.environ["HOME"] = home
    os.setgroups([])
    os.setgid(0)
    os.setuid(NOBODY)


@needs_root
@pytest.mark.parametrize("home", [None, "/"])
def test_a_user_without_a_home(open_folder: Path, home: str | None) -> None:
    """A run trains and is saved; nothing else is needed."""
    run = open_folder / "run"
    finish(command(run, max_steps=2, whiten=0), open_folder, inject=functools.partial(become_nobody, home))
    assert status(run)["state"] == "done"
    assert (run / "encoder.safetensors").stat().st_uid == NOBODY


def know_transfer_and_become_nobody() -> None:
    """Import what a task needs first: this machine's Python may lie where nobody else may read."""
    for name in ("commands.transfer", "transfer.checking", "transfer.evaluation", "transfer.label_maps"):
        importlib.import_module(f"moco.{name}")
    "".encode("utf-8-sig")
    become_nobody(None)


@needs_root
def test_a_task_for_a_user_without_a_home(open_folder: Path) -> None:
    """It trains, although what was found in its annotations can be kept nowhere."""
    data, run = scenes.write("voc-semantic", open_folder / "data", 2, (32, 24)), open_folder / "run"
    arguments = ["transfer", "voc-semantic", "--data", str(data), "--out", str(run), *SMALL.split()]
    finish(arguments, open_folder, inject=know_transfer_and_become_nobody)
    assert status(run)["state"] == "done"


@needs_root
def test_a_data_set_by_name_for_a_user_without_a_home(open_folder: Path) -> None:
    """It cannot be kept anywhere: one line says what to set, before anything is fetched."""
    arguments = command(open_folder / "run")
    arguments[arguments.index("digits")] = "cifar10"
    training = start(arguments, open_folder, inject=functools.partial(become_nobody, None))
    assert training.exit_codes() == [2], training.text()
    assert "cannot be made (Not a directory): set MOCO_DATA to a folder of your own" in training.text()
    assert "Traceback" not in training.text()


def test_no_home_is_a_place_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be kept in it is not; a ~ stays."""

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("MOCO_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert expand_home("~/photos") == Path("~/photos")
    for place in (home_folder(), data_home(), cache_place(Path("photos"))):
        with pytest.raises(OSError, match="Not a directory"):
            (place / "x").mkdir(parents=True)


@pytest.mark.skipif(sys.platform != "linux", reason="file systems elsewhere take no such names")
def test_names_that_are_no_text(tmp_path: Path) -> None:
    """A run whose folder's name is of another encoding is trained; TensorBoard is done without."""
    run = tmp_path / os.fsdecode(b"caf\xe9")
    training = finish(command(run, max_steps=2), tmp_path)
    assert status(run)["state"] == "done"
    assert "TensorBoard cannot write there" in training.text()
