import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import nn

from models import cpu_network
from models.checkpoint import fingerprint
from models.early_exit import TwoExits
from models.onnx_export import write_edge_model, write_second_exit_model
from models.onnx_graph import Graph, append, append_transform
from models.onnx_runtime import (
    CHUNK,
    FirstHalf,
    read_first_half,
    read_second_half,
    start_session,
)
from models.prediction import iterate_batches, predict
from models.preprocessing import Identity, QuantileTransform, fit_quantile_transform
from tests.networks import SAMPLE, calibrated_network, new_network
from utils.classification_metrics import certainty
from utils.dataset import read_dataset, to_images
from utils.errors import CheckpointError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("AlexNetWithExits", "MobileNetV2WithExits")
FloatArray = NDArray[np.float32]


@pytest.fixture(scope="module")
def features() -> FloatArray:
    """Sample rows, and rows far outside the scaled range."""
    random = np.random.default_rng(0).normal(0, 3, size=(70, 58)).astype(np.float32)
    return np.concatenate([read_dataset(SAMPLE).features[:70], random])


@pytest.fixture(scope="module", params=NAMES)
def network(request: pytest.FixtureRequest) -> TwoExits:
    return calibrated_network(request.param)


@pytest.fixture(scope="module")
def edge_file(tmp_path_factory: pytest.TempPathFactory, network: TwoExits, features: FloatArray) -> Path:
    path = tmp_path_factory.mktemp("edge") / "edge.onnx"
    write_edge_model(path, network, features)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, features: FloatArray) -> Path:
    """An exported AlexNet, for tests that damage it."""
    path = tmp_path_factory.mktemp("small") / "edge.onnx"
    write_edge_model(path, calibrated_network("AlexNetWithExits"), features)
    return path


def damaged(source: Path, path: Path, damage: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(source)
    damage(model)
    path.write_bytes(model.SerializeToString())
    return path


def refusal(path: Path, read: Callable[[Path], object] = read_first_half) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ") and "\n" not in line
    return line


def test_exit_1_and_its_activations_are_pytorchs(edge_file: Path, network: TwoExits, features: FloatArray) -> None:
    logits, activations = read_first_half(edge_file).exit_1(features)
    with torch.inference_mode():
        expected, expected_logits = network.edge(torch.from_numpy(to_images(features)))
    scale = float(expected.abs().max())
    assert np.abs(activations - expected.numpy()).max() <= 1e-5 * scale
    (label, certain), (expected_label, expected_certain) = certainty(logits), certainty(expected_logits.numpy())
    assert np.abs(certain - expected_certain).max() <= 1e-5
    clear = expected_certain > 0.5 + 1e-5  # an untrained network is undecided of some rows to the last bit
    assert set(label) == {0, 1} and (label == expected_label)[clear].all() and clear.mean() > 0.5
    assert logits.dtype == activations.dtype == np.float32


def test_exit_2_is_pytorchs(tmp_path: Path, network: TwoExits, features: FloatArray) -> None:
    path = tmp_path / "second.onnx"
    agreement = write_second_exit_model(path, network, features)
    with torch.inference_mode():
        (images,) = iterate_batches(features, len(features))
        activations = network.segment_1(images)
        expected = network.cloud(activations)
    logits = read_second_half(path).exit_2(activations.numpy())
    difference = np.abs(certainty(logits)[1] - certainty(expected.numpy())[1]).max()
    assert difference <= 1e-4 and agreement.difference <= 1e-4 and agreement.rows == len(features)


def test_a_network_without_transform_or_temperatures_is_exported_too(tmp_path: Path, features: FloatArray) -> None:
    network = new_network("AlexNetWithExits")
    network.transform = Identity()
    assert isinstance(network, TwoExits)
    agreement = write_edge_model(tmp_path / "edge.onnx", network, features)
    assert agreement.difference <= 1e-5


@pytest.mark.parametrize("count", [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_rows_are_answered_alike_in_every_batch(edge_file: Path, features: FloatArray, count: int) -> None:
    model = read_first_half(edge_file)
    logits, activations = model.exit_1(features[:count])
    assert logits.shape == (count, 2) and activations.shape == (count, *model.activation_shape)
    for row in range(count):
        alone, alone_activations = model.exit_1(features[row : row + 1])
        np.testing.assert_allclose(logits[row], alone[0], atol=1e-4)
        np.testing.assert_allclose(activations[row], alone_activations[0], rtol=1e-4, atol=1e-4)


def test_two_threads_answer_like_one(edge_file: Path, features: FloatArray) -> None:
    one, two = (read_first_half(edge_file, threads).exit_1(features)[0] for threads in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-4)


def test_the_file_says_which_network_it_is_of(edge_file: Path, network: TwoExits) -> None:
    model = read_first_half(edge_file)
    assert isinstance(model, FirstHalf)
    assert model.fingerprint == fingerprint(network)
    assert model.activation_shape == network.activation_shape()
    assert model.architecture in NAMES


@pytest.mark.parametrize(
    ("knots", "levels"),
    [
        ([1.0], [0.5]),
        ([0, 1, 2, 2, 2], [-1, 0, 1, 1, 1]),
        ([0, 0, 1, 1, 3], [-1, -0.5, 0, 0.25, 1]),
        ([2, 2], [-0.5, 0.5]),
        ([0, 1e-45, 1], [-1, 0, 1]),
        ([0, 1e-37, 1, 1 + 2**-23], [-1, 1, 1, 1]),
        ([0.1, 0.2, 3], [-1, -0.99999994, 1]),
        ([-1, -0.0, 0.0, 3], [-1, 0, 0.5, 1]),
    ],
)
def test_ranks_are_the_quantile_transforms(knots: list[float], levels: list[float]) -> None:
    tables = [np.tile(np.array(row, dtype=np.float32), (58, 1)) for row in (knots, levels)]
    others = [-5, -1e-30, 0, 0.3, 0.99999994, 1, 1.5, 2, 2.0000002, 2.5, 3, 1e30]
    values = np.array([*knots, *others], dtype=np.float32)
    features = np.tile(values[:, np.newaxis], 58)
    transform = QuantileTransform(*map(torch.from_numpy, tables))
    expected = transform(torch.from_numpy(to_images(features))).numpy().reshape(-1, 64)[:, :58]
    np.testing.assert_allclose(ranks_of(tables[0], tables[1], features), expected, atol=2e-7)


def ranks_of(knots: FloatArray, levels: FloatArray, features: FloatArray) -> FloatArray:
    """Return the transform's outputs (N, 58) as ONNX Runtime computes them."""
    graph = Graph()
    content = graph.to_bytes({"x": (58,)}, {"ranks": (append_transform(graph, knots, levels, "x"), 2)}, {})
    return np.asarray(start_session(content, 1).run(None, {"x": features})[0])


@pytest.mark.parametrize("rows", [1, 2, 3, 40, 700])
def test_ranks_of_a_fitted_transform_are_its_own(features: FloatArray, rows: int) -> None:
    transform = fit_quantile_transform(read_dataset(SAMPLE).features[:rows])
    expected = transform(torch.from_numpy(to_images(features))).numpy().reshape(-1, 64)[:, :58]
    ranks = ranks_of(transform.knots.numpy(), transform.levels.numpy(), features)
    np.testing.assert_allclose(ranks, expected, atol=2e-7)
    assert rows < 40 or len(np.unique(ranks)) > 100


def test_a_file_with_other_answers_is_not_written(
    tmp_path: Path, features: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = calibrated_network("AlexNetWithExits")
    parts, _ = cpu_network._unwrap(network)
    monkeypatch.setattr(cpu_network, "_unwrap", lambda _: (parts, (0.5, 0.5)))  # other temperatures than the network's
    with pytest.raises(CheckpointError, match="certainties would differ"):
        write_edge_model(tmp_path / "edge.onnx", network, features)
    assert list(tmp_path.iterdir()) == []


def test_eight_bit_convolutions_change_certainties_slightly(tmp_path: Path) -> None:
    network, rows = calibrated_network("MobileNetV2WithExits"), read_dataset(SAMPLE).features[:200]
    agreement = write_edge_model(tmp_path / "edge.onnx", network, rows, int8=True)
    assert 1e-4 < agreement.difference < 0.1 and agreement.equal_labels > 0.95
    kinds = {node.op_type for node in onnx.load(tmp_path / "edge.onnx").graph.node}
    assert "QuantizeLinear" in kinds


def test_eight_bit_weights_use_seven_bits_so_that_no_sum_overflows(tmp_path: Path) -> None:
    network, rows = calibrated_network("MobileNetV2WithExits"), read_dataset(SAMPLE).features[:50]
    write_edge_model(tmp_path / "edge.onnx", network, rows, int8=True)
    tensors = [numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "edge.onnx").graph.initializer]
    weights = [np.abs(tensor.astype(int)).max() for tensor in tensors if tensor.dtype == np.int8 and tensor.ndim == 4]
    assert len(weights) >= 5 and 60 <= max(weights) <= 64


def test_eight_bits_are_refused_if_they_are_no_faster(tmp_path: Path, features: FloatArray) -> None:
    with pytest.raises(CheckpointError, match="--quantize"):
        write_edge_model(tmp_path / "edge.onnx", calibrated_network("AlexNetWithExits"), features, int8=True)
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_no_network_of_ours_has_is_refused() -> None:
    with pytest.raises(TypeError, match="GELU"):
        append(Graph(), nn.GELU(), "x")


def test_the_first_convolution_reads_an_image_of_a_quarter_of_the_size(edge_file: Path) -> None:
    model = onnx.load(edge_file)
    kernel = next(node.input[1] for node in model.graph.node if node.op_type == "Conv")
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert shapes[kernel] in {(64, 1, 6, 6), (32, 1, 2, 2)}
    assert (58, 24 * 24) in shapes.values()


def test_the_runtime_loads_no_torch(edge_file: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import numpy as np; from models.onnx_runtime import read_first_half\n"
        f"logits, _ = read_first_half(Path({str(edge_file)!r})).exit_1(np.zeros((3, 58), np.float32))\n"
        "assert logits.shape == (3, 2)\n"
        "assert not {'torch', 'onnx', 'pandas'} & set(sys.modules), 'something heavy was imported'\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize("content", [b"\x00", b"PK\x03\x04zip", b"{}", b"\x3a\xff\xff\xff\xff\x0f", b"\xff" * 100])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "edge.onnx"
    path.write_bytes(content)
    assert "ONNX file" in refusal(path)


def test_every_truncated_file_is_refused(tmp_path: Path, small: Path) -> None:
    path, content = tmp_path / "edge.onnx", small.read_bytes()
    for size in np.linspace(1, len(content) - 1, 60, dtype=int):
        path.write_bytes(content[:size])
        refusal(path)


def test_a_missing_and_an_oversized_file_are_refused(tmp_path: Path, small: Path) -> None:
    assert "no such file" in refusal(tmp_path / "none.onnx")
    path = tmp_path / "edge.onnx"
    path.write_bytes(small.read_bytes())
    with path.open("r+b") as stream:
        stream.truncate(2**28 + 1)
    assert "larger than" in refusal(path)


def test_each_half_is_refused_where_the_other_is_needed(tmp_path: Path, small: Path, features: FloatArray) -> None:
    assert "Name the other exported file" in refusal(small, read_second_half)
    path = tmp_path / "second.onnx"
    write_second_exit_model(path, calibrated_network("MobileNetV2WithExits"), features[:5])
    assert "Name the other exported file" in refusal(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format_version", "1"),
        ("format_version", None),
        ("architecture", "ResNet"),
        ("fingerprint", "zz"),
        ("activation_shape", "64,5"),
        ("activation_shape", "64,5,6"),
        ("activation_shape", "64,five,5"),
    ],
)
def test_damaged_metadata_are_refused(tmp_path: Path, small: Path, key: str, value: str | None) -> None:
    def damage(model: onnx.ModelProto) -> None:
        facts = {entry.key: entry.value for entry in model.metadata_props if entry.key != key}
        del model.metadata_props[:]
        helper.set_model_props(model, facts if value is None else {**facts, key: value})

    assert "Export it again." in refusal(damaged(small, tmp_path / "edge.onnx", damage))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, small: Path) -> None:
    def damage(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[-1]
        tensor.CopyFrom(numpy_helper.from_array(np.full(tuple(tensor.dims), np.nan, np.float32), tensor.name))

    assert "no numbers" in refusal(damaged(small, tmp_path / "edge.onnx", damage))


def test_any_program_with_onnx_runtime_computes_the_calibrated_logits(
    edge_file: Path, tmp_path: Path, network: TwoExits, features: FloatArray
) -> None:
    np.save(tmp_path / "features.npy", features)
    program = (
        "import sys; import numpy as np; import onnxruntime\n"
        "logits, *_ = onnxruntime.InferenceSession(sys.argv[1]).run(None, {'features': np.load('features.npy')})\n"
        "np.save('logits.npy', logits)\n"
        "assert not {'models', 'utils', 'torch'} & set(sys.modules)\n"
    )
    # From a folder that has nothing of the project, and without its search path.
    subprocess.run([sys.executable, "-I", "-c", program, str(edge_file)], cwd=tmp_path, check=True)
    (_, certain), (_, expected) = (
        certainty(np.load(tmp_path / "logits.npy")),
        certainty(predict(network, features, 50)[0]),
    )
    np.testing.assert_allclose(certain, expected, rtol=0, atol=1e-5)


def test_names_that_are_no_text_are_refused_without_other_output(
    tmp_path: Path, small: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "edge.onnx"
    path.write_bytes(small.read_bytes().replace(b"activations", b"activ\xd0tions"))
    refusal(path)
    assert capfd.readouterr() == ("", "")
