"""The encoder: a backbone and a projection head, images (N, 3, H, W) -> unit vectors (N, C)."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from moco.core.batchnorm import group_batch_norms
from moco.core.precision import at_least_fp32
from moco.core.resnet import RESNETS, ResNet, resnet_plan
from moco.errors import BadInputError
from moco.shapes import Features, Views, require_same_shapes

Stem = Literal["cifar", "imagenet"]
Head = Literal["linear", "mlp"]
Output = Literal["backbone", "head"]
"""What features are read off: the backbone's, or the head's unit vectors."""
LARGEST = 1 << 16
"""Of the sizes in a plan."""


@dataclass(frozen=True)
class EncoderPlan:
    """What is needed to build an encoder; stored beside its weights."""

    arch: str = "resnet50"
    stem: Stem = "imagenet"
    head: Head = "linear"
    feature_dim: int = 128
    hidden_dim: int | None = None
    image_size: int = 224

    def __post_init__(self) -> None:
        """Raise BadInputError for a value that no encoder has: a plan may come from a file."""
        if not isinstance(self.arch, str) or self.stem not in get_args(Stem) or self.head not in get_args(Head):
            raise BadInputError(f"an encoder of arch {self.arch!r}, stem {self.stem!r} and head {self.head!r}: no such")
        for name in ("feature_dim", "hidden_dim", "image_size"):
            value = getattr(self, name)
            if (value is not None or name != "hidden_dim") and (type(value) is not int or not 0 < value <= LARGEST):
                raise BadInputError(f"{name} is {value!r}: expected a whole number from 1 to {LARGEST}")


class Encoder(nn.Module):
    """f: images -> q = normalise(head(backbone(x))) (v1, 3.1-3.3; the MLP head is v2's, section 2).

    The head is one linear layer to C = feature_dim, or linear - ReLU - linear through hidden_dim (2048 in the paper,
    which is the width of ResNet-50's features; by default the backbone's own).
    """

    def __init__(self, plan: EncoderPlan) -> None:
        super().__init__()
        self.plan = plan
        self.backbone, self.num_features = build_backbone(plan.arch, plan.stem, plan.image_size)
        hidden = plan.hidden_dim or self.num_features
        self.head: nn.Module
        if plan.head == "linear":
            self.head = nn.Linear(self.num_features, plan.feature_dim)
        else:
            self.head = nn.Sequential(
                nn.Linear(self.num_features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, plan.feature_dim)
            )

    def forward(self, x: Views) -> Features:
        """Encode views x into unit vectors; the normalisation is at least fp32 whatever the precision."""
        return F.normalize(at_least_fp32(self.head(self.backbone(x))))

    def set_bn_group_size(self, size: int) -> int:
        """Normalise in BN groups of `size` consecutive images (0: all together); return how many layers do."""
        return group_batch_norms(self.backbone, size)

    def width(self, output: Output) -> int:
        """How many numbers an output has."""
        return self.plan.feature_dim if output == "head" else self.num_features

    def set_recompute(self, recompute: bool) -> None:
        """Keep little for the gradient, and compute it once more. Raises BadInputError where it is no ResNet."""
        if isinstance(self.backbone, ResNet):
            self.backbone.recompute = recompute
        elif recompute:
            raise BadInputError(f"--recompute is for ResNets, and --arch is {self.plan.arch}: leave it out")


def build_backbone(arch: str, stem: Stem, image_size: int) -> tuple[nn.Module, int]:
    """Build a backbone without its classifier and say how many features it gives.

    Known are the ResNets of `resnet_plan` and every classification model of torchvision, by name.
    Raises BadInputError for another name, or a small stem for a model that is not a ResNet.
    """
    plan = resnet_plan(arch)
    if plan is not None:
        resnet = ResNet(plan, stem)
        return resnet, resnet.num_features
    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        similar = get_close_matches(arch, list(dict.fromkeys((*RESNETS, *known))), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(similar)}?" if similar else "give a ResNet or another torchvision model"
        raise BadInputError(f"--arch {arch} is not known: {hint} (widths: resnet18-w16, resnet50-2x)")
    if stem == "cifar":
        raise BadInputError(f"--stem cifar is for ResNets, and --arch is {arch}: give --stem imagenet")
    return _torchvision_backbone(arch, image_size)


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


def encoder_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's tensors: the backbone's under torchvision's own names, the head's under `head.`."""
    return {name.removeprefix("backbone."): value for name, value in encoder.state_dict().items()}


def load_encoder_tensors(encoder: Encoder, tensors: Mapping[str, Tensor]) -> None:
    """Fill the encoder with tensors named as by `encoder_tensors`.

    Raises BadInputError naming the first tensor that is missing, unexpected or of another shape.
    """
    require_same_shapes(encoder_tensors(encoder), tensors, f"weights for {encoder.plan.arch}")
    renamed = {name if is_head(name) else f"backbone.{name}": value for name, value in tensors.items()}
    encoder.load_state_dict(renamed)


def filled_encoder(plan: EncoderPlan, tensors: Mapping[str, Tensor]) -> Encoder:
    """The encoder of a plan with these weights, as `load_encoder_tensors` takes them.

    A ResNet of another size than the weights are is refused before it takes memory: a plan may come from a file.
    """
    if resnet_plan(plan.arch) is not None:
        with torch.device("meta"):
            require_same_shapes(encoder_tensors(Encoder(plan)), tensors, f"weights for {plan.arch}")
    encoder = Encoder(plan)
    load_encoder_tensors(encoder, tensors)
    return encoder


def is_head(name: str) -> bool:
    """Whether a name of `encoder_tensors` belongs to the projection head."""
    return name.startswith("head.")


def parameter_count(module: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in module.parameters())
