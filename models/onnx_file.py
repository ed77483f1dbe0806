"""Check an ONNX file before ONNX Runtime opens it: it may hold only known layers, and must contain its weights.

Without this check, ONNX Runtime 1.32 would run files of about 300 bytes that never end (``Loop``) or fill the memory
(``ConstantOfShape``), and files that read their weights from other files in the working directory;
``tests/models/test_onnx_file.py`` shows each. ONNX Runtime has no option against such files, and does not list the
layers of a file. It ignores functions in a file that have the name of a layer.

The field numbers are those of onnx.proto (version 1 of the format). The file is parsed without the onnx package, so
that an edge does not need it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from utils.errors import CheckpointError

LAYERS: Final = {
    "Add", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear", "Div", "Flatten", "Gather", "Gemm",
    "GlobalAveragePool", "Less", "MatMul", "MaxPool", "Mul", "QuantizeLinear", "ReduceSum", "Relu", "Reshape", "Sub",
    "Unsqueeze",
}  # fmt: skip
"""All layers (ONNX operators) that ``models/onnx_graph.py`` and ``models/onnx_quantize.py`` write into files."""

_MODEL_GRAPH: Final = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE_INITIALIZER = 1, 5, 15
_NODE_KIND, _NODE_DOMAIN = 4, 7
_TENSOR_LOCATION: Final = 14


def check_layers(content: bytes, path: Path) -> None:
    """Check that a file holds no layers but ``LAYERS``, and contains all its weights.

    Raises:
        CheckpointError: the file fails the check, or is not an ONNX file.
    """
    try:
        odd = _find_odd(memoryview(content))
    except (IndexError, ValueError) as problem:
        raise CheckpointError(f"{path}: is no ONNX file, or is truncated. Export it again.") from problem
    if odd:
        raise CheckpointError(f"{path}: holds {odd}, which no exported network does. Export it again.")


def _find_odd(model: memoryview) -> str | None:
    """Return, as a phrase for messages, what no exported network holds; None if the file holds no such thing."""
    for number, part in _read_fields(model):
        if number == _MODEL_GRAPH:
            for kind, item in _read_fields(_to_message(part)):
                odd = _find_odd_layer(_to_message(item)) if kind == _GRAPH_NODE else None
                if kind == _GRAPH_SPARSE_INITIALIZER or (
                    kind == _GRAPH_INITIALIZER and _is_external(_to_message(item))
                ):
                    odd = "weights outside the file"
                if odd:
                    return odd
    return None


def _find_odd_layer(node: memoryview) -> str | None:
    for number, value in _read_fields(node):
        if number == _NODE_KIND and bytes(_to_message(value)).decode() not in LAYERS:
            return f"the layer {bytes(_to_message(value)[:40]).decode()!r}"
        if number == _NODE_DOMAIN and len(_to_message(value)):
            return "layers that are not ONNX's own"
    return None


def _is_external(tensor: memoryview) -> bool:
    return any(number == _TENSOR_LOCATION and value for number, value in _read_fields(tensor))


def _to_message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message is needed")
    return value


def _read_fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield the number and the value of each field of a protocol-buffer message."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        if key >= 2**32:
            raise ValueError("a field number too large")  # ONNX Runtime would truncate it to a smaller one
        match key & 7:
            case 0:
                value, position = _read_varint(message, position)
                yield key >> 3, value
                continue
            case 2:
                size, position = _read_varint(message, position)
            case 1 | 5 as fixed:
                size = 8 if fixed == 1 else 4
            case _:
                raise ValueError("a field of no known type")
        if position + size > len(message):
            raise ValueError("a field beyond the end")
        yield key >> 3, message[position : position + size]
        position += size


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number without an end")
