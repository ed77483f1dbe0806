"""The log lines of the scripts, as text and as JSON."""

import io
import json
import logging
import math
import os
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offload.operations.logs import RateLimitedLog, configure, report
from utils import cli
from utils.errors import BrokerRefusedError

ROOT = Path(__file__).resolve().parents[3]
HOSTILE = (
    "x\nerror: forged",
    "x\rerror: forged",
    "x\r\n{}",
    "\x1b[2J\x1b]0;title\x07",
    "\x9b31m",
    "a\x85b",
    "a\u2028b\u2029c",
    "\u202egnp.exe",
    "nul\0",
    "tab\tdel\x7f",
    "half \ud800 pair",
)
log = logging.getLogger("tests.link")


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    """Restore the logging configuration."""
    root, pika = logging.getLogger(), logging.getLogger("pika")
    before = root.level, pika.level, list(root.handlers)
    yield
    logging.captureWarnings(False)
    root.setLevel(before[0])
    pika.setLevel(before[1])
    for handler in set(root.handlers) - set(before[2]):
        root.removeHandler(handler)


Written = Callable[[], tuple[list[str], list[str]]]


@pytest.fixture
def written(capsys: pytest.CaptureFixture[str]) -> Written:
    """Return a function that returns the lines written to stdout and to stderr."""

    def read() -> tuple[list[str], list[str]]:
        out, err = capsys.readouterr()
        return out.split("\n")[:-1], err.split("\n")[:-1]

    return read


def objects(lines: list[str]) -> list[dict[str, Any]]:
    """Parse lines strictly: neither NaN nor a key that comes twice."""

    def refuse(text: str) -> object:
        raise AssertionError(f"{text} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    return [json.loads(line, parse_constant=refuse, object_pairs_hook=unique) for line in lines]


def fail() -> None:
    raise ValueError("bad\nerror: forged \x1b[31m")


def test_a_sentence_has_no_prefix_and_a_warning_has_one(written: Written) -> None:
    configure(json=False, debug=False)
    log.debug("silent")
    log.info("%d events", 37)
    log.warning("slow")
    log.error("broken")
    assert written() == (["37 events"], ["warning: slow", "error: broken"])


def test_debug_adds_the_time_and_the_logger(written: Written) -> None:
    configure(json=False, debug=True)
    log.debug("tried")
    log.info("done")
    log.warning("slow")
    out, err = written()
    moment = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z tests\.link: "
    for line, rest in zip([*out, *err], ["debug: tried", "done", "warning: slow"], strict=True):
        assert re.fullmatch(moment + rest, line)


def test_json_lines_have_time_level_logger_and_message(written: Written) -> None:
    configure(json=True, debug=False)
    log.info("%s events", 37)
    log.warning("slow")
    out, err = written()
    (first,), (second,) = objects(out), objects(err)
    assert list(first) == ["time", "level", "logger", "message"]
    assert (first["level"], first["logger"], first["message"]) == ("info", "tests.link", "37 events")
    assert (second["level"], second["message"]) == ("warning", "slow")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["time"])
    assert abs((datetime.now(UTC) - datetime.fromisoformat(first["time"])).total_seconds()) < 60


def test_a_report_is_a_sentence_as_text_and_an_event_with_figures_as_json(written: Written) -> None:
    sentence = "37 events of 5 requests in 12.3 ms, 100 % of %s"
    configure(json=False, debug=False)
    report(log, "batch", sentence, events=37, milliseconds=12.3)
    assert written() == ([sentence], [])
    configure(json=True, debug=False)
    report(log, "batch", sentence, events=37, milliseconds=12.3)
    ((line,), nothing) = written()
    (fields,) = objects([line])
    assert nothing == []
    assert {name: fields[name] for name in ("message", "event", "events", "milliseconds")} == {
        "message": sentence,
        "event": "batch",
        "events": 37,
        "milliseconds": 12.3,
    }


def test_a_report_can_have_any_level(written: Written) -> None:
    configure(json=False, debug=False)
    report(log, "lost", "connection lost", level=logging.WARNING)
    report(log, "tried", "tried once more", level=logging.DEBUG)
    assert written() == ([], ["warning: connection lost"])


def test_a_report_names_its_callers_location(caplog: pytest.LogCaptureFixture) -> None:
    configure(json=False, debug=False)
    report(log, "batch", "done")
    (record,) = caplog.records
    assert (record.funcName, record.name) == ("test_a_report_names_its_callers_location", "tests.link")


def test_no_field_replaces_a_standard_key(written: Written) -> None:
    configure(json=True, debug=False)
    report(log, "batch", "done", time=1, logger=2, exception=3, stack=4, log="l", sentence="s")
    log.info("plain", extra={"level": "l", "queue": "q"})
    for taken in ("name", "message", "args"):
        with pytest.raises(KeyError):
            report(log, "batch", "done", **{taken: 1})
    reported, plain = objects(written()[0])
    assert (reported["level"], reported["logger"], reported["message"]) == ("info", "tests.link", "done")
    assert list(reported) == ["time", "level", "logger", "message", "event", "log", "sentence"]
    assert (plain["level"], plain["queue"]) == ("info", "q")


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf")])
def test_nan_and_infinity_are_null(number: float, written: Written) -> None:
    configure(json=True, debug=False)
    report(log, "batch", "done", share=number, deep={"shares": [number, (1.5, number)]})
    (line,) = objects(written()[0])
    assert line["share"] is None
    assert line["deep"] == {"shares": [None, [1.5, None]]}


class Odd:
    def __str__(self) -> str:
        return "odd\n\x1b"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.array([[1.0, math.nan]]), [[1.0, None]]),
        (True, True),
        (None, None),
        (Path("/a"), "/a"),
        (b"\xff", "b'\\xff'"),
        ({1: "one"}, {"1": "one"}),
        (Odd(), "odd\n\x1b"),
        (2**70, 2**70),
        ("\ud800", "?"),
    ],
)
def test_other_values_are_converted_for_json(value: object, said: object, written: Written) -> None:
    configure(json=True, debug=False)
    report(log, "batch", "done", value=value)
    (line,) = objects(written()[0])
    assert line["value"] == said


def test_a_value_that_contains_itself_is_cut(written: Written) -> None:
    endless: list[object] = []
    endless.append(endless)
    configure(json=True, debug=False)
    report(log, "batch", "done", value=endless)
    assert json.dumps(objects(written()[0])[0]["value"]) == '[[[[["..."]]]]]'


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_text_from_the_network_cannot_start_a_line_or_control_the_terminal(text: str, written: Written) -> None:
    configure(json=False, debug=True)
    log.info("client %s left", text)
    logging.getLogger(f"evil{text}").info("done")
    (first, second), nothing = written()
    assert nothing == []
    assert first.isprintable() and second.isprintable()
    assert first.endswith(" left") and second.endswith(": done")
    configure(json=True, debug=False)
    log.info("client %s left", text)
    report(log, "left", text, client=text, **{text: 1})
    out, nothing = written()
    assert nothing == []
    assert all(line.isascii() and line.isprintable() for line in out)
    readable = text.encode(errors="replace").decode()
    told, reported = objects(out)
    assert told["message"] == f"client {readable} left"
    assert (reported["message"], reported["client"], reported[readable]) == (readable, readable, 1)


def test_printable_text_of_all_languages_is_unchanged(written: Written) -> None:
    configure(json=False, debug=False)
    log.info("São Paulo, 東京, 12.3 µs, ≥ 90 %")
    assert written() == (["São Paulo, 東京, 12.3 µs, ≥ 90 %"], [])


@pytest.mark.parametrize("debug", [False, True])
def test_an_exception_is_indented_and_cannot_forge_a_line(debug: bool, written: Written) -> None:
    configure(json=False, debug=debug)
    try:
        fail()
    except ValueError:
        log.exception("failed")
    out, (first, *below) = written()
    assert out == []
    assert first.endswith("error: failed")
    assert any("in fail" in line for line in below)
    assert all(line.startswith("  | ") and line.isprintable() for line in below)


def test_an_exception_is_a_field_of_the_json_line(written: Written) -> None:
    configure(json=True, debug=False)
    try:
        fail()
    except ValueError:
        log.exception("failed", stack_info=True)
    (line,) = objects(written()[1])
    assert line["message"] == "failed"
    assert line["exception"].startswith("Traceback") and line["exception"].endswith("forged \x1b[31m")
    assert "test_an_exception_is_a_field" in line["stack"]


@pytest.mark.parametrize("as_json", [False, True])
def test_lines_of_many_threads_never_mix(as_json: bool, written: Written) -> None:
    configure(json=as_json, debug=False)
    long = "x" * 3000

    def write(number: int) -> None:
        for i in range(50):
            report(log, "line", f"{number} {i} {long}", level=(logging.INFO, logging.WARNING)[i % 2])

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out, err = written()
    lines = [line["message"] for line in objects([*out, *err])] if as_json else [*out, *err]
    expected = {f"{'warning: ' * (i % 2) * (not as_json)}{n} {i} {long}" for n in range(8) for i in range(50)}
    assert (len(out), len(err)) == (200, 200)
    assert set(lines) == expected


def test_a_second_setup_writes_nothing_twice(written: Written) -> None:
    configure(json=True, debug=True)
    configure(json=False, debug=False)
    log.debug("silent")
    log.info("once")
    assert written() == (["once"], [])


@pytest.mark.parametrize(("debug", "level"), [(False, logging.CRITICAL), (True, logging.INFO)])
def test_pika_logs_only_with_debug(debug: bool, level: int) -> None:
    configure(json=False, debug=debug)
    assert logging.getLogger("pika.adapters").getEffectiveLevel() == level


def test_python_warnings_are_json_lines(written: Written) -> None:
    configure(json=True, debug=False)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old\nways", UserWarning, stacklevel=1)
    (line,) = objects(written()[1])
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "old\nways" in line["message"]


def test_a_character_outside_the_terminals_encoding_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    configure(json=False, debug=False)
    log.info("12 µs")
    assert raw.getvalue() == b"12 \\xb5s\n"


def test_a_closed_reader_loses_only_lines() -> None:
    code = (
        "import logging, sys; from offload.operations.logs import configure, report\n"
        "configure(json=False, debug=False)\n"
        "for i in range(20000): report(logging.getLogger('x'), 'line', 'y' * 100)\n"
        "print('got to the end', file=sys.stderr)\n"
        "import os; os.dup2(os.open(os.devnull, os.O_WRONLY), 1)"
    )
    reading, writing = os.pipe()
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True
    ) as process:
        os.close(writing)
        os.read(reading, 100)
        os.close(reading)
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "got to the end\n")


def test_a_frequent_warning_is_logged_once_and_then_counted(caplog: pytest.LogCaptureFixture) -> None:
    sparing = RateLimitedLog(logging.getLogger("x"), seconds=0.2)
    for _ in range(100):
        sparing.warning("dropped", "dropped a message")
    sparing.warning("left", "a client left")
    assert [record.getMessage() for record in caplog.records] == ["dropped a message", "a client left"]
    time.sleep(0.25)
    sparing.warning("dropped", "dropped another")
    assert caplog.records[-1].getMessage() == "dropped another (99 more since the last such line)"


@pytest.mark.parametrize(
    ("problem", "message", "code"),
    [
        (BrokerRefusedError("the broker says \x1b[2J:\nno"), "the broker says \x1b[2J: no", 4),
        (KeyboardInterrupt(), "interrupted", 130),
    ],
)
def test_the_error_that_ends_a_script_is_a_json_line(
    problem: BaseException, message: str, code: int, written: Written
) -> None:
    parser = cli.new_parser(None)
    parser.add_argument("--log-format")

    def body(_args: object) -> None:
        configure(json=True, debug=False)
        raise problem

    assert cli.run(parser, body, ["--log-format", "json"]) == code
    out, err = written()
    assert (out, len(err), err[0].isascii()) == ([], 1, True)
    (line,) = objects(err)
    assert (line["level"], line["message"], line["event"], line["exit_code"]) == ("error", message, "ended", code)
