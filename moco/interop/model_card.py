"""A folder in the Hugging Face layout: model.safetensors, config.json, and a README that says what it is."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from moco.core.networks import TIMM, is_timms, timm_config
from moco.errors import BadInputError, spell_images
from moco.interop.checkpoints import Weights, find_run, load_weights
from moco.runtime.checkpoint import save_tensors
from moco.runtime.records import read_object, read_records

SHOWN = (
    "init_weights", "arch", "stem", "head", "dictionary", "queue_size", "key_momentum", "temperature", "symmetric",
    "augment", "flip", "quarter_turns", "image_size", "epochs", "max_steps", "batch_size", "bn", "bn_groups", "lr",
    "head_lr", "schedule", "weight_decay", "seed",
)  # fmt: skip
"""Fields of a run's config that the card lists."""
BASELINES = {"random": "random weights", "pixels": "raw pixels"}
FIGURES = ("top1", "top5", "knn_top1", "knn_top5", "alignment", "uniformity", "loss")


def write_folder(
    weights: Weights, backbone: Mapping[str, Tensor], folder: Path, source: str, timm: tuple[str, dict[str, Any]] | None
) -> None:
    """Write the backbone, its description for timm (a name, what to give beside) where it can be one, and the card."""
    plan = weights.encoder.plan
    described = {**weights.metadata, "kind": "backbone"}
    folder.mkdir()
    save_tensors(folder / "model.safetensors", backbone, described)
    config: dict[str, Any] = {"moco": described, "num_features": weights.encoder.num_features, "num_classes": 0}
    if timm is not None:
        known = timm_config(TIMM + timm[0])
        pretrained = {
            "input_size": [plan.channels, plan.image_size, plan.image_size],
            "mean": list(weights.mean), "std": list(weights.std),
            "num_classes": 0, "interpolation": "bilinear", "crop_pct": 0.875,
            "pool_size": [-(-plan.image_size // 32)] * 2, "classifier": known.classifier,
            "first_conv": known.first_conv if plan.channels == 3 else None,  # else timm would adapt it
        }  # fmt: skip
        config |= {"architecture": timm[0], "model_args": timm[1], "pretrained_cfg": pretrained}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(weights, source, timm is not None), encoding="utf-8")


def read_folder(folder: Path, images: Tensor) -> Tensor:
    """Compute features by moco's own loader, for networks that no other library has."""
    features: Tensor = load_weights(str(folder)).encoder.backbone.eval()(images)
    return features


def describe_folder(weights: Weights) -> str:
    """Describe how the folder is used."""
    return (
        "a folder for the Hugging Face hub; moco takes it as --weights, timm as local-dir:FOLDER if it has the network"
    )


def _card(weights: Weights, source: str, in_timm: bool) -> str:
    """The model card: what it is, how it was trained, on what, how good it was found to be, how it is used."""
    run = find_run(source)
    config = _read(run / "config.json") if run is not None else {}
    plan = weights.encoder.plan
    head = ["---", f"library_name: {'timm' if in_timm else 'moco'}", "pipeline_tag: image-feature-extraction", "tags:"]
    head += ["- self-supervised-learning", "- momentum-contrast", "- arxiv:1911.05722", "- arxiv:2003.04297", "---", ""]
    what = "momentum contrast (MoCo)" if weights.origin == "moco" else f"a checkpoint in the layout of {weights.origin}"
    stem = "" if is_timms(plan.arch) else f"First layers: {plan.stem}. "
    images, unit = "RGB images", "in [0, 1]"
    if weights.form is not None:
        images, unit = f"images of {weights.form.kind}", "in the files' own units"
    lines = [
        f"# {plan.arch} pre-trained without labels",
        "",
        f"An image encoder from {what}: {images} of {plan.image_size} pixels, {unit}, less the mean "
        f"{list(weights.mean)} and divided by {list(weights.std)}, to {weights.encoder.num_features} features. "
        f"{_describe_white(weights)}"
        f"{stem}The projection head of the training is not part of it.",
        "",
        "## Training",
        "",
    ]
    rows = {"data": config.get("data"), **{name: config.get(name) for name in SHOWN}, "steps": weights.step or None}
    lines += _table(("setting", "value"), {name: value for name, value in rows.items() if value is not None})
    if not config:
        lines += ["", "These weights came without a run folder: recipe and data are unknown."]
    figures = _table(("figure", "value"), _figures(run, weights.step))
    lines += ["", "## Measured", "", *figures, "", "## Use", "", "```python"]
    if in_timm:
        lines += ["import timm", 'encoder = timm.create_model("local-dir:THIS_FOLDER", pretrained=True).eval()']
    else:
        lines += ["import moco", 'encoder = moco.load_weights("THIS_FOLDER").encoder.backbone.eval()']
    return "\n".join([*head, *lines, "features = encoder(images)", "```", ""])


def _describe_white(weights: Weights) -> str:
    if weights.white_level is None:
        return ""
    return f"Of 16-bit grey images {weights.white_level} is white: divide by it, and cut what is above, to get [0, 1]. "


def _figures(run: Path | None, step: int) -> dict[str, Any]:
    """What the run's log found up to the step of the weights, and what its evaluations found last."""
    found: dict[str, Any] = {}
    if run is None:
        return found
    for values in _read_log(run / "metrics.jsonl"):
        if isinstance(at := values.get("step"), int) and at > step:
            continue
        shares = {0: ", on images held out from training", 100: ", on images it was trained on"}
        images = next((said for share, said in shares.items() if values.get("knn_trained_on") == share), "")
        found |= {
            f"{name} while training{images if name.startswith('knn_') else ''}": values[name]
            for name in FIGURES if name in values
        }  # fmt: skip
    for path in sorted((run / "evaluations").glob("*.json")):
        values = _read(path)
        where = values.get("data")
        if "measured_on" in values:
            where = f"{where}: {spell_images(str(values['measured_on']))}"
        found |= {f"{path.stem} {name} on {where}": values[name] for name in FIGURES if name in values}
        others = values.get("baselines")
        for key, own in (others if isinstance(others, dict) else {}).items():
            if isinstance(own, dict) and "top1" in own:
                found[f"{path.stem} top1 on {where}, {BASELINES.get(key, key)}"] = own["top1"]
    return found


def _read_log(path: Path) -> list[dict[str, Any]]:
    try:
        return list(read_records(path))
    except (OSError, BadInputError):
        return []


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_object(path)
    except (OSError, BadInputError):
        return {}


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> list[str]:
    """A Markdown table; names of files in it are inert."""
    if not rows:
        return ["Nothing is known."]
    return [
        f"| {head[0]} | {head[1]} |",
        "|---|---|",
        *(f"| {_inert(name)} | {_inert(value)} |" for name, value in rows.items()),
    ]


def _inert(value: object) -> str:
    """Text that is neither HTML nor Markdown, on one line."""
    text = " ".join(str(value).split())
    return "".join(f"&#{ord(letter)};" if letter in "<>&|`*_[]()!\\#\"'" else letter for letter in text)
