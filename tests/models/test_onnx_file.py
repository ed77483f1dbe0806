"""What ONNX Runtime alone runs of a hostile file, and that our check refuses it."""

import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from models.onnx_file import check_layers
from models.onnx_runtime import start_session
from utils.errors import CheckpointError

REAL, WHOLE, YES = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
X = np.full((1, 58), 2, np.float32)


def refusal(content: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        check_layers(content, Path("edge.onnx"))
    assert str(caught.value).endswith("Export it again.")
    return str(caught.value)


def run_alone(content: bytes, options: onnxruntime.RunOptions | None = None) -> NDArray[np.float32]:
    """Return what ONNX Runtime computes of a file that nothing checked."""
    return np.asarray(start_session(content, 1).run(None, {"x": X}, options)[0])


def new_model(*nodes: onnx.NodeProto, **weights: object) -> onnx.ModelProto:
    """Return a model from x (N, 58) to y."""
    x, y = helper.make_tensor_value_info("x", REAL, ["N", 58]), helper.make_tensor_value_info("y", REAL, None)
    tensors = [numpy_helper.from_array(np.array(values), name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "network", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


PLAIN = new_model(helper.make_node("Relu", ["x"], ["y"]))


def new_loop(times: int) -> bytes:
    """Return a file that adds 1 to x that often."""
    nodes = [helper.make_node("Identity", ["more"], ["again"]), helper.make_node("Add", ["sum", "one"], ["next"])]
    number, more, again = (
        helper.make_tensor_value_info(name, kind, [])
        for name, kind in (("number", WHOLE), ("more", YES), ("again", YES))
    )
    before, after = (helper.make_tensor_value_info(name, REAL, ["N", 58]) for name in ("sum", "next"))
    body = helper.make_graph(nodes, "body", [number, more, before], [again, after])
    loop = helper.make_node("Loop", ["times", "true", "x"], ["y"], body=body)
    return bytes(new_model(loop, times=times, true=True, one=np.float32(1)).SerializeToString())


def test_a_loop_runs_as_often_as_a_file_says() -> None:
    assert (run_alone(new_loop(1000)) == 1002).all()
    endless, options, began = new_loop(2**62), onnxruntime.RunOptions(), time.monotonic()
    timer = threading.Timer(0.3, setattr, (options, "terminate", True))
    timer.start()
    with pytest.raises(Exception, match="terminate"):
        run_alone(endless, options)
    assert time.monotonic() - began >= 0.3 and len(endless) < 400
    assert "holds the layer 'Loop'" in refusal(endless)


def test_a_file_of_few_bytes_takes_any_memory() -> None:
    model = new_model(helper.make_node("ConstantOfShape", ["shape"], ["y"]), shape=[10_000_000])
    content = model.SerializeToString()
    assert run_alone(content).nbytes == 40_000_000 > 100_000 * len(content)
    assert "holds the layer 'ConstantOfShape'" in refusal(content)


def test_weights_are_read_from_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret").write_bytes(np.arange(58, dtype=np.float32).tobytes())
    model = new_model(helper.make_node("Add", ["x", "w"], ["y"]))
    tensor = model.graph.initializer.add(name="w", data_type=REAL, dims=[58], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret")
    assert run_alone(model.SerializeToString()).tolist() == [list(range(2, 60))]
    assert "holds weights outside the file" in refusal(model.SerializeToString())


def test_few_bytes_of_a_sparse_tensor_become_many() -> None:
    model = new_model(helper.make_node("Add", ["x", "w"], ["y"]))
    sparse = model.graph.sparse_initializer.add(dims=[500_000, 58])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([1])))
    content = model.SerializeToString()
    assert run_alone(content).nbytes == 116_000_000 > 100_000 * len(content)
    assert "holds weights outside the file" in refusal(content)


def test_a_large_field_number_is_truncated_to_a_smaller_one() -> None:
    graph, model = PLAIN.graph.SerializeToString(), onnx.ModelProto()
    model.CopyFrom(PLAIN)
    model.ClearField("graph")
    hidden = bytes([0xBA, 0x80, 0x80, 0x80, 0x20])  # field 7, the graph, and a bit that 32 bits do not hold
    content = model.SerializeToString() + hidden + bytes([len(graph)]) + graph
    assert (run_alone(content) == 2).all()
    assert "is no ONNX file" in refusal(content)


def test_layers_of_other_domains_are_run() -> None:
    model = new_model(helper.make_node("QuickGelu", ["x"], ["y"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert run_alone(model.SerializeToString()).shape == (1, 58)
    assert "holds the layer 'QuickGelu'" in refusal(model.SerializeToString())
    model.graph.node[0].op_type = "Relu"
    assert "layers that are not ONNX's own" in refusal(model.SerializeToString())


def test_what_we_write_passes() -> None:
    check_layers(PLAIN.SerializeToString(), Path("edge.onnx"))
