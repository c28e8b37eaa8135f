"""A run that keeps its best encoder ends with the first unless another is clearly better, also when interrupted."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moco.cli import main
from moco.core.encoder import Encoder, encoder_tensors
from moco.data.catalog import load
from moco.data.images import Images
from moco.errors import BadInputError
from moco.interop.checkpoints import load_weights
from moco.pretraining.best import BEST, LAST, is_clearly_better
from moco.pretraining.config import PretrainConfig
from moco.pretraining.loop import pretrain
from moco.pretraining.recipes import recipe
from moco.runtime.checkpoint import checkpoint_path, load_tensors
from tests.faults.processes import command, finish
from tests.slow import slow

SMALL: dict[str, Any] = {
    "arch": "resnet10-w4", "image_size": 12, "view_size": None, "batch_size": 32, "queue_size": 80, "max_steps": 4,
    "bn_groups": 4, "log_every": 1, "checkpoint_every": 2, "knn_every": 1, "threads": 1, "precision": "fp32",
    "device": "cpu", "base_lr": 0.06, "dictionary": "queue", "keep": "best", "init": "kaiming", "optimizer": "sgd",
}  # fmt: skip
IMAGES = 100


@pytest.fixture(scope="module")
def digits() -> Images:
    """The training images of scikit-learn's digits."""
    return load("digits")["train"]


def small(out: Path, **values: Any) -> PretrainConfig:
    """A run of four steps on the digits, with a look after each."""
    return recipe("quick", data="digits", out=out, **{**SMALL, **values})


class Scripted:
    """A monitor by which so many of the first images are right at its first look, its second, and so on."""

    def __init__(self, counts: Sequence[int], images: int = IMAGES, fails_at: int = 99) -> None:
        self.counts, self.images, self.fails_at = list(counts), images, fails_at
        self.seen: list[dict[str, Tensor]] = []
        self.right, self.by = torch.zeros(images, dtype=torch.bool), "neighbours"

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Take the next number, and remember the encoder."""
        if len(self.seen) == self.fails_at:
            raise RuntimeError("the machine fails")
        self.right = torch.arange(self.images) < self.counts[len(self.seen)]
        self.seen.append({name: value.clone() for name, value in encoder_tensors(encoder).items()})
        return {"knn_top1": float(self.counts[len(self.seen) - 1])}


def holds(path: Path, tensors: dict[str, Tensor], step: int) -> bool:
    """Whether a file has these tensors bit for bit, and says that they are of this step."""
    found, metadata = load_tensors(path)
    same = found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    return same and metadata["step"] == step


# --- which one is kept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "kept"),
    [
        ([60, 50, 40, 30, 20], 0),
        ([60, 61, 62, 63, 64], 0),  # 64 - 60 is two standard errors of the difference, not more
        ([60, 65, 70, 65, 50], 2),
        ([60, 50, 65, 65, 65], 2),  # the earliest of equal ones
        ([60, 61, 62, 63, 80], 4),
    ],
    ids=str,
)
def test_a_run_ends_with_its_best_encoder(
    tmp_path: Path, digits: Images, capsys: pytest.CaptureFixture[str], counts: list[int], kept: int
) -> None:
    """The last lies beside it; result, status and the last lines say which it is and what the others reached."""
    monitor = Scripted(counts)
    result = pretrain(small(tmp_path), digits, monitor)
    for name in ("encoder.safetensors", BEST):
        assert holds(tmp_path / name, monitor.seen[kept], kept)
    assert holds(tmp_path / LAST, monitor.seen[4], 4)
    figures = {
        "step": kept,
        "last_step": 4,
        "images": IMAGES,
        "top1": counts[kept],
        "first_top1": 60,
        "last_top1": counts[4],
        "by": "neighbours",
    }
    assert result["kept"] == figures
    status = json.loads((tmp_path / "status.json").read_text(encoding="utf-8"))
    assert status["result"]["kept"] == figures
    said = capsys.readouterr().out
    which = "that the run began with" if kept == 0 else f"of step {kept}"
    assert f"kept the encoder {which}: {counts[kept]}.0% of 100 images" in said
    assert f"the last one, of step 4, has {counts[4]}.0% and is encoder-last.safetensors" in said
    looked = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["judged_top1"] for line in looked if "judged_top1" in line] == counts
    assert load_weights(str(tmp_path)).step == load_weights(str(tmp_path / BEST)).step == kept


def test_the_last_is_kept_where_nothing_else_is_asked_for(tmp_path: Path, digits: Images) -> None:
    """As ever: no other file, no other figure."""
    monitor = Scripted([60, 50, 40, 30, 20])
    result = pretrain(small(tmp_path, keep="last"), digits, monitor)
    assert holds(tmp_path / "encoder.safetensors", monitor.seen[4], 4)
    assert not (tmp_path / BEST).exists()
    assert not (tmp_path / LAST).exists()
    assert "kept" not in result
    pretrain(small(tmp_path / "best"), digits, Scripted([60, 70, 40, 30, 20]))  # which changes nothing of the training
    states = [load_tensors(checkpoint_path(run, 4))[0] for run in (tmp_path, tmp_path / "best")]
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())
    assert recipe("v2", data="d", out=tmp_path).keep == "last"


@pytest.mark.parametrize(("gained", "lost"), [(4, 0), (5, 0), (9, 1), (8, 1), (30, 15), (30, 17), (0, 0), (0, 9)])
def test_clearly_better_is_two_standard_errors_of_the_paired_difference(gained: int, lost: int) -> None:
    """The root of the sum of squares of what differs, which is the standard error where nothing were better."""
    first = torch.arange(100) < lost
    right = (torch.arange(100) >= 50) & (torch.arange(100) < 50 + gained)
    difference = right.numpy().astype(float) - first.numpy().astype(float)
    assert is_clearly_better(right, first) == (difference.sum() > 2 * np.sqrt((difference**2).sum()))


def test_without_a_judge_the_last_is_kept(tmp_path: Path, digits: Images, capsys: pytest.CaptureFixture[str]) -> None:
    """And one line says so."""
    for name, monitor in (("another", lambda encoder: {"alignment": 1.0}), ("none", None)):
        pretrain(small(tmp_path / name), digits, monitor)
        said = capsys.readouterr().out
        assert said.count("--keep best needs a monitor, and there is none: the run keeps the last encoder") == 1
        assert load_weights(str(tmp_path / name)).step == 4
        assert not (tmp_path / name / BEST).exists()


# --- interrupted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "fails_at"),
    [
        ([60, 70, 65, 65, 65], 3),
        slow([60, 50, 65, 80, 70], 3),
        ([60, 50, 65, 80, 70], 4),
        slow([60, 50, 50, 50, 50], 4),
    ],
    ids=str,
)
def test_a_run_that_was_broken_off_keeps_the_same(
    tmp_path: Path, digits: Images, counts: list[int], fails_at: int
) -> None:
    """Byte for byte; the looks since the checkpoint of step 2 come again."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = pretrain(small(whole), digits, Scripted(counts))["kept"]
    with pytest.raises(RuntimeError, match="the machine fails"):
        pretrain(small(broken), digits, Scripted(counts, fails_at=fails_at))
    again = 4 if fails_at == 4 else 2  # the run is killed in its last look, after the last step was saved
    found = pretrain(small(broken), digits, Scripted(counts[again:]))
    assert found["kept"] == expected
    for name in ("encoder.safetensors", BEST, LAST):
        assert (broken / name).read_bytes() == (whole / name).read_bytes()


def test_the_end_is_written_again_where_it_was_broken_off(
    tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two files of the end: then the last is there, and the run's encoder is not yet the best."""
    monitor = Scripted([60, 70, 50, 50, 50])
    with monkeypatch.context() as patch:
        patch.setattr("moco.pretraining.best.load_tensors", functools.partial(fail, tmp_path / BEST))
        with pytest.raises(RuntimeError, match="the machine fails"):
            pretrain(small(tmp_path), digits, monitor)
    assert holds(tmp_path / "encoder.safetensors", monitor.seen[4], 4)
    assert holds(tmp_path / LAST, monitor.seen[4], 4)
    pretrain(small(tmp_path), digits, Scripted([50]))
    assert holds(tmp_path / "encoder.safetensors", monitor.seen[1], 1)
    assert holds(tmp_path / LAST, monitor.seen[4], 4)


def fail(where: Path, path: Path) -> None:
    """Stand in for a machine that fails when it reads a file."""
    assert path == where
    raise RuntimeError("the machine fails")


def remove(path: Path) -> None:
    """As if it had never been."""
    path.unlink()


def damage(path: Path) -> None:
    """Flip a bit of its last byte."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(("harm", "said"), [(remove, "missing"), (damage, "damaged")])
def test_a_best_encoder_that_is_gone_is_named(
    tmp_path: Path, digits: Images, harm: Callable[[Path], None], said: str
) -> None:
    """One line that says what to do, which is then done."""
    with pytest.raises(RuntimeError, match="the machine fails"):
        pretrain(small(tmp_path), digits, Scripted([60, 70, 70, 70], fails_at=4))
    harm(tmp_path / BEST)
    with pytest.raises(BadInputError, match=f"{BEST}: {said}.* cannot continue without it: give the same command with"):
        pretrain(small(tmp_path), digits, Scripted([60]))
    assert pretrain(small(tmp_path, keep="last"), digits, Scripted([60]))["step"] == 4
    assert load_weights(str(tmp_path)).step == 4


def test_other_images_cannot_be_compared(tmp_path: Path, digits: Images) -> None:
    """As after images were added, which was accepted."""
    with pytest.raises(RuntimeError, match="the machine fails"):
        pretrain(small(tmp_path), digits, Scripted([60, 70, 70, 70], fails_at=4))
    with pytest.raises(BadInputError, match="the first had 100, this one has 101: give the same command with"):
        pretrain(small(tmp_path), digits, Scripted([60], images=101))


# --- from the command line ------------------------------------------------------------------------------------------


def test_two_processes_keep_what_one_keeps(tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the statistics of the weights; the first writes, and every number of processes sees the same images."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    kept = []
    for ranks in (1, 2):
        flags = {"arch": "resnet10-w8", "image_size": 16, "view_size": 16, "bn_groups": 1, "base_lr": 0.01}
        more = {"init_weights": tiny_run, "bn": "keep", "keep": "best", "knn_every": 2, "max_steps": 4, "head_lr": 0.1}
        out = tmp_path / str(ranks)
        words = command(out, **flags, **more, knn_images=200)
        if ranks == 1:
            assert main(words) == 0
        else:
            finish(words, tmp_path, ranks=ranks)
        status = json.loads((out / "status.json").read_text(encoding="utf-8"))
        kept.append(status["result"]["kept"])
        found, first = load_tensors(out / "encoder.safetensors")[0], load_tensors(tiny_run / "encoder.safetensors")[0]
        assert all(torch.equal(found[name], first[name]) for name in first if "running" in name)
        checkpoint = load_tensors(checkpoint_path(out, 4))[0]
        assert torch.equal(checkpoint["f_q.head.weight"], load_tensors(out / LAST)[0]["head.weight"])
    assert kept[0]["images"] == kept[1]["images"] == 200 + 40
    assert kept[0]["first_top1"] == kept[1]["first_top1"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"keep": "best", "knn-every": "0"}, "--knn-every 0 turns it off: give another --knn-every, or --keep last"),
        (
            {"bn": "keep"},
            "--init-weights is not given, and --bn keep keeps the statistics of these weights: give --init",
        ),
        ({"bn": "frozen", "init-weights": "RUN", "bn-groups": "4"}, "--bn-groups is 4, and --bn frozen computes no st"),
        ({"head-lr": "0"}, "--head-lr is 0.0: expected a finite number more than 0"),
    ],
    ids=str,
)
def test_mistakes_are_named(
    tmp_path: Path, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    flags: dict[str, str], told: str,
) -> None:  # fmt: skip
    """In one line, with exit code 2."""
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    given = [text for name, value in flags.items() for text in (f"--{name}", value.replace("RUN", str(tiny_run)))]
    words = ["--data", "digits", "--out", str(tmp_path), "--device", "cpu", "--threads", "1", "--workers", "0"]
    assert main(["pretrain", "quick", *words, *given]) == 2
    assert told in capsys.readouterr().err.strip().splitlines()[-1]
