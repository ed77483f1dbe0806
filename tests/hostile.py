"""Objects that do harm where a file is unpickled without care: they make a canary file."""

import os
from pathlib import Path


class Bomb:
    """Pickles to a call of ``os.system`` that makes the canary."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


class Evaluated(Bomb):
    """Pickles to a call of ``eval`` that makes the canary."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"__import__('os').system({self.command!r})",)
