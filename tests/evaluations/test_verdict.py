from dataclasses import replace

import pytest

from evaluations.bootstrap import Interval
from evaluations.verdict import (
    HIGHER,
    LOWER,
    OPEN,
    UNKNOWN,
    Alternative,
    Findings,
    against_exit_1,
    against_exit_2,
    against_others,
    cautions,
    headline,
    in_points,
    judged,
    on_subsets,
    percent,
    price,
    rivals,
    situation,
    verdict,
)

NAN = float("nan")
LESS, MORE = Interval(-0.02, -0.03, -0.01), Interval(0.02, 0.01, 0.03)
UNDECIDED, NOTHING = Interval(-0.01, -0.03, 0.01), Interval(-0.01, NAN, NAN)


def other(difference: Interval, acceptance: float = 0.9, error: float = 0.08) -> Alternative:
    return Alternative(error, acceptance, difference)


FINDINGS = Findings(
    months=6,
    networks=3,
    error=0.06,
    acceptance=0.9,
    offloaded=0.15,
    cost=0.2,
    cost_exit_1=0.05,
    cost_exit_2=1.0,
    reference="the path to exit 2",
    exit_1=other(LESS, error=0.081),
    exit_1_by_class=other(LESS, error=0.082),
    exit_1_matched=other(LESS, error=0.083),
    exit_2=other(UNDECIDED),
    others={"rule": other(LESS, 1.0), "boosting": other(UNDECIDED)},
    exit_1_elsewhere={"unseen": other(LESS), "distinct": other(LESS)},
    elsewhere={"unseen": {"boosting": other(MORE)}, "distinct": {}},
)
EARNS, DOES_NOT = "The second exit and the offloading earn their place", "do not earn their place"


@pytest.mark.parametrize(
    ("low", "high", "way"),
    [
        (-0.03, -0.01, LOWER),
        (-0.03, 0.0, OPEN),
        (0.0, 0.0, OPEN),
        (-0.01, 0.03, OPEN),
        (0.0, 0.03, OPEN),
        (0.01, 0.03, HIGHER),
        (NAN, NAN, UNKNOWN),
    ],
)
def test_a_difference_is_shown_only_where_its_interval_excludes_zero(low: float, high: float, way: str) -> None:
    assert judged(Interval(0.5, low, high)) == way


def test_the_second_exit_earns_its_place_where_exit_1_alone_errs_more_in_all_three_ways() -> None:
    assert headline(FINDINGS) == (
        f"{EARNS} on these months: they err 2.00 points less than exit 1 alone at equal acceptance, at 4.00 "
        "times its cost."
    )


@pytest.mark.parametrize(
    ("cost", "difference", "exit_1_earns"),
    [(1.0, UNDECIDED, False), (1.1, MORE, False), (1.1, LESS, True), (0.9, UNDECIDED, True), (0.9, MORE, True)],
)
def test_exit_1_earns_its_place_only_where_it_makes_exit_2_cheaper_or_better(
    cost: float, difference: Interval, exit_1_earns: bool
) -> None:
    words = headline(replace(FINDINGS, cost=cost, exit_2=other(difference)))
    assert words.startswith(EARNS) == exit_1_earns
    assert ("exit 1 and the offloading do not: exit 2 alone is not shown to err more" in words) == (not exit_1_earns)


def test_it_is_said_how_small_a_gain_is_and_where_it_is_not_shown() -> None:
    small = replace(
        FINDINGS,
        exit_1_matched=other(Interval(-0.001, -0.002, -0.0001)),
        exit_1_elsewhere={"unseen": other(UNDECIDED), "distinct": other(MORE), "more": other(LESS)},
    )
    words = headline(small)
    assert "they err 0.10 points less" in words
    assert words.endswith(" On unseen and distinct this is not shown.")


@pytest.mark.parametrize("way", ["exit_1", "exit_1_by_class", "exit_1_matched"])
@pytest.mark.parametrize(
    ("difference", "says"),
    [
        (UNDECIDED, "exit 1 alone is not shown to err more in every way of rejecting, and costs less"),
        (MORE, "exit 1 alone errs less, in one way of rejecting at least, and costs less"),
    ],
)
def test_it_does_not_where_one_of_the_three_shows_nothing_or_the_opposite(
    way: str, difference: Interval, says: str
) -> None:
    words = headline(replace(FINDINGS, **{way: other(difference)}))  # type: ignore[arg-type]
    assert DOES_NOT in words and says in words


def test_exit_1_alone_is_called_cheaper_only_where_it_is() -> None:
    dear = replace(FINDINGS, exit_1=other(MORE), cost_exit_1=1.2, cost=1.1)
    assert headline(dear).endswith("exit 1 alone errs less, in one way of rejecting at least.")
    assert "to decide an event at exit 1 saves nothing" in cautions(dear)[0]
    assert headline(replace(dear, cost=1.3)).endswith("at least, and costs less.")


def test_where_an_interval_is_unknown_no_verdict_is_given() -> None:
    words = headline(replace(FINDINGS, exit_1=other(NOTHING)))
    assert "cannot be said" in words and "earn their place on" not in words


@pytest.mark.parametrize(("networks", "counted"), [(1, "1 network"), (2, "2 networks")])
def test_with_fewer_than_three_networks_it_is_said_that_the_spread_from_seed_to_seed_is_not_covered(
    networks: int, counted: str
) -> None:
    few = replace(FINDINGS, networks=networks)
    assert f"on these months, with {counted} alone: they" in headline(few)
    assert f"With {counted} the spread from seed to seed is not covered; give 3 or more" in cautions(few)[-1]
    assert cautions(FINDINGS) == []
    assert "network" not in headline(FINDINGS)


@pytest.mark.parametrize(
    ("acceptance", "says"),
    [(0.88, "exit 1 alone accepts less now"), (0.92, "the two exits accept less now"), (0.905, None), (0.895, None)],
)
def test_acceptances_that_drifted_apart_are_told(acceptance: float, says: str | None) -> None:
    told = cautions(replace(FINDINGS, exit_1=other(LESS, acceptance)))
    assert len(told) == (says is not None)
    assert says is None or says in told[0]


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        ({"rule": LESS, "tree": LESS}, "Nothing else that was compared is shown to do as well."),
        ({"rule": LESS, "tree": UNDECIDED}, "Not shown to err more than the two exits: tree."),
        (
            {"rule": MORE, "tree": UNDECIDED, "boosting": UNDECIDED},
            "Shown to err less than the two exits: rule; not shown to err more than the two exits: tree, boosting.",
        ),
    ],
)
def test_what_else_does_as_well_is_named(differences: dict[str, Interval], says: str) -> None:
    assert rivals({name: other(difference) for name, difference in differences.items()}) == says


@pytest.mark.parametrize(
    ("difference", "cost", "says"),
    [
        (LESS, 0.2, "the two exits err less, for less cost"),
        (MORE, 0.2, "the two exits err more, for less cost"),
        (UNDECIDED, 1.0, "no difference of error is shown, for no less cost"),
        (NOTHING, 0.2, "the difference of error is unknown"),
    ],
)
def test_exit_2_alone_is_compared_in_error_and_cost(difference: Interval, cost: float, says: str) -> None:
    assert says in against_exit_2(replace(FINDINGS, exit_2=other(difference), cost=cost))


def test_the_sentences_hold_the_numbers() -> None:
    assert situation(FINDINGS) == (
        "On 6 later months, with 3 networks, the two exits accept 90.0 % of the events and err on 6.00 % of those."
    )
    alone = against_exit_1(FINDINGS)
    assert "on 8.10 % of the 90.0 % accepted with one threshold (two exits: -2.00 points, 95 %" in alone
    assert "on 8.20 % of the 90.0 % accepted with one for each class" in alone
    assert "on 8.30 % of the 90.0 % accepted with as many events accepted on the later months" in alone
    assert price(FINDINGS) == (
        "The two exits offload 15.0 % of all events, accept 5.00 % at exit 2 and reject 10.0 %. An event costs them "
        "20.0 % of the path to exit 2; exit 1 alone 5.00 %."
    )


def test_other_systems_are_told_by_how_the_comparison_ended() -> None:
    told = against_others(FINDINGS.others)
    assert [sentence.partition(" (")[0] for sentence in told] == [
        "The two exits err less than rule",
        "No difference is shown from boosting",
    ]
    assert "rule (8.00 % of 100.0 % accepted: -2.00 points, 95 % interval -3.00 to -1.00)" in told[0]
    assert against_others({"x": other(NOTHING)}) == [
        "Unknown is the difference from x (8.00 % of 90.0 % accepted: -1.00 points, interval unknown)."
    ]


def test_what_is_different_on_other_rows_is_told() -> None:
    unseen, distinct = on_subsets(FINDINGS)
    assert unseen.startswith("On unseen the two exits err less than exit 1 alone at equal acceptance (-2.00 points")
    assert unseen.endswith("; err more than boosting (+2.00 points, 95 % interval +1.00 to +3.00).")
    assert distinct.startswith("On distinct the two exits err less")


def test_the_verdict_begins_with_the_headline_and_says_all_of_it() -> None:
    told = verdict(replace(FINDINGS, networks=1))
    assert told[0] == headline(replace(FINDINGS, networks=1))
    assert told[-1] == cautions(replace(FINDINGS, networks=1))[-1]
    assert {rivals(FINDINGS.others), price(FINDINGS), against_exit_1(FINDINGS), *on_subsets(FINDINGS)} <= set(told)


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100.0 %"), (0.123, "12.3 %"), (0.0777, "7.77 %"), (0.0005, "0.050 %"), (0.0, "0.000 %")]
)
def test_a_share_is_a_percentage(share: float, text: str) -> None:
    assert percent(share) == text


def test_points_have_a_sign() -> None:
    assert in_points(Interval(0.0049, -0.001, 0.01)) == "+0.49 points, 95 % interval -0.10 to +1.00"
