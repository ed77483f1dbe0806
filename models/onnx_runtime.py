"""Run the two halves of a network with ONNX Runtime, without importing torch.

``models/onnx_export.py`` writes the halves to files, and ``models/cpu_network.py`` builds them in memory.
"""

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models import ARCHITECTURES
from models.onnx_file import check_layers
from utils.errors import CheckpointError
from utils.files import check_readable
from utils.schema import CLASS_COUNT, FEATURE_COUNT, Thresholds

FORMAT_VERSION: Final = 2
FEATURES, ACTIVATIONS, LOGITS_1, LOGITS_2 = "features", "activations", "logits_1", "logits_2"
EDGE_PASS_SIZE: Final = 32
"""Default number of events in a pass of the first half on an edge. More events do not fit into the processor's cache;
with fewer events, the fixed cost of a pass matters."""
PASS_SIZES: Final = {"alexnet": 64, "mobilenet": 8}
"""Maps a family to the number of events in a pass of exit 2, and in a pass of the first half unless one is given.

A pass of AlexNet's exit 2 reads 147 MB of weights, so it should have many events. MobileNetV2's activations of more
than 8 events do not fit into the processor's cache.
"""
MOST_THREADS: Final = 1024
MAX_BYTES: Final = 2**28
"""Size of the largest file that is read. AlexNet's second half has 147 MB."""

FloatArray = NDArray[np.float32]


def format_thresholds(thresholds: Thresholds) -> dict[str, str]:
    """Return thresholds as an entry of a file's metadata."""
    return {"thresholds": ",".join(repr(float(value)) for value in vars(thresholds).values())}


def _parse_thresholds(metadata: Mapping[str, str]) -> Thresholds | None:
    text = metadata.get("thresholds")
    return None if text is None else Thresholds(*map(float, text.split(",")))


@dataclass(frozen=True)
class Half:
    """A half of a network with two exits.

    Attributes:
        architecture: class name, as in ``models.ARCHITECTURES``.
        fingerprint: as ``models.checkpoint.compute_fingerprint`` returns it; empty if it was not computed.
        activation_shape: (C, H, W) of one event's activations behind segment 1.
        pass_size: largest number of events in a pass.
    """

    architecture: str
    fingerprint: str
    activation_shape: tuple[int, ...]
    pass_size: int
    _session: Any

    def _run(self, name: str, batch: FloatArray, outputs: list[str]) -> list[FloatArray]:
        """Return the named outputs for a batch, computed in passes of about equal size."""
        passes = -(-len(batch) // self.pass_size)
        if passes == 1:
            return self._run_pass(name, batch, outputs)
        shapes = [self.activation_shape if output == ACTIVATIONS else (CLASS_COUNT,) for output in outputs]
        whole = [np.empty((len(batch), *shape), dtype=np.float32) for shape in shapes]
        ends = np.linspace(0, len(batch), passes + 1).astype(int).tolist()
        for start, end in itertools.pairwise(ends):
            for output, part in zip(whole, self._run_pass(name, batch[start:end], outputs), strict=True):
                output[start:end] = part
        return whole

    def _run_pass(self, name: str, batch: FloatArray, outputs: list[str]) -> list[FloatArray]:
        try:
            found: list[FloatArray] = self._session.run(outputs, {name: batch}, _RUN_OPTIONS)
            return found
        except Exception as problem:  # ONNX Runtime's exceptions have no common parent
            raise RuntimeError(str(problem).partition("\n")[0]) from problem


_RUN_OPTIONS: Final = onnxruntime.RunOptions()
_RUN_OPTIONS.only_execute_path_to_fetches = True  # do not compute exit 1 if only activations are requested


@dataclass(frozen=True)
class FirstHalf(Half):
    """Input transform, segment 1 and the calibrated exit 1.

    Attributes:
        thresholds: those stored in the file; None if it holds none.
    """

    thresholds: Thresholds | None = None

    def exit_1(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the logits (N, 2) of exit 1 and the activations (N, C, H, W) for features (N, 58), all float32."""
        logits, activations = self._run(FEATURES, features, [LOGITS_1, ACTIVATIONS])
        return logits, activations

    def segment_1(self, features: FloatArray) -> FloatArray:
        """Return the activations (N, C, H, W) for features (N, 58), both float32; exit 1 is not computed."""
        (activations,) = self._run(FEATURES, features, [ACTIVATIONS])
        return activations


@dataclass(frozen=True)
class SecondHalf(Half):
    """Segment 2 and the calibrated exit 2."""

    def exit_2(self, activations: FloatArray) -> FloatArray:
        """Return the logits (N, 2) of exit 2, float32, for activations (N, C, H, W) float32."""
        (logits,) = self._run(ACTIVATIONS, activations, [LOGITS_2])
        return logits


def compute_both(first: FirstHalf, second: SecondHalf, features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the logits of both exits, each (N, 2) float32, for features (N, 58); segment 1 is computed once."""
    logits_1, activations = first.exit_1(features)
    return logits_1, second.exit_2(activations)


def choose_pass_size(architecture: str, most: int | None = None) -> int:
    """Return the number of events per pass of an architecture: that in ``PASS_SIZES``, but at most ``most``."""
    size = PASS_SIZES[ARCHITECTURES[architecture].family]
    return size if most is None else min(size, most)


def read_first_half(path: Path, threads: int = 1, pass_size: int | None = None) -> FirstHalf:
    """Read a file that ``onnx_export.write_edge_model`` wrote, and run it once to check its outputs.

    Args:
        path: the .onnx file.
        threads: threads per pass.
        pass_size: largest number of events in a pass; None: as in ``PASS_SIZES``.

    Raises:
        CheckpointError: the file is missing, too large, damaged, of another version, or was not written by that
            function.
    """
    session, facts, metadata = _open(path, threads)
    try:
        model = FirstHalf(*facts, pass_size or choose_pass_size(facts[0]), session, _parse_thresholds(metadata))
    except (TypeError, ValueError) as problem:
        raise CheckpointError(f"{path}: its thresholds are damaged. Export it again.") from problem
    expected = {LOGITS_1: (CLASS_COUNT,), ACTIVATIONS: model.activation_shape}
    _check_ends(session, path, {FEATURES: (FEATURE_COUNT,)}, expected)
    return model


def read_second_half(path: Path, threads: int = 1, most: int | None = None) -> SecondHalf:
    """Read a file that ``onnx_export.write_second_exit_model`` wrote; otherwise as ``read_first_half``.

    ``most`` is the largest number of events in a pass; a larger number than that in ``PASS_SIZES`` has no effect.
    """
    session, facts, _ = _open(path, threads)
    model = SecondHalf(*facts, choose_pass_size(facts[0], most), session)
    _check_ends(session, path, {ACTIVATIONS: model.activation_shape}, {LOGITS_2: (CLASS_COUNT,)})
    return model


def read_exported(
    path: Path,
    second_exit: Path | None,
    family: str | None,
    threads: int = 1,
    pass_size: int | None = None,
    most: int | None = None,
) -> tuple[FirstHalf, SecondHalf | None]:
    """Read both halves of a network, or only the first.

    Args:
        path: file of the first half.
        second_exit: file of the second half; None: read the first half only.
        family: required family of the network, one of ``models.FAMILIES``; None: any.
        threads: threads per pass.
        pass_size: largest number of events in a pass of the first half; None: as in ``PASS_SIZES``.
        most: as for ``read_second_half``.

    Raises:
        CheckpointError: as for ``read_first_half``, or the network is of another family, or the halves are of two
            networks.
    """
    first = read_first_half(path, threads, pass_size)
    if family is not None and ARCHITECTURES[first.architecture].family != family:
        raise CheckpointError(f"{path}: holds {first.architecture}, not {family}. Name the network that it holds.")
    if second_exit is None:
        return first, None
    second = read_second_half(second_exit, threads, most)
    if second.fingerprint != first.fingerprint:
        raise CheckpointError(f"{second_exit}: is of another network than {path}. Export both from one checkpoint.")
    return first, second


def _open(path: Path, threads: int) -> tuple[Any, tuple[str, str, tuple[int, ...]], dict[str, str]]:
    if check_readable(path, CheckpointError).stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path}: is larger than {MAX_BYTES >> 20} MiB. Name an exported network.")
    content = path.read_bytes()
    check_layers(content, path)
    try:
        session = start_session(content, threads)
        metadata = dict(session.get_modelmeta().custom_metadata_map)
    except Exception as problem:  # ONNX Runtime's exceptions have no common parent
        raise CheckpointError(f"{path}: is no ONNX file that can be run. Export it again.") from problem
    return session, _read_facts(metadata, path), metadata


def get_default_threads() -> int:
    """Return the default number of threads: OMP_NUM_THREADS, else the number of cores this process may use."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() and 0 < int(named) <= MOST_THREADS else len(os.sched_getaffinity(0))


def start_session(content: bytes, threads: int) -> Any:
    """Return an ``onnxruntime.InferenceSession`` of an ONNX file that computes with the given number of threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_mem_pattern = False  # a pattern for each batch size would take 10 MB and save no time
    options.log_severity_level = 4  # nothing: error messages of this module say what is wrong
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # to save energy
    options.add_session_config_entry("session.load_model_format", "ONNX")
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
    session._model_bytes = None  # needed only for the fallback, which is off; frees AlexNet's 147 MB
    return session


def _read_facts(metadata: Mapping[str, str], path: Path) -> tuple[str, str, tuple[int, ...]]:
    version = metadata.get("format_version")
    if version is None:
        raise CheckpointError(f"{path}: was not written by dnn/export-edge-model.py. Export it again.")
    if version != str(FORMAT_VERSION):
        raise CheckpointError(f"{path}: its format {version[:20]!r} is not {FORMAT_VERSION}. Export it again.")
    architecture, fingerprint = metadata.get("architecture", ""), metadata.get("fingerprint", "")
    try:
        shape = tuple(int(size) for size in metadata["activation_shape"].split(","))
        sane = architecture in ARCHITECTURES and len(bytes.fromhex(fingerprint)) == 32 and len(shape) == 3
    except (KeyError, ValueError):
        sane = False
    if not sane:
        raise CheckpointError(f"{path}: its architecture, fingerprint or shape is damaged. Export it again.")
    return architecture, fingerprint, shape


def _check_ends(
    session: Any, path: Path, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[int, ...]]
) -> None:
    """Check the declared inputs and outputs, and the outputs that are computed for one event of zeros."""
    try:
        declared = [(end.name, end.type, tuple(end.shape[1:])) for end in session.get_inputs()]
        names = [end.name for end in session.get_outputs()]
    except UnicodeDecodeError as problem:
        raise CheckpointError(f"{path}: has names that are no text. Export it again.") from problem
    if declared != [(name, "tensor(float)", shape) for name, shape in inputs.items()] or names != list(outputs):
        raise CheckpointError(
            f"{path}: takes {', '.join(name for name, *_ in declared)} and returns {', '.join(names)}, where "
            f"{', '.join(inputs)} and {', '.join(outputs)} are needed. Name the other exported file."
        )
    try:
        zeros = {name: np.zeros((1, *shape), dtype=np.float32) for name, shape in inputs.items()}
        results = session.run(names, zeros)
    except Exception as problem:
        raise CheckpointError(f"{path}: cannot be run. Export it again.") from problem
    for result, shape in zip(results, outputs.values(), strict=True):
        if result.shape != (1, *shape) or result.dtype != np.float32 or not np.isfinite(result).all():
            raise CheckpointError(f"{path}: returns other shapes than it says, or no numbers. Export it again.")
