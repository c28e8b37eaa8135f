"""Pretexts by name, and a user's own: a run by it, how it goes on, and what is never run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moco.commands import embed, knn, linear, pretrain, report, resume
from moco.data.augment import AUGMENTATIONS
from moco.data.catalog import load
from moco.data.splits import training_images
from moco.errors import BadInputError
from moco.evaluation.config import EmbedConfig, KnnConfig, LinearConfig
from moco.pretraining.config import PretrainConfig, ResumeConfig
from moco.pretraining.prepare import build_batches
from moco.pretraining.pretexts import augmentation_of, load_own_pretext, open_partner, require_pretext
from moco.pretraining.recipes import recipe
from moco.report.config import ReportConfig
from moco.runtime.configfile import to_json
from moco.runtime.owncode import OWN

OWN_CODE = """
import torch.nn.functional as F

def pairs(item, draw):
    def side():
        shift = draw.uniforms(1)[0]
        return F.interpolate(item[None].float() / 255, (12, 12))[0] * float(shift)
    return side(), side()
"""
SMALL: dict[str, Any] = {
    "image_size": 12, "view_size": None, "batch_size": 32, "max_steps": 4, "arch": "resnet10-w4", "log_every": 1,
    "checkpoint_every": 2, "knn_every": 4, "knn_images": 40, "threads": 1, "device": "cpu", "precision": "fp32",
    "workers": 0, "init": "kaiming", "optimizer": "sgd", "json": True,
}  # fmt: skip


def config(out: Path, **values: Any) -> PretrainConfig:
    """A config of four small steps on the digits."""
    return recipe("quick", data="digits", out=out, **{**SMALL, **values})


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_flips_and_turns_are_the_users(augment: str, tmp_path: Path) -> None:
    """By default the papers' views; --flip and --quarter-turns change these two and nothing else."""
    named = AUGMENTATIONS[augment]
    assert augmentation_of(config(tmp_path, augment=augment)) == named
    changed = augmentation_of(config(tmp_path, augment=augment, flip=0.0, quarter_turns=True))
    assert changed == dataclasses.replace(named, flip_probability=0.0, quarter_turns=True)


def test_a_run_turns_its_views(tmp_path: Path) -> None:
    """Each view of its batches is one of the four turns of the view that is not turned."""
    images, own = load("digits"), {"augment": "mild", "flip": 0.0, "quarter_turns": True}
    turned, plain = (
        build_batches(config(tmp_path, **values), images["train"])[0]
        for values in (own, {**own, "quarter_turns": False})
    )
    found = [
        any(torch.equal(a, b.rot90(k, (1, 2))) for k in range(4)) for a, b in zip(turned[0], plain[0], strict=True)
    ]
    assert all(found)
    assert not torch.equal(turned[0], plain[0])


@pytest.fixture
def own(tmp_path: Path) -> str:
    """A file with a pretext, as a command line names it."""
    (tmp_path / "my.py").write_text(OWN_CODE, encoding="utf-8")
    return f"{tmp_path / 'my.py'}:pairs"


def test_a_run_by_code_of_ones_own(own: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It trains; the run knows the digest, says that the code runs, and goes on only where the file is given again."""
    out = tmp_path / "run"
    result = pretrain.run(config(out, pretext=own, dictionary="queue", queue_size=64, checkpoint_every=0))
    assert result["step"] == 4
    assert "code of your own, pairs, which runs with your permissions" in capsys.readouterr().err
    stored = json.loads((out / "config.json").read_text(encoding="utf-8"))["pretext"]
    assert stored.startswith(f"{OWN}pairs@sha256:")
    assert str(tmp_path) not in stored
    with pytest.raises(BadInputError, match="not run because a file names it: give --pretext FILE:FUNCTION again"):
        resume.run(ResumeConfig(out))
    assert resume.run(ResumeConfig(out, pretext=own))["already_done"]
    (tmp_path / "my.py").write_text(OWN_CODE + "\n# another\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=f"holds a run with --pretext {stored}"):
        resume.run(ResumeConfig(out, pretext=own))


def test_resume_of_a_run_of_views_runs_no_code(own: str, tmp_path: Path) -> None:
    """Whatever the command line names."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(to_json(config(tmp_path / "run"), "pretrain"), encoding="utf-8")
    with pytest.raises(BadInputError, match="its pretext is views: leave --pretext out"):
        resume.run(ResumeConfig(tmp_path / "run", pretext=own))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("vieuws", "expected one of views"),
        ("my.txt:pairs", "FILE.py:FUNCTION"),
        ("{}/none.py:pairs", "cannot be read"),
        ("{}/my.py:others", "has no function others"),
        ("{}/broken.py:pairs", "broken.py fails: ZeroDivisionError"),
        ("{}/exits.py:pairs", "exits.py fails: SystemExit: 0"),
        ("own:pairs@sha256:00", "give --pretext FILE:FUNCTION again"),
    ],
)
def test_what_is_no_pretext(given: str, message: str, own: str, tmp_path: Path) -> None:
    """One line each."""
    (tmp_path / "broken.py").write_text("1 / 0", encoding="utf-8")
    (tmp_path / "exits.py").write_text("raise SystemExit(0)", encoding="utf-8")
    with pytest.raises(BadInputError, match=message):
        load_own_pretext(given.format(tmp_path))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_wrong_pair_ends_a_run_in_one_line(workers: int, tmp_path: Path) -> None:
    """With the name of the item, wherever the pair is made."""
    (tmp_path / "my.py").write_text("def pairs(item, draw):\n    return item, item\n", encoding="utf-8")
    wrong = config(tmp_path / "run", pretext=f"{tmp_path}/my.py:pairs", workers=workers, knn_every=0)
    with pytest.raises(BadInputError, match=r"pairs: x_q of item #\d+ .*type uint8: expected \(3, 12, 12\) of float32"):
        pretrain.run(wrong)


def test_what_does_not_go_together(own: str, tmp_path: Path) -> None:
    """Settings that have no pairs are refused."""
    with pytest.raises(BadInputError, match="--dictionary memory-bank makes no key"):
        pretrain.run(config(tmp_path / "run", pretext=own, dictionary="memory-bank"))
    with pytest.raises(
        BadInputError, match="--arch bytes-tiny takes documents, and --pretext views pairs images: give --pretext text"
    ):
        pretrain.run(config(tmp_path / "run", arch="bytes-tiny", stem="imagenet"))


def test_a_partner_that_is_not_there(tmp_path: Path) -> None:
    """The flag that names it is the one in the error."""
    wrong = config(tmp_path / "run", pretext="paired", partner=str(tmp_path / "none"), knn_every=0)
    with pytest.raises(BadInputError, match=r"^--partner \S+none: no such folder or file"):
        pretrain.run(wrong)


def test_notes_of_a_partner_name_its_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no image is left out of the folder of --partner, and the line says of which."""
    for folder in ("one", "other"):
        for number in range(4):
            path = tmp_path / folder / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (12, 12), (number, 40, 90)).save(path)
    (tmp_path / "other" / "notes.md").write_text("none", encoding="utf-8")
    data, partner = str(tmp_path / "one"), str(tmp_path / "other")
    paired = recipe("quick", data=data, out=tmp_path / "run", pretext="paired", partner=partner)
    open_partner(paired, training_images(load(data)))
    said = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert [line.partition(":")[0] for line in said] == [f"--partner {partner}"]


def test_text_from_a_run_to_its_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Documents of two alphabets: a run, kNN, linear and features by it; the recipe's own network, without labels."""
    drawn = np.random.default_rng(0)
    for name, letters in (("low", b"abcdefgh "), ("high", b"stuvwxyz ")):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(20):
            text = bytes(drawn.choice(np.frombuffer(letters, np.uint8), 80).tolist())
            (tmp_path / "data" / name / f"{number}.txt").write_bytes(text)
    data, out = str(tmp_path / "data"), tmp_path / "run"
    small = {**SMALL, "arch": "bytes-tiny", "image_size": 16, "batch_size": 8, "optimizer": "muon"}
    result = pretrain.run(recipe("text", data=data, out=out, **{**small, "muon_lr": 0.03, "max_steps": 3}))
    assert result["knn_queries"] == 4
    assert "knn_pixels" not in result
    assert "Muon at 0.03 for 16 kernels" in capsys.readouterr().err
    how: dict[str, Any] = {"weights": str(out), "data": data, "threads": 1, "device": "cpu", "precision": "fp32"}
    assert knn.run(KnnConfig(**how))["baselines"].keys() == {"random"}
    assert linear.run(LinearConfig(**how))["train"] == 36
    embed.run(EmbedConfig(**how, out=tmp_path / "f.npz"))
    with np.load(tmp_path / "f.npz") as found:
        assert found["features"].shape == (40, 128)
        assert found["paths"][0] == "high/0.txt"
    with pytest.raises(
        BadInputError, match="--pretext text pairs spans of documents, and --arch resnet18 takes images"
    ):
        pretrain.run(recipe("text", data=data, out=tmp_path / "other", **{**small, "arch": "resnet18"}))
    begun = {**small, "init_weights": str(out), "head": "mlp", "init": "whitened", "max_steps": 1, "feature_dim": 8}
    assert pretrain.run(recipe("text", data=data, out=tmp_path / "begun", **begun))["step"] == 1
    said = capsys.readouterr().err
    assert "its head is new and random (--init whitened takes at least 64 documents, and there are 40)" in said
    (tmp_path / "data.txt").write_bytes(b"\n".join(path.read_bytes() for path in (tmp_path / "data").rglob("*.txt")))
    bag = {**small, "arch": "bytes-ngrams", "optimizer": "adamw", "max_steps": 2, "knn_every": 1}
    found = pretrain.run(recipe("text", data=str(tmp_path / "data.txt"), out=tmp_path / "lines", **bag))
    assert found["uniformity"] < 0
    assert "blank_views" not in found
    assert report.run(ReportConfig((out,)))["runs"] == ["run"]
    assert "map are left out: they show images, and this run learned from documents" in capsys.readouterr().out


def test_the_pretexts_of_images_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Masked, neighbours and paired, each for two steps; a run says which it is."""
    drawn = np.random.default_rng(0)
    for folder in ("one", "other"):
        for number in range(12):
            path = tmp_path / folder / f"{number // 6}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    small = {**SMALL, "batch_size": 4, "max_steps": 2, "knn_every": 0, "checkpoint_every": 0, "bn_groups": 2}
    data, partner = str(tmp_path / "one"), str(tmp_path / "other")
    more: dict[str, dict[str, Any]] = {"masked": {}, "neighbours": {"within": 2}, "paired": {"partner": partner}}
    for name, values in more.items():
        given = {**small, **values, "data": data, "pretext": name, "symmetric": name == "paired"}
        assert pretrain.run(recipe("quick", out=tmp_path / name, **given))["step"] == 2
    said = capsys.readouterr().err
    for text in ("masked, 50% of the query's patches", "at most 2 frames apart", f"pretext paired with {partner}"):
        assert text in said
    (tmp_path / "list.txt").write_text("0/0.png\t1/9.png\n")
    given = {**small, "data": data, "series": str(tmp_path / "list.txt")}
    assert pretrain.run(recipe("quick", out=tmp_path / "list", **given, pretext="neighbours"))["step"] == 2
    assert f"in the series of {tmp_path}/list.txt" in capsys.readouterr().err
    with pytest.raises(BadInputError, match="--series is for --pretext neighbours, and it is masked"):
        pretrain.run(recipe("quick", out=tmp_path / "none", **given, pretext="masked"))
    with pytest.raises(BadInputError, match="expected --pretext paired with --partner D"):
        pretrain.run(recipe("quick", out=tmp_path / "none", **{**small, "data": data, "pretext": "paired"}))


@pytest.mark.parametrize(("hidden", "patch", "count"), [(1.0, 4, "9 of 9"), (0.95, 4, "9 of 9"), (0.4, 12, "0 of 1")])
def test_a_share_of_patches_that_hides_all_or_none(tmp_path: Path, hidden: float, patch: int, count: str) -> None:
    """Is told with how many there are."""
    config = recipe("quick", data="digits", out=tmp_path, image_size=12, view_size=None, pretext="masked")
    with pytest.raises(BadInputError, match=f"--hidden {hidden} hides {count} patches of --patch {patch} pixels in a"):
        require_pretext(dataclasses.replace(config, hidden=hidden, patch=patch))
    require_pretext(dataclasses.replace(config, hidden=0.0))
