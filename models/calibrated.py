"""Divide the logits of each exit by a temperature, which is found after training."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from typing_extensions import override

from models.early_exit import EarlyExitNetwork, SingleExitNetwork, TwoExits


def _make_parameters(temperatures: Iterable[float]) -> nn.ParameterList:
    return nn.ParameterList(nn.Parameter(torch.tensor([value], dtype=torch.float32)) for value in temperatures)


class CalibratedNetwork(TwoExits):
    """A network with two exits whose logits are divided by a temperature per exit.

    The division does not change the predicted class. It changes the certainty, so that certainty and accuracy agree
    (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2).

    Args:
        model: the network; its keys have the prefix ``model.`` in the state dict.
        temperatures: one positive number per exit.
    """

    def __init__(self, model: EarlyExitNetwork, temperatures: Iterable[float] = (1.0, 1.0)) -> None:
        super().__init__()
        self.model = model
        self.temperature = _make_parameters(temperatures)

    @override
    def segment_1(self, images: Tensor) -> Tensor:
        return self.model.segment_1(images)

    @override
    def exit_1(self, activations: Tensor) -> Tensor:
        logits: Tensor = self.model.exit_1(activations) / self.temperature[0]
        return logits

    @override
    def segment_2(self, activations: Tensor) -> Tensor:
        return self.model.segment_2(activations)

    @override
    def exit_2(self, deeper: Tensor) -> Tensor:
        logits: Tensor = self.model.exit_2(deeper) / self.temperature[1]
        return logits


class CalibratedSingleExit(nn.Module):
    """A single-exit network whose logits are divided by a temperature, like those of ``CalibratedNetwork``."""

    def __init__(self, model: SingleExitNetwork, temperature: float = 1.0) -> None:
        super().__init__()
        self.model = model
        self.temperature = _make_parameters([temperature])

    def forward(self, images: Tensor) -> Tensor:
        """Return the calibrated logits (N, 2) for images (N, 1, 8, 8)."""
        logits: Tensor = self.model(images) / self.temperature[0]
        return logits


def add_temperatures(model: EarlyExitNetwork | SingleExitNetwork) -> CalibratedNetwork | CalibratedSingleExit:
    """Return the network wrapped so that each of its exits has a temperature of 1."""
    if isinstance(model, EarlyExitNetwork):
        return CalibratedNetwork(model)
    return CalibratedSingleExit(model)
