"""Look into an ONNX file before ONNX Runtime does: only plain layers with their weights inside are let through.

An ONNX file may name other files to read weights from, loop for ever, or call functions of its own. Field numbers are
those of onnx.proto (version 1 of the format), read here without the onnx package, which an edge does not need.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from utils.errors import CheckpointError

LAYERS: Final = frozenset(
    {
        "Add",
        "Cast",
        "Clip",
        "Concat",
        "Conv",
        "DequantizeLinear",
        "Div",
        "Flatten",
        "Gather",
        "Gemm",
        "GlobalAveragePool",
        "Less",
        "MatMul",
        "MaxPool",
        "Mul",
        "QuantizeLinear",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Sub",
        "Unsqueeze",
    }
)
"""All that ``models/onnx_graph.py`` and ``models/onnx_quantize.py`` write into files."""

_MODEL_GRAPH, _MODEL_TRAINING, _MODEL_FUNCTIONS = 7, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_KIND, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSORS_AND_GRAPHS: Final = {5, 6, 10, 11, 22, 23}
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14


def check_layers(content: bytes, path: Path) -> None:
    """Check that a file holds one graph of ``LAYERS``, and every weight itself.

    Raises:
        CheckpointError: it does not, or is no ONNX file.
    """
    try:
        odd = _odd(memoryview(content))
    except (IndexError, ValueError) as problem:
        raise CheckpointError(f"{path}: is no ONNX file, or is cut off; export it again") from problem
    if odd:
        raise CheckpointError(f"{path}: holds {odd}, which no exported network does, and is not run; export it again")


def _odd(model: memoryview) -> str | None:
    for number, part in _fields(model):
        if number in {_MODEL_TRAINING, _MODEL_FUNCTIONS}:
            return "functions of its own"
        if number == _MODEL_GRAPH:
            for kind, item in _fields(_message(part)):
                odd = _odd_node(_message(item)) if kind == _GRAPH_NODE else None
                if kind == _GRAPH_SPARSE or (kind == _GRAPH_INITIALIZER and _is_external(_message(item))):
                    odd = "weights that lie elsewhere"
                if odd:
                    return odd
    return None


def _odd_node(node: memoryview) -> str | None:
    for number, value in _fields(node):
        if number == _NODE_KIND and bytes(_message(value)).decode() not in LAYERS:
            return f"the layer {bytes(_message(value)[:40]).decode()!r}"
        if number == _NODE_DOMAIN and len(_message(value)):
            return "layers that are not ONNX's own"
        if number == _NODE_ATTRIBUTE and any(n in _ATTRIBUTE_TENSORS_AND_GRAPHS for n, _ in _fields(_message(value))):
            return "a graph within a layer"
    return None


def _is_external(tensor: memoryview) -> bool:
    return any(
        number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value) for number, value in _fields(tensor)
    )


def _message(value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message is needed")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield number and value of each field of a protocol-buffer message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        if key >= 2**32:
            raise ValueError("a field number too large")  # another reader may cut it down to a smaller one
        match key & 7:
            case 0:
                value, position = _varint(message, position)
                yield key >> 3, value
                continue
            case 2:
                size, position = _varint(message, position)
            case 1 | 5 as fixed:
                size = 8 if fixed == 1 else 4
            case _:
                raise ValueError("a field of no known type")
        if position + size > len(message):
            raise ValueError("a field beyond the end")
        yield key >> 3, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number without an end")
