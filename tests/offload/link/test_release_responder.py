import functools
from collections.abc import Sequence

import numpy as np

from models.calibrated import CalibratedNetwork
from models.checkpoint import compute_fingerprint
from offload.link.protocol import FEATURES, Answer, Refusal, Request, encode_request, make_id
from offload.link.release_responder import MOST_NETWORKS, ReleaseResponder
from offload.link.responder import Responder
from offload.networks.cache import Cache
from tests.networks import SAMPLE, calibrated_network
from tests.offload.exits import ROUNDING, exits_of, served
from utils.dataset import read_dataset

ROWS = read_dataset(SAMPLE).features[:40]
UNKNOWN = "ab" * 32


@functools.cache
def network_of(seed: int) -> CalibratedNetwork:
    return calibrated_network("MobileNetV2WithExits", seed)


def responder_of(seed: int) -> Responder:
    return Responder(*served(network_of(seed)), "cloud:7", Cache(100))


class Folder:
    """The releases that a worker finds by fingerprint."""

    def __init__(self, *seeds: int) -> None:
        self.seeds = {compute_fingerprint(network_of(seed)): seed for seed in seeds}
        self.asked: list[str] = []
        self.responder = ReleaseResponder(responder_of(0), self.find)

    def find(self, fingerprint: str) -> None:
        self.asked.append(fingerprint)
        if fingerprint in self.seeds:
            self.responder.add(responder_of(self.seeds[fingerprint]), newest=False)


def request_of(seed: int, start: int = 0, count: int = 5) -> Request:
    fingerprint = compute_fingerprint(network_of(seed))
    return Request(make_id(), "edge:1", fingerprint, FEATURES, ROWS[start : start + count])


def receive(responder: Responder, request: Request) -> Request:
    decoded = responder.decode(encode_request(request), request.request_id)
    assert isinstance(decoded, Request), decoded
    return decoded


def assert_answered(replies: list[Answer | Refusal], requests: list[Request], seeds: list[int]) -> None:
    assert [reply.request_id for reply in replies] == [request.request_id for request in requests]
    for reply, request, seed in zip(replies, requests, seeds, strict=True):
        assert isinstance(reply, Answer)
        assert reply.fingerprint == request.fingerprint
        expected = exits_of(network_of(seed)).second.compute_from_features(request.tensor)
        np.testing.assert_allclose(reply.logits, expected, rtol=ROUNDING, atol=ROUNDING)


def test_each_request_of_a_batch_is_answered_by_the_network_that_it_names() -> None:
    responder = Folder().responder
    responder.add(responder_of(1), newest=True)
    seeds = [0, 1, 1, 0, 1]
    requests = [receive(responder, request_of(seed, 3 * number)) for number, seed in enumerate(seeds)]
    assert_answered(responder.answer(requests), requests, seeds)
    assert_answered(responder.answer(requests), requests, seeds)  # from the caches, which must not be mixed up
    first, second = (exits_of(network_of(seed)).second.compute_from_features(ROWS[:5]) for seed in (0, 1))
    assert np.abs(first - second).max() > 1, "who gets the other network's answer would not notice"


def test_a_request_decoded_before_a_change_is_answered_by_its_network_after_it() -> None:
    responder = Folder().responder
    request = receive(responder, request_of(0))
    responder.add(responder_of(1), newest=True)
    assert_answered(responder.answer([request]), [request], [0])
    assert responder.limits.fingerprint == compute_fingerprint(network_of(1))


def test_a_network_that_is_not_open_is_looked_for_once() -> None:
    folder = Folder(1)
    for _ in range(2):
        request = receive(folder.responder, request_of(1))
        assert_answered(folder.responder.answer([request]), [request], [1])
    assert folder.asked == [compute_fingerprint(network_of(1))]
    assert folder.responder.limits.fingerprint == compute_fingerprint(network_of(0))


def test_a_request_of_no_release_is_refused() -> None:
    folder, request = Folder(), Request(make_id(), "edge:1", UNKNOWN, FEATURES, ROWS[:1])
    refusal = folder.responder.decode(encode_request(request), request.request_id)
    assert isinstance(refusal, Refusal)
    assert (refusal.code, folder.asked) == ("wrong-model", [UNKNOWN])


def test_the_network_that_was_not_used_for_longest_is_closed_and_opened_again_when_it_is_named() -> None:
    folder = Folder(*range(MOST_NETWORKS + 1))
    responder = folder.responder
    decoded = receive(responder, request_of(1))
    for seed in range(2, MOST_NETWORKS + 1):
        responder.add(responder_of(seed), newest=True)
        receive(responder, request_of(0))
    assert not responder.is_open(decoded.fingerprint)
    assert responder.is_open(compute_fingerprint(network_of(0)))
    assert_answered(responder.answer([decoded]), [decoded], [1])
    responder.add(responder_of(2), newest=True)
    folder.seeds.clear()
    for seed in (0, 2, 3):
        responder.add(responder_of(seed), newest=False)
    assert responder.answer([decoded]) == [
        Refusal(decoded.request_id, "wrong-model", f"the release of network {decoded.fingerprint[:12]} was removed")
    ]


def test_a_release_with_the_same_fingerprint_takes_the_place_of_the_other() -> None:
    responder, asked = Folder().responder, request_of(0)

    class Other(Responder):
        def answer(self, requests: Sequence[Request]) -> list[Answer | Refusal]:
            return [Refusal(request.request_id, "other", "the other one") for request in requests]

    responder.add(Other(*served(network_of(0)), "cloud:7"), newest=True)
    assert responder.answer([receive(responder, asked)]) == [Refusal(asked.request_id, "other", "the other one")]
