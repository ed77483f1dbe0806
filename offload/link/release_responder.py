"""Answer requests with the networks of several releases, each with the one that it names.

Edges change to a new release one by one, and a worker may change before or after them. A worker therefore keeps the
networks that were used last. If a request names a network that is not open, the worker looks for it among the releases
in its folder and opens it at once, while the request waits. Requests are then refused in no order of the changes, as
long as the worker's folder holds the releases of all edges. This is simpler than to requeue or refuse the request
until the network is there: the order of requests stays, the client needs no rule of its own, and a message that names
no release of the folder is refused at once, as it always was. The price is that other requests wait, too, for as long
as the worker opens the network, about as long as for a few large requests.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from offload.link.protocol import Answer, Limits, Refusal, Request
from offload.link.responder import Responder

MOST_NETWORKS: Final = 3
"""Networks that are kept: the new one, the one before, and one that edges are still using. An AlexNet has 200 MB."""


class ReleaseResponder(Responder):
    """Answers each request with the network whose fingerprint it names.

    Args:
        first: answers requests of the first release.
        find: called with a fingerprint that no open network has, and may call ``add``. A thread that computes waits
            for it.
    """

    def __init__(self, first: Responder, find: Callable[[str], object]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._responders: OrderedDict[str, Responder] = OrderedDict()  # least recently used first
        self.add(first, newest=True)

    def add(self, responder: Responder, *, newest: bool) -> None:
        """Serve another network from the next batch on; the one that was not used for longest is closed.

        It takes the place of one with the same fingerprint. Safe in any thread.

        Args:
            responder: answers with the network.
            newest: whether it is that of the current release.
        """
        fingerprint = responder.limits.fingerprint
        with self._lock:
            self._responders[fingerprint] = responder
            self._responders.move_to_end(fingerprint)
            if newest:
                self.limits: Limits = responder.limits
            while len(self._responders) > MOST_NETWORKS:
                self._responders.popitem(last=False)

    def is_open(self, fingerprint: str) -> bool:
        """Return whether a network is open."""
        with self._lock:
            return fingerprint in self._responders

    def decode(self, body: bytes, request_id: str) -> Request | Refusal:
        """See ``Responder``; the network that the request names is opened if it is not open."""
        return self._decode(body, request_id, lambda fingerprint: self._get(fingerprint) is not None)

    def answer(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
        """See ``Responder``; requests of one network are computed together."""
        replies: dict[int, Answer | Refusal] = {}
        for fingerprint in dict.fromkeys(request.fingerprint for request in requests):
            chosen = [number for number, request in enumerate(requests) if request.fingerprint == fingerprint]
            responder = self._get(fingerprint)
            if responder is None:  # it was closed since the request was decoded, and its release has gone
                reason = f"the release of network {fingerprint[:12]} was removed"
                found: list[Answer | Refusal] = [
                    Refusal(requests[number].request_id, "wrong-model", reason) for number in chosen
                ]
            else:
                found = responder.answer([requests[number] for number in chosen])
            replies.update(zip(chosen, found, strict=True))
        return [replies[number] for number in range(len(requests))]

    def _get(self, fingerprint: str) -> Responder | None:
        if not self.is_open(fingerprint):
            self._find(fingerprint)
        with self._lock:
            responder = self._responders.get(fingerprint)
            if responder is not None:
                self._responders.move_to_end(fingerprint)
            return responder
