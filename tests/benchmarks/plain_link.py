"""The plainest link that works, as a yardstick: one request at a time, and one forward pass for each request.

The messages are ours; everything else is what one would write in an afternoon. As a script, it is the worker.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pika
import torch
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # repo root

from models.checkpoint import compute_fingerprint, read_two_exits
from models.early_exit import TwoExits
from offload.link.protocol import (
    FEATURES,
    Answer,
    Limits,
    Request,
    decode_reply,
    decode_request,
    encode_answer,
    encode_request,
    make_id,
)
from utils.classification_metrics import classify
from utils.dataset import to_images
from utils.decision import is_accepted
from utils.schema import Thresholds

PASSWORD_VARIABLE = "EE_MQ_PASSWORD"


def connect(port: int, username: str) -> pika.BlockingConnection:
    """Return a connection to a broker on this machine."""
    credentials = pika.PlainCredentials(username, os.environ[PASSWORD_VARIABLE])
    return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", port, credentials=credentials))


def serve(port: int, username: str, queue: str, checkpoint: Path) -> None:
    """Answer one request after the other."""
    network, _ = read_two_exits(checkpoint)
    limits = Limits(compute_fingerprint(network), network.activation_shape())
    channel = connect(port, username).channel()
    channel.queue_declare(queue)
    channel.basic_qos(prefetch_count=1)

    def answer(_channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        start = time.perf_counter()
        request = decode_request(body, limits)
        with torch.inference_mode():
            tensor = torch.from_numpy(to_images(request.tensor) if request.payload == FEATURES else request.tensor)
            activations = network.segment_1(tensor) if request.payload == FEATURES else tensor
            logits = network.cloud(activations).numpy()
        milliseconds = 1000 * (time.perf_counter() - start)
        reply = encode_answer(Answer(request.request_id, request.fingerprint, "plain", milliseconds, logits))
        channel.basic_publish("", properties.reply_to, reply, pika.BasicProperties(properties.correlation_id))
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, answer)
    print("ready:", flush=True)
    channel.start_consuming()


class PlainClient:
    """Sends a request and waits for its answer."""

    def __init__(self, port: int, username: str, queue: str) -> None:
        self._connection = connect(port, username)
        self._channel = self._connection.channel()
        self._queue = queue
        self._replies: list[bytes] = []
        self._reply_to = self._channel.queue_declare("", exclusive=True).method.queue
        self._channel.basic_consume(self._reply_to, lambda *delivery: self._replies.append(delivery[3]), auto_ack=True)

    def ask(self, request: Request) -> NDArray[np.float32]:
        """Return the logits (n, 2)."""
        properties = pika.BasicProperties(correlation_id=request.request_id, reply_to=self._reply_to)
        self._channel.basic_publish("", self._queue, encode_request(request), properties)
        while not self._replies:
            self._connection.process_data_events(time_limit=None)
        reply = decode_reply(self._replies.pop(), request)
        assert isinstance(reply, Answer)
        return reply.logits

    def close(self) -> None:
        """Leave."""
        self._connection.close()


def decide_all(
    network: TwoExits, digest: str, batches: Iterator[NDArray[np.float32]], thresholds: Thresholds, client: PlainClient,
    payload: str,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64]]]:  # fmt: skip
    """Yield the last exit's predictions and certainties of each batch, one batch after the other."""
    for features in batches:
        with torch.inference_mode():
            activations, logits = network.edge(torch.from_numpy(to_images(features)))
        predictions, certainties = classify(logits.numpy())
        rows = np.flatnonzero(
            ~is_accepted(predictions, certainties, thresholds.normal_exit_1, thresholds.attack_exit_1)
        )
        if len(rows):
            tensor = features[rows] if payload == FEATURES else activations[rows].numpy()
            answer = client.ask(Request(make_id(), "plain", digest, payload, tensor))
            predictions[rows], certainties[rows] = classify(answer)
        yield predictions, certainties


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
