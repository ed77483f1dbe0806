"""Faulty files of all kinds: by mistakes of a user, broken copies or an attacker.

Each table maps the name of a fault to a function that makes such a file and the words that the error must contain.
"""

import functools
import json
import os
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import models
from tests.hostile import Bomb, Evaluated
from tests.nsga2.plain_objectives import plain_table
from tests.nsga2.test_objectives import random_evaluation
from utils.release import CURRENT, FILES, MANIFEST, write_manifest
from utils.results import Front, write_front
from utils.schema import DEFAULT_THRESHOLDS, FEATURES, OFFLOAD_COLUMNS

SAMPLE = Path(__file__).resolve().parents[1] / "dataset" / "sample" / "2016_02.csv"
ROWS = 40
CANARY = "canary"


@dataclass(frozen=True)
class Fault:
    """A faulty file and its error message.

    Attributes:
        make: makes the file in an existing folder and returns its path.
        says: words that the message must contain.
    """

    make: Callable[[Path], Path]
    says: tuple[str, ...]


def month() -> list[list[str]]:
    """Return the cells of the first lines of a valid labelled dataset CSV."""
    with SAMPLE.open() as stream:
        return [next(stream).strip().split(",") for _ in range(ROWS + 1)]


def write_cells(lines: list[list[str]], path: Path) -> Path:
    path.write_text("".join(",".join(cells) + "\n" for cells in lines))
    return path


def good_evaluation() -> pd.DataFrame:
    return plain_table(random_evaluation(ROWS))


def good_single_evaluation() -> pd.DataFrame:
    return pd.DataFrame({"y": good_evaluation()["y"], "y_pred": 0, "cnf": 0.7, "avg_time": 0.1})


def good_front() -> Front:
    generator = np.random.default_rng(0)
    return Front(generator.uniform(0.5, 1, (7, 4)), generator.random((7, 2)), 100.0, 1000.0, 0.8, 1.0, 0.9, 1.0)


@functools.cache
def good_weights(class_name: str) -> Mapping[str, torch.Tensor]:
    """Return a state dict with the right names and shapes, all zeros, that takes no disk space."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in models.ARCHITECTURES[class_name].create().state_dict().items()}
    return {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}


def _copy(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _mkdir(path: Path) -> Path:
    path.mkdir()
    return path


def unreadable(ending: str) -> dict[str, Fault]:
    """Return faults that any file can have."""
    name = f"bad{ending}"
    return {
        "missing": Fault(lambda folder: folder / name, ("no such file", "check the path")),
        "below a file": Fault(lambda folder: _copy(folder / "file", b"x") / name, ("no such file",)),
        "of too long a name": Fault(lambda folder: folder / ("x" * 300 + ending), ("cannot be read", "too long")),
        "a folder": Fault(lambda folder: _mkdir(folder / name), ("is a folder", "name a file")),
        "empty": Fault(lambda folder: _copy(folder / name, b""), ("is empty",)),
    }


def _dataset(*says: str, change: Callable[[list[list[str]]], Any]) -> Fault:
    def make(folder: Path) -> Path:
        lines = month()
        changed = change(lines)
        return write_cells(lines if changed is None else changed, folder / "2016_01.csv")

    return Fault(make, says)


def _cell(row: int, column: int, cell: str, *says: str) -> Fault:
    """Return a dataset with one wrong cell; rows are counted from 1, as in the messages."""
    name = [*FEATURES, "class"][column]

    def change(lines: list[list[str]]) -> None:
        lines[row][column] = cell

    return _dataset(f"row {row} (line {row + 1})", f"column {name!r}", *says, change=change)


def _binary(name: str) -> Fault:
    return Fault(lambda folder: _copy(folder / name, bytes(range(256)) * 40), ())


DATASETS: dict[str, Fault] = {
    **unreadable(".csv"),
    "not text": _binary("2016_01.csv"),
    "not the gzip it says": _binary("2016_01.csv.gz"),
    "not the Parquet it says": _binary("2016_01.parquet"),
    "a header alone": _dataset("no rows", change=lambda lines: lines[:1]),
    "without a header": _dataset("header", change=lambda lines: lines[1:]),
    "a column short": _dataset(
        f"missing column {FEATURES[7]!r}", change=lambda lines: [cells[:7] + cells[8:] for cells in lines]
    ),
    "of an unknown column": _dataset("'8'", change=lambda lines: [["8", *cells] for cells in lines]),
    "of a repeated column": _dataset(
        f"repeated column {FEATURES[0]!r}", change=lambda lines: [cells[:1] + cells for cells in lines]
    ),
    "text in a number": _cell(3, 4, "lots", "holds 'lots'", "finite number"),
    "an empty cell": _cell(ROWS, 0, "", "is empty"),
    "NaN": _cell(1, 57, "NaN", "finite number"),
    "infinity": _cell(2, 11, "inf", "holds 'inf'"),
    "beyond float32": _cell(2, 11, "1e39", "holds '1e39'"),
    "an unknown class": _cell(5, 58, "2", "holds '2", "0 or normal, 1 or attack"),
    "an unknown word for a class": _cell(6, 58, "benign", "holds 'benign'"),
    "no class in a row": _cell(7, 58, "", "is empty"),
    "cut off in a row": _dataset(
        f"row {ROWS} (line {ROWS + 1})", "is empty", change=lambda lines: [*lines[:-1], lines[-1][:30]]
    ),
    "too many cells in a row": _dataset("line", change=lambda lines: lines[4].append("0")),
}  # fmt: skip
UNLABELLED = {"no class column": _dataset("no 'class' column", change=lambda lines: [cells[:-1] for cells in lines])}


def _evaluation(*says: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Fault:
    def make(folder: Path) -> Path:
        change(good_evaluation()).to_csv(folder / "evaluation.csv", index=False)
        return folder / "evaluation.csv"

    return Fault(make, says)


def _value(row: int, column: str, value: float | str, *says: str) -> Fault:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype({column: object})
        table.loc[row - 1, column] = value
        return table

    return _evaluation(f"row {row} (line {row + 1})", f"column {column!r}", *says, change=change)


def _cut_off(folder: Path) -> Path:
    whole = good_evaluation().to_csv(index=False)
    return _copy(folder / "evaluation.csv", whole[:-60].encode())


EVALUATIONS: dict[str, Fault] = {
    **unreadable(".csv"),
    "not text": _binary("evaluation.csv"),
    "a dataset": Fault(
        lambda folder: Path(shutil.copy(SAMPLE, folder)), ("not an evaluation CSV", "generate-model-evaluation-csv.py")
    ),
    "of a single exit": _evaluation(
        "not an evaluation CSV of two exits", change=lambda table: table[["y"]].assign(y_pred=0, cnf=0.7, avg_time=0.1)
    ),
    "a header alone": _evaluation("no rows", change=lambda table: table[:0]),
    "cut off in a row": Fault(_cut_off, (f"row {ROWS} (line {ROWS + 1})", "is empty")),
    "text in a number": _value(3, "bb_time_exit_1", "soon", "holds 'soon'"),
    "NaN": _value(4, "cnf_exit_2", float("nan"), "certainty between 0 and 1"),
    "infinity": _value(1, "exit_time_exit_2", float("inf"), "time in seconds"),
    "a negative time": _value(1, "bb_time_exit_2", -1e-9, "time in seconds, 0 or more"),
    "a certainty over 1": _value(2, "cnf_exit_1", 1.01, "holds '1.01'"),
    "an unknown class": _value(9, "y_exit_2", 2, "0 or 1"),
    "an unknown label": _value(9, "y", "attack", "0 or 1"),
}


def _lines(name: str, *lines: str) -> Callable[[Path], Path]:
    return lambda folder: _copy(folder / name, "".join(f"{line}\n" for line in lines).encode())


_VERDICT_COLUMNS = ",".join(OFFLOAD_COLUMNS)
VERDICTS: dict[str, Fault] = {
    **unreadable(".csv"),
    "not text": _binary("verdicts.csv"),
    "a dataset": Fault(lambda folder: Path(shutil.copy(SAMPLE, folder)), ("holds no verdicts", "dnn/inference.py")),
    "a header alone": Fault(_lines("verdicts.csv", _VERDICT_COLUMNS), ("no rows",)),
    "a certainty over 1": Fault(
        _lines("verdicts.csv", _VERDICT_COLUMNS, "1.5,0,N/A,N/A,1.5,0,N/A"), ("row 1 (line 2)", "holds '1.5'")
    ),
    "half an answer": Fault(_lines("verdicts.csv", _VERDICT_COLUMNS, "0.5,0,N/A,1,0.5,0,0"), ("'exit_2_certainty'",)),
    "cut off in a row": Fault(
        _lines("verdicts.csv", _VERDICT_COLUMNS, "0.5,0,0.7"), ("'exit_2_prediction'", "is empty")
    ),
}
_LIST_COLUMNS = "file,row,chosen,weight,prediction,certainty,class"
LABEL_LISTS: dict[str, Fault] = {
    **unreadable(".csv"),
    "not text": _binary("labels.csv"),
    "a dataset": Fault(lambda folder: Path(shutil.copy(SAMPLE, folder)), ("not a label list", "choose-for-labels.py")),
    "a header alone": Fault(_lines("labels.csv", _LIST_COLUMNS), ("no rows",)),
    "no class at all": Fault(
        _lines("labels.csv", _LIST_COLUMNS, "evaluation.csv,1,random,2,0,0.9,"), ("no record has a class", "fill in")
    ),
    "no random record": Fault(
        _lines("labels.csv", _LIST_COLUMNS, "evaluation.csv,1,informative,0,0,0.9,1"), ("no random record has a class",)
    ),
    "an unknown class": Fault(
        _lines("labels.csv", _LIST_COLUMNS, "evaluation.csv,1,random,2,0,0.9,benign"), ("row 1 (line 2)", "'benign'")
    ),
    "a record twice": Fault(
        _lines("labels.csv", _LIST_COLUMNS, *["evaluation.csv,7,random,2,0,0.9,1"] * 2),
        ("row 2 (line 3) names row 7 of evaluation", "as row 1 (line 2) does"),
    ),
    "a record that is not there": Fault(
        _lines("labels.csv", _LIST_COLUMNS, f"evaluation.csv,{ROWS + 1},random,2,0,0.9,1"), (f"has {ROWS} rows",)
    ),
    "an unknown file": Fault(
        _lines("labels.csv", _LIST_COLUMNS, "april.csv,1,random,2,0,0.9,1"), ("row 1 of april", "no --eval-file")
    ),
}


def _single_evaluation(column: str, value: float, says: str) -> Fault:
    def make(folder: Path) -> Path:
        table = good_single_evaluation().astype({column: object})
        table.loc[5, column] = value
        table.to_csv(folder / "single.csv", index=False)
        return folder / "single.csv"

    return Fault(make, ("row 6", repr(column), says))


SINGLE_EVALUATIONS: dict[str, Fault] = {
    **unreadable(".csv"),
    "not text": _binary("single.csv"),
    "of two exits": _evaluation("not an evaluation CSV of a single exit", change=lambda table: table),
    "an unknown class": _single_evaluation("y_pred", 2, "0 or 1"),
    "a certainty over 1": _single_evaluation("cnf", 1.5, "certainty between 0 and 1"),
    "a negative time": _single_evaluation("avg_time", -1, "time in seconds, 0 or more"),
}


def _capture(content: bytes, *says: str) -> Fault:
    return Fault(lambda folder: _copy(folder / "capture.pcap", content), says)


def _scaler(content: object, *says: str) -> Fault:
    return Fault(lambda folder: _copy(folder / "scaler.json", json.dumps(content).encode()), says)


PCAP_HEADER = bytes.fromhex("d4c3b2a1020004000000000000000000000004000100" + "0000")
CAPTURES: dict[str, Fault] = {
    **unreadable(".pcap"),
    "no capture": _capture(b"this is text, and no capture at all", "is not a pcap or pcapng capture"),
    "a header cut off": _capture(PCAP_HEADER[:10], "cut off in its header"),
    "of an unknown link": _capture(PCAP_HEADER[:20] + b"\x93\0\0\0" + bytes(16), "link type 147"),
    "a frame too large": _capture(PCAP_HEADER + b"\xff" * 16, "is damaged at byte 24"),
}

GOOD_SCALER = [{"feature": name, "min": 0, "range": 1} for name in FEATURES]
SCALERS: dict[str, Fault] = {
    **unreadable(".json"),
    "no JSON": Fault(lambda folder: _copy(folder / "scaler.json", b"min, range"), ("is not a scaler",)),
    "another table": _scaler({"a": 1}, "is not a scaler"),
    "a feature short": _scaler(GOOD_SCALER[1:], f"{FEATURES[0]} is missing"),
    "a feature twice": _scaler([*GOOD_SCALER, GOOD_SCALER[0]], "it holds 59 entries"),
    "a negative range": _scaler([{**GOOD_SCALER[0], "range": -1}, *GOOD_SCALER[1:]], FEATURES[0]),
    "NaN": _scaler([{**GOOD_SCALER[0], "min": float("nan")}, *GOOD_SCALER[1:]], FEATURES[0]),
    "nested too deep": Fault(lambda folder: _copy(folder / "scaler.json", b"[" * 100_000), ("is not a scaler",)),
}


def _policy(content: object, *says: str) -> Fault:
    return Fault(lambda folder: _copy(folder / "policy.json", json.dumps(content).encode()), says)


GOOD_POLICY = {
    "format": "early-exit policy",
    "version": 1,
    "thresholds": dict.fromkeys(("normal_exit_1", "attack_exit_1", "normal_exit_2", "attack_exit_2"), 0.9),
    "fingerprint": None,
    "certificate": None,
    "reference": None,
}
POLICIES: dict[str, Fault] = {
    **unreadable(".json"),
    "no JSON": Fault(lambda folder: _copy(folder / "policy.json", b"0.9"), ("is not a policy file",)),
    "a scaler": _policy(GOOD_SCALER, "is not a policy file", "certify-thresholds.py"),
    "of a later version": _policy({**GOOD_POLICY, "version": 2}, "version 2", "update the toolkit"),
    "without thresholds": _policy({**GOOD_POLICY, "thresholds": {}}, "holds a value that no policy has"),
    "a threshold over 1": _policy(
        {**GOOD_POLICY, "thresholds": {**vars(DEFAULT_THRESHOLDS), "normal_exit_1": 1.5}}, "between 0 and 1"
    ),
    "of another network": _policy({**GOOD_POLICY, "fingerprint": "5e" * 32}, "is the policy of another network"),
    "nested too deep": Fault(lambda folder: _copy(folder / "policy.json", b"[" * 100_000), ("is not a policy file",)),
}

EXPORTED: dict[str, Fault] = {
    **unreadable(".onnx"),
    "no ONNX": Fault(lambda folder: _copy(folder / "second.onnx", b"segment 2"), ("no ONNX file", "Export it again")),
}
LABELS: dict[str, Fault] = {
    **unreadable(".csv"),
    "no address": Fault(lambda folder: _copy(folder / "labels.csv", b"10.0.0.1\nhost\n"), ("line 2",)),
    "everything": Fault(lambda folder: _copy(folder / "labels.csv", b",,,\n"), ("line 1", "all traffic")),
    "binary": Fault(lambda folder: _copy(folder / "labels.csv", bytes(range(256))), ("line 1",)),
}


def _timings(content: str, *says: str) -> Fault:
    return Fault(lambda folder: _copy(folder / "timings.tsv", content.encode()), says)


TIMINGS: dict[str, Fault] = {
    **unreadable(".tsv"),
    "not text": _binary("timings.tsv"),
    "another table": _timings("network\tmilliseconds\nAlexNet\t9\n", "not a table of offload timings"),
    "a header alone": _timings("batch_size\trequest_process_time\n", "no rows"),
    "text in a number": _timings("batch_size\trequest_process_time\n1\tsoon\n", "that is no number"),
    "requests of no events": _timings("batch_size\trequest_process_time\n0\t9\n", "batch_size under 1"),
}


def _text(name: str, content: str, *says: str) -> Fault:
    return Fault(lambda folder: _copy(folder / name, content.encode()), says)


METER_LOGS: dict[str, Fault] = {
    **unreadable(".csv"),
    "not text": _binary("meter.csv"),
    "another table": _text("meter.csv", "time,power\n1,2\n", "is not a meter's log", "timestamp", "it has power, time"),
    "amperes alone": _text("meter.csv", "timestamp,amperes\n1,2\n", "is not a meter's log"),
    "text in a number": _text("meter.csv", "timestamp,watts\n1,2\n2,lots\n", "line 3", "'lots'"),
    "a power below nothing": _text("meter.csv", "timestamp,watts\n1,-2\n", "line 2", "'-2'"),
    "no time": _text("meter.csv", "timestamp,watts\nnoon,2\n", "line 2", "'noon'"),
    "a clock that is set back": _text("meter.csv", "timestamp,watts\n2,2\n1,2\n", "time does not ascend"),
}
INTERVALS: dict[str, Fault] = {
    **unreadable(".json"),
    "not text": _binary("intervals.json"),
    "no JSON": _text("intervals.json", "no", "holds no measured intervals"),
    "other JSON": _text("intervals.json", "[1]", "holds no measured intervals"),
    "nothing measured": _text(
        "intervals.json",
        '{"family": "mobilenet", "shared": "", "outcomes": {}, "intervals": []}',
        "holds no measured intervals",
    ),
}


def _saved(content: Callable[[Path], object], *says: str) -> Fault:
    """Return a file that torch writes; the content is made from the canary's path."""

    def make(folder: Path) -> Path:
        torch.save(content(folder / CANARY), folder / "bad.pth")
        return folder / "bad.pth"

    return Fault(make, says)


def _pickled(content: Callable[[Path], object], name: str, *says: str) -> Fault:
    return Fault(lambda folder: _copy(folder / name, pickle.dumps(content(folder / CANARY))), says)


def _ours(**entries: object) -> dict[str, object]:
    """Return the content of a good checkpoint of ours, with some entries changed."""
    network = "MobileNetV2WithExits"
    return {
        "format_version": 1,
        "architecture": network,
        "input_transform": {"kind": "identity"},
        "training": {},
        "state_dict": dict(good_weights(network)),
        **entries,
    }


def _weights(**changed: object) -> dict[str, object]:
    """Return a plain state dict with some weights changed, or left out where None."""
    weights = {**good_weights("MobileNetV2WithExits"), **changed}
    return {key: value for key, value in weights.items() if value is not None}


def _torch_cut_off(folder: Path) -> Path:
    torch.save(_ours(), folder / "whole.pth")
    whole = (folder / "whole.pth").read_bytes()
    (folder / "whole.pth").unlink()
    return _copy(folder / "bad.pth", whole[: len(whole) * 9 // 10])


_LAST = "exits.1.2.1.bias"
_BOMBS: dict[str, Callable[[Path], object]] = {
    "a bomb": Bomb,
    "a bomb that evaluates": Evaluated,
    "a bomb among good entries": lambda canary: _ours(training={"data": Bomb(canary)}),
    "a bomb for a weight": lambda canary: _weights(**{_LAST: Bomb(canary)}),
}
CHECKPOINTS: dict[str, Fault] = {
    **unreadable(".pth"),
    "text": Fault(lambda folder: _copy(folder / "bad.pth", b"these are no weights\n" * 40), ("train it again",)),
    "cut off": Fault(_torch_cut_off, ("truncated", "Fetch or train it again")),
    **{f"{name}, pickled": _pickled(bomb, "bad.pth", "again") for name, bomb in _BOMBS.items()},
    **{f"{name}, in torch's archive": _saved(bomb, "more than tensors", "again") for name, bomb in _BOMBS.items()},
    "of another network": _saved(lambda _: dict(good_weights("AlexNetWithExits")), "AlexNetWithExits", "mobilenet"),
    "of no network": _saved(lambda _: {"weight": torch.zeros(2)}, "none of the networks", "MobileNetV2WithExits"),
    "a list": _saved(lambda _: [torch.zeros(2)], "Name a checkpoint"),
    "without weights": _saved(lambda _: _ours(state_dict={}), "no weights"),
    "a weight short": _saved(lambda _: _weights(**{_LAST: None}), "MobileNetV2WithExits", "lacks", _LAST),
    "a weight of another shape": _saved(lambda _: _weights(**{_LAST: torch.zeros(3)}), _LAST, "(3,), not (2,)"),
    "a weight of whole numbers": _saved(lambda _: _weights(**{_LAST: torch.zeros(2, dtype=torch.int64)}), _LAST),
    "NaN in a weight": _saved(lambda _: _weights(**{_LAST: torch.tensor([0.0, float("nan")])}), _LAST, "NaN"),
    "infinity in a weight": _saved(lambda _: _ours(state_dict=_weights(**{_LAST: torch.full((2,), torch.inf)})), _LAST),
    "of a later format": _saved(lambda _: _ours(format_version=2), "format 2", "Update the toolkit"),
    "of two minds": _saved(lambda _: _ours(architecture="AlexNetWithExits"), "'AlexNetWithExits'", "MobileNetV2"),
    "of an unknown transform": _saved(lambda _: _ours(input_transform={"kind": "magic"}), "input transform"),
}  # fmt: skip
SINGLE_EXIT = {"of a single exit": _saved(lambda _: dict(good_weights("MobileNetV2")), "one exit", "two")}


def _front(*says: str, **changed: object) -> Fault:
    """Return a result file some of whose parts are wrong."""
    return _pickled(lambda _: list({**vars(good_front()), **changed}.values()), "bad.sav", *says)


def _front_cut_off(folder: Path) -> Path:
    write_front(good_front(), folder / "whole.sav")
    whole = (folder / "whole.sav").read_bytes()
    (folder / "whole.sav").unlink()
    return _copy(folder / "bad.sav", whole[: len(whole) // 2])


class _NumpyCall(Bomb):
    """Pickles to a call of a function of NumPy's that writes a file."""

    def __reduce__(self) -> tuple[object, tuple[Any, ...]]:
        return np.savetxt, (self.command.split()[1], [0.0])


FRONTS: dict[str, Fault] = {
    **unreadable(".sav"),
    "text": Fault(lambda folder: _copy(folder / "bad.sav", b"these are no arrays\n"), ()),
    "cut off": Fault(_front_cut_off, ("cut off", "write it again")),
    "a bomb": _pickled(Bomb, "bad.sav", "do not trust it"),
    "a bomb that evaluates": _pickled(Evaluated, "bad.sav", "do not trust it"),
    "a bomb of NumPy's": _pickled(_NumpyCall, "bad.sav", "do not trust it"),
    "a bomb for an array": _pickled(lambda canary: [Bomb(canary), *[0.0] * 7], "bad.sav", "do not trust it"),
    "a claim to four gigabytes": Fault(lambda folder: _copy(folder / "bad.sav", b"\x80\x04K\x01r\0\0\0\x10."), ()),
    "a list of seven": _pickled(lambda _: list(vars(good_front()).values())[:7], "bad.sav", "8 items"),
    "a table of its parts": _pickled(lambda _: vars(good_front()), "bad.sav"),
    "without points": _front("table", thresholds=np.zeros((0, 4)), objectives=np.zeros((0, 2))),
    "a threshold short": _front("table of 4 columns", thresholds=np.full((7, 3), 0.5)),
    "more thresholds than points": _front("8 sets of thresholds", thresholds=np.full((8, 4), 0.5)),
    "a threshold over 1": _front("outside [0, 1]", thresholds=np.full((7, 4), 1.5)),
    "NaN for a threshold": _front("NaN", thresholds=np.full((7, 4), np.nan)),
    "an infinite time": _front("NaN or infinity", objectives=np.full((7, 2), np.inf)),
    "an array of objects": _front("table", thresholds=np.full((7, 4), None)),
    "text for a time": _front("in the place of a time or a rate", min_time="fast"),
    "a negative time": _front("in the place of a time or a rate", max_time=-1.0),
}  # fmt: skip

_IN_WAY = b"an ordinary file"
OUTPUTS: dict[str, Fault] = {
    "below a file": Fault(
        lambda folder: _copy(folder / "file", _IN_WAY) / "deep" / "out", ("cannot be written to", "another folder")
    ),
    "a folder": Fault(lambda folder: _mkdir(folder / "out"), ("is a folder", "name the file")),
    "of too long a name": Fault(lambda folder: folder / ("x" * 300), ("cannot be written",)),
    "a device": Fault(lambda _: Path("/dev/null"), ("is a device or a pipe", "name a file")),
    "in a folder that nobody can make": Fault(lambda _: Path("/proc/nobody/out"), ("cannot be written to",)),
}  # fmt: skip


def _of_format(ending: str) -> Fault:
    named = Path(f"out{ending.removesuffix('.gz')}").suffix.lower()
    return Fault(lambda folder: folder / f"out{ending}", ("tables are written as CSV", f"not as {named}"))


TABLES: dict[str, Fault] = {
    **OUTPUTS,
    **{f"of the format {ending}": _of_format(ending) for ending in (".parquet", ".csv.xz", ".XLSX", ".json.gz")},
}
ALERTS: dict[str, Fault] = {
    "below a file": Fault(lambda folder: _copy(folder / "file", _IN_WAY) / "deep" / "out", ("cannot be written",)),
    "a folder": Fault(lambda folder: _mkdir(folder / "out"), ("Is a directory", "name the file")),
    "of too long a name": Fault(lambda folder: folder / ("x" * 300), ("cannot be written",)),
    "of something else": Fault(lambda folder: _copy(folder / "file", _IN_WAY), ("does not hold JSON lines",)),
}
OUTPUT_FOLDERS: dict[str, Fault] = {
    "a file": Fault(lambda folder: _copy(folder / "file", _IN_WAY), ("cannot be written to",)),
    "below a file": Fault(lambda folder: _copy(folder / "file", _IN_WAY) / "deep", ("cannot be written to",)),
    "of too long a name": Fault(lambda folder: folder / ("x" * 300), ("cannot be written to", "choose another folder")),
    "one that nobody can make": Fault(lambda _: Path("/proc/nobody"), ("cannot be written to",)),
}
INPUT_FOLDERS: dict[str, Fault] = {
    "missing": Fault(lambda folder: folder / "absent", ("no such folder",)),
    "a file": Fault(lambda folder: _copy(folder / "file", _IN_WAY), ("is a file, not a folder",)),
    "of too long a name": Fault(lambda folder: folder / ("x" * 300), ("no such folder",)),
    "without a month": Fault(lambda folder: _mkdir(folder / "none"), ("no dataset matches '2016_01'",)),
}


def _release(folder: Path, *, manifest: Mapping[str, object] | None = None, spoilt: str = "") -> Path:
    """Make a release whose files hold their own names only, one of which may be spoilt later."""
    release = _mkdir(folder / "release-0001")
    for name in FILES:
        (release / name).write_text(name)
    write_manifest(release, None, "MobileNetV2WithExits", "5e" * 32, [], {})
    if manifest is not None:
        content = json.loads((release / MANIFEST).read_bytes()) | manifest
        (release / MANIFEST).write_text(json.dumps(content))
    if spoilt:
        (release / spoilt).write_text("spoilt")
    return release


def _pointing_nowhere(folder: Path) -> Path:
    (folder / CURRENT).symlink_to("absent")
    return folder


def _half_written(folder: Path) -> Path:
    release = _release(folder)
    (release / MANIFEST).unlink()
    return release


RELEASES: dict[str, Fault] = {
    "missing": Fault(lambda folder: folder / "absent", ("no such folder",)),
    "a file": Fault(lambda folder: _copy(folder / "file", b"x"), ("is a file, not a folder",)),
    "half written": Fault(_half_written, (f"holds no {MANIFEST}", "half written")),
    "pointing nowhere": Fault(_pointing_nowhere, ("leads to no release", "--rollback")),
    "a wrong hash": Fault(lambda folder: _release(folder, spoilt=FILES[-1]), (FILES[-1], "copy the release again")),
    "a damaged manifest": Fault(lambda folder: _release(folder, spoilt=MANIFEST), ("is not the manifest",)),
    "of a later version": Fault(lambda folder: _release(folder, manifest={"version": 2}), ("version 2",)),
    "no network in it": Fault(_release, ("is no ONNX file",)),
}
PICTURES: dict[str, Fault] = {
    **OUTPUTS,
    "of no picture's name": Fault(lambda folder: folder / "out.exe", ("the ending must say", ".png")),
}
AUTHORITIES: dict[str, Fault] = {
    **unreadable(".pem"),
    "no certificate": Fault(lambda folder: _copy(folder / "ca.pem", _IN_WAY), ("holds no certificate in PEM form",)),
}
CERTIFICATES: dict[str, Fault] = {
    **unreadable(".pem"),
    "no certificate": Fault(lambda folder: _copy(folder / "edge.pem", _IN_WAY), ("not a certificate and its",)),
}
PASSWORDS: dict[str, Fault] = {
    **unreadable(""),
    "a blank line": Fault(lambda folder: _copy(folder / "password", b"\nsecret"), ("first line is empty",)),
    "no text": Fault(lambda folder: _copy(folder / "password", b"\xff\xfe\x00"), ("is not text",)),
}
BROKER_FILES: dict[str, Fault] = {
    **unreadable(""),
    "no TOML": Fault(lambda folder: _copy(folder / "broker.toml", b"hostname"), ("is not TOML", "write lines like")),
    "no such setting": Fault(lambda folder: _copy(folder / "broker.toml", b"host = 1"), ("'host' is not a setting",)),
}


def _of_a_folder(fault: Fault) -> Fault:
    """Return the same fault of a month of a folder that is named in the file's place."""
    return replace(fault, make=lambda folder: fault.make(folder).parent)


DATASET_FOLDERS: dict[str, Fault] = {
    **INPUT_FOLDERS,
    **{
        f"its month: {name}": _of_a_folder(fault)
        for name, fault in {**DATASETS, **UNLABELLED}.items()
        if name not in unreadable("")
    },
    "its month: empty": Fault(lambda folder: _copy(folder / "2016_01.csv", b"").parent, ("is empty",)),
}


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, hidden ones too."""
    paths = (Path(root) / name for root, _, names in os.walk(folder) for name in names)
    return {str(path): path.read_bytes() if path.exists() else b"a link to nothing" for path in paths}
