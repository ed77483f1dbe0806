"""Collect the data of the figure on energy: a model from processor time, beside the readings that the paper states."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

import models
from figs.figure_data import SINGLE, FigureData, Inputs, describe_points, get_display_name, list_missing_fronts
from figs.results_folder import SINGLE_EXIT, TWO_EXITS, read_timings
from figs.time_data import select_smallest_input
from utils.classification_metrics import divide
from utils.cost_models import MILLISECONDS, compute_event_costs
from utils.results import Evaluation, read_evaluation, read_single_exit_evaluation
from utils.schema import Thresholds

TWO_EXITS_LOCAL: Final = "two exits, local"
TWO_EXITS_OFFLOADED: Final = "two exits, offloaded"

COLUMNS: Final = ("network", "device", "system", "value", "unit", "share_of_single_exit", "source")
DERIVED: Final = "derived from processor time"
STATED: Final = "as the paper states"

PAPER_MICROAMPERE_HOURS: Final[Mapping[str, Mapping[str, float]]] = {
    "alexnet": {SINGLE: 94.3, TWO_EXITS_OFFLOADED: 0.83},
    "mobilenet": {SINGLE: 36.0, TWO_EXITS_OFFLOADED: 15.7},
}
"""Readings of the paper's authors in µAh per request, on a Raspberry Pi."""


@dataclass
class EdgeCosts:
    """The costs of a network on the edge.

    Attributes:
        seconds: system -> mean processor time of the edge per event.
        offloaded: share of offloaded events at the operating point; NaN if unknown.
        files: that were read.
        missing: descriptions of missing files, which would add more systems.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    offloaded: float = float("nan")
    files: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def find_edge_cost(evaluation: Evaluation, thresholds: Thresholds, cost_per_offload: float | None = None) -> float:
    """Return the mean seconds that an event costs the edge with two exits.

    Args:
        evaluation: has the time of each part of the network on the edge.
        thresholds: decide which events are offloaded.
        cost_per_offload: seconds to send an event; None: the edge computes exit 2 itself.
    """
    at_1 = evaluation.decide(thresholds).at_1
    model = "full" if cost_per_offload is None else "edge"
    return float(np.where(at_1, *compute_event_costs(evaluation, model, cost_per_offload)).mean())


def find_sending_cost(timings: pd.DataFrame, network: str) -> float | None:
    """Return the seconds of processor time that the edge spends to send an event in the smallest requests.

    Args:
        timings: columns ``results_folder.TIMING_COLUMNS``.
        network: its family.

    Returns:
        the mean over the data centres; None if the network was not measured.
    """
    rows = select_smallest_input(timings[timings["network"] == network])
    rows = rows[rows["batch_size"] == rows["batch_size"].min()]
    return None if rows.empty else MILLISECONDS * float((rows["request_process_time"] / rows["batch_size"]).mean())


def collect_energy(inputs: Inputs) -> FigureData:
    """Return what an event costs the edge, as processor time or as modelled energy, beside the paper's readings.

    Returns:
        columns ``COLUMNS``; the rows whose source is ``DERIVED`` are a model.
    """
    device = inputs.results.main_device
    found = {network: _find_edge_costs(inputs, network, device) for network in models.FAMILIES}
    watts, unit = inputs.watts, "ms of processor time an event"
    if watts is not None:
        unit = f"mJ an event at {watts:g} W"
    rows = []
    for network, costs in found.items():
        for system, seconds in costs.seconds.items():
            value = seconds / MILLISECONDS * (1.0 if watts is None else watts)
            share = divide(seconds, costs.seconds.get(SINGLE, 0.0))
            rows.append((network, device, system, value, unit, share, DERIVED))
    for network, readings in PAPER_MICROAMPERE_HOURS.items():
        for system, value in readings.items() if found[network].seconds else ():
            share = divide(value, readings[SINGLE])
            rows.append((network, "Raspberry Pi", system, value, "µAh a request", share, STATED))
    return FigureData(
        pd.DataFrame(rows, columns=list(COLUMNS)),
        _describe(inputs, found),
        [path for costs in found.values() for path in costs.files],
        [*list_missing_fronts(inputs), *(text for costs in found.values() for text in costs.missing)],
    )


def _describe(inputs: Inputs, found: Mapping[str, EdgeCosts]) -> str:
    shares = ", ".join(
        f"{get_display_name(network)} {100 * costs.offloaded:.1f} %"
        for network, costs in found.items()
        if not np.isnan(costs.offloaded)
    )
    if inputs.watts is None:
        model = "processor time stands for energy, no power is assumed"
    else:
        model = f"processor time times an assumed {inputs.watts:g} W"
    return (
        f"What an event costs the edge ({inputs.results.main_device}) at the single exit, and with two exits at the "
        f"operating point ({describe_points(inputs)}, offloaded here {shares or 'unknown'}), with exit 2 computed "
        "there or asked of the cloud in the smallest requests measured: a model and no reading "
        f"({model}, without what the network adapter takes), beside what the paper's authors read from their meter"
    )


def _find_edge_costs(inputs: Inputs, network: str, device: str | None) -> EdgeCosts:
    results, name = inputs.results, get_display_name(network)
    found = EdgeCosts()
    single = [file.path for file in results.list_files(SINGLE_EXIT, network, device)]
    if single:
        times = [read_single_exit_evaluation(path).time for path in single]
        found.seconds[SINGLE] = float(np.concatenate(times).mean())
        found.files += single
    else:
        found.missing.append(f"evaluations of the single exit of {name} on {device}")
    two = [file.path for file in results.list_files(TWO_EXITS, network, device)]
    point = inputs.operating_points.get(network)
    if not two:
        found.missing.append(f"evaluations of two exits of {name} on {device}")
    elif point is not None:
        evaluation = read_evaluation(two)
        found.offloaded = evaluation.decide(point.thresholds).count().offloaded_share
        found.seconds[TWO_EXITS_LOCAL] = find_edge_cost(evaluation, point.thresholds)
        found.files += [point.path, *two]
        timings = results.timings.get(device or "")
        sending = None if timings is None else find_sending_cost(read_timings(timings), network)
        if timings is None or sending is None:
            found.missing.append(f"offload timings of {name} on {device}")
        else:
            found.seconds[TWO_EXITS_OFFLOADED] = find_edge_cost(evaluation, point.thresholds, sending)
            found.files.append(timings)
    return found
