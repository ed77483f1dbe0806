"""Count lines that cannot be written, so that a sensor can continue; warn at most once a minute."""

import errno
import logging
from collections.abc import Callable
from typing import Final

from offload.operations.logs import RateLimitedLog
from offload.operations.metrics import ClientMetrics
from utils.errors import InputFileError

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, an exceeded quota, and a file that has reached its size limit."""
WARNING_INTERVAL: Final = 60.0
"""Least seconds between two warnings about one file."""

log = logging.getLogger(__name__)


def is_full(problem: InputFileError) -> bool:
    """Return whether a file could not be written because there is no room."""
    cause = problem.__cause__
    return isinstance(cause, OSError) and cause.errno in FULL


class UnwrittenLines:
    """Counts the lines that could not be written.

    Args:
        metrics: count the lines, too.
        may_continue: returns whether the run may continue without the lines; otherwise the error is raised.

    Attributes:
        lines: number of unwritten lines by file, ``alerts`` or ``verdicts``.
    """

    def __init__(self, metrics: ClientMetrics, may_continue: Callable[[], bool]) -> None:
        self.lines: dict[str, int] = {}
        self._metrics, self._may_continue = metrics, may_continue
        self._rate_limited = RateLimitedLog(log, WARNING_INTERVAL)

    def count(self, file: str, lines: int, problem: InputFileError) -> None:
        """Count lines that could not be written to a file.

        Raises:
            InputFileError: ``problem``, if the run does not continue.
        """
        self.lines[file] = self.lines.get(file, 0) + lines
        self._metrics.unwritten_lines.labels(file=file).inc(lines)
        if not self._may_continue():
            raise problem
        self._rate_limited.warning(file, f"{problem}; {self.lines[file]} lines lost so far")

    def describe(self) -> str:
        """Return the counts as the end of a sentence; empty text if nothing was lost."""
        return "".join(f", {lines} lines of {file} could not be written" for file, lines in self.lines.items())
