"""The libraries that an encoder is exported for: what each can express, how its file is written and loaded there."""

import importlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet

from moco.core.encoder import EncoderPlan, Output
from moco.core.networks import build_backbone, is_timms, timm_network, widen_first_convolution
from moco.core.resnet import resnet_plan
from moco.core.stems import STEMS, Stem
from moco.errors import BadInputError, VoidError, one_line
from moco.interop import detectron2, model_card, reference
from moco.interop.checkpoints import Weights
from moco.interop.descriptions import OWN
from moco.runtime.files import replace_file

STANDARD_WIDTH, CLASSIFIER = 64, {"fc.weight", "fc.bias"}
ANY_NET = "give --format onnx or safetensors, which take any network"


@dataclass(frozen=True)
class Target:
    """A format: how it is written, and the features of its file in the library that reads it."""

    library: str
    """What the file is checked with."""
    packages: tuple[str, ...]
    """What must be installed for it."""
    require: Callable[[Weights, str], None]
    """Raises BadInputError where it cannot express the net."""
    write: Callable[[Weights, Path, str], None]
    """Writes a file or a folder, given where the weights came from too."""
    features: Callable[[Path, Weights, Tensor], Tensor] | None
    """(file, what it was written from, images (N, 3, H, W)) -> features (N, D), by the library alone."""
    usage: Callable[[Weights], str]
    """How the file is used."""
    otherwise: str | None = None
    """What it is checked with where timm does not have the net."""
    output: Output = "plain"  # features that its file gives

    def checked_with(self, weights: Weights) -> str:
        """Return what the file of this net is checked with."""
        return self.library if self.otherwise is None or _standard(weights) else self.otherwise


def require_torchvision(weights: Weights, name: str) -> None:
    """Raise BadInputError for what torchvision's classes cannot be made to be: 3x3 stems, widths other than its own."""
    plan = weights.encoder.plan
    resnet = resnet_plan(plan.arch)
    if is_timms(plan.arch):
        raise BadInputError(f"--format {name} has no {plan.arch}: give --format timm, onnx or safetensors")
    if plan.stem != "imagenet":
        raise BadInputError(f"--format {name} has no {_named(plan.stem)} stem, which this {plan.arch} has: {ANY_NET}")
    if resnet is not None and resnet.width != STANDARD_WIDTH:
        raise BadInputError(f"--format {name} has no ResNet of base width {resnet.width} ({plan.arch}): {ANY_NET}")


def require_timm(weights: Weights, name: str) -> None:
    """Require a ResNet or a network of timm: timm names the tensors of the other networks otherwise."""
    if not is_timms(weights.encoder.plan.arch):
        _require_resnet(weights, name)
        require_torchvision(weights, name)


def require_detectron2(weights: Weights, name: str) -> None:
    """Raise BadInputError for 3x3 stems, for what is no ResNet, and for ResNet-18 and -34 of another width.

    Its configs can set the width of bottlenecks, and insist on 64 for those two.
    """
    _require_resnet(weights, name, rgb=True)
    plan = resnet_plan(weights.encoder.plan.arch)
    if plan is not None and plan.block is BasicBlock:
        require_torchvision(weights, name)
    if weights.encoder.plan.stem != "imagenet":
        arch, stem = weights.encoder.plan.arch, _named(weights.encoder.plan.stem)
        raise BadInputError(f"--format {name} has no {stem} stem, which this {arch} has: {ANY_NET}")


def require_reference(weights: Weights, name: str) -> None:
    """Require a ResNet of torchvision: the authors' scripts build the network by its name there."""
    _require_resnet(weights, name, rgb=True)
    require_torchvision(weights, name)
    if not _has_name(weights.encoder.plan.arch):
        raise BadInputError(f"--format {name} has no network named {weights.encoder.plan.arch}: {ANY_NET}")
    if weights.encoder.plan.head == "mlp-bn":
        raise BadInputError(f"--format {name} has no projection head with batch normalisation (mlp-bn): {ANY_NET}")


def _named(stem: Stem) -> str:
    return "3x3" if STEMS[stem].kernel == 3 else stem


def _has_name(arch: str) -> bool:
    return arch in torchvision.models.list_models(module=torchvision.models)


def _require_resnet(weights: Weights, name: str, *, rgb: bool = False) -> None:
    if rgb and weights.form is not None:
        raise BadInputError(f"--format {name} takes RGB, and these weights {weights.form.kind}: {ANY_NET}")
    if resnet_plan(weights.encoder.plan.arch) is None:
        raise BadInputError(f"--format {name} is for ResNets, and this is {weights.encoder.plan.arch}: {ANY_NET}")


def backbone_tensors(weights: Weights) -> dict[str, Tensor]:
    """Return the backbone's tensors under its library's names, without the projection head."""
    return weights.encoder.backbone.state_dict()


def torchvision_features(state: Mapping[str, Tensor], plan: EncoderPlan, images: Tensor) -> Tensor:
    """Compute features by torchvision's model, loaded as its users do: only the classifier may be missing."""
    resnet = resnet_plan(plan.arch)
    if resnet is None:
        model, _ = build_backbone(
            plan.arch, plan.stem, plan.image_size, plan.channels
        )  # torchvision's, without its classifier
        model.load_state_dict(state)
        features: Tensor = model.eval()(images)
        return features
    if _has_name(plan.arch):
        model = torchvision.models.get_model(plan.arch, weights=None)
    else:  # resnext50-32x8d, which torchvision has no name for
        layers = list(resnet.layers)
        model = TorchvisionResNet(resnet.block, layers, groups=resnet.groups, width_per_group=resnet.width_per_group)
    if plan.channels != 3:
        widen_first_convolution(model, plan.channels, plan.arch)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if set(missing) != CLASSIFIER or unexpected:
        raise VoidError(f"torchvision misses {missing[:3]} and does not expect {unexpected[:3]}")
    model.set_submodule("fc", nn.Identity())
    features = model.eval()(images)
    return features


def timm_name(plan: EncoderPlan) -> tuple[str, dict[str, Any]]:
    """Return timm's name of its network or of a ResNet of standard width, and the options to build it."""
    more: dict[str, Any] = {} if plan.channels == 3 else {"in_chans": plan.channels}
    if is_timms(plan.arch):
        name, options = timm_network(plan.arch, plan.image_size)
        return name, {**options, **more}
    if plan.arch == "resnext50-32x8d":
        return "resnext50_32x4d", {"base_width": 8, **more}
    return plan.arch, more


def _save(content: dict[str, Any], path: Path) -> None:
    """Save like torch.save, but raise OSError on a full disk."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    replace_file(path, buffer.getvalue())


def _write_state(weights: Weights, path: Path, _: str) -> None:
    """A state dict, with our description beside the versions of its modules, where those who load it do not look."""
    tensors = backbone_tensors(weights)
    state, versions = OrderedDict(tensors), OrderedDict(getattr(tensors, "_metadata", {}))
    versions[""] = {**versions.get("", {}), OWN: {**weights.metadata, "kind": "backbone"}}
    state.__dict__["_metadata"] = versions
    _save(state, path)


def _in_torchvision(path: Path, weights: Weights, images: Tensor) -> Tensor:
    return torchvision_features(torch.load(path, weights_only=True), weights.encoder.plan, images)


def _in_timm(path: Path, weights: Weights, images: Tensor) -> Tensor:
    name, arguments = timm_name(weights.encoder.plan)
    timm: Any = importlib.import_module("timm")
    model = timm.create_model(name, num_classes=0, checkpoint_path=str(path), **arguments)
    features: Tensor = model.eval()(images)
    return features


def _write_reference(weights: Weights, path: Path, _: str) -> None:
    _save({**reference.build_reference_checkpoint(weights), OWN: weights.metadata}, path)


def _in_reference(path: Path, weights: Weights, images: Tensor) -> Tensor:
    """Load f_q's tensors without its head into torchvision's model, as the reference's linear evaluation does."""
    prefix = "module.encoder_q."
    state = torch.load(path, weights_only=True)["state_dict"]
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    headless = {name: value for name, value in own.items() if not name.startswith("fc.")}
    return torchvision_features(headless, weights.encoder.plan, images)


def _write_onnx(weights: Weights, path: Path, _: str) -> None:
    size = weights.encoder.plan.image_size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                weights.encoder.reading("backbone").eval(),
                (torch.zeros(2, weights.encoder.plan.channels, size, size),),
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                dynamo=True,
                verbose=False,
            )
    except RuntimeError as error:  # what the exporter raises for an operation that the format does not have
        why = str(error.__cause__ or error).strip().partition("\n")[0]
        raise BadInputError(
            f"--format onnx cannot express this {weights.encoder.plan.arch} ({one_line(why)}): give --format "
            f"safetensors, which takes any net"
        ) from error
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # where each operation stood in this machine's source files
        node.doc_string = None
    described = {"mean": weights.mean, "std": weights.std, "image_size": size, "arch": weights.encoder.plan.arch}
    if weights.white_level is not None:
        described["white_level"] = weights.white_level
    if weights.form is not None:
        described |= {"channels": weights.form.channels, "depth": weights.form.depth}
    program.model.metadata_props.update({name: str(value) for name, value in described.items()})
    program.save(path)


def _in_onnxruntime(path: Path, _: Weights, images: Tensor) -> Tensor:
    onnxruntime: Any = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (features,) = session.run(["features"], {"images": images.contiguous().numpy()})
    return torch.from_numpy(features)


def _write_folder(weights: Weights, path: Path, source: str) -> None:
    timm = timm_name(weights.encoder.plan) if _standard(weights) else None
    model_card.write_folder(weights, backbone_tensors(weights), path, source, timm)


def _in_folder(path: Path, weights: Weights, images: Tensor) -> Tensor:
    if not _standard(weights):
        return model_card.read_folder(path, images)
    timm: Any = importlib.import_module("timm")
    model = timm.create_model(f"local-dir:{path}", pretrained=True)
    features: Tensor = model.eval()(images)
    return features


def _standard(weights: Weights) -> bool:
    """Whether timm can express the net."""
    try:
        require_timm(weights, "")
    except BadInputError:
        return False
    return True


def _describe_normalisation(weights: Weights) -> str:
    size, mean, std = weights.encoder.plan.image_size, weights.mean, weights.std
    deep = "" if weights.white_level is None else f", {weights.white_level} in 16-bit grey is 1"
    if weights.form is not None:
        return f"images: {weights.form.kind} as in the files, mean {mean}, std {std}, {size} x {size} pixels"
    return f"images: RGB in [0, 1]{deep}, mean {mean}, std {std}, {size} x {size} pixels"


def _describe_state(weights: Weights) -> str:
    loading = "a state dict without classifier: load it with strict=False, and only the classifier (fc) is missing"
    if weights.encoder.plan.arch == "resnext50-32x8d":
        loading += " from models.resnet.ResNet(Bottleneck, [3, 4, 6, 3], groups=32, width_per_group=8)"
    if weights.encoder.plan.channels != 3:
        loading += f" of a network whose first convolution takes {weights.encoder.plan.channels} channels"
    return f"{loading}; {_describe_normalisation(weights)}"


def _describe_timm(weights: Weights) -> str:
    name, arguments = timm_name(weights.encoder.plan)
    more = "".join(f", {key}={value}" for key, value in arguments.items())
    return f"timm.create_model({name!r}{more}, num_classes=0, checkpoint_path=F); {_describe_normalisation(weights)}"


TARGETS: dict[str, Target] = {
    "torchvision": Target("torchvision", (), require_torchvision, _write_state, _in_torchvision, _describe_state),
    "timm": Target("timm", (), require_timm, _write_state, _in_timm, _describe_timm),
    "detectron2": Target(
        "the names that detectron2 documents, since it is not on PyPI", (), require_detectron2, detectron2.write_pickle,
        None, detectron2.describe_settings,
    ),
    "onnx": Target(
        "onnxruntime", ("onnx", "onnxscript", "onnxruntime"), lambda weights, name: None, _write_onnx, _in_onnxruntime,
        _describe_normalisation, output="backbone",
    ),
    "safetensors": Target(
        "timm", (), lambda weights, name: None, _write_folder, _in_folder, model_card.describe_folder, otherwise="moco",
    ),
    "reference": Target(
        "torchvision", (), require_reference, _write_reference, _in_reference, reference.describe_checkpoint,
    ),
}  # fmt: skip
