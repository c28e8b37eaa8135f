"""Commands as on a GPU, where none is: one that does nothing (`nullgpu/`). Values count for nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
from tests.nullgpu.build import build_runtime, lacking

pytestmark = [pytest.mark.slow, pytest.mark.skipif(lacking() is not None, reason=str(lacking()))]

SMALL = (
    "--data", "digits", "--batch-size", "32", "--max-steps", "5", "--log-every", "2", "--knn-every", "3",
    "--checkpoint-every", "3", "--knn-images", "64", "--workers", "1",
)  # fmt: skip
QUICK = ("quick", *SMALL, "--arch", "resnet18-w4")
QUEUE = ("--dictionary", "queue", "--queue-size", "64")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of a process that finds such a GPU."""
    return build_runtime(tmp_path_factory.mktemp("nullgpu")) | {"OMP_NUM_THREADS": "1"}


def run(environment: dict[str, str], *arguments: str) -> str:
    """Run a command there; return what it prints on standard output."""
    command = [sys.executable, "-m", "tests.nullgpu.run", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("values", [
    (*QUICK, *QUEUE),
    (*QUICK, "--dictionary", "memory-bank", "--optimizer", "lars"),
    (*QUICK, "--dictionary", "in-batch", "--symmetric", "--accumulate", "2", "--optimizer", "adamw"),
    (*QUICK, *QUEUE, "--bn-groups", "1", "--recompute", "--blend", "--precision", "fp16"),
    (*QUICK, *QUEUE, "--precision", "tf32", "--deterministic", "--hard-negatives", "8", "--mix", "4"),
    (*QUICK, *QUEUE, "--compile", "on", "--recompute", "--keep", "best"),
    ("v3-small", *SMALL),
], ids=lambda values: " ".join(dict.fromkeys(one for one in values if one not in QUICK)) or values[0])  # fmt: skip
def test_pretraining_to_its_end(environment: dict[str, str], tmp_path: Path, values: tuple[str, ...]) -> None:
    """Loading, steps, looks and checkpoints; the run knows where it computed."""
    out = tmp_path / "run"
    run(environment, "pretrain", *values, "--device", "cuda", "--threads", "1", "--out", str(out))
    assert json.loads((out / "status.json").read_text(encoding="utf-8"))["state"] == "done"
    machine = json.loads((out / "machine.json").read_text(encoding="utf-8"))
    assert (machine["gpu"], machine["compute_capability"]) == ("NVIDIA GPU that does nothing", "9.0")


def test_what_torch_itself_warns_of(environment: dict[str, str]) -> None:
    """No step waits, plain, in one group, deterministic, recomputed or compiled; nor does what finishes views."""
    said = subprocess.run(
        [sys.executable, "-m", "tests.nullgpu.run", "check", "--small", "--only", "views,step"],
        capture_output=True, text=True, env=environment, check=False,
    ).stdout  # fmt: skip
    rows = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    waits = {row["measure"]: row["found"] for row in rows if "host waits" in row["measure"]}
    assert len(waits) == 7
    assert set(waits.values()) == {0}
    assert not [row for row in rows if row["measure"] == "failed"]


@pytest.mark.parametrize("values", [QUEUE, ("--dictionary", "memory-bank")], ids=["queue", "bank"])
def test_two_ranks_by_nccl(environment: dict[str, str], tmp_path: Path, values: tuple[str, ...]) -> None:
    """Each with a GPU of its own; the run ends for both."""
    out = ("--device", "cuda", "--threads", "1", "--out", str(tmp_path / "run"))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.nullgpu.run"]
    done = subprocess.run(
        [sys.executable, *command, "pretrain", *QUICK, *values, *out],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "status.json").read_text(encoding="utf-8"))["state"] == "done"


@pytest.mark.parametrize("command", ["knn", "linear", "lowshot", "finetune --epochs 1", "embed", "outliers"])
def test_evaluations(environment: dict[str, str], tmp_path: Path, command: str) -> None:
    """Of random weights, from images to figures."""
    out = ("--out", str(tmp_path / "features.npz")) if command == "embed" else ()
    encoder = ("--weights", "random", "--arch", "resnet18-w4", "--image-size", "16")
    where = (*encoder, "--data", "digits", "--device", "cuda", "--threads", "1", "--json")
    found = json.loads(run(environment, *command.split(), *where, *out))
    assert found["weights"] == "random"
    assert {"top1", "linear", "width", "images"} & found.keys()
