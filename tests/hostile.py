"""Objects that run code when they are unpickled without care: the code creates a canary file."""

import os
from pathlib import Path


class Bomb:
    """An object that pickles to a call of ``os.system``, which creates the canary."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


class Evaluated(Bomb):
    """An object that pickles to a call of ``eval``, which creates the canary."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"__import__('os').system({self.command!r})",)
