"""Show how policies decided a year: a table with every month, a summary, and a picture."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import t

from evaluations.defaults import POLICIES, RECERTIFIED
from evaluations.monthly_rates import make_area_weights
from evaluations.policies import MonthResult
from utils.plotting import new_figure

COLOURS: Final = dict(zip(POLICIES, ("#666666", "#E69F00", "#009E73", "#0072B2"), strict=True))
_MARKERS: Final = dict(zip(POLICIES, "osD^", strict=True))
_CONFIDENCE: Final = 0.95


def build_policy_table(results: Sequence[MonthResult]) -> pd.DataFrame:
    """Return a row for each network, policy and month; accepted, error and offloaded are shares, alarm is 0 or 1."""
    return pd.DataFrame(
        {
            "network": result.network,
            "seed": result.seed,
            "policy": result.policy,
            "month": result.month,
            "accepted": result.counts.acceptance,
            "error": result.counts.error,
            "offloaded": result.counts.offloaded_share,
            "labels": result.labels,
            "alarm": int(result.until_alarm > 0),
        }
        for result in results
    )


def summarise(results: Sequence[MonthResult]) -> pd.DataFrame:
    """Return a row for each kind of network and policy, with means over the months and the seeds.

    Columns: network, policy, seeds, accepted %, error %, ± (half of the 95 % interval of the error over the seeds, NaN
    for one seed), worst % (the month with the highest mean over the seeds), offloaded %, AUT of F1 (area under time,
    see ``monthly_rates.make_area_weights``), labels and alarms of a seed.
    """
    table = build_policy_table(results)
    table["f1"] = [result.counts.f1 for result in results]
    rows = []
    for (network, policy), group in table.groupby(["network", "policy"], sort=False):
        of_seed = group.groupby("seed", sort=False)
        errors = of_seed["error"].mean().to_numpy(np.float64)
        areas = [float(rows["f1"].to_numpy() @ make_area_weights(len(rows))) for _, rows in of_seed]
        rows.append(
            {
                "network": network,
                "policy": policy,
                "seeds": len(errors),
                "accepted %": 100 * group["accepted"].mean(),
                "error %": 100 * errors.mean(),
                "±": 100 * _find_half_interval(errors),
                "worst %": 100 * group.groupby("month")["error"].mean().max(),
                "offloaded %": 100 * group["offloaded"].mean(),
                "AUT of F1": float(np.mean(areas)),
                "labels": group["labels"].sum() / len(errors),
                "alarms": group["alarm"].sum() / len(errors),
            }
        )
    return pd.DataFrame(rows)


def _find_half_interval(values: NDArray[np.float64]) -> float:
    """Return half of the width of the interval of the mean by Student's t; NaN for one value."""
    if len(values) < 2:
        return float("nan")
    return float(t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def list_certificates(results: Sequence[MonthResult], limit: float) -> list[str]:
    """Return a sentence about each month that ``recertified`` decided: whether its certificate held, else why not."""
    said = []
    for result in results:
        if result.policy != RECERTIFIED:
            continue
        found = f"{100 * result.counts.error:.1f} % of {100 * result.counts.acceptance:.0f} % accepted events are wrong"
        if not result.is_certified:
            outcome = "not certified, the thresholds before are kept"
        elif result.counts.error <= limit:
            outcome = "the certificate holds"
        else:
            outcome = f"the certificate does not hold; largest change of labels: {result.change}"
        said.append(f"{result.network} {result.seed}, {result.month}: {found}; {outcome}")
    return said


def draw_policies(results: Sequence[MonthResult]) -> Figure:
    """Draw error and acceptance by month, for each policy and kind of network: means, with a band over the seeds."""
    table = build_policy_table(results)
    networks = list(dict.fromkeys(table["network"]))
    months = list(dict.fromkeys(table["month"]))
    figure, axes = new_figure(columns=2 * len(networks), width=4.4, height=3.6)
    shown = [(network, rate) for network in networks for rate in ("error", "accepted")]
    for ax, (network, rate) in zip(axes, shown, strict=True):
        for policy, group in table[table["network"] == network].groupby("policy", sort=False):
            name = str(policy)
            values = 100 * group.pivot_table(index="month", columns="seed", values=rate).reindex(months)
            ax.plot(months, values.mean(axis=1), color=COLOURS[name], marker=_MARKERS[name], label=name)
            ax.fill_between(
                months, values.min(axis=1), values.max(axis=1), color=COLOURS[name], alpha=0.15, linewidth=0
            )
        kind = "error of accepted events, %" if rate == "error" else "accepted events, %"
        ax.set(title=network, ylabel=kind, ylim=(0, None if rate == "error" else 100))
        ax.tick_params(axis="x", rotation=45)
        ax.grid(axis="y", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure
