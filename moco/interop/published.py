"""Published weights by name: `timm:NAME`, `timm:NAME@FILE` and `torchvision:NAME`, with the images they are for."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from moco.core.encoder import EncoderPlan
from moco.core.lean_imports import torchvision
from moco.core.networks import (
    TIMM,
    build_backbone,
    count_timm_bytes,
    require_timm_name,
    timm_config,
    timm_pooling,
    timm_tensors,
)
from moco.core.resnet import RESNETS
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.errors import BadInputError, quote
from moco.interop.architecture import match_tensors
from moco.interop.calling import call, given_flag
from moco.interop.contents import find_named, flatten
from moco.interop.descriptions import Description
from moco.interop.downloads import find_in_hub_cache, from_hub, from_url, place_of_url
from moco.interop.folders import VITS
from moco.interop.unpickling import load_foreign
from moco.interop.vits import rename_tensors, require_heads

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

TORCHVISION = "torchvision:"
FIRST_RELEASE = "IMAGENET1K_V1"
"""torchvision's name for its weights by the papers' schedule: 76.1% for resnet50. Two networks have others only."""
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
CLASSIFIERS = ("fc.", "classifier.", "head.", "heads.", "aux1.", "aux2.", "AuxLogits.")
"""Classifiers in torchvision's files, and what only serves to train with labels."""
OWN_NORMALISATION = ("googlenet", "inception_v3")
"""They turn torchvision's normalisation into one by 0.5 and 0.5 inside; here images are normalised so at once."""
DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")
"""Names in torchvision's files of DenseNets, from when a name could have a dot: `norm.1` is `norm1`."""


@dataclass(frozen=True)
class Published:
    """Weights that others trained with labels or without: the network, its tensors, and what images are for it."""

    plan: EncoderPlan
    tensors: Mapping[str, Tensor]
    """The tensors under the file's names."""
    is_classifiers: Callable[[str], bool]
    """Whether a name is of one that the whole network has and its backbone does not."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    origin: str
    where: str
    """The file, for messages."""

    def tensors_for(self, backbone: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
        """Return the backbone's tensors, all of them, and the names of those beside it but its classifier's.

        Raises BadInputError as `match_tensors` does.
        """
        expected = backbone.state_dict()
        found = self._named(backbone)
        own = {name: value for name, value in found.items() if name in expected or not self.is_classifiers(name)}
        return match_tensors(own, expected, f"{self.where}: not a whole {self.plan.arch}")

    def _named(self, backbone: nn.Module) -> Mapping[str, Tensor]:
        """Rename older files' tensors by timm's own function if names are missing."""
        rename = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
        if self.origin != "timm" or rename is None or backbone.state_dict().keys() <= self.tensors.keys():
            return self.tensors
        try:
            renamed = rename(dict(self.tensors), backbone)
        except (KeyError, AttributeError, RuntimeError, ValueError, TypeError, IndexError):  # of another network
            return self.tensors
        return {name: value for name, value in renamed.items() if isinstance(value, Tensor)}


def is_published(weights: str) -> bool:
    """Return whether `--weights` names published weights, which our own ResNets do not take."""
    return weights.startswith(TIMM) or (
        weights.startswith(TORCHVISION) and weights.removeprefix(TORCHVISION) not in RESNETS
    )


def short_name(weights: str) -> str:
    """Return what people call these weights: of timm:NAME@FILE the network's name, else all of it."""
    return weights.partition("@")[0] if weights.startswith(TIMM) else weights


def load_published(weights: str) -> Published:
    """Load the weights of a name, from the file that is given, from a cache, or downloaded.

    Raises BadInputError where the name is not known, or the file is not there, cannot be fetched or cannot be read.
    """
    return _of_timm(weights) if weights.startswith(TIMM) else _of_torchvision(weights)


def _of_timm(weights: str) -> Published:
    name, at, file = weights.partition("@")
    require_timm_name(name, given_flag(), tags=True)
    config = timm_config(name)
    path = Path(file) if at else _timm_file(name)
    if not path.is_file():
        raise BadInputError(f"{call(weights)}: there is no file {path}: expected a .safetensors or .pth of {name}")
    content = load_foreign(path)
    if content is None:
        raise BadInputError(
            f"{call(weights)}: {path} is damaged, or one of moco's own files: give one of moco's without the "
            f"network's name, {call(path)}"
        )
    arch = name.partition(".")[0]
    about = Description(arch.removeprefix(TIMM), tuple(config.mean), tuple(config.std), config.input_size[-1])
    return _with_timms_names(about, path, content)


def describe_timm(about: Description, path: Path, content: object) -> Published:
    """Return the weights of a file whose description, `about.arch`, names its network of torchvision or timm.

    Raises BadInputError where its features are pooled otherwise than that network's.
    """
    arch = about.arch or ""
    own, torchvisions = _flatten(about, path, content), torchvision.models.list_models(module=torchvision.models)
    if arch in torchvisions:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            expected, _ = build_backbone(arch, "imagenet", about.image_size or 224)
        tensors = find_named(expected.state_dict(), own, str(path))
        if expected.state_dict().keys() <= tensors.keys():
            require_pooling(about, "avg", path)
            plan = EncoderPlan(arch, image_size=about.image_size or 224)
            mean, std = about.mean or IMAGENET_MEAN, about.std or IMAGENET_STD
            return Published(plan, tensors, _is_classifiers, mean, std, "torchvision", str(path))
    require_timm_name(TIMM + arch, f"{path}:")
    require_pooling(about, timm_pooling(TIMM + arch), path)
    return _with_timms_names(about, path, content)


def require_pooling(about: Description, pooling: str | None, path: Path) -> None:
    """Raise BadInputError where features are pooled otherwise than by `pooling`, if that is known."""
    if about.pooling and pooling and about.pooling != pooling:
        raise BadInputError(
            f"{path}: a {about.arch} that pools its features by {quote(about.pooling)}: expected {quote(pooling)}"
        )


def _flatten(about: Description, path: Path, content: object) -> dict[str, Tensor]:
    tensors = flatten(content, str(path))
    return rename_tensors(tensors) if about.project == VITS else tensors


def _with_timms_names(about: Description, path: Path, content: object) -> Published:
    name = f"{TIMM}{about.arch}"
    whole, config = timm_tensors(name), timm_config(name)
    tensors = find_named(whole, _flatten(about, path, content), str(path))
    require_heads(tensors, path)
    plan = EncoderPlan(name, image_size=about.image_size or config.input_size[-1])
    mean, std = about.mean or tuple(config.mean), about.std or tuple(config.std)
    origin = "transformers" if about.project == VITS else "timm"
    return Published(plan, tensors, whole.__contains__, mean, std, origin, str(path))


def _timm_file(name: str) -> Path:
    """Return the file of timm's weights of a network."""
    config = timm_config(name)
    what, otherwise = call(name), f"{name}@FILE"
    if config.hf_hub_id:
        return from_hub(*_place_in_hub(config), what, otherwise)
    if isinstance(config.url, str) and config.url:
        return from_url(config.url, what, f", or give {otherwise}")
    raise BadInputError(f"{what}: timm publishes no weights of it: give {otherwise}, or train it, --arch {name}")


def _place_in_hub(config: "PretrainedCfg") -> tuple[str, str | None, Sequence[str]]:
    """Give repository, revision and possible files of timm's weights on huggingface.co."""
    repository, _, revision = str(config.hf_hub_id).partition("@")
    return repository, revision or None, (config.hf_hub_filename,) if config.hf_hub_filename else HUB_FILES


def is_on_this_machine(weights: str) -> bool:
    """Return whether `timm:NAME` or `torchvision:NAME` is in a cache, so that nothing need be downloaded."""
    if weights.startswith(TORCHVISION):
        return place_of_url(str(_entry(weights).url)).is_file()
    config = timm_config(weights)
    if config.hf_hub_id:
        return find_in_hub_cache(*_place_in_hub(config)) is not None
    return isinstance(config.url, str) and place_of_url(config.url).is_file()


def published_file(weights: str) -> Path:
    """Find or download the file of `timm:NAME` or `torchvision:NAME`.

    Raises BadInputError where it cannot be had, or has another digest than the one published.
    """
    return torchvision_file(weights) if weights.startswith(TORCHVISION) else _timm_file(weights)


def download_bytes(weights: str) -> int:
    """Compute about how many bytes the file of `timm:NAME` or `torchvision:NAME` has."""
    if weights.startswith(TORCHVISION):
        return int(_entry(weights).meta["_file_size"] * 2**20)
    return count_timm_bytes(weights)


def torchvision_file(weights: str) -> Path:
    """Find or download the file of `torchvision:ARCH`. Raises BadInputError if there is none, or it cannot be had."""
    return from_url(str(_entry(weights).url), call(weights))


def _of_torchvision(weights: str) -> Published:
    arch, preset = weights.removeprefix(TORCHVISION), _entry(weights).transforms()
    path = torchvision_file(weights)
    tensors = flatten(load_foreign(path), str(path))
    if arch.startswith("densenet"):
        tensors = {DENSENET.sub(r"\1\2", name): value for name, value in tensors.items()}
    normalised = arch in OWN_NORMALISATION
    mean, std = ((0.5,) * 3, (0.5,) * 3) if normalised else (tuple(preset.mean), tuple(preset.std))
    plan = EncoderPlan(arch, image_size=preset.crop_size[0])
    return Published(plan, tensors, _is_classifiers, mean, std, "torchvision", str(path))


def _is_classifiers(name: str) -> bool:
    return name.startswith(CLASSIFIERS)


def _entry(weights: str) -> Any:
    """What torchvision knows of its weights of a network."""
    arch = weights.removeprefix(TORCHVISION)
    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        similar = [TORCHVISION + name for name in get_close_matches(arch, known, n=3, cutoff=0.5)]
        hint = f"did you mean {' or '.join(similar)}?" if similar else "expected torchvision:resnet50 or its like"
        raise BadInputError(f"{call(weights)}: torchvision has no weights of that name: {hint}")
    entries = torchvision.models.get_model_weights(arch)
    return entries.__members__.get(FIRST_RELEASE, entries.DEFAULT)
