"""Encode and decode the messages between edge and worker.

A body is one safetensors file: a JSON header with text metadata and at most one tensor, then the tensor's bytes.
Nothing is unpickled, and every field is checked before the tensor is read. The correlation id of a message is the
request id.
"""

import json
import os
import re
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as safetensors

from offload.defaults import PAYLOADS, PROTOCOL_VERSION
from utils.errors import MessageError
from utils.schema import CLASS_COUNT, FEATURE_COUNT

FEATURES, ACTIVATIONS = PAYLOADS
LOGITS: Final = "logits"

MAX_EVENTS: Final = 1024
"""Events of one request at most: 14 MB of MobileNetV2's activations, less than ``LARGEST_MESSAGE``."""
LARGEST_MESSAGE: Final = 16 * 2**20
"""Bytes of a body at most: RabbitMQ 4's default limit. RabbitMQ 3 has 128 MiB unless ``max_message_size`` is set."""

_MAX_HEADER: Final = 8192
_MAX_TEXT: Final = 500
_LENGTH_BYTES: Final = 8
LARGEST_REPLY: Final = _LENGTH_BYTES + _MAX_HEADER + 4 * CLASS_COUNT * MAX_EVENTS
"""Bytes of a reply's body at most."""
_DTYPES: Final[dict[str, np.dtype[Any]]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
_ID: Final = re.compile(r"[0-9a-f]{32}")
_NAME: Final = re.compile(r"[\w.:@/-]{1,200}", re.ASCII)
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
_DECIMAL: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,12})?")


def make_id() -> str:
    """Return a new request id, 32 hexadecimal digits."""
    return uuid.uuid4().hex


def make_process_name() -> str:
    """Return the name of this process in its messages: host name and process number."""
    return f"{re.sub(r'[^a-zA-Z0-9_.-]', '-', socket.gethostname())[:100]}:{os.getpid()}"


def is_id(text: object) -> bool:
    """Return whether ``text`` has the form of a request id."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


@dataclass(frozen=True)
class Request:
    """Events for exit 2.

    Attributes:
        request_id: 32 hexadecimal digits.
        client_id: name of the client, by which a worker counts the clients of a batch.
        fingerprint: fingerprint of the network that must answer; see ``models.checkpoint.compute_fingerprint``.
        payload: ``features``, tensor (n, 58), or ``activations``, tensor (n, C, H, W).
        tensor: float32, or float16 to halve the bytes; 1 <= n <= MAX_EVENTS.
    """

    request_id: str
    client_id: str
    fingerprint: str
    payload: str
    tensor: NDArray[np.floating]


@dataclass(frozen=True)
class RequestTemplate:
    """The fields that all requests of a client share.

    Attributes:
        fingerprint, client_id, payload: as in ``Request``.
        half_precision: send float16, half the bytes, unless a value is too large for it.
    """

    fingerprint: str
    client_id: str
    payload: str
    half_precision: bool = False

    def make_request(self, events: NDArray[np.float32]) -> Request:
        """Return a request about 1 to ``MAX_EVENTS`` events: features (n, 58) or activations (n, C, H, W)."""
        tensor: NDArray[np.floating] = events
        if self.half_precision and np.abs(events).max() <= np.finfo(np.float16).max:
            tensor = events.astype(np.float16)
        return Request(make_id(), self.client_id, self.fingerprint, self.payload, tensor)


@dataclass(frozen=True)
class Answer:
    """The calibrated logits of exit 2 for one request, (n, 2) float32, with the worker and its computing time."""

    request_id: str
    fingerprint: str
    worker: str
    milliseconds: float
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Refusal:
    """The reason why a request was refused: a code for programs and a text for people."""

    request_id: str
    code: str
    text: str


@dataclass(frozen=True)
class Limits:
    """The requests that a worker accepts.

    Attributes:
        fingerprint: fingerprint of the worker's network.
        activation_shape: (C, H, W) behind segment 1.
        payloads: accepted payloads.
    """

    fingerprint: str
    activation_shape: tuple[int, ...]
    payloads: tuple[str, ...] = PAYLOADS

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one event by payload, for the accepted payloads."""
        shapes = {FEATURES: (FEATURE_COUNT,), ACTIVATIONS: self.activation_shape}
        return {payload: shapes[payload] for payload in self.payloads}

    @property
    def largest_body(self) -> int:
        """Bytes of the largest valid body."""
        return _LENGTH_BYTES + _MAX_HEADER + 4 * MAX_EVENTS * max(int(np.prod(s)) for s in self.shapes.values())


def encode_request(request: Request) -> bytes:
    """Return the body of a request."""
    metadata = {
        "version": PROTOCOL_VERSION,
        "request_id": request.request_id,
        "client_id": request.client_id,
        "fingerprint": request.fingerprint,
        "payload": request.payload,
    }
    return _save({request.payload: request.tensor}, metadata)


def decode_request(body: bytes, limits: Limits, is_served: Callable[[str], bool] | None = None) -> Request:
    """Return the request in a body, with its tensor as float32.

    Args:
        body: an untrusted body.
        limits: limits of accepted requests.
        is_served: returns whether a network with a fingerprint can answer; None: only that of the limits can.

    Raises:
        MessageError: the body is invalid. Its code is too-large, malformed, wrong-version, wrong-model, wrong-payload,
            wrong-shape or not-finite.
    """
    if len(body) > limits.largest_body:
        raise MessageError("too-large", describe_oversize(len(body), limits.largest_body))
    header, start = _read_header(body)
    metadata = _read_metadata(header, ("version", "request_id", "client_id", "fingerprint", "payload"))
    _check_form("request_id", metadata["request_id"], _ID)
    _check_form("client_id", metadata["client_id"], _NAME)
    _check_form("fingerprint", metadata["fingerprint"], _FINGERPRINT)
    fingerprint = metadata["fingerprint"]
    if fingerprint != limits.fingerprint and (is_served is None or not is_served(fingerprint)):
        raise MessageError(
            "wrong-model",
            f"the client has network {fingerprint[:12]}, this worker {limits.fingerprint[:12]}; "
            "start both with the same checkpoint",
        )
    payload = metadata["payload"]
    if payload not in limits.shapes:
        raise MessageError("wrong-payload", f"this worker accepts {', '.join(limits.shapes)}")
    tensor = _read_tensor(body, start, header, payload, limits.shapes[payload], None)
    return Request(metadata["request_id"], metadata["client_id"], fingerprint, payload, tensor)


def describe_oversize(size: int, largest: int) -> str:
    """Return the text with which a request of ``size`` bytes is refused."""
    return f"{size} bytes, at most {largest} are accepted"


def encode_answer(answer: Answer) -> bytes:
    """Return the body of an answer."""
    metadata = {
        "version": PROTOCOL_VERSION,
        "request_id": answer.request_id,
        "fingerprint": answer.fingerprint,
        "worker": answer.worker,
        "milliseconds": f"{answer.milliseconds:.3f}",
    }
    return _save({LOGITS: answer.logits}, metadata)


def encode_refusal(refusal: Refusal) -> bytes:
    """Return the body of a refusal."""
    return _save(
        {},
        {
            "version": PROTOCOL_VERSION,
            "request_id": refusal.request_id,
            "error_code": refusal.code[:_MAX_TEXT],
            "error_text": refusal.text[:_MAX_TEXT],
        },
    )


def decode_reply(body: bytes, request: Request) -> Answer | Refusal:
    """Return the reply in a body, checked against its request.

    Raises:
        MessageError: the body is invalid, as in ``decode_request``, or id, network or number of events differ.
    """
    events = len(request.tensor)
    largest = _LENGTH_BYTES + _MAX_HEADER + events * CLASS_COUNT * 4
    if len(body) > largest:
        raise MessageError("too-large", f"a reply of {len(body)} bytes to {events} events")
    header, start = _read_header(body)
    metadata = _read_metadata(header, ("version", "request_id"))
    if metadata["request_id"] != request.request_id:
        raise MessageError("malformed", "the id of the reply is not that of the request")
    if "error_code" in metadata:
        return Refusal(
            request.request_id, _make_printable(metadata["error_code"]), _make_printable(metadata.get("error_text", ""))
        )
    metadata = _read_metadata(header, ("fingerprint", "worker", "milliseconds"))
    if metadata["fingerprint"] != request.fingerprint:
        raise MessageError("wrong-model", f"network {_make_printable(metadata['fingerprint'])[:12]} answered")
    _check_form("worker", metadata["worker"], _NAME)
    _check_form("milliseconds", metadata["milliseconds"], _DECIMAL)
    logits = _read_tensor(body, start, header, LOGITS, (CLASS_COUNT,), events)
    return Answer(
        request.request_id, metadata["fingerprint"], metadata["worker"], float(metadata["milliseconds"]), logits
    )


def _save(tensors: Mapping[str, NDArray[np.floating]], metadata: Mapping[str, str]) -> bytes:
    body: bytes = safetensors.save(
        {name: np.ascontiguousarray(array) for name, array in tensors.items()}, dict(metadata)
    )
    return body


def _read_header(body: bytes) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(body[:_LENGTH_BYTES], "little")
    start = _LENGTH_BYTES + length
    if len(body) < _LENGTH_BYTES or length > _MAX_HEADER or start > len(body):
        raise MessageError("malformed", "the body is not a safetensors file of this protocol")
    try:
        header = json.loads(body[_LENGTH_BYTES:start])
    except (ValueError, RecursionError) as problem:
        raise MessageError("malformed", "the header is not JSON") from problem
    if not isinstance(header, dict):
        raise MessageError("malformed", "the header is not a JSON object")
    return header, start


def _read_metadata(header: Mapping[str, Any], required: Sequence[str]) -> dict[str, str]:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise MessageError("malformed", "the header has no object of text metadata")
    if metadata.get("version") != PROTOCOL_VERSION:
        found = _make_printable(str(metadata.get("version")))[:20]
        raise MessageError(
            "wrong-version", f"protocol version {found!r} is not {PROTOCOL_VERSION}; update the older side"
        )
    for name in required:
        if name not in metadata:
            raise MessageError("malformed", f"the metadata lacks {name!r}")
    return metadata


def _check_form(name: str, text: str, form: re.Pattern[str]) -> None:
    if form.fullmatch(text) is None:
        raise MessageError("malformed", f"{name} does not match {form.pattern}")


def _make_printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text[:_MAX_TEXT])


def _read_tensor(
    body: bytes, start: int, header: Mapping[str, Any], name: str, event: tuple[int, ...], count: int | None
) -> NDArray[np.float32]:
    entry = header.get(name)
    if not isinstance(entry, dict) or len(header) != 2:
        raise MessageError("malformed", f"the body does not hold the tensor {name!r} alone")
    kind = entry.get("dtype")
    dtype = _DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise MessageError("wrong-shape", f"{name} is neither float32 nor float16")
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(length) is int for length in shape) or tuple(shape[1:]) != event:
        raise MessageError("wrong-shape", f"{name} is not of shape (n, {', '.join(map(str, event))})")
    if not 1 <= shape[0] <= MAX_EVENTS or (count is not None and shape[0] != count):
        raise MessageError("wrong-shape", f"{name} holds {shape[0]} events, not {count or f'1 to {MAX_EVENTS}'}")
    size = int(np.prod(shape)) * dtype.itemsize
    offsets = entry.get("data_offsets")
    if offsets != [0, size] or not all(type(offset) is int for offset in offsets) or len(body) != start + size:
        raise MessageError("malformed", f"{name} does not fill the body")
    tensor: NDArray[np.float32] = np.frombuffer(body, dtype=dtype, offset=start).reshape(shape).astype(np.float32)
    if not np.isfinite(tensor).all():
        raise MessageError("not-finite", f"{name} holds NaN or infinity")
    return tensor
