"""Run the scripts of the stages as child processes, and print each command line as a user would type it."""

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
_START_TIMEOUT: Final = 60.0
_NO_VARIABLES: Final[Mapping[str, str]] = {}


def run_script(script: str, options: Sequence[object], environment: Mapping[str, str] = _NO_VARIABLES) -> None:
    """Run a script, whose output goes to the stdout and stderr of this process.

    Args:
        script: path of the script from the root of the repository.
        options: command-line arguments of the script.
        environment: environment variables in addition to those of this process.

    Raises:
        ToolkitError: the exit code of the script is not 0.
    """
    print(f"$ {format_command(script, options)}", flush=True)
    command = [sys.executable, str(ROOT / script), *map(str, options)]
    code = subprocess.run(command, env={**os.environ, **environment}).returncode
    if code:
        raise ToolkitError(f"{script} ended with exit code {code}; see its message above")


def format_command(script: str, options: Sequence[object]) -> str:
    """Return a command line as a user would type it in the root folder of the repository."""
    return " ".join(("python", script, *(str(option).removeprefix(f"{ROOT}{os.sep}") for option in options)))


@contextmanager
def run_server(script: str, options: Sequence[object], environment: Mapping[str, str]) -> Iterator[None]:
    """Run a server script during the block, and terminate it afterwards.

    The block starts once the script has printed a line that begins with ``ready:``.

    Args:
        script: path of the script from the root of the repository.
        options: command-line arguments of the script.
        environment: environment variables in addition to those of this process.

    Raises:
        CloudUnavailableError: the script ended, or was not ready within 60 seconds.
    """
    print(f"$ {format_command(script, options)} &", flush=True)
    with subprocess.Popen(
        [sys.executable, ROOT / script, *map(str, options)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C at the terminal reaches only this process, which then ends the script
    ) as process:
        assert process.stdout is not None
        timeout = threading.Timer(_START_TIMEOUT, process.kill)
        timeout.start()
        try:
            is_ready = any(_echo(line).startswith("ready:") for line in iter(process.stdout.readline, ""))
            timeout.cancel()
            if not is_ready:
                raise CloudUnavailableError(f"{script} did not start; see its message above")
            yield
        finally:
            timeout.cancel()  # if the start was interrupted; its thread would keep this process alive
            process.terminate()
            print(process.communicate()[0], end="", flush=True)


def _echo(line: str) -> str:
    print(line, end="", flush=True)
    return line
