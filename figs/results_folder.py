"""The layout and contents of a folder of results.

=============================================================  =======================================================
file                                                           what it holds
=============================================================  =======================================================
``evaluations/{network}_{device}_{YYYY_MM}.csv``               evaluation of two exits, calibrated
``evaluations/{network}_single_{device}_{YYYY_MM}.csv``        evaluation of the single exit
``evaluations/{network}_uncalibrated_{device}_{YYYY_MM}.csv``  evaluation of two exits before calibration
``evaluations/{device}_offload_timings.tsv``                   times of requests, a row for each kind of request
``nsga2/{network}_x_f_*.sav``                                  front of thresholds; of several, the last by name
``about.json``                                                 origin of the data; see ``figs.provenance``
``networks/``                                                  checkpoints, which no figure reads
=============================================================  =======================================================

``network`` is a family of ``models``; ``device`` is any word of letters, digits and hyphens. Every file is optional.
The published data have this layout, without ``about.json`` and the uncalibrated evaluations.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

import models
from figs.provenance import MONTH, Provenance, read_provenance
from utils.csv_tables import read_csv
from utils.errors import InputFileError, ResultFileError
from utils.files import check_folder

EVALUATIONS: Final = "evaluations"
FRONTS: Final = "nsga2"

TWO_EXITS: Final = ""
SINGLE_EXIT: Final = "single"
UNCALIBRATED: Final = "uncalibrated"
"""Kinds of evaluation: the word that follows the network in a file's name."""

TRAINING_MONTH: Final = "2016_01"
CALIBRATION_MONTH: Final = "2016_02"
"""Months that the published networks, and those of ``make-results.py``, are trained and calibrated on.

They are also assumed for a folder without ``about.json``.
"""

TIMING_TEXTS: Final = ("network", "datacenter")
TIMING_NUMBERS: Final = (
    "input_size", "batch_size", "e1_local_time", "e1_process_time", "e2_local_time", "e2_process_time",
    "request_local_time", "request_process_time", "e2_remote_time", "network_time", "data_size",
)  # fmt: skip
TIMING_COLUMNS: Final = (*TIMING_TEXTS, *TIMING_NUMBERS)
"""Columns of a table of offload timings.

``batch_size`` is the number of events in a request, ``data_size`` is the number of bytes sent for it, and the times are
milliseconds per request. ``local`` means elapsed time on the edge, ``process`` means processor time of the edge. ``e1``
and ``e2`` are exits computed on the edge, ``request`` is exit 2 requested from the cloud. ``e2_remote_time`` is the
worker's time, and ``network_time`` is the rest of ``request_local_time``.
"""

_DEVICE: Final = rf"(?!{SINGLE_EXIT}_|{UNCALIBRATED}_)[A-Za-z0-9-]+"
_EVALUATION: Final = re.compile(
    rf"(?P<network>{'|'.join(models.FAMILIES)})_(?:(?P<kind>{SINGLE_EXIT}|{UNCALIBRATED})_)?"
    rf"(?P<device>{_DEVICE})_(?P<month>{MONTH.pattern})\.csv"
)
_TIMINGS: Final = re.compile(r"(?P<device>[A-Za-z0-9-]+)_offload_timings\.tsv")


@dataclass(frozen=True)
class EvaluationFile:
    """One evaluation CSV, and what its name states about it."""

    kind: str
    network: str
    device: str
    month: str
    path: Path


@dataclass(frozen=True)
class ResultsFolder:
    """The contents of a folder of results.

    Attributes:
        folder: the folder.
        provenance: origin of the data; None if the folder has no ``about.json``.
        evaluations: sorted by network, month and device.
        timings: device -> table of offload timings.
        fronts: network -> result file of its front.
        ignored: files in the two sub-folders whose names do not fit the layout.
    """

    folder: Path
    provenance: Provenance | None
    evaluations: tuple[EvaluationFile, ...]
    timings: dict[str, Path]
    fronts: dict[str, Path]
    ignored: tuple[Path, ...]

    @property
    def networks(self) -> list[str]:
        """The networks with an evaluation or a front, in the order of ``models.FAMILIES``."""
        found = {file.network for file in self.evaluations} | set(self.fronts)
        return [name for name in models.FAMILIES if name in found]

    @property
    def main_device(self) -> str | None:
        """The device with the most evaluations; in a tie, the first by name.

        The figures by month prefer its evaluations. A network gives the same answers on every device, except for
        rounding.
        """
        counts = Counter(file.device for file in self.evaluations)
        return min(counts, key=lambda device: (-counts[device], device), default=None)

    def list_files(self, kind: str, network: str, device: str | None = None) -> list[EvaluationFile]:
        """Return the evaluations of a kind and network in order of time; without ``device``, those of all devices."""
        return [
            file
            for file in self.evaluations
            if (file.kind, file.network) == (kind, network) and device in {None, file.device}
        ]

    def list_by_month(self, kind: str, network: str) -> list[EvaluationFile]:
        """Return one evaluation for each month that has one, from the main device if possible."""
        files = sorted(self.list_files(kind, network), key=lambda file: file.device != self.main_device)
        first = {file.month: file for file in reversed(files)}
        return [first[month] for month in sorted(first)]

    def list_devices(self, network: str) -> list[str]:
        """Return the devices on which a network was evaluated with two calibrated exits or with a single exit."""
        return sorted({f.device for kind in (TWO_EXITS, SINGLE_EXIT) for f in self.list_files(kind, network)})


def name_evaluation(kind: str, network: str, device: str, month: str) -> str:
    """Return the name of an evaluation CSV."""
    return "_".join(part for part in (network, kind, device, month) if part) + ".csv"


def name_timings(device: str) -> str:
    """Return the name of a table of offload timings."""
    return f"{device}_offload_timings.tsv"


def is_device(word: str) -> bool:
    """Return whether a word can name a device."""
    return re.fullmatch(_DEVICE, word) is not None and word not in {SINGLE_EXIT, UNCALIBRATED}


def find_results(folder: Path) -> ResultsFolder:
    """Return the contents of a folder of results, without reading the results.

    Raises:
        InputFileError: the folder is missing, or has neither of the two sub-folders, or its ``about.json`` is damaged.
    """
    check_folder(folder)
    if not any((folder / name).is_dir() for name in (EVALUATIONS, FRONTS)):
        raise InputFileError(
            f"{folder}: holds neither {EVALUATIONS}/ nor {FRONTS}/; make such a folder with figs/make-results.py"
        )
    evaluations, timings, fronts, ignored = [], {}, {}, []
    for path in _list_folder(folder / EVALUATIONS):
        if (name := _EVALUATION.fullmatch(path.name)) is not None:
            kind = name["kind"] or TWO_EXITS
            evaluations.append(EvaluationFile(kind, name["network"], name["device"], name["month"], path))
        elif (name := _TIMINGS.fullmatch(path.name)) is not None:
            timings[name["device"]] = path
        else:
            ignored.append(path)
    for path in _list_folder(folder / FRONTS):
        network = path.name.partition("_x_f_")[0]
        if network in models.FAMILIES and path.suffix == ".sav":
            fronts[network] = path
        else:
            ignored.append(path)
    evaluations.sort(key=lambda file: (models.FAMILIES.index(file.network), file.month, file.device))
    return ResultsFolder(folder, read_provenance(folder), tuple(evaluations), timings, fronts, tuple(ignored))


def _list_folder(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def read_timings(path: Path) -> pd.DataFrame:
    """Read a table of offload timings: columns ``TIMING_COLUMNS``, the network's name in lower case.

    Raises:
        ResultFileError: the file is missing, is no such table, or holds a number out of range.
    """
    kind = "a table of offload timings"
    table = read_csv(path, ResultFileError, TIMING_COLUMNS, kind, "name another file", "\t")
    table = table[list(TIMING_COLUMNS)].copy()
    for name in TIMING_NUMBERS:
        table[name] = pd.to_numeric(table[name], errors="coerce")
        if not (np.isfinite(table[name]) & (table[name] >= 0)).all():
            raise ResultFileError(f"{path}: column {name!r} holds a cell that is not a number of at least 0")
    if not (table["batch_size"] >= 1).all():
        raise ResultFileError(f"{path}: column 'batch_size' holds a request of no events")
    for name in TIMING_TEXTS:
        table[name] = table[name].astype(str)
    table["network"] = table["network"].str.lower()
    return table


def format_sources(paths: Iterable[Path], folder: Path) -> str:
    """Return the names of files in a folder; files that differ only in the month become one: ``x_2016_{02,03}.csv``."""
    months: dict[str, list[str]] = {}
    for path in paths:
        name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name
        found = re.search(rf"{MONTH.pattern}(?=\.csv$)", name)
        stem = name if found is None else f"{name[: found.start() + 5]}*{name[found.end() :]}"
        months.setdefault(stem, []).append("" if found is None else found[0][5:])
    return ", ".join(
        stem.replace("*", _format_ranges(found)) if "*" in stem else stem for stem, found in months.items()
    )


def format_months(months: Iterable[str]) -> str:
    """Return months (YYYY_MM) in short: ``2016_{01,04..12}``; several years are separated by commas."""
    years: dict[str, list[str]] = {}
    for month in sorted(set(months)):
        years.setdefault(month[:4], []).append(month[5:])
    return ", ".join(f"{year}_{_format_ranges(numbers)}" for year, numbers in years.items())


def _format_ranges(numbers: Iterable[str]) -> str:
    runs: list[list[str]] = []
    for number in sorted(set(numbers)):
        if runs and int(number) == int(runs[-1][-1]) + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [word for run in runs for word in ([f"{run[0]}..{run[-1]}"] if len(run) > 2 else run)]
    return words[0] if len(words) == 1 and len(runs[0]) == 1 else f"{{{','.join(words)}}}"
