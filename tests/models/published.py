"""The published networks as the data contract words them, without a line of the toolkit: names, shapes and layers."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

Shapes = dict[str, tuple[int, ...]]
State = Mapping[str, Tensor]

PARAMETERS = {"AlexNetWithExits": 36_874_052, "MobileNetV2WithExits": 2_225_028}

# t, c, n, s of each stage of inverted blocks
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def blocks() -> list[tuple[int, int, int, int]]:
    """Return expansion, channels in, channels out and stride of the 17 inverted blocks."""
    found, n_in = [], 32
    for t, c, n, s in STAGES:
        for stride in [s] + [1] * (n - 1):
            found.append((t, n_in, c, stride))
            n_in = c
    return found


def shapes_of(class_name: str) -> Shapes:
    """Return every key of a published state dict with its shape."""
    return {
        "AlexNetWithExits": _alexnet_with_exits,
        "MobileNetV2WithExits": _mobilenet_with_exits,
        "AlexNet": _alexnet,
        "MobileNetV2": _mobilenet,
    }[class_name]()


def _layer(key: str, *shape: int) -> Shapes:
    return {f"{key}.weight": shape, f"{key}.bias": shape[:1]}


def _alexnet_backbone() -> Shapes:
    return {
        **_layer("backbone.0.1.0", 64, 1, 11, 11),
        **_layer("backbone.1.0.0", 192, 64, 3, 3),
        **_layer("backbone.1.1.0", 384, 192, 3, 3),
        **_layer("backbone.1.2.0", 256, 384, 3, 3),
        **_layer("backbone.1.3.0", 256, 256, 3, 3),
    }


def _alexnet_head(key: str) -> Shapes:
    return {**_layer(f"{key}.2", 4096, 6400), **_layer(f"{key}.5", 2048, 4096), **_layer(f"{key}.7", 2, 2048)}


def _alexnet_with_exits() -> Shapes:
    return {**_alexnet_backbone(), **_layer("exits.0.1", 2, 1600), **_alexnet_head("exits.1")}


def _alexnet() -> Shapes:
    return {**_alexnet_backbone(), **_alexnet_head("exit")}


def _block(key: str, t: int, n_in: int, n_out: int) -> Shapes:
    hidden = t * n_in
    expand = [] if t == 1 else [(hidden, n_in, 1, 1)]
    layers = [*expand, (hidden, 1, 3, 3), (n_out, hidden, 1, 1)]
    return {f"{key}.layers.{index}.0.weight": shape for index, shape in enumerate(layers)}


def _mobilenet_head(key: str, n_in: int) -> Shapes:
    return {f"{key}.0.0.weight": (1280, n_in, 1, 1), **_layer(f"{key}.2.1", 2, 1280)}


def _mobilenet_with_exits() -> Shapes:
    shapes: Shapes = {"backbone.0.1.0.weight": (32, 1, 3, 3)}
    for index, (t, n_in, n_out, _stride) in enumerate(blocks()):
        shapes |= _block(f"backbone.0.{index + 2}" if index < 3 else f"backbone.1.{index - 3}", t, n_in, n_out)
    return {**shapes, **_mobilenet_head("exits.0", 24), **_mobilenet_head("exits.1", 320)}


def _mobilenet() -> Shapes:
    shapes: Shapes = {"stem_conv.0.weight": (32, 1, 3, 3)}
    for index, (t, n_in, n_out, _stride) in enumerate(blocks()):
        shapes |= _block(f"backbone.{index}", t, n_in, n_out)
    return {**shapes, **_mobilenet_head("exit", 320)}


def state_of(class_name: str, seed: int = 0) -> dict[str, Tensor]:
    """Return a state dict of random weights under which activations neither fade nor grow from layer to layer."""
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes_of(class_name).items():
        scale = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
        state[key] = torch.randn(shape, generator=draw) * scale
    return state


def calibrated(state: State, *temperatures: float) -> dict[str, Tensor]:
    """Return the state dict of the same network once calibrated."""
    named = {f"temperature.{index}": torch.tensor([value]) for index, value in enumerate(temperatures)}
    return {**{f"model.{key}": value for key, value in state.items()}, **named}


def logits_of(class_name: str, state: State, images: Tensor) -> list[Tensor]:
    """Return the logits of each exit (N, 2) for images (N, 1, 8, 8), layer by layer from the state dict."""
    if class_name.startswith("AlexNet"):
        return _alexnet_logits(state, images)
    return _mobilenet_logits(state, images)


def _alexnet_logits(state: State, images: Tensor) -> list[Tensor]:
    def convolve(key: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
        return F.relu(F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], stride=stride, padding=padding))

    def linear(key: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{key}.weight"], state[f"{key}.bias"])

    x = F.adaptive_avg_pool2d(images, (48, 48))
    x = F.max_pool2d(convolve("backbone.0.1.0", x, stride=4, padding=2), kernel_size=3, stride=2)
    first = [linear("exits.0.1", x.flatten(1))] if "exits.0.1.weight" in state else []
    for index in range(4):
        x = convolve(f"backbone.1.{index}.0", x)
    head = "exits.1" if first else "exit"
    x = F.relu(linear(f"{head}.2", x.flatten(1)))
    return [*first, linear(f"{head}.7", F.relu(linear(f"{head}.5", x)))]


def _mobilenet_logits(state: State, images: Tensor) -> list[Tensor]:
    def convolve(key: str, x: Tensor, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{key}.weight"]
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=groups).clamp(0, 6)

    def head(key: str, x: Tensor) -> Tensor:
        pooled = convolve(f"{key}.0.0", x).mean(dim=(2, 3))
        return F.linear(pooled, state[f"{key}.2.1.weight"], state[f"{key}.2.1.bias"])

    two_exits = "exits.0.0.0.weight" in state
    x = F.adaptive_avg_pool2d(images, (48, 48))
    x = convolve("backbone.0.1.0" if two_exits else "stem_conv.0", x, stride=2)
    first = []
    for index, (t, n_in, n_out, stride) in enumerate(blocks()):
        place = f"0.{index + 2}" if index < 3 else f"1.{index - 3}"
        key = f"backbone.{place if two_exits else index}.layers"
        y = x if t == 1 else convolve(f"{key}.0.0", x)
        y = convolve(f"{key}.{0 if t == 1 else 1}.0", y, stride=stride, groups=t * n_in)
        y = convolve(f"{key}.{1 if t == 1 else 2}.0", y)
        x = x + y if stride == 1 and n_in == n_out else y
        if two_exits and index == 2:
            first = [head("exits.0", x)]
    return [*first, head("exits.1" if two_exits else "exit", x)]
