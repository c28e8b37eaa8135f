"""Writes tiny data sets in the benchmarks' layouts, and draws random predictions."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

Box = tuple[str, int, int, int, int]


def save_image(path: Path, height: int, width: int, mode: str = "RGB") -> None:
    """An image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    depth = (height, width, 3) if mode == "RGB" else (height, width)
    Image.fromarray(np.random.default_rng(height * width).integers(0, 255, depth).astype(np.uint8)).save(path)


def save_values(path: Path, values: npt.ArrayLike, bits: int = 8, palette: bool = False) -> None:
    """A label image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values).astype(np.uint8 if bits == 8 else np.uint16))
    if palette:
        image.putpalette([channel for value in range(256) for channel in (value, 255 - value, value // 2)])
    image.save(path)


def voc_xml(boxes: Sequence[Box], height: int = 40, width: int = 60, difficult: Sequence[int] = ()) -> str:
    """The XML of an image: boxes by name, xmin, ymin, xmax, ymax."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{int(number in difficult)}</difficult><part><name>head</name></part>"
        f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for number, (name, x1, y1, x2, y2) in enumerate(boxes)
    )
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"


def write_voc(
    root: Path, images: Mapping[str, str], lists: Mapping[str, Sequence[str]], size: tuple[int, int] = (40, 60)
) -> None:
    """A VOC folder: XML by the image's name, and the lists of names."""
    for name, xml in images.items():
        save_image(root / "JPEGImages" / f"{name}.jpg", *size)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(xml)
    (root / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    for split, names in lists.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(names) + "\n")


def write_json(path: Path, content: Any) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def random_rings(rng: np.random.Generator, height: int, width: int) -> list[list[float]]:
    """A polygon around a random ellipse."""
    x, y = rng.uniform(0.2, 0.8, 2) * (width, height)
    a, b = rng.uniform(2, 0.2 * min(height, width), 2)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    corners = np.stack([x + a * np.cos(angles), y + b * np.sin(angles)], 1).clip(0, [width, height])
    return [[round(float(value), 2) for value in corners.ravel()]]


def coco_content(seed: int, images: int = 6, classes: int = 3, size: tuple[int, int] = (60, 80)) -> dict[str, Any]:
    """Random objects in COCO's format, some of them crowds; ids are far from 0, 1, 2."""
    rng, (height, width) = np.random.default_rng(seed), size
    annotations = list[dict[str, Any]]()
    for image in range(images):
        for _ in range(int(rng.integers(0, 8))):
            rings = random_rings(rng, height, width)
            x, y = np.array(rings[0][0::2]), np.array(rings[0][1::2])
            box = [float(x.min()), float(y.min()), float(np.ptp(x)), float(np.ptp(y))]
            area = float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)
            number = int(rng.integers(0, classes))
            annotations.append(
                {"id": 900 + len(annotations), "image_id": 50 + 7 * image, "category_id": 90 - 10 * number, "bbox": box,
                 "area": area, "iscrowd": 0, "segmentation": rings}
            )  # fmt: skip
    rng.shuffle(annotations)
    for annotation in annotations[::9]:  # crowds are given as run lengths, column by column
        mask = np.zeros((height, width), int)
        x1, y1, across, down = (int(value) for value in annotation["bbox"])
        mask[y1 : y1 + down + 1, x1 : x1 + across + 1] = 1
        flat = mask.ravel(order="F")
        edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]])))
        annotation["segmentation"] = {"counts": np.diff(np.concatenate([[0], edges])).tolist(), "size": [height, width]}
        annotation["iscrowd"] = 1
    return {
        "images": [
            {"id": 50 + 7 * image, "file_name": f"{image}.png", "height": height, "width": width}
            for image in range(images)
        ],
        "annotations": annotations,
        "categories": [{"id": 90 - 10 * number, "name": f"kind {number}"} for number in range(classes)],
    }


def write_coco(root: Path, content: Mapping[str, Any], split: str = "val", prefix: str = "instances") -> None:
    """A COCO folder with the images that the content names."""
    write_json(root / "annotations" / f"{prefix}_{split}.json", content)
    for image in content["images"]:
        save_image(root / split / image["file_name"], image["height"], image["width"])


def guesses(target: dict[str, Any], classes: int, seed: int, noise: float = 2.0) -> dict[str, torch.Tensor]:
    """Predictions near an image's objects, some of them of a wrong class or of nothing, with coarse scores."""
    rng = np.random.default_rng(seed)
    height, width = target["masks"].shape[1:] if "masks" in target else (60, 80)
    boxes, labels, masks = list[Any](), list[int](), list[Any]()
    for number in range(len(target["labels"])):
        for _ in range(int(rng.integers(0, 3))):
            boxes.append(target["boxes"][number].numpy() + rng.normal(0, noise, 4))
            labels.append(int(target["labels"][number]) if rng.random() < 0.8 else int(rng.integers(1, classes + 1)))
            if "masks" in target:
                masks.append(np.roll(target["masks"][number].numpy(), rng.integers(-2, 3, 2), (0, 1)))
    for _ in range(int(rng.integers(0, 3))):
        corner = rng.uniform(0, [width - 10, height - 10])
        boxes.append(np.concatenate([corner, corner + rng.uniform(3, 10, 2)]))
        labels.append(int(rng.integers(1, classes + 1)))
        mask = np.zeros((height, width), np.uint8)
        mask[int(corner[1]) : int(corner[1]) + 8, int(corner[0]) : int(corner[0]) + 8] = 1
        masks.append(mask)
    ordered = torch.tensor(np.array(boxes), dtype=torch.float32).reshape(-1, 2, 2).sort(dim=1).values.reshape(-1, 4)
    guess = {
        "boxes": ordered,
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(rng.integers(1, 1000, len(labels)) / 1000, dtype=torch.float32),
    }
    if "masks" in target:
        guess["masks"] = torch.tensor(np.array(masks).reshape(-1, height, width)).bool()
    return guess
