import io
import json
import math
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from offload.edge.batch import Batch
from offload.edge.offload_csv import make_columns
from offload.edge.verdict_counts import VerdictCounts
from utils.schema import DECIDER_COLUMNS, FEATURE_COUNT, NOT_ASKED, OFFLOAD_COLUMNS, REJECTED

SILENT = math.nan
Row = tuple[int, float, int, float, bool, str, str, bool]
# prediction and certainty of exit 1 and of exit 2, uncertain, answered by, failure, rejected
ROWS: dict[str, Row] = {
    "edge normal": (0, 0.99, -1, SILENT, False, "edge", "", False),
    "edge attack": (1, 0.97, -1, SILENT, False, "edge", "", False),
    "cloud normal": (1, 0.60, 0, 0.95, True, "cloud", "", False),
    "cloud attack": (1, 0.61, 1, 0.96, True, "cloud", "", False),
    "cloud unsure": (0, 0.62, 1, 0.55, True, "cloud", "", True),
    "local by choice": (0, 0.63, 1, 0.94, True, "local", "", False),
    "local by need": (1, 0.64, 0, 0.93, True, "local", "timed-out", False),
    "local unsure": (0, 0.65, 1, 0.51, True, "local", "no-connection", True),
    "unanswered": (1, 0.66, -1, SILENT, True, "", "circuit-open", True),
}
LABELS = np.array([0, 0, 0, 1, 1, 0, 0, 1, 1])


def batch_of(*names: str, labels: NDArray[np.int64] | None = None) -> Batch:
    """Return events that were decided as such rows say, in that order."""
    one, sure_1, two, sure_2, uncertain, by, failure, rejected = zip(*(ROWS[name] for name in names), strict=True)
    batch = Batch(np.zeros((len(names), FEATURE_COUNT), np.float32), labels)
    batch.prediction_1[:], batch.certainty_1[:], batch.prediction_2[:], batch.certainty_2[:] = one, sure_1, two, sure_2
    batch.uncertain[:], batch.answered_by[:], batch.failure[:], batch.rejected[:] = uncertain, by, failure, rejected
    return batch


@pytest.fixture
def batch() -> Batch:
    return batch_of(*ROWS, labels=LABELS)


@pytest.fixture
def unlabelled() -> Batch:
    return batch_of(*ROWS)


def read_back(table: pd.DataFrame) -> pd.DataFrame:
    text = table.to_csv(index=False)
    return pd.read_csv(io.StringIO(text), keep_default_na=False, dtype=str)


def test_the_final_prediction_is_that_of_exit_2_if_it_answered(batch: Batch) -> None:
    assert batch.prediction.tolist() == [0, 1, 0, 1, 1, 1, 0, 1, 1]
    assert batch.certainty.tolist() == [0.99, 0.97, 0.95, 0.96, 0.55, 0.94, 0.93, 0.51, 0.66]
    assert len(batch) == len(ROWS)


def test_each_row_has_a_decider_and_a_reason(batch: Batch) -> None:
    decided = dict(zip(ROWS, zip(batch.decider.tolist(), batch.reason.tolist(), strict=True), strict=True))
    assert decided == {
        "edge normal": ("edge", "certain"),
        "edge attack": ("edge", "certain"),
        "cloud normal": ("cloud", "certain"),
        "cloud attack": ("cloud", "certain"),
        "cloud unsure": ("rejected", "uncertain"),
        "local by choice": ("local", "certain"),
        "local by need": ("local", "timed-out"),
        "local unsure": ("rejected", "uncertain"),
        "unanswered": ("rejected", "circuit-open"),
    }


def test_events_are_counted_by_decider_and_verdict() -> None:
    assert batch_of(*ROWS, "edge normal", "edge normal", "cloud attack").count_deciders() == {
        ("edge", "normal"): 3,
        ("edge", "attack"): 1,
        ("cloud", "normal"): 1,
        ("cloud", "attack"): 2,
        ("local", "attack"): 1,
        ("local", "normal"): 1,
        ("rejected", "rejected"): 3,
    }


@pytest.mark.parametrize("deciders", [False, True])
def test_the_table_has_a_row_for_each_event_and_the_published_columns(batch: Batch, deciders: bool) -> None:
    table = pd.DataFrame(make_columns(batch, show_decider=deciders))
    assert tuple(table.columns) == OFFLOAD_COLUMNS + (DECIDER_COLUMNS if deciders else ())
    assert len(table) == len(batch)
    if deciders:
        assert table["decider"].tolist() == batch.decider.tolist()
        assert table["reason"].tolist() == batch.reason.tolist()


def test_the_csv_marks_missing_answers_rejections_and_unknown_classes(batch: Batch, unlabelled: Batch) -> None:
    read = read_back(pd.DataFrame(make_columns(unlabelled)))
    assert set(read["class"]) == {NOT_ASKED} == {"N/A"}
    assert read["exit_1_prediction"].tolist() == ["0", "1", "1", "1", "0", "0", "1", "0", "1"]
    assert read["exit_2_prediction"].tolist() == ["N/A", "N/A", "0", "1", "1", "1", "0", "1", "N/A"]
    assert read["exit_2_certainty"].tolist() == ["N/A", "N/A", "0.95", "0.96", "0.55", "0.94", "0.93", "0.51", "N/A"]
    assert read["final_prediction"].tolist() == ["0", "1", "0", "1", REJECTED, "1", "0", REJECTED, REJECTED]
    assert read["final_certainty"].astype(float).tolist() == batch.certainty.tolist()
    assert read_back(pd.DataFrame(make_columns(batch)))["class"].tolist() == list(map(str, LABELS))


def test_every_certainty_reads_back_unchanged() -> None:
    exact = np.nextafter(np.full(4, 0.95), [0, 1, 0, 1])
    batch = batch_of(*["cloud normal"] * 4)
    batch.certainty_1[:] = batch.certainty_2[:] = exact
    read = read_back(pd.DataFrame(make_columns(batch)))
    for column in ("exit_1_certainty", "exit_2_certainty", "final_certainty"):
        assert [float(cell) for cell in read[column]] == exact.tolist()


def plain_counts(table: pd.DataFrame) -> Counter[tuple[int, int, int]]:
    """Count (fate, true class, what the last exit to answer said) row by row from the CSV's table."""
    counts: Counter[tuple[int, int, int]] = Counter()
    for row in table.to_dict("records"):
        said = row["exit_1_prediction"] if row["exit_2_prediction"] == NOT_ASKED else row["exit_2_prediction"]
        at_exit_2 = row["exit_2_prediction"] != NOT_ASKED
        counts[2 if row["final_prediction"] == REJECTED else int(at_exit_2), row["class"], said] += 1
    return counts


def test_events_are_counted_by_fate_class_and_prediction(batch: Batch) -> None:
    counted = VerdictCounts.from_batch(batch)
    plain = plain_counts(pd.DataFrame(make_columns(batch)))
    assert {index: number for index, number in np.ndenumerate(counted.counts) if number} == plain
    assert (counted.events, counted.offloaded, counted.rejected) == (9, 7, 3)
    assert counted.accuracy == 4 / 6
    assert counted.failures == {"timed-out": 1, "no-connection": 1, "circuit-open": 1}


@pytest.mark.parametrize("labels", [LABELS, None])
def test_the_counts_of_batches_add_up_to_those_of_all_events(labels: NDArray[np.int64] | None) -> None:
    names, total = 50 * list(ROWS), VerdictCounts.zero(labelled=labels is not None)
    truths = None if labels is None else np.tile(labels, 50)
    for start in range(0, len(names), 70):
        rows = slice(start, start + 70)
        part = batch_of(*names[rows], labels=None if truths is None else truths[rows])
        total += VerdictCounts.from_batch(part)
    whole = VerdictCounts.from_batch(batch_of(*names, labels=truths))
    assert np.array_equal(total.counts, whole.counts)
    assert total.failures == whole.failures == {"timed-out": 50, "no-connection": 50, "circuit-open": 50}
    assert total.labelled == whole.labelled == (labels is not None)
    assert total.summarize() == whole.summarize()


def test_an_addition_changes_neither_operand(batch: Batch) -> None:
    one, other = VerdictCounts.from_batch(batch), VerdictCounts.from_batch(batch)
    _ = one + other
    assert one.summarize() == other.summarize()
    assert one.events == other.events == 9


def test_unlabelled_events_are_counted_without_an_accuracy(batch: Batch, unlabelled: Batch) -> None:
    without, with_labels = VerdictCounts.from_batch(unlabelled), VerdictCounts.from_batch(batch)
    assert np.array_equal(without.counts.sum(axis=1), with_labels.counts.sum(axis=1))
    assert math.isnan(without.accuracy)
    assert math.isnan((without + with_labels).accuracy)
    assert math.isnan((with_labels + without).accuracy)
    for text in (without.summarize(), without.format_table()):
        assert "accuracy" not in text
        assert "nan" not in text


def test_the_summary_counts_the_failures_of_the_cloud_by_reason(batch: Batch) -> None:
    assert VerdictCounts.from_batch(batch).summarize() == (
        "9 events, offloaded 7 (77.8 %), rejected 3 (33.3 %), accuracy of accepted 66.67 %, "
        "without the cloud 1 (circuit-open), 1 (no-connection), 1 (timed-out)"
    )
    assert VerdictCounts.from_batch(batch_of("cloud attack")).summarize() == (
        "1 events, offloaded 1 (100.0 %), rejected 0 (0.0 %)"
    )


def test_the_summary_of_no_events_shows_a_dash_for_unknown_figures() -> None:
    summary = VerdictCounts.zero(labelled=True).summarize()
    assert summary == "0 events, offloaded 0 (- %), rejected 0 (- %), accuracy of accepted - %"


def test_json_can_represent_all_fields(batch: Batch) -> None:
    fields = (VerdictCounts.from_batch(batch) + VerdictCounts.from_batch(batch)).to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == {
        "events": 18,
        "offloaded": 14,
        "rejected": 6,
        "accuracy": 4 / 6,
        "without_cloud": {"timed-out": 2, "no-connection": 2, "circuit-open": 2},
    }


def test_an_unknown_accuracy_is_nan_in_the_fields(unlabelled: Batch) -> None:
    for counts in (VerdictCounts.from_batch(unlabelled), VerdictCounts.zero(labelled=True)):
        accuracy = counts.to_dict()["accuracy"]
        assert isinstance(accuracy, float) and math.isnan(accuracy)
        assert json.loads(json.dumps(counts.to_dict()))["events"] == counts.events


def test_the_table_has_a_row_for_each_fate_and_one_for_the_accepted(batch: Batch, unlabelled: Batch) -> None:
    lines = VerdictCounts.from_batch(batch).format_table().splitlines()
    assert lines[0].split() == ["events", "share", "accuracy", "TP", "FP", "TN", "FN"]
    assert [line.split() for line in lines[1:]] == [
        ["exit", "1", "2", "22.2%", "50.00%", "0", "1", "1", "0"],
        ["exit", "2", "4", "44.4%", "75.00%", "1", "1", "2", "0"],
        ["rejected", "3", "33.3%", "100.00%", "3", "0", "0", "0"],
        ["accepted", "6", "66.7%", "66.67%", "1", "2", "3", "0"],
    ]
    lines = VerdictCounts.from_batch(unlabelled).format_table().splitlines()
    assert lines[0].split() == ["events", "share", "attacks"]
    assert lines[4].split() == ["accepted", "6", "66.7%", "3"]


def test_a_table_without_accepted_events_shows_a_dash_for_unknown_figures() -> None:
    table = VerdictCounts.from_batch(batch_of("unanswered", labels=np.array([0]))).format_table()
    assert "nan" not in table
    assert table.splitlines()[1].split() == ["exit", "1", "0", "0.0%", "-%", "0", "0", "0", "0"]
    assert table.splitlines()[3].split() == ["rejected", "1", "100.0%", "0.00%", "0", "1", "0", "0"]
