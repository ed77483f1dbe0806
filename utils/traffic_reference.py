"""What traffic looked like when thresholds were chosen: shares of frequent vectors, and of scores of the others.

Each event belongs to one category. A frequent vector, one that makes up at least ``LEAST_SHARE`` of the reference rows,
is a category of its own. All other events are put into ``SCORE_BINS`` categories by the score of exit 1, the calibrated
probability of an attack, whose limits are quantiles of the reference rows.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from utils.dataset import find_distinct_vectors
from utils.schema import ATTACK, FEATURE_COUNT

MAX_VECTORS: Final = 20
LEAST_SHARE: Final = 0.01
SCORE_BINS: Final = 8

_MULTIPLIERS: Final = np.random.default_rng(58).integers(0, 2**31, FEATURE_COUNT, dtype=np.uint32) * 2 + 1

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Reference:
    """The categories of events, and their shares.

    Attributes:
        vectors: (k, 58) float32, the frequent vectors.
        score_limits: (b - 1,) float64, ascending, between the score categories.
        shares: (k + b,) float64, of the categories: first the vectors, then the scores, lowest first.
        rows: number of events that were counted.
        tolerance: largest tolerated difference of a share.
        distrusted: numbers of the vectors that are not accepted, whatever their share; see ``utils.label_drift``.
    """

    vectors: FloatArray
    score_limits: NDArray[np.float64]
    shares: NDArray[np.float64]
    rows: int
    tolerance: float
    distrusted: tuple[int, ...] = ()

    @functools.cached_property
    def _hashes(self) -> tuple[NDArray[np.uint32], NDArray[np.intp]]:
        """The hashes of the frequent vectors, ascending, and the number of the vector of each."""
        hashes = _hash(self.vectors)
        order = np.argsort(hashes, kind="stable")
        return hashes[order], order

    def find_categories(self, vectors: FloatArray, scores: NDArray[np.floating]) -> NDArray[np.intp]:
        """Return the category (n,) of each vector (n, 58) float32 with its score (n,)."""
        categories = len(self.vectors) + np.searchsorted(self.score_limits, scores, side="right")
        if len(self.vectors):
            known, numbers = self._hashes
            hashes = _hash(vectors)
            places = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
            similar = np.flatnonzero(known[places] == hashes)
            number = numbers[places[similar]]
            is_equal = (vectors[similar] == self.vectors[number]).all(axis=1)
            categories[similar[is_equal]] = number[is_equal]
        return categories


def _hash(vectors: FloatArray) -> NDArray[np.uint32]:
    """Return a hash (n,) of each vector (n, 58) float32; comparing vectors with all frequent ones would take longer."""
    hashes: NDArray[np.uint32] = np.ascontiguousarray(vectors).view(np.uint32) @ _MULTIPLIERS
    return hashes


def compute_scores(prediction: NDArray[np.int64], certainty: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the probabilities of an attack (n,), from predictions and their certainties (n,)."""
    return np.where(prediction == ATTACK, certainty, 1 - certainty)


def make_reference(
    features: FloatArray, scores: NDArray[np.floating], tolerance: float, distrusted: FloatArray | None = None
) -> Reference:
    """Return the reference of labelled or unlabelled rows.

    Args:
        features: (N, 58) float32, N >= 1.
        scores: (N,) of exit 1.
        tolerance: largest tolerated difference of a share.
        distrusted: (k, 58) vectors that must not be accepted; those that are not frequent are ignored.
    """
    first, vector_index = find_distinct_vectors(features)
    counts = np.bincount(vector_index)
    order = np.argsort(-counts, kind="stable")[:MAX_VECTORS]
    frequent = order[counts[order] >= LEAST_SHARE * len(features)]
    others = ~np.isin(vector_index, frequent)
    quantiles = np.linspace(0, 1, SCORE_BINS + 1)[1:-1]
    limits = np.unique(np.quantile(scores[others], quantiles)) if others.any() else np.empty(0)
    draft = Reference(features[first[frequent]], limits.astype(np.float64), np.empty(0), len(features), tolerance)
    categories = draft.find_categories(features, scores)
    shares = np.bincount(categories, minlength=len(frequent) + len(limits) + 1) / len(features)
    known = set() if distrusted is None else {vector.tobytes() for vector in distrusted}
    numbers = tuple(number for number, vector in enumerate(draft.vectors) if vector.tobytes() in known)
    return Reference(draft.vectors, draft.score_limits, shares, len(features), tolerance, numbers)


def to_json(reference: Reference) -> dict[str, Any]:
    """Return a reference as plain numbers and lists."""
    values = {field.name: getattr(reference, field.name) for field in fields(reference)}
    values["distrusted"] = list(reference.distrusted)
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def from_json(content: Mapping[str, Any]) -> Reference:
    """Return the reference that ``to_json`` returned as plain numbers.

    Raises:
        ValueError, TypeError, KeyError: the content is damaged.
    """
    vectors = np.array(content["vectors"], dtype=np.float32).reshape(-1, FEATURE_COUNT)
    limits, shares = (np.array(content[name], dtype=np.float64) for name in ("score_limits", "shares"))
    rows, tolerance = content["rows"], content["tolerance"]
    if limits.ndim != 1 or shares.shape != (len(vectors) + len(limits) + 1,) or len(vectors) > MAX_VECTORS:
        raise ValueError("its reference has shares of other categories")
    if len(limits) >= SCORE_BINS or (np.diff(limits) <= 0).any() or type(rows) is not int or rows < 1:
        raise ValueError("its reference has other categories of scores, or no rows")
    if not (np.isfinite(vectors).all() and np.isfinite(limits).all() and (shares >= 0).all() and 0 < tolerance < 1):
        raise ValueError("its reference holds numbers out of range")
    if abs(shares.sum() - 1) > 1e-6:
        raise ValueError("the shares of its reference do not add up to 1")
    distrusted = tuple(content["distrusted"])
    if not all(type(number) is int and 0 <= number < len(vectors) for number in distrusted):
        raise ValueError("its reference distrusts vectors that it does not name")
    return Reference(vectors, limits, shares, rows, float(tolerance), distrusted)
