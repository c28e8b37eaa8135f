"""Counts negatives, K of the settings and what is added to it, and the steps of the head alone."""

from moco.pretraining.config import PretrainConfig
from moco.runtime.fields import require


def negatives(config: PretrainConfig) -> int:
    """Return how many negatives a query is compared with: K, and those that are mixed of them."""
    return shared_negatives(config) + config.mix + config.mix_query


def shared_negatives(config: PretrainConfig) -> int:
    """Return K: how many keys all queries share."""
    if config.dictionary == "in-batch":
        return config.batch_size // config.accumulate - 1
    return config.queue_size + (config.batch_size - 1 if config.batch_keys else 0)


def count_head_steps(config: PretrainConfig) -> int:
    """Return in how many steps only the head learns: those of --head-steps, at most half of the first plan's."""
    first = config.earlier_lengths[0][1] if config.earlier_lengths else require(config.max_steps)
    return min(config.head_steps, first // 2)
