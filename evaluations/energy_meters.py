"""Read energy from the processor's counters or from the log of an external meter, without any estimate."""

import csv
import io
import re
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from utils.csv_text import explain_header
from utils.errors import InputFileError
from utils.files import check_readable
from utils.table_formats import open_table

POWERCAP: Final = Path("/sys/class/powercap")
TIMESTAMP, WATTS, AMPERES, VOLTS = "timestamp", "watts", "amperes", "volts"

_ZONE: Final = re.compile(r"intel-rapl:\d+")  # neither a subzone of a package, nor the same counter read over MMIO
_MICROJOULES: Final = 1e-6
LATEST: Final = 253_402_300_799.0
"""Seconds since the epoch at the end of the year 9999; today in milliseconds or nanoseconds is a larger number."""

_MOST: Final = 1e12
"""Most watts, amperes or volts of a reading: more than any real one."""

_HEAD_LINES: Final = 10  # lines in which a missing header is looked for, for the error message
_LARGEST_GAP: Final = 5.0  # times the median time between readings
_LEAST_READINGS: Final = 2  # in an interval
_LOG_LATENESS: Final = 15.0  # seconds by which a growing log may lag

FloatArray = NDArray[np.float64]
Begin = Callable[[], Callable[[], float]]
"""Starts a measurement, and returns a function that returns the joules since then."""


def begin_without_meter() -> Callable[[], float]:
    """Start a measurement whose joules are unknown, for a meter that is read later or for none."""
    return lambda: float("nan")


class Rapl:
    """The sum of the energy counters of the processor's packages (Running Average Power Limit).

    The counters measure everything that runs on the packages, but not memory, disks or the network adapter.
    Source: the Linux kernel's documentation of the power capping framework.

    Args:
        folder: of the framework in sysfs.

    Raises:
        InputFileError: there are no counters, or this user may not read them.
    """

    def __init__(self, folder: Path) -> None:
        self._zones = [zone for zone in _find_zones(folder) if _read_text(zone / "name").startswith("package")]
        if not self._zones:
            raise InputFileError(
                f"{folder}: has no RAPL counter of a processor package; give --meter-csv or a power model (--watts)"
            )
        self._ranges = [_read_number(zone / "max_energy_range_uj") for zone in self._zones]
        self.names = [_read_text(zone / "name") for zone in self._zones]
        self._read()

    def _read(self) -> list[int]:
        return [_read_number(zone / "energy_uj") for zone in self._zones]

    def begin(self) -> Callable[[], float]:
        """Start a measurement, and return a function that returns the joules since then.

        The joules are too low if a counter wraps around more than once in that time.
        """
        before = self._read()

        def joules() -> float:
            steps = zip(before, self._read(), self._ranges, strict=True)
            return _MICROJOULES * sum(late - early + (most if late < early else 0) for early, late, most in steps)

        return joules


def has_rapl(folder: Path) -> bool:
    """Return whether there are RAPL counters, even if this user may not read them."""
    return bool(_find_zones(folder))


def choose_meter(name: str | None, folder: Path, *, log: bool, watts: bool) -> str:
    """Return the meter to use: ``rapl``, ``csv`` or, only if a power is stated, ``model``.

    Args:
        name: ``--meter``, if given.
        folder: where RAPL's counters would be.
        log: whether an external meter's log was given.
        watts: whether a power was stated.

    Raises:
        InputFileError: there is no meter, or the options contradict each other.
    """
    given = {"csv": log, "model": watts}
    chosen = name or next((meter for meter, is_given in given.items() if is_given), "rapl")
    if name is None and chosen == "rapl" and not has_rapl(folder):
        raise InputFileError(
            f"no meter: {folder} has no RAPL counters; give the log of an external meter (--meter-csv, "
            "or --meter csv to give it later), or state a power model (--watts)"
        )
    if chosen == "model" and not watts:
        raise InputFileError("--meter model: needs a power to multiply processor time by; add --watts")
    for meter, option in (("csv", "--meter-csv"), ("model", "--watts")):
        if given[meter] and chosen != meter:
            raise InputFileError(f"{option} is for --meter {meter}, but the meter is {chosen}; leave one out")
    return chosen


def _find_zones(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("intel-rapl:*") if _ZONE.fullmatch(path.name))


def _read_text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except PermissionError as problem:
        raise InputFileError(
            f"{path}: this user may not read it; run as root, or once: sudo chmod a+r {path.parent.parent}/"
            f"intel-rapl:*/{path.name}"
        ) from problem
    except (OSError, UnicodeDecodeError) as problem:
        raise InputFileError(f"{path}: cannot be read: {problem}; use another --meter") from problem


def _read_number(path: Path) -> int:
    text = _read_text(path)
    if not text.isdecimal():
        raise InputFileError(f"{path}: holds {text[:40]!r} instead of microjoules; use another --meter")
    return int(text)


@dataclass(frozen=True)
class PowerLog:
    """The log of an external meter.

    Attributes:
        path: of the log, for error messages.
        times: (N,) float64, seconds since the epoch, ascending.
        watts: (N,) float64.
    """

    path: Path
    times: FloatArray
    watts: FloatArray

    def has_reached(self, time: float) -> bool:
        """Return whether the last reading is at or after a time, in seconds since the epoch."""
        return len(self.times) > 0 and float(self.times[-1]) >= time

    def integrate(self, start: float, end: float) -> float:
        """Return the joules from ``start`` to ``end``, seconds since the epoch, by the trapezoid rule.

        Power at the ends is interpolated between the readings on either side.

        Raises:
            InputFileError: the log does not cover that time, or has a gap or too few readings there.
        """
        self._check(start, end)
        inside = (self.times > start) & (self.times < end)
        first, last = np.interp([start, end], self.times, self.watts)
        times = np.concatenate(([start], self.times[inside], [end]))
        watts = np.concatenate(([first], self.watts[inside], [last]))
        return float((np.diff(times) * (watts[1:] + watts[:-1]) / 2).sum())

    def _check(self, start: float, end: float) -> None:
        if not len(self.times) or start < self.times[0] or not self.has_reached(end):
            found = (
                "nothing" if not len(self.times) else f"{_format_time(self.times[0])} to {_format_time(self.times[-1])}"
            )
            raise InputFileError(
                f"{self.path}: covers {found}, but a measurement took place from {_format_time(start)} to "
                f"{_format_time(end)} (UTC); log the whole run, and set the meter's clock to this machine's time"
            )
        before = int(np.searchsorted(self.times, start, side="right"))
        after = int(np.searchsorted(self.times, end, side="left"))
        readings = after - before
        if readings < _LEAST_READINGS:
            raise InputFileError(
                f"{self.path}: has {readings} readings in a measurement of {end - start:.2f} s, at least "
                f"{_LEAST_READINGS} are needed; measure longer (--seconds, --idle-seconds), or log more often"
            )
        steps = np.diff(self.times)
        steps_inside = steps[before - 1 : after]  # from the last reading before it to the first after it
        if steps_inside.max() > _LARGEST_GAP * np.median(steps):
            at = self.times[before - 1 + int(steps_inside.argmax())]
            raise InputFileError(
                f"{self.path}: has a gap of {steps_inside.max():.2f} s after {_format_time(at)} (UTC), within a "
                f"measurement, where readings are {np.median(steps):.2f} s apart; measure again"
            )


def _format_time(time: float) -> str:
    return str(np.datetime64(int(1000 * time), "ms"))


def read_power_log(path: Path) -> PowerLog:
    """Read the CSV of an external meter, which may still be growing: an incomplete last line is skipped.

    Args:
        path: columns ``timestamp``, seconds since the epoch or ISO 8601 (local time without an offset), and ``watts``,
            or ``amperes`` and ``volts``; others are ignored.

    Raises:
        InputFileError: the file is missing or not such a table, a cell is not a number, or the times do not ascend.
    """
    try:
        with open_table(check_readable(path), InputFileError) as (_, stream):
            content = stream.read()
        text = content[: content.rfind(b"\n") + 1].decode("utf-8-sig")
    except (UnicodeDecodeError, OSError, EOFError, zlib.error) as problem:
        raise InputFileError(f"{path}: is not text; export the meter's log as CSV") from problem
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    columns = {name.strip().lower() for name in rows.fieldnames or ()}
    if TIMESTAMP not in columns or not (WATTS in columns or {AMPERES, VOLTS} <= columns):
        known = (TIMESTAMP, WATTS, AMPERES, VOLTS)
        if reason := explain_header(text.split("\n", _HEAD_LINES)[:_HEAD_LINES], known):
            raise InputFileError(f"{path}: {reason}")
        raise InputFileError(
            f"{path}: is not a meter's log: its columns must be {TIMESTAMP} and {WATTS}, or {TIMESTAMP}, {AMPERES} and "
            f"{VOLTS}; it has {', '.join(sorted(columns)) or 'none'}"
        )
    try:
        readings = [_parse_reading(row, f"{path}: line {rows.line_num}") for row in rows]
    except csv.Error as problem:
        raise InputFileError(f"{path}: line {rows.line_num} is not CSV: {problem}; export it again") from None
    times, watts = np.array(readings, dtype=np.float64).reshape(-1, 2).T
    if (np.diff(times) <= 0).any():
        at = _format_time(times[int(np.argmax(np.diff(times) <= 0)) + 1])
        raise InputFileError(f"{path}: time does not ascend at {at} (UTC); log with a clock that is never set back")
    return PowerLog(path, times, watts)


def _parse_reading(cells: Mapping[str | None, str | list[str] | None], place: str) -> tuple[float, float]:
    row = {name.strip().lower(): cell for name, cell in cells.items() if isinstance(name, str)}

    def parse_number(name: str) -> float:
        try:
            value = float(str(row[name]))
        except ValueError:
            value = float("nan")
        if not np.isfinite(value) or value < 0:
            raise InputFileError(f"{place} has {name} {str(row[name])[:40]!r}; it must be a number, 0 or more")
        if name != TIMESTAMP and value > _MOST:
            raise InputFileError(f"{place} has {name} {str(row[name])[:40]!r}; no meter reads more than {_MOST:g}")
        return value

    def parse_time() -> float:
        value = parse_number(TIMESTAMP)
        if value > LATEST:
            raise InputFileError(
                f"{place} has the time {text[:40]!r}, beyond the year 9999; write seconds since the epoch, not "
                "milliseconds or nanoseconds"
            )
        return value

    watts = parse_number(WATTS) if WATTS in row else parse_number(AMPERES) * parse_number(VOLTS)
    text = str(row[TIMESTAMP]).strip()
    if re.search(r"\d[-:T]\d", text):
        try:
            return datetime.fromisoformat(text).timestamp(), watts
        except (ValueError, OverflowError, OSError):
            raise InputFileError(
                f"{place} has the time {text[:40]!r}; write seconds since the epoch or ISO 8601"
            ) from None
    return parse_time(), watts


def await_log(log: PowerLog, end: float) -> PowerLog:
    """Wait until a growing log reaches ``end``, at most ``_LOG_LATENESS`` seconds; return the log as last read."""
    deadline = time.monotonic() + _LOG_LATENESS
    while not log.has_reached(end) and time.monotonic() < deadline:
        time.sleep(0.5)
        log = read_power_log(log.path)
    return log
