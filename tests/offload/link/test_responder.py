import logging
import pickle
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pika
import pytest
import torch

from models.calibrated import CalibratedNetwork
from models.checkpoint import compute_fingerprint, read_two_exits
from offload.link.broker import Broker
from offload.link.protocol import (
    ACTIVATIONS,
    FEATURES,
    LOGITS,
    Answer,
    Limits,
    Refusal,
    Request,
    decode_reply,
    encode_answer,
    encode_refusal,
    encode_request,
    make_id,
)
from offload.link.responder import Responder
from offload.link.worker import Worker
from offload.link.worker_settings import WorkerSettings
from offload.networks.exits import FloatArray, SecondExit
from offload.networks.torch_exits import Exit2, open_network
from offload.operations.metrics import ANSWERS, WorkerMetrics
from tests.hostile import Bomb
from tests.networks import calibrated_network
from tests.offload.exits import ROUNDING, served
from tests.offload.link_ends import PATIENCE, count_waiting, make_client, open_channel, run_worker, wait_until
from tests.offload.messages import change_header, make_body, mutate_body, split_body
from utils.classification_metrics import classify
from utils.dataset import read_dataset, to_images

CPU = torch.device("cpu")
ROWS = 60
SIZES = (1, 7, 2, 20, 1, 9)
MUTATIONS = 2000
MUTATIONS_OVER_RABBITMQ = 10_000
AT_ONCE = 250
"""Messages that strangers have in the queue at a time; it takes 1000."""


@pytest.fixture(scope="module")
def mobilenet(checkpoint: Path) -> CalibratedNetwork:
    network, _ = read_two_exits(checkpoint)
    assert isinstance(network, CalibratedNetwork)
    return network


@pytest.fixture(scope="module", params=["MobileNetV2WithExits", "AlexNetWithExits"])
def network(request: pytest.FixtureRequest, mobilenet: CalibratedNetwork) -> CalibratedNetwork:
    return mobilenet if request.param.startswith("Mobile") else calibrated_network(request.param)


@pytest.fixture
def cloud(mobilenet: CalibratedNetwork) -> Responder:
    return Responder(*served(mobilenet, 256), "cloud:7")


@pytest.fixture(scope="module")
def features(sample: Path) -> FloatArray:
    """Distinct rows."""
    distinct = np.unique(read_dataset(sample / "2016_03.csv").features, axis=0)
    return np.random.default_rng(0).permutation(distinct)[:ROWS]


class Counted:
    """Exit 2 that counts how many events it is given at once."""

    def __init__(self, exit_2: SecondExit) -> None:
        self._exit_2 = exit_2
        self.sizes: list[int] = []

    def compute_from_features(self, features: FloatArray, /) -> FloatArray:
        self.sizes.append(len(features))
        return self._exit_2.compute_from_features(features)

    def compute_from_activations(self, activations: FloatArray, /) -> FloatArray:
        self.sizes.append(len(activations))
        return self._exit_2.compute_from_activations(activations)


def activations_of(network: CalibratedNetwork, features: FloatArray) -> FloatArray:
    with torch.inference_mode():
        activations: FloatArray = network.segment_1(torch.from_numpy(to_images(features))).numpy()
    return activations


def request_for(cloud: Responder, tensor: Any, payload: str = FEATURES) -> Request:
    return Request(make_id(), "edge:1", cloud.limits.fingerprint, payload, tensor)


def mixed_requests(cloud: Responder, network: CalibratedNetwork, features: FloatArray) -> list[Request]:
    """Return requests of several sizes, features and activations in turn, no two with the same rows."""
    requests, start = [], 0
    for number, size in enumerate(SIZES):
        rows = features[start : start + size]
        plain = request_for(cloud, rows)
        requests.append(request_for(cloud, activations_of(network, rows), ACTIVATIONS) if number % 2 else plain)
        start += size
    return requests


def alone(network: CalibratedNetwork, request: Request) -> FloatArray:
    """Return the network's logits for one request."""
    with torch.inference_mode():
        if request.payload == ACTIVATIONS:
            logits: FloatArray = network.cloud(torch.from_numpy(request.tensor)).numpy()
        else:
            logits = network.cloud(network.segment_1(torch.from_numpy(to_images(request.tensor)))).numpy()
    return logits


def is_right(reply: Answer | Refusal, request: Request, network: CalibratedNetwork) -> bool:
    """Return whether a reply decodes to the network's logits."""
    received = decode_reply(encode_answer(reply), request) if isinstance(reply, Answer) else reply
    expected = alone(network, request)
    return isinstance(received, Answer) and np.allclose(received.logits, expected, rtol=ROUNDING, atol=ROUNDING)


def received(cloud: Responder, request: Request) -> Request:
    """Return a request as it comes out of its message."""
    decoded = cloud.decode(encode_request(request), request.request_id)
    assert isinstance(decoded, Request)
    return decoded


@pytest.mark.parametrize("seed", range(3))
def test_requests_of_both_payloads_are_computed_together_and_get_their_own_rows(
    seed: int, network: CalibratedNetwork, features: FloatArray
) -> None:
    exit_2, limits = served(network, 256)
    counted = Counted(exit_2)
    cloud = Responder(counted, limits, "cloud:7")
    requests = mixed_requests(cloud, network, features)
    random.Random(seed).shuffle(requests)
    replies = cloud.answer([received(cloud, request) for request in requests])
    assert sorted(counted.sizes) == sorted(sum(SIZES[kind::2]) for kind in (0, 1))
    assert [reply.request_id for reply in replies] == [request.request_id for request in requests]
    assert all(map(is_right, replies, requests, [network] * len(SIZES)))
    firsts = {float(alone(network, request)[0, 0]) for request in requests}
    assert len(firsts) == len(SIZES), "who gets another's rows would not notice"


def test_a_quantised_network_keeps_the_fingerprint(features: FloatArray) -> None:
    plain = calibrated_network("AlexNetWithExits")
    digest, opened = compute_fingerprint(plain), open_network(plain, CPU, int8=True)
    assert opened.exit_2 is not None
    cloud = Responder(opened.exit_2, Limits(opened.fingerprint, opened.activation_shape), "cloud:7")
    request = Request(make_id(), "edge", digest, FEATURES, features)
    (reply,) = cloud.answer([received(cloud, request)])
    assert isinstance(reply, Answer) and reply.fingerprint == digest
    exact = alone(plain, request)
    assert 0 < np.linalg.norm(reply.logits - exact) < 0.03 * np.linalg.norm(exact)


@pytest.mark.parametrize("payload", [FEATURES, ACTIVATIONS])
def test_a_request_larger_than_a_pass_gets_one_answer(
    payload: str, network: CalibratedNetwork, features: FloatArray
) -> None:
    exit_2, limits = served(network, 7)
    cloud = Responder(exit_2, limits, "cloud:7")
    tensor = features if payload == FEATURES else activations_of(network, features)
    request = request_for(cloud, tensor, payload)
    (reply,) = cloud.answer([request])
    assert is_right(reply, request, network)
    passes: list[int] = []
    hook = network.model.exits[1].register_forward_pre_hook(lambda _module, args: passes.append(len(args[0])))
    (on_gpus,) = Responder(Exit2(network, CPU, 7), limits, "cloud:7").answer([request])
    hook.remove()
    assert sum(passes) == ROWS and max(passes) <= 7
    assert is_right(on_gpus, request, network)
    assert {*classify(alone(network, request))[0]} == {0, 1}


def test_requests_with_the_same_id_are_answered_separately(
    cloud: Responder, mobilenet: CalibratedNetwork, features: FloatArray
) -> None:
    one_id = make_id()
    requests = [
        Request(one_id, "edge:1", cloud.limits.fingerprint, FEATURES, features[start:][:size])
        for start, size in ((0, 5), (5, 5), (10, 1), (0, 5))
    ]
    replies = cloud.answer(requests)
    assert len(replies) == 4
    assert all(map(is_right, replies, requests, [mobilenet] * 4))
    assert not is_right(replies[0], requests[1], mobilenet)


def test_half_precision_halves_the_bytes_and_changes_certainties_little(
    network: CalibratedNetwork, features: FloatArray
) -> None:
    cloud, activations = Responder(*served(network, 256), "cloud:7"), activations_of(network, features)
    whole = request_for(cloud, activations, ACTIVATIONS)
    half = request_for(cloud, activations.astype(np.float16), ACTIVATIONS)
    assert len(split_body(encode_request(whole))[1]) == 2 * len(split_body(encode_request(half))[1])
    first, second = cloud.answer([received(cloud, whole), received(cloud, half)])
    assert isinstance(first, Answer) and isinstance(second, Answer)
    difference = np.abs(classify(first.logits)[1] - classify(second.logits)[1]).max()
    # MobileNetV2's logits are large before it is trained, and round accordingly.
    assert 0 < difference <= (1e-3 if np.abs(first.logits).max() < 10 else 2e-3)


def test_an_answer_names_its_worker_its_network_and_its_time(cloud: Responder, features: FloatArray) -> None:
    start = time.perf_counter()
    (answer,) = cloud.answer([request_for(cloud, features)])
    around = time.perf_counter() - start
    assert isinstance(answer, Answer)
    assert (answer.worker, answer.fingerprint) == ("cloud:7", cloud.limits.fingerprint)
    assert 0 < answer.milliseconds <= 1000 * around


def test_no_requests_get_no_answers(cloud: Responder) -> None:
    assert cloud.answer([]) == []


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "too-large": lambda body: body.ljust(16 * 2**20),
    "malformed": lambda body: body[:-1],
    "wrong-version": lambda body: change_header(body, lambda header: header["__metadata__"].update(version="0")),
    "wrong-model": lambda body: change_header(
        body, lambda header: header["__metadata__"].update(fingerprint="ab" * 32)
    ),
    "wrong-payload": lambda body: change_header(body, lambda header: header["__metadata__"].update(payload=LOGITS)),
    "wrong-shape": lambda body: change_header(body, lambda header: header[FEATURES].update(shape=[58, ROWS])),
    "not-finite": lambda body: body[:-4] + np.float32("nan").tobytes(),
}


@pytest.mark.parametrize("code", [code for code in ANSWERS if code not in {"answered", "worker-failed"}])
def test_an_invalid_request_is_refused_with_its_code(code: str, cloud: Responder, features: FloatArray) -> None:
    body, request_id = BROKEN[code](encode_request(request_for(cloud, features))), make_id()
    refusal = cloud.decode(body, request_id)
    assert isinstance(refusal, Refusal)
    assert (refusal.request_id, refusal.code) == (request_id, code)
    assert refusal.text.isprintable()


def test_a_request_with_another_correlation_id_is_refused_under_that_id(cloud: Responder, features: FloatArray) -> None:
    other = make_id()
    refusal = cloud.decode(encode_request(request_for(cloud, features)), other)
    assert refusal == Refusal(other, "malformed", "the id of the request is not its correlation id")


def test_a_request_for_another_network_is_refused_with_the_remedy(cloud: Responder, features: FloatArray) -> None:
    request = Request(make_id(), "edge:1", "ab" * 32, FEATURES, features)
    refusal = cloud.decode(encode_request(request), request.request_id)
    assert isinstance(refusal, Refusal)
    for text in ("abababababab", cloud.limits.fingerprint[:12], "same checkpoint"):
        assert text in refusal.text


def test_a_worker_of_activations_only_refuses_features(mobilenet: CalibratedNetwork, features: FloatArray) -> None:
    cloud = Responder(*served(mobilenet, 256, (ACTIVATIONS,)), "cloud:7")
    request = request_for(cloud, features)
    refusal = cloud.decode(encode_request(request), request.request_id)
    assert refusal == Refusal(request.request_id, "wrong-payload", "this worker accepts activations")
    taken = request_for(cloud, activations_of(mobilenet, features), ACTIVATIONS)
    assert is_right(cloud.answer([received(cloud, taken)])[0], taken, mobilenet)


def test_any_bytes_give_a_reply_that_the_client_can_decode(cloud: Responder, features: FloatArray) -> None:
    request, rng = request_for(cloud, features[:1]), random.Random(3)
    bodies = [b"", b"\x00", bytes(8), b"\xff" * 8, make_body([]), make_body({}), make_body(b"[" * 5000)]
    bodies += [rng.randbytes(rng.randrange(600)) for _ in range(300)]
    bodies += mutate_body(encode_request(request), 4, MUTATIONS)
    replies = []
    for body in bodies:
        decoded = cloud.decode(body, request.request_id)
        (reply,) = [decoded] if isinstance(decoded, Refusal) else cloud.answer([decoded])
        encoded = encode_refusal(reply) if isinstance(reply, Refusal) else encode_answer(reply)
        replies.append(decode_reply(encoded, request))
    assert {type(reply) for reply in replies} == {Answer, Refusal}
    assert not any(isinstance(reply, Answer) for reply in replies[:307])


@pytest.mark.parametrize("network", ["AlexNetWithExits"], indirect=True)  # MobileNetV2's ReLU6 lets nothing overflow
def test_a_request_on_which_the_network_overflows_is_refused_alone(
    network: CalibratedNetwork, features: FloatArray
) -> None:
    cloud, activations = Responder(*served(network, 256), "cloud:7"), activations_of(network, features)
    poison = activations[:3].copy()
    poison[1] = 3e38
    requests = [request_for(cloud, tensor, ACTIVATIONS) for tensor in (activations[:5], poison, activations[5:])]
    requests.insert(1, request_for(cloud, features))
    first, second, refusal, last = cloud.answer([received(cloud, request) for request in requests])
    assert isinstance(refusal, Refusal)
    assert (refusal.request_id, refusal.code) == (requests[2].request_id, "not-finite")
    for reply, request in ((first, requests[0]), (second, requests[1]), (last, requests[3])):
        assert is_right(reply, request, network)


class Choking(CalibratedNetwork):
    """Fails on each pass with an event of nothing but ones."""

    problem: Exception

    def segment_1(self, images: torch.Tensor) -> torch.Tensor:
        if (images.sum(dim=(1, 2, 3)) == 58).any():
            raise self.problem
        return super().segment_1(images)


OUT_OF_MEMORY = {
    "CUDA out of memory.": torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 MiB"),
    "MemoryError": MemoryError(),
}


@pytest.mark.parametrize("reason", OUT_OF_MEMORY)
def test_a_request_on_which_the_network_fails_is_refused_alone(
    reason: str, mobilenet: CalibratedNetwork, features: FloatArray
) -> None:
    network = Choking(mobilenet.model, [float(temperature) for temperature in mobilenet.temperature]).eval()
    network.problem = OUT_OF_MEMORY[reason]
    cloud = Responder(*served(network.requires_grad_(False), 256), "cloud:7")
    requests = [
        request_for(cloud, tensor) for tensor in (features[:5], np.ones((2, 58), np.float32), features[5:], features)
    ]
    replies = cloud.answer(requests)
    assert replies[1] == Refusal(requests[1].request_id, "worker-failed", reason)
    for number in (0, 2, 3):
        assert is_right(replies[number], requests[number], mobilenet)


class Stranger:
    """Sends any bytes with any properties, and counts what comes back."""

    def __init__(self, channel: Any, queue: str) -> None:
        self._connection = channel.connection
        self._channel = self._connection.channel()  # without confirms
        self._queue = queue
        self.address = {"correlation_id": make_id(), "reply_to": f"ee-reply.{make_id()}"}
        self.replies = 0
        self.codes: set[str] = set()
        self._channel.queue_declare(self.address["reply_to"], exclusive=True)
        self._channel.basic_consume(self.address["reply_to"], self._on_reply, auto_ack=True)

    def _on_reply(self, _channel: Any, _method: Any, _properties: Any, body: bytes) -> None:
        self.replies += 1
        self.codes.add(split_body(body)[0]["__metadata__"].get("error_code", "answered"))

    def send(self, body: bytes, **properties: Any) -> None:
        self._channel.basic_publish("", self._queue, body, pika.BasicProperties(**properties))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        wait_until(lambda: self._connection.process_data_events(0.01) or condition())


def test_a_pickle_is_refused_and_does_nothing(link: Broker, queue: str, cloud: Responder, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(canary))
    metrics = WorkerMetrics()
    with run_worker(Worker(link, queue, cloud, WorkerSettings(), metrics)), open_channel(link) as channel:
        stranger = Stranger(channel, queue)
        for body in (bomb, make_body(bomb), make_body(b"{}", bomb), bytes(8) + bomb):
            stranger.send(body, **stranger.address)
        stranger.send(b"", **stranger.address | {"headers": {"bomb": bomb}})
        stranger.send(bomb, content_type="application/x-python-pickle")
        stranger.wait_until(lambda: stranger.replies == 5)
        wait_until(lambda: metrics.registry.get_sample_value("ee_worker_dropped_messages_total") == 1)
    assert stranger.codes == {"malformed"}
    assert not canary.exists()
    pickle.loads(bomb)
    assert canary.exists(), "the bomb was a dud"


def test_a_worker_survives_mutated_requests_without_growing(
    link: Broker, queue: str, cloud: Responder, mobilenet: CalibratedNetwork, features: FloatArray,
    held_bytes: Callable[[], int], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    worker, rng = Worker(link, queue, cloud, WorkerSettings(prefetch=64), WorkerMetrics()), random.Random(5)
    good = request_for(cloud, features[:2])
    caplog.set_level(logging.ERROR)  # a record of each would be kept for the report
    with run_worker(worker) as ready, make_client(link, queue) as client, open_channel(link) as channel:
        stranger, addressed, held, sent_since = Stranger(channel, queue), 0, 0, 0
        request = Request(stranger.address["correlation_id"], "a", good.fingerprint, FEATURES, features[:2])
        for number, body in enumerate(mutate_body(encode_request(request), 6, MUTATIONS_OVER_RABBITMQ), 1):
            address = {key: value for key, value in stranger.address.items() if rng.random() > 0.02}
            addressed += len(address) == 2
            stranger.send(body, **address)
            if number % AT_ONCE == 0:
                stranger.wait_until(lambda: stranger.replies + worker.dropped == number)  # noqa: B023
            sent_since += len(body)
            if number == MUTATIONS_OVER_RABBITMQ // 2:
                held, sent_since = held_bytes(), 0
        assert held_bytes() - held < sent_since / 10
        assert is_right(client.submit(good).result(PATIENCE), good, mobilenet)
    assert len(ready) == 1
    assert stranger.replies == addressed
    assert stranger.codes == {*ANSWERS} - {"too-large", "worker-failed"}
    assert worker.dropped == MUTATIONS_OVER_RABBITMQ - addressed > 0
    assert worker.answered + worker.refused == addressed + 1
    assert 1 < worker.answered < addressed, "the mutations are too mild, or too wild, to say anything"
    assert count_waiting(link, queue) == 0
