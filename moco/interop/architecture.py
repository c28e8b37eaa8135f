"""Which ResNet a set of tensors is, from their names and shapes alone, whether it is all of it, and of use."""

import contextlib
import re
from collections.abc import Mapping

import torch
from torch import Tensor
from torchvision.models.resnet import BasicBlock, Bottleneck

from moco.core.encoder import Encoder
from moco.core.networks import REFUSALS, TIMM, example_input, reads_bytes
from moco.core.resnet import RESNETS, ResNet, ResNetPlan, resnet_plan
from moco.core.sizes import use_evaluation_mode
from moco.core.stems import Stem
from moco.errors import BadInputError
from moco.interop.contents import MARKS, first_names

FIRST: dict[tuple[int, ...], Stem] = {(3, 7, 7): "imagenet", (3, 3, 3): "cifar"}
"""Input channels and kernel of the first convolution."""
STANDARD_WIDTH = 64
ANTIALIASED = {"resnet18": ("resnetblur18",), "resnet50": ("resnetaa50", "resnetblur50")}
"""Plain ResNets, and those of timm with the same tensors: they smooth before each stride, which no tensor shows."""


def infer(tensors: Mapping[str, Tensor], where: str) -> tuple[str, Stem]:
    """Return the name and stem of the ResNet that is most like these tensors (under torchvision's names).

    Depth is counted; width, groups and the width of a group follow from shapes. Raises BadInputError where the first
    convolution is no ResNet's.
    """
    first = tuple(tensors["conv1.weight"].shape) if "conv1.weight" in tensors else ()
    stem = FIRST.get(first[1:])
    if stem is None or not 1 <= first[0] < 10000:
        raise BadInputError(
            f"{where}: the first convolution's weight, conv1.weight, is {first or 'missing'}: expected (width, 3, 7, 7)"
            f" or (width, 3, 3, 3)"
        )
    plan = _plan(tensors, first[0])

    def distance(name: str) -> tuple[bool, int, int, int]:
        known = RESNETS[name]
        blocks = sum(abs(a - b) for a, b in zip(known.layers, plan.layers, strict=True))
        groups, width = abs(known.groups - plan.groups), abs(known.width_per_group - plan.width_per_group)
        return known.block is not plan.block, blocks, groups, width

    name = min(RESNETS, key=distance)
    if plan.width == STANDARD_WIDTH:
        return name, stem
    times, rest = divmod(plan.width, STANDARD_WIDTH)
    return (f"{name}-w{plan.width}" if rest or times > 99 else f"{name}-{times}x"), stem


def _plan(tensors: Mapping[str, Tensor], width: int) -> ResNetPlan:
    """What the names and shapes say; where some are missing, what the others say."""
    found = [re.match(r"layer([1-4])\.([0-9]{1,3})\.", name) for name in tensors]
    numbers = {(int(match[1]), int(match[2])) for match in found if match is not None}
    counts = [sum(1 for stage, _ in numbers if stage == number) for number in (1, 2, 3, 4)]
    layers = (counts[0], counts[1], counts[2], counts[3])
    if not any(name.endswith(".conv3.weight") for name in tensors):
        return ResNetPlan(BasicBlock, layers, width=width)
    inner = tensors.get("layer1.0.conv2.weight")
    if inner is None or inner.dim() != 4 or min(inner.shape[:2]) < 1:
        return ResNetPlan(Bottleneck, layers, width=width)
    channels, per_group = inner.shape[:2]
    return ResNetPlan(Bottleneck, layers, channels // per_group, per_group * STANDARD_WIDTH // width, width)


def note_plain(arch: str, stem: Stem, where: str) -> tuple[str, ...]:
    """Say that torchvision's own ResNet was assumed, where others have the same tensors."""
    if stem != "imagenet":
        return ()
    others = ANTIALIASED.get(arch, ())
    given = "".join(f"{TIMM}{other}@{where} or " for other in others)
    said = f"tensors {' and '.join(others)} and one without it have" if others else "tensors one without it has"
    return (
        f"{where}: read as a plain {arch} with max-pooling, whose {said} too: give {given}stem=imagenet-unpooled@"
        f"{where} where it is one",
    )


def complete_tensors(
    tensors: Mapping[str, Tensor], arch: str, stem: Stem, where: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Give the tensors as that ResNet takes them, and what is left aside. Raises BadInputError as `match_tensors`."""
    plan = resnet_plan(arch)
    assert plan is not None
    with torch.device("meta"):
        expected = ResNet(plan, stem).state_dict()
    try:
        return match_tensors(tensors, expected, f"{where}: not a whole {arch}, which its backbone is most like")
    except BadInputError as error:
        raise BadInputError(f"{error}; for another network of timm give its name too, timm:NAME@{where}") from error


def match_tensors(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Match a network's tensors to the expected ones: in their order and of their types; and name what is beside them.

    Beside it stand heads, whose modules the network does not have, and counters. A tensor more in one of its modules,
    or a convolution more, makes another network. Raises BadInputError where any is missing, left over or of another
    shape, with how many and the first of each.
    """
    missing = [name for name in expected if name not in tensors and not name.endswith(MARKS)]
    modules = {name.partition(".")[0] for name in expected}
    extra = [name for name in tensors if name not in expected]
    left = [
        name
        for name in extra
        if not name.endswith(MARKS) and (name.partition(".")[0] in modules or tensors[name].dim() > 3)
    ]
    shapes = [
        f"{name} {tuple(tensors[name].shape)} for {tuple(value.shape)}"
        for name, value in expected.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    whole = [
        name
        for name, value in expected.items()
        if name in tensors and value.is_floating_point() and not tensors[name].is_floating_point()
    ]
    kinds = (("missing", missing), ("left over", left), ("of another shape", shapes), ("of whole numbers", whole))
    faults = [f"{len(names)} {kind} ({first_names(names)})" for kind, names in kinds if names]
    if faults:
        raise BadInputError(f"{what}: {', '.join(faults)}")
    matched = {
        name: tensors[name].to(value.dtype, copy=True).contiguous()
        if name in tensors
        else torch.zeros((), dtype=value.dtype)
        for name, value in expected.items()
    }
    return matched, extra


@torch.no_grad()
def require_finite_features(encoder: Encoder, called: str) -> None:
    """Raise BadInputError where finite weights give features that are not: statistics that explode."""
    side, finite = encoder.plan.image_size, True
    ramp = torch.linspace(-2, 2, side).expand(1, encoder.plan.channels, side, side)
    if reads_bytes(encoder.plan.arch):
        ramp = example_input(encoder.plan.arch, side)
    with use_evaluation_mode(encoder.backbone), contextlib.suppress(*REFUSALS):  # a size that it refuses is told later
        finite = bool(encoder.backbone(ramp).isfinite().all())
    if not finite:
        raise BadInputError(
            f"{called}: its features of an image are not finite, as after a diverged training: give an earlier "
            f"checkpoint"
        )
