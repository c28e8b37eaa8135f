"""What the loop does in each case."""

from typing import Any

CASES: tuple[dict[str, Any], ...] = (
    {"bn_groups": 1, "recompute": True, "symmetric": True, "mask_own_keys": True, "precision": "bf16"},
    {"optimizer": "muon", "precision": "bf16"},
    {"dictionary": "memory-bank"},
    {"dictionary": "in-batch", "accumulate": 2},
    {"blend": True, "deterministic": True},
    {"hard_negatives": 8, "mix": 4, "mix_query": 2},
    {"optimizer": "adamw", "precision": "fp16"},
    {"optimizer": "lars", "head": "mlp-bn", "predictor": "mlp-bn", "symmetric": True},
    {"arch": "vit-tiny-4"},
)
