"""Helpers: make releases of small networks, and make each release decide differently."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from models.calibrated import CalibratedNetwork
from models.checkpoint import compute_fingerprint, write_checkpoint
from models.early_exit import TwoExits
from models.onnx_export import write_edge_model, write_second_exit_model
from tests.networks import SAMPLE, calibrated_network
from utils.dataset import read_dataset
from utils.policy import Policy, write_policy
from utils.release import EDGE, NETWORK, POLICY, SECOND, write_manifest
from utils.schema import Thresholds

MOBILENET = "MobileNetV2WithExits"
ALL_UNCERTAIN = Thresholds(1.0, 1.0, 0.7, 0.63)
"""Exit 1 is certain of next to nothing."""


def write_release(
    folder: Path, network: TwoExits, thresholds: Thresholds = ALL_UNCERTAIN, parent: str | None = None
) -> Path:
    """Write a release of a network into a folder of this name."""
    partial = folder.with_name(f".{folder.name}")
    partial.mkdir(parents=True)
    features = read_dataset(SAMPLE).features[:9]
    fingerprint = compute_fingerprint(network)
    write_checkpoint(partial / NETWORK, network, {"data": "none"})
    write_edge_model(partial / EDGE, network, features)
    write_second_exit_model(partial / SECOND, network, features)
    write_policy(Policy(thresholds, fingerprint), partial / POLICY)
    inner = network.model if isinstance(network, CalibratedNetwork) else network
    write_manifest(partial, parent, type(inner).__name__, fingerprint, [], {})
    partial.rename(folder)
    return folder


def write_releases(folder: Path, names: Sequence[str], architecture: str = MOBILENET) -> Path:
    """Write a folder of releases of different networks, and no link to a current one."""
    for seed, name in enumerate(names):
        write_release(folder / name, calibrated_network(architecture, seed), parent=names[seed - 1] if seed else None)
    return folder


def write_same_exit_2(release: Path, folder: Path, thresholds: Thresholds) -> Path:
    """Write a release whose exit 1 and thresholds differ from another one's, and whose fingerprint is the same."""
    network = calibrated_network(MOBILENET, 0)
    with torch.no_grad():
        network.temperature[0] *= 1.5
    return write_release(folder, network, thresholds, release.name)


def copy_damaged(release: Path, folder: Path, file: str) -> Path:
    """Write a copy of a release in which one file was changed after the manifest was written."""
    shutil.copytree(release, folder)
    content = bytearray((folder / file).read_bytes())
    content[-1] ^= 1
    (folder / file).write_bytes(content)
    os.utime(folder)
    return folder
