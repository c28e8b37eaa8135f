"""Backbones by name, without their classifiers: our ResNets and ViTs, torchvision's models, timm's as `timm:NAME`."""

from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from moco.core.bytes import PADDING, TRANSFORMERS, ByteTransformer
from moco.core.lean_imports import torchvision
from moco.core.ngrams import BAGS, NgramBag
from moco.core.resnet import RESNETS, ResNet, resnet_plan
from moco.core.stems import Stem
from moco.core.transformers import NAME, fix_sine_positions, vit_options
from moco.errors import BadInputError, one_line
from moco.shapes import Inputs

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

OF_BYTES = (*BAGS, *TRANSFORMERS)
"""The networks that take documents."""
TIMM = "timm:"
"""Prefix of timm's network names."""
REFUSALS = (RuntimeError, AssertionError, ValueError, TypeError, IndexError, ZeroDivisionError)
"""What networks raise for a size that they do not take."""


def build_backbone(arch: str, stem: Stem, image_size: int, channels: int = 3) -> tuple[nn.Module, int]:
    """Build a backbone without its classifier and say how many features it gives.

    Known are the ResNets of `resnet_plan`, the transformers of `vit_options`, `OF_BYTES`, every classification
    model of torchvision, and as timm:NAME every network of timm. Raises BadInputError for another name, or a small stem
    for a network that is not one of our ResNets.
    """
    plan = resnet_plan(arch)
    if plan is not None:
        resnet = ResNet(plan, stem, channels)
        return resnet, resnet.num_features
    if arch.startswith(TIMM):
        require_timm_name(arch, "--arch")
    elif not is_timms(arch) and not reads_bytes(arch):
        _require_torchvision_name(arch)
    if stem != "imagenet":
        raise BadInputError(f"--stem {stem} is for ResNets, and --arch is {arch}: give --stem imagenet")
    if is_timms(arch):
        return _timm_backbone(arch, image_size, channels)
    if reads_bytes(arch):
        of_bytes = NgramBag(BAGS[arch]) if arch in BAGS else ByteTransformer(TRANSFORMERS[arch])
        return of_bytes, of_bytes.num_features
    model, width = _torchvision_backbone(arch, image_size)
    if channels != 3:
        widen_first_convolution(model, channels, arch)
    return model, width


def is_timms(arch: str) -> bool:
    """Return whether timm builds the network: `timm:NAME`, or one of our own transformers."""
    return arch.startswith(TIMM) or NAME.fullmatch(arch) is not None


def widen_first_convolution(model: nn.Module, channels: int, arch: str) -> None:
    """Put a convolution of so many channels, with new weights, in place of the one that takes red, green and blue."""
    name, first = next(
        ((name, module) for name, module in model.named_modules()
         if isinstance(module, nn.Conv2d) and module.in_channels == 3), ("", None),
    )  # fmt: skip
    if first is None or first.groups != 1:
        raise BadInputError(f"--arch {arch} has no first convolution of three channels: give a ResNet or timm:NAME")
    other = nn.Conv2d(
        channels, first.out_channels, first.kernel_size, first.stride, first.padding, first.dilation,  # type: ignore[arg-type]
        bias=first.bias is not None,
    )  # fmt: skip
    if first.weight.device.type != "meta":
        nn.init.kaiming_normal_(other.weight, mode="fan_out", nonlinearity="relu")
    model.set_submodule(name, other)


def reads_bytes(arch: str) -> bool:
    """Return whether a network takes bytes of documents (N, L), and not images."""
    return arch in OF_BYTES


def example_input(arch: str, size: int, channels: int = 3) -> Inputs:
    """Make one input for a network: an image (1, C, size, size), or a span of `size` bytes (1, size)."""
    if reads_bytes(arch):
        return torch.full((1, size), PADDING + 1, dtype=torch.uint8)
    return torch.zeros(1, channels, size, size)


def _require_torchvision_name(arch: str) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        similar = get_close_matches(arch, list(dict.fromkeys((*RESNETS, *OF_BYTES, *known))), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(similar)}?" if similar else "give a ResNet or another torchvision model"
        raise BadInputError(f"--arch {arch} is not known: {hint} (widths: resnet18-w16, resnet50-2x)")


def _torchvision_backbone(arch: str, image_size: int) -> tuple[nn.Module, int]:
    options: dict[str, object] = {}
    if arch.startswith("vit_"):
        options["image_size"] = image_size
    if arch.startswith("maxvit"):
        options["input_size"] = (image_size, image_size)
    if arch in ("googlenet", "inception_v3"):
        options.update(aux_logits=False, init_weights=True)
    try:
        model = torchvision.models.get_model(arch, weights=None, **options)
    except (ValueError, AssertionError) as error:  # a transformer's patches must tile the image
        raise BadInputError(f"--arch {arch} does not take --image-size {image_size}: {error}") from error
    if arch.startswith("squeezenet"):  # its classifier is a convolution
        classifier = model.get_submodule("classifier.1")
        assert isinstance(classifier, nn.Conv2d)
        model.set_submodule("classifier.1", nn.Identity())
        return model, classifier.in_channels
    name, last = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1]
    model.set_submodule(name, nn.Identity())
    return model, last.in_features


# --- timm -----------------------------------------------------------------------------------------------------------


def require_timm_name(given: str, what: str, *, tags: bool = False) -> None:
    """Raise BadInputError where `timm:NAME` is not known to timm, with names that are like it.

    With `tags` NAME.TAG is known too, which names one of several weights of a network.
    """
    import timm  # here and below, so that who uses no network of timm does not wait for it

    name = given.removeprefix(TIMM)
    network = name.partition(".")[0]
    if name in timm.list_models(name) or (tags and name in timm.list_models(name, include_tags=True)):
        return
    if network in timm.list_models(network) and not tags:
        raise BadInputError(f"{what} {given}: .{name.partition('.')[2]} names weights: give {TIMM}{network}")
    among = timm.list_models(f"{network}.*", include_tags=True) or timm.list_models()
    similar = [TIMM + other for other in get_close_matches(name, among, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(similar)}?" if similar else "timm.list_models() says what there is"
    raise BadInputError(f"{what} {given}: timm {timm.__version__} has no network of that name: {hint}")


def is_known_name(name: str) -> bool:
    """Return whether a name, without `timm:`, is that of one of our ResNets, or of a network of torchvision or timm."""
    if (
        resnet_plan(name) is not None
        or reads_bytes(name)
        or name in torchvision.models.list_models(module=torchvision.models)
    ):
        return True
    import timm

    return name in timm.list_models(name)  # all of them would be sorted


def timm_pooling(arch: str) -> str | None:
    """Return how `timm:NAME` pools its features, as timm calls it; None where it does not say."""
    model = _on_meta(arch)
    pool = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    named = getattr(pool, "pool_type", pool)
    return named if isinstance(named, str) else None


def timm_config(arch: str) -> "PretrainedCfg":
    """Return timm's facts of `timm:NAME` or `timm:NAME.TAG`: size, mean and deviation of images, weights' address.

    Raises BadInputError where the images that it is made for are not square or not of three colours.
    """
    import timm
    from timm.models import PretrainedCfg

    config = timm.get_pretrained_cfg(arch.removeprefix(TIMM)) or PretrainedCfg()
    channels, height, width = config.input_size
    if channels != 3 or height != width:
        raise BadInputError(
            f"{arch} takes images of {channels} x {height} x {width}: expected square ones of 3 colours"
        )
    return config


@cache
def timm_options(arch: str, image_size: int) -> dict[str, Any]:
    """Return the options with which timm builds a network for images of `image_size` pixels.

    Convolutional networks take any size as they are. Transformers that can are built for the size of timm's weights and
    fit what they know of places to that of the images, so that their tensors do not depend on it (`dynamic_img_size`).
    Those of the others that do not take the size are built for it (`img_size`).
    """
    config = timm_config(arch)
    native = config.input_size[-1]
    if not config.fixed_input_size:
        return {}
    try:
        _on_meta(arch, dynamic_img_size=True)
        return {"dynamic_img_size": True, "img_size": native}
    except REFUSALS:  # mostly an argument that it does not have
        pass
    try:
        _on_meta(arch).eval()(torch.empty(1, 3, image_size, image_size, device="meta"))
        return {}
    except REFUSALS:
        return {"img_size": image_size}


@cache
def timm_tensors(arch: str) -> frozenset[str]:
    """Return the names of all tensors of a network of timm, its classifier's among them."""
    return frozenset(_on_meta(arch, num_classes=2).state_dict())


def count_timm_bytes(arch: str) -> int:
    """Count the bytes of all tensors of `timm:NAME` with its classifier, which is about the size of its file."""
    tensors = _on_meta(arch, num_classes=timm_config(arch).num_classes).state_dict().values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _on_meta(arch: str, num_classes: int = 0, **options: Any) -> nn.Module:
    """A network of timm without numbers, for which no random ones are drawn."""
    import timm

    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return timm.create_model(arch.removeprefix(TIMM), num_classes=num_classes, **options)


def timm_network(arch: str, image_size: int) -> tuple[str, dict[str, Any]]:
    """Give timm's name of a network that timm builds, and the options with which it does."""
    return vit_options(arch, image_size) or (arch.removeprefix(TIMM), timm_options(arch, image_size))


def _timm_backbone(arch: str, image_size: int, channels: int) -> tuple[nn.Module, int]:
    import timm

    name, options = timm_network(arch, image_size)
    native = timm_config(name).input_size[-1]
    try:
        more: dict[str, Any] = {} if channels == 3 else {"in_chans": channels}
        model = timm.create_model(name, num_classes=0, **options, **more)
    except REFUSALS as error:
        raise BadInputError(
            f"--arch {arch} does not take --image-size {image_size} ({reason(error)}): give --image-size {native}"
        ) from error
    width = getattr(model, "head_hidden_size", None) or getattr(model, "num_features", 0)
    if not isinstance(width, int) or width <= 0:
        raise BadInputError(f"--arch {arch} gives no pooled features: give another network")
    if not arch.startswith(TIMM):
        fix_sine_positions(model)
    return model, width


def reason(error: Exception) -> str:
    """Return what an error says, on one line; its kind where it says nothing."""
    return one_line(error) or type(error).__name__
