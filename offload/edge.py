"""What the edge computes: exit 1, who is asked about the uncertain events, and the verdict on each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from models.early_exit import TwoExits
from offload.protocol import (
    ACTIVATIONS,
    FEATURES,
    MAX_EVENTS,
    Refusal,
    Request,
    decode_reply,
    encode_request,
    new_id,
)
from utils.dataset import to_images
from utils.decision import is_accepted
from utils.errors import CloudError
from utils.metrics import certainty, ratio
from utils.schema import ATTACK, NOT_ASKED, OFFLOAD_COLUMNS, REJECTED, Thresholds

FloatArray = NDArray[np.float32]


class SecondExit(Protocol):
    """Whoever answers for exit 2."""

    def __call__(self, features: FloatArray, activations: FloatArray, /) -> FloatArray:
        """Return the logits (n, 2) of exit 2 for uncertain events: features (n, 58) and activations (n, C, H, W)."""


class LocalSecondExit:
    """Exit 2 computed on the edge itself."""

    def __init__(self, network: TwoExits, device: torch.device) -> None:
        self._network = network
        self._device = device

    def __call__(self, _features: FloatArray, activations: FloatArray, /) -> FloatArray:
        """Return the logits (n, 2); segment 1 is not computed again."""
        with torch.inference_mode():
            return self._network.cloud(torch.from_numpy(activations).to(self._device)).float().cpu().numpy()


class RemoteSecondExit:
    """Exit 2 asked of a cloud worker, in requests of at most ``MAX_EVENTS`` events.

    Args:
        ask: (body, request id) -> reply body; what carries the messages.
        fingerprint: of the client's network; only the same network's answer counts.
        client_id: names this client to the worker.
        payload: ``features`` or ``activations``.
    """

    def __init__(self, ask: Callable[[bytes, str], bytes], fingerprint: str, client_id: str, payload: str) -> None:
        self._ask = ask
        self._fingerprint = fingerprint
        self._client_id = client_id
        self._payload = payload
        self.bytes_sent = 0
        self.bytes_received = 0

    def __call__(self, features: FloatArray, activations: FloatArray, /) -> FloatArray:
        """Return the logits (n, 2).

        Raises:
            CloudError: the worker refuses a request, or its reply breaks the protocol (MessageError).
        """
        events = {FEATURES: features, ACTIVATIONS: activations}[self._payload]
        parts = [self._request(events[i : i + MAX_EVENTS]) for i in range(0, len(events), MAX_EVENTS)]
        return np.concatenate(parts)

    def _request(self, events: FloatArray) -> FloatArray:
        request = Request(new_id(), self._client_id, self._fingerprint, self._payload, events)
        body = encode_request(request)
        reply_body = self._ask(body, request.request_id)
        self.bytes_sent += len(body)
        self.bytes_received += len(reply_body)
        reply = decode_reply(reply_body, request)
        if isinstance(reply, Refusal):
            raise CloudError(f"the worker refused a request: {reply.code}: {reply.text}")
        return reply.logits


@dataclass(frozen=True)
class Verdicts:
    """What was decided on N events.

    Attributes:
        prediction_1, certainty_1: (N,) of exit 1.
        prediction_2, certainty_2: (N,) of exit 2; meaningless where it was not asked.
        offloaded: (N,) bool, exit 2 was asked.
        rejected: (N,) bool, offloaded and not certain enough there either.
    """

    prediction_1: NDArray[np.int64]
    certainty_1: NDArray[np.float64]
    prediction_2: NDArray[np.int64]
    certainty_2: NDArray[np.float64]
    offloaded: NDArray[np.bool_]
    rejected: NDArray[np.bool_]

    @property
    def prediction(self) -> NDArray[np.int64]:
        """The final answer (N,): exit 2's where it was asked, else exit 1's."""
        return np.where(self.offloaded, self.prediction_2, self.prediction_1)

    @property
    def certainty(self) -> NDArray[np.float64]:
        """The certainty (N,) of the final answer."""
        return np.where(self.offloaded, self.certainty_2, self.certainty_1)


def decide(
    network: TwoExits,
    features: FloatArray,
    thresholds: Thresholds,
    second_exit: SecondExit,
    device: torch.device,
) -> Verdicts:
    """Decide a batch of events: exit 1 here, and whoever answers for exit 2 where exit 1 is not certain enough.

    Args:
        network: in evaluation mode, on ``device``.
        features: (N, 58) float32.
        thresholds: least certainties.
        second_exit: is asked once, about all uncertain events; not at all where there are none.
        device: where exit 1 runs.
    """
    with torch.inference_mode():
        activations, logits = network.edge(torch.from_numpy(to_images(features)).to(device))
    prediction_1, certainty_1 = certainty(logits.float().cpu().numpy())
    offloaded = ~is_accepted(prediction_1, certainty_1, thresholds.normal_exit_1, thresholds.attack_exit_1)
    prediction_2, certainty_2 = np.full_like(prediction_1, -1), np.full_like(certainty_1, np.nan)
    rejected = np.zeros_like(offloaded)
    rows = np.flatnonzero(offloaded)
    if len(rows):
        logits_2 = second_exit(features[rows], activations[torch.from_numpy(rows).to(device)].float().cpu().numpy())
        prediction_2[rows], certainty_2[rows] = certainty(logits_2)
        rejected[rows] = ~is_accepted(
            prediction_2[rows], certainty_2[rows], thresholds.normal_exit_2, thresholds.attack_exit_2
        )
    return Verdicts(prediction_1, certainty_1, prediction_2, certainty_2, offloaded, rejected)


def verdict_table(verdicts: Verdicts, labels: NDArray[np.int64] | None) -> pd.DataFrame:
    """Return the offload CSV's rows, with columns ``OFFLOAD_COLUMNS``."""
    asked, rejected = verdicts.offloaded, verdicts.rejected
    known = np.full(len(asked), NOT_ASKED) if labels is None else labels
    columns = (
        verdicts.certainty_1,
        verdicts.prediction_1,
        np.where(asked, verdicts.certainty_2.astype(object), NOT_ASKED),
        np.where(asked, verdicts.prediction_2.astype(object), NOT_ASKED),
        verdicts.certainty,
        np.where(rejected, REJECTED, verdicts.prediction.astype(object)),
        known,
    )
    return pd.DataFrame(dict(zip(OFFLOAD_COLUMNS, columns, strict=True)))


@dataclass(frozen=True)
class Tally:
    """Counts over events, per fate: accepted at exit 1, accepted at exit 2, rejected (rows of ``counts``).

    ``counts`` is (3, 2, 2) int64: fate, true class, predicted class. Without labels the true class stands at 0 and only
    sums over it mean something.
    """

    counts: NDArray[np.int64]
    labelled: bool

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.counts + other.counts, self.labelled and other.labelled)

    @property
    def events(self) -> int:
        """All events."""
        return int(self.counts.sum())

    @property
    def offloaded(self) -> int:
        """Events that exit 2 was asked about."""
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
        """Return one line: offloaded, rejected, accuracy."""
        line = (
            f"{self.events} events, offloaded {self.offloaded} ({100 * ratio(self.offloaded, self.events):.1f} %), "
            f"rejected {self.rejected} ({100 * ratio(self.rejected, self.events):.1f} %)"
        )
        return f"{line}, accuracy of accepted {100 * self.accuracy:.2f} %" if self.labelled else line

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


def tally(verdicts: Verdicts, labels: NDArray[np.int64] | None) -> Tally:
    """Count verdicts; of a rejected event, what exit 2 would have said."""
    fate = verdicts.offloaded.astype(np.int64) + verdicts.rejected
    truth = np.zeros_like(fate) if labels is None else labels
    counts = np.bincount(4 * fate + 2 * truth + verdicts.prediction, minlength=12).reshape(3, 2, 2)
    return Tally(counts, labels is not None)
