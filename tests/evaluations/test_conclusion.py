from dataclasses import replace

import pytest

from evaluations.bootstrap import ConfidenceInterval
from evaluations.conclusion import (
    Direction,
    Findings,
    System,
    build_overview,
    find_direction,
    format_difference,
    format_share,
    list_cautions,
    state_conclusion,
)

NAN = float("nan")
LESS, MORE = ConfidenceInterval(-0.02, -0.03, -0.01), ConfidenceInterval(0.02, 0.01, 0.03)
OPEN, UNKNOWN = ConfidenceInterval(-0.01, -0.03, 0.01), ConfidenceInterval(-0.01, NAN, NAN)
WAYS = ("exit 1 alone", "exit 1 alone (by class)", "exit 1 alone (one)")


def rival(
    name: str, difference: ConfidenceInterval, acceptance: float = 0.9, error: float = 0.08, cost: float = 1.0
) -> System:
    return System(name, error, acceptance, NAN, cost, difference)


def exit_1(
    *differences: ConfidenceInterval, acceptance: float = 0.9, cost: float = 0.05
) -> tuple[System, System, System]:
    first, second, third = (
        rival(name, difference, acceptance, cost=cost) for name, difference in zip(WAYS, differences, strict=True)
    )
    return first, second, third


TWO_EXITS = System("two exits", 0.06, 0.9, 0.15, 0.2, None)
FINDINGS = Findings(
    networks=3,
    two_exits=TWO_EXITS,
    exit_1=exit_1(LESS, LESS, LESS),
    exit_2=rival("exit 2 alone", OPEN),
    baselines=[rival("rule", LESS, 1.0, cost=NAN), rival("boosting", LESS, error=0.07, cost=NAN)],
    exit_1_elsewhere={"unseen": LESS, "distinct": LESS},
)


@pytest.mark.parametrize(
    ("low", "high", "direction"),
    [
        (-0.03, -0.01, Direction.LOWER),
        (-0.03, 0.0, Direction.OPEN),
        (0.0, 0.0, Direction.OPEN),
        (-0.01, 0.03, Direction.OPEN),
        (0.0, 0.03, Direction.OPEN),
        (0.01, 0.03, Direction.HIGHER),
        (NAN, NAN, Direction.UNKNOWN),
    ],
)
def test_a_difference_is_shown_only_where_its_interval_excludes_zero(
    low: float, high: float, direction: Direction
) -> None:
    assert find_direction(ConfidenceInterval(0.5, low, high)) == direction


def test_exit_2_pays_off_where_exit_1_alone_errs_more_in_all_three_ways() -> None:
    assert state_conclusion(FINDINGS) == (
        "Exit 2 pays off here: the two exits err 2.00 points less than exit 1 alone at equal acceptance, at 4.00 times "
        "its cost."
    )


@pytest.mark.parametrize(
    ("cost", "difference", "exit_1_pays_off"),
    [(1.0, OPEN, False), (1.1, MORE, False), (1.1, LESS, True), (0.9, OPEN, True), (0.9, MORE, True)],
)
def test_exit_1_pays_off_only_where_it_makes_exit_2_cheaper_or_better(
    cost: float, difference: ConfidenceInterval, exit_1_pays_off: bool
) -> None:
    changed = replace(FINDINGS, two_exits=replace(TWO_EXITS, cost=cost), exit_2=rival("exit 2 alone", difference))
    sentence = state_conclusion(changed)
    assert sentence.startswith("Exit 2 pays off here")
    assert ("but exit 1 and offloading do not" in sentence) != exit_1_pays_off


@pytest.mark.parametrize("way", range(3))
@pytest.mark.parametrize(
    ("difference", "says"),
    [
        (OPEN, "Exit 2 does not pay off here: {} reaches the same error within the 95 % interval and costs less."),
        (MORE, "Exit 2 does not pay off here: {} errs less and costs less."),
    ],
)
def test_exit_2_does_not_pay_off_where_one_of_the_three_ways_shows_nothing_or_the_opposite(
    way: int, difference: ConfidenceInterval, says: str
) -> None:
    differences = [LESS] * 3
    differences[way] = difference
    changed = replace(FINDINGS, exit_1=exit_1(*differences))
    assert state_conclusion(changed) == says.format(WAYS[way])
    assert build_overview(changed)["system"][0] == WAYS[way]


def test_the_sentence_and_the_table_show_the_way_that_speaks_most_against_exit_2() -> None:
    changed = replace(FINDINGS, exit_1=exit_1(OPEN, LESS, MORE))
    assert f"{WAYS[2]} errs less" in state_conclusion(changed)
    assert build_overview(changed)["system"][0] == WAYS[2]


def test_exit_1_alone_is_called_cheaper_only_where_it_is() -> None:
    costly = replace(FINDINGS, exit_1=exit_1(MORE, MORE, MORE, cost=1.2), two_exits=replace(TWO_EXITS, cost=1.1))
    assert state_conclusion(costly).endswith("exit 1 alone errs less.")
    assert "deciding an event at exit 1 saves nothing" in " ".join(list_cautions(costly))
    cheaper = replace(costly, two_exits=replace(TWO_EXITS, cost=1.3))
    assert state_conclusion(cheaper).endswith("errs less and costs less.")


def test_where_an_interval_is_unknown_so_is_the_conclusion() -> None:
    sentence = state_conclusion(replace(FINDINGS, exit_1=exit_1(LESS, UNKNOWN, MORE)))
    assert sentence == "It is unknown whether exit 2 pays off here: too few events are accepted."


@pytest.mark.parametrize(("networks", "counted"), [(1, "1 network"), (2, "2 networks")])
def test_with_fewer_than_three_networks_the_spread_from_seed_to_seed_is_said_not_to_be_covered(
    networks: int, counted: str
) -> None:
    few = replace(FINDINGS, networks=networks)
    assert f"pays off here (with {counted}): the" in state_conclusion(few)
    assert f"is not covered by {counted}; give 3 or more" in list_cautions(few)[-1]
    assert list_cautions(FINDINGS) == []


def test_where_a_gain_is_not_shown_on_other_rows_the_cautions_say_so() -> None:
    changed = replace(FINDINGS, exit_1_elsewhere={"unseen": OPEN, "distinct": MORE, "more": LESS})
    assert list_cautions(changed) == ["On unseen and distinct, no gain over exit 1 alone is shown."]
    assert list_cautions(replace(changed, exit_1=exit_1(LESS, LESS, OPEN))) == []


@pytest.mark.parametrize(
    ("acceptance", "says"),
    [(0.88, "exit 1 alone accepts fewer"), (0.92, "the two exits accept fewer"), (0.905, None), (0.895, None)],
)
def test_acceptances_that_drift_apart_are_a_caution(acceptance: float, says: str | None) -> None:
    found = list_cautions(replace(FINDINGS, exit_1=exit_1(LESS, LESS, LESS, acceptance=acceptance)))
    assert len(found) == (says is not None)
    assert says is None or says in found[0]


def test_baselines_that_do_as_well_are_named() -> None:
    baselines = [rival("rule", MORE), rival("tree", OPEN), rival("boosting", OPEN), rival("majority", LESS)]
    assert list_cautions(replace(FINDINGS, baselines=baselines)) == [
        "Baselines that err less than the two exits: rule.",
        "Baselines that are not shown to err more than the two exits: tree, boosting.",
    ]


def test_the_table_has_four_systems_and_of_the_baselines_the_one_of_least_error() -> None:
    assert build_overview(FINDINGS).to_dict("records") == [
        {
            "system": "exit 1 alone", "error": "8.00", "accepted": "90.00", "offloaded": "", "cost": "5.00",
            "difference": "-2.00 (-3.00 to -1.00)",
        },
        {
            "system": "two exits", "error": "6.00", "accepted": "90.00", "offloaded": "15.00", "cost": "20.00",
            "difference": "",
        },
        {
            "system": "exit 2 alone", "error": "8.00", "accepted": "90.00", "offloaded": "", "cost": "100.00",
            "difference": "-1.00 (-3.00 to +1.00)",
        },
        {
            "system": "best baseline: boosting", "error": "7.00", "accepted": "90.00", "offloaded": "", "cost": "",
            "difference": "-2.00 (-3.00 to -1.00)",
        },
    ]  # fmt: skip


@pytest.mark.parametrize(("share", "text"), [(1.0, "100.00"), (0.1236, "12.36"), (0.0005, "0.05"), (NAN, "")])
def test_a_share_is_a_percentage(share: float, text: str) -> None:
    assert format_share(share) == text


def test_points_have_a_sign_and_their_interval() -> None:
    assert format_difference(ConfidenceInterval(0.0049, -0.001, 0.01)) == "+0.49 (-0.10 to +1.00)"
    assert format_difference(UNKNOWN) == "-1.00 (unknown)"
