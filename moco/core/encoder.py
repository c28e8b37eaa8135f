"""The encoder: a backbone and a projection head, images (N, channels, H, W) -> unit vectors (N, C)."""

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moco.core.batchnorm import GroupedBatchNorm, group_batch_norms, record_together
from moco.core.depthwise import quicken_depthwise
from moco.core.folding import Foldable, find_foldable, fold_norms
from moco.core.joined import JOINED, JoinedBackbone, Part
from moco.core.maps import FINEST, Grids, count_numbers, find_grids
from moco.core.networks import TIMM, build_backbone, example_input, is_timms
from moco.core.precision import AffineMap, at_least_fp32
from moco.core.resnet import ResNet, resnet_plan
from moco.core.sizes import require_size, use_evaluation_mode
from moco.core.stems import Stem
from moco.errors import BadInputError
from moco.shapes import Features, Inputs, require_same_shapes

Head = Literal["linear", "mlp", "mlp-bn"]
Output = Literal["backbone", "plain", "head"]
"""Which features to use: the backbone's, whitened if the encoder whitens; the plain ones before that; or the head's
unit vectors."""
PREDICTOR = "predictor."
"""Prefix of the prediction head's tensors, which only checkpoints have."""
WHITENING = "whitening."
"""Prefix of the tensors that whiten the backbone's features; in files it stands behind that of the head, which all who
read only the backbone pass over."""
LARGEST = 1 << 16
"""Largest size in a plan."""


@dataclass(frozen=True)
class EncoderPlan:
    """The settings that build an encoder; stored beside its weights."""

    arch: str = "resnet50"
    stem: Stem = "imagenet"
    head: Head = "linear"
    feature_dim: int = 128
    hidden_dim: int | None = None
    image_size: int = 224
    channels: int = 3
    """Channels of the images; 3 are red, green and blue, unless the weights' metadata says otherwise."""
    parts: tuple[Part, ...] = ()
    """The networks that are side by side where `arch` is "joined"."""

    def __post_init__(self) -> None:
        """Raise BadInputError for a value that no encoder has: a plan may come from a file."""
        if (self.arch == JOINED) != bool(self.parts):
            raise BadInputError(f"an encoder with arch {str(self.arch)[:40]!r} has {len(self.parts)} parts")
        if not isinstance(self.arch, str) or self.stem not in get_args(Stem) or self.head not in get_args(Head):
            raise BadInputError(
                f"there is no encoder with arch {self.arch!r}, stem {self.stem!r} and head {self.head!r}"
            )
        for name in ("feature_dim", "hidden_dim", "image_size", "channels"):
            value = getattr(self, name)
            if (value is not None or name != "hidden_dim") and (type(value) is not int or not 0 < value <= LARGEST):
                raise BadInputError(f"{name} is {value!r}: expected a whole number from 1 to {LARGEST}")


class Encoder(nn.Module):
    """f: images -> q = normalise(head(backbone(x))) (v1, 3.1-3.3; the MLP head is v2's, section 2).

    The head is one linear layer to C = feature_dim; linear - ReLU - linear through hidden_dim (2048 in the paper, which
    is the width of ResNet-50's features; by default the backbone's own); or three layers with batch normalisation (v3).
    """

    def __init__(self, plan: EncoderPlan, backbone: tuple[nn.Module, int] | None = None) -> None:
        """Build the plan's network, or take a backbone that is no network by name, with how many features it gives."""
        super().__init__()
        self.plan = plan
        self.backbone, self.num_features = backbone or _build(plan)
        quicken_depthwise(self.backbone)
        self._norms: list[GroupedBatchNorm] = []
        self._foldable: list[Foldable] = []
        hidden = plan.hidden_dim or self.num_features
        self.head: nn.Module
        if plan.head == "linear":
            self.head = nn.Linear(self.num_features, plan.feature_dim)
        elif plan.head == "mlp":
            self.head = nn.Sequential(
                nn.Linear(self.num_features, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, plan.feature_dim)
            )
        else:
            self.head = _normalised_mlp(self.num_features, hidden, hidden, plan.feature_dim)
        self.predictor: nn.Module = nn.Identity()
        self.whitening: nn.Module = nn.Identity()
        self.trains_backbone = True
        """False lets gradients reach the head alone."""

    def forward(self, x: Inputs) -> Features:
        """Encode x, views (N, 3, H, W) or what else the backbone takes, into unit vectors.

        The normalisation is at least fp32 whatever the precision.
        """
        if self.plan.arch.startswith(TIMM):  # some of its networks cut an image into windows or tokens first
            for norm in self._norms:
                norm.images = len(x)
        foldable = self._foldable if self.training and not torch.compiler.is_compiling() else []
        with record_together(self._norms), fold_norms(foldable):
            with torch.set_grad_enabled(self.trains_backbone and torch.is_grad_enabled()):
                features = self.backbone(x)
            z = self.predictor(self.head(features))
        return F.normalize(at_least_fp32(z))

    def add_predictor(self) -> None:
        """Let a prediction head of two layers follow the projection head (v3, Algorithm 1)."""
        size = self.plan.feature_dim
        self.predictor = _normalised_mlp(size, self.plan.hidden_dim or self.num_features, size)

    def momentum_copy(self) -> "Encoder":
        """Return f_k as it starts: a copy of the weights, without gradient and without the prediction head."""
        f_k = copy.deepcopy(self).requires_grad_(False)
        f_k.predictor = nn.Identity()
        f_k._norms = _grouped_norms(f_k)
        return f_k

    def set_bn_group_size(self, size: int) -> int:
        """Normalise in BN groups of `size` consecutive images (0: all together); return how many layers do.

        Raises BadInputError for a kind of batch normalisation that cannot.
        """
        count = group_batch_norms(self, size)
        self._norms = _grouped_norms(self)
        return count

    def fold_kept_norms(self) -> None:
        """Compute batch normalisation by kept statistics (--bn keep, frozen) inside the convolutions of training."""
        with use_evaluation_mode(self.backbone):
            self._foldable = find_foldable(self.backbone, self._blank(self.plan.image_size))

    def add_whitening(self, numbers: int | None = None, grid: int = 1) -> None:
        """Let an affine map follow the backbone wherever features are compared; the head and training do without.

        It gives so many numbers, by default as many as it gets: the features, or with a grid of k x k cells the
        averages of the backbone's last map over each of these.
        """
        gets = count_numbers(self.num_features, (grid,))
        device = next(self.parameters()).device
        self.whitening = AffineMap(gets, numbers or gets, device=device).requires_grad_(False)

    @property
    def whitens(self) -> bool:
        """Tell whether it whitens its features."""
        return isinstance(self.whitening, nn.Linear)

    @property
    def grid(self) -> int:
        """Return over how many cells in a row the map is averaged before it is whitened; 1: over the whole."""
        gets = self.whitening.in_features if isinstance(self.whitening, nn.Linear) else self.num_features
        return math.isqrt(gets // self.num_features)

    def grids(self, size: int) -> tuple[int, ...]:
        """List the grids over which the map of images of this size can be averaged: 1, and others if there is a map."""
        if next(self.backbone.parameters(), None) is None:  # raw pixels
            return (1,)
        with use_evaluation_mode(self.backbone):
            return find_grids(self.backbone, self.num_features, self._blank(size))

    def reading(self, output: Output) -> nn.Module:
        """Return the module that turns images into an output."""
        if output == "head":
            return self
        if output == "plain" or not self.whitens:
            return self.backbone
        averaged = self.backbone if self.grid == 1 else Grids(self.backbone, (self.grid,))
        return nn.Sequential(averaged, self.whitening)

    def width(self, output: Output) -> int:
        """Return how many numbers an output has."""
        if output == "head":
            return self.plan.feature_dim
        if output == "backbone" and isinstance(self.whitening, nn.Linear):
            return self.whitening.out_features
        return self.num_features

    def set_recompute(self, recompute: bool) -> None:
        """Keep little for the gradient, and compute it once more. Raises BadInputError where it is no ResNet."""
        if isinstance(self.backbone, ResNet):
            self.backbone.recompute = recompute
        elif recompute:
            raise BadInputError(f"--recompute is for ResNets, and --arch is {self.plan.arch}: leave it out")

    def require_size(self, size: int, flag: str) -> None:
        """Raise BadInputError, with a near size that fits, where the backbone takes no square images of this one."""
        require_size(self.backbone, self.plan.arch, self.num_features, self._blank, size, self.plan.image_size, flag)

    def _blank(self, size: int) -> Tensor:
        """One image of zeros, or one span."""
        example = example_input(self.plan.arch, size, self.plan.channels)
        return example.to(next(self.backbone.parameters()).device)


def _build(plan: EncoderPlan) -> tuple[nn.Module, int]:
    """The backbone of a plan, and how many features it gives."""
    if not plan.parts:
        return build_backbone(plan.arch, plan.stem, plan.image_size, plan.channels)
    joined = JoinedBackbone(plan.parts, plan.image_size, plan.channels)
    return joined, joined.num_features


def _normalised_mlp(*widths: int) -> nn.Sequential:
    """Linear layers between these widths, batch normalisation behind each and ReLU between them (v3, section 3)."""
    layers: list[nn.Module] = []
    for width, following in itertools.pairwise(widths):
        layers += [nn.Linear(width, following, bias=False), nn.BatchNorm1d(following), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def _grouped_norms(module: nn.Module) -> list[GroupedBatchNorm]:
    return [norm for norm in module.modules() if isinstance(norm, GroupedBatchNorm)]


def encoder_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """Return the encoder's tensors: the backbone's under its library's names, the head's under `head_prefix`."""
    return file_names(encoder.state_dict(), encoder.plan.arch)


def file_names(tensors: Mapping[str, Tensor], arch: str) -> dict[str, Tensor]:
    """Return the tensors of an encoder's state, or of as much of it as there is, as files name them."""
    prefixes = {"head.": head_prefix(arch), WHITENING: head_prefix(arch) + WHITENING, "backbone.": ""}
    named = {}
    for name, value in tensors.items():
        prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        if not name.startswith(PREDICTOR):
            named[prefixes.get(prefix, "") + name.removeprefix(prefix)] = value
    return named


def load_encoder_tensors(encoder: Encoder, tensors: Mapping[str, Tensor]) -> None:
    """Fill the encoder with tensors named as by `encoder_tensors`; a prediction head stays as it is.

    Raises BadInputError naming the first tensor that is missing, unexpected or of another shape.
    """
    add_own_whitening(encoder, tensors)
    own = encoder_tensors(encoder)
    require_same_shapes(own, tensors, f"weights for {encoder.plan.arch}")
    state = encoder.state_dict()  # with the versions of its modules, which some refuse to be loaded without
    filled = (name for name in state if not name.startswith(PREDICTOR))
    state.update(zip(tuple(filled), (tensors[name] for name in own), strict=True))
    encoder.load_state_dict(state)


def add_own_whitening(encoder: Encoder, tensors: Mapping[str, Tensor]) -> None:
    """Let an encoder have a whitening, of the same size, if these tensors of it have one, and none otherwise."""
    encoder.whitening = nn.Identity()
    prefix = head_prefix(encoder.plan.arch) + WHITENING
    if not any(name.startswith(prefix) for name in tensors):
        return
    weight = tensors.get(f"{prefix}weight", torch.empty(0))
    numbers, gets = weight.shape if weight.dim() == 2 else (0, 0)
    grid = next((k for k in range(1, FINEST + 1) if gets == count_numbers(encoder.num_features, (k,))), 1)
    encoder.add_whitening(numbers if grid > 1 and 0 < numbers <= gets else None, grid)


def build_filled_encoder(plan: EncoderPlan, tensors: Mapping[str, Tensor]) -> Encoder:
    """Build the encoder of a plan with these weights, as `load_encoder_tensors` takes them.

    A network of another size than the weights are is refused before it takes memory: a plan may come from a file.
    """
    if resnet_plan(plan.arch) is not None or is_timms(plan.arch):
        with torch.device("meta"):
            hollow = Encoder(plan)
            add_own_whitening(hollow, tensors)
            require_same_shapes(encoder_tensors(hollow), tensors, f"weights for {plan.arch}")
    encoder = Encoder(plan)
    load_encoder_tensors(encoder, tensors)
    return encoder


def head_prefix(arch: str) -> str:
    """Return the prefix of the projection head's tensors; timm's networks have their own `head`."""
    return "projection." if is_timms(arch) else "head."


def parameter_count(module: nn.Module) -> int:
    """Return how many numbers are trained."""
    return sum(parameter.numel() for parameter in module.parameters())
