"""Files that may be computed again take limited room."""

import os
from pathlib import Path

from moco.runtime.files import written_aside
from moco.runtime.room import limit_room, note_use


def test_files_that_were_used_longest_ago_are_removed(tmp_path: Path) -> None:
    """What is spared or being written stays and takes room; folders and links are no such files."""
    for age, name in enumerate("abcdef"):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (age, age))
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "f")
    note_use(tmp_path / "b")
    note_use(tmp_path / "none")
    limit_room(tmp_path.iterdir(), 40, {tmp_path / "a"})
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "e", "f", "folder", "link"}
    left = tmp_path / f"a.{8 * '0'}.part"
    left.write_bytes(bytes(10))
    with written_aside(tmp_path / "a") as partial:
        left.write_bytes(bytes(10))
        limit_room([*tmp_path.iterdir(), tmp_path / "none"], 0)
        assert {path.name for path in tmp_path.iterdir()} == {partial.name, "folder", "link"}
