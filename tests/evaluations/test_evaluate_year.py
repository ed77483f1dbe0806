"""The script: what it writes, that nothing leaks from later months, and that the order of rows changes nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from evaluations.baselines import BOOSTING, MAJORITY, MATCHED, REJECT, RULE, TREE
from evaluations.defaults import FROZEN, POLICIES
from evaluations.later_months import BOUND, BY_CLASS, EXIT_1, EXIT_2, SINGLE_EXIT, SYSTEM
from evaluations.months import ALL_ROWS, SUBSETS
from models.checkpoint import write_checkpoint
from tests.networks import calibrated_network, new_network
from tests.scripts import YEAR, Ended, call

pytestmark = pytest.mark.slow

CHOICE, LATER = "2016_02", ("2016_03", "2016_04")
MONTHS = ("2016_01", CHOICE, *LATER)
KEYS = ["month", "subset", "system", "metric"]
Change = Callable[[str, pd.DataFrame], pd.DataFrame]


def as_it_is(_month: str, rows: pd.DataFrame) -> pd.DataFrame:
    return rows


def in_another_order(_month: str, rows: pd.DataFrame) -> pd.DataFrame:
    return rows.sample(frac=1, random_state=3)


def with_other_later_months(month: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Give the first later month the opposite labels, and the other one fewer rows with other values."""
    if month == LATER[0]:
        return rows.assign(**{"class": 1 - rows["class"]})
    if month == LATER[1]:
        return (rows * 0.5).assign(**{"class": rows["class"]})[:40]
    return rows


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two calibrated networks, and one with a single exit."""
    folder = tmp_path_factory.mktemp("networks")
    paths = [folder / f"{name}.pth" for name in ("one", "two", "single")]
    facts = {"data": "2016_01.csv", "calibration": {"data": "2016_02.csv"}}
    one = calibrated_network("MobileNetV2WithExits")
    write_checkpoint(paths[0], one, {**facts, "seed": 1})
    with torch.no_grad():
        one.temperature[1] *= 2
    write_checkpoint(paths[1], one, {**facts, "seed": 2})
    write_checkpoint(paths[2], new_network("MobileNetV2"), {})
    return paths


def write_months(sample: Path, folder: Path, change: Change) -> Path:
    folder.mkdir()
    for month in MONTHS:
        rows = pd.read_csv(sample / f"{month}.csv", nrows=60)
        twice = pd.concat((rows, rows[:25]))
        change(month, twice).to_csv(folder / f"{month}.csv", index=False)
    return folder


def evaluate(
    capsys: pytest.CaptureFixture[str], networks: Sequence[Path], data: Path, output: Path, *more: object
) -> Ended:
    common = ("--dataset-folder", data, "--output", output, "--bootstrap", 100)
    return call(capsys, YEAR, "--trained-model", *networks, *common, *more)


def without_costs(output: Path) -> pd.DataFrame:
    """Return the table without the columns that depend on a clock."""
    table = pd.read_csv(output / "year.csv")
    return table[~table["metric"].isin(["cost", "cost_share"])].reset_index(drop=True)


@pytest.fixture(scope="module")
def plain(
    networks: list[Path], sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[pytest.CaptureFixture[str]], tuple[Path, Ended]]:
    """Evaluate one network on the unchanged months, once for all tests."""
    folder = tmp_path_factory.mktemp("plain")
    done: list[Ended] = []

    def run(capsys: pytest.CaptureFixture[str]) -> tuple[Path, Ended]:
        if not done:
            done.append(evaluate(capsys, networks[:1], write_months(sample, folder / "data", as_it_is), folder / "out"))
        return folder / "out", done[0]

    return run


Plain = Callable[[pytest.CaptureFixture[str]], tuple[Path, Ended]]


def test_it_writes_the_table_and_the_page_and_prints_the_conclusion_first(
    capsys: pytest.CaptureFixture[str], plain: Plain
) -> None:
    output, ended = plain(capsys)
    assert (ended.code, ended.err) == (0, "")
    assert {path.name for path in output.iterdir()} == {"year.csv", "report.html"}
    table = pd.read_csv(output / "year.csv")
    assert list(table) == [*KEYS, "mean", "low", "high", "network_1"]
    assert list(dict.fromkeys(table["month"])) == [CHOICE, *LATER, "mean", "AUT"]
    assert not table.duplicated(KEYS).any()
    page = (output / "report.html").read_text()
    sentence = ended.out.splitlines()[0]
    assert "xit 2" in sentence and sentence.endswith(".")
    assert page.index(f"<strong>{sentence}</strong>") < page.index("<table>") < page.index("<figure>")
    assert "spread from seed to seed is not covered" in ended.out and "not covered" in page
    assert "http" not in page.replace("http-equiv", "").partition("</style>")[2].replace("http://www.w3.org", "")
    assert ended.out.splitlines()[-1].startswith("total: networks 1, later months 2, rows 170, resamples 100, ")


def test_every_system_stands_in_the_table_for_every_subset_and_month(
    capsys: pytest.CaptureFixture[str], plain: Plain
) -> None:
    table = pd.read_csv(plain(capsys)[0] / "year.csv")
    rejecting = (EXIT_1, EXIT_2, TREE, BOOSTING)
    systems = {SYSTEM, BY_CLASS, MAJORITY, RULE, BOUND, *rejecting}
    systems |= {name + way for name in rejecting for way in (REJECT, MATCHED)}
    of_rates = table[table["metric"] == "error"]
    for month in (CHOICE, *LATER, "mean", "AUT"):
        for subset in SUBSETS:
            chosen = of_rates[(of_rates["month"] == month) & (of_rates["subset"] == subset)]
            assert set(chosen["system"]) == systems
    of_choice = table[(table["month"] == CHOICE) & (table["subset"] == ALL_ROWS)].set_index(["metric", "system"])[
        "mean"
    ]
    # One threshold for both classes is a choice of two: the best two are no worse.
    assert of_choice["error", BY_CLASS] <= of_choice["error", EXIT_1 + REJECT]
    assert of_choice["acceptance", EXIT_1 + REJECT] < of_choice["acceptance", EXIT_1] == 1


def test_the_mean_and_the_area_are_of_the_later_months_only(capsys: pytest.CaptureFixture[str], plain: Plain) -> None:
    table = pd.read_csv(plain(capsys)[0] / "year.csv")
    is_error = (table["metric"] == "error") & (table["system"] == SYSTEM) & (table["subset"] == ALL_ROWS)
    error = table[is_error].set_index("month")["mean"]
    assert error["mean"] == pytest.approx((error[LATER[0]] + error[LATER[1]]) / 2)
    assert error["AUT"] == pytest.approx((error[LATER[0]] + error[LATER[1]]) / 2)


def test_no_threshold_and_no_baseline_depends_on_later_months(
    capsys: pytest.CaptureFixture[str], plain: Plain, networks: list[Path], sample: Path, tmp_path: Path
) -> None:
    output, _ = plain(capsys)
    data = write_months(sample, tmp_path / "data", with_other_later_months)
    assert evaluate(capsys, networks[:1], data, tmp_path / "out").code == 0
    ours, theirs = (table[table["month"] == CHOICE] for table in map(without_costs, (output, tmp_path / "out")))
    # All thresholds stand there, and the rates of every baseline on rows that it was not trained on.
    thresholds = ours[ours["metric"].str.startswith("threshold")]
    assert len(thresholds) == 4 + 2 + 4
    assert set(ours["system"]) >= {RULE, TREE, BOOSTING, MAJORITY}
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    later, others = (table[table["month"] == LATER[0]] for table in map(without_costs, (output, tmp_path / "out")))
    assert later["mean"].tolist() != others["mean"].tolist()


def test_the_order_of_rows_changes_nothing(
    capsys: pytest.CaptureFixture[str], plain: Plain, networks: list[Path], sample: Path, tmp_path: Path
) -> None:
    output, _ = plain(capsys)
    data = write_months(sample, tmp_path / "data", in_another_order)
    assert evaluate(capsys, networks[:1], data, tmp_path / "out").code == 0
    pd.testing.assert_frame_equal(without_costs(output), without_costs(tmp_path / "out"), check_exact=True)


def test_a_single_exit_network_is_another_system_and_the_reference_of_costs(
    capsys: pytest.CaptureFixture[str], networks: list[Path], sample: Path, tmp_path: Path
) -> None:
    data = write_months(sample, tmp_path / "data", as_it_is)
    more = (
        "--single-exit",
        networks[2],
        "--cost-model",
        "full",
        "--operation-point",
        "least-cost",
        "--resample",
        "rows",
    )
    ended = evaluate(capsys, networks[:2], data, tmp_path / "out", *more)
    assert (ended.code, ended.err) == (0, "")
    table = pd.read_csv(tmp_path / "out" / "year.csv").set_index(KEYS)["mean"]
    cost = {name: table["mean", ALL_ROWS, name, "cost"] for name in (SINGLE_EXIT, EXIT_1)}
    assert table["mean", ALL_ROWS, EXIT_1, "cost_share"] == pytest.approx(cost[EXIT_1] / cost[SINGLE_EXIT])
    assert np.isfinite(table["mean", ALL_ROWS, f"{SYSTEM} - {SINGLE_EXIT + MATCHED}", "error_difference"])
    assert "a share of the single-exit network's" in ended.out
    assert "note: " not in ended.out


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--choose-month", "2016_01"), "--choose-month 2016_01 is not after 2016_01.csv"),
        (("--choose-month", "2016_04"), "no month after --choose-month 2016_04 to evaluate on"),
        (("--train-month", "2015_*"), "no dataset matches '2015_*'"),
        (("--train-month", "2016_0[12]", "--choose-month", "2016_02"), "is not after 2016_02.csv"),
        (("--min-acceptance", "1", "--cost-per-offload", "3"), "belong to --cost-model edge; add it"),
    ],
)
def test_an_evaluation_that_is_impossible_is_one_line_with_the_remedy(
    capsys: pytest.CaptureFixture[str],
    networks: list[Path],
    sample: Path,
    tmp_path: Path,
    more: Sequence[str],
    says: str,
) -> None:
    data = write_months(sample, tmp_path / "data", as_it_is)
    ended = evaluate(capsys, networks[:1], data, tmp_path / "out", *more)
    (line,) = ended.err.splitlines()
    assert (ended.code, says in line) == (2, True), line
    assert list((tmp_path / "out").iterdir()) == []


def test_a_network_that_was_calibrated_on_a_later_month_is_refused(
    capsys: pytest.CaptureFixture[str], networks: list[Path], sample: Path, tmp_path: Path
) -> None:
    data = write_months(sample, tmp_path / "data", as_it_is)
    (data / "2016_02.csv").rename(data / "2016_01b.csv")
    (data / "2016_03.csv").rename(data / "2016_02.csv")
    ended = evaluate(capsys, networks[:1], data, tmp_path / "out", "--choose-month", "2016_01b")
    assert (ended.code, "calibrated on 2016_02, so it cannot be evaluated" in ended.err) == (2, True)


def test_months_that_a_network_does_not_say_it_was_trained_on_are_taken_with_a_note(
    capsys: pytest.CaptureFixture[str], networks: list[Path], sample: Path, tmp_path: Path
) -> None:
    data = write_months(sample, tmp_path / "data", as_it_is)
    (data / "2016_01.csv").rename(data / "2015_12.csv")
    refused = evaluate(capsys, networks[:1], data, tmp_path / "out")
    assert "the networks were trained on 2016_01: add it" in refused.err
    ended = evaluate(capsys, networks[:1], data, tmp_path / "out", "--train-month", "2015_12")
    assert (ended.code, "says that it was trained on 2016_01, not on 2015_12" in ended.out) == (0, True)


def test_too_few_or_too_many_single_exit_networks_are_refused(
    capsys: pytest.CaptureFixture[str], networks: list[Path], sample: Path, tmp_path: Path
) -> None:
    more = ("--single-exit", *[networks[2]] * 3)
    ended = evaluate(capsys, networks[:2], sample, tmp_path / "out", *more)
    assert (ended.code, "3 --single-exit for 2 --trained-model; give one" in ended.err) == (2, True)


def test_with_policies_it_writes_a_row_for_each_month_and_the_picture(
    capsys: pytest.CaptureFixture[str], networks: list[Path], sample: Path, tmp_path: Path
) -> None:
    data, output = write_months(sample, tmp_path / "data", as_it_is), tmp_path / "out"
    options = ("--policy", *POLICIES, "--labels-per-month", 40)
    ended = evaluate(capsys, networks[:1], data, output, *options)
    assert (ended.code, ended.err) == (0, "")
    assert {path.name for path in output.iterdir()} == {"policy.csv", "policy.png"}
    table = pd.read_csv(output / "policy.csv")
    assert not table.duplicated(["network", "policy", "month"]).any()
    assert set(table["network"]) == {"mobilenet", BOOSTING}
    assert list(dict.fromkeys(table["month"])) == list(LATER)
    assert len(table) == 2 * len(POLICIES) * len(LATER)
    assert "AUT of F1" in ended.out


def test_policies_are_not_for_networks_with_one_exit(
    capsys: pytest.CaptureFixture[str], networks: list[Path], sample: Path, tmp_path: Path
) -> None:
    data = write_months(sample, tmp_path / "data", as_it_is)
    ended = evaluate(capsys, networks[:1], data, tmp_path / "out", "--policy", FROZEN, "--single-exit", networks[2])
    assert ended.code == 2 and "--single-exit" in ended.err
