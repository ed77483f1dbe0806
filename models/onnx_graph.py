"""Build ONNX graphs from the layers of the networks, and merge layers where this does not change the logits."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor, nn

from models.mobilenet import InvertedResidual
from utils.schema import FEATURE_COUNT, IMAGE_SIDE

FloatArray = NDArray[np.float32]

_OPSET, _IR_VERSION = 17, 8
_INT8_STEPS: Final = 127
SMALLEST_INT8: Final = 2**16
"""Smallest number of weights of a linear layer for which int8 is faster than float32."""
HEAD_PARTS: Final = 5
"""Number of parts into which the first convolution of MobileNetV2's exit 1 is split.

This convolution turns 24 channels into 1280, of which only the means are kept. The output of each part fits into the
processor's cache.
"""


@dataclass
class Graph:
    """A graph to which nodes and weights can be added: nodes in order, weights by name."""

    nodes: list[Any] = field(default_factory=list)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)

    def add_weight(self, values: object) -> str:
        """Add a constant and return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights[name] = np.ascontiguousarray(values)
        return name

    def add_node(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node with one output and return the output's name."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def to_bytes(
        self,
        inputs: Mapping[str, tuple[int | None, ...]],
        outputs: Mapping[str, tuple[str, int]],
        metadata: Mapping[str, str],
    ) -> bytes:
        """Return the graph as an ONNX file. ONNX Runtime checks it on load.

        Args:
            inputs: maps the name of an input to its shape for one event; None for an unknown size.
            outputs: maps the name of an output to the node output it renames, and its number of dimensions with N.
            metadata: text by name.
        """
        renamed = {shown: name for name, (shown, _) in outputs.items()}
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        real = onnx.TensorProto.FLOAT
        model = onnx.ModelProto(ir_version=_IR_VERSION, opset_import=[helper.make_opsetid("", _OPSET)])
        model.graph.name = "network"
        model.graph.node.extend(self.nodes)
        model.graph.input.extend(
            helper.make_tensor_value_info(name, real, ["N", *shape]) for name, shape in inputs.items()
        )
        model.graph.output.extend(
            helper.make_tensor_value_info(name, real, ["N", *[None] * (n - 1)]) for name, (_, n) in outputs.items()
        )
        for name, values in self.weights.items():  # onnx's helpers would copy the weights, AlexNet's 147 MB
            kind = helper.np_dtype_to_tensor_dtype(values.dtype)
            model.graph.initializer.add(name=name, data_type=kind, dims=values.shape, raw_data=values.tobytes())
        helper.set_model_props(model, dict(metadata))
        content: bytes = model.SerializeToString()
        return content


def append(graph: Graph, layer: nn.Module, x: str, temperature: float = 1.0, *, int8: bool = False) -> str:
    """Add a layer, in evaluation mode, to a graph.

    Args:
        graph: the graph that gets the nodes.
        layer: a layer or a tree of layers.
        x: name of the layer's input.
        temperature: divides the outputs of the last linear layer.
        int8: whether linear layers of at least ``SMALLEST_INT8`` weights multiply 8-bit integers.

    Returns:
        name of the layer's output.

    Raises:
        TypeError: the layer is of a kind that no network of this package has.
    """
    match layer:
        case nn.Sequential():
            for part in layer:
                x = append(graph, part, x, temperature if part is layer[-1] else 1.0, int8=int8)
            return x
        case InvertedResidual():
            projected = append(graph, layer.layers, x)
            return graph.add_node("Add", x, projected) if layer.residual else projected
        case nn.Conv2d():
            return _append_convolution(graph, layer, x, _to_array(layer.weight), _get_bias(layer))
        case nn.Linear() if int8 and layer.weight.numel() >= SMALLEST_INT8:
            return append_int8_linear(graph, layer, x)
        case nn.Linear():
            weight, bias = _to_array(layer.weight), _to_array(layer.bias)
            if temperature != 1.0:
                weight, bias = weight / np.float32(temperature), bias / np.float32(temperature)
            return graph.add_node("Gemm", x, graph.add_weight(weight), graph.add_weight(bias), transB=1)
        case nn.ReLU6():
            return graph.add_node("Clip", x, graph.add_weight(np.float32(0)), graph.add_weight(np.float32(6)))
        case nn.ReLU():
            return graph.add_node("Relu", x)
        case nn.MaxPool2d():
            return graph.add_node("MaxPool", x, kernel_shape=[layer.kernel_size] * 2, strides=[layer.stride] * 2)
        case nn.AdaptiveAvgPool2d(output_size=1):
            return graph.add_node("GlobalAveragePool", x)
        case nn.Flatten():
            return graph.add_node("Flatten", x)
        case nn.Dropout():
            return x
    raise TypeError(f"no ONNX form of {layer!r}")


def append_transform(graph: Graph, knots: FloatArray, levels: FloatArray, x: str) -> str:
    """Add a quantile transform that equals ``preprocessing.QuantileTransform`` up to rounding.

    The knots below a value are counted in two steps: first whole blocks of knots, then the knots in the value's block.
    That takes 2 * sqrt(K) comparisons per feature, and far fewer nodes than a binary search.

    Args:
        graph: the graph that gets the nodes.
        knots: (58, K) float32, ascending.
        levels: (58, K) float32.
        x: name of the input (N, 58).
    """
    size = math.isqrt(knots.shape[1] - 1) + 1  # knots in a block, and number of blocks
    padding = ((0, 0), (0, size * (size + 1) - knots.shape[1]))
    blocks = np.pad(knots, padding, constant_values=np.inf).reshape(FEATURE_COUNT, size + 1, size)
    # Counts and indices are below 2 ** 24, so float32 holds them; ONNX Runtime is slower with integers.
    ends = graph.add_weight(blocks[:, :-1, -1].T[:, np.newaxis])  # (size, 1, 58)
    starts = graph.add_weight(np.arange(FEATURE_COUNT, dtype=np.float32) * (size + 1))
    block = graph.add_node("Add", _append_count_less(graph, ends, x, 0), starts)  # (N, 58)
    rows = graph.add_node("Gather", graph.add_weight(blocks.reshape(-1, size)), _append_index(graph, block))
    column = graph.add_node("Unsqueeze", x, graph.add_weight(np.array([2])))  # (N, 58, 1)
    within = _append_count_less(graph, rows, column, -1)  # (N, 58)
    interval = graph.add_node("Add", graph.add_node("Mul", block, graph.add_weight(np.float32(size))), within)
    interval = _append_index(graph, interval)
    below, width, level = (
        graph.add_node("Gather", graph.add_weight(values.ravel()), interval)
        for values in _build_intervals(knots, levels, size * (size + 1))
    )
    return graph.add_node("Add", graph.add_node("Div", graph.add_node("Sub", x, below), width), level)


def _append_count_less(graph: Graph, values: str, than: str, axis: int) -> str:
    """Add nodes that count, as float32, the elements of ``values`` along an axis that are less than ``than``."""
    less = graph.add_node("Cast", graph.add_node("Less", values, than), to=onnx.TensorProto.FLOAT)
    return graph.add_node("ReduceSum", less, graph.add_weight(np.array([axis])), keepdims=0)


def _append_index(graph: Graph, values: str) -> str:
    return graph.add_node("Cast", values, to=onnx.TensorProto.INT32)


def _build_intervals(knots: FloatArray, levels: FloatArray, size: int) -> tuple[FloatArray, ...]:
    """Return the intervals that the knots separate: lower knot, width per rise and level at that knot, each (58, size).

    The width per rise is the interval's width divided by the rise of its level. It is infinite where the level is
    constant, so that a value's distance from the lower knot, divided by it, is 0.
    """
    rise, zero = np.diff(levels), np.zeros((FEATURE_COUNT, 1), np.float32)
    inner = np.full_like(rise, np.inf)
    np.divide(np.diff(knots), rise, out=inner, where=(rise > 0) & (np.diff(knots) > 0))
    inner = np.maximum(inner, np.finfo(np.float32).smallest_subnormal)  # a division by 0 would give NaN
    below = np.hstack([zero, knots[:, :-1], zero])
    width = np.hstack([zero + np.inf, inner, zero + np.inf])
    level = np.hstack([levels[:, :1], levels[:, :-1], levels[:, -1:]])
    padding = ((0, 0), (0, size - below.shape[1]))
    return tuple(np.pad(column, padding, mode="edge") for column in (below, width, level))


def append_int8_linear(graph: Graph, layer: nn.Linear, x: str) -> str:
    """Add a linear layer that multiplies 8-bit integers, with a scale per output and per event.

    ONNX's DynamicQuantizeLinear has one scale per batch, so the logits of an event would depend on the other events in
    the batch. Inputs use 7 bits: x86 without VNNI instructions adds two products in 16 bits, and 8-bit inputs would
    overflow.
    """
    weight, tiny = _to_array(layer.weight), np.finfo(np.float32).tiny
    scales = np.maximum(np.abs(weight).max(axis=1) / np.float32(_INT8_STEPS), tiny)
    integers = np.rint(weight / scales[:, np.newaxis])
    lowest = graph.add_node("ReduceMin", x, axes=[1], keepdims=1)
    span = graph.add_node("Sub", graph.add_node("ReduceMax", x, axes=[1], keepdims=1), lowest)
    span = graph.add_node("Max", span, graph.add_weight(tiny * _INT8_STEPS))
    step = graph.add_node("Div", span, graph.add_weight(np.float32(_INT8_STEPS)))
    steps = graph.add_node("Round", graph.add_node("Div", graph.add_node("Sub", x, lowest), step))
    inputs = graph.add_node("Cast", steps, to=onnx.TensorProto.UINT8)
    product = graph.add_node("MatMulInteger", inputs, graph.add_weight(integers.T.astype(np.int8)))
    product = graph.add_node(
        "Mul", graph.add_node("Cast", product, to=onnx.TensorProto.FLOAT), graph.add_weight(scales)
    )
    offset = graph.add_node("Mul", lowest, graph.add_weight(integers.sum(axis=1) * scales))
    # ReduceMin and ReduceMax may ignore a NaN. A sum does not, and 0 * NaN is NaN, so the outputs become NaN.
    sums = graph.add_node("ReduceSum", x, graph.add_weight(np.array([1])), keepdims=1)
    offset = graph.add_node("Add", offset, graph.add_node("Mul", sums, graph.add_weight(np.float32(0))))
    outputs = graph.add_node("Add", graph.add_node("Mul", product, step), offset)
    return outputs if layer.bias is None else graph.add_node("Add", outputs, graph.add_weight(_to_array(layer.bias)))


def append_first_segment(graph: Graph, segment: nn.Module, x: str) -> str:
    """Add segment 1, with its upsampling and its first convolution merged.

    The upsampling repeats each pixel of an 8x8 image 6 times in both directions, so pixels 2i and 2i + 1 are equal. The
    stride of the convolution is even. The convolution can therefore read an image with 3 repeats, a quarter of the
    size, if pairs of the kernel's weights are added up in both directions.

    Args:
        graph: the graph that gets the nodes.
        segment: segment 1 of a network of this package.
        x: name of the input (N, 58).
    """
    parts: list[Any] = list(segment.children())
    upsample, (first, *rest), *others = parts
    repeats = upsample.output_size[0] // IMAGE_SIDE // 2
    side = repeats * IMAGE_SIDE
    cells = np.arange(side) // repeats
    cells = (cells[:, np.newaxis] * IMAGE_SIDE + cells).ravel()  # index of each pixel's cell in the 8x8 image
    spread = np.equal.outer(np.arange(FEATURE_COUNT), cells).astype(np.float32)  # the padding stays 0
    image = graph.add_node("MatMul", x, graph.add_weight(spread))
    image = graph.add_node("Reshape", image, graph.add_weight(np.array([-1, 1, side, side])))
    return append(graph, nn.Sequential(*rest, *others), _append_paired_convolution(graph, first, image, side))


def append_first_exit(graph: Graph, head: nn.Module, x: str, temperature: float) -> str:
    """Add exit 1, and split its convolution, if it has one, into ``HEAD_PARTS`` parts."""
    layers: list[Any] = list(head.children())
    if not isinstance(layers[0], nn.Sequential):
        return append(graph, head, x, temperature)
    (convolution, clip), mean, classifier = layers
    parts = []
    for weight in np.split(_to_array(convolution.weight), HEAD_PARTS):
        wide = append(graph, clip, _append_convolution(graph, convolution, x, weight, None))
        parts.append(append(graph, mean, wide))
    return append(graph, classifier, graph.add_node("Concat", *parts, axis=1), temperature)


def _append_paired_convolution(graph: Graph, layer: nn.Conv2d, image: str, side: int) -> str:
    size, padding, stride = int(layer.kernel_size[0]), int(layer.padding[0]), layer.stride[0]
    assert stride % 2 == 0
    before = padding % 2  # so that the kernel begins with a pair
    around = (before, (size + before) % 2)
    weight = np.pad(_to_array(layer.weight).astype(np.float64), ((0, 0), (0, 0), around, around))
    pairs = weight.shape[-1] // 2
    weight = weight.reshape(*weight.shape[:2], pairs, 2, pairs, 2).sum(axis=(3, 5)).astype(np.float32)
    outputs = (2 * side + 2 * padding - size) // stride + 1
    first = (padding + before) // 2
    last = max((outputs - 1) * (stride // 2) + pairs - side - first, 0)
    names = [graph.add_weight(weight), *([] if layer.bias is None else [graph.add_weight(_to_array(layer.bias))])]
    return graph.add_node("Conv", image, *names, strides=[stride // 2] * 2, pads=[first, first, last, last])


def _append_convolution(graph: Graph, layer: nn.Conv2d, x: str, weight: FloatArray, bias: FloatArray | None) -> str:
    names = [graph.add_weight(values) for values in (weight, bias) if values is not None]
    pads = [int(side) for side in layer.padding] * 2
    return graph.add_node("Conv", x, *names, strides=list(layer.stride), pads=pads, group=layer.groups)


def _get_bias(layer: nn.Conv2d) -> FloatArray | None:
    return None if layer.bias is None else _to_array(layer.bias)


def _to_array(values: Tensor) -> FloatArray:
    array: FloatArray = values.detach().numpy()
    return array
