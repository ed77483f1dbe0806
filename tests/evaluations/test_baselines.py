import numpy as np
import pytest
from numpy.typing import NDArray

from dataset.records.scaling import PUBLISHED
from evaluations.baselines import (
    BOOSTING,
    MAJORITY,
    RULE,
    TREE,
    Answers,
    apply_one_line_rule,
    decide,
    decide_as_many,
    fit_baselines,
    least_certainty,
)
from evaluations.months import make_month, read_month
from tests.captures import SHARED, needs_shared
from tests.evaluations.small_months import month, rows_of
from utils.schema import FEATURES

PROBES, _ = rows_of(5, 300)


def raw_row(**changed: float) -> NDArray[np.float64]:
    """Return raw features of a flow of 60-byte frames, all of b's."""
    row = dict(zip(FEATURES, PUBLISHED.minimums, strict=True)) | {
        f"MOORE_{name}": value for name, value in changed.items()
    }
    return np.array([list(row.values())])


@pytest.mark.parametrize(
    ("changed", "attack"),
    [
        ({}, 0),
        ({"syn_pkts_sent_b_a": 1.0, "ack_pkts_sent_b_a": 3.0}, 0),
        ({"maximumDataWire": 61.0}, 1),
        ({"minimumDataWire": 64.0, "maximumDataWire": 64.0}, 1),
        ({"syn_pkts_sent_a_b": 1.0}, 1),
        ({"ack_pkts_sent_a_b": 1.0}, 1),
    ],
)
def test_the_rule_says_normal_only_where_all_frames_are_60_bytes_and_a_sent_neither_syn_nor_ack(
    changed: dict[str, float], attack: int
) -> None:
    raw = raw_row(**changed)
    assert apply_one_line_rule(raw).predictions.tolist() == [attack]
    assert apply_one_line_rule(
        PUBLISHED.unscale(PUBLISHED.scale(raw).astype(np.float32).astype(np.float64))
    ).predictions.tolist() == [attack]


@needs_shared
def test_the_rule_has_the_measured_error() -> None:
    months = [read_month([SHARED / "data" / "dataset" / f"2016_{number:02}.csv"]) for number in range(3, 9)]
    rule = fit_baselines(month(1), PUBLISHED.unscale)[RULE]
    accuracies = [(rule(of.features).predictions == of.labels).mean() for of in months]
    assert np.mean(accuracies) == pytest.approx(0.912, abs=0.001)


def test_the_majority_class_is_that_of_the_training_rows_and_in_a_tie_attack() -> None:
    features, _ = rows_of(1, 4)
    for labels, expected in (([0, 0, 0, 1], 0), ([1, 1, 0, 1], 1), ([0, 1, 0, 1], 1)):
        fitted = fit_baselines(make_month("m", features, np.array(labels)), PUBLISHED.unscale)
        assert fitted[MAJORITY](PROBES).predictions.tolist() == [expected] * 300


def test_a_baseline_does_not_depend_on_the_order_of_its_training_rows() -> None:
    features, labels = rows_of(1, 500)
    order = np.random.default_rng(0).permutation(500)
    one = fit_baselines(make_month("m", features, labels), PUBLISHED.unscale)
    other = fit_baselines(make_month("m", features[order], labels[order]), PUBLISHED.unscale)
    for name in (TREE, BOOSTING):
        ours, theirs = one[name](PROBES), other[name](PROBES)
        assert ours.certainties is not None and theirs.certainties is not None
        assert set(ours.predictions) == {0, 1}
        assert ours.certainties.tolist() == theirs.certainties.tolist()
        assert ours.predictions.tolist() == theirs.predictions.tolist()


def test_a_certainty_is_the_probability_of_the_class_that_is_answered() -> None:
    fitted = fit_baselines(month(1, rows=500), PUBLISHED.unscale)
    for name in (TREE, BOOSTING):
        certainties = fitted[name](PROBES).certainties
        assert certainties is not None
        assert 0.5 <= certainties.min() < certainties.max() <= 1
    assert fitted[RULE](PROBES).certainties is fitted[MAJORITY](PROBES).certainties is None


def test_the_threshold_is_the_strictest_that_accepts_enough() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        certainties = generator.integers(50, 60, size=40) / 100
        accepted = int(generator.integers(1, 41))
        by_threshold = {value: int((certainties >= value).sum()) for value in set(certainties.tolist())}
        enough = [value for value, count in by_threshold.items() if count >= accepted]
        assert least_certainty(certainties, accepted) == max(enough)


def test_exactly_as_many_of_the_most_certain_are_accepted_and_a_part_of_equal_ones() -> None:
    generator = np.random.default_rng(0)
    labels = np.zeros(40, dtype=np.int64)
    for accepted in range(41):
        certainties = generator.integers(50, 60, size=40) / 100
        at_1 = decide_as_many(labels, Answers(labels, certainties), accepted).at_1
        assert at_1.sum() == accepted
        assert accepted in (0, 40) or certainties[at_1].min() >= certainties[~at_1].max()
    nobody = np.zeros(0, dtype=np.int64)
    assert decide_as_many(nobody, Answers(nobody, np.zeros(0)), 0).count().rows == 0


def test_each_label_has_its_share_among_equally_certain_rows() -> None:
    labels = np.repeat([0, 1], (60, 30))
    counts = decide_as_many(labels, Answers(np.ones_like(labels), np.full(90, 0.7)), 45).count()
    assert (counts.accepted, counts.attacks) == (45, 15)


def test_a_classifier_rejects_answers_below_its_threshold() -> None:
    labels, answers = np.array([0, 1, 1]), Answers(np.array([0, 0, 1]), np.array([0.9, 0.6, 0.7]))
    assert decide(labels, answers).at_1.tolist() == [True] * 3
    decided = decide(labels, answers, 0.7)
    assert (decided.at_1.tolist(), decided.at_2.tolist()) == ([True, False, True], [False] * 3)
    counts = decided.count()
    assert (counts.accepted, counts.error) == (2, 0.0)
    assert decide(labels, Answers(answers.predictions), 0.99).at_1.all()
