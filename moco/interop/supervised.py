"""torchvision's weights that were trained with labels on ImageNet: the baseline that the papers compare with."""

import urllib.error
from pathlib import Path
from urllib.parse import urlparse

import torch
import torchvision

from moco.errors import BadInputError

PREFIX = "torchvision:"


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
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = file.rsplit("-", 1)[-1].removesuffix(".pth")
        try:
            torch.hub.download_url_to_file(url, str(path), digest, progress=False)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise BadInputError(
                f"--weights {name}: {url} cannot be had ({error}): download it elsewhere and give the file as --weights"
            ) from error
    return path
