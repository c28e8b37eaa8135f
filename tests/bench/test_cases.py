"""The cases of the benchmark are configs of the loop."""

from pathlib import Path

from moco.bench.cases import ON_GPU, TRAININGS, VIEWS, training_values
from moco.pretraining.config import PretrainConfig


def test_every_case_is_a_config() -> None:
    """Of the loop, with a queue."""
    for values in (*TRAININGS.values(), *VIEWS.values()):
        assert PretrainConfig(data="", out=Path(), **values).dictionary == "queue"


def test_a_gpu_gets_batches_that_fill_it() -> None:
    """The paper's 256 for ResNet-50 with eight BN groups; nothing else differs, and a CPU keeps its cases."""
    assert ON_GPU.keys() == TRAININGS.keys()
    for case, values in TRAININGS.items():
        assert training_values(case, "cpu") == values
        there = training_values(case, "cuda")
        assert there["batch_size"] >= 256
        assert {name for name in there if there[name] != values.get(name)} <= {"batch_size", "bn_groups"}
        assert PretrainConfig(data="", out=Path(), **there).batch_size % there["bn_groups"] == 0
    assert training_values("resnet50-224", "cuda")["bn_groups"] == 8
