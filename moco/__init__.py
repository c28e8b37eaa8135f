"""Momentum Contrast: unlabelled images in, a measurably good encoder out (arXiv:1911.05722, arXiv:2003.04297).

The names of `__all__` are the public ones; each is imported when it is first asked for, so that `import moco` is quick.
The loop itself is `moco.pretraining.loop.pretrain(config, images)`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moco.cli import run
    from moco.core.dictionary import InBatch, Keys, MemoryBank, Queue
    from moco.core.encoder import Encoder, EncoderPlan
    from moco.core.loss import Contrast, info_nce
    from moco.core.pair import EncoderPair
    from moco.curation.frame import frame
    from moco.data.catalog import load
    from moco.errors import BadInputError, DivergedError, StoppedError
    from moco.evaluation.config import EmbedConfig, FinetuneConfig, KnnConfig, LinearConfig, LowshotConfig
    from moco.evaluation.features import Encoding, encode
    from moco.evaluation.frozen import Classifier, FrozenEncoder, load_classifier, load_encoder
    from moco.evaluation.knn import weighted_knn
    from moco.interop.checkpoints import Weights, load_weights
    from moco.pretraining.config import PretrainConfig
    from moco.pretraining.recipes import RECIPES, recipe

__all__ = [
    "RECIPES",
    "BadInputError",
    "Classifier",
    "Contrast",
    "DivergedError",
    "EmbedConfig",
    "Encoder",
    "EncoderPair",
    "EncoderPlan",
    "Encoding",
    "FinetuneConfig",
    "FrozenEncoder",
    "InBatch",
    "Keys",
    "KnnConfig",
    "LinearConfig",
    "LowshotConfig",
    "MemoryBank",
    "PretrainConfig",
    "Queue",
    "StoppedError",
    "Weights",
    "encode",
    "frame",
    "info_nce",
    "load",
    "load_classifier",
    "load_encoder",
    "load_weights",
    "recipe",
    "run",
    "weighted_knn",
]

_HOMES = {
    "moco.cli": ("run",),
    "moco.core.dictionary": ("InBatch", "Keys", "MemoryBank", "Queue"),
    "moco.core.encoder": ("Encoder", "EncoderPlan"),
    "moco.core.loss": ("Contrast", "info_nce"),
    "moco.core.pair": ("EncoderPair",),
    "moco.curation.frame": ("frame",),
    "moco.data.catalog": ("load",),
    "moco.errors": ("BadInputError", "DivergedError", "StoppedError"),
    "moco.evaluation.config": ("EmbedConfig", "FinetuneConfig", "KnnConfig", "LinearConfig", "LowshotConfig"),
    "moco.evaluation.features": ("Encoding", "encode"),
    "moco.evaluation.frozen": ("Classifier", "FrozenEncoder", "load_classifier", "load_encoder"),
    "moco.evaluation.knn": ("weighted_knn",),
    "moco.interop.checkpoints": ("Weights", "load_weights"),
    "moco.pretraining.config": ("PretrainConfig",),
    "moco.pretraining.recipes": ("RECIPES", "recipe"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'moco' has no attribute {name!r}")
