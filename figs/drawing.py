"""Draw the data of each figure; a system has the same colour in all of them."""

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figs.certainty_data import BEFORE, CALIBRATED
from figs.energy_data import DERIVED, STATED, TWO_EXITS_LOCAL, TWO_EXITS_OFFLOADED
from figs.figure_data import SINGLE, get_display_name
from figs.monthly_data import AT_POINT
from figs.time_data import EXIT_1, EXIT_2, LOCAL, OFFLOADED
from utils.plotting import new_figure, use_log_scale

# Mostly Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS: Final = {
    SINGLE: "#595959",
    EXIT_1: "#0072B2",
    EXIT_2: "#D55E00",
    LOCAL: "#D55E00",
    TWO_EXITS_LOCAL: "#D55E00",
    OFFLOADED: "#009E73",
    TWO_EXITS_OFFLOADED: "#009E73",
    AT_POINT: "#CC79A7",
    "rejected": "#E69F00",
    "true positive rate": "#56B4E9",
    "true negative rate": "#8B5E3C",
    "error": "#222222",
    "guide": "#B0B0B0",
}
_MOST_ON_LINEAR_AXIS: Final = 8
_PATHS: Final = {SINGLE: "single exit", EXIT_1: "segment 1, exit 1", EXIT_2: "segments 1 and 2, exit 2"}


def draw_single_exit_by_month(table: pd.DataFrame) -> Figure:
    """Draw rates and error of the single exits, with one axes for each network."""
    figure, axes, parts = _make_axes(table)
    for ax, part in zip(axes, parts, strict=True):
        for name, label, style in (
            ("true_positive_rate", "true positive rate", "o-"),
            ("true_negative_rate", "true negative rate", "s--"),
            ("error", "error", "^:"),
        ):
            ax.plot(_count_months(part), 100 * part[name], style, color=COLOURS[label], label=label)
        _label_months(ax, table["month"])
        ax.set(ylabel="%", ylim=(0, 102))
    return _add_legend(figure, axes)


def draw_operating_point_by_month(table: pd.DataFrame) -> Figure:
    """Draw accuracy and F1 of two exits and the single exit, with one axes for each network."""
    figure, axes, parts = _make_axes(table)
    rates = 100 * table[["accuracy", "f1"]].to_numpy()
    rates = rates[np.isfinite(rates)]
    for ax, part in zip(axes, parts, strict=True):
        for system, rows in part.groupby("system", sort=False):
            for name, label, style in (("accuracy", "accuracy", "o-"), ("f1", "F1", "s--")):
                shown = f"{label}, {system}"
                ax.plot(
                    _count_months(rows), 100 * rows[name], style, color=COLOURS[str(system)], label=shown, alpha=0.9
                )
        _label_months(ax, table["month"])
        ax.set(ylabel="%", ylim=(rates.min(initial=100) - 1, min(rates.max(initial=0) + 1, 100.5)))
    return _add_legend(figure, axes)


def draw_rejection_by_month(table: pd.DataFrame) -> Figure:
    """Draw the offloaded and rejected shares, with one axes for each network."""
    figure, axes, parts = _make_axes(table)
    highest = 100 * float(table[["offloaded_share", "rejected_share"]].to_numpy().max())
    for ax, part in zip(axes, parts, strict=True):
        for name, label, style in (
            ("offloaded_share", OFFLOADED, "o-"),
            ("rejected_share", "rejected", "s--"),
        ):
            ax.plot(_count_months(part), 100 * part[name], style, color=COLOURS[label], label=label)
        _label_months(ax, table["month"])
        ax.set(ylabel="% of all events", ylim=(-0.03 * highest, max(1.08 * highest, 1)))
    return _add_legend(figure, axes)


def draw_inference_rate(table: pd.DataFrame) -> Figure:
    """Draw events per second, with a group of bars for each device, and one axes for each network."""
    figure, axes, parts = _make_axes(table)
    slowest, fastest = (float(table["events_per_second"].agg(name)) for name in ("min", "max"))
    for ax, part in zip(axes, parts, strict=True):
        devices = list(dict.fromkeys(part["device"]))
        paths = [path for path in (SINGLE, EXIT_1, EXIT_2) if path in set(table["path"])]
        for place, path in enumerate(paths):
            rows = part[part["path"] == path]
            at = [
                devices.index(device) + (place - (len(paths) - 1) / 2) / (len(paths) + 0.5) for device in rows["device"]
            ]
            bars = ax.bar(
                at, rows["events_per_second"], 1 / (len(paths) + 0.6), color=COLOURS[path], label=_PATHS[path]
            )
            ax.bar_label(bars, labels=[_format_number(value) for value in rows["events_per_second"]], fontsize=8)
        ax.set_xticks(range(len(devices)), devices)
        ax.set(ylabel="events a second", xlim=(-0.6, len(devices) - 0.4))
        if fastest > _MOST_ON_LINEAR_AXIS * slowest:
            use_log_scale(ax.yaxis)
            ax.set_ylim(10 ** np.floor(np.log10(0.9 * slowest)), 2 * fastest)
        else:
            ax.margins(y=0.1)
    return _add_legend(figure, axes)


def draw_reliability(table: pd.DataFrame) -> Figure:
    """Draw accuracy and share of events by certainty, with and without calibration, with one axes for each exit."""
    places = [(network, number) for network in dict.fromkeys(table["network"]) for number in (1, 2)]
    figure, axes = new_figure(len(places), width=3.4, height=4.2)
    for ax, (network, number) in zip(axes, places, strict=True):
        part = table[(table["network"] == network) & (table["exit"] == number)]
        ax.plot([0, 1], [0, 1], color=COLOURS["guide"], linestyle=":", label="perfect calibration")
        _draw_exit_reliability(ax, part, COLOURS[EXIT_1 if number == 1 else EXIT_2], f"exit {number}")
        ax.set_title(f"{get_display_name(network)}, exit {number}, {_format_month(part['month'].iloc[0])}", fontsize=10)
        ax.set(
            xlabel="certainty", ylabel="accuracy, share of events", xlim=(table["least"].min(), 1.01), ylim=(0, 1.19)
        )
        ax.set_yticks(np.linspace(0, 1, 6))
    return _add_legend(figure, axes)


def _draw_exit_reliability(ax: Axes, part: pd.DataFrame, colour: str, name: str) -> None:
    texts = []
    # Where both lines coincide, the larger markers stay visible around the smaller ones.
    for certainties, style, size, filling in ((BEFORE, "s--", 8, "white"), (CALIBRATED, "o-", 5, colour)):
        rows = part[part["certainties"] == certainties]
        if rows.empty:
            continue
        label = f"{name}, {certainties}"
        ax.plot(
            rows["mean_certainty"], rows["accuracy"], style, color=colour, markerfacecolor=filling, markersize=size,
            label=label,
        )  # fmt: skip
        texts.append(f"ECE {rows['ece'].iloc[0]:.4f} {certainties}")
        if certainties == CALIBRATED:
            share = rows["events"] / rows["events"].sum()
            ax.bar(
                rows["least"], share, rows["most"] - rows["least"], align="edge", color=COLOURS["guide"], alpha=0.5,
                label=f"share of events, {certainties}",
            )  # fmt: skip
    ax.text(0.03, 0.98, "\n".join(texts), ha="left", va="top", transform=ax.transAxes, fontsize=9)


def draw_pareto_front(table: pd.DataFrame) -> Figure:
    """Draw error against normalised time, with the operating point, and one axes for each network."""
    figure, axes, parts = _make_axes(table)
    for ax, part in zip(axes, parts, strict=True):
        ax.plot(
            part["time"], 100 * part["error"], "o-", color=COLOURS["error"], markersize=3, linewidth=1,
            label="Pareto front",
        )  # fmt: skip
        chosen = part[part["operating_point"]].iloc[0]
        ax.plot(
            chosen["time"], 100 * chosen["error"], "*", color=COLOURS[AT_POINT], markeredgecolor="black",
            markersize=16, label="operating point",
        )  # fmt: skip
        number = "" if pd.isna(chosen["point"]) else f"point {chosen['point']}: "
        words = f"{number}error {100 * chosen['error']:.2f} %, time {chosen['time']:.3f}"
        ax.text(0.97, 0.97, words, ha="right", va="top", transform=ax.transAxes, fontsize=9)
        ax.set(xlabel="normalised time (0: all at exit 1, 1: all at exit 2)", ylabel="error of accepted events, %")
        ax.margins(0.06, 0.1)
        ax.grid(alpha=0.3)
    return _add_legend(figure, axes)


def draw_offload_time(table: pd.DataFrame) -> Figure:
    """Draw elapsed time and processor time by batch size, with two axes for each network."""
    networks = list(dict.fromkeys(table["network"]))
    figure, axes = new_figure(2 * len(networks), width=3.4, height=4.2)
    columns = (("wall_milliseconds", "time that passes"), ("processor_milliseconds", "processor time"))
    places = [(network, *column) for network in networks for column in columns]
    times = table[[name for name, _ in columns]].to_numpy()
    for ax, (network, column, title) in zip(axes, places, strict=True):
        _draw_requests(ax, table, network, column)
        ax.set_title(f"{get_display_name(network)}, {title}", fontsize=10)
        ax.set_xticks(sorted(table["batch_size"].unique()))
        use_log_scale(ax.yaxis)
        ax.set(xlabel="events in a request", ylabel="ms a request")
        if times.max() > 0:
            ax.set_ylim(0.7 * times[times > 0].min(), 1.5 * times.max())
        ax.grid(alpha=0.3)
    return _add_legend(figure, axes)


def _draw_requests(ax: Axes, table: pd.DataFrame, network: str, column: str) -> None:
    """Draw a line for each device and place of exit 2; larger, hollow markers keep covered lines visible."""
    centres = sorted(set(table["datacenter"]) - {""})
    several = table["device"].nunique() > 1
    for keys, rows in table[table["network"] == network].groupby(["device", "exit_2", "datacenter"], sort=False):
        device, exit_2, centre = map(str, keys)
        place = centres.index(centre) if centre else 0
        label = f"exit 2 asked of a worker ({centre})" if centre else "exit 2 on the edge"
        ax.plot(
            rows["batch_size"], rows[column], f"{'s^Dv'[place % 4]}--" if centre else "o-", color=COLOURS[exit_2],
            markersize=5 + 3 * (len(centres) - 1 - place) if centre else 6,
            markerfacecolor="none" if centre and place < len(centres) - 1 else COLOURS[exit_2],
            label=f"{label}, {device}" if several else label,
        )  # fmt: skip


def draw_energy(table: pd.DataFrame) -> Figure:
    """Draw what an event costs by system, with one axes for each network and one for the paper's readings of it."""
    networks = list(dict.fromkeys(table["network"]))
    places = [(name, DERIVED) for name in networks] + [(name, STATED) for name in networks]
    figure, axes = new_figure(len(places), width=3.0, height=4.4)
    systems = (SINGLE, TWO_EXITS_LOCAL, TWO_EXITS_OFFLOADED)
    for ax, (network, source) in zip(axes, places, strict=True):
        part = table[(table["network"] == network) & (table["source"] == source)]
        for system in (name for name in systems if name in set(part["system"])):
            (row,) = part[part["system"] == system].to_dict("records")
            hatch = "//" if source == STATED else None
            bars = ax.bar(
                systems.index(system), row["value"], 0.8, color=COLOURS[system], label=system, hatch=hatch,
                edgecolor="white",
            )  # fmt: skip
            share = f"\n({100 * row['share_of_single_exit']:.1f} %)" if pd.notna(row["share_of_single_exit"]) else ""
            ax.bar_label(bars, labels=[f"{_format_number(row['value'])}{share}"], fontsize=9)
        ax.set_title(f"{get_display_name(network)} on {part['device'].iloc[0]},\n{source}", fontsize=10)
        ax.set_xticks([])
        ax.set(ylabel=part["unit"].iloc[0], xlim=(-0.6, len(systems) - 0.4))
        ax.margins(y=0.18)
    return _add_legend(figure, axes)


def _make_axes(table: pd.DataFrame) -> tuple[Figure, list[Axes], list[pd.DataFrame]]:
    networks = list(dict.fromkeys(table["network"]))
    figure, axes = new_figure(len(networks), width=4.6 if len(networks) > 1 else 5.6)
    for ax, network in zip(axes, networks, strict=True):
        ax.set_title(get_display_name(network))
    return figure, axes, [table[table["network"] == network] for network in networks]


def _add_legend(figure: Figure, axes: Sequence[Axes]) -> Figure:
    """Add one legend below all axes, with each label once."""
    entries: dict[str, Artist] = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    # As many columns as fit; the width of one, in inches, is estimated from the longest label.
    columns = int(figure.get_figwidth() / (0.6 + 0.07 * max(map(len, entries))))
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=min(len(entries), max(columns, 1)),
        fontsize=9,
    )  # fmt: skip
    return figure


def _count_month(month: str) -> int:
    return 12 * int(month[:4]) + int(month[5:]) - 1


def _format_month(month: str) -> str:
    return month.replace("_", "-")


def _count_months(table: pd.DataFrame) -> list[int]:
    return [_count_month(month) for month in table["month"]]


def _label_months(ax: Axes, months: Iterable[str]) -> None:
    """Label every month from the first to the last, so that gaps are visible."""
    numbers = sorted({_count_month(month) for month in months})
    ticks = range(numbers[0], numbers[-1] + 1)
    years = {number // 12 for number in ticks}
    one_year = len(years) == 1
    ax.set_xticks(ticks, [f"{n % 12 + 1:02}" if one_year else f"{n // 12}-{n % 12 + 1:02}" for n in ticks])
    ax.tick_params(axis="x", rotation=0 if one_year else 90)
    ax.set(xlabel=f"month of {min(years)}" if one_year else "month", xlim=(ticks[0] - 0.5, ticks[-1] + 0.5))
    ax.grid(alpha=0.3)


def _format_number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
