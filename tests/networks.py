"""Build networks for tests."""

from pathlib import Path

import numpy as np
import torch

import models
from models.calibrated import CalibratedNetwork
from models.early_exit import EarlyExitNetwork, SingleExitNetwork, initialise
from models.prediction import predict
from models.preprocessing import fit_quantile_transform
from utils.dataset import read_dataset

SAMPLE = Path(__file__).resolve().parents[1] / "dataset" / "sample" / "2016_01.csv"


def new_network(class_name: str, seed: int = 0) -> EarlyExitNetwork | SingleExitNetwork:
    """Return an untrained network in evaluation mode, determined by the seed, with the sample's input transform."""
    torch.manual_seed(seed)
    network = models.ARCHITECTURES[class_name].create()
    initialise(network)
    network.transform = fit_quantile_transform(read_dataset(SAMPLE).features)
    return network.eval().requires_grad_(False)


def calibrated_network(class_name: str, seed: int = 0) -> CalibratedNetwork:
    """Return a calibrated network with two exits, which predicts both classes with all certainties."""
    network = new_network(class_name, seed)
    assert isinstance(network, EarlyExitNetwork)
    features = read_dataset(SAMPLE).features
    margins = [np.subtract(*logits.T) for logits in predict(network, features, 100)]
    with torch.no_grad():
        for head, margin in zip(network.exits, margins, strict=True):
            last = [module for module in head.modules() if isinstance(module, torch.nn.Linear)][-1]
            last.bias[0] -= float(np.median(margin))
    temperatures = [float(np.std(margin)) / 2 for margin in margins]
    return CalibratedNetwork(network, temperatures).eval().requires_grad_(False)
