"""Write a network as a release: checkpoint, both ONNX files, policy and manifest."""

import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.calibrated import CalibratedNetwork
from models.checkpoint import compute_fingerprint, write_checkpoint
from models.early_exit import TwoExits
from models.onnx_export import write_edge_model, write_second_exit_model
from utils.errors import InputFileError
from utils.files import make_folder
from utils.policy import Policy, write_policy
from utils.release import EDGE, NETWORK, POLICY, SECOND, LabelledFile, point_to, write_manifest

_NAME = re.compile(r"release-(\d{4,9})")


def choose_name(releases: Path) -> str:
    """Return the name of the next release of a folder, such as release-0002."""
    numbers = [int(found[1]) for path in releases.iterdir() if (found := _NAME.fullmatch(path.name))]
    return f"release-{max(numbers, default=0) + 1:04d}"


def write_release(
    releases: Path,
    network: TwoExits,
    policy: Policy,
    features: NDArray[np.float32],
    training: Mapping[str, Any],
    parent: str | None,
    data: Sequence[LabelledFile],
    judgement: Mapping[str, float],
) -> Path:
    """Write a release into a folder of releases, make it the current one, and return its folder.

    The folder appears under its name when it is complete; after an error, nothing of it is left.

    Args:
        releases: the folder, which is created if needed.
        network: calibrated.
        policy: of the network.
        features: (N, 58) float32, rows on which the ONNX files are compared with the checkpoint.
        training: facts for the checkpoint.
        parent: name of the release that this one was trained from; None: there is none.
        data: the labelled files.
        judgement: numbers for the manifest.

    Raises:
        CheckpointError: the ONNX files do not agree with the checkpoint.
        InputFileError: the folder cannot be written to.
    """
    partial = make_folder(releases) / f".{secrets.token_hex(8)}.part"
    try:
        partial.mkdir()
        write_checkpoint(partial / NETWORK, network, training)
        write_edge_model(partial / EDGE, network, features, policy.thresholds)
        write_second_exit_model(partial / SECOND, network, features)
        write_policy(policy, partial / POLICY)
        inner = network.model if isinstance(network, CalibratedNetwork) else network
        write_manifest(partial, parent, type(inner).__name__, compute_fingerprint(network), data, judgement)
        folder = releases / choose_name(releases)
        partial.rename(folder)
    except OSError as problem:
        raise InputFileError(
            f"{releases}: cannot be written to: {problem.strerror}; choose another folder"
        ) from problem
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    point_to(releases, folder.name)
    return folder
