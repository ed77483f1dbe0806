"""What a worker computes: exit 2's answer to one message."""

import time

import numpy as np
import torch
from torch import Tensor

from models.checkpoint import fingerprint
from models.early_exit import TwoExits
from offload.protocol import (
    FEATURES,
    Answer,
    Limits,
    Refusal,
    Request,
    decode_request,
    encode_answer,
    encode_refusal,
)
from utils.dataset import to_images
from utils.errors import MessageError


class Cloud:
    """Answers messages with a network; independent of what carries them.

    Args:
        network: in evaluation mode, on ``device``.
        device: where it runs.
        name: of this worker, in its answers.
    """

    def __init__(self, network: TwoExits, device: torch.device, name: str) -> None:
        self.limits = Limits(fingerprint(network), network.activation_shape())
        self.events = 0
        self.refused = 0
        self._network = network
        self._device = device
        self._name = name

    def answer(self, body: bytes, request_id: str) -> tuple[bytes, str]:
        """Return the reply to a message and a line for the log; whatever the message holds, it does not raise.

        Args:
            body: the message, from anyone.
            request_id: the correlation id it came with.
        """
        try:
            request = decode_request(body, self.limits)
            if request.request_id != request_id:
                raise MessageError("malformed", "the request's id is not its correlation id")
            answer = self._compute(request)
        except MessageError as problem:
            self.refused += 1
            return encode_refusal(Refusal(request_id, problem.code, problem.text)), f"refused: {problem}"
        except (RuntimeError, MemoryError) as problem:  # torch's own, for example a GPU out of memory
            self.refused += 1
            reason = str(problem).partition("\n")[0]
            return encode_refusal(Refusal(request_id, "worker-failed", reason)), f"failed: {reason}"
        self.events += len(request.tensor)
        line = (
            f"{len(request.tensor)} events ({request.payload}) of {request.client_id} in {answer.milliseconds:.1f} ms"
        )
        return encode_answer(answer), line

    def _compute(self, request: Request) -> Answer:
        start = time.perf_counter()
        with torch.inference_mode():
            logits = exit_2(self._network, request, self._device)
            result = logits.float().cpu().numpy()
        if not np.isfinite(result).all():
            raise MessageError("not-finite", "the network finds no finite answer; are the features scaled?")
        milliseconds = 1000 * (time.perf_counter() - start)
        return Answer(request.request_id, self.limits.fingerprint, self._name, milliseconds, result)


def exit_2(network: TwoExits, request: Request, device: torch.device) -> Tensor:
    """Return exit 2's logits (n, 2) for a request's features or activations."""
    if request.payload == FEATURES:
        images = torch.from_numpy(to_images(request.tensor)).to(device)
        return network.cloud(network.segment_1(images))
    return network.cloud(torch.from_numpy(request.tensor).to(device))
