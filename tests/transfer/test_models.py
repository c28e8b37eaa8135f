"""The tasks' models: as the papers describe them, at full size, with images without objects."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from moco.core.encoder import Encoder, EncoderPlan
from moco.interop.checkpoints import random_weights
from moco.transfer.batches import TrainingBatches, move_batch
from moco.transfer.detectors import DetectorPlan, build_detector
from moco.transfer.examples import open_examples
from moco.transfer.models import build_model, build_transfer_optimizer, describe_transfer
from moco.transfer.recipes import TASKS, Task, transfer_config
from moco.transfer.segmentation import SegmentationNet
from tests.transfer.scenes import write

DETECTORS = {name: task for name, task in TASKS.items() if task.features != "fcn"}


def detector(task: Task, arch: str, **more: Any) -> nn.Module:
    """A task's detector on random weights."""
    torch.manual_seed(0)
    assert task.features != "fcn"
    assert task.heads != "pixels"
    plan = DetectorPlan(task.features, task.heads, 3, 5 if task.heads == "keypoints" else 0, **more)
    return build_detector(Encoder(EncoderPlan(arch)), plan)


def batch() -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """An image with an object, and one without any."""
    objects = {
        "boxes": torch.tensor([[10.0, 12.0, 50.0, 60.0]]), "labels": torch.tensor([1]),
        "masks": torch.ones(1, 96, 96, dtype=torch.uint8), "keypoints": torch.full((1, 5, 3), 20.0),
    }  # fmt: skip
    empty = {name: value[:0] for name, value in objects.items()}
    return [torch.rand(3, 96, 96), torch.rand(3, 96, 96)], [objects, empty]


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_trains_and_tests_with_and_without_objects(name: str) -> None:
    """Finite losses, a gradient for every parameter, finite statistics; detections in pixels of the image."""
    model = detector(DETECTORS[name], "resnet18-w16", channels=16, test_size=64, longest_side=96, regions=16)
    images, targets = batch()
    for part in (slice(0, 2), slice(1, 2)):  # the second batch has no object at all
        losses = model(images[part], targets[part])
        assert all(bool(torch.isfinite(loss)) for loss in losses.values())
        sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(bool(torch.isfinite(buffer).all()) for buffer in model.buffers())
    model.eval()
    with torch.no_grad():
        found = model([torch.rand(3, 50, 90)])[0]
    assert len(found["boxes"])
    assert bool((found["boxes"] <= torch.tensor([90.0, 50.0, 90.0, 50.0]) + 1e-3).all())
    heads = DETECTORS[name].heads
    assert ("masks" in found) == (heads == "mask")
    assert ("keypoints" in found) == (heads == "keypoints")
    model.roi_heads.score_thresh = 2.0  # type: ignore[union-attr]
    with torch.no_grad():
        assert not len(model([torch.rand(3, 50, 90)])[0]["boxes"])


def test_the_papers_models_at_full_width() -> None:
    """ResNet-50: conv5 is C4's box head, with a BN behind it; DC5 ends in 512 channels; FPN has BN in its layers."""
    with torch.device("meta"):
        models = {name: detector(task, "resnet50") for name, task in DETECTORS.items()}
    c4 = models["voc-c4"].get_submodule("roi_heads.box_head")
    assert [name for name, _ in c4.named_children()] == ["layer4", "norm"]
    assert models["voc-c4"].get_submodule("backbone.body").stages == ("layer1", "layer2", "layer3")
    neck = list(models["voc-dc5"].get_submodule("backbone.neck"))  # type: ignore[call-overload]
    assert (neck[0].kernel_size, neck[0].out_channels, type(neck[1])) == ((3, 3), 512, nn.BatchNorm2d)
    fpn = models["coco-fpn"].get_submodule("backbone.fpn")
    assert sum(isinstance(module, nn.BatchNorm2d) for module in fpn.modules()) == 8
    assert models["voc-c4"].get_submodule("rpn.anchor_generator").sizes == ((32, 64, 128, 256, 512),)
    assert models["coco-fpn"].get_submodule("rpn.anchor_generator").sizes == ((32,), (64,), (128,), (256,), (512,))
    assert all(parameter.requires_grad for model in models.values() for parameter in model.parameters())


def test_the_segmentation_net_is_that_of_the_papers() -> None:
    """Conv5 of stride 1 and dilation 2; two 3x3 convolutions of 256, dilation 6, BN and ReLU; a 1x1 classifier."""
    with torch.device("meta"):
        model = SegmentationNet(Encoder(EncoderPlan("resnet50")), 21, 256, (0.5,) * 3, (0.2,) * 3)
        features = model.body(torch.empty(1, 3, 512, 512))["layer4"]
    assert tuple(features.shape) == (1, 2048, 32, 32)  # stride 16
    kinds = [type(module) for module in model.head]
    block = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]
    assert kinds == [*block, *block, nn.Conv2d]
    convolutions = [module for module in model.head if isinstance(module, nn.Conv2d)]
    shapes = [(one.out_channels, one.kernel_size, one.dilation) for one in convolutions]
    assert shapes == [(256, (3, 3), (6, 6)), (256, (3, 3), (6, 6)), (21, (1, 1), (1, 1))]


def test_values_of_the_models_are_flags(tmp_path: Path) -> None:
    """The head's dilation, the anchors' ratios, and how much detections may overlap arrive in the model."""
    weights = random_weights(EncoderPlan("resnet18-w4"), 0, (0.5,) * 3, (0.2,) * 3)

    def model(task: str, **given: Any) -> nn.Module:
        data = tmp_path / TASKS[task].layout
        examples = open_examples(TASKS[task].layout, write(TASKS[task].layout, data, 2, (96, 64)), "train")
        config = transfer_config(task, weights="random", data=str(data), out=tmp_path / "run", device="cpu", **given)
        return build_model(config, weights, examples)[0]

    net = model("voc-semantic", head_dilation=3)
    dilations = [one.dilation for one in net.get_submodule("head").modules() if isinstance(one, nn.Conv2d)]
    assert dilations == [(3, 3), (3, 3), (1, 1)]
    detector = model("voc-dc5", anchor_ratios=(1.0, 3.0), nms_threshold=0.25)
    anchors = detector.get_submodule("rpn.anchor_generator")
    assert anchors.num_anchors_per_location() == [5 * 2]  # type: ignore[operator]
    tall = anchors.generate_anchors((10.0,), (3.0,))[0]  # type: ignore[operator]
    assert (tall[3] - tall[1]) / (tall[2] - tall[0]) == pytest.approx(3, rel=0.2)  # corners are rounded
    assert detector.get_submodule("roi_heads").nms_thresh == 0.25


@pytest.mark.filterwarnings("ignore:.*no object has an outline")
def test_annotations_without_outlines_teach_boxes_alone(tmp_path: Path) -> None:
    """COCO's files may have none: the mask branch is left out, and a training step works."""
    data = write("coco", tmp_path / "data", 2, (96, 64))
    for path in (data / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        for annotation in content["annotations"]:
            del annotation["segmentation"]
        path.write_text(json.dumps(content))
    config = transfer_config(
        "coco-c4", weights="random", data=str(data), out=tmp_path / "run", device="cpu", batch_size=1,
        train_sizes=(64, 64), test_size=64, head_channels=8, regions=4,
    )  # fmt: skip
    weights = random_weights(EncoderPlan("resnet18-w4"), 0, (0.5,) * 3, (0.2,) * 3)
    batches = TrainingBatches(open_examples("coco", data, "train"), config)
    model, norms = build_model(config, weights, batches.examples)
    losses = model.train()(*move_batch(batches.at(0), "cpu"))
    assert "loss_mask" not in losses
    assert bool(torch.isfinite(sum(losses.values())))
    assert "boxes only" in describe_transfer(config, weights, model, norms, batches, batches.examples)


def test_the_anchors_are_those_of_the_benchmark(tmp_path: Path) -> None:
    """32 to 512 pixels at the recipe's own size, Cityscapes' 1024 among them; half of that at half of the size."""
    weights = random_weights(EncoderPlan("resnet18-w4"), 0, (0.5,) * 3, (0.2,) * 3)
    for task, side in (("cityscapes-instance", 1024), ("coco-fpn", 800)):
        data = write(TASKS[task].layout, tmp_path / task, 1, (96, 64))
        examples = open_examples(TASKS[task].layout, data, "train")
        for scale in (1.0, 0.5):
            given = {"weights": "random", "data": str(data), "out": tmp_path / "run", "device": "cpu"}
            config = transfer_config(task, **given, test_size=round(side * scale), head_channels=8)
            model = build_model(config, weights, examples)[0]
            sizes = model.get_submodule("rpn.anchor_generator").sizes
            assert sizes == tuple((scale * size,) for size in (32, 64, 128, 256, 512))
            pool = model.get_submodule("roi_heads.box_roi_pool")
            assert pool.map_levels.s0 == 224 * scale  # type: ignore[union-attr]


def test_bn_has_a_weight_decay_of_its_own() -> None:
    """None in detectors, as in detectron2; a step without a gradient shrinks each parameter by its own decay."""
    model = detector(TASKS["coco-fpn"], "resnet18-w4", channels=8)
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    config = transfer_config("coco-fpn", weights="random", data="x", out=Path("y"), weight_decay=0.25)
    assert config.norm_weight_decay == 0
    assert TASKS["voc-semantic"].values["norm_weight_decay"] == 1e-4
    optimizer = build_transfer_optimizer(dataclasses.replace(config, norm_weight_decay=0.125), model)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    norms = tuple(name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d))
    for name, value in model.named_parameters():
        of_norm = name.rsplit(".", 1)[0] in norms
        torch.testing.assert_close(value, weights[name] * (0.875 if of_norm else 0.75), msg=name)
