"""torchvision's weights that were trained with labels on ImageNet: the baseline that the papers compare with."""

import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision

from moco.errors import BadInputError

PREFIX = "torchvision:"
SILENCE = 30.0
"""Seconds without a byte after which a download is given up; torch's own waits for as long as it takes."""


def downloaded(name: str) -> Path:
    """The file of `torchvision:ARCH`, downloaded once into torch's cache and checked by its digest.

    It is torchvision's first release of these weights (IMAGENET1K_V1): the papers' schedule, 76.1% for resnet50.
    Raises BadInputError where there are none of that name, or they are neither here nor to be had.
    """
    arch = name.removeprefix(PREFIX)
    try:
        url = str(torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].url)
    except (ValueError, KeyError) as error:
        raise BadInputError(
            f"--weights {name}: torchvision has no weights of that name, expected torchvision:resnet50 or its like"
        ) from error
    file = urlparse(url).path.rsplit("/", 1)[-1]
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.is_file():
        digest = file.rsplit("-", 1)[-1].removesuffix(".pth")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _impatient():
                torch.hub.download_url_to_file(url, str(path), digest, progress=False)
        except (OSError, RuntimeError, http.client.HTTPException) as error:  # a wrong digest is a RuntimeError
            raise BadInputError(
                f"--weights {name}: {url} cannot be fetched ({str(error) or type(error).__name__}): "
                f"fetch it on a machine that can, and put the file at {path}"
            ) from error
    return path


@contextmanager
def _impatient() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
