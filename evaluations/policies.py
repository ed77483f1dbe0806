"""Decide the months after the choice of thresholds in order of time, and react to what becomes known in between.

The labels of a month are known when the next month begins, all or a random part of them. A policy says what is done:

- ``frozen``: network and thresholds stay as they are.
- ``watched``: the traffic is watched without labels; kinds of events whose share has risen are not accepted.
- ``recertified``: as watched; before each month, thresholds are certified again on the latest labels, and vectors whose
  labels are changing are not accepted (``utils.label_drift``). The labels that find these vectors also test thresholds,
  so the certificates are slightly optimistic; ``nsga2/certify-thresholds.py`` keeps both apart.
- ``renewed``: as watched; before each month, the network is trained further on all labels so far, thresholds are chosen
  on the latest labels, which the training has not seen, and vectors whose labels are changing are not accepted.

No label of a month influences how it is decided, nor do its other rows, except those that the watch has already seen.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from evaluations.defaults import FROZEN, RECERTIFIED, RENEWED
from utils.decision import DecisionCounts, Decisions
from utils.drift_watch import watch_rows
from utils.errors import InfeasibleError
from utils.label_drift import find_unstable_vectors
from utils.labelled_rows import LabelledRows, draw_rows, hold_back, join_rows, leave_out
from utils.results import Evaluation
from utils.schema import Thresholds
from utils.traffic_reference import Reference, compute_scores, make_reference

HELD_BACK: Final = 1000
"""Latest labelled rows that thresholds are chosen on."""
BATCH_SIZE: Final = 100
"""Rows that the watch sees at once, as many as a client's batch has by default."""


class Learner(Protocol):
    """A network, or another classifier with two exits, that can be renewed."""

    @property
    def name(self) -> str:
        """Kind of the classifier."""

    @property
    def seed(self) -> str:
        """Seed of its training."""

    def answer(self, rows: LabelledRows) -> Evaluation:
        """Return the answers of both exits."""

    def renew(self, months: Sequence[LabelledRows], held_back: LabelledRows) -> "Learner":
        """Return a learner that was trained on all the months, and calibrated on the rows that are held back."""


@dataclass(frozen=True)
class PolicySettings:
    """How policies choose.

    Attributes:
        choose: returns thresholds for an evaluation of rows that the network was not trained on.
        certify: likewise, for ``recertified``.
        labels_per_month: how many random rows of each later month get a label; None: all.
        tolerance: of the watch.
        seed: of the choice of rows that get a label, or are held back.
    """

    choose: Callable[[Evaluation], Thresholds]
    certify: Callable[[Evaluation], Thresholds]
    labels_per_month: int | None
    tolerance: float
    seed: int


@dataclass(frozen=True)
class MonthResult:
    """How a month was decided.

    Attributes:
        network, seed: of the learner.
        policy: one of ``POLICIES``.
        month: its name.
        counts: of the decisions.
        labels: rows of the month before that had got a label for this month's decisions.
        until_alarm: rows until the first alarm of the watch; 0: none.
        distrusted: number of vectors that are not accepted because their labels were changing.
        is_certified: whether the thresholds are certified.
        change: the vector of which most more events were wrong than on the latest labels, in words.
    """

    network: str
    seed: str
    policy: str
    month: str
    counts: DecisionCounts
    labels: int
    until_alarm: int
    distrusted: int
    is_certified: bool
    change: str


@dataclass(frozen=True)
class _Setup:
    """What decides a month: the learner, its thresholds, and what the traffic is compared with."""

    learner: Learner
    thresholds: Thresholds
    reference: Reference
    latest: LabelledRows
    is_certified: bool = False


def run_policy(
    policy: str,
    learner: Learner,
    past: Sequence[LabelledRows],
    later: Sequence[LabelledRows],
    settings: PolicySettings,
    report: Callable[[MonthResult], object] = lambda _result: None,
) -> list[MonthResult]:
    """Decide the later months with a policy.

    Args:
        policy: one of ``POLICIES``.
        learner: trained on the first of the past months.
        past: labelled months, of which the last is the month of the choice; two or more.
        later: the months to decide.
        settings: how to choose.
        report: called with the result of each month.

    Raises:
        InfeasibleError: the thresholds cannot be chosen on the month of the choice.
    """
    results = []
    setup = _make_first_setup(learner, past[-1], settings)
    known, labels = list(past), 0
    for latest, month in zip((past[-1], *later[:-1]), later, strict=True):
        if policy in {RECERTIFIED, RENEWED}:
            react = _renew if policy == RENEWED else _certify
            setup = react(setup, known, latest, settings)
        results.append(_decide_month(policy, setup, month, labels))
        report(results[-1])
        if policy in {RECERTIFIED, RENEWED}:
            count = settings.labels_per_month or len(month)
            known.append(draw_rows(month, count, settings.seed + len(known)))
            labels = len(known[-1])
    return results


def _make_first_setup(learner: Learner, choice: LabelledRows, settings: PolicySettings) -> _Setup:
    """Choose on the month of the choice."""
    evaluation = learner.answer(choice)
    return _Setup(learner, settings.choose(evaluation), _make_reference_of(choice, evaluation, settings, None), choice)


def _renew(setup: _Setup, known: Sequence[LabelledRows], month: LabelledRows, settings: PolicySettings) -> _Setup:
    """Train further on all that is known, and choose on the latest of it; the reference is the whole latest month."""
    months, held = hold_back(known, HELD_BACK, settings.seed)
    learner = setup.learner.renew(months, held)
    unstable = find_unstable_vectors(known[-2], known[-1])
    thresholds = settings.choose(learner.answer(leave_out(held, unstable)))
    reference = _make_reference_of(month, learner.answer(month), settings, unstable)
    return _Setup(learner, thresholds, reference, known[-1])


def _certify(setup: _Setup, known: Sequence[LabelledRows], month: LabelledRows, settings: PolicySettings) -> _Setup:
    """Certify thresholds on the latest labels; without a certificate, the thresholds stay as they are."""
    unstable = find_unstable_vectors(known[-2], known[-1])
    # The first month is the one that the network was trained on.
    latest = _take_latest(known[1:], HELD_BACK)
    reference = _make_reference_of(month, setup.learner.answer(month), settings, unstable)
    kept = replace(setup, reference=reference, latest=known[-1], is_certified=False)
    try:
        thresholds = settings.certify(setup.learner.answer(leave_out(latest, unstable)))
    except InfeasibleError:
        return kept
    return replace(kept, thresholds=thresholds, is_certified=True)


def _make_reference_of(
    rows: LabelledRows, evaluation: Evaluation, settings: PolicySettings, unstable: NDArray[np.float32] | None
) -> Reference:
    scores = compute_scores(evaluation.prediction_1, evaluation.certainty_1)
    return make_reference(rows.features, scores, settings.tolerance, unstable)


def _take_latest(months: Sequence[LabelledRows], wanted: int) -> LabelledRows:
    """Return the rows of as few of the latest months as have ``wanted`` rows together."""
    first = len(months) - 1
    while first and sum(map(len, months[first:])) < wanted:
        first -= 1
    return join_rows(months[first:])


def _decide_month(policy: str, setup: _Setup, month: LabelledRows, labels: int) -> MonthResult:
    evaluation = setup.learner.answer(month)
    decided = evaluation.decide(setup.thresholds)
    reference, until_alarm = setup.reference, 0
    if policy != FROZEN:
        scores = compute_scores(evaluation.prediction_1, evaluation.certainty_1)
        refused, until_alarm = watch_rows(reference, month.features, scores, BATCH_SIZE)
        decided = replace(decided, at_1=decided.at_1 & ~refused, at_2=decided.at_2 & ~refused)
    return MonthResult(
        setup.learner.name, setup.learner.seed, policy, month.name, decided.count(), labels, until_alarm,
        len(reference.distrusted), setup.is_certified, _describe_change(setup.latest, month, decided),
    )  # fmt: skip


def _describe_change(before: LabelledRows, month: LabelledRows, decided: Decisions) -> str:
    """Return the accepted vector of the month whose labels differ most from those before, weighed by its events."""
    reference = make_reference(before.features, np.zeros(len(before)), 0.5)
    places, others = (reference.find_categories(rows.features, np.zeros(len(rows))) for rows in (month, before))
    accepted = decided.at_1 | decided.at_2
    largest, words = 0.0, "no frequent vector"
    for number in range(len(reference.vectors)):
        chosen = (places == number) & accepted
        if not chosen.any():
            continue
        now, then = float(month.labels[chosen].mean()), float(before.labels[others == number].mean())
        share = chosen.sum() / len(month)
        if share * abs(now - then) > largest:
            largest = share * abs(now - then)
            words = (
                f"frequent vector {number + 1} ({100 * share:.0f} % of the events): {100 * now:.0f} % attacks, "
                f"{100 * then:.0f} % before"
            )
    return words
