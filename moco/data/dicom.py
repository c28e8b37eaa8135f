"""DICOM files -> their values, by pydicom (the extra `dicom`)."""

import io
import logging
import math
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from moco.data.opening import MOST_HELD
from moco.errors import BadInputError

PREAMBLE = slice(128, 132)
MAGIC = b"DICM"
READER = "pydicom" if find_spec("pydicom") is not None else None
"""The optional package that reads DICOM."""


def is_dicom(content: bytes) -> bool:
    """Tell whether a file begins as DICOM files do."""
    return content[PREAMBLE] == MAGIC


def read_dicom(content: bytes, name: str) -> npt.NDArray[Any]:
    """Read (channels, H, W) in floating point: stored values by the file's slope and intercept, more being brighter.

    Colours and frames are channels. Raises BadInputError where there are no pixels, or nothing here decodes them.
    """
    if READER is None:
        raise BadInputError(f"{name}: is DICOM, which needs pip install 'momentum-contrast[dicom]'")
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut, convert_color_space

    logging.getLogger("pydicom").setLevel(logging.CRITICAL)  # errors are raised below
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        found = pydicom.dcmread(io.BytesIO(content))
        if "PixelData" not in found and "FloatPixelData" not in found:
            raise BadInputError(f"{name}: a DICOM file without pixels: remove it")
        frames, samples = int(found.get("NumberOfFrames", 1) or 1), int(found.get("SamplesPerPixel", 1))
        count = math.prod((int(found.Rows), int(found.Columns), frames, samples))
        if count * 4 > max(MOST_HELD, len(content)):
            raise BadInputError(f"{name}: {count} values, expected at most {MOST_HELD // 4}: cut it into pieces")
        array, colours = found.pixel_array, str(found.get("PhotometricInterpretation", ""))
        if samples == 3 and colours.startswith("YBR"):
            array = convert_color_space(array, colours, "RGB")
        if colours == "MONOCHROME1":  # the least value is white
            signed, bits = int(found.get("PixelRepresentation", 0)), int(found.BitsStored)
            array = (-1 if signed else (1 << bits) - 1) - array.astype(np.int64)
        array = np.asarray(apply_modality_lut(array, found), np.float32)
    except BadInputError:
        raise
    except Exception as error:  # pydicom and its decoders fail as they like
        reason = " ".join(str(error).split())[:150]
        raise BadInputError(f"{name}: a DICOM file that cannot be read ({reason}): convert it or remove it") from error
    if samples > 1:
        array = np.moveaxis(array, -1, -3)
    return array.reshape(-1, *array.shape[-2:])
