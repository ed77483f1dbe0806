"""Message bodies that hostile or broken peers might send: made by hand, or mutated."""

import copy
import json
import random
import string
from collections.abc import Callable, Iterator
from typing import Any

from offload.link.protocol import FEATURES, LOGITS


def make_body(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a body with any header, tensor bytes and header length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def split_body(body: bytes) -> tuple[dict[str, Any], bytes]:
    end = 8 + int.from_bytes(body[:8], "little")
    return json.loads(body[8:end]), body[end:]


def change_header(body: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return a body with its header changed."""
    header, data = split_body(body)
    change(header)
    return make_body(header, data)


ODD_VALUES: tuple[object, ...] = (
    None, True, False, 0, 1, -1, 2, 58, 2**31, 2**63, 2**64, 1e308, float("nan"), float("inf"), 2.5, "", "F32", "F16",
    "F64", "1", "\x00", "\ud800", "x" * 300, "0" * 32, "5e" * 32, FEATURES, LOGITS, [], [0], [0, 464], [2, 58], [[[]]],
    {}, {"version": "1"}, {"__metadata__": {}},
)  # fmt: skip


def mutate_bytes(body: bytes, rng: random.Random) -> bytes:
    """Return a body with bytes flipped, cut out, doubled or cut off."""
    mutated = bytearray(body)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(mutated) or 1), rng.randint(1, 12)
        match rng.randrange(5):
            case 0 if mutated:
                mutated[at] ^= 1 << rng.randrange(8)
            case 1:
                del mutated[at : at + length]
            case 2:
                mutated[at:at] = mutated[at : at + length]
            case 3:
                mutated[at : at + length] = rng.randbytes(length)
            case 4 if rng.random() < 0.2:
                del mutated[at:]
    return bytes(mutated)


def mutate_header(body: bytes, rng: random.Random) -> bytes:
    """Return a body whose header is still JSON, with odd values in it."""
    header, data = split_body(body)
    for _ in range(rng.randint(1, 3)):
        table = rng.choice([header, *(value for value in header.values() if isinstance(value, dict))])
        key = rng.choice([*table, rng.choice(string.ascii_letters)])
        if rng.random() < 0.2:
            table.pop(key, None)
        else:
            table[key] = copy.deepcopy(rng.choice(ODD_VALUES))
    return make_body(header, data)


def mutate_body(body: bytes, seed: int, count: int) -> Iterator[bytes]:
    """Yield ``count`` mutations of a body, the same for the same seed."""
    rng = random.Random(seed)
    for _ in range(count):
        yield rng.choice((mutate_bytes, mutate_header))(body, rng)
