"""Counts negatives: K of the settings, and what is added to it."""

from moco.pretraining.config import PretrainConfig


def negatives(config: PretrainConfig) -> int:
    """Return how many negatives a query is compared with: K, and those that are mixed of them."""
    return shared_negatives(config) + config.mix + config.mix_query


def shared_negatives(config: PretrainConfig) -> int:
    """Return K: how many keys all queries share."""
    if config.dictionary == "in-batch":
        return config.batch_size // config.accumulate - 1
    return config.queue_size + (config.batch_size - 1 if config.batch_keys else 0)
