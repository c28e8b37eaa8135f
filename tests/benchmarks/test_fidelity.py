"""Ours and an independent plain loop are trained and compared, with everything tiny."""

import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from benchmarks import fidelity
from benchmarks.plain_loop import Settings, SplitNorm


def test_both_loops_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each seed leaves a line for each epoch and loop; what is there is not run again."""
    few = functools.partial(Settings, batch=32, queue=64, neighbours=5)
    monkeypatch.setattr(fidelity, "Settings", few)
    out = tmp_path / "found.csv"
    tiny = ["digits", str(out), "--images", "64", "--test", "20", "--epochs", "1", "--size", "8", "--width", "4"]
    fidelity.main([*tiny, "--seeds", "2"])
    found = fidelity.read(out)
    assert set(found) == {(loop, seed) for loop in fidelity.LOOPS for seed in range(2)}
    assert all(len(values) == 2 and all(0 <= value <= 100 for value in values) for values in found.values())
    content = out.read_text()
    fidelity.main([*tiny, "--seeds", "2"])
    assert out.read_text() == content
    assert capsys.readouterr().out.count("| 1 |") == 2


def test_loops_that_differ_are_told_apart() -> None:
    """A difference beyond the spread over seeds in one epoch is one; within it there is none."""
    same = {("moco", seed): [10.0 + seed, 50.0 + seed] for seed in range(4)}
    other = {("plain", seed): [10.5 + seed, 50.5 + seed] for seed in range(4)}
    assert fidelity.compare({**same, **other})[1]
    lines, agree = fidelity.compare({**same, **{key: [first, last + 20] for key, (first, last) in other.items()}})
    assert not agree
    assert lines[2].startswith("| 0 | 11.5 ± 1.3 | 12.0 ± 1.3 | -0.5 | -2.7 to +1.7 |")


def test_the_plain_loop_normalises_each_group_by_itself() -> None:
    """As torch's own layer does with the group alone; its running statistics are the mean over the groups."""
    torch.manual_seed(0)
    norm, x = SplitNorm(3, 2), torch.randn(8, 3, 2, 2)
    alone = [torch.nn.BatchNorm2d(3) for _ in range(2)]
    assert torch.allclose(norm(x), torch.cat([layer(part) for layer, part in zip(alone, x.chunk(2), strict=True)]))
    for name in ("running_mean", "running_var"):
        mean = torch.stack([layer.get_buffer(name) for layer in alone]).mean(0)
        assert torch.allclose(norm.get_buffer(name), mean)
    norm.eval()
    assert torch.allclose(norm(x), F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias))
