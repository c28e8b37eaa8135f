"""`moco export`: write an encoder for another project, load it there, and compare the features of real images."""

import importlib.util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images

from moco.data.augment import normalize
from moco.errors import BadInputError, VoidError
from moco.interop.checkpoints import Weights, load_weights
from moco.interop.config import ExportConfig
from moco.interop.hub import push, require_repository
from moco.interop.metadata import DOCUMENTS, describe_input
from moco.interop.targets import TARGETS, Target
from moco.runtime.files import require_file_name, written_aside
from moco.runtime.phases import say_if_slow
from moco.shapes import SquareViews

TOLERANCE = 1e-4
"""Largest difference of a feature, as a share of the largest feature: rounding in another order stays below it."""

LARGEST_FEATURE = 1e6
"""Beyond it an encoder has exploded, and a share of its features is no measure: sound ones stay below a thousand."""


def run(config: ExportConfig) -> dict[str, Any]:
    """`moco export`: write the file, check it with the target's own library, and say how far the features differ.

    Raises BadInputError where the target cannot express the net, where the library for the check is not installed, and
    where `config.out` exists; VoidError where the features differ, and then nothing is kept.
    """
    target = TARGETS[config.format]
    _require(config.format, target.packages)
    if config.out.exists():
        raise BadInputError(f"--out {config.out} exists: give another name")
    require_file_name("--out", config.out)
    if config.push is not None:
        require_repository(config.push)
    weights = load_weights(config.weights)
    if describe_input(weights.encoder.plan, weights.form) == DOCUMENTS:
        raise BadInputError(f"--weights {config.weights}: takes documents, and moco export is for encoders of images")
    if weights.encoder.plan.parts and config.format not in ("onnx", "safetensors"):
        raise BadInputError(
            f"--format {config.format}: {config.weights} joins several networks, and such a file holds one: give "
            f"--format onnx or safetensors"
        )
    for note in weights.notes:
        print(note)
    target.require(weights, config.format)
    config.out.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(config.out, folder=True) as folder:
        partial = folder / "export"
        with say_if_slow(f"writing {config.format}, and encoding photographs with it and with the encoder"):
            target.write(weights, partial, config.weights)
            figures = _compared(target, weights, partial)
        if config.out.exists():
            raise BadInputError(f"--out {config.out}: another export wrote it meanwhile: give another name")
        partial.replace(config.out)
    difference = figures.get("largest_difference")
    library = target.checked_with(weights)
    cut = f"{figures.get('images')} images cut from two sample photographs"
    checked = library if difference is None else f"{library} ({cut})"
    said = (
        "" if difference is None else f"; largest difference {difference:.1e}, features up to {figures['largest']:.3g}"
    )
    usage = target.usage(weights)
    if weights.encoder.whitens and target.output == "plain":
        usage += (f"\n--format {config.format} cannot whiten features: its kNN accuracy is that of moco knn --features "
                  f"plain. --format onnx can")  # fmt: skip
    print(f"{config.out}: {config.format}; checked with {checked}{said}\n{usage}")
    result = {
        "weights": config.weights, "origin": weights.origin, "format": config.format, "out": str(config.out),
        "checked_with": library, "largest_difference": difference, **figures, "told": usage,
    }  # fmt: skip
    if config.push is not None:
        result["pushed"] = push(config.out, config.push)
        print(f"{config.push}: sent to huggingface.co, {result['pushed']}; use it as --weights hf://{config.push}")
    return result


def _compared(target: Target, weights: Weights, path: Path) -> dict[str, float]:
    """Compute the largest difference of moco's and the target's features, for photographs alone and together."""
    if target.features is None:
        return {}
    views = photographs(weights)
    with torch.no_grad():
        ours = weights.encoder.reading(target.output).eval()(views)
        theirs = target.features(path, weights, views)
        alone = target.features(path, weights, views[:1])
    largest = float(ours.abs().max())
    if not largest <= LARGEST_FEATURE:
        raise BadInputError(
            f"features of photographs are up to {largest:g}, as after a diverged training: give an earlier checkpoint"
        )
    difference = max(float((ours - theirs).abs().max()), float((ours[:1] - alone).abs().max()))
    if not difference <= TOLERANCE * max(largest, 1.0):
        raise VoidError(
            f"the exported network's features differ from moco's by {difference:g} (features up to {largest:g}): "
            f"the file was not kept"
        )
    return {"largest_difference": difference, "largest": largest, "images": len(views)}


def photographs(weights: Weights) -> SquareViews:
    """Return scikit-learn's two photographs, whole and in quarters, at the encoder's size and normalised.

    For an encoder of other channels red, green and blue are repeated in turn.
    """
    size, views = weights.encoder.plan.image_size, []
    for image in load_sample_images().images:
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
        height, width = pixels.shape[2] // 2, pixels.shape[3] // 2
        quarters = [pixels[..., y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
        views += [F.interpolate(part, (size, size), mode="bilinear", antialias=True) for part in (pixels, *quarters)]
    x = torch.cat(views)
    if weights.form is None:
        return normalize(x, weights.mean, weights.std)
    colours = [channel % 3 for channel in range(weights.form.channels)]  # there are no photographs of such channels
    return normalize(x[:, colours], [0.5] * len(colours), [0.25] * len(colours))


def _require(name: str, packages: tuple[str, ...]) -> None:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise BadInputError(f"--format {name} needs {' and '.join(missing)}: pip install 'momentum-contrast[export]'")
