"""Answer requests with exit 2 of a network, several requests in one forward pass."""

import time
from collections.abc import Callable, Sequence

import numpy as np

from offload.link.protocol import ACTIVATIONS, FEATURES, Answer, Limits, Refusal, Request, decode_request
from offload.networks.cache import Cache, make_keys
from offload.networks.exits import FloatArray, SecondExit
from utils.dataset import find_distinct_vectors
from utils.errors import MessageError


class Responder:
    """Answers requests with a network; independent of the transport.

    Args:
        exit_2: computes the logits.
        limits: limits of accepted requests, with the fingerprint of the network.
        name: name of this worker in its answers.
        cache: logits of exit 2 by feature vector; None: repeated vectors are computed again.
    """

    def __init__(self, exit_2: SecondExit, limits: Limits, name: str, cache: Cache | None = None) -> None:
        self.limits = limits
        self._exit_2 = exit_2
        self._name = name
        self._cache = cache

    def decode(self, body: bytes, request_id: str) -> Request | Refusal:
        """Return the request in an untrusted message, or a refusal; never raise.

        Args:
            body: body of the message.
            request_id: correlation id of the message.
        """
        return self._decode(body, request_id, None)

    def _decode(self, body: bytes, request_id: str, is_served: Callable[[str], bool] | None) -> Request | Refusal:
        try:
            request = decode_request(body, self.limits, is_served)
            if request.request_id != request_id:
                raise MessageError("malformed", "the id of the request is not its correlation id")
        except MessageError as problem:
            return Refusal(request_id, problem.code, problem.text)
        return request

    def answer(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
        """Return an answer or a refusal for each request.

        The requests are computed together. If that fails, for example because a GPU's memory is full, each is computed
        alone, so that no request fails because of another one.
        """
        start = time.perf_counter()
        try:
            logits = self._compute_logits(requests)
        except (RuntimeError, MemoryError) as problem:
            if len(requests) > 1:
                return [reply for request in requests for reply in self.answer([request])]
            reason = str(problem).partition("\n")[0] or type(problem).__name__
            return [Refusal(requests[0].request_id, "worker-failed", reason)]
        milliseconds = 1000 * (time.perf_counter() - start)
        return [self._make_reply(request, part, milliseconds) for request, part in zip(requests, logits, strict=True)]

    def _make_reply(self, request: Request, logits: FloatArray, milliseconds: float) -> Answer | Refusal:
        if not np.isfinite(logits).all():
            return Refusal(
                request.request_id, "not-finite", "the logits of the network are not finite; scale the features"
            )
        return Answer(request.request_id, self.limits.fingerprint, self._name, milliseconds, logits)

    def _compute_logits(self, requests: Sequence[Request]) -> list[FloatArray]:
        """Return exit 2's logits (n, 2) for each request."""
        logits: dict[int, FloatArray] = {}
        computations = {FEATURES: self._compute_features, ACTIVATIONS: self._exit_2.compute_from_activations}
        for payload, compute in computations.items():
            chosen = [number for number, request in enumerate(requests) if request.payload == payload]
            if chosen:
                tensors = [requests[number].tensor for number in chosen]
                together = compute(np.concatenate(tensors))
                ends = np.cumsum([len(tensor) for tensor in tensors])[:-1]
                logits.update(zip(chosen, np.split(together, ends), strict=True))
        return [logits[number] for number in range(len(requests))]

    def _compute_features(self, features: FloatArray) -> FloatArray:
        """Return the logits (n, 2) for features (n, 58); each distinct vector that is not cached is computed once."""
        if self._cache is None:
            return self._exit_2.compute_from_features(features)
        first, vector_index = find_distinct_vectors(features)
        vectors = features[first]
        keys = make_keys(vectors)
        logits = self._cache.find(keys)[:, 1]
        missing = self._cache.find_missing(2, logits)
        if len(missing):
            logits[missing] = self._exit_2.compute_from_features(vectors[missing])
            self._cache.put([keys[row] for row in missing.tolist()], 2, logits[missing])
        return logits[vector_index]
