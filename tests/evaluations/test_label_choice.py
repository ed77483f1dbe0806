import numpy as np

from evaluations.label_choice import MOST_ALIKE, choose_rows, order_by_information
from utils.verdicts import Verdicts


def make_verdicts(certainty: np.ndarray, rejected: np.ndarray | None = None) -> Verdicts:
    """Return verdicts that exit 1 decided, (N,) events predicted as normal."""
    rows = len(certainty)
    none, no = np.full(rows, -1, np.int8), np.zeros(rows, np.bool_)
    return Verdicts(
        np.zeros(rows, np.int8), np.asarray(certainty, np.float64), none, np.full(rows, np.nan),
        no if rejected is None else rejected, no, none,
    )  # fmt: skip


GENERATOR = np.random.default_rng(1)
DIFFERENT = make_verdicts(GENERATOR.uniform(0.5, 1, 5000))


def test_random_records_stand_for_all_rows_and_the_others_for_themselves() -> None:
    choice = choose_rows(DIFFERENT, 200, 0.25, seed=1)
    assert len(choice) == len(set(choice.rows.tolist())) == 200
    assert (choice.is_random.sum(), choice.weight) == (50, 100)
    assert (np.diff(choice.rows) > 0).all()
    informative = DIFFERENT.certainty_1[choice.rows[~choice.is_random]]
    assert informative.max() < np.quantile(DIFFERENT.certainty_1, 0.04)


def test_every_row_is_equally_likely_among_the_random_records() -> None:
    verdicts = make_verdicts(np.repeat([0.51, 0.99], 20))
    times = np.zeros(40)
    for seed in range(2000):
        choice = choose_rows(verdicts, 8, 0.5, seed)
        times[choice.rows[choice.is_random]] += 1
    assert np.abs(times / 2000 - 0.1).max() < 4.5 * np.sqrt(0.09 / 2000)


def test_a_choice_repeats_with_its_seed_only() -> None:
    first, again, other = (choose_rows(DIFFERENT, 50, 0.5, seed).rows.tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_rejected_rows_come_first_and_then_the_least_certain() -> None:
    verdicts = make_verdicts(np.array([0.6, 0.9, 0.7, 0.95]), np.array([False, True, False, True]))
    assert order_by_information(verdicts, np.empty(0, np.intp), np.arange(4)).tolist() == [1, 3, 0, 2]


def test_only_a_few_that_look_the_same_are_chosen_before_others_have_their_turn() -> None:
    verdicts = make_verdicts(np.concatenate((np.full(100, 0.5), np.full(100, 0.6), [0.99])))
    order = order_by_information(verdicts, np.empty(0, np.intp), np.arange(201))
    assert sorted(order.tolist()) == list(range(201))
    certainties = verdicts.certainty_1[order]
    assert certainties[: 2 * MOST_ALIKE + 1].tolist() == [0.5] * MOST_ALIKE + [0.6] * MOST_ALIKE + [0.99]
    assert certainties[2 * MOST_ALIKE + 1 :][:MOST_ALIKE].tolist() == [0.5] * MOST_ALIKE
    labelled = np.arange(2)
    order = order_by_information(verdicts, labelled, np.arange(2, 201))
    assert verdicts.certainty_1[order][: MOST_ALIKE - 1].tolist() == [0.5] * (MOST_ALIKE - 2) + [0.6], (
        "two are labelled"
    )


def test_a_count_that_reaches_all_rows_makes_all_of_them_random() -> None:
    choice = choose_rows(make_verdicts(np.full(10, 0.7)), 12, 0.5, seed=1)
    assert choice.rows.tolist() == list(range(10)) and choice.is_random.all() and choice.weight == 1


def test_one_part_alone_can_be_asked_for() -> None:
    assert choose_rows(DIFFERENT, 30, 1.0, seed=1).is_random.all()
    assert not choose_rows(DIFFERENT, 30, 0.0, seed=1).is_random.any()
