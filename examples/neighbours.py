"""Frames of sequences: does an encoder that pairs near frames tell the sequences apart? Compared with random weights.

`python examples/neighbours.py OUT` draws sequences in which a textured disc moves over a textured ground, while the
light changes. Frames of a sequence share what they show; where the disc is, and how bright it is, differs. Query and
key are views of two frames that are near in time (Sermanet et al., arXiv:1704.06888). It needs no network.
"""

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from moco import run

SIDE = 32
Pixels = npt.NDArray[np.float64]


def main() -> None:
    """Draw the sequences, train, and say what is reached."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=Path, help="Folder for the frames and the run; it must not be there yet.")
    arguments.add_argument("--sequences", type=int, default=30)
    arguments.add_argument("--frames", type=int, default=60)
    arguments.add_argument("--epochs", type=int, default=10)
    given = arguments.parse_args()
    data, trained = given.out / "frames", given.out / "run"
    for number in range(given.sequences):
        draw_sequence(data, number, given.frames)
    run("pretrain", "quick", data=data / "train", out=trained, pretext="neighbours", within=5, epochs=given.epochs)
    figures = run("knn", weights=trained, data=data, knn_k=5)
    others = figures["baselines"]
    print(f"trained {figures['top1']:.1f}%, random weights {others['random']['top1']:.1f}%, raw pixels ", end="")
    print(f"{others['pixels']['top1']:.1f}%, guessing {100 / given.sequences:.1f}%")


def draw_sequence(data: Path, number: int, frames: int) -> None:
    """Draw a sequence as data/train/NUMBER/TIME.png; its last fifth lies below data/test."""
    drawn = np.random.default_rng(number)
    ground, disc = draw_texture(drawn), draw_texture(drawn)
    start, speed, light = drawn.random(2), 0.03 * drawn.standard_normal(2), drawn.random() * 2 * np.pi
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    for time in range(frames):
        y, x = np.abs((start + time * speed) % 2 - 1)  # reflected at the borders
        inside = ((rows - y) ** 2 + (columns - x) ** 2 < 0.06)[..., None]
        pixels = np.where(inside, disc, ground) * (0.7 + 0.3 * np.sin(light + time / 5))
        pixels += 0.04 * drawn.standard_normal(pixels.shape)
        folder = data / ("test" if time >= frames * 4 // 5 else "train") / f"{number:03}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8)).save(folder / f"{time:04}.png")


def draw_texture(drawn: np.random.Generator) -> Pixels:
    """Draw a texture (SIDE, SIDE, 3) in [0, 1]: waves of two directions in two colours."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    waves = [np.sin(2 * np.pi * (a * rows + b * columns)) for a, b in drawn.uniform(-6, 6, (2, 2))]
    pixels: Pixels = 0.5 + 0.25 * sum(wave[..., None] * drawn.uniform(-1, 1, 3) for wave in waves)
    return pixels


if __name__ == "__main__":
    main()
