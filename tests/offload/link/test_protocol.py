import json
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
import safetensors.torch
import torch

from offload.defaults import PAYLOADS, PROTOCOL_VERSION
from offload.link.protocol import (
    ACTIVATIONS,
    FEATURES,
    LOGITS,
    MAX_EVENTS,
    Answer,
    Limits,
    Refusal,
    Request,
    decode_reply,
    decode_request,
    encode_answer,
    encode_refusal,
    encode_request,
    is_id,
    make_id,
)
from offload.operations.metrics import ANSWERS
from tests.hostile import Bomb
from tests.offload.messages import change_header, make_body, mutate_body, split_body
from utils.errors import MessageError

ID = "0123456789abcdef" * 2
FINGERPRINT = "5e" * 32
LIMITS = Limits(FINGERPRINT, (24, 12, 12))
EVENT = {FEATURES: (58,), ACTIVATIONS: (24, 12, 12)}
MUTATIONS = 3000
RABBITMQ_4_LIMIT = 16 * 2**20


def events(count: int, payload: str = FEATURES, dtype: type[np.floating] = np.float32) -> Any:
    return np.random.default_rng(count).normal(size=(count, *EVENT[payload])).astype(dtype)


def request(count: int = 2, payload: str = FEATURES, dtype: type[np.floating] = np.float32) -> Request:
    return Request(ID, "edge:1", FINGERPRINT, payload, events(count, payload, dtype))


ASKED = request(3)
ANSWER = Answer(ID, FINGERPRINT, "cloud:7", 12.5, np.array([[1, -1], [0.5, 2], [-3, 4]], np.float32))


def with_metadata(body: bytes, **values: object) -> bytes:
    return change_header(body, lambda header: header["__metadata__"].update(values))


def with_tensor(body: bytes, **values: object) -> bytes:
    def change(header: dict[str, Any]) -> None:
        (name,) = header.keys() - {"__metadata__"}
        header[name].update(values)

    return change_header(body, change)


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def code_of(decode: Callable[[], object]) -> str:
    with pytest.raises(MessageError) as caught:
        decode()
    assert str(caught.value).startswith(caught.value.code)
    return caught.value.code


def test_new_ids_are_valid_and_different() -> None:
    ids = {make_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(map(is_id, ids))


@pytest.mark.parametrize("other", [None, 7, b"0" * 32, "", "0" * 31, "0" * 33, "G" * 32, "0" * 32 + "\n", "A" * 32])
def test_other_text_is_not_an_id(other: object) -> None:
    assert not is_id(other)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("payload", [FEATURES, ACTIVATIONS])
@pytest.mark.parametrize("count", [1, 7])
def test_a_decoded_request_equals_the_original_with_a_float32_tensor(
    count: int, payload: str, dtype: type[np.floating]
) -> None:
    sent = request(count, payload, dtype)
    received = decode_request(encode_request(sent), LIMITS)
    assert (received.request_id, received.client_id, received.fingerprint) == (ID, "edge:1", FINGERPRINT)
    assert received.payload == payload
    assert received.tensor.dtype == np.float32
    assert np.array_equal(received.tensor, sent.tensor.astype(np.float32))


def test_float16_halves_the_bytes_of_the_tensor() -> None:
    whole, half = (encode_request(request(4, ACTIVATIONS, dtype)) for dtype in (np.float32, np.float16))
    assert len(split_body(whole)[1]) == 2 * len(split_body(half)[1]) == 4 * 4 * 24 * 12 * 12


def test_features_need_232_bytes_per_event() -> None:
    assert len(split_body(encode_request(request(100)))[1]) == 100 * 232


def test_a_view_of_a_tensor_is_encoded_correctly() -> None:
    view = events(6)[::2]
    received = decode_request(encode_request(Request(ID, "edge:1", FINGERPRINT, FEATURES, view)), LIMITS)
    assert np.array_equal(received.tensor, view)


def test_the_largest_request_fits_the_limits_of_worker_and_rabbitmq_4() -> None:
    body = encode_request(request(MAX_EVENTS, ACTIVATIONS))
    assert len(body) < RABBITMQ_4_LIMIT
    assert len(decode_request(body, LIMITS).tensor) == MAX_EVENTS


def test_both_payloads_are_accepted_by_default() -> None:
    assert Limits(FINGERPRINT, EVENT[ACTIVATIONS]).payloads == PAYLOADS
    assert LIMITS.shapes == EVENT


@pytest.mark.parametrize(("taken", "other"), [PAYLOADS, PAYLOADS[::-1]])
def test_a_worker_of_one_payload_refuses_the_other_and_names_its_own(taken: str, other: str) -> None:
    limits = Limits(FINGERPRINT, EVENT[ACTIVATIONS], (taken,))
    assert limits.shapes == {taken: EVENT[taken]}
    assert len(decode_request(encode_request(request(MAX_EVENTS, taken)), limits).tensor) == MAX_EVENTS
    with pytest.raises(MessageError, match=f"this worker accepts {taken}$") as caught:
        decode_request(encode_request(request(2, other)), limits)
    assert caught.value.code == "wrong-payload"


def test_a_body_larger_than_the_accepted_payload_is_too_large() -> None:
    limits = Limits(FINGERPRINT, EVENT[ACTIVATIONS], (FEATURES,))
    largest = encode_request(request(MAX_EVENTS, FEATURES))
    assert len(largest) <= limits.largest_body < len(largest) + 8192 < LIMITS.largest_body
    body = encode_request(request(MAX_EVENTS, ACTIVATIONS))
    assert code_of(partial(decode_request, body, limits)) == "too-large"


def test_a_decoded_answer_equals_the_original() -> None:
    received = decode_reply(encode_answer(ANSWER), ASKED)
    assert isinstance(received, Answer)
    assert (received.request_id, received.fingerprint, received.worker) == (ID, FINGERPRINT, "cloud:7")
    assert received.milliseconds == 12.5
    assert np.array_equal(received.logits, ANSWER.logits)


def test_a_decoded_refusal_equals_the_original() -> None:
    refusal = Refusal(ID, "wrong-model", "start both with the same checkpoint")
    assert decode_reply(encode_refusal(refusal), ASKED) == refusal


@pytest.mark.parametrize("payload", [FEATURES, ACTIVATIONS])
def test_a_request_is_a_valid_safetensors_file(payload: str, tmp_path: Path) -> None:
    sent = request(3, payload)
    body = encode_request(sent)
    assert np.array_equal(safetensors.numpy.load(body)[payload], sent.tensor)
    assert torch.equal(safetensors.torch.load(body)[payload], torch.from_numpy(sent.tensor))
    path = tmp_path / "request.safetensors"
    path.write_bytes(body)
    with safetensors.safe_open(path, "np") as opened:
        assert set(opened.keys()) == {payload}
        assert opened.metadata() == {
            "version": PROTOCOL_VERSION,
            "request_id": ID,
            "client_id": "edge:1",
            "fingerprint": FINGERPRINT,
            "payload": payload,
        }


def test_replies_are_valid_safetensors_files() -> None:
    assert np.array_equal(safetensors.numpy.load(encode_answer(ANSWER))[LOGITS], ANSWER.logits)
    assert safetensors.numpy.load(encode_refusal(Refusal(ID, "malformed", "no"))) == {}


def test_a_file_written_by_safetensors_is_decoded() -> None:
    sent = request(5)
    metadata = {
        "version": PROTOCOL_VERSION,
        "request_id": ID,
        "client_id": "a",
        "fingerprint": FINGERPRINT,
        "payload": FEATURES,
    }
    by_numpy = safetensors.numpy.save({FEATURES: sent.tensor}, metadata)
    by_torch = safetensors.torch.save({FEATURES: torch.from_numpy(sent.tensor)}, metadata)
    for body in (by_numpy, by_torch):
        assert np.array_equal(decode_request(body, LIMITS).tensor, sent.tensor)


GOOD = encode_request(request(2))
GOOD_REPLY = encode_answer(ANSWER)
HEADER, DATA = split_body(GOOD)
SIZE = len(DATA)
HUGE_NUMBER = b"1" * 5000
"""More digits than Python turns into a number, or a number into text."""


def twice(key: str, value: object) -> bytes:
    """Return the good request with a key of its header given twice, the second time with another value."""
    return make_body(json.dumps(HEADER)[:-1].encode() + f", {json.dumps(key)}: {json.dumps(value)}}}".encode(), DATA)


def not_finite(value: float, dtype: type[np.floating]) -> bytes:
    tensor = events(2, dtype=dtype)
    tensor[1, 57] = value
    return encode_request(Request(ID, "edge:1", FINGERPRINT, FEATURES, tensor))


def signalling_nan() -> bytes:
    """Return a request with a float16 NaN of the kind that processors complain of."""
    return with_tensor(make_body(HEADER, b"\x01\x7c" * 116), dtype="F16", data_offsets=[0, 232])


REFUSED = {
    "empty": (b"", "malformed"),
    "shorter than the header's length": (b"\x01\x02\x03", "malformed"),
    "nothing but zeros": (bytes(64), "malformed"),
    "header longer than the body": (make_body(HEADER, DATA, len(GOOD)), "malformed"),
    "header of 2**63 bytes": (make_body(HEADER, DATA, 2**63), "malformed"),
    "header of 2**64 - 1 bytes, minus one to some": (make_body(HEADER, DATA, 2**64 - 1), "malformed"),
    "header over the limit": (make_body(json.dumps(HEADER).encode() + b" " * 8192, DATA), "malformed"),
    "header cut short": (make_body(HEADER, DATA, 40), "malformed"),
    "header not JSON": (make_body(b"{'version': 1}"), "malformed"),
    "header not text": (make_body(b"\xff\xfe\x00\xd8"), "malformed"),
    "header of half a UTF-16 pair": (make_body(b'"\xed\xa0\x80"'), "malformed"),
    "header a number": (make_body(7), "malformed"),
    "header null": (make_body(None), "malformed"),
    "header a list": (make_body([HEADER]), "malformed"),
    "header nested too deep": (make_body(nested(4000)), "malformed"),
    "metadata nested too deep": (make_body(b'{"__metadata__": ' + nested(2000) + b"}"), "malformed"),
    "number of 5,000 digits": (make_body(b'{"__metadata__": ' + HUGE_NUMBER + b"}"), "malformed"),
    "no metadata": (change_header(GOOD, lambda header: header.pop("__metadata__")), "malformed"),
    "metadata a list": (change_header(GOOD, lambda header: header.update(__metadata__=["version"])), "malformed"),
    "metadata not text": (with_metadata(GOOD, version=1), "malformed"),
    "metadata null": (with_metadata(GOOD, client_id=None), "malformed"),
    "no version": (change_header(GOOD, lambda header: header["__metadata__"].pop("version")), "wrong-version"),
    "version of tomorrow": (with_metadata(GOOD, version="2"), "wrong-version"),
    "version not printable": (with_metadata(GOOD, version="\x1b[2J" * 300), "wrong-version"),
    "version given twice": (twice("__metadata__", {"version": "0"}), "wrong-version"),
    "no request id": (change_header(GOOD, lambda header: header["__metadata__"].pop("request_id")), "malformed"),
    "request id too long": (with_metadata(GOOD, request_id=ID + "0"), "malformed"),
    "request id with a line end": (with_metadata(GOOD, request_id=ID[:-1] + "\n"), "malformed"),
    "no client id": (change_header(GOOD, lambda header: header["__metadata__"].pop("client_id")), "malformed"),
    "client id with control characters": (with_metadata(GOOD, client_id="a\x1b[31m"), "malformed"),
    "client id of half a character": (with_metadata(GOOD, client_id="\ud800"), "malformed"),
    "client id too long": (with_metadata(GOOD, client_id="a" * 201), "malformed"),
    "no fingerprint": (change_header(GOOD, lambda header: header["__metadata__"].pop("fingerprint")), "malformed"),
    "fingerprint not one": (with_metadata(GOOD, fingerprint="MobileNetV2"), "malformed"),
    "another network": (with_metadata(GOOD, fingerprint="ab" * 32), "wrong-model"),
    "no payload": (change_header(GOOD, lambda header: header["__metadata__"].pop("payload")), "malformed"),
    "payload of logits": (with_metadata(GOOD, payload=LOGITS), "wrong-payload"),
    "payload of metadata": (with_metadata(GOOD, payload="__metadata__"), "wrong-payload"),
    "payload that is not there": (with_metadata(GOOD, payload=ACTIVATIONS), "malformed"),
    "no tensor": (change_header(GOOD, lambda header: header.pop(FEATURES)), "malformed"),
    "a second tensor": (change_header(GOOD, lambda header: header.update(more=header[FEATURES])), "malformed"),
    "tensor a list": (change_header(GOOD, lambda header: header.update(features=[])), "malformed"),
    "tensor null": (twice(FEATURES, None), "malformed"),
    "float64": (encode_request(Request(ID, "a", FINGERPRINT, FEATURES, np.zeros((2, 58)))), "wrong-shape"),
    "integers": (with_tensor(GOOD, dtype="I32"), "wrong-shape"),
    "bfloat16": (with_tensor(GOOD, dtype="BF16"), "wrong-shape"),
    "dtype a list": (with_tensor(GOOD, dtype=["F32"]), "wrong-shape"),
    "dtype nested too deep to print": (
        make_body(json.dumps(HEADER).encode().replace(b'"F32"', nested(900)), DATA),
        "wrong-shape",
    ),
    "no dtype": (change_header(GOOD, lambda header: header[FEATURES].pop("dtype")), "wrong-shape"),
    "no shape": (change_header(GOOD, lambda header: header[FEATURES].pop("shape")), "wrong-shape"),
    "shape empty": (with_tensor(GOOD, shape=[]), "wrong-shape"),
    "shape a number": (with_tensor(GOOD, shape=116), "wrong-shape"),
    "shape text": (with_tensor(GOOD, shape="2,58"), "wrong-shape"),
    "shape with one number": (with_tensor(GOOD, shape=[116]), "wrong-shape"),
    "shape turned over": (with_tensor(GOOD, shape=[58, 2]), "wrong-shape"),
    "shape with one number more": (with_tensor(GOOD, shape=[2, 58, 1]), "wrong-shape"),
    "count true": (with_tensor(make_body(HEADER, DATA[:232]), shape=[True, 58]), "wrong-shape"),
    "count with a point": (with_tensor(GOOD, shape=[2.0, 58]), "wrong-shape"),
    "length with a point": (with_tensor(GOOD, shape=[2, 58.0]), "wrong-shape"),
    "count NaN": (with_tensor(GOOD, shape=[float("nan"), 58]), "wrong-shape"),
    "count null": (with_tensor(GOOD, shape=[None, 58]), "wrong-shape"),
    "count negative": (with_tensor(GOOD, shape=[-2, 58]), "wrong-shape"),
    "count huge": (with_tensor(GOOD, shape=[2**80, 58]), "wrong-shape"),
    "count that overflows to what is there": (with_tensor(GOOD, shape=[2**62 + 2, 58]), "wrong-shape"),
    "no event": (with_tensor(make_body(HEADER), shape=[0, 58], data_offsets=[0, 0]), "wrong-shape"),
    "one event over the limit": (encode_request(request(MAX_EVENTS + 1)), "wrong-shape"),
    "activations of another network": (
        encode_request(Request(ID, "a", FINGERPRINT, ACTIVATIONS, np.zeros((2, 64, 5, 5), np.float32))),
        "wrong-shape",
    ),
    "no offsets": (change_header(GOOD, lambda header: header[FEATURES].pop("data_offsets")), "malformed"),
    "offsets beyond the body": (with_tensor(GOOD, data_offsets=[SIZE, 2 * SIZE]), "malformed"),
    "offsets into the header": (with_tensor(GOOD, data_offsets=[-SIZE, 0]), "malformed"),
    "offsets too far apart": (with_tensor(GOOD, data_offsets=[0, SIZE + 4]), "malformed"),
    "offsets turned over": (with_tensor(GOOD, data_offsets=[SIZE, 0]), "malformed"),
    "offsets with a point": (with_tensor(GOOD, data_offsets=[0.0, float(SIZE)]), "malformed"),
    "offset false": (with_tensor(GOOD, data_offsets=[False, SIZE]), "malformed"),
    "three offsets": (with_tensor(GOOD, data_offsets=[0, SIZE, SIZE]), "malformed"),
    "offsets huge": (with_tensor(GOOD, data_offsets=[0, 2**70]), "malformed"),
    "fewer bytes than the shape says": (GOOD[:-4], "malformed"),
    "more bytes than the shape says": (GOOD + bytes(4), "malformed"),
    "NaN": (not_finite(float("nan"), np.float32), "not-finite"),
    "infinity": (not_finite(float("inf"), np.float32), "not-finite"),
    "minus infinity in float16": (not_finite(float("-inf"), np.float16), "not-finite"),
    "signalling NaN in float16": (signalling_nan(), "not-finite"),
    "over the largest body": (bytes(LIMITS.largest_body + 1), "too-large"),
    "over the largest body, all else right": (GOOD + bytes(LIMITS.largest_body), "too-large"),
}


@pytest.mark.parametrize(("body", "code"), REFUSED.values(), ids=REFUSED.keys())
def test_an_invalid_request_is_refused_with_its_code(body: bytes, code: str) -> None:
    assert code_of(partial(decode_request, body, LIMITS)) == code


def test_every_code_of_a_refused_request_occurs_and_is_counted() -> None:
    assert {code for _, code in REFUSED.values()} == {*ANSWERS} - {"answered", "worker-failed"}


def test_the_text_of_a_refusal_is_printable() -> None:
    for body, code in REFUSED.values():
        with pytest.raises(MessageError) as caught:
            decode_request(body, LIMITS)
        assert caught.value.text.isprintable()
        told = decode_reply(encode_refusal(Refusal(ID, caught.value.code, caught.value.text)), ASKED)
        assert told == Refusal(ID, code, caught.value.text)


def test_a_message_cut_off_at_any_byte_is_malformed() -> None:
    reply, one = encode_answer(ANSWER), encode_request(request(1))
    for end in range(len(one)):
        assert code_of(partial(decode_request, one[:end], LIMITS)) == "malformed"
    for end in range(len(reply)):
        assert code_of(partial(decode_reply, reply[:end], ASKED)) == "malformed"


def test_a_pickle_is_refused_and_does_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(canary))
    tensor = bomb.ljust(SIZE, b".")
    for body in (bomb, make_body(bomb), make_body(HEADER, tensor), make_body(HEADER, bomb), bytes(8) + bomb):
        try:
            decode_request(body, LIMITS)  # as the bytes of numbers, which may even be finite
        except MessageError:
            assert not canary.exists()
        with pytest.raises(MessageError):
            decode_reply(body, ASKED)
    assert not canary.exists()
    pickle.loads(bomb)
    assert canary.exists(), "the bomb was a dud"


def reply_with(**metadata: object) -> bytes:
    return with_metadata(GOOD_REPLY, **metadata)


def logits(count: int, value: float = 0.0) -> bytes:
    return encode_answer(Answer(ID, FINGERPRINT, "cloud:7", 1.0, np.full((count, 2), value, np.float32)))


REFUSED_REPLIES = {
    "empty": (b"", "malformed"),
    "of another request": (encode_answer(Answer(make_id(), FINGERPRINT, "w", 1.0, ANSWER.logits)), "malformed"),
    "refusal of another request": (encode_refusal(Refusal(make_id(), "malformed", "")), "malformed"),
    "the request sent back": (encode_request(ASKED), "malformed"),
    "no request id": (change_header(GOOD_REPLY, lambda header: header["__metadata__"].pop("request_id")), "malformed"),
    "of tomorrow's version": (reply_with(version="2"), "wrong-version"),
    "of another network": (reply_with(fingerprint="ab" * 32), "wrong-model"),
    "of a network with an unprintable name": (reply_with(fingerprint="\x1b]0;\x07"), "wrong-model"),
    "worker not printable": (reply_with(worker="cloud\x1b[2J"), "malformed"),
    "no worker": (change_header(GOOD_REPLY, lambda header: header["__metadata__"].pop("worker")), "malformed"),
    "milliseconds a word": (reply_with(milliseconds="soon"), "malformed"),
    "milliseconds not a number": (reply_with(milliseconds="nan"), "malformed"),
    "milliseconds infinite": (reply_with(milliseconds="inf"), "malformed"),
    "milliseconds negative": (reply_with(milliseconds="-1.0"), "malformed"),
    "an event too few": (logits(2), "wrong-shape"),
    "an event too many": (logits(4), "wrong-shape"),
    "no event": (logits(0), "wrong-shape"),
    "three classes": (encode_answer(Answer(ID, FINGERPRINT, "w", 1.0, np.zeros((3, 3), np.float32))), "wrong-shape"),
    "NaN": (logits(3, float("nan")), "not-finite"),
    "infinity": (logits(3, float("inf")), "not-finite"),
    "no logits": (change_header(GOOD_REPLY, lambda header: header.pop(LOGITS)), "malformed"),
    "logits under another name": (
        change_header(GOOD_REPLY, lambda header: header.update(features=header.pop(LOGITS))),
        "malformed",
    ),
    "nested too deep": (make_body(nested(4000)), "malformed"),
    "larger than any reply to three events": (GOOD_REPLY + bytes(8192), "too-large"),
}


@pytest.mark.parametrize(("body", "code"), REFUSED_REPLIES.values(), ids=REFUSED_REPLIES.keys())
def test_an_invalid_reply_or_one_to_another_request_is_refused(body: bytes, code: str) -> None:
    assert code_of(partial(decode_reply, body, ASKED)) == code


def test_the_text_of_a_worker_is_shortened_and_printable() -> None:
    refusal = decode_reply(encode_refusal(Refusal(ID, "a\nb", "\x1b[2J\u202eok " + "x" * 9000)), ASKED)
    assert isinstance(refusal, Refusal)
    assert refusal.code == "a?b"
    assert refusal.text.startswith("?[2J?ok xxx")
    assert len(refusal.text) == 500


def test_long_texts_of_a_refusal_are_cut_to_the_clients_limit() -> None:
    for text in ("\x00", "\U0001f600", '"'):
        told = decode_reply(encode_refusal(Refusal(ID, 9000 * text, 9000 * text)), ASKED)
        assert isinstance(told, Refusal)
        assert len(told.code) == len(told.text) == 500


@pytest.mark.parametrize("payload", [FEATURES, ACTIVATIONS])
def test_a_mutated_request_is_refused_or_valid(payload: str) -> None:
    taken = 0
    for body in mutate_body(encode_request(request(2, payload)), 1, MUTATIONS):
        try:
            received = decode_request(body, LIMITS)
        except MessageError:
            continue
        taken += 1
        assert is_id(received.request_id)
        assert received.fingerprint == FINGERPRINT
        assert received.tensor.shape[1:] == EVENT[received.payload]
        assert received.tensor.dtype == np.float32
        assert np.isfinite(received.tensor).all()
    assert 0 < taken < MUTATIONS, "the mutations are too mild, or too wild, to say anything"


@pytest.mark.parametrize("reply", [GOOD_REPLY, encode_refusal(Refusal(ID, "wrong-model", "another network"))])
def test_a_mutated_reply_is_refused_or_valid(reply: bytes) -> None:
    taken = 0
    for body in mutate_body(reply, 2, MUTATIONS):
        try:
            received = decode_reply(body, ASKED)
        except MessageError:
            continue
        taken += 1
        assert received.request_id == ID
        if isinstance(received, Answer):
            assert received.fingerprint == FINGERPRINT
            assert received.logits.shape == (3, 2)
            assert np.isfinite(received.logits).all()
        else:
            assert (received.code + received.text).isprintable()
    assert 0 < taken < MUTATIONS, "the mutations are too mild, or too wild, to say anything"
