"""Who is asked about the events that exit 1 is not certain of, and what happens where the cloud does not answer."""

import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from offload.client import Client
from offload.exits import FloatArray, OwnSecondExit
from offload.protocol import FEATURES, MAX_EVENTS, Answer, Request, new_id
from utils.errors import CloudUnavailableError, MessageError
from utils.schema import CLASS_COUNT, CLOUD, LOCAL

ON_CLOUD_FAILURE: Final = ("local", "reject", "wait")

_CODE: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")


@dataclass(frozen=True)
class Answers:
    """What exit 2 says of n events.

    Attributes:
        logits: (n, 2) float32, NaN where no one answered.
        answered_by: (n,) text, ``cloud``, ``local`` or empty.
        failure: (n,) text, why it was not the cloud, or empty.
    """

    logits: FloatArray
    answered_by: NDArray[np.str_]
    failure: NDArray[np.str_]

    @classmethod
    def all_by(cls, logits: FloatArray, answered_by: str, failure: str = "") -> "Answers":
        """Return answers that all came the same way."""
        return cls(logits, np.full(len(logits), answered_by), np.full(len(logits), failure))

    def replaced(self, rows: NDArray[np.intp], answers: "Answers") -> "Answers":
        """Return the same answers but for those at some rows (k,)."""
        count = len(self.logits)
        place, rest = np.arange(count), np.arange(count, count + len(rows))
        place[rows] = rest
        both = Answers.joined((self, answers))
        return Answers(both.logits[place], both.answered_by[place], both.failure[place])

    @classmethod
    def joined(cls, parts: Sequence["Answers"]) -> "Answers":
        """Return the answers of several requests as one."""
        logits, answered_by, failure = zip(*((p.logits, p.answered_by, p.failure) for p in parts), strict=True)
        return cls(np.concatenate(logits), np.concatenate(answered_by), np.concatenate(failure))


class Asked(Protocol):
    """Answers that are on their way."""

    def under_way(self) -> int:
        """Return how many requests have no answer yet."""

    def wait(self, seconds: float, /) -> bool:
        """Wait at most that long; return whether all answers are here."""

    def answers(self) -> Answers:
        """Return the answers, once they are here."""


ActivationsAt = Callable[[NDArray[np.intp]], FloatArray]
"""Returns the activations (k, C, H, W) behind segment 1 of the events at some rows (k,)."""


class SecondExit(Protocol):
    """Whoever answers for exit 2."""

    def __call__(self, features: FloatArray, activations: ActivationsAt, /) -> Asked:
        """Ask about uncertain events: features (n, 58) and, if called for now, their activations."""

    def give_up(self) -> None:
        """Wait for no one any more: what has no answer yet fails at once."""


class LocalSecondExit:
    """Exit 2 computed on the edge itself."""

    def __init__(self, exit_2: OwnSecondExit) -> None:
        self._exit_2 = exit_2

    def __call__(self, features: FloatArray, activations: ActivationsAt, /) -> Asked:
        """Compute exit 2 at once."""
        return Answered(Answers.all_by(self.of(features, activations(np.arange(len(features)))), LOCAL))

    def give_up(self) -> None:
        """Do nothing: there is no one to wait for."""

    def alive(self) -> str | None:
        """Return None: nothing can be wrong with what needs no one."""

    def ready(self) -> str | None:
        """Return None: it always answers."""

    def of(self, features: FloatArray, activations: FloatArray | None) -> FloatArray:
        """Return the logits (n, 2); segment 1 is computed again only where the activations are not at hand."""
        return self._exit_2.of_features(features) if activations is None else self._exit_2.of_activations(activations)


@dataclass(frozen=True)
class Answered:
    """Answers that are here already."""

    here: Answers

    def under_way(self) -> int:
        """Return 0."""
        return 0

    def wait(self, _seconds: float, /) -> bool:
        """Return True at once."""
        return True

    def answers(self) -> Answers:
        """Return them."""
        return self.here


@dataclass(frozen=True)
class Sending:
    """What requests say and hold.

    Attributes:
        fingerprint: of the client's network; only the same network's answer counts.
        client_id: names this client to the worker.
        payload: ``features`` or ``activations``.
        half_precision: send float16, half the bytes.
    """

    fingerprint: str
    client_id: str
    payload: str
    half_precision: bool = False

    def request(self, events: FloatArray) -> Request:
        """Return a request about at most ``MAX_EVENTS`` events."""
        tensor: NDArray[np.floating] = events
        if self.half_precision and np.abs(events).max() <= np.finfo(np.float16).max:
            tensor = events.astype(np.float16)
        return Request(new_id(), self.client_id, self.fingerprint, self.payload, tensor)


class CloudSecondExit:
    """Exit 2 asked of cloud workers, in requests of at most ``MAX_EVENTS`` events.

    Args:
        client: carries the requests.
        sending: what they hold.
        local: computes exit 2 where the cloud does not answer and ``on_failure`` is ``local``; else None will do.
        on_failure: ``local``; ``reject``, no answer; or ``wait``, the failure is raised.
    """

    def __init__(self, client: Client, sending: Sending, local: LocalSecondExit | None, on_failure: str) -> None:
        self._client = client
        self._sending = sending
        self._local = local
        self._on_failure = on_failure

    def __call__(self, features: FloatArray, activations: ActivationsAt, /) -> Asked:
        """Send requests; where it is known already that no one will answer, settle for ``on_failure`` at once.

        Asked's ``answers`` raises CloudError where a request failed and ``on_failure`` does not make up for it.
        """
        parts = []
        for start in range(0, len(features), MAX_EVENTS):
            rows = np.arange(start, min(start + MAX_EVENTS, len(features)))
            events = features[rows] if self._sending.payload == FEATURES else activations(rows)
            future = self._client.submit(self._sending.request(events))
            # Later the activations are gone: to keep them until each answer came would cost far more memory.
            at_hand = None
            if future.done() and self._on_failure == "local":
                at_hand = activations(rows) if self._sending.payload == FEATURES else events
            parts.append(_Part(features[rows], at_hand, future))
        return _AskedOfCloud(parts, self._settle)

    def give_up(self) -> None:
        """Close the connection, with which all requests fail that have no answer."""
        self._client.close()

    def _settle(self, part: "_Part") -> Answers:
        failure = part.future.exception()
        if failure is None:
            return Answers.all_by(part.future.result().logits, CLOUD)
        if self._on_failure == "wait" or not isinstance(failure, CloudUnavailableError | MessageError):
            raise failure
        # A worker's code may be any text; here it becomes a table's cell.
        code = failure.code if _CODE.fullmatch(failure.code) else "refused"
        if self._on_failure == "local" and self._local is not None:
            return Answers.all_by(self._local.of(part.features, part.activations), LOCAL, code)
        nothing = np.full((len(part.features), CLASS_COUNT), np.nan, dtype=np.float32)
        return Answers.all_by(nothing, "", code)


@dataclass(frozen=True)
class _Part:
    features: FloatArray
    activations: FloatArray | None
    future: Future[Answer]


@dataclass(frozen=True)
class _AskedOfCloud:
    parts: Sequence[_Part]
    settle: Callable[[_Part], Answers]

    def under_way(self) -> int:
        return sum(not part.future.done() for part in self.parts)

    def wait(self, seconds: float, /) -> bool:
        return not wait([part.future for part in self.parts], seconds).not_done

    def answers(self) -> Answers:
        return Answers.joined([self.settle(part) for part in self.parts])
