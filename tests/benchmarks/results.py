"""What measurements leave behind: a JSON file with the table, the command, the machine, the date and the commit."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from tests.benchmarks.ceiling import processor

ROOT = Path(__file__).resolve().parents[2]


def describe_run() -> dict[str, str]:
    """Return where, when and of what the figures of this process are."""
    return {
        "command": " ".join(["python", *map(_shorten, sys.argv)]),
        "machine": f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "date": date.today().isoformat(),
        "commit": _commit(),
    }


def write_results(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], **more: object) -> None:
    """Write a table as JSON.

    Args:
        path: of the file.
        columns: their headings.
        rows: texts, one for each column.
        more: further keys.
    """
    results = {**describe_run(), **more, "columns": list(columns), "rows": [list(row) for row in rows]}
    path.write_text(json.dumps(results, indent=1) + "\n")


def _shorten(argument: str) -> str:
    """Return a path in the repository from its root on, and anything else as it is."""
    path = Path(argument).resolve()
    return str(path.relative_to(ROOT)) if path.is_file() and path.is_relative_to(ROOT) else argument


def _commit() -> str:
    """Return the short name of the commit, with ``+`` where files differ from it."""
    git = ("git", "-C", str(ROOT))
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        is_clean = subprocess.run([*git, "diff", "--quiet", "HEAD"], check=False).returncode == 0
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.strip() + ("" if is_clean else "+")
