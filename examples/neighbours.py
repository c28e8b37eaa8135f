"""Four pretexts on the same pictures, compared with random weights: views, masked, neighbours and paired.

`python examples/neighbours.py OUT` films garments of Fashion-MNIST. Each garment is one series: from frame to frame it
turns, moves and changes its distance, while the light goes round it. `neighbours` pairs two frames of a garment (as
Sermanet et al., arXiv:1704.06888); `views` and `masked` know one frame at a time. A second camera stands elsewhere and
draws the edges: `paired` pairs each frame with that drawing, and `paired-own` has an encoder for each camera. All train
for the same number of steps. Garments in the test set are in no series.

Fashion-MNIST is downloaded once, or taken from Debian's package dataset-fashion-mnist; --source digits needs neither.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

import moco
from moco.data.images import Images

SIDE = 32
SMALLEST, LARGEST = 0.5, 0.9
"""Sides of a garment, as shares of the frame's."""
TURN, NOISE = 0.5, 0.03
"""Largest turn between two frames, in radians, and the deviation of the camera's noise."""
Pixels = npt.NDArray[np.float32]


def main(arguments: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Film the garments, train once for each pretext and seed, and say what is reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="Folder for the frames and the runs.")
    parser.add_argument("--source", default="fashion-mnist", help="A name or folder that moco takes as --data.")
    parser.add_argument(
        "--pretexts", nargs="+", default=["neighbours"], help="views, masked, neighbours, paired, paired-own."
    )
    parser.add_argument("--garments", type=int, default=500, help="Series to train on; as many frames to test on.")
    parser.add_argument("--frames", type=int, default=4, help="Frames of a series.")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args(arguments)
    if not (given.out / "frames").is_dir():
        splits = moco.load(given.source)
        part = given.out / "part"  # a set of which only a part was written is written again
        film(splits["train"], part, "train", given.garments, given.frames)
        film(splits.get("test", splits["train"]), part, "test", given.garments, 1)
        for name in ("drawings", "frames"):
            (part / name).rename(given.out / name)
    found = {}
    for seed in given.seeds:
        for pretext in given.pretexts:
            figures = found[f"{pretext}-{seed}"] = measure(given.out, pretext, seed, given.epochs)
            (given.out / "figures.json").write_text(json.dumps(found, indent=2) + "\n")
            print(f"{pretext}, seed {seed}: " + json.dumps(figures), flush=True)
    means = {name: float(np.mean([row[name] for row in found.values()])) for name in ("trained", "random", "pixels")}
    print(f"trained {means['trained']:.1f}%, random weights {means['random']:.1f}%, raw pixels {means['pixels']:.1f}%")
    return found


def film(garments: Images, out: Path, split: str, count: int, frames: int) -> None:
    """Write `count` garments as frames/SPLIT/CLASS/GARMENT/TIME.png, and their drawings below drawings/."""
    assert garments.labels is not None
    rng = np.random.default_rng(len(split))
    for row in np.linspace(0, len(garments) - 1, min(count, len(garments))).astype(int):
        grey = garments[int(row)].float().mean(0)[None, None] / 255
        place = Path(split, garments.classes[garments.labels[row]].replace("/", "-"), f"{row:05}")
        angle, lamp = rng.uniform(0, 2 * np.pi, 2)
        for time in range(frames):
            angle, lamp = angle + TURN * rng.uniform(-1, 1), lamp + rng.uniform(-1, 1)
            write(out / "frames" / place / f"{time}.png", light(pose(grey, angle, rng), lamp), rng)
            write(out / "drawings" / place / f"{time}.png", draw_edges(pose(grey, angle, rng)), rng)


def pose(grey: torch.Tensor, angle: float, rng: np.random.Generator) -> Pixels:
    """Lay a garment (1, 1, h, w) somewhere on a dark frame (SIDE, SIDE), turned, at a random distance."""
    side = rng.uniform(SMALLEST, LARGEST)
    y, x = rng.uniform(-1, 1, 2) * (1 - side)
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / side
    affine = torch.from_numpy(np.c_[turned, turned @ (x, y)]).float()[None]
    grid = F.affine_grid(affine, [1, 1, SIDE, SIDE], align_corners=False)
    pixels: Pixels = F.grid_sample(grey, grid, align_corners=False)[0, 0].numpy()
    return pixels


def light(grey: Pixels, lamp: float) -> Pixels:
    """Light a garment from one side; its grey values are its relief and its colour."""
    slope_y, slope_x = np.gradient(2 * grey)
    shading = np.maximum(0, 1 - np.cos(lamp) * slope_x - np.sin(lamp) * slope_y) / np.sqrt(1 + slope_x**2 + slope_y**2)
    lit: Pixels = (0.1 + 0.7 * grey) * shading
    return lit


def draw_edges(grey: Pixels) -> Pixels:
    """Draw the edges of a garment, dark on white."""
    drawn: Pixels = 1 - 2 * np.hypot(*np.gradient(grey))
    return drawn


def write(path: Path, pixels: Pixels, rng: np.random.Generator) -> None:
    """Write a frame as PNG, with the camera's exposure and noise."""
    seen = pixels * rng.uniform(0.6, 1) + NOISE * rng.standard_normal(pixels.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((255 * seen.clip(0, 1)).astype(np.uint8)).save(path)


def measure(out: Path, pretext: str, seed: int, epochs: int) -> dict[str, float]:
    """Train, and compare with random weights: kNN by class and, for `paired`, how often a frame finds its drawing."""
    trained, frames = out / f"{pretext}-{seed}", str(out / "frames")
    more: dict[str, Any] = {}
    if pretext.startswith("paired"):
        encoder = "own" if pretext == "paired-own" else "shared"
        more = {"partner": str(out / "drawings"), "symmetric": True, "partner_encoder": encoder}
    moco.run("pretrain", "quick", data=frames, out=trained, pretext=pretext.removesuffix("-own"), seed=seed,
             epochs=epochs, threads=1, knn_every=0, **more)  # fmt: skip
    found = moco.run("knn", weights=trained, data=frames, seed=seed, threads=1, workers=0)
    figures = {"trained": found["top1"], **{name: own["top1"] for name, own in found["baselines"].items()}}
    if pretext.startswith("paired"):
        draws = trained / "encoder-partner.safetensors"
        encoders = [{"weights": trained}, {"weights": draws if draws.is_file() else trained}]
        features = "head" if draws.is_file() else "backbone"  # two encoders have only the heads' space in common
        figures["finds"] = retrieve(out, trained, encoders, features)
        random = {"weights": "random", "like": trained, "seed": seed}
        figures["random finds"] = retrieve(out, trained, [random, random], features)
    return {name: round(figure, 1) for name, figure in figures.items()}


def retrieve(out: Path, trained: Path, encoders: list[dict[str, Any]], features: str) -> float:
    """Say how often a test frame's nearest drawing is its own: percent. Each camera's mean feature is taken off."""
    sides = []
    for camera, weights in zip(("frames", "drawings"), encoders, strict=True):
        file = trained / f"{camera}-{weights['weights'] == 'random'}.npz"
        moco.run("embed", **weights, data=str(out / camera), split="test", out=file, features=features, threads=1,
                 workers=0)  # fmt: skip
        found = np.load(file)["features"]
        found -= found.mean(0)
        sides.append(found / np.linalg.norm(found, axis=1, keepdims=True))
    return 100 * float(np.mean((sides[0] @ sides[1].T).argmax(1) == np.arange(len(sides[0]))))


if __name__ == "__main__":
    try:
        main()
    except moco.StoppedError as stopped:  # Ctrl-C or a scheduler: all is saved, and the same command goes on
        print(stopped, file=sys.stderr)
        sys.exit(75)
