"""How long a cell will take, by the speeds that were measured before the first."""

import itertools
from typing import Any

from moco.study.plan import Cell

START = 6.0
"""Seconds that a process takes to start, about."""
FINETUNING = 3.0
"""What an image costs in fine-tuning, in forward passes."""


def estimate_seconds(cell: Cell, survey: dict[str, Any]) -> float:
    """Estimate the seconds of a cell: training and evaluations."""
    batch, steps = cell.training.batch_size, cell.steps
    seconds = START + survey["loading"] + steps * batch / survey["rates"][cell.arm.name]
    looks = steps // cell.training.knn_every if cell.training.knn_every else 0
    encoded = survey["encoded"]
    seconds += looks * min(1.2 * cell.training.knn_images, survey["all_images"]) / encoded
    for command in cell.commands[1:]:
        words = dict(itertools.pairwise(command))
        tuned = (
            int(words.get("--finetune-steps", 400)) * 128 * FINETUNING if command[0] in ("lowshot", "finetune") else 0
        )
        both = 1 if "--no-baseline" in command else 2
        seconds += START + survey["loading"] + both * (survey["all_images"] + tuned) / encoded
    return float(seconds)


def find_cost(plan: dict[str, Any], cell: Cell) -> float:
    """Look up the estimated seconds of a cell; of one in a round of halving, those of a whole one."""
    return float(plan["cost"].get(cell.kind, plan["cost"].get(cell.arm.name, 0.0)))
