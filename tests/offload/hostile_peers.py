"""Peers that misbehave: a worker with arbitrary replies, and a network that fails at a chosen byte."""

import contextlib
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pika

from offload.link.broker import Broker
from offload.link.protocol import (
    ACTIVATIONS,
    Answer,
    Limits,
    Refusal,
    Request,
    decode_reply,
    decode_request,
    encode_answer,
    encode_refusal,
    make_id,
)
from offload.link.rabbitmq.worker_end import make_queue_arguments
from tests.hostile import Bomb
from tests.offload.link_ends import FINGERPRINT, PATIENCE, listening, make_request, open_channel
from tests.offload.messages import change_header, make_body
from utils.errors import MessageError
from utils.schema import CLASS_COUNT

ACTIVATION_SHAPE = (24, 12, 12)
"""Activation shape of the network that these workers pretend to have: MobileNetV2's."""
_LIMITS = Limits(FINGERPRINT, ACTIVATION_SHAPE)


def make_large_request(events: int) -> Request:
    """Return a request of activations, 13,824 bytes an event, which only ``ByHand`` answers."""
    tensor = np.random.default_rng().random((events, *ACTIVATION_SHAPE), dtype=np.float32)
    return replace(make_request(), payload=ACTIVATIONS, tensor=tensor)


def make_answer(request: Request) -> bytes:
    """Return the answer of ``Sleeper``: the first two numbers of each event."""
    logits = request.tensor.reshape(len(request.tensor), -1)[:, :CLASS_COUNT]
    return encode_answer(Answer(request.request_id, FINGERPRINT, "by-hand", 1.0, np.ascontiguousarray(logits)))


@dataclass(frozen=True)
class Taken:
    """A request that was taken from the queue, with its properties; ``seconds`` until it would have expired."""

    request: Request
    body: bytes
    correlation_id: str
    reply_to: str
    seconds: float


class ByHand:
    """A worker that a test controls, which may send anything to any queue."""

    def __init__(self, channel: Any, queue: str) -> None:
        self._channel = channel
        self._queue = queue
        self._unconfirmed = channel.connection.channel()

    def take(self) -> Taken:
        """Wait for the next request and take it from the queue."""
        deadline = time.monotonic() + PATIENCE
        while True:
            method, properties, body = self._channel.basic_get(self._queue, auto_ack=True)
            if method is not None:
                request = decode_request(body, _LIMITS)
                seconds = int(properties.expiration) / 1000
                return Taken(request, body, properties.correlation_id, properties.reply_to, seconds)
            assert time.monotonic() < deadline, "no request came"
            time.sleep(0.01)

    def reply(self, taken: Taken, body: bytes | None = None, **properties: Any) -> None:
        """Reply, by default correctly."""
        properties = {"correlation_id": taken.correlation_id, **properties}
        body = make_answer(taken.request) if body is None else body
        self._channel.basic_publish("", taken.reply_to, body, pika.BasicProperties(**properties))

    def flood(self, taken: Taken, body: bytes) -> None:
        """Reply without waiting for the broker's confirmation."""
        properties = pika.BasicProperties(correlation_id=taken.correlation_id)
        self._unconfirmed.basic_publish("", taken.reply_to, body, properties)


@contextmanager
def control_worker(broker: Broker, queue: str, room: int = 1000) -> Iterator[ByHand]:
    """Yield a worker that a test controls; its queue holds ``room`` requests."""
    with open_channel(broker) as channel:
        arguments = {**make_queue_arguments(), "x-max-length": room}
        channel.queue_declare(queue, durable=True, arguments=arguments)
        yield ByHand(channel, queue)


def is_valid(body: bytes, request: Request) -> bool:
    """Return whether a body is a valid reply to a request."""
    try:
        decode_reply(body, request)
    except MessageError:
        return False
    return True


def _of_another(request: Request, **changes: Any) -> bytes:
    return make_answer(replace(request, **changes))


def _bomb(request: Request, canary: Path) -> bytes:
    header = {"__metadata__": {"version": "1", "request_id": request.request_id}}
    return make_body(header, pickle.dumps(Bomb(canary)))


FORGERIES: dict[str, tuple[str, Callable[[Request, Path], bytes]]] = {
    "nothing": ("malformed", lambda _request, _canary: b""),
    "garbage": ("malformed", lambda _request, _canary: bytes(range(256))),
    "half of the answer": ("malformed", lambda request, _canary: make_answer(request)[:-4]),
    "a pickle bomb": ("malformed", lambda _request, canary: pickle.dumps(Bomb(canary))),
    "a pickle bomb for a tensor": ("malformed", _bomb),
    "the answer to another request": (
        "malformed",
        lambda request, _canary: _of_another(request, request_id=make_id()),
    ),
    "a refusal of another request": (
        "malformed",
        lambda _request, _canary: encode_refusal(Refusal(make_id(), "worker-failed", "")),
    ),
    "an answer for more events": (
        "wrong-shape",
        lambda request, _canary: _of_another(request, tensor=np.repeat(request.tensor, 2, axis=0)),
    ),
    "an answer of another network": (
        "wrong-model",
        lambda request, _canary: change_header(
            make_answer(request), lambda header: header["__metadata__"].update(fingerprint="66" * 32)
        ),
    ),
    "an answer of another version": (
        "wrong-version",
        lambda request, _canary: change_header(
            make_answer(request), lambda header: header["__metadata__"].update(version="2")
        ),
    ),
    "an answer that is no number": (
        "not-finite",
        lambda request, _canary: _of_another(request, tensor=np.full_like(request.tensor, np.nan)),
    ),
    "far too much": ("too-large", lambda request, _canary: make_answer(request) + bytes(2**20)),
}
"""Invalid replies by name: the reason why they are discarded, and a function that makes them."""


class FailingRelay:
    """A relay between a client and the broker whose present connections can be made to fail."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._ends: list[socket.socket] = []
        self._pumps: list[threading.Thread] = []
        self._silent: set[socket.socket] = set()
        self._cuts: list[int] = []

    def fall_silent(self) -> None:
        """Discard all further bytes of the present connections."""
        self._silent.update(self._ends)

    def cut(self) -> None:
        """Cut the present connections."""
        _hang_up(*self._ends)

    def cut_after(self, *counts: int) -> None:
        """Cut each of the next connections after so many bytes from the client."""
        self._cuts = list(counts)

    def _join(self, client: socket.socket) -> None:
        broker = socket.create_connection(("127.0.0.1", self._target))
        self._ends += client, broker
        for pump in (self._pump_out, self._pump_in):
            self._pumps.append(threading.Thread(target=pump, args=(client, broker), daemon=True))
            self._pumps[-1].start()

    def _pump_out(self, client: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(2**16):
                if broker in self._silent:
                    continue
                left = self._cuts[0] if self._cuts else None  # read once: a test may set the cuts meanwhile
                broker.sendall(data[:left])
                if left is not None:
                    self._cuts[0] = left - len(data)
                    if self._cuts[0] <= 0:
                        del self._cuts[0]
                        break
        _hang_up(client, broker)

    def _pump_in(self, client: socket.socket, broker: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := broker.recv(2**16):
                if broker not in self._silent:
                    client.sendall(data)
        if broker not in self._silent:
            _hang_up(client, broker)

    @contextmanager
    def running(self) -> Iterator[int]:
        """Yield the port of the relay."""
        with listening(self._join) as port:
            try:
                yield port
            finally:
                _hang_up(*self._ends)
                for pump in self._pumps:
                    pump.join(PATIENCE)
                for end in self._ends:
                    end.close()


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
