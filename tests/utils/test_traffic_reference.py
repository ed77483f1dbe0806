import json
from typing import Any

import numpy as np
import pytest

from utils.schema import ATTACK, FEATURE_COUNT, NORMAL
from utils.traffic_reference import (
    MAX_VECTORS,
    SCORE_BINS,
    Reference,
    compute_scores,
    from_json,
    make_reference,
    to_json,
)

GENERATOR = np.random.default_rng(0)
FREQUENT = GENERATOR.random((2, FEATURE_COUNT), dtype=np.float32)
RARE = GENERATOR.random((1000, FEATURE_COUNT), dtype=np.float32)
FEATURES = np.concatenate((np.repeat(FREQUENT[:1], 800, axis=0), np.repeat(FREQUENT[1:], 200, axis=0), RARE))
SCORES = np.concatenate((np.full(800, 0.9), np.full(200, 0.1), np.linspace(0, 1, 1000)))
REFERENCE = make_reference(FEATURES, SCORES, 0.05)


def test_frequent_vectors_are_categories_of_their_own_and_the_others_are_divided_evenly_by_their_scores() -> None:
    assert (REFERENCE.vectors == FREQUENT).all()
    assert REFERENCE.shares[:2].tolist() == [0.4, 0.1]
    assert len(REFERENCE.shares) == 2 + SCORE_BINS
    np.testing.assert_allclose(REFERENCE.shares[2:], 0.5 / SCORE_BINS, atol=0.001)
    assert REFERENCE.shares.sum() == pytest.approx(1)
    assert (REFERENCE.rows, REFERENCE.tolerance) == (2000, 0.05)


def test_a_vector_is_found_whatever_its_score_and_another_by_its_score() -> None:
    vectors = np.concatenate((FREQUENT, RARE[:3], FREQUENT[:1] + np.float32(1e-6)))
    found = REFERENCE.find_categories(vectors, np.array([0.0, 1.0, 0.0, 0.51, 1.0, 0.0]))
    assert found.tolist() == [0, 1, 2, 2 + SCORE_BINS // 2, 1 + SCORE_BINS, 2]


def test_at_most_so_many_vectors_are_kept() -> None:
    features = np.repeat(RARE[: 3 * MAX_VECTORS], 2, axis=0)
    assert len(make_reference(features, np.zeros(len(features)), 0.05).vectors) == MAX_VECTORS


@pytest.mark.parametrize("rows", [1, 2])
def test_a_reference_of_very_few_rows_has_categories_for_all_events(rows: int) -> None:
    reference = make_reference(RARE[:rows], np.full(rows, 0.5), 0.05)
    assert reference.shares.sum() == 1
    assert reference.find_categories(RARE[:9], np.linspace(0, 1, 9)).max() < len(reference.shares)


def test_the_score_is_the_probability_of_an_attack() -> None:
    assert compute_scores(np.array([ATTACK, NORMAL]), np.array([0.75, 0.75])).tolist() == [0.75, 0.25]


def test_a_reference_survives_json() -> None:
    found = from_json(json.loads(json.dumps(to_json(REFERENCE))))
    assert isinstance(found, Reference)
    for name, value in to_json(REFERENCE).items():
        assert np.array_equal(np.asarray(getattr(found, name)), np.asarray(value)), name
    assert found.vectors.dtype == np.float32 and (found.vectors == FREQUENT).all()


def test_vectors_that_are_not_trusted_are_named_by_their_numbers_and_unknown_ones_are_ignored() -> None:
    given = np.concatenate((RARE[:2], FREQUENT[1:], FREQUENT[1:]))
    reference = make_reference(FEATURES, SCORES, 0.05, given)
    assert reference.distrusted == (1,)
    assert make_reference(FEATURES, SCORES, 0.05, RARE).distrusted == ()
    assert REFERENCE.distrusted == ()
    both = make_reference(FEATURES, SCORES, 0.05, FREQUENT[::-1])
    assert both.distrusted == (0, 1), "in the order of the reference"
    assert (both.shares == REFERENCE.shares).all()


def test_vectors_that_are_not_trusted_survive_json() -> None:
    reference = make_reference(FEATURES, SCORES, 0.05, FREQUENT[1:])
    found = from_json(json.loads(json.dumps(to_json(reference))))
    assert found.distrusted == (1,) and type(found.distrusted[0]) is int


def test_a_reference_without_the_list_of_distrusted_vectors_is_refused() -> None:
    content = to_json(REFERENCE)
    del content["distrusted"]
    with pytest.raises(KeyError):
        from_json(content)


@pytest.mark.parametrize(
    "changes",
    [
        {"vectors": [[0.0] * 57]},
        {"vectors": [["a"] * 58] * 2},
        {"vectors": [[float("nan")] * 58] * 2},
        {"shares": [0.5, 0.5]},
        {"shares": [0.2] * 10},
        {"shares": [-0.1, 1.1, *[0.0] * 8]},
        {"score_limits": [0.5, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95]},
        {"score_limits": 0.5},
        {"rows": 0},
        {"rows": "many"},
        {"tolerance": 1.5},
        {"tolerance": None},
        {"distrusted": [2]},
        {"distrusted": [-1]},
        {"distrusted": [0.0]},
        {"distrusted": [True]},
        {"distrusted": ["0"]},
        {"distrusted": 0},
    ],
)
def test_a_damaged_reference_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError)):
        from_json({**to_json(REFERENCE), **changes})
