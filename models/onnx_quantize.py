"""Quantise the convolutions of an ONNX graph to 8-bit integers."""

import itertools
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

_BATCH: Final = 32
_LAYERS: Final = ["Add", "Clip", "Conv", "GlobalAveragePool"]
"""ONNX operators to quantise. The last linear layer stays float32: it is fast, and the certainty depends on it."""


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Yields values of a graph's input in batches."""

    def __init__(self, name: str, rows: NDArray[np.float32]) -> None:
        self._batches = iter({name: rows[start : start + _BATCH]} for start in range(0, len(rows), _BATCH))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def quantize(content: bytes, name: str, rows: NDArray[np.float32]) -> bytes:
    """Return an ONNX file with 8-bit weights, of which 7 bits are used, a scale per channel, and 8-bit activations.

    Args:
        content: the float32 file.
        name: name of its only input.
        rows: (N, ...) values of that input, from which the ranges of the activations are measured.
    """
    model = onnx.load_from_string(content)
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
    with tempfile.TemporaryDirectory() as folder, _silence_quantiser():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            _Rows(name, rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_LAYERS,
            nodes_to_exclude=_list_nodes_before_convolutions(model),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # 7 bits: x86 without VNNI instructions adds two products in 16 bits, and 8-bit weights would overflow.
            reduce_range=True,
        )
        return path.read_bytes()


def _list_nodes_before_convolutions(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes of the input transform, whose indices do not fit into 8 bits."""
    return [node.name for node in itertools.takewhile(lambda node: node.op_type != "Conv", model.graph.node)]


@contextmanager
def _silence_quantiser() -> Iterator[None]:
    """Disable log records up to WARNING within the block, so that the user does not see those of the quantiser."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
