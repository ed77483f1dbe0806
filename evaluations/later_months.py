"""Thresholds chosen on one month, judged on later ones: what every system decides there, and its rates.

What is chosen is chosen by ``choose`` alone, which sees one month; what is judged is judged by ``decisions``. So no
label and no row of a later month can have a say in a threshold. The one exception is for comparison only and sees no
labels: acceptances that were equal on the month of the choice drift apart on later ones, and who accepts less has the
easier events. So each classifier is shown once more with as many events accepted as the two exits accept in that subset
of that month.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from evaluations.baselines import MATCHED, REJECT, Answers, decide, decide_as_many, least_certainty
from evaluations.measurement import Parts, measure_parts
from evaluations.months import Month, subsets
from models.prediction import Progress, no_progress
from utils.costs import event_costs
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
"""Subset -> system -> what it decided about the subset's rows."""

Chooser = Callable[[Evaluation, float], Thresholds]
"""From what both exits answered, and the least acceptance, to thresholds."""


@dataclass(frozen=True)
class Costs:
    """What an event costs in seconds.

    Attributes:
        exit_1: decided there.
        offloaded: by exit 1, which was not certain.
        exit_2: sent there without a look at exit 1.
        reference: by the network that costs are compared with.
    """

    exit_1: float
    offloaded: float
    exit_2: float
    reference: float


@dataclass(frozen=True)
class Choice:
    """All that was chosen on one month for one network.

    Attributes:
        thresholds: of the system.
        by_class: of exit 1 alone, one for each class, at the same acceptance.
        least: classifier -> certainty from which on it is accepted, at the same acceptance.
    """

    thresholds: Thresholds
    by_class: Thresholds
    least: Mapping[str, float]


def measure(parts: Parts, month: Month, progress: Progress = no_progress) -> Evaluation:
    """Return what both exits answer to a month's rows, and the mean cost of each part in CPU time.

    Vectors that repeat are computed once. Each event has the mean cost: what thresholds are then chosen follows from
    the answers alone, and not from the noise of a clock.
    """
    first = month.first
    table = measure_parts(parts, month.features[first], month.labels[first], BATCH_SIZE, progress=progress)
    each = Evaluation(*(table[name].to_numpy() for name in EVALUATION_COLUMNS))
    mean = replace(each, **{name: np.full(len(each), getattr(each, name).mean()) for name in _TIMES})
    return _of_rows(mean, month)


def answer(parts: Parts, month: Month, measured: Evaluation, progress: Progress = no_progress) -> Evaluation:
    """Return what both exits answer to a month's rows, at the cost that was measured on another month."""
    costs = {name: np.full(len(month), getattr(measured, name)[0]) for name in _TIMES}
    return replace(measure(parts, month, progress), **costs)


def answer_single(parts: Parts, month: Month, progress: Progress = no_progress) -> tuple[Answers, float]:
    """Return what a single-exit network answers to a month's rows, and the seconds of CPU time an event."""
    first = month.first
    table = measure_parts(parts, month.features[first], month.labels[first], BATCH_SIZE, progress=progress)
    _, prediction, certain, time = (table[name].to_numpy() for name in SINGLE_EXIT_EVALUATION_COLUMNS)
    return Answers(prediction[month.place], certain[month.place]), float(time.mean())


def mean_costs(
    measured: Evaluation, model: str, cost_per_offload: float | None = None, single_exit: float | None = None
) -> Costs:
    """Return the costs of a network with two exits.

    Args:
        measured: on the month of the choice.
        model: see ``utils.costs``.
        cost_per_offload: seconds, for the model ``edge``.
        single_exit: seconds of the single-exit network; None: it is compared with its own whole path to exit 2.
    """
    exit_1, offloaded = (float(cost.mean()) for cost in event_costs(measured, model, cost_per_offload))
    whole = float((measured.time_segment_1 + measured.time_segment_2 + measured.time_exit_2).mean())
    # Whoever asks exit 2 always needs no head 1, even where the model charges an offloaded event for it.
    exit_2 = offloaded if model == "edge" else whole
    return Costs(exit_1, offloaded, exit_2, whole if single_exit is None else single_exit)


def with_exits(evaluation: Evaluation, others: Mapping[str, Answers]) -> dict[str, Answers]:
    """Return the answers of each exit alone beside those of other classifiers to the same rows."""
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
        evaluation: what both exits answered.
        answers: of each classifier to the same rows, see ``with_exits``.
        min_acceptance: of the system; what it comes to accept, the others must accept, too.
        system: chooses the system's operating point.
        exit_1_alone: chooses thresholds of least error; exit 2 answers nothing there.

    Raises:
        InfeasibleError: no thresholds accept that many.
    """
    thresholds = system(evaluation, min_acceptance)
    outcome = evaluation.decide(thresholds).outcome()
    least = {
        name: least_certainty(given.certainties, outcome.accepted)
        for name, given in answers.items()
        if given.certainties is not None
    }
    return Choice(thresholds, exit_1_alone(_without_exit_2(evaluation), outcome.acceptance), least)


def decisions(evaluation: Evaluation, answers: Mapping[str, Answers], choice: Choice, month: Month) -> Decided:
    """Return what every system decides about a month's rows, as was chosen before.

    Args:
        evaluation: what both exits answered.
        answers: of each classifier, see ``with_exits``.
        choice: the thresholds.
        month: the rows; their own majorities give the bound, which no classifier passes that sees the vectors alone.
    """
    system = evaluation.decide(choice.thresholds)
    by_class = _without_exit_2(evaluation).decide(choice.by_class)
    bound = decide(month.labels, Answers(month.majority[month.place]))
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
    """Return the answers as if exit 2 were certain of nothing."""
    return replace(evaluation, certainty_2=np.zeros(len(evaluation)))


def _of_rows(of_vectors: Evaluation, month: Month) -> Evaluation:
    """Return the answers to a month's rows from those to its distinct vectors."""
    columns: list[NDArray[np.float64]] = [column[month.place] for column in vars(of_vectors).values()]
    return replace(Evaluation(*columns), labels=month.labels)  # type: ignore[arg-type]
