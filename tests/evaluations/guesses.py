"""Months with random decisions, for tests of counts and reports."""

from typing import Final

import numpy as np
import pandas as pd

from evaluations.baselines import MATCHED, REJECT, RULE
from evaluations.later_months import BOUND, BY_CLASS, EXIT_1, EXIT_2, SYSTEM, Costs, Decided
from evaluations.monthly_rates import list_rates
from evaluations.months import Month, make_month, subsets
from tests.evaluations.small_months import month, rows_of
from utils.decision import Decisions

TRAINING = month(1)
SYSTEMS: Final = (
    SYSTEM, BY_CLASS, EXIT_1, EXIT_1 + REJECT, EXIT_1 + MATCHED, EXIT_2, EXIT_2 + MATCHED, RULE, "boosting",
    "boosting" + MATCHED, BOUND,
)  # fmt: skip


def repeated(number: int) -> Month:
    features, labels = rows_of(number)
    chosen = np.random.default_rng(number).integers(70, size=150)
    return make_month(f"2016_{number:02}", features[chosen], labels[chosen], TRAINING.features)


MONTHS = [repeated(3), repeated(4), repeated(5)]


def guessed(of: Month, seed: int) -> Decided:
    """Return random decisions, the same for all rows of a vector."""
    generator = np.random.default_rng(seed)
    vectors = len(of.first)
    decided: dict[str, dict[str, Decisions]] = {subset.name: {} for subset in subsets(of)}
    for system in SYSTEMS:
        at_1 = generator.random(vectors) < 0.6
        at_2 = ~at_1 & (generator.random(vectors) < 0.8)
        predictions = generator.integers(2, size=vectors)
        whole = Decisions(of.labels, at_1[of.vector_index], at_2[of.vector_index], predictions[of.vector_index])
        for subset in subsets(of):
            decided[subset.name][system] = subset.of(whole)
    return decided


DECIDED = [[guessed(of, 10 * number + network) for network in range(2)] for number, of in enumerate(MONTHS)]


def later_rates() -> pd.DataFrame:
    """Return the rates of all systems, networks and months."""
    records = [
        record
        for of, by_network in zip(MONTHS, DECIDED, strict=True)
        for network, decided in enumerate(by_network, 1)
        for record in list_rates(of.name, network, decided, Costs(1.0, 5.0, 4.0, 4.0))
    ]
    return pd.DataFrame(records)
