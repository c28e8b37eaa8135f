from typing import Any

def initLevelMapper(k_min: int, k_max: int, canonical_scale: int = 224, canonical_level: int = 4) -> Any: ...  # noqa: N802
