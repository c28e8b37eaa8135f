"""The data sets of the project, from $MOCO_DATA; what needs one is skipped elsewhere."""

import os
from pathlib import Path

import pytest


def data_set(name: str) -> Path:
    """The folder of a data set."""
    folder = Path(os.environ.get("MOCO_DATA", "")) / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not in $MOCO_DATA")
    return folder


@pytest.fixture(scope="session")
def bccd() -> Path:
    """Blood cells with boxes, in VOC's layout."""
    return data_set("bccd")


@pytest.fixture(scope="session")
def camvid() -> Path:
    """Street scenes with label images, in VOC's segmentation layout."""
    return data_set("camvid")
