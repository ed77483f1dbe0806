"""Vectors that an exit answered for lately: what repeats from batch to batch is neither computed nor asked again.

Traffic repeats itself: of a real month's rows in batches of one, two thirds were there before, within the last 4,096
different ones. Within a batch the edge and the clients have removed the repeats already.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from offload.exits import AtExit1, FirstExit, FloatArray, OwnSecondExit
from offload.second_exit import ActivationsAt, Answered, Answers, Asked, SecondExit
from utils.dataset import distinct_vectors
from utils.schema import CLASS_COUNT

SIZE: Final = 4096
"""Vectors remembered by default, of which each takes half a kilobyte. On the published months more find little more."""

OnUse = Callable[[int, int], object]
"""Called with how many vectors were found and how many were not."""


def count_nothing(_found: int, _missed: int) -> None:
    """Do nothing."""


class Recent:
    """The logits of the vectors that were used last.

    Args:
        size: vectors at most, at least 1.
        on_use: is told of each search.

    Attributes:
        found, missed: vectors that were searched for.
    """

    def __init__(self, size: int, on_use: OnUse = count_nothing) -> None:
        self._size = size
        self._on_use = on_use
        self._rows: OrderedDict[bytes, int] = OrderedDict()  # those used last stand last
        self._logits = np.empty((size, CLASS_COUNT), dtype=np.float32)
        self.found = self.missed = 0

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, keys: Sequence[bytes]) -> tuple[NDArray[np.bool_], FloatArray]:
        """Return which of n vectors are known (n,), and the logits (n, 2) float32, NaN for the others."""
        rows = [self._rows.get(key, -1) for key in keys]
        found = len(rows) - rows.count(-1)
        known = np.zeros(len(rows), dtype=np.bool_)
        logits = np.full((len(rows), CLASS_COUNT), np.nan, dtype=np.float32)
        if found:
            places = np.array(rows)
            known = places >= 0
            for place in np.flatnonzero(known).tolist():
                self._rows.move_to_end(keys[place])
            logits[known] = self._logits[places[known]]
        self.found += found
        self.missed += len(keys) - found
        self._on_use(found, len(keys) - found)
        return known, logits

    def put(self, keys: list[bytes], logits: FloatArray) -> None:
        """Remember the logits (n, 2) of n different vectors in place of those that were not used for longest."""
        keys, logits = keys[-self._size :], logits[-self._size :]  # so that no later one takes an earlier one's row
        rows = self._rows
        for key in keys:
            row = rows.pop(key, None)
            if row is None:
                row = len(rows) if len(rows) < self._size else rows.popitem(last=False)[1]
            rows[key] = row
        self._logits[[rows[key] for key in keys]] = logits


def keys_of(features: FloatArray) -> list[bytes]:
    """Return the bytes of each vector of (n, 58) float32."""
    rows = np.ascontiguousarray(features)
    length, data = rows.dtype.itemsize * rows.shape[1], rows.tobytes()
    return [data[start : start + length] for start in range(0, len(data), length)]


class RecentFirstExit:
    """Exit 1, computed only for vectors that are new.

    Args:
        exit_1: computes it.
        recent: its answers.
    """

    def __init__(self, exit_1: FirstExit, recent: Recent) -> None:
        self._exit_1 = exit_1
        self._recent = recent

    def __call__(self, features: FloatArray, /) -> AtExit1:
        """Compute it for features (n, 58), of which none repeats."""
        keys = keys_of(features)
        known, logits = self._recent.find(keys)
        if not known.any():
            computed = self._exit_1(features)
            self._recent.put(keys, computed.logits)
            return computed
        unknown = np.flatnonzero(~known)
        if len(unknown) == 0:
            return AtExit1(logits, lambda rows: self._exit_1(features[rows]).activations(np.arange(len(rows))))
        computed = self._exit_1(features[unknown])
        self._recent.put([keys[row] for row in unknown], computed.logits)
        logits[unknown] = computed.logits

        def activations(rows: NDArray[np.intp]) -> FloatArray:
            """Compute segment 1 after all, where it is asked for."""
            is_known = known[rows]
            at_hand = computed.activations(np.searchsorted(unknown, rows[~is_known]))
            again = self._exit_1(features[rows[is_known]]).activations(np.arange(int(is_known.sum())))
            whole = np.empty((len(rows), *at_hand.shape[1:]), dtype=np.float32)
            whole[~is_known], whole[is_known] = at_hand, again
            return whole

        return AtExit1(logits, activations)


class RecentSecondExit:
    """Whoever answers for exit 2, asked only about vectors that are new.

    Args:
        second_exit: who is asked.
        answered_by: who that is, ``cloud`` or ``local``. Other answers, and failures, are not remembered.
        recent: the answers.
    """

    def __init__(self, second_exit: SecondExit, answered_by: str, recent: Recent) -> None:
        self._second_exit = second_exit
        self._answered_by = answered_by
        self._recent = recent

    def __call__(self, features: FloatArray, activations: ActivationsAt, /) -> Asked:
        """Ask about those of the features (n, 58) that are new."""
        keys = keys_of(features)
        known, logits = self._recent.find(keys)
        unknown = np.flatnonzero(~known)
        answers = Answers.all_by(logits, self._answered_by)
        if len(unknown) == 0:
            return Answered(answers)
        asked = self._second_exit(features[unknown], lambda rows: activations(unknown[rows]))
        return _PartlyKnown(answers, unknown, asked, lambda found: self._remember(keys, unknown, found))

    def _remember(self, keys: list[bytes], rows: NDArray[np.intp], answers: Answers) -> None:
        sound = (answers.failure == "") & (answers.answered_by == self._answered_by)
        self._recent.put([keys[row] for row in rows[sound]], answers.logits[sound])

    def give_up(self) -> None:
        """Wait for no one any more."""
        self._second_exit.give_up()


@dataclass(frozen=True)
class _PartlyKnown:
    known: Answers
    unknown: NDArray[np.intp]
    asked: Asked
    remember: Callable[[Answers], None]

    def under_way(self) -> int:
        return self.asked.under_way()

    def wait(self, seconds: float, /) -> bool:
        return self.asked.wait(seconds)

    def answers(self) -> Answers:
        found = self.asked.answers()
        self.remember(found)
        return self.known.replaced(self.unknown, found)


class RecentOwnSecondExit:
    """Exit 2 of features, computed only for vectors that are new; that of activations is always computed.

    Args:
        exit_2: computes it.
        recent: its answers.
    """

    def __init__(self, exit_2: OwnSecondExit, recent: Recent) -> None:
        self._exit_2 = exit_2
        self._recent = recent

    def of_features(self, features: FloatArray, /) -> FloatArray:
        """Return the logits (n, 2) float32 for features (n, 58); of vectors that repeat, one is computed."""
        first, place = distinct_vectors(features)
        events = features[first]
        keys = keys_of(events)
        known, logits = self._recent.find(keys)
        unknown = np.flatnonzero(~known)
        if len(unknown):
            logits[unknown] = self._exit_2.of_features(events[unknown])
            self._recent.put([keys[row] for row in unknown], logits[unknown])
        return logits[place]

    def of_activations(self, activations: FloatArray, /) -> FloatArray:
        """Return the logits (n, 2) float32 for the activations (n, C, H, W) behind segment 1."""
        return self._exit_2.of_activations(activations)
