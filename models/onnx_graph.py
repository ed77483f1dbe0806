"""The layers of our networks as nodes of an ONNX graph, and what of them can be folded without changing the answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from models.mobilenet import InvertedResidual
from utils.schema import FEATURE_COUNT, IMAGE_SIDE

FloatArray = NDArray[np.float32]

_OPSET, _IR_VERSION = 17, 8
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
        self, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[str, int]], metadata: Mapping[str, str]
    ) -> bytes:
        """Return the graph as an ONNX file.

        Args:
            inputs: name to shape of one event.
            outputs: name to the node output it shows, and its number of dimensions.
            metadata: text by name.
        """
        renamed = {shown: name for name, (shown, _) in outputs.items()}
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        real = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(name, real, ["N", *shape]) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, real, ["N", *[None] * (n - 1)]) for name, (_, n) in outputs.items()],
            [numpy_helper.from_array(values, name) for name, values in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
        helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model)
        content: bytes = model.SerializeToString()
        return content


def append(graph: Graph, layer: nn.Module, x: str, temperature: float = 1.0) -> str:
    """Add a layer of our networks, in evaluation mode, to a graph.

    Args:
        graph: that gets the nodes.
        layer: a layer or a tree of them.
        x: the name of its input.
        temperature: the last linear layer's outputs are divided by it.

    Returns:
        the name of its output.

    Raises:
        TypeError: the layer is of a kind that none of our networks has.
    """
    match layer:
        case nn.Sequential():
            for part in layer:
                x = append(graph, part, x, temperature if part is layer[-1] else 1.0)
            return x
        case InvertedResidual():
            projected = append(graph, layer.layers, x)
            return graph.add("Add", x, projected) if layer.residual else projected
        case nn.Conv2d():
            return _convolution(graph, layer, x, _array(layer.weight), _bias(layer))
        case nn.Linear():
            weight, bias = (_array(value) / np.float32(temperature) for value in (layer.weight.T, layer.bias))
            return graph.add("Gemm", x, graph.weight(weight), graph.weight(bias))
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
