from typing import Any

class ASTSource:
    def __init__(self, fn: Any, signature: Any, constexprs: Any = ..., attrs: Any = ...) -> None: ...
