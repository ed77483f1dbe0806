import random
from pathlib import Path

import numpy as np
import pytest
import torch

from models.calibrated import CalibratedNetwork
from models.checkpoint import read_two_exits
from offload.cloud import Cloud
from offload.edge import FloatArray, LocalSecondExit
from offload.protocol import ACTIVATIONS, FEATURES, Answer, Refusal, Request, decode_reply, encode_request, new_id
from tests.networks import calibrated_network
from tests.offload.messages import body_of, mutants
from utils.dataset import read_dataset, to_images
from utils.metrics import certainty

CPU = torch.device("cpu")
ROWS = 60
MUTATIONS = 500


@pytest.fixture(scope="module")
def mobilenet(checkpoint: Path) -> CalibratedNetwork:
    network, _ = read_two_exits(checkpoint)
    assert isinstance(network, CalibratedNetwork)
    return network


@pytest.fixture(scope="module", params=["MobileNetV2WithExits", "AlexNetWithExits"])
def network(request: pytest.FixtureRequest, mobilenet: CalibratedNetwork) -> CalibratedNetwork:
    return mobilenet if request.param.startswith("Mobile") else calibrated_network(request.param)


@pytest.fixture
def cloud(mobilenet: CalibratedNetwork) -> Cloud:
    return Cloud(mobilenet, CPU, "cloud:7")


@pytest.fixture(scope="module")
def features(sample: Path) -> FloatArray:
    return read_dataset(sample / "2016_03.csv").features[:ROWS]


def request_for(cloud: Cloud, tensor: FloatArray, payload: str = FEATURES) -> Request:
    return Request(new_id(), "edge:1", cloud.limits.fingerprint, payload, tensor)


def reply_to(cloud: Cloud, request: Request) -> Answer | Refusal:
    reply, line = cloud.answer(encode_request(request), request.request_id)
    assert "\n" not in line
    return decode_reply(reply, request)


def activations_of(network: CalibratedNetwork, features: FloatArray) -> FloatArray:
    with torch.inference_mode():
        return network.segment_1(torch.from_numpy(to_images(features))).numpy()


def test_features_and_activations_get_the_answer_that_the_edge_computes_itself(
    network: CalibratedNetwork, features: FloatArray
) -> None:
    cloud, activations = Cloud(network, CPU, "cloud:7"), activations_of(network, features)
    labels, local = certainty(LocalSecondExit(network, CPU)(features, activations))
    assert set(labels) == {0, 1}
    for payload, tensor in ((FEATURES, features), (ACTIVATIONS, activations)):
        answer = reply_to(cloud, request_for(cloud, tensor, payload))
        assert isinstance(answer, Answer)
        found, remote = certainty(answer.logits)
        assert np.array_equal(found, labels)
        assert np.abs(remote - local).max() <= 1e-5


def test_an_answer_names_its_worker_its_network_and_its_time(cloud: Cloud, features: FloatArray) -> None:
    request = request_for(cloud, features)
    reply, line = cloud.answer(encode_request(request), request.request_id)
    answer = decode_reply(reply, request)
    assert isinstance(answer, Answer)
    assert answer.worker == "cloud:7"
    assert answer.fingerprint == cloud.limits.fingerprint
    assert 0 < answer.milliseconds < 60_000
    assert line.startswith(f"{ROWS} events (features) of edge:1 in ")
    assert (cloud.events, cloud.refused) == (ROWS, 0)


def test_a_request_that_came_under_another_correlation_id_is_refused_under_that_one(
    cloud: Cloud, features: FloatArray
) -> None:
    request, other = request_for(cloud, features), new_id()
    reply, line = cloud.answer(encode_request(request), other)
    asked = Request(other, request.client_id, request.fingerprint, request.payload, request.tensor)
    refusal = decode_reply(reply, asked)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "malformed"
    assert "correlation id" in refusal.text
    assert line.startswith("refused: malformed")
    assert (cloud.events, cloud.refused) == (0, 1)


def test_a_request_for_another_network_is_refused_with_what_to_do(cloud: Cloud, features: FloatArray) -> None:
    refusal = reply_to(cloud, Request(new_id(), "edge:1", "ab" * 32, FEATURES, features))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "wrong-model"
    assert "abababababab" in refusal.text
    assert cloud.limits.fingerprint[:12] in refusal.text
    assert "same checkpoint" in refusal.text


def test_an_event_on_which_the_network_overflows_is_refused_and_not_answered_with_infinity(
    mobilenet: CalibratedNetwork, features: FloatArray
) -> None:
    cloud = Cloud(CalibratedNetwork(mobilenet.model, (1.0, 1e-39)).eval(), CPU, "cloud:7")
    refusal = reply_to(cloud, request_for(cloud, features))
    assert isinstance(refusal, Refusal)
    assert refusal.code == "not-finite"
    assert (cloud.events, cloud.refused) == (0, 1)


def test_a_failure_of_the_network_is_a_refusal_of_one_line(
    cloud: Cloud, mobilenet: CalibratedNetwork, features: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_activations: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA out of memory.\nTried to allocate 20.00 MiB")

    monkeypatch.setattr(mobilenet, "segment_2", fail)
    assert reply_to(cloud, request := request_for(cloud, features)) == Refusal(
        request.request_id, "worker-failed", "CUDA out of memory."
    )


def test_garbage_gets_a_refusal_and_never_an_exception(cloud: Cloud) -> None:
    rng = random.Random(3)
    hostile = [b"", b"\x00", bytes(8), b"\xff" * 8, body_of([]), body_of({}), body_of(b"[" * 5000)]
    for body in hostile + [rng.randbytes(rng.randrange(600)) for _ in range(300)]:
        request_id = new_id()
        reply, line = cloud.answer(body, request_id)
        asked = Request(request_id, "edge:1", cloud.limits.fingerprint, FEATURES, np.zeros((1, 58), np.float32))
        assert isinstance(decode_reply(reply, asked), Refusal)
        assert line.startswith("refused: ") and line.isprintable()
    assert cloud.events == 0
    assert cloud.refused == 307


def test_a_mutated_request_gets_an_answer_or_a_refusal_that_the_client_can_read(
    cloud: Cloud, features: FloatArray
) -> None:
    request = request_for(cloud, features[:1])
    replies = []
    for body in mutants(encode_request(request), 4, MUTATIONS):
        reply, _ = cloud.answer(body, request.request_id)
        replies.append(decode_reply(reply, request))
    assert {type(reply) for reply in replies} == {Answer, Refusal}
    assert cloud.refused == sum(isinstance(reply, Refusal) for reply in replies)
