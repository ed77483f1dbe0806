"""The verdict on each event: who decided what and why, as table rows and as counts."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.classification_metrics import ratio
from utils.records import Records, identity_columns
from utils.schema import (
    ATTACK,
    CERTAIN,
    CLASS_NAMES,
    DECIDER_COLUMNS,
    NOT_ASKED,
    OFFLOAD_COLUMNS,
    REJECTED,
    UNCERTAIN,
)


@dataclass(frozen=True)
class Verdicts:
    """What was decided on N events.

    Attributes:
        prediction_1, certainty_1: (N,) of exit 1.
        prediction_2, certainty_2: (N,) of exit 2; -1 and NaN where it was not asked or did not answer.
        uncertain: (N,) bool, exit 1 was not certain enough.
        answered_by: (N,) text, whose exit decided: ``edge`` (exit 1), ``cloud`` or ``local`` (exit 2), or the empty
            text where exit 2 was needed and no one answered.
        failure: (N,) text, why it was not the cloud, or the empty text.
        rejected: (N,) bool, uncertain, and exit 2 was not certain enough either or did not answer.
    """

    prediction_1: NDArray[np.int64]
    certainty_1: NDArray[np.float64]
    prediction_2: NDArray[np.int64]
    certainty_2: NDArray[np.float64]
    uncertain: NDArray[np.bool_]
    answered_by: NDArray[np.str_]
    failure: NDArray[np.str_]
    rejected: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.prediction_1)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Whether exit 2 answered (N,)."""
        return self.prediction_2 >= 0

    @property
    def prediction(self) -> NDArray[np.int64]:
        """The final answer (N,): exit 2's where it answered, else exit 1's."""
        return np.where(self.answered, self.prediction_2, self.prediction_1)

    @property
    def certainty(self) -> NDArray[np.float64]:
        """The certainty (N,) of the final answer."""
        return np.where(self.answered, self.certainty_2, self.certainty_1)

    @property
    def decider(self) -> NDArray[np.str_]:
        """Who decided (N,): ``edge``, ``cloud``, ``local``, or ``rejected``."""
        return np.where(self.rejected, REJECTED, self.answered_by)

    @property
    def reason(self) -> NDArray[np.str_]:
        """Why (N,): certain, uncertain, or what kept the cloud from answering."""
        certain = np.where(self.rejected, UNCERTAIN, CERTAIN)
        told = (self.failure != "") & (~self.rejected | ~self.answered)
        return np.where(told, self.failure, certain)

    def deciders(self) -> Counter[tuple[str, str]]:
        """Return how many events each decided as what: (decider, ``normal``, ``attack`` or ``rejected``) -> events."""
        final = np.where(self.rejected, REJECTED, np.where(self.prediction == ATTACK, *reversed(CLASS_NAMES)))
        return Counter(zip(self.decider.tolist(), final.tolist(), strict=True))


def verdict_columns(
    verdicts: Verdicts, labels: NDArray[np.int64] | None, records: Records | None = None, *, deciders: bool = False
) -> dict[str, NDArray[Any]]:
    """Return the offload CSV's columns (N,) by name.

    They are ``OFFLOAD_COLUMNS``, behind ``IDENTITY`` where the records are known, and if asked for ``DECIDER_COLUMNS``.
    """
    answered = verdicts.answered
    known = np.full(len(verdicts), NOT_ASKED) if labels is None else labels
    columns = (
        verdicts.certainty_1,
        verdicts.prediction_1,
        np.where(answered, verdicts.certainty_2.astype(object), NOT_ASKED),
        np.where(answered, verdicts.prediction_2.astype(object), NOT_ASKED),
        verdicts.certainty,
        np.where(verdicts.rejected, REJECTED, verdicts.prediction.astype(object)),
        known,
    )
    table = {} if records is None else identity_columns(records)
    table |= dict(zip(OFFLOAD_COLUMNS, columns, strict=True))
    if deciders:
        table |= dict(zip(DECIDER_COLUMNS, (verdicts.decider, verdicts.reason), strict=True))
    return table


@dataclass(frozen=True)
class Tally:
    """Counts over events.

    Attributes:
        counts: (3, 2, 2) int64: fate (accepted at exit 1, accepted at exit 2, rejected), true class, predicted class.
            Without labels the true class stands at 0 and only sums over it mean something.
        labelled: whether the true classes are known.
        failures: why the cloud did not answer -> events.
    """

    counts: NDArray[np.int64]
    labelled: bool
    failures: Mapping[str, int]

    @classmethod
    def of(cls, verdicts: Verdicts, labels: NDArray[np.int64] | None) -> "Tally":
        """Count verdicts; of a rejected event, what the last exit to answer would have said."""
        fate = verdicts.uncertain.astype(np.int64) + verdicts.rejected
        truth = np.zeros_like(fate) if labels is None else labels
        counts = np.bincount(4 * fate + 2 * truth + verdicts.prediction, minlength=12).reshape(3, 2, 2)
        failures = Counter(verdicts.failure[verdicts.failure != ""].tolist())
        return cls(counts, labels is not None, failures)

    @classmethod
    def of_nothing(cls, *, labelled: bool) -> "Tally":
        """Return what tallies are added to."""
        return cls(np.zeros((3, 2, 2), dtype=np.int64), labelled, {})

    def __add__(self, other: "Tally") -> "Tally":
        failures = Counter(self.failures) + Counter(other.failures)
        return Tally(self.counts + other.counts, self.labelled and other.labelled, failures)

    @property
    def events(self) -> int:
        """All events."""
        return int(self.counts.sum())

    @property
    def offloaded(self) -> int:
        """Events that exit 1 was not certain of."""
        return int(self.counts[1:].sum())

    @property
    def rejected(self) -> int:
        """Events that no exit was certain enough of."""
        return int(self.counts[2].sum())

    @property
    def accuracy(self) -> float:
        """Correct / accepted; NaN without labels or accepted events."""
        accepted = self.counts[:2]
        return ratio(int(np.trace(accepted.sum(axis=0))), int(accepted.sum())) if self.labelled else float("nan")

    def summary(self) -> str:
        """Return one line: offloaded, rejected, accuracy, and what the cloud did not answer."""
        line = (
            f"{self.events} events, offloaded {self.offloaded} ({100 * ratio(self.offloaded, self.events):.1f} %), "
            f"rejected {self.rejected} ({100 * ratio(self.rejected, self.events):.1f} %)"
        )
        if self.labelled:
            line += f", accuracy of accepted {100 * self.accuracy:.2f} %"
        line = line.replace("nan %", "- %")
        if self.failures:
            line += ", without the cloud " + ", ".join(f"{n} ({why})" for why, n in sorted(self.failures.items()))
        return line

    def fields(self) -> dict[str, object]:
        """Return the figures by name, for a structured log."""
        return {
            "events": self.events,
            "offloaded": self.offloaded,
            "rejected": self.rejected,
            "accuracy": self.accuracy,
            "without_cloud": dict(self.failures),
        }

    def table(self) -> str:
        """Return the counts by fate, with a row of totals over the accepted."""
        rows = [*self.counts, self.counts[:2].sum(axis=0)]
        fates = ("exit 1", "exit 2", "rejected", "accepted")
        lines = [f"{'':10}{'events':>9}{'share':>9}" + (_LABELLED_HEADER if self.labelled else f"{'attacks':>9}")]
        for fate, row in zip(fates, rows, strict=True):
            line = f"{fate:10}{row.sum():9d}{100 * ratio(int(row.sum()), self.events):8.1f}%"
            if self.labelled:
                share = 100 * ratio(int(np.trace(row)), int(row.sum()))
                line += f"{share:9.2f}%{row[1, 1]:9d}{row[0, 1]:9d}{row[0, 0]:9d}{row[1, 0]:9d}"
            else:
                line += f"{row[:, ATTACK].sum():9d}"
            lines.append(line.replace("nan%", "  -%"))
        return "\n".join(lines)


_LABELLED_HEADER = f"{'accuracy':>10}{'TP':>9}{'FP':>9}{'TN':>9}{'FN':>9}"
