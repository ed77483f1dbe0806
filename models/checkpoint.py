"""Read and write checkpoints (.pth).

``write_checkpoint`` writes the toolkit's own format; ``read_checkpoint`` reads it, and also plain state dicts, as
published or as saved by other programs. The own format is a table of plain values and tensors::

    format_version   1
    architecture     class name, as in models.ARCHITECTURES
    input_transform  see models/preprocessing.py
    training         facts such as data, seed, epoch, and accuracies on held-back rows
    state_dict       weights under the published keys; if calibrated, with the prefix ``model.``, and ``temperature.N``
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

import models
from models import Architecture, preprocessing, state_dicts
from models.calibrated import CalibratedNetwork, CalibratedSingleExit, add_temperatures
from models.early_exit import TwoExits
from models.tensor_files import load_tensors, save_tensors
from utils.errors import CheckpointError

FORMAT_VERSION: Final = 1
_GREATEST_VERSION: Final = 10**6
_CALIBRATED_PREFIX: Final = "model."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A network as read from a file, in evaluation mode on the CPU.

    Attributes:
        network: the network, wrapped in its temperatures if the file is calibrated.
        architecture: the network's entry of ``models.ARCHITECTURES``.
        calibrated: whether the network has temperatures.
        training: facts about its training; empty for a published file.
    """

    network: nn.Module
    architecture: Architecture
    calibrated: bool
    training: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path, family: str | None = None) -> Checkpoint:
    """Read a checkpoint without running any code in it, and check each of its tensors.

    Args:
        path: a .pth file: the toolkit's own, published, or a state dict of another program.
        family: required family of the network, one of ``models.FAMILIES``; None: any.

    Raises:
        CheckpointError: the file is missing, damaged or hostile, or holds an unknown network, a network of another
            family, or weights that are not finite.
    """
    notes = list[str]()
    content, weights = _read_weights(path, notes)
    facts, entry, named = content.get("training", {}), content.get("input_transform"), content.get("architecture")
    try:
        state = state_dicts.remove_prefixes(_check_tensors(weights, path), notes)
    except ValueError as problem:
        raise CheckpointError(f"{path}: {problem}") from problem
    # A calibrated single-exit network may name its only temperature without a number.
    state = {"temperature.0" if key == "temperature" else key: value for key, value in state.items()}
    if notes and not content:
        notes.append("it names no input transform, so the features enter the network as they are")
    is_calibrated = any(key.startswith(_CALIBRATED_PREFIX) for key in state)
    architecture = _recognise(state, path)
    if named not in {None, architecture.name}:
        raise CheckpointError(
            f"{path}: says {named!r} but holds the weights of {architecture.name}. Fetch or train it again."
        )
    if family is not None and family != architecture.family:
        raise CheckpointError(
            f"{path}: holds {architecture.name}, but {family} was asked for. Ask for {architecture.family}."
        )
    with torch.device("meta"):
        network = architecture.create()
        whole = add_temperatures(network) if is_calibrated else network
    _check_shapes(whole, state, path)
    state = state_dicts.convert_to_float32(state, notes)
    _check_values(state, path)
    whole.load_state_dict(state, strict=True, assign=True)
    try:
        network.transform = preprocessing.make_transform(entry)
    except ValueError as problem:
        raise CheckpointError(f"{path}: {problem}. Fetch or train it again.") from problem
    for note in notes:
        _log.warning("%s: %s", path, note)
    return Checkpoint(whole.eval().requires_grad_(False), architecture, is_calibrated, facts)


def read_two_exits(path: Path, family: str | None = None) -> tuple[TwoExits, Checkpoint]:
    """Read a checkpoint that must hold a network with two exits.

    Raises:
        CheckpointError: as for ``read_checkpoint``, or the network has one exit.
    """
    checkpoint = read_checkpoint(path, family)
    if not isinstance(checkpoint.network, TwoExits):
        raise CheckpointError(
            f"{path}: holds {checkpoint.architecture.name}, which has one exit. Name a network with two."
        )
    return checkpoint.network, checkpoint


def write_checkpoint(path: Path, network: nn.Module, training: Mapping[str, Any]) -> None:
    """Write a network with its architecture, input transform and training facts to a file, atomically.

    Args:
        path: the file to write.
        network: any network of ``models.ARCHITECTURES``, calibrated or not.
        training: plain values only (text, numbers, lists, tables).

    Raises:
        InputFileError: the file cannot be written.
    """
    inner = network.model if isinstance(network, CalibratedNetwork | CalibratedSingleExit) else network
    content = {
        "format_version": FORMAT_VERSION,
        "architecture": type(inner).__name__,
        "input_transform": inner.transform.to_entry(),  # type: ignore[union-attr, operator]
        "training": dict(training),
        "state_dict": {key: value.detach().cpu() for key, value in network.state_dict().items()},
    }
    save_tensors(path, content)


def compute_fingerprint(network: TwoExits) -> str:
    """Return the SHA-256 (hex) of all that determines the logits of exit 2.

    That is the class name, the input transform, the weights and the temperature. Client and worker compare their
    fingerprints, so that a worker with another network does not reply. Exit 1 is left out, because the cloud does not
    compute it.
    """
    inner = network.model if isinstance(network, CalibratedNetwork) else network
    digest = hashlib.sha256(type(inner).__name__.encode())
    entry = inner.transform.to_entry()  # type: ignore[union-attr, operator]
    tensors: dict[str, Tensor] = {key: value for key, value in entry.items() if isinstance(value, Tensor)}
    tensors |= {
        key: value for key, value in network.state_dict().items() if "exits.0." not in key and key != "temperature.0"
    }
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _read_weights(path: Path, notes: list[str]) -> tuple[Mapping[str, Any], object]:
    """Return the table in a checkpoint of the toolkit's own format, empty for a plain state dict, and the weights.

    Raises:
        CheckpointError: as for ``read_checkpoint``.
    """
    try:
        content = state_dicts.unnest(load_tensors(path), notes)
    except ValueError as problem:
        raise CheckpointError(f"{path}: {problem}") from problem
    if state_dicts.is_ours(content):
        _check_header(content, path)
        return content, content.get("state_dict")
    return {}, content


def _check_header(content: Mapping[str, Any], path: Path) -> None:
    version = content.get("format_version")
    named, facts = content.get("architecture"), content.get("training", {})
    if (
        not isinstance(version, int)
        or abs(version) > _GREATEST_VERSION
        or not isinstance(named, str | None)
        or not isinstance(facts, dict)
    ):
        raise CheckpointError(
            f"{path}: its format version, architecture or training facts are damaged. Fetch or train it again."
        )
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{path}: checkpoint format {version} is not {FORMAT_VERSION}. Update the toolkit.")


def _check_tensors(state: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path}: holds no weights. Name a checkpoint of a network.")
    for key, value in state.items():
        if not isinstance(key, str):
            raise CheckpointError(f"{path}: holds weights without names. Name a checkpoint of a network.")
        if not preprocessing.is_plain(value, state_dicts.PRECISIONS):
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise CheckpointError(
                f"{path}: {key!r} is not a float32 tensor, but {kind}. Name a checkpoint of a network."
            )
    return state


def _recognise(state: Mapping[str, Tensor], path: Path) -> Architecture:
    keys = {key.removeprefix(_CALIBRATED_PREFIX) for key in state if not key.startswith("temperature.")}
    closest, most = None, -1
    for architecture in models.ARCHITECTURES.values():
        with torch.device("meta"):
            expected = set(architecture.create().state_dict())
        if keys == expected:
            return architecture
        if len(keys & expected) > most:
            closest, most = (architecture, expected), len(keys & expected)
    assert closest is not None
    architecture, expected = closest
    odd = sorted(keys ^ expected)[0]
    verb = "lacks" if odd in expected else "has besides"
    raise CheckpointError(
        f"{path}: holds none of the networks {', '.join(models.ARCHITECTURES)}. Closest is {architecture.name}, but it "
        f"{verb} {odd!r}."
    )


def _check_shapes(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    expected = network.state_dict()
    for key in sorted(expected.keys() ^ state.keys()):
        raise CheckpointError(
            f"{path}: {'lacks' if key in expected else 'has besides'} {key!r}. Fetch or train it again."
        )
    for key, value in expected.items():
        if state[key].shape != value.shape:
            raise CheckpointError(
                f"{path}: {key!r} has shape {tuple(state[key].shape)}, not {tuple(value.shape)}. Train it again."
            )


def _check_values(state: Mapping[str, Tensor], path: Path) -> None:
    """Check that weights are finite and temperatures positive.

    Call it after ``_check_shapes``, because a file of 100 bytes can declare a tensor of any size.
    """
    for key, value in state.items():
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {key!r} holds NaN or infinity. Train again with a lower learning rate.")
        if key.startswith("temperature") and not bool((value > 0).all()):
            raise CheckpointError(f"{path}: {key!r} is not positive. Calibrate again.")
