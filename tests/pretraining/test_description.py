"""What is said before the first step about the keys, the optimiser and the layers that normalise."""

from pathlib import Path
from typing import Any

import pytest

from moco.data.catalog import load
from moco.data.derived import take_evenly
from moco.pretraining.description import describe_run
from moco.pretraining.prepare import build_encoder, resolve_config
from moco.pretraining.recipes import recipe

SMALL: dict[str, Any] = {
    "image_size": 32, "view_size": 32, "batch_size": 8, "hidden_dim": 8, "feature_dim": 8, "workers": 0, "threads": 1,
    "device": "cpu", "precision": "fp32",
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"arch": "timm:test_vit"},
            ["K = 7 negatives from the queue and its own batch; guessing gives a loss of log(K+1) = 2."],
        ),
        (
            {"arch": "timm:test_vit"},
            [" by adamw, patch projection frozen, ", "2 BN groups in the heads (no batch norm"],
        ),
        ({"arch": "timm:test_resnet"}, ["no patch projection to freeze, 2 BN groups, "]),
        (
            {"arch": "timm:test_vit", "head": "mlp", "predictor": "none"},
            ["no batch normalisation (--bn and --bn-group", " with 1 thread and 0 loading processes"],
        ),
        ({"arch": "resnet18-w4", "stem": "cifar", "optimizer": "lars", "freeze_patches": False}, [" by lars, 2 BN gr"]),
    ],
)
def test_what_is_said(tmp_path: Path, values: dict[str, Any], said: list[str]) -> None:
    """Where a network has batch normalisation, or none, and what is frozen."""
    images = take_evenly(load("digits")["train"], 16)
    config = resolve_config(recipe("v3-small", data="digits", out=tmp_path, **{**SMALL, **values}), images)
    text = describe_run(config, build_encoder(config), images)
    assert [part for part in said if part not in text] == []
