from dataclasses import replace

import numpy as np
import pytest
import torch

from dataset.records.scaling import PUBLISHED
from evaluations.baselines import BOOSTING, MATCHED, REJECT, TREE, Answers, fit_baselines
from evaluations.exit_timing import measure_parts, split_network
from evaluations.later_months import (
    BOUND,
    BY_CLASS,
    EXIT_1,
    EXIT_2,
    SINGLE_EXIT,
    SYSTEM,
    Choice,
    add_exits,
    answer,
    answer_single,
    choose,
    compute_mean_costs,
    decide_month,
    measure_answers,
)
from evaluations.months import ALL_ROWS, DISTINCT, SUBSETS, Month, make_month
from models.prediction import predict
from nsga2.exact_front import find_exact_front
from nsga2.objectives import Objectives
from tests.evaluations.small_months import month, rows_of
from tests.networks import calibrated_network, new_network
from utils.classification_metrics import certainty
from utils.results import Evaluation
from utils.schema import Thresholds

TRAINING = month(1)
NETWORK = calibrated_network("MobileNetV2WithExits")
CPU = torch.device("cpu")
PARTS = split_network(NETWORK, CPU)
BASELINES = fit_baselines(TRAINING, PUBLISHED.unscale)


def repeated(number: int) -> Month:
    """Return a month many of whose rows repeat a vector."""
    features, labels = rows_of(number)
    chosen = np.random.default_rng(number).integers(60, size=200)
    return make_month(f"2016_{number:02}", features[chosen], labels[chosen], TRAINING.features)


CHOICE, LATER = repeated(2), repeated(3)


def least_error(evaluation: Evaluation, min_acceptance: float) -> Thresholds:
    front = find_exact_front(Objectives(evaluation), min_acceptance).front
    return front.point(int(front.objectives[:, 0].argmin()))


def answers(rows: Month, evaluation: Evaluation) -> dict[str, Answers]:
    return add_exits(evaluation, {name: classifier(rows.features) for name, classifier in BASELINES.items()})


def chosen(rows: Month) -> Choice:
    evaluation = measure_answers(PARTS, rows)
    return choose(evaluation, answers(rows, evaluation), 0.8, least_error, least_error)


def test_repeated_vectors_are_computed_once_and_answered_alike() -> None:
    computed = list[int]()
    measured = measure_answers(PARTS, CHOICE, computed.append)
    table = measure_parts(PARTS, CHOICE.features, CHOICE.labels, 1000)
    assert sum(computed) == len(CHOICE.first) < len(CHOICE)
    assert measured.labels.tolist() == CHOICE.labels.tolist()
    for number in (1, 2):
        assert getattr(measured, f"prediction_{number}").tolist() == table[f"y_exit_{number}"].tolist()
        np.testing.assert_allclose(getattr(measured, f"certainty_{number}"), table[f"cnf_exit_{number}"], atol=5e-5)
    assert set(measured.prediction_1) == {0, 1}  # or the order would not show


def test_every_event_has_the_mean_cost_of_the_chosen_month() -> None:
    measured = measure_answers(PARTS, CHOICE)
    later = answer(PARTS, LATER, measured)
    for name in ("time_segment_1", "time_exit_1", "time_segment_2", "time_exit_2"):
        (cost,) = set(getattr(measured, name).tolist())
        assert cost > 0
        assert set(getattr(later, name).tolist()) == {cost}
    again = answer(PARTS, CHOICE, measured)
    assert again.labels.tolist() == CHOICE.labels.tolist()
    for number in (1, 2):
        assert getattr(again, f"prediction_{number}").tolist() == getattr(measured, f"prediction_{number}").tolist()
        np.testing.assert_allclose(
            getattr(again, f"certainty_{number}"), getattr(measured, f"certainty_{number}"), rtol=0, atol=5e-5
        )


def test_a_month_is_answered_like_by_eager_pytorch() -> None:
    measured = measure_answers(PARTS, CHOICE)
    for evaluation in (measured, answer(PARTS, CHOICE, measured)):
        for number, logits in enumerate(predict(NETWORK, CHOICE.features, 1000), 1):
            prediction, certain = certainty(logits)
            np.testing.assert_allclose(getattr(evaluation, f"certainty_{number}"), certain, rtol=0, atol=5e-5)
            clear = certain > 0.5 + 5e-5  # else rounding decides
            assert (getattr(evaluation, f"prediction_{number}") == prediction)[clear].all() and clear.mean() > 0.5


def test_a_single_exit_network_answers_and_is_timed() -> None:
    found, seconds = answer_single(split_network(new_network("MobileNetV2"), CPU), LATER)
    assert (len(found.predictions), seconds > 0) == (len(LATER), True)
    assert found.certainties is not None and found.certainties.min() >= 0.5
    assert SINGLE_EXIT in add_exits(measure_answers(PARTS, LATER), {SINGLE_EXIT: found})


def test_costs_follow_the_model_and_the_reference_is_the_path_to_exit_2_or_the_single_exit() -> None:
    one = np.ones(2)
    measured = replace(
        measure_answers(PARTS, CHOICE),
        time_segment_1=one,
        time_exit_1=2 * one,
        time_segment_2=4 * one,
        time_exit_2=8 * one,
    )
    assert vars(compute_mean_costs(measured, "paper")) == {"exit_1": 3, "offloaded": 13, "exit_2": 13, "reference": 13}
    assert vars(compute_mean_costs(measured, "full", single_exit=20)) == {
        "exit_1": 3,
        "offloaded": 15,
        "exit_2": 13,
        "reference": 20,
    }
    assert vars(compute_mean_costs(measured, "edge", 0.5)) == {
        "exit_1": 3,
        "offloaded": 3.5,
        "exit_2": 3.5,
        "reference": 13,
    }


def test_on_the_chosen_month_every_system_accepts_at_least_as_many_as_the_two_exits() -> None:
    evaluation, choice = measure_answers(PARTS, CHOICE), chosen(CHOICE)
    decided = decide_month(evaluation, answers(CHOICE, evaluation), choice, CHOICE)[ALL_ROWS]
    accepted = {name: of_system.outcome().accepted for name, of_system in decided.items()}
    assert 0.8 * len(CHOICE) <= accepted[SYSTEM] < len(CHOICE)
    assert all(count >= accepted[SYSTEM] for name, count in accepted.items() if not name.endswith(MATCHED))
    for name in (EXIT_1, EXIT_2, BOOSTING):
        certainties = answers(CHOICE, evaluation)[name].certainties
        assert certainties is not None
        stricter = certainties[certainties > choice.least[name]]
        assert len(stricter) < accepted[SYSTEM] <= accepted[name + REJECT]


def test_exit_1_alone_by_class_has_the_lowest_error_of_two_thresholds_at_that_acceptance() -> None:
    evaluation, choice = measure_answers(PARTS, CHOICE), chosen(CHOICE)
    least = evaluation.decide(choice.thresholds).outcome().accepted
    wrong = evaluation.prediction_1 != evaluation.labels
    tried = np.append(np.unique(evaluation.certainty_1), 1.1)
    best = 1.0
    for normal in tried:
        for attack in tried:
            accepted = evaluation.certainty_1 >= np.where(evaluation.prediction_1 == 1, attack, normal)
            if accepted.sum() >= least:
                best = min(best, float(wrong[accepted].mean()))
    decided = decide_month(evaluation, answers(CHOICE, evaluation), choice, CHOICE)[ALL_ROWS][BY_CLASS]
    assert decided.outcome().error == pytest.approx(best)
    assert not decided.at_2.any()


def test_exit_1_alone_must_accept_as_many_as_the_two_exits_do() -> None:
    evaluation = measure_answers(PARTS, CHOICE)
    told, all_of_them = answers(CHOICE, evaluation), Thresholds(0.5, 0.5, 0.5, 0.5)
    choice = choose(evaluation, told, 0.8, lambda _evaluation, _least: all_of_them, least_error)
    decided = decide_month(evaluation, told, choice, CHOICE)[ALL_ROWS]
    assert decided[SYSTEM].outcome().acceptance == decided[BY_CLASS].outcome().acceptance == 1
    assert decided[BOOSTING + REJECT].outcome().acceptance == 1


def test_the_two_exits_decide_a_later_month_by_the_thresholds_alone() -> None:
    evaluation, choice = answer(PARTS, LATER, measure_answers(PARTS, CHOICE)), chosen(CHOICE)
    decided = decide_month(evaluation, answers(LATER, evaluation), choice, LATER)
    assert tuple(decided) == SUBSETS
    assert decided[ALL_ROWS][SYSTEM].outcome() == evaluation.decide(choice.thresholds).outcome()
    assert decided[DISTINCT][SYSTEM].labels.tolist() == LATER.majority.tolist()
    assert decided[DISTINCT][BOUND].outcome().error == 0
    assert len(decided[DISTINCT][SYSTEM].labels) == len(LATER.first)


def test_a_matched_classifier_accepts_exactly_what_the_two_exits_accept_in_each_subset() -> None:
    evaluation, choice = answer(PARTS, LATER, measure_answers(PARTS, CHOICE)), chosen(CHOICE)
    decided = decide_month(evaluation, answers(LATER, evaluation), choice, LATER)
    for by_system in decided.values():
        accepted = by_system[SYSTEM].outcome().accepted
        assert 0 < accepted < len(by_system[SYSTEM].labels)
        assert {by_system[name + MATCHED].outcome().accepted for name in (EXIT_1, EXIT_2, TREE, BOOSTING)} == {accepted}


def test_the_bound_predicts_each_vectors_majority() -> None:
    evaluation = answer(PARTS, LATER, measure_answers(PARTS, CHOICE))
    decided = decide_month(evaluation, answers(LATER, evaluation), chosen(CHOICE), LATER)[ALL_ROWS][BOUND]
    rows_by_vector: dict[bytes, list[int]] = {}
    for row, label in zip(LATER.features, LATER.labels.tolist(), strict=True):
        rows_by_vector.setdefault(bytes(row), []).append(label)
    right = sum(max(labels.count(0), labels.count(1)) for labels in rows_by_vector.values())
    assert decided.outcome().accuracy == pytest.approx(right / len(LATER))
