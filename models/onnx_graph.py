"""Build ONNX graphs of the layers of our networks; fold what can be folded without changing the logits."""

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
"""Elements of a linear layer's weight under which float32 is as fast."""
HEAD_PARTS: Final = 5
"""MobileNetV2's exit 1 widens 24 channels to 1280 and keeps their means: in parts, so that each stays in the cache."""


@dataclass
class Graph:
    """A graph under construction: nodes in order, weights by name."""

    nodes: list[Any] = field(default_factory=list)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)

    def weight(self, values: object) -> str:
        """Add a constant; return its name."""
        name = f"weight_{len(self.weights)}"
        self.weights[name] = np.ascontiguousarray(values)
        return name

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node with one output; return the output's name."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def to_bytes(
        self,
        inputs: Mapping[str, tuple[int | None, ...]],
        outputs: Mapping[str, tuple[str, int]],
        metadata: Mapping[str, str],
    ) -> bytes:
        """Return the graph as an ONNX file. ONNX Runtime checks it when it loads it.

        Args:
            inputs: name to shape of one event, None where ONNX Runtime may find it out.
            outputs: name to the node output it shows, and its number of dimensions.
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
        for name, values in self.weights.items():  # not by helpers that copy a graph: AlexNet's has 147 MB
            kind = helper.np_dtype_to_tensor_dtype(values.dtype)
            model.graph.initializer.add(name=name, data_type=kind, dims=values.shape, raw_data=values.tobytes())
        helper.set_model_props(model, dict(metadata))
        content: bytes = model.SerializeToString()
        return content


def append(graph: Graph, layer: nn.Module, x: str, temperature: float = 1.0, *, int8: bool = False) -> str:
    """Add a layer of our networks, in evaluation mode, to a graph.

    Args:
        graph: that gets the nodes.
        layer: a layer or a tree of them.
        x: the name of its input.
        temperature: the last linear layer's outputs are divided by it.
        int8: whether linear layers of at least ``SMALLEST_INT8`` weights multiply 8-bit integers.

    Returns:
        the name of its output.

    Raises:
        TypeError: the layer is of a kind that none of our networks has.
    """
    match layer:
        case nn.Sequential():
            for part in layer:
                x = append(graph, part, x, temperature if part is layer[-1] else 1.0, int8=int8)
            return x
        case InvertedResidual():
            projected = append(graph, layer.layers, x)
            return graph.add("Add", x, projected) if layer.residual else projected
        case nn.Conv2d():
            return _convolution(graph, layer, x, _array(layer.weight), _bias(layer))
        case nn.Linear() if int8 and layer.weight.numel() >= SMALLEST_INT8:
            return append_int8_linear(graph, layer, x)
        case nn.Linear():
            weight, bias = _array(layer.weight), _array(layer.bias)
            if temperature != 1.0:
                weight, bias = weight / np.float32(temperature), bias / np.float32(temperature)
            return graph.add("Gemm", x, graph.weight(weight), graph.weight(bias), transB=1)
        case nn.ReLU6():
            return graph.add("Clip", x, graph.weight(np.float32(0)), graph.weight(np.float32(6)))
        case nn.ReLU():
            return graph.add("Relu", x)
        case nn.MaxPool2d():
            return graph.add("MaxPool", x, kernel_shape=[layer.kernel_size] * 2, strides=[layer.stride] * 2)
        case nn.AdaptiveAvgPool2d(output_size=1):
            return graph.add("GlobalAveragePool", x)
        case nn.Flatten():
            return graph.add("Flatten", x)
        case nn.Dropout():
            return x
    raise TypeError(f"no ONNX form of {layer!r}")


def append_transform(graph: Graph, knots: FloatArray, levels: FloatArray, x: str) -> str:
    """Add a quantile transform; see ``preprocessing.QuantileTransform``, which it equals but for rounding.

    The knots below a value are counted in two steps: first whole blocks of knots, then the knots of the block that the
    value lies in. That takes 2 * sqrt(K) comparisons of a feature, and far fewer nodes than a binary search.

    Args:
        graph: that gets the nodes.
        knots: (58, K) float32, ascending.
        levels: (58, K) float32.
        x: the name of the input (N, 58).
    """
    size = math.isqrt(knots.shape[1] - 1) + 1  # of a block, and how many blocks there are
    padding = ((0, 0), (0, size * (size + 1) - knots.shape[1]))
    blocks = np.pad(knots, padding, constant_values=np.inf).reshape(FEATURE_COUNT, size + 1, size)
    numbers = np.arange(FEATURE_COUNT)
    column = graph.add("Unsqueeze", x, graph.weight(np.array([2])))  # (N, 58, 1)
    whole = _count_less(graph, graph.weight(blocks[:, :-1, -1]), column)  # (N, 58)
    block = graph.add("Add", whole, graph.weight(numbers * (size + 1)))
    within = _count_less(graph, graph.add("Gather", graph.weight(blocks.reshape(-1, size)), block), column)
    interval = graph.add("Add", graph.add("Mul", whole, graph.weight(np.array(size))), within)
    interval = graph.add("Add", interval, graph.weight(numbers * (knots.shape[1] + 1)))
    below, width, level, rise = (
        graph.add("Gather", graph.weight(values.ravel()), interval) for values in _intervals(knots, levels)
    )
    share = graph.add("Div", graph.add("Sub", x, below), width)
    return graph.add("Add", graph.add("Mul", share, rise), level)


def _count_less(graph: Graph, values: str, than: str) -> str:
    """Add the number of values along the last axis that are less than a column; int64."""
    less = graph.add("Cast", graph.add("Less", values, than), to=onnx.TensorProto.FLOAT)
    count = graph.add("ReduceSum", less, graph.weight(np.array([-1])), keepdims=0)
    return graph.add("Cast", count, to=onnx.TensorProto.INT64)


def _intervals(knots: FloatArray, levels: FloatArray) -> tuple[FloatArray, ...]:
    """Return lower knot, width, level at the lower knot, and rise of the intervals around the knots, (58, K + 1)."""
    steps, zero = np.diff(knots), np.zeros((FEATURE_COUNT, 1), np.float32)
    below = np.hstack([zero, knots[:, :-1], zero])
    width = np.hstack([zero + 1, np.where(steps > 0, steps, 1), zero + 1])
    level = np.hstack([levels[:, :1], levels[:, :-1], levels[:, -1:]])
    rise = np.hstack([zero, np.diff(levels), zero])
    return tuple(column.astype(np.float32) for column in (below, width, level, rise))


def append_int8_linear(graph: Graph, layer: nn.Linear, x: str) -> str:
    """Add a linear layer that multiplies 8-bit integers: weights scaled for each output, inputs for each event.

    ONNX Runtime's DynamicQuantizeLinear has one scale for a whole batch, so that an event's logits would depend on the
    events beside it. Of an input 7 bits are used: without VNNI instructions, x86 adds two products in 16 bits, which 8
    bits overflow.
    """
    weight, tiny = _array(layer.weight), np.finfo(np.float32).tiny
    scales = np.maximum(np.abs(weight).max(axis=1) / np.float32(_INT8_STEPS), tiny)
    integers = np.rint(weight / scales[:, np.newaxis])
    lowest = graph.add("ReduceMin", x, axes=[1], keepdims=1)
    span = graph.add("Sub", graph.add("ReduceMax", x, axes=[1], keepdims=1), lowest)
    span = graph.add("Max", span, graph.weight(tiny * _INT8_STEPS))
    step = graph.add("Div", span, graph.weight(np.float32(_INT8_STEPS)))
    steps = graph.add("Round", graph.add("Div", graph.add("Sub", x, lowest), step))
    inputs = graph.add("Cast", steps, to=onnx.TensorProto.UINT8)
    product = graph.add("MatMulInteger", inputs, graph.weight(integers.T.astype(np.int8)))
    product = graph.add("Mul", graph.add("Cast", product, to=onnx.TensorProto.FLOAT), graph.weight(scales))
    offset = graph.add("Mul", lowest, graph.weight(integers.sum(axis=1) * scales))
    # The least and the greatest input may pass over NaN; their sum does not, and 0 * NaN is NaN.
    sums = graph.add("ReduceSum", x, graph.weight(np.array([1])), keepdims=1)
    offset = graph.add("Add", offset, graph.add("Mul", sums, graph.weight(np.float32(0))))
    outputs = graph.add("Add", graph.add("Mul", product, step), offset)
    return outputs if layer.bias is None else graph.add("Add", outputs, graph.weight(_array(layer.bias)))


def append_first_segment(graph: Graph, segment: nn.Module, x: str) -> str:
    """Add segment 1, which first repeats each value of an 8x8 image 6 times a side and an even-strided convolution.

    Neighbouring pixels 2i and 2i + 1 of that image are equal, and the convolution steps over whole pairs: it is the
    convolution of an image of 3 repeats, a quarter of the size, with the kernel's weights added up in pairs.

    Args:
        graph: that gets the nodes.
        segment: of one of our networks.
        x: the name of the input (N, 58).
    """
    parts: list[Any] = list(segment.children())
    upsample, (first, *rest), *others = parts
    repeats = upsample.output_size[0] // IMAGE_SIDE // 2
    side = repeats * IMAGE_SIDE
    cells = np.arange(side) // repeats
    cells = (cells[:, np.newaxis] * IMAGE_SIDE + cells).ravel()  # of the 8x8 image, for each pixel
    spread = np.equal.outer(np.arange(FEATURE_COUNT), cells).astype(np.float32)  # the padding stays 0
    image = graph.add("MatMul", x, graph.weight(spread))
    image = graph.add("Reshape", image, graph.weight(np.array([-1, 1, side, side])))
    return append(graph, nn.Sequential(*rest, *others), _paired_convolution(graph, first, image, side))


def append_first_exit(graph: Graph, head: nn.Module, x: str, temperature: float) -> str:
    """Add exit 1; a wide convolution of which it only keeps the means is added in ``HEAD_PARTS`` parts."""
    layers: list[Any] = list(head.children())
    if not isinstance(layers[0], nn.Sequential):
        return append(graph, head, x, temperature)
    (convolution, clip), mean, classifier = layers
    parts = []
    for weight in np.split(_array(convolution.weight), HEAD_PARTS):
        wide = append(graph, clip, _convolution(graph, convolution, x, weight, None))
        parts.append(append(graph, mean, wide))
    return append(graph, classifier, graph.add("Concat", *parts, axis=1), temperature)


def _paired_convolution(graph: Graph, layer: nn.Conv2d, image: str, side: int) -> str:
    size, padding, stride = int(layer.kernel_size[0]), int(layer.padding[0]), layer.stride[0]
    assert stride % 2 == 0
    before = padding % 2  # so that the kernel begins with a pair
    around = (before, (size + before) % 2)
    weight = np.pad(_array(layer.weight).astype(np.float64), ((0, 0), (0, 0), around, around))
    pairs = weight.shape[-1] // 2
    weight = weight.reshape(*weight.shape[:2], pairs, 2, pairs, 2).sum(axis=(3, 5)).astype(np.float32)
    outputs = (2 * side + 2 * padding - size) // stride + 1
    first = (padding + before) // 2
    last = max((outputs - 1) * (stride // 2) + pairs - side - first, 0)
    names = [graph.weight(weight), *([] if layer.bias is None else [graph.weight(_array(layer.bias))])]
    return graph.add("Conv", image, *names, strides=[stride // 2] * 2, pads=[first, first, last, last])


def _convolution(graph: Graph, layer: nn.Conv2d, x: str, weight: FloatArray, bias: FloatArray | None) -> str:
    names = [graph.weight(values) for values in (weight, bias) if values is not None]
    pads = [int(side) for side in layer.padding] * 2
    return graph.add("Conv", x, *names, strides=list(layer.stride), pads=pads, group=layer.groups)


def _bias(layer: nn.Conv2d) -> FloatArray | None:
    return None if layer.bias is None else _array(layer.bias)


def _array(values: Tensor) -> FloatArray:
    array: FloatArray = values.detach().numpy()
    return array
