"""The table of given intervals, against values computed by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from evaluations.energy_measurement import IDLE, MeasuredInterval, MethodOutcome, Run
from evaluations.energy_report import (
    COLUMNS,
    PAPER,
    Meter,
    build_energy_table,
    draw_energy,
    find_idle_watts,
    make_power_model,
    render_report,
    state_saving,
)
from utils.plotting import save_figure

ONE, LOCAL, AWAY = "single exit", "two exits, local", "two exits, offloaded"
PAPERS = {ONE: 94.3, AWAY: 0.83}
METER = Meter("rapl", "RAPL, package-0", lambda interval: interval.joules)


def a_run(shared: str = AWAY) -> Run:
    """Return 10 s of idling at 3 W, then intervals of 2 s and 10 events, of which idling takes 6 J."""

    def interval(method: str, joules: float, cpu: float) -> MeasuredInterval:
        return MeasuredInterval(method, 100.0, 102.0, cpu, 2.0, 10, joules)

    outcomes = {
        ONE: MethodOutcome(0.0, 0.0, 0.1),
        LOCAL: MethodOutcome(0.2, 0.1, 0.05),
        AWAY: MethodOutcome(0.2, 0.1, 0.05),
    }
    values = {ONE: [(26, 2.0), (46, 1.6), (16, 1.8)], LOCAL: [(16, 0.8)] * 3, AWAY: [(10, 0.5), (14, 0.6), (12, 0.2)]}
    intervals = [interval(method, *of_round[turn]) for turn in range(3) for method, of_round in values.items()]
    return Run("alexnet", shared, outcomes, (MeasuredInterval(IDLE, 80.0, 90.0, 0.0, 0.0, 0, 30.0), *intervals))


def spread(table: pd.DataFrame, method: str, column: str) -> list[float]:
    return [float(table[name][method]) for name in (column, f"{column}_least", f"{column}_most")]


def test_the_idle_power_is_subtracted_and_only_the_clients_share_of_a_shared_machine_counts() -> None:
    run = a_run()
    table = build_energy_table(run, METER, PAPERS).set_index("method")
    assert find_idle_watts(run, METER) == pytest.approx(3)
    assert tuple(table.reset_index()[list(COLUMNS)]) == COLUMNS
    assert spread(table, ONE, "joules") == pytest.approx([2, 1, 4])
    assert spread(table, ONE, "cpu_ms") == pytest.approx([180, 160, 200])
    assert spread(table, LOCAL, "joules") == pytest.approx([1, 1, 1])
    # 4, 8 and 6 J, of which the client had 0.5 / 2, 0.6 / 2 and 0.2 / 2 of the processor time.
    assert spread(table, AWAY, "joules") == pytest.approx([1 * 0.4 * 0.25, 0.6 * 0.1, 0.8 * 0.3])
    assert table["joules_share_of_single_exit"].tolist() == pytest.approx([1, 1 / 2, 0.1 / 2])
    assert table["cpu_share_of_single_exit"].tolist() == pytest.approx([1, 80 / 180, 50 / 180])
    assert table["paper_share_of_single_exit"].tolist() == pytest.approx([1, np.nan, 0.83 / 94.3], nan_ok=True)
    assert (table["rounds"].tolist(), table["events"].tolist()) == ([3] * 3, [30] * 3)
    assert table.loc[AWAY, "basis"] == "reading less idle power, the client's share of it by processor time"


def test_with_a_remote_worker_the_whole_reading_is_the_clients() -> None:
    table = build_energy_table(a_run(shared=""), METER, PAPERS).set_index("method")
    assert table.loc[AWAY, "joules"] == pytest.approx(0.6)
    assert table["basis"].tolist() == ["reading less idle power"] * 3


def test_a_model_is_the_processor_time_times_the_power_and_is_called_a_model() -> None:
    table = build_energy_table(a_run(), make_power_model(4.0), PAPERS)
    assert table["joules"].tolist() == pytest.approx([4 * milliseconds / 1e3 for milliseconds in table["cpu_ms"]])
    assert set(table["meter"]) == {"model"}
    assert set(table["basis"]) == {"MODEL, no reading: processor time times the stated 4 W"}
    assert find_idle_watts(a_run(), make_power_model(4.0)) == 0
    assert "modelled, no reading" in draw_energy(table).axes[0].get_title()
    assert "measured by rapl" in draw_energy(build_energy_table(a_run(), METER, PAPERS)).axes[0].get_title()


def test_the_report_leads_with_a_sentence_and_shows_the_papers_numbers_apart_as_its_own() -> None:
    table = build_energy_table(a_run(), METER, PAPERS)
    text = render_report(table, METER.words, 3.0)
    ours, theirs = text.split(f"{PAPER}:\n")
    lines = ours.splitlines()
    assert lines[0] == f"With {AWAY}, an event costs the edge 5.00 % of the single exit's energy."
    assert "energy by RAPL, package-0; idle power 3.00 W is subtracted" in lines
    (row,) = [line for line in lines if line.strip().startswith(ONE)]
    assert "2e+03 (1e+03 to 4e+03)" in row and "94.3" not in row
    (row,) = [line for line in lines if line.strip().startswith(AWAY) and "%" in line]
    assert row.endswith("20.00 %  10.00 %  5.00 %") and "27.78 %" in row
    assert "94.3" in theirs and "0.88 %" in theirs and LOCAL not in theirs.partition("different")[0]
    assert f"- {AWAY}: reading less idle power, the client's share of it by processor time" in theirs


def test_without_readings_of_the_paper_the_report_does_without_them() -> None:
    text = render_report(build_energy_table(a_run(), METER, {}), METER.words, 3.0)
    assert PAPER not in text and "Empty" not in text


def test_the_sentence_calls_a_model_a_model_and_does_without_energy_where_it_is_unknown() -> None:
    assert state_saving(build_energy_table(a_run(), make_power_model(4.0), PAPERS)).endswith(
        "the single exit's modelled energy."
    )
    weak = Meter("rapl", "RAPL", lambda interval: 3.0 * (interval.end - interval.start))
    sentence = state_saving(build_energy_table(a_run(), weak, PAPERS))
    assert "27.78 % of the single exit's processor time; the share of energy is unknown." in sentence


def test_readings_that_do_not_exceed_idling_have_no_ratio_and_a_note() -> None:
    weak = Meter("rapl", "RAPL", lambda interval: 3.0 * (interval.end - interval.start))
    table = build_energy_table(a_run(), weak, PAPERS)
    assert table["joules_share_of_single_exit"].isna().all()
    assert "do not stand out from idling" in render_report(table, "RAPL", 3.0)
    assert "do not stand out" not in render_report(build_energy_table(a_run(), METER, PAPERS), "RAPL", 3.0)


def test_the_bars_are_the_ratios_in_percent_and_the_papers_are_hatched(tmp_path: Path) -> None:
    figure = draw_energy(build_energy_table(a_run(), METER, PAPERS))
    heights = [[bar.get_height() for bar in ax.patches if isinstance(bar, Rectangle)] for ax in figure.axes]
    assert heights[0] == pytest.approx([100, 50, 5])
    assert heights[1] == pytest.approx([100, 80 / 1.8, 50 / 1.8])
    assert heights[2] == pytest.approx([100, 83 / 94.3])
    assert [{bar.get_hatch() for bar in ax.patches} for ax in figure.axes] == [{None}, {None}, {"//"}]
    assert save_figure(figure, tmp_path / "energy.png").stat().st_size > 10_000
