"""What `fuzz.py` damages and reads: valid files of every kind that the package opens, and how they are opened."""

import copy
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PillowImage

from moco.commands.pack import run as pack
from moco.core.encoder import Encoder, EncoderPlan, encoder_tensors
from moco.data import columns, fingerprint, folder, jpeg
from moco.data.catalog import load
from moco.data.config import PackConfig
from moco.data.decoding import decode_bytes
from moco.data.images import ArrayImages, FileImages, Images, PathTable
from moco.errors import BadInputError
from moco.interop.checkpoints import load_weights
from moco.interop.metadata import encoder_metadata
from moco.pretraining.config import PretrainConfig
from moco.pretraining.recipes import recipe
from moco.runtime.checkpoint import load_tensors, newest_checkpoint, save_tensors
from moco.runtime.configfile import from_json, to_json
from moco.runtime.fields import check
from moco.runtime.folder import read_status
from moco.runtime.runlog import read_events

Damage = Callable[[bytes, bytes, np.random.Generator], bytes]
Reader = Callable[["Seeds", Path, np.random.Generator, Damage], None]

VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2**31,
    2**63,
    10**30,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "resnet18-w9999",
    "resnet152-90x",
    "vit_b_16",
    "x" * 10_000,
    "\x00",
    "\udcff",
    [],
    [[]],
    [0.5] * 3,
    [0.0] * 3,
    ["a"] * 3,
    {},
    {"a": 1},
]
"""What a field may be instead of what it should be."""


class Seeds:
    """Valid files in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root / "seeds"

    def make(self) -> None:
        """Write all of them."""
        self.root.mkdir()
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        (self.root / "images").mkdir()
        for name, content in images(PillowImage.fromarray(pixels)).items():
            (self.root / "images" / name).write_bytes(content)
        for label in ("a", "b"):
            place = self.root / "folder" / label
            place.mkdir(parents=True)
            for i in range(4):
                (place / f"{i}.png").write_bytes(images(PillowImage.fromarray(pixels[:16, :16] ^ i))["rgb.png"])
        for form in ("arrays", "shards"):
            pack(PackConfig(str(self.root / "folder"), self.root / form, format=form))
        self._tars()
        (self.root / "list").mkdir()
        (self.root / "list" / "list.txt").write_bytes(
            b"# images\n../seeds/folder/a/0.png\n\n../seeds/folder/b/1.png\r\n"
        )
        self._run()

    def _tars(self) -> None:
        for name, form in (("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)):
            place = self.root / "tar" / name
            place.mkdir(parents=True)
            with tarfile.open(place / "0.tar", "w", format=form) as tar:
                content = (self.root / "folder" / "a" / "0.png").read_bytes()
                long = "ü" * 70 + "/" + "n" * (20 if name == "ustar" else 200)
                for member, body in (
                    ("1.png", content),
                    ("1.cls", b"3"),
                    (long + ".png", content),
                    (long + ".cls", b"1"),
                ):
                    info = tarfile.TarInfo(member)
                    info.size = len(body)
                    tar.addfile(info, io.BytesIO(body))

    def _run(self) -> None:
        run = self.root / "run"
        (run / "checkpoints").mkdir(parents=True)
        config = recipe("quick", data="digits", out=run)
        (run / "config.json").write_text(to_json(config, "pretrain"))
        (run / "status.json").write_text(json.dumps({"state": "stopped", "step": 3, "exit_code": 75}))
        lines = [{"step": 1, "loss": 2.5}, {"event": "replaced", "step": 1, "index": 3, "path": "a"}]
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        plan = EncoderPlan("resnet18-w4", "cifar", image_size=16, feature_dim=8)
        described, tensors = encoder_metadata(plan, (0.5,) * 3, (0.5,) * 3, 3), encoder_tensors(Encoder(plan))
        save_tensors(run / "encoder.safetensors", tensors, {**described, "kind": "encoder"})
        whole = {
            f"f_q.{name if name.startswith('head') else 'backbone.' + name}": tensor for name, tensor in tensors.items()
        }
        facts = {**described, "kind": "checkpoint", "seconds": 1.0}
        save_tensors(run / "checkpoints" / "000000003.safetensors", whole, facts)
        fingerprint.keep_fingerprint(run, ArrayImages(torch.zeros(9, 3, 4, 4, dtype=torch.uint8)), accept=False)


def images(picture: PillowImage.Image) -> dict[str, bytes]:
    """The picture in every format and mode that is read."""
    exif = PillowImage.Exif()
    exif[274] = 6
    sixteen = PillowImage.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    made: list[tuple[str, PillowImage.Image, dict[str, Any]]] = [
        ("rgb.jpg", picture, {}),
        ("progressive.jpg", picture, {"progressive": True}),
        ("exif.jpg", picture, {"exif": exif}),
        ("grey.jpg", picture.convert("L"), {}),
        ("cmyk.jpg", picture.convert("CMYK"), {}),
        ("444.jpg", picture, {"subsampling": 0}),
        ("rgb.png", picture, {}),
        ("rgba.png", picture.convert("RGBA"), {}),
        ("la.png", picture.convert("LA"), {}),
        ("p.png", picture.quantize(16), {"transparency": 3}),
        ("1.png", picture.convert("1"), {}),
        ("16.png", sixteen, {}),
        ("exif.png", picture, {"exif": exif}),
        ("p.gif", picture.quantize(16), {}),
        ("animated.gif", picture, {"save_all": True, "append_images": [picture.rotate(90)]}),
        ("rgb.webp", picture, {}),
        ("rgba.webp", picture.convert("RGBA"), {"lossless": True}),
        ("raw.tif", picture, {}),
        ("lzw.tif", picture, {"compression": "tiff_lzw"}),
        ("16.tif", sixteen, {}),
        ("deflate.tif", picture, {"compression": "tiff_adobe_deflate"}),
        ("jpeg.tif", picture, {"compression": "jpeg"}),
        ("rgb.bmp", picture, {}),
        ("p.bmp", picture.quantize(16), {}),
        ("rgb.ppm", picture, {}),
        ("grey.pgm", picture.convert("L"), {}),
        ("rgb.jp2", picture, {}),
        ("rgb.avif", picture, {}),
        ("multi.mpo", picture, {"save_all": True, "append_images": [picture]}),
    ]
    found = {}
    for name, image, options in made:
        file = io.BytesIO()
        form = {"jpg": "jpeg", "tif": "tiff", "jp2": "jpeg2000", "pgm": "ppm"}.get(
            name.split(".")[1], name.split(".")[1]
        )
        image.save(file, form, **options)
        found[name] = file.getvalue()
    return found


def use(images: Images) -> None:
    """Ask a set for everything."""
    for i in range(min(len(images), 50)):
        try:
            images.name(i)
            assert images[i].shape[0] == 3
        except BadInputError:
            continue
    fingerprint.fingerprint(images)
    if images.labels is not None:
        assert len(images.labels) == len(images)
        assert not len(images) or 0 <= int(images.labels.min()) <= int(images.labels.max()) < len(images.classes)
    assert all(isinstance(name, str) for name in images.classes)


def _pick(place: Path, rng: np.random.Generator) -> Path:
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return files[int(rng.integers(0, len(files)))]


def _damage_one(source: Path, work: Path, rng: np.random.Generator, damage: Damage) -> Path:
    """A copy of a folder in which one file is damaged; that file."""
    shutil.copytree(source, work)
    path = _pick(work, rng)
    path.write_bytes(damage(path.read_bytes(), _pick(source, rng).read_bytes(), rng))
    return path


def read_image(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """A file as the loader reads it."""
    source = seeds.root / "images"
    content = damage(_pick(source, rng).read_bytes(), _pick(source, rng).read_bytes(), rng)
    size = jpeg.read_plain_size(content)
    for shrink in jpeg.SHRINKS if size is not None else ():
        for decoder in ("pillow", jpeg.DECODER):
            pixels = jpeg.decode_plain(content, shrink, decoder)
            assert size is not None
            assert pixels is None or pixels.shape == (3, -(-size[0] // shrink), -(-size[1] // shrink))
    pixels = decode_bytes(content, "x")
    assert pixels.dtype == torch.uint8
    assert pixels.shape[0] == 3


def read_tar(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """Somebody else's shard."""
    _damage_one(sorted((seeds.root / "tar").iterdir())[int(rng.integers(0, 3))], work, rng, damage)
    use(load(str(work))["train"])


def read_shard_index(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """A shard whose index was damaged."""
    shutil.copytree(seeds.root / "tar" / "gnu", work)
    load(str(work))
    path = _pick(work / ".moco-index", rng)
    path.write_bytes(damage(path.read_bytes(), b"", rng))
    use(load(str(work))["train"])


def read_pack(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """A pack of arrays or shards with one damaged file."""
    _damage_one(seeds.root / ("arrays" if rng.random() < 0.5 else "shards"), work, rng, damage)
    for images in load(str(work)).values():
        use(images)


def read_folder_index(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """A folder whose kept index was damaged."""
    root = seeds.root / "folder"
    folder.LARGE = 0
    place = columns.cache_place(root)
    shutil.rmtree(place, ignore_errors=True)
    folder.open_folder(root)
    path = _pick(place, rng)
    path.write_bytes(damage(path.read_bytes(), b"", rng))
    use(folder.open_folder(root))


def read_list(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """A text list."""
    path = _damage_one(seeds.root / "list", work, rng, damage)
    use(load(str(path))["train"])


def read_config(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """A run's config, its bytes damaged or one value exchanged."""
    content = (seeds.root / "run" / "config.json").read_bytes()
    if rng.random() < 0.5:
        content = damage(content, content, rng)
    else:
        values = json.loads(content)
        values[list(values)[int(rng.integers(0, len(values)))]] = VALUES[int(rng.integers(0, len(VALUES)))]
        content = json.dumps(values).encode()
    check(from_json(PretrainConfig, content, Path("config.json")))


def read_checkpoint(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """A run's weights, its bytes damaged, or described wrongly under a right digest."""
    run = seeds.root / "run"
    path = run / "encoder.safetensors" if rng.random() < 0.5 else run / "checkpoints" / "000000003.safetensors"
    (work / "checkpoints").mkdir(parents=True)
    target = work / path.relative_to(run)
    if rng.random() < 0.5:
        content = path.read_bytes()
        head = min(len(content), 8 + int.from_bytes(content[:8], "little"))
        target.write_bytes(damage(content[:head], content[:4096], rng) + content[head:])
    else:
        tensors, facts = load_tensors(path)
        changed = copy.deepcopy(facts)
        inner = changed["encoder"] if rng.random() < 0.7 else changed
        inner[list(inner)[int(rng.integers(0, len(inner)))]] = VALUES[int(rng.integers(0, len(VALUES)))]
        save_tensors(target, tensors, changed)
    newest_checkpoint(work)
    load_weights(str(target))


def read_run(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """What else a run keeps: status, events, fingerprint."""
    run = seeds.root / "run"
    work.mkdir()
    for name in ("status.json", "metrics.jsonl", "data.safetensors"):
        (work / name).write_bytes(damage((run / name).read_bytes(), b"", rng))
    assert isinstance(read_status(work), dict)
    assert all(isinstance(event, dict) for event in read_events(work, "replaced"))
    images = FileImages(os.fsencode(seeds.root / "folder" / "a"), PathTable([b"0.png"]))
    fingerprint.require_same_images(work, images, accept=False)


READERS: dict[str, Reader] = {
    "images": read_image,
    "tar": read_tar,
    "shard-index": read_shard_index,
    "pack": read_pack,
    "folder-index": read_folder_index,
    "list": read_list,
    "config": read_config,
    "checkpoint": read_checkpoint,
    "run": read_run,
}
