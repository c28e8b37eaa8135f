"""A file of the user's own code is read like any other file from outside."""

import os
from pathlib import Path

import pytest

from moco.errors import BadInputError
from moco.runtime.owncode import load_own_code


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "large"])
def test_a_file_that_would_never_end(tmp_path: Path, kind: str) -> None:
    """To open a pipe waits for ever, /dev/zero fills the memory, and no program has gigabytes."""
    path = tmp_path / "own.py"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "large":
            path.touch()
            os.truncate(path, 20 << 30)
    said = "has 21474836480 bytes, expected at most" if kind == "large" else "expected a regular file, not a folder"
    with pytest.raises(BadInputError, match=rf"--pretext {path}:pairs: .*{said}"):
        load_own_code("--pretext", f"{path}:pairs", ("views",), "(item, draw)")
