"""RAPL's counters, read from a folder made like the kernel's, and the log of an external meter."""

import os
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from evaluations.energy_measurement import measure_in_turns
from evaluations.energy_meters import PowerLog, Rapl, has_rapl, read_power_log
from utils.errors import InputFileError

JOULE = 1_000_000
RANGE = 262_143_328_850


def write_zone(folder: Path, zone: str, name: str, microjoules: int) -> Path:
    path = folder / zone
    path.mkdir(parents=True, exist_ok=True)
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    return path / "energy_uj"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Yield a folder that any user may read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def as_anyone() -> Iterator[Callable[[], None]]:
    """Return a function that gives up root's rights until the test ends."""
    user = os.geteuid()
    yield lambda: os.seteuid(65534 if user == 0 else user)
    os.seteuid(user)


def test_the_packages_are_summed_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    packages = [write_zone(tmp_path, f"intel-rapl:{i}", f"package-{i}", 5 * JOULE) for i in range(2)]
    others = [
        write_zone(tmp_path, "intel-rapl:0:0", "core", 0),
        write_zone(tmp_path, "intel-rapl:2", "psys", 0),
        write_zone(tmp_path, "intel-rapl-mmio:0", "package-0", 0),
    ]
    rapl = Rapl(tmp_path)
    joules = rapl.begin()
    packages[0].write_text(str(7 * JOULE))
    packages[1].write_text(str(8_500_000))
    for other in others:
        other.write_text(str(100 * JOULE))
    assert rapl.names == ["package-0", "package-1"]
    assert joules() == pytest.approx(2 + 3.5)


def test_a_counter_that_wraps_is_corrected_by_its_range(tmp_path: Path) -> None:
    wraps = write_zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 3 * JOULE)
    write_zone(tmp_path, "intel-rapl:1", "package-1", JOULE)
    joules = Rapl(tmp_path).begin()
    wraps.write_text(str(4 * JOULE))
    assert joules() == pytest.approx(3 + 4)


def test_each_interval_holds_the_increase_of_the_counters(tmp_path: Path) -> None:
    counter = write_zone(tmp_path, "intel-rapl:0", "package-0", 0)

    def work(joules: int) -> list[int]:
        counter.write_text(str(int(counter.read_text()) + joules * JOULE))
        return [1, 2, 3]

    methods = {"three": lambda: work(3), "seven": lambda: work(7)}
    intervals = list(measure_in_turns(methods, 2, 0.0, Rapl(tmp_path).begin))
    found = [(interval.method, interval.events, interval.joules) for interval in intervals]
    assert found == [("three", 3, 3.0), ("seven", 3, 7.0)] * 2


def test_an_unreadable_counter_is_one_line_with_the_command_that_helps(
    open_folder: Path, as_anyone: Callable[[], None]
) -> None:
    write_zone(open_folder, "intel-rapl:0", "package-0", 0).chmod(0)
    as_anyone()
    assert has_rapl(open_folder)
    with pytest.raises(InputFileError, match=r"energy_uj: this user may not read it; .*sudo chmod a\+r .*:\*/energy"):
        Rapl(open_folder)


def test_missing_counters_and_counters_without_numbers_are_refused(tmp_path: Path) -> None:
    assert not has_rapl(tmp_path / "nothing")
    with pytest.raises(InputFileError, match="has no RAPL counter"):
        Rapl(tmp_path)
    write_zone(tmp_path, "intel-rapl:0", "package-0", 0).write_text("-5")
    with pytest.raises(InputFileError, match="holds '-5' instead of microjoules"):
        Rapl(tmp_path)


def log_of(tmp_path: Path, text: str) -> PowerLog:
    path = tmp_path / "meter.csv"
    path.write_text(text)
    return read_power_log(path)


def test_power_is_integrated_by_the_trapezoid_rule_with_interpolated_ends(tmp_path: Path) -> None:
    log = log_of(tmp_path, "timestamp,watts\n100,2\n101,4\n102,4\n103,0\n104,2\n")
    # 3 W at 100.5 and 2 W at 102.5: half a second of 3.5 W, one of 4 W, half a second of 3 W.
    assert log.integrate(100.5, 102.5) == pytest.approx(0.5 * 3.5 + 4 + 0.5 * 3)
    assert log.integrate(100, 104) == pytest.approx(3 + 4 + 2 + 1)
    assert log.integrate(100, 102.5) + log.integrate(102.5 - 2.5, 104) == pytest.approx(3 + 4 + 0.5 * 3 + 10)


def test_uneven_readings_are_weighted_by_their_duration(tmp_path: Path) -> None:
    log = log_of(tmp_path, "timestamp,watts\n0,2\n1,2\n1.5,6\n4,6\n5,2\n")
    assert log.integrate(0, 5) == pytest.approx(2 + 0.5 * 4 + 2.5 * 6 + 4)


def test_amperes_times_volts_are_watts_and_names_and_further_columns_do_not_matter(tmp_path: Path) -> None:
    log = log_of(tmp_path, "Volts, Amperes ,note,TIMESTAMP\n5,0.5,a,1\n5,0.5,b,2\n4,1,c,3\n5,0.5,d,4\n")
    assert log.watts.tolist() == [2.5, 2.5, 4, 2.5]
    assert log.integrate(1, 4) == pytest.approx(2.5 + 3.25 + 3.25)


@pytest.mark.parametrize("text", ["2026-03-01T12:00:00+02:00", "2026-03-01 10:00:00Z", "1772359200", "1772359200.0"])
def test_a_time_is_seconds_since_the_epoch_or_iso(tmp_path: Path, text: str) -> None:
    assert log_of(tmp_path, f"timestamp,watts\n{text},1\n").times.tolist() == [1772359200.0]


def test_a_time_without_an_offset_is_local(tmp_path: Path) -> None:
    local = datetime.fromtimestamp(1772359200).isoformat()
    assert log_of(tmp_path, f"timestamp,watts\n{local},1\n").times.tolist() == [1772359200.0]


def test_an_incomplete_last_line_is_skipped(tmp_path: Path) -> None:
    log = log_of(tmp_path, "timestamp,watts\n1,2.5\n2,2")
    assert (log.times.tolist(), log.has_reached(1), log.has_reached(2)) == ([1.0], True, False)


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        (99.5, 103, "covers 1970-01-01T00:01:40.000 to 1970-01-01T00:01:59.000, but a measurement took place from"),
        (110, 119.5, "set the meter's clock to this machine's time"),
        (101.2, 102.4, "has 1 readings in a measurement of 1.20 s, at least 2 are needed; measure longer"),
        (104, 113, "has a gap of 7.00 s after 1970-01-01T00:01:45.000"),
        (103, 105.5, "has a gap of 7.00 s"),
        (111.5, 114, "has a gap of 7.00 s"),
    ],
)
def test_a_time_that_the_log_does_not_cover_is_refused(tmp_path: Path, start: float, end: float, says: str) -> None:
    times = [*range(100, 106), *range(112, 120)]
    log = log_of(tmp_path, "timestamp,watts\n" + "".join(f"{time},1\n" for time in times))
    assert log.integrate(100, 105) == pytest.approx(5)
    assert log.integrate(112, 119) == pytest.approx(7)
    with pytest.raises(InputFileError) as raised:
        log.integrate(start, end)
    assert says in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("time,watts\n1,2\n", "its columns must be timestamp and watts, or timestamp, amperes and volts; it has time"),
        ("timestamp,amperes\n1,2\n", "its columns must be"),
        ("timestamp,watts\n1,2\n2,lots\n", "line 3 has watts 'lots'; it must be a number, 0 or more"),
        ("timestamp,watts\n1,-2\n", "line 2 has watts '-2'"),
        ("timestamp,watts\n1,nan\n", "line 2 has watts 'nan'"),
        ("timestamp,watts\n1\n", "line 2 has watts 'None'"),
        ("timestamp,watts\nnoon,2\n", "line 2 has timestamp 'noon'"),
        ("timestamp,watts\n2026-13-01T00:00:00,2\n", "line 2 has the time '2026-13-01T00:00:00'; write"),
        ("timestamp,watts\n1700000000000000000,2\n", "line 2 has the time '1700000000000000000', beyond the year 9999"),
        ("timestamp,watts\n1700000000000,2\n", "write seconds since the epoch, not milliseconds or nanoseconds"),
        (f"timestamp,watts\n{'9' * 401},2\n", "line 2 has timestamp '999"),
        ("timestamp,watts\n1e308,2\n", "line 2 has the time '1e308', beyond the year 9999"),
        ("timestamp,watts\n1,1e308\n", "line 2 has watts '1e308'; no meter reads more than"),
        ("timestamp,amperes,volts\n1,1e200,1e200\n", "line 2 has amperes '1e200'; no meter reads more than"),
        ("timestamp;watts\n1;2,5\n", "its columns are separated by semicolons and its numbers have decimal commas"),
        ("# a meter\ntimestamp,watts\n1,2\n", "the header is in line 2, below a comment"),
        ("timestamp,watts\n1,2\n1,2\n", "time does not ascend at 1970-01-01T00:00:01.000"),
        ("timestamp,watts\n5,2\n4,2\n", "time does not ascend"),
    ],
)
def test_a_file_that_is_not_a_log_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputFileError) as raised:
        log_of(tmp_path, text)
    assert says in str(raised.value)


def test_an_empty_log_covers_nothing(tmp_path: Path) -> None:
    log = log_of(tmp_path, "timestamp,watts\n")
    assert not log.has_reached(0)
    with pytest.raises(InputFileError, match="covers nothing, but a measurement took place"):
        log.integrate(1, 2)
