"""Log lines of the scripts: sentences for people, or one JSON object per line for programs.

Logged text may come from the network. Unprintable characters are escaped, so that it can neither start a line nor
control the terminal. A signal handler must not log: it could interrupt the writing of a line.
"""

import json as json_format
import logging
import math
import numbers
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from utils.escaping import escape_unprintable

_KEYS: Final = {
    "asctime": "time",
    "levelname": "level",
    "name": "logger",
    "exc_info": "exception",
    "stack_info": "stack",
}
"""Keys of a JSON line, by attribute of a log record."""
_DEEPEST: Final = 6
_CONTINUED: Final = "  | "


def configure(*, json: bool, debug: bool, spare_stdout: bool = False) -> None:
    """Set up the root logger: up to INFO on stdout, from WARNING on stderr. A second call replaces the first.

    Args:
        json: write JSON lines instead of sentences.
        debug: log DEBUG, too, with time and logger in each line, and let pika log.
        spare_stdout: log everything on stderr, because stdout is used for something else.
    """
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _LineHandler)]:
        root.removeHandler(handler)
    handler = _LineHandler(logging.DEBUG if spare_stdout else logging.WARNING)
    handler.setFormatter(_use_utc(_make_json_formatter() if json else _TextFormatter(debug=debug)))
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    # pika also raises what it logs about failed connections.
    logging.getLogger("pika").setLevel(logging.INFO if debug else logging.CRITICAL)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it explains its choices at INFO
    logging.captureWarnings(json)


def report(log: logging.Logger, event: str, sentence: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """Log an event as a sentence for people, and with its figures for programs.

    Args:
        log: the caller's logger.
        event: a short word for this kind of event, which is the value of the key ``event``.
        sentence: text of the line; it is not a format string.
        level: level of ``logging``.
        fields: further keys; none may have the name of an attribute of ``logging.LogRecord``.

    Raises:
        KeyError: a field has such a name.
    """
    log.log(level, sentence, extra={"event": event, **fields}, stacklevel=2)


class RateLimitedLog:
    """Logs frequent warnings: the first at once, then at most one every few seconds with the count in between.

    Args:
        log: the caller's logger.
        seconds: least time between two warnings of a kind.
    """

    def __init__(self, log: logging.Logger, seconds: float = 10.0) -> None:
        self._log = log
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[float, int]] = {}  # by kind: when it was last logged, and the count since then

    def warning(self, kind: str, sentence: str) -> None:
        """Log a warning, or count it. Use few kinds, because each is remembered."""
        now = time.monotonic()
        with self._lock:
            last, count = self._kinds.get(kind, (-math.inf, 0))
            is_due = now - last >= self._seconds
            self._kinds[kind] = (now, 0) if is_due else (last, count + 1)
        if is_due:
            self._log.warning("%s%s", sentence, f" ({count} more since the last such line)" if count else "")


class _LineHandler(logging.Handler):
    """Writes each record at once under one lock, so that lines of several threads never mix.

    Args:
        stderr_from: the level from which records go to stderr.
    """

    def __init__(self, stderr_from: int) -> None:
        super().__init__()
        self._stderr_from = stderr_from

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; it is lost if stdout or stderr cannot be written."""
        try:
            # Looked up each time, because a test or a progress bar may have replaced the streams.
            stream = sys.stderr if record.levelno >= self._stderr_from else sys.stdout
            encoding = getattr(stream, "encoding", None) or "utf-8"
            line = f"{self.format(record)}\n".encode(encoding, "backslashreplace").decode(encoding)
        except Exception:
            self.handleError(record)
            return
        try:
            stream.write(line)
            stream.flush()
        except (OSError, ValueError):  # a broken pipe, a full disk, a closed file
            return


def _use_utc(formatter: logging.Formatter) -> logging.Formatter:
    """Make a formatter write times like 2016-03-01T12:00:00.123Z."""
    formatter.converter = time.gmtime
    formatter.default_time_format = "%Y-%m-%dT%H:%M:%S"
    formatter.default_msec_format = "%s.%03dZ"
    return formatter


class _TextFormatter(logging.Formatter):
    def __init__(self, *, debug: bool) -> None:
        super().__init__()
        self._debug = debug

    def format(self, record: logging.LogRecord) -> str:
        """Return the sentence, with the traceback of an exception indented below it."""
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        line = f"{level}{escape_unprintable(record.getMessage())}"
        if self._debug:
            line = f"{self.formatTime(record)} {escape_unprintable(record.name)}: {line}"
        below = (f"{_CONTINUED}{escape_unprintable(text)}" for text in self._split_traceback(record))
        return "\n".join([line, *below])

    def _split_traceback(self, record: logging.LogRecord) -> list[str]:
        exception = self.formatException(record.exc_info) if record.exc_info else ""
        return [*exception.splitlines(), *(record.stack_info or "").splitlines()]


def _make_json_formatter() -> logging.Formatter:
    from pythonjsonlogger.core import RESERVED_ATTRS
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(
        ["asctime", "levelname", "name", "message"],
        rename_fields=_KEYS,
        reserved_attrs=[*RESERVED_ATTRS, *_KEYS.values()],  # so that no field replaces one of these
        json_serializer=_dump,
    )


def _dump(line: dict[str, Any], **_options: object) -> str:
    """Return a JSON object, in ASCII."""
    return json_format.dumps(_to_json_value({**line, "level": str(line["level"]).lower()}), allow_nan=False)


def _to_json_value(value: Any, depth: int = 0) -> object:
    """Convert a value to one that JSON can represent; NaN and infinity become null."""
    match value:
        case None | bool():
            return value
        case str():
            return value.encode(errors="replace").decode()  # half of a surrogate pair cannot be encoded
        case numbers.Integral():
            return int(value)
        case numbers.Real():
            return float(value) if math.isfinite(value) else None
        case _ if depth >= _DEEPEST:
            return "..."
        case Mapping():
            return {str(_to_json_value(str(name))): _to_json_value(one, depth + 1) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_to_json_value(one, depth + 1) for one in value]
        case _ if callable(to_list := getattr(value, "tolist", None)):  # arrays and their scalars
            return _to_json_value(to_list(), depth + 1)
        case _:
            return _to_json_value(str(value))
