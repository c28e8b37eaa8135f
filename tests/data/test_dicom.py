"""DICOM: pydicom's own test files, and files that pydicom writes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from moco.data.catalog import load
from moco.data.channels import read_channels
from moco.data.settling import Asked
from moco.errors import BadInputError

RNG = np.random.default_rng(3)


def bundled(name: str) -> bytes:
    """A file that comes with pydicom."""
    path = get_testdata_file(name)
    assert isinstance(path, str)
    return Path(path).read_bytes()


def written(values: np.ndarray, **tags: Any) -> bytes:
    """A file of 16 bits that pydicom writes."""
    found = Dataset()
    found.SOPClassUID, found.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", generate_uid()
    found.set_pixel_data(values, tags.pop("photometric", "MONOCHROME2"), 12)
    for name, value in tags.items():
        setattr(found, name, value)
    found.ensure_file_meta()
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    out = io.BytesIO()
    found.save_as(out, enforce_file_format=True)
    return out.getvalue()


def test_values_by_slope_and_intercept() -> None:
    """A scan of a body in Hounsfield units: the stored values are none."""
    content = bundled("CT_small.dcm")
    found = dcmread(io.BytesIO(content))
    expected = found.pixel_array * float(found.RescaleSlope) + float(found.RescaleIntercept)
    values = read_channels(content, "x.dcm")
    assert values.depth == "float"
    np.testing.assert_allclose(values.array, expected[None])


def test_where_the_least_is_white() -> None:
    """Its values are turned, within the range of its bits and not of the image."""
    values = RNG.integers(0, 1000, (8, 9)).astype(np.uint16)
    found = read_channels(written(values, photometric="MONOCHROME1"), "x").array
    np.testing.assert_array_equal(found[0], 4095 - values.astype(float))
    np.testing.assert_array_equal(read_channels(written(values), "x").array[0], values)


@pytest.mark.parametrize("name", ["MR_small.dcm", "examples_rgb_color.dcm", "JPEG2000.dcm"])
def test_files_of_others(name: str) -> None:
    """As pydicom reads them: 16 bits, colours, compressed."""
    content = bundled(name)
    expected = np.atleast_3d(dcmread(io.BytesIO(content)).pixel_array)
    np.testing.assert_array_equal(read_channels(content, "x").array, np.moveaxis(expected, -1, 0))


def test_a_set_of_them(tmp_path: Path) -> None:
    """With and without an ending."""
    for number in range(4):
        values = RNG.integers(0, 4096, (8, 9)).astype(np.uint16)
        (tmp_path / (f"{number}.dcm" if number % 2 else f"IM{number}")).write_bytes(written(values))
    images = load(str(tmp_path), form=Asked("auto"))["train"]
    assert len(images) == 4
    assert images.form is not None
    assert (images.form.channels, images.form.depth) == (1, "float")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bundled("CT_small.dcm")[:-200], "a DICOM file that cannot be read"),
        (bundled("rtplan.dcm"), "a DICOM file without pixels"),
        (b"\0" * 128 + b"DICM" + b"\xff" * 40, "DICOM file"),
    ],
)
def test_what_cannot_be_read_is_named(content: bytes, words: str) -> None:
    """One line."""
    with pytest.raises(BadInputError, match=f"x.dcm: .*{words}") as caught:
        read_channels(content, "x.dcm")
    assert "\n" not in str(caught.value)
