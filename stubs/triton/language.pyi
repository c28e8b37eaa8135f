from typing import Any

constexpr = Any
tensor = Any

def __getattr__(name: str) -> Any: ...
