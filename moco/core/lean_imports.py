"""torchvision, imported without torch's compiler: that takes half of a command's start, and few commands compile."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

UTILITIES = "torch._dynamo.utils"
"""The compiler's module from which torchvision takes one function, for GPUs that run deterministically."""


class _Later(ModuleType):
    """Stands for a module: its functions import the module itself when they are called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *values, **named: getattr(import_module(self.__name__), name)(*values, **named)


def _import_torchvision() -> Any:
    if "torchvision" in sys.modules or UTILITIES in sys.modules:
        return import_module("torchvision")
    sys.modules[UTILITIES] = _Later(UTILITIES)
    try:
        return import_module("torchvision")
    finally:
        del sys.modules[UTILITIES]


torchvision = _import_torchvision()
