"""Batches of events, from datasets or traffic, and their verdicts."""

from collections.abc import Iterator

import numpy as np
import pytest

from dataset.flow_features import flow_features
from dataset.scaling import PUBLISHED
from offload.events import NOTHING, Batch, decided, of_dataset, of_records
from tests.captures import SHARED, needs_shared, read_packets
from tests.offload.test_verdicts_file import dataset_of, edge_with
from utils.stopping import Stop


@pytest.mark.parametrize("labelled", [True, False])
def test_a_dataset_comes_in_batches_from_where_it_is_to_begin(labelled: bool) -> None:
    rows = dataset_of(25, labelled=labelled)
    batches = list(of_dataset(rows, 3, 10, Stop()))
    assert [len(batch) for batch in batches] == [10, 10, 2]
    np.testing.assert_array_equal(np.concatenate([batch.features for batch in batches]), rows.features[3:])
    assert (batches[0].labels is not None) == labelled
    if rows.labels is not None:
        np.testing.assert_array_equal(batches[2].labels, rows.labels[23:])


def test_a_stop_takes_no_further_batch_of_a_dataset_and_yields_what_was_taken() -> None:
    stop = Stop(drain_timeout=30)
    batches = of_dataset(dataset_of(30), 0, 10, stop)

    def stopping() -> Iterator[Batch]:
        yield next(batches)
        stop.request()
        yield from batches

    assert [len(verdicts) for _, verdicts in decided(edge_with(), stopping(), 4, stop)] == [10]


@needs_shared
def test_records_come_with_their_own_verdicts_however_they_are_cut() -> None:
    records = flow_features(read_packets(SHARED / "data" / "pcaps" / "synack-reflection.pcap"))
    parts = [records.take(np.arange(start, min(start + 700, len(records)))) for start in range(0, len(records), 700)]
    lists = [[], *([part] for part in parts[:5]), [], parts[5:], []]
    batches = list(of_records(lists, PUBLISHED.scale, 300))
    assert max(map(len, batches)) == 300
    assert sum(batch is NOTHING for batch in batches) == 3
    whole = PUBLISHED.scale(records.features).astype(np.float32)
    np.testing.assert_array_equal(np.concatenate([batch.features for batch in batches]), whole)
    for batch, verdicts in decided(edge_with(), batches, 2, Stop()):
        assert batch.records is not None
        features = PUBLISHED.scale(batch.records.features).astype(np.float32)
        np.testing.assert_array_equal(verdicts.prediction, edge_with().decide(features).prediction)
