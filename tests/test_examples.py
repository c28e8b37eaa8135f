"""The worked examples run as their pages say, in small."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SMALL = {
    "text.py": ["--epochs", "1", "--most", "40"],
    "neighbours.py": ["--source", "digits", "--epochs", "1", "--garments", "64", "--pretexts", "neighbours", "paired"],
}


def test_every_example_is_run() -> None:
    """By the test below, or by one of its own."""
    own = {path.name.removeprefix("test_") for path in (Path(__file__).parent / "examples").glob("test_*.py")}
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SMALL) | own


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_an_example_runs(name: str, tmp_path: Path) -> None:
    """To its last line, which compares what was learned with random weights."""
    command = [sys.executable, str(EXAMPLES / name), str(tmp_path / "out"), *SMALL[name]]
    done = subprocess.run(command, capture_output=True, text=True, cwd=EXAMPLES.parent, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    last = done.stdout.splitlines()[-1]
    assert last.startswith("trained ")
    assert "random weights" in last
