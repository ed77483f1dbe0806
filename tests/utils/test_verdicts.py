import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from utils import csv_tables
from utils.errors import ResultFileError
from utils.schema import DECIDER_COLUMNS, IDENTITY, INFERENCE_COLUMNS, OFFLOAD_COLUMNS
from utils.verdicts import is_verdicts, read_identities, read_verdicts

INFERENCE: list[list[object]] = [[0.9, 0, 0.8, 1], [0.6, 1, 0.7, 0], [0.5, 1, 0.5, 1]]
OFFLOAD: list[list[object]] = [
    [0.99, 0, "N/A", "N/A", 0.99, 0, "N/A"],
    [0.6, 1, 0.98, 0, 0.98, 0, 0],
    [0.6, 1, 0.55, 0, 0.55, "rejected", 1],
    [0.97, 1, "N/A", "N/A", 0.97, "rejected", 1],
]


def write(path: Path, rows: list[list[object]], columns: tuple[str, ...]) -> Path:
    pd.DataFrame(rows, columns=list(columns)).to_csv(path, index=False)
    return path


@pytest.fixture
def offload(tmp_path: Path) -> Path:
    identity: list[list[object]] = [[1700000000 + 15 * row, "10.0.0.1", f"10.0.0.{row}"] for row in range(len(OFFLOAD))]
    rows = [[*one, *two, "edge", "certain"] for one, two in zip(identity, OFFLOAD, strict=True)]
    return write(tmp_path / "offload.csv", rows, (*IDENTITY, *OFFLOAD_COLUMNS, *DECIDER_COLUMNS))


def test_of_a_decided_event_the_exit_counts_that_answered_last(offload: Path) -> None:
    verdicts = read_verdicts(offload)
    assert verdicts.prediction.tolist() == [0, 0, 0, 1]
    assert verdicts.certainty.tolist() == [0.99, 0.98, 0.55, 0.97]
    assert verdicts.is_rejected.tolist() == [False, False, True, True]
    assert verdicts.prediction_2.tolist() == [-1, 0, 0, -1]
    assert np.isnan(verdicts.certainty_2[[0, 3]]).all()
    assert verdicts.labels.tolist() == [-1, 0, 1, 1]


def test_where_nothing_was_decided_the_more_certain_exit_counts(tmp_path: Path) -> None:
    verdicts = read_verdicts(write(tmp_path / "inference.csv", INFERENCE, INFERENCE_COLUMNS))
    assert verdicts.prediction.tolist() == [0, 0, 1]
    assert verdicts.certainty.tolist() == [0.9, 0.7, 0.5]
    assert not verdicts.is_rejected.any()


def test_a_long_or_compressed_file_is_read_in_chunks(offload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_tables, "CHUNK_ROWS", 3)
    packed = offload.with_suffix(".csv.gz")
    packed.write_bytes(gzip.compress(offload.read_bytes()))
    for path in (offload, packed):
        calls = list[tuple[int, int | None]]()

        def note(done: int, total: int | None, calls: list[tuple[int, int | None]] = calls) -> None:
            calls.append((done, total))

        verdicts = read_verdicts(path, note)
        assert verdicts.certainty.tolist() == [0.99, 0.98, 0.55, 0.97]
        assert len(calls) == 2 and calls[-1] == (path.stat().st_size,) * 2
        found = read_identities(path, np.array([1, 3]))
        assert found is not None
        assert found["address_b"].tolist() == ["10.0.0.1", "10.0.0.3"]
        assert found["window_start"].tolist() == ["1700000015", "1700000045"]


def test_a_file_without_addresses_has_no_identities(tmp_path: Path) -> None:
    path = write(tmp_path / "inference.csv", INFERENCE, INFERENCE_COLUMNS)
    assert read_identities(path, np.array([0])) is None
    assert is_verdicts(path)
    assert not is_verdicts(write(tmp_path / "other.csv", [[1, 2]], ("y", "cnf")))


@pytest.mark.parametrize(
    ("row", "column", "cell", "says"),
    [
        (
            2,
            "exit_1_certainty",
            "N/A",
            r"row 2 \(line 3\), column 'exit_1_certainty' holds 'N/A'; it must be a certaint",
        ),
        (2, "exit_2_certainty", "N/A", "column 'exit_2_certainty' holds 'N/A'"),
        (1, "exit_2_certainty", "1.5", "holds '1.5'"),
        (3, "exit_1_prediction", "", "is empty or NaN; it must be 0 or 1"),
        (3, "final_prediction", "maybe", "holds 'maybe'"),
        (4, "class", "2", "column 'class' holds '2'; it must be 0 or 1"),
    ],
)
def test_a_value_that_no_verdict_has_is_named_with_its_place(
    row: int, column: str, cell: str, says: str, tmp_path: Path
) -> None:
    rows: list[list[object]] = [[0.6, 1, 0.98, 0, 0.98, 0, 0]] * 4
    path = write(tmp_path / "offload.csv", rows, OFFLOAD_COLUMNS)
    table = pd.read_csv(path, dtype=str)
    table.loc[row - 1, column] = cell
    table.to_csv(path, index=False)
    with pytest.raises(ResultFileError, match=says):
        read_verdicts(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("y,y_exit_1\n0,1\n", "holds no verdicts, it lacks exit_1_certainty"),
        (",".join((*INFERENCE_COLUMNS, *INFERENCE_COLUMNS)) + "\n", "repeated column 'exit_1_certainty'"),
        (",".join(INFERENCE_COLUMNS) + "\n", "has a header but no rows"),
        (";".join(INFERENCE_COLUMNS) + "\n0;0;0;0\n", "separated by semicolons"),
        (",".join(INFERENCE_COLUMNS) + "\n0.5,0,0.5,0,7\n", r"row 1 \(line 2\) has more cells than the header"),
        (",".join(INFERENCE_COLUMNS) + "\n0.5,0,0.5,0\n0.5,0,0.5,0,7\n", "not a well-formed CSV"),
        (",".join(INFERENCE_COLUMNS) + "\n0.5,0,0.5\n", "'exit_2_prediction' is empty"),
    ],
)
def test_a_file_of_another_kind_is_refused(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises(ResultFileError, match=says):
        read_verdicts(tmp_path / "bad.csv")
