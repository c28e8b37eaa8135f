"""What `fuzz.py` damages beside a run's own files: archives, others' weights, annotations, reports and studies."""

import io
import json
import os
import random
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PillowImage

from moco.core.encoder import Encoder, EncoderPlan, encoder_tensors
from moco.data.brightness import settle_white_level
from moco.data.catalog import load
from moco.data.images import FileImages, PathTable
from moco.data.notes import Notes
from moco.errors import BadInputError
from moco.interop.checkpoints import load_weights
from moco.report.page import page
from moco.report.runs import read_run
from moco.runtime.checkpoint import save_tensors
from moco.study.definition import find_study
from moco.transfer.checking import check_examples
from moco.transfer.config import TransferConfig
from moco.transfer.examples import files_of, open_examples
from moco.transfer.recipes import TASKS, transfer_config
from scripts.fuzz_readers import VALUES, Damage, Reader, Seeds, images, use
from tests.transfer.scenes import write

LAYOUTS = sorted({task.layout for task in TASKS.values()})
STUDY = """
about = "Two rates"
recipe = "quick"
[[arms]]
name = "low"
values = { lr = 0.01 }
[[arms]]
name = "high"
values = { lr = 0.1 }
"""
LISTS = {
    "table.csv": "path,label\n{0},a\n{1},b\n",
    "quoted.txt": '"{0}" 1\n"{1}" 2\n',
    "tabs.tsv": "{0}\t3\n{1}\t4\n",
    "spaced.txt": "# two\n{0}\n\n{1}\r\n",
}


def _choose(place: Path, rng: np.random.Generator) -> Path:
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return files[int(rng.integers(0, len(files)))]


def _exchange(node: Any, rng: np.random.Generator) -> Any:
    """Exchange one value somewhere in what JSON holds."""
    if isinstance(node, dict | list) and node and rng.random() < 0.85:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = keys[int(rng.integers(0, len(keys)))]
        if isinstance(node, dict) and rng.random() < 0.1:
            del node[key]
        else:
            node[key] = _exchange(node[key], rng)
        return node
    return VALUES[int(rng.integers(0, len(VALUES)))]


def _damage(content: bytes, name: str, rng: np.random.Generator, damage: Damage) -> bytes:
    """Damage bytes, or exchange a value where they are JSON."""
    if name.endswith(".json") and rng.random() < 0.6:
        return json.dumps(_exchange(json.loads(content), rng)).encode("utf-8", "surrogatepass")
    return damage(content, content[::-1], rng)


def read_lists(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """Tables, quotes, other encodings."""
    work.mkdir()
    name = sorted(LISTS)[int(rng.integers(0, len(LISTS)))]
    root = seeds.root / "folder"
    text = LISTS[name].format(root / "a" / "0.png", root / "b" / "1.png")
    content = text.encode(["utf-8", "utf-16", "utf-8-sig", "utf-16-be"][int(rng.integers(0, 4))])
    path = work / name
    path.write_bytes(damage(content, content, rng))
    use(load(str(path))["train"])


def read_archive(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """A zip or compressed tar file of a folder with classes."""
    work.mkdir()
    os.environ["MOCO_DATA"] = str(work / "kept")
    kind = ["zip", "gztar", "bztar", "xztar"][int(rng.integers(0, 4))]
    made = Path(shutil.make_archive(str(work / "x"), kind, seeds.root / "folder"))
    made.write_bytes(damage(made.read_bytes(), b"PK\x01\x02", rng))
    for part in load(str(made)).values():
        use(part)


def read_samples(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """Shards with labels in JSON, masks beside images, hidden members, and many PAX records; headers stay sound."""
    work.mkdir()
    content = (seeds.root / "folder" / "a" / "0.png").read_bytes()
    names = ("a/1.png", "a/1.seg.png", "2.0.jpg", "._3.png", "train/4.png", "test/5.png")
    bodies = {"a/1.json": b'{"label": 3}', "2.cls": b"x", **dict.fromkeys(names, content)}
    with tarfile.open(work / "0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, body in bodies.items():
            altered = damage(body, content, rng) if rng.random() < 0.3 else body
            shown = damage(name.encode(), b"../\0", rng) if rng.random() < 0.3 else name.encode()
            info = tarfile.TarInfo(shown.decode("utf-8", "surrogateescape"))
            info.size = len(altered)
            info.pax_headers = {f"key{i}": "v" * int(rng.integers(0, 9)) for i in range(int(rng.integers(0, 50)))}
            tar.addfile(info, io.BytesIO(altered))
    for part in load(str(work / "0.tar")).values():
        use(part)


def read_deep(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """Sets of 16-bit files, some of them damaged."""
    work.mkdir()
    names = []
    for number in range(6):
        values = rng.integers(0, 2 ** int(rng.integers(1, 17)), (9, 8)).astype(np.uint16)
        out = io.BytesIO()
        PillowImage.fromarray(values).save(out, ("PNG", "TIFF")[number % 2])
        content = damage(out.getvalue(), b"", rng) if rng.random() < 0.5 else out.getvalue()
        (work / str(number)).write_bytes(content)
        names.append(str(number).encode())
    found = FileImages(os.fsencode(work), PathTable(names))
    level = settle_white_level(found, None, Notes())
    assert level is None or level in (255, 1023, 4095, 16383, 65535)
    use(found if level is None else found.with_white_level(level))


def read_foreign(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """Others' checkpoints: zip, legacy and safetensors, in folders with descriptions."""
    work.mkdir()
    plan = EncoderPlan("resnet18-w4", "imagenet", image_size=32)
    prefix = ["module.encoder_q.", "backbone.", "encoder.", "", "module.model."][int(rng.integers(0, 5))]
    own = {name: value for name, value in encoder_tensors(Encoder(plan)).items() if not name.startswith("head")}
    state = {prefix + name.removeprefix("backbone."): value for name, value in own.items()}
    kind = int(rng.integers(0, 4))
    path = work / ("model.safetensors" if kind == 3 else "x.pth")
    if kind == 3:
        save_tensors(path, state, {"format": "pt"})
        (work / "config.json").write_bytes(_damage(json.dumps({
            "architecture": "resnet18", "model_args": {}, "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3,
            "input_size": [3, 32, 32]}, "architectures": ["ResNetModel"], "hidden_sizes": [4, 8], "depths": [2, 2],
        }).encode(), "config.json", rng, damage))  # fmt: skip
        if rng.random() < 0.5:
            path.write_bytes(damage(path.read_bytes()[:3000], b"", rng) + path.read_bytes()[3000:])
        path = work
    else:
        facts = {"epoch": 3, "arch": "resnet18", "args": {"lr": 0.1}, "state_dict": state}
        torch.save(facts, path, _use_new_zipfile_serialization=kind != 0)
        if kind == 1:
            _damage_pickle(path, rng, damage)
        else:
            content = path.read_bytes()
            path.write_bytes(damage(content, content, rng))
    load_weights(str(path))


def _damage_pickle(path: Path, rng: np.random.Generator, damage: Damage) -> None:
    """Damage the pickle within a sound zip file."""
    with zipfile.ZipFile(path) as source:
        parts = {info.filename: source.read(info) for info in source.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for name, content in parts.items():
            target.writestr(name, damage(content, content[::-1], rng) if name.endswith("data.pkl") else content)


def read_annotations(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """A data set of each layout with one damaged file: opened, checked against its images, and read through."""
    layout = LAYOUTS[int(rng.integers(0, len(LAYOUTS)))]
    source = seeds.root / "layouts" / layout
    if not source.is_dir():
        write(layout, source, 2, (48, 32))
    shutil.copytree(source, work)
    os.environ["MOCO_DATA"] = str(seeds.root / "kept")
    files = sorted(path for path in work.rglob("*") if path.is_file())
    files = [path for path in files if path.suffix != ".jpg"] if rng.random() < 0.8 else files
    path = files[int(rng.integers(0, len(files)))]
    path.write_bytes(_damage(path.read_bytes(), path.name, rng, damage))
    train, test = (open_examples(layout, work, split) for split in ("train", "test"))
    check_examples(str(work), train, test, files_of(work, train, test))
    for examples in (train, test):
        for index in range(len(examples)):
            try:
                examples[index]
            except BadInputError:
                continue


def read_report(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """A run's page, one of its files damaged."""
    shutil.copytree(seeds.root / "run", work)
    (work / "evaluations").mkdir()
    figures = {"top1": 50.0, "top5": 90.0, "weights": "run", "data": "digits", "baselines": {"random": {"top1": 25.0}}}
    for name in ("knn", "linear-fast", "lowshot-1pc", "finetune"):
        (work / "evaluations" / f"{name}.json").write_text(json.dumps(figures))
    path = _choose(work, rng)
    if path.suffix != ".safetensors":
        path.write_bytes(_damage(path.read_bytes(), path.name, rng, damage))
    assert page([read_run(work)], "made")


def read_study(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """A user's study."""
    work.mkdir()
    path = work / "x.toml"
    path.write_bytes(damage(STUDY.encode(), STUDY.encode(), rng))
    find_study(str(path))


def read_transfer_config(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """The settings of a transfer run."""
    from moco.runtime.configfile import from_json, to_json
    from moco.transfer.config import check_transfer

    config = transfer_config("voc-fpn" if "voc-fpn" in TASKS else next(iter(TASKS)), weights="w", data="d", out=work)
    content = to_json(config, "transfer").encode()
    check_transfer(from_json(TransferConfig, _damage(content, "config.json", rng, damage), Path("config.json")))


def read_other_images(seeds: Seeds, work: Path, rng: np.random.Generator, damage: Damage) -> None:
    """Headers that promise much: sizes, bits and counts exchanged in the first bytes, checksums of PNG made right."""
    import struct
    import zlib

    from moco.data.decoding import decode_bytes, decode_deep

    chosen = random.Random(int(rng.integers(0, 2**31)))  # noqa: S311
    made = images(PillowImage.new("RGB", (12, 9), "red"))
    name = chosen.choice(sorted(made))
    content = bytearray(made[name])
    for _ in range(chosen.randint(1, 3)):
        place = chosen.randint(0, min(len(content) - 4, 60))
        value = chosen.choice([0, 1, 2, 255, 65535, 2**16, 2**24, 2**31 - 1, 2**32 - 1])
        content[place : place + 4] = struct.pack(chosen.choice("<>") + "I", value)
    if name.endswith("png") and len(content) > 33:
        content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    decode_deep(bytes(content), "x")
    decode_bytes(bytes(content), "x")


MORE_READERS: dict[str, Reader] = {
    "lists": read_lists,
    "archive": read_archive,
    "samples": read_samples,
    "deep": read_deep,
    "headers": read_other_images,
    "foreign": read_foreign,
    "annotations": read_annotations,
    "report": read_report,
    "study": read_study,
    "transfer": read_transfer_config,
}
