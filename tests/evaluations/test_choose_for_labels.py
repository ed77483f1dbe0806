from pathlib import Path

import pandas as pd
import pytest

from tests.scripts import CHOOSE, CLIENT, INFER, call
from utils.label_list import COLUMNS
from utils.schema import IDENTITY


@pytest.fixture
def verdicts(tmp_path: Path) -> list[Path]:
    """Verdicts of the client about observed traffic, and answers of both exits to the rows of a dataset."""
    paths = [tmp_path / name for name in ("observed.csv", "2016_03.csv.gz")]
    pd.DataFrame(
        {
            "window_start": range(0, 600, 15), "address_a": "10.0.0.1", "address_b": [f"10.0.1.{n}" for n in range(40)],
            "exit_1_certainty": 0.9, "exit_1_prediction": 0, "exit_2_certainty": "N/A", "exit_2_prediction": "N/A",
            "final_certainty": 0.9, "final_prediction": [0] * 39 + ["rejected"], "class": "N/A",
        }
    ).to_csv(paths[0], index=False)  # fmt: skip
    pd.DataFrame(
        {"exit_1_certainty": 0.6, "exit_1_prediction": 1, "exit_2_certainty": 0.7, "exit_2_prediction": 0},
        index=range(60),
    ).to_csv(paths[1], index=False)
    return paths


def test_a_label_list_names_records_so_that_a_person_finds_them(
    verdicts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "labels.csv"
    ended = call(capsys, CHOOSE, "--verdicts", *verdicts, "--count", 20, "--savefile", output)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == f"20 of 100 records -> {output}"
    assert "random: 10, each of which stands for 10 rows; informative: 10; rejected among all: 1" in ended.out
    table = pd.read_csv(output)
    assert tuple(table.columns) == COLUMNS
    assert table["class"].isna().all()
    assert set(table["weight"][table["chosen"] == "random"]) == {10}
    assert set(table["weight"][table["chosen"] == "informative"]) == {0}
    sources = {path.name: pd.read_csv(path) for path in verdicts}
    observed, others = (table[table["file"] == path.name] for path in verdicts)
    for _, row in observed.iterrows():
        source = sources["observed.csv"].iloc[row["row"] - 1]
        assert all(row[name] == source[name] for name in IDENTITY)
    assert 40 in observed["row"].tolist(), "the rejected one"
    assert others["address_a"].isna().all() and set(others["certainty"]) == {0.7} and set(others["prediction"]) == {0}


def test_a_list_of_verdicts_without_addresses_has_no_columns_for_them(
    verdicts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "labels.csv"
    call(capsys, CHOOSE, "--verdicts", verdicts[1], "--count", 5, "--savefile", output)
    assert tuple(pd.read_csv(output).columns) == tuple(name for name in COLUMNS if name not in IDENTITY)


def test_what_the_client_and_the_inference_write_is_understood(
    checkpoint: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    month = ("--dataset", sample / "2016_03.csv", "--savefile")
    call(capsys, INFER, "--trained-model", checkpoint, *month, tmp_path / "inference.csv")
    network = ("--process-exit2-locally", "--trained-network-file", checkpoint, "--network", "mobilenet")
    call(capsys, CLIENT, *network, *month, tmp_path / "verdicts.csv", "--show-decider")
    both = (tmp_path / "inference.csv", tmp_path / "verdicts.csv")
    ended = call(capsys, CHOOSE, "--verdicts", *both, "--count", 9, "--savefile", tmp_path / "labels.csv")
    assert (ended.code, ended.err) == (0, "")
    table, truth = pd.read_csv(tmp_path / "labels.csv"), pd.read_csv(sample / "2016_03.csv")["class"].to_numpy()
    assert len(table) == 9
    assert (table["class"] == truth[table["row"] - 1]).all(), "the verdicts on a labelled dataset know the classes"


def test_files_that_a_list_could_not_tell_apart_are_refused(
    verdicts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old").mkdir()
    other = (tmp_path / "old" / "observed.csv.gz").resolve()
    ended = call(capsys, CHOOSE, "--verdicts", verdicts[0], other, "--count", 5, "--savefile", tmp_path / "labels.csv")
    assert ended.code == 2
    assert f"{verdicts[0]}: another file of verdicts is named observed, too; rename one of them" in ended.err
