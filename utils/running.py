"""Run the stages' scripts as a person would: in processes of their own, with the command line shown."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from utils.errors import CloudUnavailableError, ToolkitError

ROOT: Final = Path(__file__).resolve().parents[1]
_START: Final = 60.0
_NOTHING: Final[Mapping[str, str]] = {}


def run_script(script: str, options: Sequence[object], environment: Mapping[str, str] = _NOTHING) -> None:
    """Run a script and let it print.

    Args:
        script: its path from the root.
        options: of its command line.
        environment: variables besides our own.

    Raises:
        ToolkitError: it ended with another exit code than 0.
    """
    print(f"$ {shown(script, options)}", flush=True)
    command = [sys.executable, str(ROOT / script), *map(str, options)]
    code = subprocess.run(command, env={**os.environ, **environment}).returncode
    if code:
        raise ToolkitError(f"{script} ended with exit code {code}; its own message stands above")


def shown(script: str, options: Sequence[object]) -> str:
    """Return a command line as people would type it in the root folder."""
    return " ".join(("python", script, *(str(option).removeprefix(f"{ROOT}{os.sep}") for option in options)))


@contextmanager
def serving(script: str, options: Sequence[object], environment: Mapping[str, str]) -> Iterator[None]:
    """Run a script that serves until it is told to end, and wait until it prints that it is ready.

    Args:
        script: its path from the root.
        options: of its command line.
        environment: variables besides our own.

    Raises:
        CloudUnavailableError: it did not come to that.
    """
    print(f"$ {shown(script, options)} &", flush=True)
    with subprocess.Popen(
        [sys.executable, ROOT / script, *map(str, options)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C at the terminal reaches it through us alone
    ) as process:
        assert process.stdout is not None
        try:
            impatience = threading.Timer(_START, process.kill)
            impatience.start()
            is_ready = any(_echo(line).startswith("ready:") for line in iter(process.stdout.readline, ""))
            impatience.cancel()
            if not is_ready:
                raise CloudUnavailableError(f"{script} did not start; its own message stands above")
            yield
        finally:
            process.terminate()
            print(process.communicate()[0], end="", flush=True)


def _echo(line: str) -> str:
    print(line, end="", flush=True)
    return line
