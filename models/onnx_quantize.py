"""Turn an ONNX graph of float32 convolutions into one that computes them with 8-bit integers."""

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
"""The last linear layer stays float32: it costs nothing, and the certainty hangs on it."""


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """Feeds a graph's input in batches."""

    def __init__(self, name: str, rows: NDArray[np.float32]) -> None:
        self._batches = iter({name: rows[start : start + _BATCH]} for start in range(0, len(rows), _BATCH))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def quantize(content: bytes, name: str, rows: NDArray[np.float32]) -> bytes:
    """Return an ONNX file with 8-bit weights (7 of them used), a scale for each channel, and 8-bit activations.

    Args:
        content: the float32 file.
        name: of its only input.
        rows: (N, ...) of that input, from which the ranges of the activations are taken.
    """
    model = onnx.load_from_string(content)
    for number, node in enumerate(model.graph.node):
        node.name = f"node_{number}"
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            _Rows(name, rows),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_LAYERS,
            nodes_to_exclude=_nodes_before_convolutions(model),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # 7 bits of a weight: without VNNI instructions, x86 adds two products in 16 bits, which 8 bits overflow.
            reduce_range=True,
        )
        return path.read_bytes()


def _nodes_before_convolutions(model: onnx.ModelProto) -> list[str]:
    """Return the nodes of the input transform, whose indices 8 bits cannot hold."""
    return [node.name for node in itertools.takewhile(lambda node: node.op_type != "Conv", model.graph.node)]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice off the user's screen."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
