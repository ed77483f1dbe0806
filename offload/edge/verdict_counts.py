"""Count events by verdict, for the summaries that the client prints and for Prometheus."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload.edge.batch import Batch
from offload.operations.metrics import ClientMetrics
from utils.classification_metrics import divide
from utils.schema import ATTACK


@dataclass(frozen=True)
class VerdictCounts:
    """Counts of events by verdict.

    Attributes:
        counts: (3, 2, 2) int64: fate (accepted at exit 1, accepted at exit 2, rejected), true class, predicted class.
            Without labels the true class is set to 0, and only sums over it are meaningful.
        labelled: whether the true classes are known.
        failures: number of events that the cloud did not answer, by code.
    """

    counts: NDArray[np.int64]
    labelled: bool
    failures: Mapping[str, int]

    @classmethod
    def from_batch(cls, batch: Batch) -> "VerdictCounts":
        """Count a batch; a rejected event counts by the prediction of the last exit that answered."""
        fate = batch.uncertain.astype(np.int64) + batch.rejected
        truth = np.zeros_like(fate) if batch.labels is None else batch.labels
        counts = np.bincount(4 * fate + 2 * truth + batch.prediction, minlength=12).reshape(3, 2, 2)
        failures = Counter(batch.failure[batch.failure != ""].tolist())
        return cls(counts, batch.labels is not None, failures)

    @classmethod
    def zero(cls, *, labelled: bool) -> "VerdictCounts":
        """Return the counts of no events."""
        return cls(np.zeros((3, 2, 2), dtype=np.int64), labelled, {})

    def __add__(self, other: "VerdictCounts") -> "VerdictCounts":
        failures = Counter(self.failures) + Counter(other.failures)
        return VerdictCounts(self.counts + other.counts, self.labelled and other.labelled, failures)

    @property
    def events(self) -> int:
        """Number of events."""
        return int(self.counts.sum())

    @property
    def offloaded(self) -> int:
        """Number of events that exit 1 was uncertain of."""
        return int(self.counts[1:].sum())

    @property
    def rejected(self) -> int:
        """Number of rejected events."""
        return int(self.counts[2].sum())

    @property
    def accuracy(self) -> float:
        """Correct / accepted; NaN without labels or accepted events."""
        accepted = self.counts[:2]
        return divide(int(np.trace(accepted.sum(axis=0))), int(accepted.sum())) if self.labelled else float("nan")

    def summarize(self) -> str:
        """Return one line: offloaded and rejected events, accuracy, and failures of the cloud."""
        line = (
            f"{self.events} events, offloaded {self.offloaded} ({100 * divide(self.offloaded, self.events):.1f} %), "
            f"rejected {self.rejected} ({100 * divide(self.rejected, self.events):.1f} %)"
        )
        if self.labelled:
            line += f", accuracy of accepted {100 * self.accuracy:.2f} %"
        line = line.replace("nan %", "- %")
        if self.failures:
            line += ", without the cloud " + ", ".join(f"{n} ({why})" for why, n in sorted(self.failures.items()))
        return line

    def to_dict(self) -> dict[str, object]:
        """Return the figures by name, for a structured log."""
        return {
            "events": self.events,
            "offloaded": self.offloaded,
            "rejected": self.rejected,
            "accuracy": self.accuracy,
            "without_cloud": dict(self.failures),
        }

    def format_table(self) -> str:
        """Return the counts by fate as a table, with a row for all accepted events."""
        rows = [*self.counts, self.counts[:2].sum(axis=0)]
        fates = ("exit 1", "exit 2", "rejected", "accepted")
        lines = [f"{'':10}{'events':>9}{'share':>9}" + (_LABELLED_HEADER if self.labelled else f"{'attacks':>9}")]
        for fate, row in zip(fates, rows, strict=True):
            line = f"{fate:10}{row.sum():9d}{100 * divide(int(row.sum()), self.events):8.1f}%"
            if self.labelled:
                share = 100 * divide(int(np.trace(row)), int(row.sum()))
                line += f"{share:9.2f}%{row[1, 1]:9d}{row[0, 1]:9d}{row[0, 0]:9d}{row[1, 0]:9d}"
            else:
                line += f"{row[:, ATTACK].sum():9d}"
            lines.append(line.replace("nan%", "  -%"))
        return "\n".join(lines)


_LABELLED_HEADER = f"{'accuracy':>10}{'TP':>9}{'FP':>9}{'TN':>9}{'FN':>9}"


def count_verdicts(batch: Batch, metrics: ClientMetrics) -> None:
    """Add a decided batch to the metrics."""
    for (decider, verdict), events in batch.count_deciders().items():
        metrics.events.labels(decider=decider, verdict=verdict).inc(events)
    has_failed = batch.failure != ""
    metrics.fallback_events.labels(policy="local").inc(int((has_failed & batch.answered).sum()))
    metrics.fallback_events.labels(policy="reject").inc(int((has_failed & ~batch.answered).sum()))
