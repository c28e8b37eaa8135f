"""An encoder for other programs: images in, features out, with the preparation that it was evaluated with."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from torch import Tensor, nn

from moco.core.encoder import Output, build_filled_encoder, head_prefix
from moco.core.sizes import use_evaluation_mode
from moco.data.augment import normalize
from moco.data.decoding import WHITEST, decode, from_pillow
from moco.errors import BadInputError
from moco.evaluation.preparation import prepare_image
from moco.interop.checkpoints import load_weights
from moco.interop.metadata import CLASSIFIER, RGB_BYTES, describe_input, read_metadata
from moco.runtime.checkpoint import load_tensors
from moco.shapes import Features, Image, Views

Picture = PillowImage.Image | Tensor | str | Path
"""A Pillow image, bytes of RGB (3, H, W), or the path of a file."""


class FrozenEncoder(nn.Module):
    """Views (N, 3, H, W), normalised, -> features (N, C); `embed` takes images as they are."""

    def __init__(
        self,
        module: nn.Module,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
        white_level: int | None = None,
        takes: str = RGB_BYTES,
    ) -> None:
        """Take a module, how `embed` prepares images for it, and what it `takes` (`describe_input`)."""
        super().__init__()
        self.module = module
        self.image_size, self.mean, self.std = image_size, tuple(mean), tuple(std)
        self.white_level, self.takes = white_level or WHITEST, takes
        self.requires_grad_(False)
        self.eval()

    def forward(self, x: Views) -> Features:
        """Encode images that are prepared and normalised."""
        features: Tensor = self.module(x)
        return features

    @torch.no_grad()
    def embed(self, images: Iterable[Picture], *, unit: bool = False, batch_size: int = 256) -> Features:
        """Encode images to features (N, C) in fp32 on the CPU, in order; `unit` scales them to unit length.

        Images may be of any and of different sizes; they are resized, cut and normalised as evaluations do. Raises
        BadInputError for what is not an image, and where the encoder takes other inputs than RGB.
        """
        if self.takes != RGB_BYTES:
            raise BadInputError(
                f"embed takes RGB images, and this encoder takes {self.takes}: use the command moco embed, or call the "
                f"encoder with inputs that are prepared"
            )
        if isinstance(images, str | Path | PillowImage.Image):
            raise BadInputError("embed takes a list of images, got a single one: put it in a list")
        if batch_size < 1:
            raise BadInputError(f"batch_size is {batch_size}: expected a number of images")
        images, device = list(images), next(self.module.parameters()).device
        features = []
        with use_evaluation_mode(self):
            for start in range(0, len(images), batch_size):
                pixels = [
                    prepare_image(to_image(image, self.white_level), self.image_size)
                    for image in images[start : start + batch_size]
                ]
                views = normalize(torch.stack(pixels).to(device), self.mean, self.std)
                found = self(views).float()
                features.append((F.normalize(found) if unit else found).cpu())
        if not features:
            raise BadInputError("embed takes a list of images, got an empty one")
        return torch.cat(features)


def to_image(image: Picture, white_level: int = WHITEST) -> Image:
    """Return any picture as bytes of RGB (3, H, W); `white_level` of 16 bits is white. Raises BadInputError."""
    if isinstance(image, str | Path):
        return decode(image, white_level)
    if isinstance(image, PillowImage.Image):
        return from_pillow(image, "a Pillow image", white_level)
    whole = isinstance(image, Tensor) and image.ndim == 3 and image.shape[0] == 3 and image.numel() > 0
    if isinstance(image, Tensor) and whole and image.dtype == torch.uint8:
        return image.cpu()
    got = f"{image.dtype} of shape {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
    raise BadInputError(
        f"embed takes Pillow images, paths, and tensors of bytes of shape (3, height, width), got {got}"
    )


def load_encoder(weights: str | Path, *, features: Output = "backbone", image_size: int | None = None) -> FrozenEncoder:
    """Load the encoder of a run, checkpoint or encoder file, in eval mode, without gradients; `.to(device)` moves it.

    `features` are the backbone's, whitened where the encoder holds a whitening; plain ones; or the head's unit vectors.
    Images are brought to `image_size`, by default that of
    the training. Raises BadInputError where there is no such encoder.
    """
    if image_size is not None and image_size < 1:
        raise BadInputError(f"image_size is {image_size}: expected a number of pixels")
    if features not in get_args(Output):
        raise BadInputError(f"features is {features!r}: expected one of {', '.join(get_args(Output))}")
    found = load_weights(str(weights))
    encoder = found.encoder
    encoder.require_size(image_size or encoder.plan.image_size, "image_size")
    size = image_size or encoder.plan.image_size
    takes = describe_input(encoder.plan, found.form)
    return FrozenEncoder(encoder.reading(features), size, found.mean, found.std, found.white_level, takes)


@dataclass(frozen=True)
class Classifier:
    """A network that `moco finetune --save` wrote."""

    network: FrozenEncoder
    """It gives one number per class, before the softmax, in place of features."""
    classes: tuple[str, ...]

    def predict(self, images: Iterable[Picture], *, batch_size: int = 256) -> Features:
        """Return the probability of each class for each image, (N, classes), as `FrozenEncoder.embed` takes images."""
        return self.network.embed(images, batch_size=batch_size).softmax(1)


def load_classifier(path: str | Path) -> Classifier:
    """Load the file that `moco finetune --save` wrote: a network and the names of its classes, in their order.

    Raises BadInputError where the file is no such classifier, or is damaged.
    """
    path = Path(path)
    tensors, metadata = load_tensors(path)
    classes, size = metadata.get("classes"), metadata.get("image_size")
    if metadata.get("kind") != CLASSIFIER or not isinstance(classes, list) or type(size) is not int or size < 1:
        raise BadInputError(f"{path}: expected a file that moco finetune --save wrote")
    plan, about = read_metadata(path, metadata)
    plan = dataclasses.replace(plan, head="linear", feature_dim=len(classes))  # whose layer is the classifier
    head = head_prefix(plan.arch)
    named = {head + name.removeprefix("fc.") if name.startswith("fc.") else name: value
             for name, value in tensors.items()}  # fmt: skip
    encoder = build_filled_encoder(plan, named)
    network = nn.Sequential(encoder.backbone, encoder.head)
    images = size, about["mean"], about["std"], about["white_level"], describe_input(plan, about["form"])
    return Classifier(FrozenEncoder(network, *images), tuple(map(str, classes)))
