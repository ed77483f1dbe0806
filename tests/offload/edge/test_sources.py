"""Batches of events, from datasets or traffic, and their verdicts."""

from collections.abc import Iterator

import numpy as np
import pytest

from dataset.records.flow_features import compute_records
from dataset.records.scaling import PUBLISHED
from offload.alerts.traffic_source import split_records
from offload.edge.batch import EMPTY_BATCH, Batch
from offload.edge.sources import split_dataset
from tests.captures import SHARED, needs_shared, read_packets
from tests.offload.edge.test_offload_csv import dataset_of, edge_with
from utils.stopping import Stop


@pytest.mark.parametrize("labelled", [True, False])
def test_a_dataset_is_split_into_batches_from_a_given_row(labelled: bool) -> None:
    rows = dataset_of(25, labelled=labelled)
    batches = list(split_dataset(rows, 3, 10, Stop()))
    assert [len(batch) for batch in batches] == [10, 10, 2]
    np.testing.assert_array_equal(np.concatenate([batch.features for batch in batches]), rows.features[3:])
    assert (batches[0].labels is not None) == labelled
    if rows.labels is not None:
        np.testing.assert_array_equal(batches[2].labels, rows.labels[23:])


def test_a_stop_ends_a_dataset_after_the_present_batch() -> None:
    stop = Stop(drain_timeout=30)
    batches = split_dataset(dataset_of(30), 0, 10, stop)

    def stopping() -> Iterator[Batch]:
        yield next(batches)
        stop.request()
        yield from batches

    assert [len(batch) for batch in edge_with().decide_all(stopping(), 4, stop)] == [10]


@needs_shared
def test_records_keep_their_verdicts_however_they_are_split() -> None:
    records = compute_records(read_packets(SHARED / "data" / "pcaps" / "synack-reflection.pcap"))
    parts = [records.take(np.arange(start, min(start + 700, len(records)))) for start in range(0, len(records), 700)]
    lists = [[], *([part] for part in parts[:5]), [], parts[5:], []]
    batches = list(split_records(lists, PUBLISHED.scale, 300))
    assert max(map(len, batches)) == 300
    assert sum(batch is EMPTY_BATCH for batch in batches) == 3
    whole = PUBLISHED.scale(records.features).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([batch.features for batch in batches]), whole)
    for batch in edge_with().decide_all(batches, 2, Stop()):
        assert batch.records is not None
        features = PUBLISHED.scale(batch.records.features).astype(np.float32)
        np.testing.assert_array_equal(batch.prediction, edge_with().decide(Batch(features)).prediction)
