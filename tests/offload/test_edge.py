import io
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from models.calibrated import CalibratedNetwork
from models.checkpoint import fingerprint, read_two_exits
from models.prediction import predict
from offload.cloud import Cloud
from offload.edge import FloatArray, LocalSecondExit, RemoteSecondExit, Tally, Verdicts, decide, tally, verdict_table
from offload.protocol import (
    ACTIVATIONS,
    FEATURES,
    MAX_EVENTS,
    Answer,
    Limits,
    Refusal,
    decode_request,
    encode_answer,
    encode_refusal,
    new_id,
)
from utils.dataset import read_dataset
from utils.errors import CloudError, MessageError
from utils.schema import NOT_ASKED, OFFLOAD_COLUMNS, REJECTED, Thresholds

CPU = torch.device("cpu")
ROWS = 200
THRESHOLDS = Thresholds(0.66, 0.85, 0.7, 0.63)
ALL_OFFLOADED = Thresholds(1.0, 1.0, 0.0, 0.0)
NONE_OFFLOADED = Thresholds(0.0, 0.0, 1.0, 1.0)
FINGERPRINT = "5e" * 32


@pytest.fixture(scope="module")
def network(checkpoint: Path) -> CalibratedNetwork:
    network, _ = read_two_exits(checkpoint)
    assert isinstance(network, CalibratedNetwork)
    return network


@pytest.fixture(scope="module")
def features(sample: Path) -> FloatArray:
    return read_dataset(sample / "2016_03.csv").features[:ROWS]


@pytest.fixture(scope="module")
def labels(sample: Path) -> NDArray[np.int64]:
    labels = read_dataset(sample / "2016_03.csv").labels
    assert labels is not None
    return labels[:ROWS]


@pytest.fixture(scope="module")
def verdicts(network: CalibratedNetwork, features: FloatArray) -> Verdicts:
    return decide(network, features, THRESHOLDS, LocalSecondExit(network, CPU), CPU)


def never(_features: FloatArray, _activations: FloatArray) -> FloatArray:
    raise AssertionError("exit 2 was asked")


def softmax(logits: list[float]) -> tuple[int, float]:
    """Return the class and its probability, plainly."""
    weights = [math.exp(value) for value in logits]
    prediction = 0 if weights[0] >= weights[1] else 1
    return prediction, weights[prediction] / sum(weights)


def plain_row(logits_1: list[float], logits_2: list[float]) -> tuple[object, ...]:
    """Return what the offload CSV must hold of an event, decided as the data contract words it."""
    least_1 = {0: THRESHOLDS.normal_exit_1, 1: THRESHOLDS.attack_exit_1}
    least_2 = {0: THRESHOLDS.normal_exit_2, 1: THRESHOLDS.attack_exit_2}
    prediction_1, certainty_1 = softmax(logits_1)
    if certainty_1 >= least_1[prediction_1]:
        return certainty_1, prediction_1, "N/A", "N/A", certainty_1, prediction_1
    prediction_2, certainty_2 = softmax(logits_2)
    final = prediction_2 if certainty_2 >= least_2[prediction_2] else "rejected"
    return certainty_1, prediction_1, certainty_2, prediction_2, certainty_2, final


def test_every_row_of_the_table_is_what_the_rule_says_of_that_event(
    network: CalibratedNetwork, features: FloatArray, labels: NDArray[np.int64], verdicts: Verdicts
) -> None:
    table = verdict_table(verdicts, labels)
    logits_1, logits_2 = predict(network, features, ROWS)
    fates = set()
    assert tuple(table.columns) == OFFLOAD_COLUMNS
    assert len(table) == ROWS
    for row, first, second, label in zip(table.itertuples(index=False), logits_1, logits_2, labels, strict=True):
        expected = (*plain_row(first.tolist(), second.tolist()), int(label))
        for found, wanted in zip(row, expected, strict=True):
            if isinstance(wanted, float):
                assert found == pytest.approx(wanted, abs=1e-5)
            else:
                assert found == wanted
        fates.add((expected[2] == "N/A", expected[5]))
    assert fates == {(True, 0), (True, 1), (False, 0), (False, 1), (False, "rejected")}, "the example lacks a fate"


def test_the_final_answer_of_an_offloaded_event_is_that_of_exit_2(verdicts: Verdicts) -> None:
    disagree = verdicts.offloaded & (verdicts.prediction_1 != verdicts.prediction_2)
    assert disagree.any(), "the example decides nothing"
    assert np.array_equal(verdicts.prediction[disagree], verdicts.prediction_2[disagree])
    assert np.array_equal(verdicts.certainty[disagree], verdicts.certainty_2[disagree])
    kept = ~verdicts.offloaded
    assert np.array_equal(verdicts.prediction[kept], verdicts.prediction_1[kept])
    assert np.array_equal(verdicts.certainty[kept], verdicts.certainty_1[kept])


def test_each_part_of_the_network_computes_an_event_at_most_once(
    network: CalibratedNetwork, features: FloatArray
) -> None:
    computed: Counter[str] = Counter()

    def count(name: str, module: torch.nn.Module) -> torch.utils.hooks.RemovableHandle:
        def on_forward(_module: object, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
            computed[name] += len(inputs[0])

        return module.register_forward_hook(on_forward)

    inner = network.model
    parts = {"transform": inner.transform, "segment 1": inner.backbone[0], "segment 2": inner.backbone[1]}
    parts |= {"exit 1": inner.exits[0], "exit 2": inner.exits[1]}
    handles = [count(name, module) for name, module in parts.items()]
    try:
        verdicts = decide(network, features, THRESHOLDS, LocalSecondExit(network, CPU), CPU)
    finally:
        for handle in handles:
            handle.remove()
    offloaded = int(verdicts.offloaded.sum())
    assert 0 < offloaded < ROWS
    assert computed == {
        "transform": ROWS,
        "segment 1": ROWS,
        "exit 1": ROWS,
        "segment 2": offloaded,
        "exit 2": offloaded,
    }


def test_exit_2_is_asked_once_about_the_uncertain_events_alone(
    network: CalibratedNetwork, features: FloatArray
) -> None:
    asked: list[tuple[FloatArray, FloatArray]] = []

    def second_exit(some: FloatArray, activations: FloatArray) -> FloatArray:
        asked.append((some, activations))
        return np.tile(np.array([0.0, 9.0], np.float32), (len(some), 1))

    verdicts = decide(network, features, THRESHOLDS, second_exit, CPU)
    ((some, activations),) = asked
    assert np.array_equal(some, features[verdicts.offloaded])
    assert activations.shape == (len(some), *network.activation_shape())
    assert activations.dtype == np.float32
    assert (verdicts.prediction[verdicts.offloaded] == 1).all()
    assert not verdicts.rejected.any()


def test_exit_2_is_not_asked_where_no_event_is_uncertain(network: CalibratedNetwork, features: FloatArray) -> None:
    verdicts = decide(network, features, NONE_OFFLOADED, never, CPU)
    assert not verdicts.offloaded.any()
    assert not verdicts.rejected.any()
    table = verdict_table(verdicts, None)
    assert (table["exit_2_prediction"] == NOT_ASKED).all()


def test_every_event_can_be_offloaded(network: CalibratedNetwork, features: FloatArray) -> None:
    verdicts = decide(network, features, ALL_OFFLOADED, LocalSecondExit(network, CPU), CPU)
    assert verdicts.offloaded.all()
    assert np.array_equal(verdicts.prediction, verdicts.prediction_2)


def test_a_certainty_equal_to_its_threshold_is_accepted(network: CalibratedNetwork, features: FloatArray) -> None:
    first = decide(network, features[:1], NONE_OFFLOADED, never, CPU)
    exact = float(first.certainty_1[0])
    above = math.nextafter(exact, 2.0)
    assert not decide(network, features[:1], Thresholds(exact, exact, 1, 1), never, CPU).offloaded.any()
    local = LocalSecondExit(network, CPU)
    assert decide(network, features[:1], Thresholds(above, above, 1, 1), local, CPU).offloaded.all()


def test_the_csv_says_what_was_not_asked_what_was_rejected_and_where_the_class_is_unknown(verdicts: Verdicts) -> None:
    text = verdict_table(verdicts, None).to_csv(index=False)
    read = pd.read_csv(io.StringIO(text), keep_default_na=False, dtype=str)
    assert list(read.columns) == list(OFFLOAD_COLUMNS)
    asked, rejected = verdicts.offloaded, verdicts.rejected
    assert set(read["class"]) == {"N/A"}
    assert set(read["exit_2_certainty"][~asked]) == set(read["exit_2_prediction"][~asked]) == {"N/A"}
    assert set(read["final_prediction"][rejected]) == {REJECTED} == {"rejected"}
    assert set(read["final_prediction"][~rejected]) == {"0", "1"}
    assert set(read["exit_2_prediction"][asked]) == {"0", "1"}
    assert np.array_equal(read["final_certainty"].astype(float), verdicts.certainty)


def plain_counts(table: pd.DataFrame) -> Counter[tuple[int, int, int]]:
    """Count (fate, true class, predicted class) row by row from the CSV's table."""
    counts: Counter[tuple[int, int, int]] = Counter()
    for row in table.to_dict("records"):
        if row["exit_2_prediction"] == NOT_ASKED:
            counts[0, row["class"], row["exit_1_prediction"]] += 1
        else:
            fate = 2 if row["final_prediction"] == REJECTED else 1
            counts[fate, row["class"], row["exit_2_prediction"]] += 1
    return counts


def test_a_tally_counts_fates_classes_and_predictions(verdicts: Verdicts, labels: NDArray[np.int64]) -> None:
    counted = tally(verdicts, labels)
    plain = plain_counts(verdict_table(verdicts, labels))
    for index, number in np.ndenumerate(counted.counts):
        assert number == plain[index]
    correct = sum(number for (fate, truth, said), number in plain.items() if fate < 2 and truth == said)
    accepted = sum(number for (fate, _, _), number in plain.items() if fate < 2)
    assert counted.accuracy == correct / accepted
    assert counted.events == ROWS
    assert counted.offloaded == int(verdicts.offloaded.sum())
    assert counted.rejected == int(verdicts.rejected.sum()) > 0


def test_the_tallies_of_batches_add_up_to_that_of_the_whole(
    network: CalibratedNetwork, features: FloatArray, labels: NDArray[np.int64], verdicts: Verdicts
) -> None:
    total = None
    local = LocalSecondExit(network, CPU)
    for start in range(0, ROWS, 70):
        rows = slice(start, start + 70)
        counted = tally(decide(network, features[rows], THRESHOLDS, local, CPU), labels[rows])
        total = counted if total is None else total + counted
    assert total is not None
    assert total.events == ROWS
    assert total.summary() == tally(verdicts, labels).summary()
    assert np.array_equal(total.counts, tally(verdicts, labels).counts)


def test_unlabelled_events_are_counted_without_an_accuracy(verdicts: Verdicts, labels: NDArray[np.int64]) -> None:
    unlabelled, labelled = tally(verdicts, None), tally(verdicts, labels)
    assert np.array_equal(unlabelled.counts.sum(axis=1), labelled.counts.sum(axis=1))
    assert (unlabelled.events, unlabelled.offloaded, unlabelled.rejected) == (
        labelled.events,
        labelled.offloaded,
        labelled.rejected,
    )
    assert math.isnan(unlabelled.accuracy)
    assert math.isnan((unlabelled + labelled).accuracy)
    for text in (unlabelled.summary(), unlabelled.table()):
        assert "accuracy" not in text and "nan" not in text


def test_a_tally_without_accepted_events_shows_a_dash_for_what_is_unknown() -> None:
    counts = np.zeros((3, 2, 2), np.int64)
    counts[2, 0, 1] = 5
    table = Tally(counts, labelled=True).table()
    assert "nan" not in table
    assert table.splitlines()[1].split() == ["exit", "1", "0", "0.0%", "-%", "0", "0", "0", "0"]
    assert table.splitlines()[3].split() == ["rejected", "5", "100.0%", "0.00%", "0", "5", "0", "0"]


class Echo:
    """A worker whose logits are the first two features, so that every row can be told from every other."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.ids: list[str] = []

    def __call__(self, body: bytes, request_id: str) -> bytes:
        request = decode_request(body, Limits(FINGERPRINT, (2, 1, 1)))
        assert request.request_id == request_id
        self.sizes.append(len(request.tensor))
        self.ids.append(request_id)
        logits = request.tensor.reshape(len(request.tensor), -1)[:, :2]
        return encode_answer(Answer(request_id, FINGERPRINT, "echo", 1.0, logits))


def numbered(count: int) -> tuple[FloatArray, FloatArray]:
    """Return features and activations (2, 1, 1) whose first two values name the row."""
    features = np.zeros((count, 58), np.float32)
    features[:, 0], features[:, 1] = np.arange(count), -np.arange(count)
    return features, features[:, :2].reshape(count, 2, 1, 1)


@pytest.mark.parametrize("payload", [FEATURES, ACTIVATIONS])
@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (1, [1]),
        (MAX_EVENTS, [MAX_EVENTS]),
        (MAX_EVENTS + 1, [MAX_EVENTS, 1]),
        (2 * MAX_EVENTS + 9, [MAX_EVENTS, MAX_EVENTS, 9]),
    ],
)
def test_many_events_are_split_into_requests_and_joined_again_in_order(
    payload: str, count: int, sizes: list[int]
) -> None:
    echo = Echo()
    features, activations = numbered(count)
    answers = RemoteSecondExit(echo, FINGERPRINT, "edge", payload)(features, activations)
    assert np.array_equal(answers, features[:, :2])
    assert echo.sizes == sizes
    assert len(set(echo.ids)) == len(sizes)


def test_the_bytes_of_the_link_are_counted() -> None:
    remote = RemoteSecondExit(Echo(), FINGERPRINT, "edge", FEATURES)
    remote(*numbered(100))
    sent, received = remote.bytes_sent, remote.bytes_received
    assert 100 * 232 < sent < 100 * 232 + 1000
    assert 100 * 8 < received < 100 * 8 + 1000
    remote(*numbered(100))
    assert (remote.bytes_sent, remote.bytes_received) == (2 * sent, 2 * received)


def test_a_refusal_is_an_error_that_says_what_the_worker_said() -> None:
    def refuse(_body: bytes, request_id: str) -> bytes:
        return encode_refusal(Refusal(request_id, "wrong-model", "start both with the same checkpoint"))

    with pytest.raises(CloudError, match="wrong-model: start both with the same checkpoint"):
        RemoteSecondExit(refuse, FINGERPRINT, "edge", FEATURES)(*numbered(3))


@pytest.mark.parametrize(
    "reply",
    [b"", b"garbage", encode_answer(Answer(new_id(), FINGERPRINT, "w", 1.0, np.zeros((3, 2), np.float32)))],
)
def test_a_reply_that_is_none_of_ours_is_an_error(reply: bytes) -> None:
    with pytest.raises(MessageError):
        RemoteSecondExit(lambda _body, _id: reply, FINGERPRINT, "edge", FEATURES)(*numbered(3))


@pytest.mark.parametrize("payload", [FEATURES, ACTIVATIONS])
def test_events_decided_with_a_worker_are_decided_as_they_are_without(
    payload: str, network: CalibratedNetwork, features: FloatArray, labels: NDArray[np.int64], verdicts: Verdicts
) -> None:
    cloud = Cloud(network, CPU, "cloud")
    remote = RemoteSecondExit(
        lambda body, request_id: cloud.answer(body, request_id)[0], fingerprint(network), "edge", payload
    )
    offloaded = decide(network, features, THRESHOLDS, remote, CPU)
    assert cloud.events == offloaded.offloaded.sum() > 0
    assert np.array_equal(offloaded.prediction, verdicts.prediction)
    assert np.array_equal(offloaded.rejected, verdicts.rejected)
    assert np.allclose(offloaded.certainty, verdicts.certainty, rtol=0, atol=1e-5)
    assert np.array_equal(tally(offloaded, labels).counts, tally(verdicts, labels).counts)
