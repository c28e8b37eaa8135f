"""Every file that a fine-tuning reads is in the fingerprint of its data."""

from pathlib import Path

import pytest

from moco.transfer.examples import Layout, files_of, open_examples
from moco.transfer.recipes import TASKS
from tests.transfer.scenes import write


@pytest.mark.parametrize("layout", sorted({task.layout for task in TASKS.values()}))
def test_every_file_is_known_of(tmp_path: Path, layout: Layout) -> None:
    """The fingerprint is of all images and annotations, by their places in the folder of the data."""
    data = write(layout, tmp_path / "data", 2, (96, 64))
    files = files_of(data, *(open_examples(layout, data, split) for split in ("train", "test")))
    found = {files.name(index) for index in range(len(files))}
    unread = "labelIds" if layout == "cityscapes-instance" else "instanceIds"
    every = [path for path in data.rglob("*") if path.suffix in (".jpg", ".png", ".xml", ".json")]
    assert found == {str(path.relative_to(data)) for path in every if unread not in path.name}
