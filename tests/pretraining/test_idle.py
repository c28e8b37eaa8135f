"""Flags that change nothing are said, with the reason; those that change something are not."""

import pytest

from moco import cli

SAID = {
    "pretrain text --augment v1": "--augment has no effect: bytes-ngrams takes documents",
    "pretrain text --mean 0 0 0 --decode=exact": "--decode, --mean have no effect: bytes-ngrams takes documents",
    "pretrain text --no-data 0 --decode exact": "--decode, --no-data have no effect: bytes-ngrams takes documents",
    "pretrain v2 --teacher-size 32": "--teacher-size has no effect: there is no --teacher",
    "pretrain quick --key-momentum 0.9": "--key-momentum has no effect: --dictionary in-batch has no momentum encoder",
    "pretrain taught --teacher W --key-momentum 0.9": "--key-momentum has no effect: the keys are the teacher's",
    "pretrain quick --queue-size 9": "--queue-size has no effect: with --dictionary in-batch it is the batch size - 1",
    "pretrain v2 --bank-momentum 0.9": "--bank-momentum has no effect: it is for --dictionary memory-bank",
    "pretrain v2 --within 3": "--within has no effect: it is for --pretext neighbours",
    "pretrain v2 --hidden 0.3": "--hidden has no effect: it is for --pretext masked",
    "pretrain v1 --base-lr 1 --lr 1": "--base-lr has no effect: --lr is given",
    "pretrain v2 --lr-decay 0.2": "--lr-decay has no effect: --schedule is cosine",
    "pretrain v2 --muon-lr 0.2": "--muon-lr has no effect: --optimizer is sgd",
    "pretrain v2 --epochs 2 --max-steps 9": "--epochs has no effect: --max-steps is given",
    "linear --weights W --lr 3": "--lr has no effect: it is for --protocol paper",
    "linear --weights W --protocol paper --views 3": "--views has no effect: it is for --protocol fast",
}
UNSAID = (
    "pretrain v2 --augment v1 --key-momentum 0.9 --queue-size 99 --decode exact --epochs 3 --base-lr 1",
    "pretrain v1 --milestones 0.5 --lr-decay 0.2 --dictionary memory-bank --bank-momentum 0.2",
    "pretrain text --image-size 99 --exclude x --epochs 2 --temperature 0.3",
    "pretrain taught --teacher W --teacher-size 32 --teacher-views live --muon-lr 0.2",
    "pretrain v2 --pretext masked --hidden 0.3 --patch 8",
    "linear --weights W --protocol paper --lr 3 --epochs 2",
    "linear --weights W --views 3 --penalties 1 2",
)


def parse(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read a command line, and import nothing."""
    monkeypatch.setattr(cli, "_runner", lambda name: None)
    command, *words = line.split()
    cli.parse([command, *words, "--data", "D", *(["--out", "R"] if command == "pretrain" else [])])


@pytest.mark.parametrize("line", SAID)
def test_flags_without_effect_are_said(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line."""
    parse(line, monkeypatch)
    assert capsys.readouterr().err == f"moco: warning: {SAID[line]}\n"


@pytest.mark.parametrize("line", UNSAID)
def test_flags_with_an_effect_are_not(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor values that a recipe brings along."""
    parse(line, monkeypatch)
    assert not capsys.readouterr().err
