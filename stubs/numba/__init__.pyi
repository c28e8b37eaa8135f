from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])

def njit(
    *, nogil: bool = ..., error_model: str = ..., fastmath: bool | set[str] = ..., cache: bool = ...
) -> Callable[[Function], Function]: ...
