"""Small images of coloured shapes, written in each of the benchmarks' layouts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

COLOURS = {"disc": (220, 60, 60), "square": (60, 200, 80), "bar": (70, 90, 230)}
CITY_LABELS = {"disc": 24, "square": 26, "bar": 25}
"""Cityscapes' label ids of person, car and rider."""
Mask = npt.NDArray[np.bool_]


def scene(number: int, width: int, height: int) -> tuple[npt.NDArray[np.uint8], list[tuple[str, Mask]]]:
    """An image (H, W, 3) with two or three shapes that do not overlap, and for each its class and mask (H, W)."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(90, 130, (height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    shapes: list[tuple[str, Mask]] = []
    for place in range(3 if number % 2 else 2):
        name = list(COLOURS)[int(rng.integers(3))]
        size = int(min(height, width / 3) * rng.uniform(0.55, 0.8)) // 2
        middle = int((place + 0.5) * width / 3)
        across, down = x - middle, y - int(rng.integers(size + 1, height - size - 1))
        if name == "disc":
            mask = across**2 + down**2 <= size**2
        elif name == "square":
            mask = (abs(across) <= size) & (abs(down) <= size)
        else:
            mask = (abs(across) <= size) & (abs(down) <= size // 2)
        pixels[mask] = COLOURS[name]
        shapes.append((name, mask))
    return pixels, shapes


def box_of(mask: Mask) -> tuple[int, int, int, int]:
    """Left, top, right, bottom; the right and the bottom edge exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def write(layout: str, folder: Path, count: int = 8, size: tuple[int, int] = (128, 96)) -> Path:
    """Write `count` scenes of (width, height) as the training and as the test images of a layout."""
    scenes = [scene(number, *size) for number in range(count)]
    {
        "voc": _voc, "voc-semantic": _voc_semantic, "coco": _coco, "coco-keypoints": _coco_keypoints, "lvis": _lvis,
        "cityscapes-instance": _cityscapes, "cityscapes-semantic": _cityscapes,
    }[layout](folder, scenes)  # fmt: skip
    return folder


Scenes = list[tuple[npt.NDArray[np.uint8], list[tuple[str, Mask]]]]


def _image(path: Path, pixels: npt.NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _voc(folder: Path, scenes: Scenes) -> None:
    for number, (pixels, shapes) in enumerate(scenes):
        height, width = pixels.shape[:2]
        _image(folder / "JPEGImages" / f"{number:06d}.jpg", pixels)
        objects = ""
        for name, mask in shapes:
            left, top, right, bottom = box_of(mask)  # VOC's corners are pixels, counted from 1
            corners = zip(("xmin", "ymin", "xmax", "ymax"), (left + 1, top + 1, right, bottom), strict=True)
            box = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners)
            objects += f"<object><name>{name}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>"
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        xml = f"<annotation><filename>{number:06d}.jpg</filename>{size}{objects}</annotation>"
        _text(folder / "Annotations" / f"{number:06d}.xml", xml)
    names = "".join(f"{number:06d}\n" for number in range(len(scenes)))
    for split in ("trainval", "test"):
        _text(folder / "ImageSets" / "Main" / f"{split}.txt", names)


def _voc_semantic(folder: Path, scenes: Scenes) -> None:
    names = "".join(f"{number:06d}\n" for number in range(len(scenes)))
    for number, (pixels, shapes) in enumerate(scenes):
        _image(folder / "JPEGImages" / f"{number:06d}.jpg", pixels)
        labels = np.zeros(pixels.shape[:2], np.uint8)
        for name, mask in shapes:
            labels[mask] = 1 + list(COLOURS).index(name)
        labels[:2] = 255
        palette = Image.fromarray(labels, mode="L").convert("P")
        palette.putdata(labels.ravel().tolist())
        (folder / "SegmentationClass").mkdir(parents=True, exist_ok=True)
        palette.save(folder / "SegmentationClass" / f"{number:06d}.png")
    for split in ("train", "val"):
        _text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", names)


def _outline(mask: Mask) -> list[list[float]]:
    """A polygon around a convex mask: its left edge downwards, its right edge upwards."""
    rows = np.flatnonzero(mask.any(1))
    left = [(float(np.flatnonzero(mask[row])[0]), float(row) + 0.5) for row in rows]
    right = [(float(np.flatnonzero(mask[row])[-1]) + 1.0, float(row) + 0.5) for row in rows[::-1]]
    first, last = float(rows[0]), float(rows[-1]) + 1.0
    corners = [(left[0][0], first), *left, (left[-1][0], last), (right[0][0], last), *right, (right[-1][0], first)]
    return [[value for corner in corners for value in corner]]


def _content(scenes: Scenes, **more: Any) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (pixels, shapes) in enumerate(scenes):
        height, width = pixels.shape[:2]
        images.append({"id": number + 1, "file_name": f"{number:06d}.jpg", "width": width, "height": height})
        for name, mask in shapes:
            left, top, right, bottom = box_of(mask)
            annotations.append({
                "id": len(annotations) + 1, "image_id": number + 1, "category_id": 1 + list(COLOURS).index(name),
                "bbox": [left, top, right - left, bottom - top], "area": float(mask.sum()), "iscrowd": 0,
                "segmentation": _outline(mask),
            })  # fmt: skip
    categories = [{"id": 1 + number, "name": name} for number, name in enumerate(COLOURS)]
    return {"images": images, "annotations": annotations, "categories": categories, **more}


def _coco(folder: Path, scenes: Scenes, content: dict[str, Any] | None = None, name: str = "instances") -> None:
    for split in ("train", "val"):
        for number, (pixels, _) in enumerate(scenes):
            _image(folder / split / f"{number:06d}.jpg", pixels)
        _text(folder / "annotations" / f"{name}_{split}.json", json.dumps(content or _content(scenes)))


def _coco_keypoints(folder: Path, scenes: Scenes) -> None:
    content = _content(scenes)
    for annotation in content["annotations"]:
        left, top, width, height = annotation["bbox"]
        points = [(left + width * a, top + height * b) for a, b in ((0.5, 0.5), (0.1, 0.5), (0.9, 0.5))]
        annotation["category_id"], annotation["num_keypoints"] = 1, 3
        annotation["keypoints"] = [value for x, y in points for value in (x, y, 2)]
    names = ["middle", "left_side", "right_side"]
    content["categories"] = [{"id": 1, "name": "person", "keypoints": names, "skeleton": []}]
    _coco(folder, scenes, content, "person_keypoints")


def _lvis(folder: Path, scenes: Scenes) -> None:
    content = _content(scenes)
    for image in content["images"]:
        own = {one["category_id"] for one in content["annotations"] if one["image_id"] == image["id"]}
        image["neg_category_ids"] = sorted({1, 2, 3} - own)
        image["not_exhaustive_category_ids"] = []
        image["coco_url"] = f"http://images.example/{{split}}/{image['file_name']}"
    for category in content["categories"]:
        category["frequency"], category["synset"] = "f", category["name"]
    for split in ("train", "val"):
        for number, (pixels, _) in enumerate(scenes):
            _image(folder / f"{split}2017" / f"{number:06d}.jpg", pixels)
        text = json.dumps(content).replace("{split}", f"{split}2017")
        _text(folder / "annotations" / f"lvis_v1_{split}.json", text)


def _cityscapes(folder: Path, scenes: Scenes) -> None:
    for split in ("train", "val"):
        for number, (pixels, shapes) in enumerate(scenes):
            stem = f"town_{number:06d}_000000"
            _image(folder / "leftImg8bit" / split / "town" / f"{stem}_leftImg8bit.png", pixels)
            labels, instances = np.full(pixels.shape[:2], 7, np.uint8), np.full(pixels.shape[:2], 7, np.uint16)
            for count, (name, mask) in enumerate(shapes):
                labels[mask] = CITY_LABELS[name]
                instances[mask] = CITY_LABELS[name] * 1000 + count
            place = folder / "gtFine" / split / "town"
            _image(place / f"{stem}_gtFine_labelIds.png", labels)
            _image(place / f"{stem}_gtFine_instanceIds.png", instances)
