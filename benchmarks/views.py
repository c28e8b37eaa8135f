"""What views cost on one core: decoders, each stage of a view, whole views before and after, and against torchvision.

Run by hand from the root: `OMP_NUM_THREADS=1 python -m benchmarks.views`. It makes JPEG photographs of 500x375 and of
2000x1500 out of scikit-learn's two in a temporary folder and prints a table for docs/views.md. Times are processor
times, the best of several passes, so that the ratios hold on a machine that has other work too.
"""

import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.peer_torchvision import augmentation
from moco.bench.photographs import JPEG_SIZE, write_jpegs
from moco.data import augment
from moco.data.augment import AUGMENTATIONS, ViewParameters, draw, finish, normalize
from moco.data.config import IMAGENET_MEAN, IMAGENET_STD
from moco.data.decoding import decode_bytes
from moco.data.folder import open_folder
from moco.data.images import FileImages
from moco.data.jpeg import DECODER, decode_plain, read_plain_size
from moco.data.replacement import ChosenImages
from moco.data.views import COMPILED, Look, make_views, render_array
from moco.runtime.randomness import Stream

MEAN, STD = IMAGENET_MEAN, IMAGENET_STD
PHOTOGRAPHS, BATCH, PASSES = 100, 32, 7
STREAMS = (Stream.VIEW_QUERY, Stream.VIEW_KEY)


def photographs(folder: Path, size: tuple[int, int], count: int) -> FileImages:
    """JPEG files, quality 90, of different windows of two photographs, resized."""
    write_jpegs(folder, np.random.default_rng(0), count, size)
    return open_folder(folder)


def seconds(work: Callable[[], object], passes: int = PASSES) -> float:
    """The least processor time of several passes, after one that does not count."""
    work()
    best = float("inf")
    for _ in range(passes):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def row(what: str, each: float, against: float | None = None) -> None:
    """A line of the table."""
    ratio = "" if against is None else f"{against / each:.2f}x"
    print(f"| {what} | {1e3 * each:.3f} | {1 / each:.0f} | {ratio} |", flush=True)


def decoders(contents: list[bytes]) -> None:
    """Every decoder that is installed; the first row is what the others are compared with."""
    ways: dict[str, Callable[[bytes], object]] = {
        "Pillow, as decoding.decode": lambda content: decode_bytes(content, "x"),
        "Pillow, scaled to 1/2": lambda content: decode_plain(content, 2, "pillow"),
        "Pillow, scaled to 1/4": lambda content: decode_plain(content, 4, "pillow"),
    }
    if DECODER == "simplejpeg":
        import simplejpeg

        ways["simplejpeg"] = lambda content: decode_plain(content, 1, "simplejpeg")
        for eighths in (7, 6, 5, 4, 3, 2, 1):
            height, width = read_plain_size(contents[0]) or (0, 0)
            least = {"min_height": -(-height * eighths // 8), "min_width": -(-width * eighths // 8)}
            ways[f"simplejpeg, scaled to {eighths}/8"] = lambda content, least=least, eighths=eighths: (
                simplejpeg.decode_jpeg(content, "RGB", **least, min_factor=8 / (eighths + 0.5))
            )
        ways["simplejpeg, fast DCT and upsampling"] = lambda content: simplejpeg.decode_jpeg(
            content, "RGB", fastdct=True, fastupsample=True
        )
    try:
        import cv2

        cv2.setNumThreads(1)
        for name, flag in {"": cv2.IMREAD_COLOR_RGB, ", scaled to 1/2": cv2.IMREAD_REDUCED_COLOR_2}.items():
            ways[f"OpenCV{name}"] = lambda content, flag=flag: cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    except ImportError:
        pass
    try:
        from torchcodec.decoders import decode_image

        ways["torchcodec"] = lambda content: decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    except (ImportError, RuntimeError):
        pass
    ways["header (Pillow, with EXIF)"] = read_plain_size
    first = None
    for name, way in ways.items():
        each = seconds(lambda way=way: [way(content) for content in contents]) / len(contents)
        first = first or each
        row(name, each, first)


def stages(images: FileImages, size: int) -> None:
    """Each operation on a batch by torch, and by the compiled kernels."""
    decoded = [images[i] for i in range(BATCH)]
    sizes = np.array([image.shape[1:] for image in decoded])
    v2 = AUGMENTATIONS["v2"]
    parameters = draw(v2, sizes, seed=0, epoch=0, index=range(BATCH), view=Stream.VIEW_QUERY)
    windows = parameters.crop.tolist()
    pixels = torch.stack([augment.crop_one(*pair, size) for pair in zip(decoded, windows, strict=True)])
    factors, sigma = torch.from_numpy(parameters.factors), torch.linspace(0.1, 2, BATCH)
    ones = {"brightness": 0, "contrast": 1, "saturation": 2, "hue": 3}
    torch_ways: dict[str, Callable[[], object]] = {
        "draw": lambda: draw(v2, sizes, seed=0, epoch=0, index=range(BATCH), view=Stream.VIEW_QUERY),
        "crop": lambda: [augment.crop_one(*pair, size) for pair in zip(decoded, windows, strict=True)],
        **{
            name: lambda name=name, at=at: getattr(augment, name)(pixels, factors[:, at].view(-1, 1, 1, 1))
            for name, at in ones.items()
        },
        "blur (every image)": lambda: augment.blur(pixels, sigma),
        "normalise": lambda: normalize(pixels, MEAN, STD),
        "all after the crop": lambda: normalize(finish(pixels.clone(), parameters, v2), MEAN, STD),
    }
    for name, way in torch_ways.items():
        row(f"torch: {name}", seconds(way) / BATCH)
    if not COMPILED:
        return
    from moco.data.compiled_crop import crop
    from moco.data.compiled_finish import finish_into as compiled_finish

    lines = [image.permute(1, 2, 0).reshape(1, image.shape[1], -1).numpy() for image in decoded]
    room, out = np.empty((1, 3, size, size), np.float32), np.empty((1, size, size, 3), np.float32)
    nothing = replace(
        parameters, order=np.full_like(parameters.order, -1), grey=np.zeros_like(parameters.grey),
        sigma=np.zeros_like(parameters.sigma), flip=np.zeros_like(parameters.flip),
    )  # fmt: skip

    def cropped() -> None:
        for i, line in enumerate(lines):
            crop(line, parameters.crop[i : i + 1].astype(np.float64), room)

    def finished(p: ViewParameters) -> None:
        mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
        for i in range(BATCH):
            s = slice(i, i + 1)
            compiled_finish(room, p.factors[s], p.order[s], p.grey[s], False, p.sigma[s], 23, p.flip[s], mean, std, out)

    base = seconds(lambda: finished(nothing)) / BATCH
    row("compiled: crop", seconds(cropped) / BATCH)
    row("compiled: normalise", base)
    for name, at in ones.items():
        one = replace(nothing, order=np.tile([at, -1, -1, -1], (BATCH, 1)))
        row(f"compiled: {name}", seconds(lambda one=one: finished(one)) / BATCH - base)
    blurred = replace(nothing, sigma=sigma.numpy())
    row("compiled: blur (every image)", seconds(lambda: finished(blurred)) / BATCH - base)
    row("compiled: all after the crop", seconds(lambda: finished(parameters)) / BATCH)


def reference(images: FileImages) -> float:
    """Time for a view by torchvision: an image decoded, two views."""
    view = augmentation("v2", 224, MEAN, STD)

    def work() -> None:
        for i in range(BATCH):
            image = Image.open(io.BytesIO(images.encoded(i))).convert("RGB")
            view(image), view(image)

    return seconds(work, 2) / (2 * BATCH)


def whole(images: FileImages, against: float) -> dict[tuple[bool, bool], list[torch.Tensor]]:
    """Two views of each image, from the files."""
    made = {}
    for compiled in (False, True) if COMPILED else (False,):
        for scaled in (False, True):
            look = Look(AUGMENTATIONS["v2"], 224, MEAN, STD, scaled=scaled, compiled=compiled)

            def work(look: Look = look) -> list[torch.Tensor]:
                return make_views(ChosenImages(images, np.arange(BATCH), 0, 0), STREAMS, look)

            name = f"{'compiled' if compiled else 'torch'}, {DECODER}, {'scaled' if scaled else 'exact'}"
            row(name, seconds(work, 3) / (2 * BATCH), against)
            made[compiled, scaled] = work()
    return made


def small() -> None:
    """CIFAR-10's size, from memory, batch 256."""
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (256, 3, 32, 32), dtype=np.uint8))
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    sizes = np.tile([32, 32], (256, 1))
    for name in ("cifar", "v2"):
        view = augmentation(name, 32, MEAN, STD)
        against = seconds(lambda view=view: [view(picture) for picture in pictures], 2) / 256
        row(f"{name}: torchvision", against, against)
        for compiled in (False, True) if COMPILED else (False,):
            look = Look(AUGMENTATIONS[name], 32, MEAN, STD, compiled=compiled)

            def work(look: Look = look) -> None:
                for stream in STREAMS:
                    parameters = draw(look.augmentation, sizes, seed=0, epoch=0, index=range(256), view=stream)
                    render_array(pixels, parameters, look)

            row(f"{name}: {'compiled' if compiled else 'torch'}", seconds(work) / 512, against)


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        images = photographs(Path(folder) / "small", JPEG_SIZE, PHOTOGRAPHS)
        large = photographs(Path(folder) / "large", (2000, 1500), BATCH)
        print("\n| decoder, 500x375 | ms | images/s | against the first |\n|---|---|---|---|")
        decoders([images.encoded(i) for i in range(PHOTOGRAPHS)])
        print("\n| decoder, 2000x1500 | ms | images/s | against the first |\n|---|---|---|---|")
        decoders([large.encoded(i) for i in range(4)])
        print("\n| a v2 view at 224, stages | ms | views/s | |\n|---|---|---|---|")
        stages(images, 224)
        for what, files in (("500x375", images), ("2000x1500", large)):
            print(f"\n| v2 views at 224 from JPEG of {what} | ms | views/s | against torchvision |\n|---|---|---|---|")
            against = reference(files)
            row("torchvision on Pillow", against, against)
            made = whole(files, against)
            for way in {way for way, _ in made}:
                for a, b in zip(made[way, False], made[way, True], strict=True):
                    difference = (a - b).abs() * torch.tensor(STD).view(3, 1, 1)
                    print(f"scaled to exact: largest {difference.max():.3f}, mean {difference.mean():.5f} (of 1)")
        print("\n| views at 32 from memory | ms | views/s | against torchvision |\n|---|---|---|---|")
        small()


if __name__ == "__main__":
    main()
