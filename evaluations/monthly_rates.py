"""Compute the rates of the systems' decisions, for each month and over all months."""

from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evaluations.later_months import BOUND, EXIT_1, EXIT_2, SINGLE_EXIT, SYSTEM, Costs, Decided
from utils.classification_metrics import divide
from utils.decision import Decisions
from utils.schema import ATTACK

PREVALENCES: Final = (0.1, 0.01, 0.001)
KEYS: Final = ("month", "subset", "system", "network")
AREA_RATES: Final = ("accuracy", "f1", "error")
"""Rates whose area under time is computed."""

Record = dict[str, object]
"""A row of a table: the ``KEYS`` and rates."""

MEAN: Final = "mean"
AREA: Final = "AUT"
"""Values of the column ``month`` for all later months together."""


def compute_precision(detected: float, false_alarms: float, prevalence: float) -> float:
    """Return the share of alarms that are attacks, if a share ``prevalence`` of all events are attacks.

    Args:
        detected: attacks that raise an alarm / all attacks.
        false_alarms: normal events that raise an alarm / all normal events.
        prevalence: within [0, 1].
    """
    right, wrong = detected * prevalence, false_alarms * (1.0 - prevalence)
    return divide(right, right + wrong)


def make_area_weights(months: int) -> NDArray[np.float64]:
    """Return the weights (months,) of a rate's monthly values in its area under time (AUT).

    The area is the trapezoidal mean over evenly spaced months in order of time; for one month, it is the rate itself.

    Source: Pendlebury et al., "TESSERACT: eliminating experimental bias in malware classification across space and
    time", USENIX Security 2019.
    """
    weights = np.ones(months)
    if months > 1:
        weights[[0, -1]] = 0.5
    scaled: NDArray[np.float64] = weights / weights.sum()
    return scaled


def compute_rates(decided: Decisions, best: Decisions) -> dict[str, float]:
    """Return the rates of a system's decisions about N events.

    Error, accuracy and F1 refer to accepted events. The detection rate is a share of all attacks and the false alarm
    rate a share of all normal events, because a rejected event raises no alarm; the precisions follow from these two.

    Args:
        decided: by the system.
        best: by exact match, about the same events; their accuracy on the events that the system accepts is the bound.
    """
    counts = decided.count()
    attacks = int((decided.labels == ATTACK).sum())
    detected = divide(counts.caught, attacks)
    false_alarms = divide(counts.alarms - counts.caught, counts.rows - attacks)
    accepted = decided.at_1 | decided.at_2
    bound = divide(int((accepted & (best.predictions == best.labels)).sum()), counts.accepted)
    return {
        "rows": counts.rows,
        "acceptance": counts.acceptance,
        "accuracy": counts.accuracy,
        "error": counts.error,
        "f1": counts.f1,
        "bound": bound,
        "share_of_bound": divide(counts.accuracy, bound),
        "detection_rate": detected,
        "false_alarm_rate": false_alarms,
        **{f"precision_at_{share:g}": compute_precision(detected, false_alarms, share) for share in PREVALENCES},
    }


def compute_costs(system: str, offloaded: float, costs: Costs) -> dict[str, float]:
    """Return the mean cost of an event in µs and as a share of the reference; empty for systems without a network.

    Args:
        system: name of the system.
        offloaded: share of the events that the two exits offload.
        costs: of the network.
    """
    plain = system.partition(" + ")[0]
    known = {
        SYSTEM: costs.exit_1 + offloaded * (costs.offloaded - costs.exit_1),
        EXIT_1: costs.exit_1,
        EXIT_2: costs.exit_2,
        SINGLE_EXIT: costs.reference,
    }
    if plain not in known:
        return {}
    return {"cost": 1e6 * known[plain], "cost_share": divide(known[plain], costs.reference)}


def list_rates(month: str, network: int, decided: Decided, costs: Costs) -> list[Record]:
    """Return a record for each subset of a month and each system: ``KEYS`` and rates.

    Args:
        month: name of the month.
        network: number of the network, from 1.
        decided: decisions of all systems.
        costs: of the network.
    """
    records: list[Record] = []
    for subset, by_system in decided.items():
        for system, of_system in by_system.items():
            found = compute_rates(of_system, by_system[BOUND])
            offloaded = of_system.count().offloaded_share
            if system == SYSTEM:
                found["offloaded"] = offloaded
            keys = zip(KEYS, (month, subset, system, network), strict=True)
            records.append({**dict(keys), **found, **compute_costs(system, offloaded, costs)})
    return records


def average_months(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over the months and the area under time for each subset, system and network.

    Args:
        table: records of ``list_rates`` of the later months, in order of time.

    Returns:
        the same columns; ``month`` is ``MEAN`` or ``AREA``.
    """
    names = [str(name) for name in table.columns if name not in KEYS]
    parts = []
    for keys, rows in table.groupby(list(KEYS[1:]), sort=False):
        common = dict(zip(KEYS[1:], keys, strict=True))
        mean = {name: float(rows[name].mean(skipna=False)) for name in names}
        area = {name: float(rows[name].to_numpy() @ make_area_weights(len(rows))) for name in AREA_RATES}
        parts += [{"month": MEAN, **common, **mean}, {"month": AREA, **common, **area}]
    return pd.DataFrame(parts, columns=list(table.columns))


def to_long_form(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each month, subset, system and metric: its mean over the networks, and each network's value.

    Args:
        table: a row for each month, subset, system and network.

    Returns:
        columns month, subset, system, metric, mean, network_1, …; rows without any known value are left out.
    """
    index = list(KEYS[:3])
    long = table.melt(id_vars=list(KEYS), var_name="metric")
    wide = long.pivot_table(index=[*index, "metric"], columns="network", values="value", sort=False)
    wide.columns = [f"network_{number}" for number in wide.columns]
    wide.insert(0, "mean", wide.mean(axis=1, skipna=False))
    return wide.reset_index()


def find_rate(table: pd.DataFrame, month: str, subset: str, system: str, rate: str) -> float:
    """Return the mean of one rate over the networks; NaN if it is unknown."""
    chosen = (table["month"] == month) & (table["subset"] == subset) & (table["system"] == system)
    values: NDArray[np.float64] = table.loc[chosen, rate].to_numpy(np.float64) if rate in table else np.empty(0)
    return float(values.mean()) if len(values) else float("nan")
