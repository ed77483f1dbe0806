"""What a worker computes: exit 2's answers to requests, several in one pass."""

import time
from collections.abc import Sequence

import numpy as np

from offload.exits import FloatArray, OwnSecondExit
from offload.protocol import ACTIVATIONS, FEATURES, Answer, Limits, Refusal, Request, decode_request
from utils.errors import MessageError


class Cloud:
    """Answers requests with a network; independent of what carries them.

    Args:
        exit_2: computes the logits.
        limits: what is taken, with the network's fingerprint.
        name: of this worker, in its answers.
    """

    def __init__(self, exit_2: OwnSecondExit, limits: Limits, name: str) -> None:
        self.limits = limits
        self._exit_2 = exit_2
        self._name = name

    def decode(self, body: bytes, request_id: str) -> Request | Refusal:
        """Return the request in a message from anyone, or why it is none; whatever it holds, nothing is raised.

        Args:
            body: the message.
            request_id: the correlation id it came with.
        """
        try:
            request = decode_request(body, self.limits)
            if request.request_id != request_id:
                raise MessageError("malformed", "the request's id is not its correlation id")
        except MessageError as problem:
            return Refusal(request_id, problem.code, problem.text)
        return request

    def answer(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
        """Return an answer or a refusal for each request.

        They are computed together. Where that fails, for example because a GPU's memory is full, each is computed
        alone, so that none fails on another's account.
        """
        start = time.perf_counter()
        try:
            logits = self._logits(requests)
        except (RuntimeError, MemoryError) as problem:
            if len(requests) > 1:
                return [reply for request in requests for reply in self.answer([request])]
            reason = str(problem).partition("\n")[0] or type(problem).__name__
            return [Refusal(requests[0].request_id, "worker-failed", reason)]
        milliseconds = 1000 * (time.perf_counter() - start)
        return [self._reply(request, part, milliseconds) for request, part in zip(requests, logits, strict=True)]

    def _reply(self, request: Request, logits: FloatArray, milliseconds: float) -> Answer | Refusal:
        if not np.isfinite(logits).all():
            return Refusal(
                request.request_id, "not-finite", "the network finds no finite answer; are the features scaled?"
            )
        return Answer(request.request_id, self.limits.fingerprint, self._name, milliseconds, logits)

    def _logits(self, requests: Sequence[Request]) -> list[FloatArray]:
        """Return exit 2's logits (n, 2) for each request."""
        logits: dict[int, FloatArray] = {}
        for payload, compute in ((FEATURES, self._exit_2.of_features), (ACTIVATIONS, self._exit_2.of_activations)):
            chosen = [number for number, request in enumerate(requests) if request.payload == payload]
            if chosen:
                tensors = [requests[number].tensor for number in chosen]
                together = compute(np.concatenate(tensors))
                ends = np.cumsum([len(tensor) for tensor in tensors])[:-1]
                logits.update(zip(chosen, np.split(together, ends), strict=True))
        return [logits[number] for number in range(len(requests))]
