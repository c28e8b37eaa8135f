"""Initial weights from --init-weights, and the settings that they decide unless flags do."""

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from moco.core.dictionary import Dictionary, Queue
from moco.core.encoder import Encoder, EncoderPlan, head_prefix, load_encoder_tensors
from moco.core.pair import EncoderPair
from moco.core.whitening import LEAST_SHARE
from moco.data.forms import AUTO, Form
from moco.errors import BadInputError, counted
from moco.interop.checkpoints import Weights, load_weights
from moco.pretraining.config import PretrainConfig
from moco.pretraining.recipes import OF_WEIGHTS, TEACHERS_OWN
from moco.runtime import distributed
from moco.runtime.checkpoint import checkpoints
from moco.runtime.configfile import from_json
from moco.runtime.fields import flag, require
from moco.runtime.files import read_bounded
from moco.shapes import require_same_shapes


def with_weights(config: PretrainConfig) -> PretrainConfig:
    """Settle what the flags leave open of the network and its images: that of the weights to start from.

    A run that goes on has it in its settings. `--init-weights teacher` stands for those of the teacher. Raises
    BadInputError where there are no such weights.
    """
    if config.init_weights == TEACHERS_OWN:
        if config.teacher is None:
            raise BadInputError(f"--init-weights {TEACHERS_OWN} starts from the weights of --teacher: give --teacher W")
        config = dataclasses.replace(config, init_weights=config.teacher)
    config = as_begun(config) or config
    left_open = [name for name in OF_WEIGHTS if getattr(config, name) is None]
    if not left_open:
        return _with_small_views(config)
    if config.init_weights is None:
        raise BadInputError(f"{flag(left_open[0])} is left open: give a value, or --init-weights, which have one")
    weights = load_weights(config.init_weights, flag_of(config))
    if weights.encoder.plan.parts:
        raise BadInputError(
            f"{flag_of(config)} {config.init_weights}: joins several networks, which moco does not train further: give "
            f"one of them"
        )
    return _with_small_views(dataclasses.replace(config, **{name: _own(weights)[name] for name in left_open}))


def as_begun(config: PretrainConfig) -> PretrainConfig | None:
    """Settle what weights decided as the run in `out` has it, which goes on from a checkpoint and needs them no more.

    Returns None where it has no checkpoint, or did not begin with these weights. Checkpoints may be damaged: if all
    are, the run is refused, and does not begin anew.
    """
    path = config.out / "config.json"
    if {config.init_weights, config.teacher} == {None} or not path.is_file() or not checkpoints(config.out):
        return None
    begun = from_json(PretrainConfig, read_bounded(path), path)
    if (begun.init_weights, begun.teacher) != (config.init_weights, config.teacher):
        return None
    names = {name for name in (*OF_WEIGHTS, "white_level") if getattr(config, name) is None}
    names |= {"view_size"} if config.small_views and config.view_size is None else set()
    names |= {"channels", "bands", "no_data"} if config.channels == AUTO and not config.bands else set()
    return dataclasses.replace(config, **{name: getattr(begun, name) for name in names})


def as_built(config: PretrainConfig) -> PretrainConfig:
    """Return the settings by which encoders are built: without weights where a checkpoint replaces all of them.

    The first rank decides, for whitening is a matter of all.
    """
    going_on = distributed.from_first(lambda: as_begun(config) is not None)
    return dataclasses.replace(config, init="kaiming", init_weights=None) if going_on else config


def describe_begun(config: PretrainConfig, step: int) -> str:
    """Say of a run that goes on which weights it began with."""
    begun = config.init_weights
    return "" if begun is None else f"\nthe run began with {begun} and goes on from its checkpoint of step {step}"


def encoder_plan(config: PretrainConfig) -> EncoderPlan:
    """Return the encoder that a config asks for, with nothing of it left open."""
    arch, size, head = require(config.arch), require(config.image_size), config.head
    channels = len(require(config.mean))
    return EncoderPlan(arch, require(config.stem), head, config.feature_dim, config.hidden_dim, size, channels)


def _with_small_views(config: PretrainConfig) -> PretrainConfig:
    """Settle the size of small views: near 4/7 of the weights' own size, at most that of whole images.

    It is a multiple of 16 or else, for patches of 14 pixels, of 14. Networks that take neither keep their size. Far
    below its own size a network knows little: at 80 pixels one of 224 became worse (docs/measurements.md).
    """
    if not config.small_views or config.view_size is not None:
        return config
    size = own = require(config.image_size)
    if config.init_weights is not None:
        own = load_weights(config.init_weights, flag_of(config)).encoder.plan.image_size
    encoder = Encoder(encoder_plan(config))
    for multiple in (16, 14):
        view = min(size, max(multiple, round(own * 4 / (7 * multiple)) * multiple))
        with contextlib.suppress(BadInputError):
            encoder.require_size(view, flag("view_size"))
            return dataclasses.replace(config, view_size=view)
    return config


def flag_of(config: PretrainConfig) -> str:
    """Return the flag that names the weights to start from, else those of a teacher."""
    return flag("teacher" if config.init_weights in (None, config.teacher) else "init_weights")


def _own(weights: Weights) -> dict[str, Any]:
    """What weights say of themselves, by the fields of OF_WEIGHTS."""
    plan = weights.encoder.plan
    return dict(zip(OF_WEIGHTS, (plan.arch, plan.stem, plan.image_size, weights.mean, weights.std), strict=True))


def fill(encoder: Encoder, init_weights: str) -> None:
    """Give an encoder the backbone of these weights, which must fit in full, and their head where it fits too."""
    weights, plan = load_weights(init_weights, flag("init_weights")), encoder.plan
    given = weights.encoder
    tensors = given.backbone.state_dict()
    if given.plan.channels != plan.channels:
        if weights.form is not None:
            raise BadInputError(
                f"--init-weights {init_weights}: takes {weights.form.kind}, and the images have "
                f"{counted(plan.channels, 'channel')}: expected the same, or weights of RGB"
            )
        tensors = adapt_channels(tensors, encoder.backbone.state_dict())
    try:
        require_same_shapes(encoder.backbone.state_dict(), tensors, "tensor")
    except BadInputError as error:
        hint = "leave --arch and --stem out, to take theirs"
        if given.plan.arch == plan.arch:
            same = given.plan.stem == plan.stem
            hint = f"give --image-size {given.plan.image_size}" if same else f"give --stem {given.plan.stem}"
        raise BadInputError(
            f"--init-weights {init_weights}: a {given.plan.arch} with the {given.plan.stem} stem, for images of "
            f"{given.plan.image_size} pixels, which does not fit --arch {plan.arch} --stem {plan.stem} --image-size "
            f"{plan.image_size} ({error}): {hint}"
        ) from error
    head = given.head if _same_head(encoder, given) else encoder.head
    named = {head_prefix(plan.arch) + name: value for name, value in head.state_dict().items()}
    load_encoder_tensors(encoder, {**tensors, **named})


def adapt_channels(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fit a first layer of red, green and blue to the channels of `wanted`: for one channel the three are added.

    For more they are repeated in turn and scaled by 3 / channels, so that the layer gives values as large as before.
    """
    adapted = dict(tensors)
    for name, own in wanted.items():
        given = tensors.get(name)
        if given is None or given.dim() != 4 or own.dim() != 4 or given.shape == own.shape or given.shape[1] != 3:
            continue
        channels = own.shape[1]
        repeated = given.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
        adapted[name] = given.sum(1, keepdim=True) if channels == 1 else repeated
    return adapted


def adapt_weights(weights: Weights, form: Form | None) -> Weights:
    """Return weights as they see images of this form: those of RGB with a first layer for its channels.

    Weights of channels stay as they are, and all do where the images are bytes of RGB (`form` is None).
    """
    if form is None or weights.form is not None:
        return weights
    encoder = Encoder(dataclasses.replace(weights.encoder.plan, channels=form.channels))
    tensors = adapt_channels(weights.encoder.backbone.state_dict(), encoder.backbone.state_dict())
    encoder.head = weights.encoder.head
    encoder.backbone.load_state_dict(tensors)
    return dataclasses.replace(weights, encoder=encoder, mean=form.mean, std=form.std, form=form)


def has_whitened_head(config: PretrainConfig, encoder: Encoder) -> bool:
    """Tell whether --init whitened is about the head: a new one on given weights, without a teacher to imitate."""
    if config.init != "whitened" or config.init_weights is None or config.teacher is not None:
        return False
    return not _same_head(encoder, load_weights(config.init_weights, flag_of(config)).encoder)


def _describe_new_head(config: PretrainConfig, encoder: Encoder, images: int, *, whitened: bool) -> str:
    if not has_whitened_head(config, encoder):
        return ", its head is new"
    items = "documents" if config.pretext == "text" else "images"
    enough, used = math.ceil(LEAST_SHARE * encoder.num_features), min(encoder.num_features, images)
    if images < enough:
        why = f"takes at least {enough} {items}, and there are {images}"
    elif any(isinstance(layer, nn.Linear) and layer.bias is None for layer in encoder.head.modules()):
        why = f"needs layers with biases, and --head {config.head} has some without"
    elif not whitened:
        why = f"needs features that differ, and those of the first {used} {items} do not"
    else:
        return ", its head is new (--init whitened)"
    return f", its head is new and random (--init whitened {why})"


def load_f_k_and_queue(
    config: PretrainConfig, pair: EncoderPair, dictionary: Dictionary, images: int, *, whitened: bool = True
) -> str:
    """Take f_k and the queue of `init_weights` too, where its file has them and they fit; say where each comes from.

    `images` is the number of images to train on, and `whitened` whether a new head reads whitened features.
    """
    if config.init_weights is None:
        return ""
    weights = load_weights(config.init_weights, flag_of(config))
    same_head = _same_head(pair.encoder, weights.encoder)
    same_channels = pair.encoder.plan.channels == weights.encoder.plan.channels
    given = [flag(name) for name, value in _own(weights).items() if getattr(config, name) != value]
    origin = f"\nf_q is that of {config.init_weights} ({weights.origin})"
    origin += "" if same_head else _describe_new_head(config, pair.encoder, images, whitened=whitened)
    origin += "; network, image size, mean and std come from these weights"
    origin += f", except {', '.join(given)}" if given else ""
    origin += "; the encoder of --partner starts as f_q does" if config.partner_encoder == "own" else ""
    if not same_channels:
        channels = pair.encoder.plan.channels
        how = "the sum of its three channels" if channels == 1 else (
            f"its three channels in turn, scaled by 3 / {channels}"
        )  # fmt: skip
        origin += f"; the first layer takes {counted(channels, 'channel')}: {how}"
    if pair.f_k is not None:
        if same_head and same_channels and weights.momentum is not None:
            load_encoder_tensors(pair.f_k, weights.momentum)
            origin += "; f_k is the file's"
        else:
            origin += "; f_k, which the file does not have for this head, starts as a copy of f_q"
    if isinstance(dictionary, Queue):
        if same_head and weights.queue is not None and weights.queue.shape == dictionary.keys.shape:
            dictionary.keys.copy_(weights.queue)
            dictionary.oldest = weights.pointer
            origin += "; the queue is the file's"
        else:
            found = (
                "none" if weights.queue is None else f"{tuple(weights.queue.shape)}, for another head or --queue-size"
            )
            origin += f"; the queue starts with {dictionary.size} random keys (the file's: {found})"
    return "\n".join((origin, *weights.notes))


def _same_head(own: Encoder, given: Encoder) -> bool:
    """Whether two projection heads have tensors of the same names and shapes."""
    shapes = [{name: value.shape for name, value in encoder.head.state_dict().items()} for encoder in (own, given)]
    return shapes[0] == shapes[1]
