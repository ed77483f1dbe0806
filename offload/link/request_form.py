"""The settings with which a client makes its requests."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload.link.protocol import Request, make_id
from offload.networks.exits import FloatArray


@dataclass(frozen=True)
class RequestForm:
    """The settings that all requests of a client share.

    Attributes:
        fingerprint: fingerprint of the client's network; only a worker with the same one answers.
        client_id: name of the client in the worker's log.
        payload: ``features`` or ``activations``.
        half_precision: send float16, half the bytes.
    """

    fingerprint: str
    client_id: str
    payload: str
    half_precision: bool = False

    def make_request(self, events: FloatArray) -> Request:
        """Return a request for at most ``MAX_EVENTS`` events: features (n, 58) or activations (n, C, H, W)."""
        tensor: NDArray[np.floating] = events
        if self.half_precision and np.abs(events).max() <= np.finfo(np.float16).max:
            tensor = events.astype(np.float16)
        return Request(make_id(), self.client_id, self.fingerprint, self.payload, tensor)
