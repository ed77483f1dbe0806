import io
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models import MAX_KNOTS
from models.preprocessing import Identity, QuantileTransform, fit_quantile_transform, make_transform
from tests.networks import SAMPLE
from utils.dataset import read_dataset, to_images

Features = NDArray[np.float32]

DRAW = np.random.default_rng(0)


def ranks_of(transform: torch.nn.Module, features: Features) -> Features:
    """Apply a transform to features (N, 58); return them transformed."""
    images: torch.Tensor = transform(torch.from_numpy(to_images(features)))
    assert not images.flatten(1)[:, 58:].any()
    return images.flatten(1)[:, :58].numpy()


def plain_ranks(training: Features, features: Features) -> NDArray[np.float64]:
    """Each value's mid-rank among the training rows, interpolated between the distinct training values, in [-1, 1]."""
    found = np.empty(features.shape)
    for index, (column, values) in enumerate(zip(training.T, features.T, strict=True)):
        distinct, in_order = np.unique(column), np.sort(column)
        below = np.searchsorted(in_order, distinct, "left") / len(column)
        up_to = np.searchsorted(in_order, distinct, "right") / len(column)
        levels = 2 * (below + up_to) / 2 - 1
        found[:, index] = np.interp(values.astype(np.float64), distinct.astype(np.float64), levels)
    return found


def repeated_rows(rows: int) -> Features:
    """Columns of few and many distinct values, over many orders of magnitude, two of them constant."""
    features = np.exp(DRAW.normal(scale=4, size=(rows, 58)))
    features[:, ::3] = DRAW.integers(0, 4, (rows, len(range(0, 58, 3))))
    features[:, 5], features[:, 57] = 0.0, -3.25
    return features.astype(np.float32)


@pytest.mark.parametrize("rows", [1, 2, 7, 300])
def test_ranks_are_those_of_a_plain_interpolation_of_mid_ranks(rows: int) -> None:
    training = repeated_rows(rows)
    seen_and_unseen = np.concatenate([training, repeated_rows(50), training.mean(axis=0, keepdims=True)])
    found = ranks_of(fit_quantile_transform(training), seen_and_unseen)
    np.testing.assert_allclose(found, plain_ranks(training, seen_and_unseen), atol=2e-6)


def test_ranks_of_real_rows_are_those_of_a_plain_interpolation() -> None:
    training = read_dataset(SAMPLE).features
    other = read_dataset(SAMPLE.with_name("2016_07.csv")).features
    np.testing.assert_allclose(
        ranks_of(fit_quantile_transform(training), other), plain_ranks(training, other), atol=2e-6
    )


def test_with_more_distinct_values_than_knots_the_ranks_are_close_and_the_ends_exact() -> None:
    training = repeated_rows(10 * MAX_KNOTS)
    transform = fit_quantile_transform(training)
    assert transform.knots.shape[1] <= MAX_KNOTS
    features = np.concatenate(
        [training[:500], training.min(axis=0, keepdims=True), training.max(axis=0, keepdims=True)]
    )
    expected = plain_ranks(training, features)
    np.testing.assert_allclose(ranks_of(transform, features), expected, atol=2 / (MAX_KNOTS - 1))
    np.testing.assert_allclose(ranks_of(transform, features)[-2:], expected[-2:], atol=1e-6)


def test_ranks_rise_with_the_value_and_stay_within_1() -> None:
    transform = fit_quantile_transform(repeated_rows(200))
    steps = np.concatenate([-np.geomspace(1e30, 1e-30, 200), [0], np.geomspace(1e-30, 1e30, 200)]).astype(np.float32)
    ranks = ranks_of(transform, np.repeat(steps[:, None], 58, axis=1))
    assert np.abs(ranks).max() <= 1
    assert np.diff(ranks, axis=0).min() >= -2e-7


def test_values_outside_the_training_range_get_the_rank_of_its_end() -> None:
    training = repeated_rows(100)
    transform = fit_quantile_transform(training)
    largest = np.finfo(np.float32).max
    for end, beyond in ((training.min(axis=0), -largest), (training.max(axis=0), largest)):
        expected = ranks_of(transform, end[None])
        for values in (end - 1 if beyond < 0 else end + 1, np.full(58, beyond, dtype=np.float32)):
            np.testing.assert_array_equal(ranks_of(transform, values[None].astype(np.float32)), expected)


@pytest.mark.parametrize("rows", [1, 50])
def test_a_constant_feature_has_rank_0_whatever_its_value(rows: int) -> None:
    transform = fit_quantile_transform(np.full((rows, 58), 0.7, dtype=np.float32))
    values = np.array([[-5.0], [0.7], [9.0]], dtype=np.float32).repeat(58, axis=1)
    assert not ranks_of(transform, values).any()


def test_equal_rows_have_equal_ranks_and_the_mean_rank_of_training_rows_is_0() -> None:
    training = repeated_rows(400)
    ranks = ranks_of(fit_quantile_transform(training), training)
    np.testing.assert_allclose(ranks.mean(axis=0), 0, atol=1e-5)
    for column, levels in zip(training.T, ranks.T, strict=True):
        assert len(np.unique(levels)) == len(np.unique(column))


def test_the_identity_returns_the_images_unchanged() -> None:
    images = torch.rand(3, 1, 8, 8)
    assert Identity()(images) is images


# The entry in a checkpoint


def test_a_transform_is_read_back_from_its_entry_bit_for_bit() -> None:
    training, others = repeated_rows(300), repeated_rows(40)
    transform = fit_quantile_transform(training)
    torch.save(transform.to_entry(), stream := io.BytesIO())
    stream.seek(0)
    again = make_transform(torch.load(stream, weights_only=True))
    np.testing.assert_array_equal(ranks_of(again, others), ranks_of(transform, others))


def test_no_entry_and_the_entry_of_the_identity_mean_identity() -> None:
    assert isinstance(make_transform(None), Identity)
    assert isinstance(make_transform(Identity().to_entry()), Identity)


def test_a_transform_adds_no_key_to_a_state_dict() -> None:
    assert fit_quantile_transform(repeated_rows(3)).state_dict() == {}


RISING = torch.linspace(-1, 1, 5).repeat(58, 1)


def entry(knots: object = RISING, levels: object = RISING, kind: object = "quantile") -> dict[str, object]:
    return {"kind": kind, "knots": knots, "levels": levels}


def with_value(value: float) -> torch.Tensor:
    table = RISING.clone()
    table[57, 4] = value
    return table


def test_the_entry_that_the_malformed_ones_vary_is_a_good_one() -> None:
    assert isinstance(make_transform(entry()), QuantileTransform)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("quantile", "not a table"),
        ([1, 2], "not a table"),
        ({}, "unknown"),
        (entry(kind="logarithm"), "unknown"),
        (entry(kind=["quantile"]), "unknown"),
        (entry(kind=torch.zeros(2)), "unknown"),
        ({"kind": "quantile"}, "lacks its knots or levels"),
        (entry(knots=RISING.tolist()), "lacks its knots or levels"),
        (entry(knots=RISING.double()), "float32"),
        (entry(levels=RISING.int()), "float32"),
        (entry(knots=RISING.to_sparse()), "lacks its knots or levels"),
        (entry(levels=RISING.to("meta")), "lacks its knots or levels"),
        (entry(knots=RISING[:57]), r"not both \(58, K\)"),
        (entry(knots=RISING[:, :4]), r"not both \(58, K\)"),
        (entry(RISING[0], RISING[0]), r"not both \(58, K\)"),
        (entry(torch.tensor(1.0), torch.tensor(1.0)), r"not both \(58, K\)"),
        (entry(torch.zeros(58, 0), torch.zeros(58, 0)), "1 to 1000"),
        (entry(torch.zeros(58, 1001), torch.zeros(58, 1001)), "1 to 1000"),
        (entry(torch.zeros(1, 1).expand(58, 10**9), torch.zeros(1, 1).expand(58, 10**9)), "1 to 1000"),
        (entry(knots=with_value(math.nan)), "knots are not finite and ascending"),
        (entry(knots=with_value(math.inf)), "knots are not finite and ascending"),
        (entry(knots=with_value(-5.0)), "knots are not finite and ascending"),
        (entry(levels=with_value(math.nan)), "levels are not finite and ascending"),
        (entry(levels=with_value(-0.9)), "levels are not finite and ascending"),
        (entry(levels=with_value(1.5)), r"outside \[-1, 1\]"),
    ],
)
def test_a_malformed_entry_is_refused_with_the_reason(bad: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_transform(bad)
