"""Four channels of 12 bits, without a word of what is in them: a small photometric-stereo rig, made of Fashion-MNIST.

A rig for photometric stereo takes one grey picture under each of four lights. Here the lights are computed: a garment's
grey values are its relief and its colour, each light comes from another side, and a sensor of 12 bits adds noise. A
garment lies anywhere below the lights, nearer or farther: if all lay in the middle, raw pixels alone would classify
three of four. The files are 16-bit TIFFs of four bands, as such a rig writes them. Then an encoder is pre-trained on
them, and compared with random weights by kNN, once for each seed.

    python examples/channels.py --out runs/channels

Fashion-MNIST is downloaded once, or taken from Debian's package dataset-fashion-mnist; --source digits needs neither.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import torch.nn.functional as F

import moco
from moco.data.images import Images

LIGHTS = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))
"""Where each of the four lights stands, as (x, y); all are as high above the object as beside it."""
WHITEST, DARK, NOISE, SHOT = 4095, 120.0, 6.0, 0.7
"""Of the sensor: its largest value, what it reads without light, and the deviation of its noise: constant, and as a
factor of the square root of the light."""
SIDE, SMALLEST = 32, 14
"""Pixels of a picture, and of the smallest garment in it, along a side."""


def light(grey: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light a grey picture (H, W) in [0, 1] from four sides: (4, H, W), 12 bits in 16."""
    height = F.avg_pool2d(torch.from_numpy(grey)[None, None], 3, 1, 1)[0, 0].numpy()  # a relief has no sharp steps
    slope_y, slope_x = np.gradient(4 * height)
    length = np.sqrt(2 * (1 + slope_x**2 + slope_y**2))
    shading = np.stack([np.maximum(0, (1 - x * slope_x - y * slope_y) / length) for x, y in LIGHTS])
    exposure = 3000 * rng.uniform(0.5, 1.0, (4, 1, 1))  # no two lamps are equally bright
    signal = exposure * (0.15 + 0.85 * grey) * shading
    noisy = DARK + signal + rng.normal(size=signal.shape) * (NOISE + SHOT * np.sqrt(signal))
    return np.clip(np.rint(noisy), 0, WHITEST).astype(np.uint16)


def place(grey: torch.Tensor, rng: np.random.Generator) -> np.ndarray:
    """Lay a garment (1, 1, h, w) somewhere on a dark picture (H, W), scaled to a size of its own."""
    side = int(rng.integers(SMALLEST, SIDE + 1))
    top, left = rng.integers(0, SIDE - side + 1, 2)
    picture = np.zeros((SIDE, SIDE), np.float32)
    scaled = F.interpolate(grey, (side, side), mode="bilinear", align_corners=False, antialias=True)
    picture[top : top + side, left : left + side] = scaled[0, 0].numpy()
    return picture


def write_split(images: Images, folder: Path, count: int, seed: int) -> None:
    """Write `count` images, spread evenly over a labelled set, as TIFFs of four bands in class folders."""
    assert images.labels is not None
    rng = np.random.default_rng(seed)
    for row in np.linspace(0, len(images) - 1, min(count, len(images))).astype(int):
        grey = images[int(row)].float().mean(0, keepdim=True)[None] / 255
        path = folder / images.classes[images.labels[row]].replace("/", "-") / f"{row:05}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, light(place(grey, rng), rng), photometric="minisblack", planarconfig="separate")


def write_set(source: str, folder: Path, train: int, test: int) -> None:
    """Write the set, unless it is there."""
    if folder.is_dir():
        return
    splits = moco.load(source)
    held, part = splits.get("test", splits["train"]), folder.with_name("images.part")
    write_split(splits["train"], part / "train", train, 0)
    write_split(held, part / "test", test, 1)
    part.rename(folder)  # a set of which only a part was written is written again


def measure(data: str, out: Path, seed: int, settings: dict[str, Any]) -> dict[str, float]:
    """Pre-train once, and give the kNN accuracy of the encoder, of random weights and of raw pixels."""
    moco.run("pretrain", "quick", data=data, out=out, seed=seed, **settings)
    found = moco.run("knn", weights=out, data=data, seed=seed, threads=settings["threads"], workers=0)
    return {"run": found["top1"], **{name: own["top1"] for name, own in found["baselines"].items()}}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Write the set, train once for each seed, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the images and the runs")
    parser.add_argument("--source", default="fashion-mnist", help="a name or folder that moco takes as --data")
    parser.add_argument("--train", type=int, default=2000, help="images to train on")
    parser.add_argument("--test", type=int, default=500, help="images to test on")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--arch", default="resnet18-w16")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    folder = given.out / "images"
    write_set(given.source, folder, given.train, given.test)
    settings = {"epochs": given.epochs, "arch": given.arch, "knn_every": 0, "threads": given.threads}
    rows = {seed: measure(str(folder), given.out / f"seed-{seed}", seed, settings) for seed in given.seeds}
    print("| seed | after the run | random weights | raw pixels |\n|---|---|---|---|")
    for seed, row in rows.items():
        print(f"| {seed} | {row['run']:.1f} | {row['random']:.1f} | {row['pixels']:.1f} |")
    (given.out / "figures.json").write_text(json.dumps(rows, indent=2) + "\n")
    return {str(seed): row for seed, row in rows.items()}


if __name__ == "__main__":
    try:
        main()
    except moco.StoppedError as stopped:  # Ctrl-C or a scheduler: all is saved, and the same command goes on
        print(stopped, file=sys.stderr)
        sys.exit(75)
