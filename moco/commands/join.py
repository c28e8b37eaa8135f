"""`moco join`: writes one encoder that has the features of several, whitened as suits the user's images."""

from collections.abc import Mapping
from typing import Any

from moco.core.encoder import encoder_tensors
from moco.data.ahead import watch_loading
from moco.data.brightness import warn_of_dark
from moco.data.catalog import load
from moco.data.decoding import limit_pixels
from moco.data.derived import make_readable, take_evenly
from moco.data.images import Images, hold
from moco.data.loader import choose_workers
from moco.data.splits import final_split, training_images
from moco.errors import BadInputError, counted
from moco.evaluation.again import keep_networks
from moco.evaluation.features import Encoding
from moco.evaluation.joining import join_chosen, join_encoders, plan_parts
from moco.evaluation.session import place_weights, say_notes
from moco.interop.checkpoints import Weights, load_weights
from moco.interop.config import JoinConfig
from moco.interop.published import short_name
from moco.runtime.checkpoint import save_tensors
from moco.runtime.device import preserve_torch_state, resolve_device, resolve_precision, set_precision, set_threads
from moco.runtime.fields import check
from moco.runtime.files import require_file_name

SUFFIX = ".safetensors"


def run(config: JoinConfig) -> dict[str, Any]:
    """`moco join`: join the encoders of `config.weights`, write the result to `config.out`, and say what it reaches."""
    result = write_joined(config)
    for name, side, score in zip(config.weights, result["image_sizes"], result["alone"], strict=False):
        print(f"{short_name(name)} at {side} pixels: kNN accuracy {score:.1f}%")
    print(_explain(config, result))
    return result


def write_joined(config: JoinConfig) -> dict[str, Any]:
    """Join the encoders of `config.weights`, write the result to `config.out`, and return its figures."""
    check(config)
    _require_out(config)
    device = resolve_device(config.device)
    with preserve_torch_state(device), watch_loading("Then give the command again"), limit_pixels(config.most_pixels):
        set_threads(config.threads)
        precision = resolve_precision(config.precision, device)
        set_precision(precision)
        weights = [load_weights(name) for name in config.weights]
        for one in weights:
            say_notes(one)
        sizes = config.image_sizes or [one.encoder.plan.image_size for one in weights]
        parts = plan_parts(config.weights, weights, sizes)
        start = join_encoders(weights, parts, max(sizes))
        images = _training_images(config, start)
        workers = choose_workers(config.workers, images)
        how = Encoding(max(sizes), start.mean, start.std, "plain", precision=precision, unit=False,
                       rgb=start.form is None, workers=workers)  # fmt: skip
        placed = [place_weights(one, device) for one in weights]
        found = join_chosen(placed, parts, images, how, config.knn_temperature)
        joined, choice = found.weights, found.choice
        keep_networks(joined.encoder, images, how, found.features)
        save_tensors(config.out, encoder_tensors(joined.encoder), {**joined.metadata, "kind": "backbone"})
    return {
        "out": str(config.out), "weights": list(config.weights), "image_sizes": list(sizes),
        "width": joined.encoder.num_features, "images": len(images),
        "alone": [round(score, 3) for score in found.alone],
        "top1": None if choice.top1 is None else round(choice.top1, 3),
        "whitens_parts": [one is not None for one in choice.parts], "whitens": choice.whole is not None,
    }  # fmt: skip


def _require_out(config: JoinConfig) -> None:
    if config.out.suffix != SUFFIX:
        raise BadInputError(f"--out {config.out}: expected a name that ends with {SUFFIX}")
    if config.out.exists():
        raise BadInputError(f"--out {config.out} exists: give another name")
    if not config.out.parent.is_dir():
        raise BadInputError(f"--out {config.out}: there is no folder {config.out.parent}: make it first")
    require_file_name("--out", config.out)


def _training_images(config: JoinConfig, weights: Weights) -> Images:
    """Those of the training images that no evaluation takes as queries, where they have labels."""
    splits = load(config.data, config.exclude, weights.white_level, weights.form)
    train = splits["train"]
    images = training_images(splits) if train.labels is None else final_split(splits)[0]
    warn_of_dark(images, config.data)
    return make_readable(hold(take_evenly(images, config.images)))


def _explain(config: JoinConfig, result: Mapping[str, Any]) -> str:
    """Say what the joined encoder is, and whether it pays."""
    written, top1, alone = f"{config.out}: {result['width']} numbers per image", result["top1"], result["alone"]
    if top1 is None:
        return (f"{written}; without labels, moco cannot tell whether joining pays: compare with moco explore and "
                f"moco search")  # fmt: skip
    best = max(range(len(alone)), key=lambda place: alone[place])
    name, gain = short_name(config.weights[best]), round(top1, 1) - round(alone[best], 1)
    verdict = f"joining does not pay here: {name} alone is as good"
    if gain > 0:
        verdict = (f"joining gains {gain:.1f} points over {name} alone; measure it on test images with moco knn "
                   f"--weights {config.out} --data {config.data}")  # fmt: skip
    of = f"of {counted(result['images'], 'training image')}, each classified by the others"
    return f"joined: kNN accuracy {top1:.1f}% {of}\n{written}\n{verdict}"
