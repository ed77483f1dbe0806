"""Exit 2 of uncertain events: computed by cloud workers, or on the edge; and the policies for a failure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace

import numpy as np

from offload.link.client import Client
from offload.link.protocol import FEATURES, MAX_EVENTS, Answer, RequestTemplate
from offload.networks.exits import ActivationsAt, FloatArray, Network, SecondExit
from offload.operations.metrics import CODE_FORM
from utils.errors import CloudUnavailableError, MessageError
from utils.schema import CLASS_COUNT, CLOUD, LOCAL

Outcome = tuple[slice, FloatArray, str, str]
"""Result for k of n events: their rows, the logits (k, 2) of exit 2 (NaN without an answer), and their values of
``Batch.answered_by`` and ``Batch.failure``."""


@dataclass(frozen=True)
class Query:
    """A query to exit 2 about n events.

    Attributes:
        futures: futures of the replies; none if there is nothing to wait for.
        collect: returns the outcomes, once all replies are here. Raises CloudError if a request failed and no policy
            covers the failure.
    """

    futures: Sequence[Future[Answer]]
    collect: Callable[[], Iterable[Outcome]]

    def count_pending(self) -> int:
        """Return the number of requests without a reply."""
        return sum(not future.done() for future in self.futures)

    def wait(self, seconds: float, /) -> bool:
        """Wait for at most so many seconds; return whether all replies are here."""
        return not self.futures or not wait(self.futures, seconds).not_done


class LocalSecondExit:
    """Computes exit 2 on the edge."""

    answered_by = LOCAL

    def __init__(self, exit_2: SecondExit) -> None:
        self._exit_2 = exit_2

    def use_network(self, network: Network) -> "LocalSecondExit":
        """Return the same for another network, whose exit 2 is open."""
        assert network.exit_2 is not None
        return LocalSecondExit(network.exit_2)

    def ask(self, features: FloatArray, activations: ActivationsAt) -> Query:
        """Compute exit 2 of features (n, 58) from their activations."""
        rows = np.arange(len(features))
        logits = self.compute(features, activations(rows))
        return Query((), lambda: [(slice(0, len(rows)), logits, LOCAL, "")])

    def compute(self, features: FloatArray, activations: FloatArray | None) -> FloatArray:
        """Return the logits (n, 2); segment 1 is computed again only if there are no activations."""
        if activations is None:
            return self._exit_2.compute_from_features(features)
        return self._exit_2.compute_from_activations(activations)

    def give_up(self) -> None:
        """Do nothing: no request is pending."""

    def check_liveness(self) -> str | None:
        """Return None: no thread or connection can fail."""

    def check_readiness(self) -> str | None:
        """Return None: exit 2 can always be computed."""


@dataclass(frozen=True)
class _Part:
    """The events of one request."""

    rows: slice
    features: FloatArray
    activations: FloatArray | None
    future: Future[Answer]


class CloudSecondExit:
    """Asks cloud workers, in requests of at most ``MAX_EVENTS`` events.

    Args:
        client: sends the requests.
        template: settings of the requests.
        local: computes exit 2 if the cloud does not answer and ``on_failure`` is ``local``; otherwise None.
        on_failure: ``local``; ``reject``, which leaves the events without an answer; or ``wait``, which raises.
    """

    answered_by = CLOUD

    def __init__(
        self, client: Client, template: RequestTemplate, local: LocalSecondExit | None, on_failure: str
    ) -> None:
        self._client = client
        self._template = template
        self._local = local
        self._on_failure = on_failure

    def use_network(self, network: Network) -> "CloudSecondExit":
        """Return the same, over the same connection, for another network; it names that one in its requests."""
        template = replace(self._template, fingerprint=network.fingerprint)
        local = None if network.exit_2 is None else LocalSecondExit(network.exit_2)
        return CloudSecondExit(self._client, template, local, self._on_failure)

    def ask(self, features: FloatArray, activations: ActivationsAt) -> Query:
        """Send requests about features (n, 58), or about their activations."""
        parts = []
        for start in range(0, len(features), MAX_EVENTS):
            rows = np.arange(start, min(start + MAX_EVENTS, len(features)))
            events = features[rows] if self._template.payload == FEATURES else activations(rows)
            future = self._client.submit(self._template.make_request(events))
            # To keep the activations until each reply comes would cost far more memory, so they are kept only if the
            # request has failed at once.
            kept = None
            if future.done() and self._on_failure == "local":
                kept = activations(rows) if self._template.payload == FEATURES else events
            parts.append(_Part(slice(start, start + len(rows)), features[rows], kept, future))
        return Query([part.future for part in parts], lambda: self._collect(parts))

    def give_up(self) -> None:
        """Close the connection; pending requests fail."""
        self._client.close()

    def _collect(self, parts: Sequence[_Part]) -> Iterator[Outcome]:
        for part in parts:
            failure = part.future.exception()
            if failure is None:
                yield part.rows, part.future.result().logits, CLOUD, ""
                continue
            if self._on_failure == "wait" or not isinstance(failure, CloudUnavailableError | MessageError):
                raise failure
            # A worker may send any text as its code, which becomes a cell of the offload CSV.
            code = failure.code if CODE_FORM.fullmatch(failure.code) else "refused"
            if self._on_failure == "local" and self._local is not None:
                yield part.rows, self._local.compute(part.features, part.activations), LOCAL, code
            else:
                yield part.rows, np.full((len(part.features), CLASS_COUNT), np.nan, dtype=np.float32), "", code
