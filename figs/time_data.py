"""Collect the data of the figures on time: inference rates, and the time of exit 2 on the edge and offloaded."""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import models
from figs.figure_data import SINGLE, FigureData, Inputs, get_display_name
from figs.offload_timing import LOOPBACK
from figs.results_folder import SINGLE_EXIT, TWO_EXITS, read_timings
from utils.classification_metrics import divide
from utils.cost_models import compute_event_costs
from utils.results import read_evaluation, read_single_exit_evaluation

EXIT_1: Final = "exit 1"
EXIT_2: Final = "exit 2"
LOCAL: Final = "local"
OFFLOADED: Final = "offloaded"

RATE_COLUMNS: Final = ("network", "device", "path", "events", "seconds_per_event", "events_per_second")
OFFLOAD_COLUMNS: Final = (
    "device", "network", "exit_2", "datacenter", "batch_size", "wall_milliseconds", "processor_milliseconds",
)  # fmt: skip


def collect_inference_rates(inputs: Inputs) -> FigureData:
    """Return how many events per second each path through a network decides; columns ``RATE_COLUMNS``."""
    rows, files, missing = [], [], []
    for network in models.FAMILIES:
        for device in inputs.results.list_devices(network):
            times, used = _read_path_times(inputs, network, device)
            files += used
            for path, seconds in times.items():
                mean = float(seconds.mean())
                rows.append((network, device, path, len(seconds), mean, divide(1.0, mean)))
            if SINGLE not in times:
                missing.append(f"evaluations of the single exit of {get_display_name(network)} on {device}")
        if not inputs.results.list_devices(network):
            missing.append(f"evaluations of {get_display_name(network)}")
    return FigureData(
        pd.DataFrame(rows, columns=list(RATE_COLUMNS)),
        "Events a second that each path takes, one over the mean time an event of the evaluations (processor time, "
        "unless they were made with another clock): the single exit, segment 1 and exit 1, and segments 1 and 2 and "
        "exit 2 (without exit 1, as published)",
        files,
        missing,
    )


def _read_path_times(inputs: Inputs, network: str, device: str) -> tuple[dict[str, NDArray[np.float64]], list[Path]]:
    """Return path -> seconds of each event (N,), and the files that were read."""
    single = [file.path for file in inputs.results.list_files(SINGLE_EXIT, network, device)]
    two = [file.path for file in inputs.results.list_files(TWO_EXITS, network, device)]
    times: dict[str, NDArray[np.float64]] = {}
    if single:
        times[SINGLE] = np.concatenate([read_single_exit_evaluation(path).time for path in single])
    if two:
        times[EXIT_1], times[EXIT_2] = compute_event_costs(read_evaluation(two))
    return times, [*single, *two]


def select_smallest_input(timings: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the smallest input that was measured: the 8x8 image that the networks read."""
    own: pd.DataFrame = timings[timings["input_size"] == timings["input_size"].min()]
    return own


def average_offload_times(timings: pd.DataFrame) -> pd.DataFrame:
    """Return the mean time of exit 2 for a request: computed on the edge, and offloaded to each data centre.

    Args:
        timings: columns ``results_folder.TIMING_COLUMNS``.

    Returns:
        columns ``OFFLOAD_COLUMNS`` without the device.
    """
    place = ["network", "batch_size"]
    local = timings.groupby(place, as_index=False)[["e2_local_time", "e2_process_time"]].mean()
    local = local.assign(exit_2=LOCAL, datacenter="")
    asked = timings.groupby([*place, "datacenter"], as_index=False)[["request_local_time", "request_process_time"]]
    names = OFFLOAD_COLUMNS[5:]
    tables = [
        table.rename(columns=dict(zip((f"{work}_local_time", f"{work}_process_time"), names, strict=True)))
        for work, table in (("e2", local), ("request", asked.mean().assign(exit_2=OFFLOADED)))
    ]
    return pd.concat(tables, ignore_index=True)[list(OFFLOAD_COLUMNS[1:])]


def collect_offload_times(inputs: Inputs) -> FigureData:
    """Return the elapsed and processor time of exit 2, local and offloaded; columns ``OFFLOAD_COLUMNS``."""
    tables = []
    for device, path in inputs.results.timings.items():
        timings = select_smallest_input(read_timings(path))
        tables.append(average_offload_times(timings[timings["network"].isin(models.FAMILIES)]).assign(device=device))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(OFFLOAD_COLUMNS))
    missing = [f"timings of {get_display_name(name)}" for name in models.FAMILIES if name not in set(table["network"])]
    near = (
        f"; {LOOPBACK} is a worker on the same machine, without a network"
        if LOOPBACK in set(table["datacenter"])
        else ""
    )
    return FigureData(
        table[list(OFFLOAD_COLUMNS)],
        "Time that passes on the edge, and time of its processor (all cores together), for one request about so many "
        f"events: exit 2 computed there, or asked of a cloud worker{near}",
        list(inputs.results.timings.values()),
        missing,
    )
