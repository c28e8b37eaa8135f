"""What to change where a step of pre-training needs more memory than there is."""

from moco.core.batchnorm import fitting_groups
from moco.core.resnet import resnet_plan
from moco.pretraining.config import PretrainConfig
from moco.runtime.fields import require


def advise_less_memory(config: PretrainConfig, ranks: int) -> str:
    """Name the flags by which a step takes less memory, those that leave the result as it is first.

    `config` is resolved. Parts are named only where they hold whole BN groups.
    """
    advice = []
    parts, groups = 2 * config.accumulate, require(config.bn_groups)
    if config.batch_size % (ranks * parts) == 0 and (
        config.bn != "train" or groups in fitting_groups(config.batch_size, ranks * parts)
    ):
        other = " (each part then has only its own negatives)" if config.dictionary == "in-batch" else ""
        advice.append(f"--accumulate {parts}{other}")
    if not config.recompute and resnet_plan(require(config.arch)) is not None:
        advice.append("--recompute (a third more time)")
    if config.precision in ("fp32", "tf32"):
        advice.append(f"--precision bf16 (now {config.precision})")
    if config.batch_size // 2 >= 2 * groups:
        advice.append(f"a smaller --batch-size (now {config.batch_size})")
    return f"give {', '.join(advice) or 'smaller views (--view-size) or a smaller --arch'}"
