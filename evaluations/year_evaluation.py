"""Choose the thresholds of networks on one month, and evaluate the networks on the later months."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from evaluations import later_months
from evaluations.baselines import REJECT, Answers, fit_baselines
from evaluations.exit_timing import Parts, split_network
from evaluations.later_months import SINGLE_EXIT, SYSTEM, Choice, Chooser, Costs, Decided
from evaluations.monthly_rates import KEYS, Record, list_rates
from evaluations.months import ALL_ROWS, Month
from evaluations.networks import Origin, read_network
from models.prediction import Progress, no_progress

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Months:
    """The rows to train baselines on, to choose thresholds on, and to evaluate on, in order of time."""

    training: Month
    choice: Month
    later: tuple[Month, ...]


@dataclass(frozen=True)
class EvaluationSettings:
    """The settings for the choice of thresholds and for the cost of events.

    Attributes:
        min_acceptance: least share of events of the month of the choice that the two exits must accept.
        cost_model: see ``utils.cost_models``.
        cost_per_offload: seconds, for the model ``edge``.
        system: chooses thresholds of the two exits.
        exit_1_alone: chooses the thresholds of exit 1 alone with the lowest error.
        unscale: returns the raw features of scaled ones.
    """

    min_acceptance: float
    cost_model: str
    cost_per_offload: float | None
    system: Chooser
    exit_1_alone: Chooser
    unscale: Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class YearEvaluation:
    """The result of an evaluation.

    Attributes:
        choices: the thresholds of each network.
        costs: the mean costs of each network.
        on_choice, on_later: records of ``monthly_rates.list_rates``, of the month of the choice and of the later ones.
        decided: for each later month and network, the decisions of all systems.
    """

    choices: list[Choice]
    costs: list[Costs]
    on_choice: pd.DataFrame
    on_later: pd.DataFrame
    decided: list[list[Decided]]


def evaluate_year(
    months: Months,
    origins: Sequence[Origin],
    single_exits: Sequence[nn.Module],
    settings: EvaluationSettings,
    progress: Progress = no_progress,
) -> YearEvaluation:
    """Choose thresholds for each network, and decide the later months with all systems.

    Args:
        months: the rows.
        origins: of the networks.
        single_exits: one network for all, one for each, or none.
        settings: of the evaluation.
        progress: called with the number of distinct vectors in each batch that a network has computed.

    Raises:
        InfeasibleError: a network cannot reach that acceptance.
    """
    every = (months.choice, *months.later)
    baselines = fit_baselines(months.training, settings.unscale)
    answers = [{name: classifier(month.features) for name, classifier in baselines.items()} for month in every]
    opened = (split_network(single, _CPU) for single in single_exits)
    singles = [[later_months.answer_single(parts, month, progress) for month in every] for parts in opened]
    evaluated = []
    for number, origin in enumerate(origins, 1):
        others, single_cost = answers, None
        if singles:
            of_single = singles[(number - 1) % len(singles)]
            others = [{**known, SINGLE_EXIT: single} for known, (single, _) in zip(answers, of_single, strict=True)]
            single_cost = of_single[0][1]
        parts = split_network(read_network(origin), _CPU)
        evaluated.append(_evaluate_network(number, parts, every, others, single_cost, settings, progress))
    # By month first, because the areas under time need the order of time.
    later = [
        record for of_month in zip(*(one.on_later for one in evaluated), strict=True) for record in chain(*of_month)
    ]
    return YearEvaluation(
        [one.choice for one in evaluated],
        [one.costs for one in evaluated],
        pd.DataFrame([record for one in evaluated for record in one.on_choice]),
        pd.DataFrame(later),
        [list(of_month) for of_month in zip(*(one.decided for one in evaluated), strict=True)],
    )


@dataclass(frozen=True)
class _NetworkEvaluation:
    """The evaluation of one network; ``on_later`` and ``decided`` have an item for each later month."""

    choice: Choice
    costs: Costs
    on_choice: list[Record]
    on_later: list[list[Record]]
    decided: list[Decided]


def _evaluate_network(
    number: int,
    parts: Parts,
    months: Sequence[Month],
    others: Sequence[Mapping[str, Answers]],
    single_cost: float | None,
    settings: EvaluationSettings,
    progress: Progress,
) -> _NetworkEvaluation:
    """Evaluate one network; ``months`` begin with that of the choice, and ``others`` are the other answers for each."""
    first, *later = months
    measured = later_months.measure_answers(parts, first, progress)
    costs = later_months.compute_mean_costs(measured, settings.cost_model, settings.cost_per_offload, single_cost)
    known = later_months.add_exits(measured, others[0])
    choice = later_months.choose(measured, known, settings.min_acceptance, settings.system, settings.exit_1_alone)
    on_choice = list_rates(first.name, number, later_months.decide_month(measured, known, choice, first), costs)
    on_later: list[list[Record]] = []
    decided: list[Decided] = []
    for month, of_others in zip(later, others[1:], strict=True):
        evaluation = later_months.answer(parts, month, measured, progress)
        known = later_months.add_exits(evaluation, of_others)
        decided.append(later_months.decide_month(evaluation, known, choice, month))
        on_later.append(list_rates(month.name, number, decided[-1], costs))
    return _NetworkEvaluation(
        choice, costs, [*on_choice, *_list_thresholds(first.name, number, choice)], on_later, decided
    )


def _list_thresholds(month: str, network: int, choice: Choice) -> list[Record]:
    """Return a network's thresholds as records."""
    by_system = {
        SYSTEM: {f"threshold_{name}": value for name, value in asdict(choice.thresholds).items()},
        later_months.BY_CLASS: {
            f"threshold_{name}": value for name, value in asdict(choice.by_class).items() if name.endswith("1")
        },
        **{name + REJECT: {"threshold": value} for name, value in choice.least.items()},
    }
    return [
        {**dict(zip(KEYS, (month, ALL_ROWS, system, network), strict=True)), **thresholds}
        for system, thresholds in by_system.items()
    ]
