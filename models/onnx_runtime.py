"""Run an exported network (.onnx) with ONNX Runtime: exit 1 at the edge, exit 2 where it is wanted. Needs no torch.

``models/onnx_export.py`` writes the files. The graph of exit 1 begins behind the input transform, whose knots and
levels stand in the file's metadata: NumPy searches them in a quarter of the time of a tree ensemble in the graph.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models import ARCHITECTURES, MAX_KNOTS
from models.onnx_file import check_layers
from utils.errors import CheckpointError
from utils.files import check_readable
from utils.schema import CLASS_COUNT, FEATURE_COUNT, Thresholds

FORMAT_VERSION: Final = 1
INPUTS, ACTIVATIONS, LOGITS_1, LOGITS_2 = "transformed_features", "activations", "logits_1", "logits_2"
CHUNK: Final = 32
"""Events of one pass by default: with more, activations leave the processor's cache; with fewer, a pass's fixed cost
shows."""
MAX_BYTES: Final = 2**28
"""Of a file; the largest, AlexNet's second exit, has 147 MB."""

FloatArray = NDArray[np.float32]


class _Ranks:
    """``preprocessing.QuantileTransform`` in NumPy: the knots of all features searched at once.

    Args:
        knots, levels: (58, K) float32, as there.
    """

    def __init__(self, knots: FloatArray, levels: FloatArray) -> None:
        if knots.shape != levels.shape or not 1 <= knots.shape[1] <= MAX_KNOTS:
            raise ValueError(f"knots and levels that do not go together, or over {MAX_KNOTS} of a feature")
        if not (np.isfinite(knots).all() and (np.diff(knots) >= 0).all() and (np.abs(levels) <= 1).all()):
            raise ValueError("knots or levels that are not ascending and finite")
        # Repeats of the last knot, which pad the table, are left out: the fewer knots, the faster the search.
        used = [int(np.searchsorted(row, row[-1])) + 1 for row in knots]
        self._knots = np.concatenate([_keys(i, knots[i, :n]) for i, n in enumerate(used)])
        # A feature with n knots has n + 1 intervals; level = level at the lower knot + share of the interval * rise.
        below, width, level, rise = [], [], [], []
        for row, n, heights in zip(knots, used, levels, strict=True):
            steps = np.diff(row[:n])
            below.append([0, *row[: n - 1], 0])
            width.append([1, *np.where(steps > 0, steps, 1), 1])
            level.append([*heights[:1], *heights[: n - 1], heights[-1]])
            rise.append([0, *np.diff(heights[:n]), 0])
        self._intervals = [np.concatenate(column).astype(np.float32) for column in (below, width, level, rise)]

    def __call__(self, features: FloatArray) -> FloatArray:
        """Return the ranks (N, 58) within [-1, 1] of features (N, 58) float32."""
        found = self._knots.searchsorted(_keys(_FEATURE_NUMBERS, features))
        found += _FEATURE_NUMBERS  # each feature before it has one interval more than knots
        below, width, level, rise = (column.take(found) for column in self._intervals)
        ranks: FloatArray = (features - below) / width * rise + level
        return ranks


_FEATURE_NUMBERS: Final = np.arange(FEATURE_COUNT)


def _keys(number: int | NDArray[np.int64], values: FloatArray) -> NDArray[np.complex64]:
    """Return complex numbers, which NumPy sorts by real part and then imaginary: by feature, then value."""
    keys = np.empty(values.shape, dtype=np.complex64)
    keys.real, keys.imag = number, values
    return keys


def transform_metadata(knots: FloatArray, levels: FloatArray) -> dict[str, str]:
    """Return the metadata that holds a quantile transform's knots and levels, each (58, K) float32."""
    return {
        name: base64.b64encode(table.astype("<f4").tobytes()).decode()
        for name, table in (("knots", knots), ("levels", levels))
    }


def thresholds_metadata(thresholds: Thresholds) -> dict[str, str]:
    """Return the metadata that holds least certainties."""
    return {"thresholds": ",".join(repr(float(value)) for value in vars(thresholds).values())}


def _thresholds(metadata: Mapping[str, str]) -> Thresholds | None:
    text = metadata.get("thresholds")
    return None if text is None else Thresholds(*map(float, text.split(",")))


def _transform(metadata: Mapping[str, str]) -> _Ranks | None:
    if "knots" not in metadata:
        return None
    tables = [np.frombuffer(base64.b64decode(metadata[name], validate=True), "<f4") for name in ("knots", "levels")]
    knots, levels = (table.reshape(FEATURE_COUNT, -1).astype(np.float32) for table in tables)
    return _Ranks(knots, levels)


@dataclass(frozen=True)
class ExportedModel:
    """A part of a network with two exits, as read from a file.

    Attributes:
        architecture: class name, as in ``models.ARCHITECTURES``.
        fingerprint: as ``models.checkpoint.fingerprint`` gave for the checkpoint.
        activation_shape: (C, H, W) of one event's activations behind segment 1.
        chunk: events of one pass at most.
    """

    architecture: str
    fingerprint: str
    activation_shape: tuple[int, ...]
    chunk: int
    _session: Any

    def _run(self, name: str, batch: FloatArray, outputs: Mapping[str, tuple[int, ...]]) -> list[FloatArray]:
        if 0 < len(batch) <= self.chunk:
            return list(self._session.run(list(outputs), {name: batch}))
        whole = [np.empty((len(batch), *shape), dtype=np.float32) for shape in outputs.values()]
        for start in range(0, len(batch), self.chunk):
            rows = slice(start, start + self.chunk)
            for output, part in zip(whole, self._session.run(list(outputs), {name: batch[rows]}), strict=True):
                output[rows] = part
        return whole


@dataclass(frozen=True)
class EdgeModel(ExportedModel):
    """Input transform, segment 1 and the calibrated exit 1.

    Attributes:
        thresholds: least certainties that were chosen for the network; None where the file names none.
    """

    thresholds: Thresholds | None
    _ranks: _Ranks | None

    def exit_1(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the logits (N, 2) of exit 1 and the activations (N, C, H, W) for features (N, 58), all float32."""
        inputs = features if self._ranks is None else self._ranks(features)
        shapes = {LOGITS_1: (CLASS_COUNT,), ACTIVATIONS: self.activation_shape}
        logits, activations = self._run(INPUTS, inputs, shapes)
        return logits, activations


@dataclass(frozen=True)
class SecondExitModel(ExportedModel):
    """Segment 2 and the calibrated exit 2."""

    def exit_2(self, activations: FloatArray) -> FloatArray:
        """Return the logits (N, 2) of exit 2, float32, for activations (N, C, H, W) float32."""
        (logits,) = self._run(ACTIVATIONS, activations, {LOGITS_2: (CLASS_COUNT,)})
        return logits


def read_edge_model(path: Path, threads: int = 1, chunk: int = CHUNK) -> EdgeModel:
    """Read what ``onnx_export.write_edge_model`` wrote, and run it once.

    Args:
        path: the .onnx file.
        threads: that a pass is spread over.
        chunk: events of one pass at most.

    Raises:
        CheckpointError: the file is missing, too large, damaged, or no such file of this version.
    """
    session, facts, metadata = _open(path, threads)
    try:
        model = EdgeModel(*facts, chunk, session, _thresholds(metadata), _transform(metadata))
    except (KeyError, TypeError, ValueError, binascii.Error) as problem:
        raise CheckpointError(f"{path}: its thresholds or input transform are damaged; export it again") from problem
    expected = {LOGITS_1: (CLASS_COUNT,), ACTIVATIONS: model.activation_shape}
    _check_ends(session, path, {INPUTS: (FEATURE_COUNT,)}, expected)
    return model


def read_second_exit_model(path: Path, threads: int = 1, chunk: int = CHUNK) -> SecondExitModel:
    """Read what ``onnx_export.write_second_exit_model`` wrote; else as ``read_edge_model``."""
    session, facts, _ = _open(path, threads)
    model = SecondExitModel(*facts, chunk, session)
    _check_ends(session, path, {ACTIVATIONS: model.activation_shape}, {LOGITS_2: (CLASS_COUNT,)})
    return model


def read_exported(
    path: Path, second_exit: Path | None, family: str | None, threads: int = 1, chunk: int = CHUNK
) -> tuple[EdgeModel, SecondExitModel | None]:
    """Read both halves of a network, or the first alone.

    Args:
        path: of its first half.
        second_exit: of its second half; None: it is not wanted.
        family: that the network must be of, as in ``models.FAMILIES``; None: any.
        threads: that a pass is spread over.
        chunk: events of one pass at most.

    Raises:
        CheckpointError: as ``read_edge_model``, or it is of another family, or the halves are of two networks.
    """
    first = read_edge_model(path, threads, chunk)
    if family is not None and ARCHITECTURES[first.architecture].family != family:
        raise CheckpointError(f"{path}: holds {first.architecture}, not {family}; name the network that it holds")
    if second_exit is None:
        return first, None
    second = read_second_exit_model(second_exit, threads, chunk)
    if second.fingerprint != first.fingerprint:
        raise CheckpointError(f"{second_exit}: is of another network than {path}; export both from one checkpoint")
    return first, second


def _open(path: Path, threads: int) -> tuple[Any, tuple[str, str, tuple[int, ...]], dict[str, str]]:
    if check_readable(path, CheckpointError).stat().st_size > MAX_BYTES:
        raise CheckpointError(f"{path}: is larger than {MAX_BYTES >> 20} MiB; it is no exported network")
    content = path.read_bytes()
    check_layers(content, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_mem_pattern = False  # a plan for each size of batch takes 10 MB more, and no less time
    options.log_severity_level = 4  # what is wrong with a file is said in one line, ours
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads cost no energy
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)
        metadata = dict(session.get_modelmeta().custom_metadata_map)
    except Exception as problem:  # ONNX Runtime's own have no common parent
        raise CheckpointError(f"{path}: is no ONNX file that can be run; export it again") from problem
    return session, _facts(metadata, path), metadata


def _facts(metadata: Mapping[str, str], path: Path) -> tuple[str, str, tuple[int, ...]]:
    version = metadata.get("format_version")
    if version is None:
        raise CheckpointError(f"{path}: is an ONNX file, but none that dnn/export-edge-model.py wrote; export it again")
    if version != str(FORMAT_VERSION):
        raise CheckpointError(f"{path}: its format {version[:20]!r} is not {FORMAT_VERSION}; export it again")
    architecture, fingerprint = metadata.get("architecture", ""), metadata.get("fingerprint", "")
    try:
        shape = tuple(int(size) for size in metadata["activation_shape"].split(","))
        sane = architecture in ARCHITECTURES and len(bytes.fromhex(fingerprint)) == 32 and len(shape) == 3
    except (KeyError, ValueError):
        sane = False
    if not sane:
        raise CheckpointError(f"{path}: its architecture, fingerprint or shape is damaged; export it again")
    return architecture, fingerprint, shape


def _check_ends(
    session: Any, path: Path, inputs: Mapping[str, tuple[int, ...]], outputs: Mapping[str, tuple[int, ...]]
) -> None:
    """Check inputs and outputs: what the file declares, and what one event of zeros really gives."""
    try:
        declared = [(end.name, end.type, tuple(end.shape[1:])) for end in session.get_inputs()]
        names = [end.name for end in session.get_outputs()]
    except UnicodeDecodeError as problem:
        raise CheckpointError(f"{path}: has names that are no text; it is damaged, export it again") from problem
    if declared != [(name, "tensor(float)", shape) for name, shape in inputs.items()] or names != list(outputs):
        raise CheckpointError(
            f"{path}: takes {', '.join(name for name, *_ in declared)} and gives {', '.join(names)}, where "
            f"{', '.join(inputs)} and {', '.join(outputs)} are needed; name the other exported file"
        )
    try:
        zeros = {name: np.zeros((1, *shape), dtype=np.float32) for name, shape in inputs.items()}
        results = session.run(names, zeros)
    except Exception as problem:
        raise CheckpointError(f"{path}: cannot be run; export it again") from problem
    for result, shape in zip(results, outputs.values(), strict=True):
        if result.shape != (1, *shape) or result.dtype != np.float32 or not np.isfinite(result).all():
            raise CheckpointError(f"{path}: gives other shapes than it says, or no numbers; export it again")
