"""Choose thresholds on one month, and decide later months with them.

``choose`` reads one month only, and ``decide_month`` changes no threshold, so no row and no label of a later month
influences a threshold. There is one exception, for comparison only: acceptances that are equal on the month of the
choice differ on later months, and a system that accepts fewer events keeps the easier ones. So each classifier is also
evaluated with as many events accepted as the two exits accept in the same subset of the same month. This depends on
the certainties of the later month, but not on its labels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluations.baselines import MATCHED, REJECT, Answers, decide, decide_as_many, least_certainty
from evaluations.exit_timing import Parts, measure_parts
from evaluations.months import Month, subsets
from models.prediction import Progress, no_progress
from utils.cost_models import event_costs
from utils.decision import Decisions
from utils.results import Evaluation
from utils.schema import EVALUATION_COLUMNS, SINGLE_EXIT_EVALUATION_COLUMNS, Thresholds

SYSTEM: Final = "two exits"
EXIT_1: Final = "exit 1"
EXIT_2: Final = "exit 2"
SINGLE_EXIT: Final = "single exit"
BY_CLASS: Final = EXIT_1 + REJECT + " by class"
BOUND: Final = "best by exact match"

BATCH_SIZE: Final = 1000
_TIMES: Final = ("time_segment_1", "time_exit_1", "time_segment_2", "time_exit_2")

Decided = Mapping[str, Mapping[str, Decisions]]
"""Subset -> system -> its decisions about the subset's rows."""

Chooser = Callable[[Evaluation, float], Thresholds]
"""Returns the thresholds chosen on an evaluation, at a least acceptance."""


@dataclass(frozen=True)
class Costs:
    """The mean costs of an event in seconds.

    Attributes:
        exit_1: if exit 1 accepts it.
        offloaded: if exit 1 is uncertain and the event is offloaded.
        exit_2: if exit 2 decides it without exit 1.
        reference: the cost that the others are compared with.
    """

    exit_1: float
    offloaded: float
    exit_2: float
    reference: float


@dataclass(frozen=True)
class Choice:
    """Thresholds that were chosen on one month for one network.

    Attributes:
        thresholds: of both exits.
        by_class: of exit 1 alone, one for each class, at the same acceptance.
        least: classifier -> its one threshold, at the same acceptance or just above.
    """

    thresholds: Thresholds
    by_class: Thresholds
    least: Mapping[str, float]


def measure_answers(parts: Parts, month: Month, progress: Progress = no_progress) -> Evaluation:
    """Return both exits' answers for a month's rows, and the mean cost of each part in CPU time.

    Repeated vectors are computed once. Every event gets the mean cost, so that the thresholds depend on the answers
    and not on timing noise.
    """
    first = month.first
    table = measure_parts(parts, month.features[first], month.labels[first], BATCH_SIZE, progress=progress)
    each = Evaluation(*(table[name].to_numpy() for name in EVALUATION_COLUMNS))
    mean = replace(each, **{name: np.full(len(each), getattr(each, name).mean()) for name in _TIMES})
    return _of_rows(mean, month)


def answer(parts: Parts, month: Month, measured: Evaluation, progress: Progress = no_progress) -> Evaluation:
    """Return both exits' answers for a month's rows, with the costs that were measured on another month."""
    costs = {name: np.full(len(month), getattr(measured, name)[0]) for name in _TIMES}
    return replace(measure_answers(parts, month, progress), **costs)


def answer_single(parts: Parts, month: Month, progress: Progress = no_progress) -> tuple[Answers, float]:
    """Return a single-exit network's answers for a month's rows, and its CPU time per event in seconds."""
    first = month.first
    table = measure_parts(parts, month.features[first], month.labels[first], BATCH_SIZE, progress=progress)
    _, prediction, certain, time = (table[name].to_numpy() for name in SINGLE_EXIT_EVALUATION_COLUMNS)
    return Answers(prediction[month.vector_index], certain[month.vector_index]), float(time.mean())


def compute_mean_costs(
    measured: Evaluation, model: str, cost_per_offload: float | None = None, single_exit: float | None = None
) -> Costs:
    """Return the mean costs of an event in a network with two exits.

    Args:
        measured: the evaluation of the month on which thresholds are chosen.
        model: see ``utils.cost_models``.
        cost_per_offload: seconds, for the model ``edge``.
        single_exit: seconds per event of the single-exit network, which is then the reference; None: the reference is
            the network's own path to exit 2.
    """
    exit_1, offloaded = (float(cost.mean()) for cost in event_costs(measured, model, cost_per_offload))
    whole = float((measured.time_segment_1 + measured.time_segment_2 + measured.time_exit_2).mean())
    # Exit 2 alone does not run head 1, even if the model counts head 1 for offloaded events.
    exit_2 = offloaded if model == "edge" else whole
    return Costs(exit_1, offloaded, exit_2, whole if single_exit is None else single_exit)


def add_exits(evaluation: Evaluation, others: Mapping[str, Answers]) -> dict[str, Answers]:
    """Return the answers of each exit alone, and those of other classifiers, for the same rows."""
    return {
        EXIT_1: Answers(evaluation.prediction_1, evaluation.certainty_1),
        EXIT_2: Answers(evaluation.prediction_2, evaluation.certainty_2),
        **others,
    }


def choose(
    evaluation: Evaluation,
    answers: Mapping[str, Answers],
    min_acceptance: float,
    system: Chooser,
    exit_1_alone: Chooser,
) -> Choice:
    """Choose all thresholds on one month.

    Args:
        evaluation: both exits' answers.
        answers: of each classifier for the same rows; see ``add_exits``.
        min_acceptance: least acceptance of the two exits; all other systems must accept at least as many events as the
            two exits then accept.
        system: chooses the operating point of the two exits.
        exit_1_alone: chooses thresholds of lowest error, without exit 2.

    Raises:
        InfeasibleError: no thresholds reach the least acceptance.
    """
    thresholds = system(evaluation, min_acceptance)
    outcome = evaluation.decide(thresholds).outcome()
    least = {
        name: least_certainty(given.certainties, outcome.accepted)
        for name, given in answers.items()
        if given.certainties is not None
    }
    return Choice(thresholds, exit_1_alone(_without_exit_2(evaluation), outcome.acceptance), least)


def decide_month(evaluation: Evaluation, answers: Mapping[str, Answers], choice: Choice, month: Month) -> Decided:
    """Return every system's decisions about a month's rows.

    Args:
        evaluation: both exits' answers.
        answers: of each classifier; see ``add_exits``.
        choice: the thresholds.
        month: the rows. The majority labels of its vectors are the system ``BOUND``: no classifier that sees only the
            vectors has a lower error on all rows.
    """
    system = evaluation.decide(choice.thresholds)
    by_class = _without_exit_2(evaluation).decide(choice.by_class)
    bound = decide(month.labels, Answers(month.majority[month.vector_index]))
    result: dict[str, dict[str, Decisions]] = {}
    for subset in subsets(month):
        decided = {SYSTEM: subset.of(system)}
        accepted = decided[SYSTEM].outcome().accepted
        for name, given in answers.items():
            of_subset = given.of(subset.rows)
            decided[name] = decide(subset.labels, of_subset)
            if of_subset.certainties is not None:
                decided[name + REJECT] = decide(subset.labels, of_subset, choice.least[name])
                decided[name + MATCHED] = decide_as_many(subset.labels, of_subset, accepted)
            if name == EXIT_1:
                decided[BY_CLASS] = subset.of(by_class)
        result[subset.name] = {**decided, BOUND: subset.of(bound)}
    return result


def _without_exit_2(evaluation: Evaluation) -> Evaluation:
    """Return the evaluation with certainties of 0 at exit 2, so that exit 2 accepts nothing."""
    return replace(evaluation, certainty_2=np.zeros(len(evaluation)))


def _of_rows(of_vectors: Evaluation, month: Month) -> Evaluation:
    """Return the evaluation of all rows of a month from that of its distinct vectors."""
    columns: list[NDArray[np.float64]] = [column[month.vector_index] for column in vars(of_vectors).values()]
    return replace(Evaluation(*columns), labels=month.labels)  # type: ignore[arg-type]
