"""Checkpoints as other programs save them: with prefixes, nested, in another precision. And files that fill memory."""

import io
import logging
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from models.checkpoint import read_checkpoint, write_checkpoint
from models.tensor_files import load_tensors
from tests.models import published
from utils.errors import CheckpointError

NAME = "MobileNetV2WithExits"
State = Mapping[str, Tensor]

STATES: dict[str, State] = {
    "two exits": published.state_of(NAME),
    "two exits, calibrated": published.calibrated(published.state_of(NAME), 1.5, 2.5),
    "single exit": published.state_of("MobileNetV2"),
    "single exit, calibrated": published.calibrated(published.state_of("MobileNetV2"), 1.5),
}


def prefixed(prefix: str) -> Callable[[State], dict[str, Any]]:
    return lambda state: {f"{prefix}{key}": value for key, value in state.items()}


def compiled_inside(state: State) -> dict[str, Any]:
    """The names of a network whose segments were compiled or parallelised one by one."""
    return {
        key.replace("backbone.0.", "backbone.0._orig_mod.").replace("backbone.1.", "backbone.1.module."): value
        for key, value in state.items()
    }


WRAPPED: dict[str, tuple[Callable[[State], dict[str, Any]], str]] = {
    "DataParallel": (prefixed("module."), "removed 'module.' from the names"),
    "torch.compile": (prefixed("_orig_mod."), "removed '_orig_mod.' from the names"),
    "both": (prefixed("_orig_mod.module."), "removed 'module.' and '_orig_mod.' from the names"),
    "both the other way round": (prefixed("module._orig_mod."), "removed 'module.' and '_orig_mod.' from the names"),
    "inside": (compiled_inside, "removed 'module.' and '_orig_mod.' from the names"),
    "an attribute": (prefixed("network."), "removed 'network.' from the names"),
}
OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
NESTED: dict[str, tuple[Callable[[Any], dict[str, Any]], str]] = {
    "state_dict": (lambda state: {"state_dict": state, "epoch": 3, "optimizer": OPTIMIZER}, "'state_dict'"),
    "model": (lambda state: {"epoch": torch.tensor(3), "optimizer": OPTIMIZER, "model": state}, "'model'"),
    "model_state_dict": (lambda state: {"model_state_dict": state, "loss": 0.1}, "'model_state_dict'"),
    "another name": (lambda state: {"net": state, "best": 0.9}, "'net'"),
    "twice": (lambda state: {"model": {"state_dict": state}}, "'model/state_dict'"),
    "beside an average": (lambda state: {"ema": {"a.weight": torch.zeros(1)}, "model": state}, "'model'"),
}
PRECISIONS = [torch.float16, torch.bfloat16, torch.float64]


def read_with_notes(content: object, path: Path, caplog: pytest.LogCaptureFixture) -> tuple[nn.Module, list[str]]:
    """Return the network of a file with that content, and what was said about it."""
    torch.save(content, path)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        network = read_checkpoint(path).network
    notes = [record.getMessage() for record in caplog.records]
    assert all(note.startswith(f"{path}: ") for note in notes)
    path.unlink()
    return network, [note.removeprefix(f"{path}: ") for note in notes]


def assert_holds(network: nn.Module, state: State) -> None:
    found = network.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value) and found[key].dtype == torch.float32 for key, value in state.items())


def refusal(path: Path, read: Callable[[Path], object] = read_checkpoint) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_the_prefixes_of_wrappers_are_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, wrapper: str, kind: str
) -> None:
    wrap, note = WRAPPED[wrapper]
    network, notes = read_with_notes(wrap(STATES[kind]), tmp_path / "network.pth", caplog)
    assert_holds(network, STATES[kind])
    assert notes[0].startswith(note)
    assert notes[1].startswith("it names no input transform")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch itself, which compiles
def test_a_network_that_torch_wrapped_itself_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    network = models.ARCHITECTURES[NAME].create()
    network.load_state_dict(STATES["two exits"])
    compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]  # it is a module where it gets one
    wrapped: list[nn.Module] = [nn.DataParallel(network), compiled, nn.DataParallel(compiled)]
    for one in wrapped:
        found, notes = read_with_notes(one.state_dict(), tmp_path / "network.pth", caplog)
        assert_holds(found, STATES["two exits"])
        assert "from the names" in notes[0]


def test_the_prefix_model_on_every_name_is_no_calibration(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = STATES["two exits"]
    network, notes = read_with_notes(prefixed("model.")(state), tmp_path / "network.pth", caplog)
    assert_holds(network, state)
    assert notes[0].startswith("removed 'model.' from the names")


@pytest.mark.parametrize("kind", ["two exits", "two exits, calibrated"])
@pytest.mark.parametrize("nest", NESTED)
def test_weights_in_an_entry_beside_others_are_found(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, nest: str, kind: str
) -> None:
    wrap, note = NESTED[nest]
    network, notes = read_with_notes(wrap(STATES[kind]), tmp_path / "network.pth", caplog)
    assert_holds(network, STATES[kind])
    assert notes[0] == f"took the weights from its entry {note}, ignored its other entries"


@pytest.mark.parametrize("kind", ["two exits", "two exits, calibrated"])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_weights_of_another_precision_are_converted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dtype: torch.dtype, kind: str
) -> None:
    state = {key: value.to(dtype) for key, value in STATES[kind].items()}
    network, notes = read_with_notes(state, tmp_path / "network.pth", caplog)
    assert_holds(network, {key: value.float() for key, value in state.items()})
    assert notes == [f"converted the weights from {str(dtype).removeprefix('torch.')} to float32"]


@pytest.mark.parametrize("kind", STATES)
def test_all_changes_together_are_read_and_each_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    halves = {f"module._orig_mod.{key}": value.half() for key, value in STATES[kind].items()}
    content = {"state_dict": halves, "optimizer": OPTIMIZER}
    network, notes = read_with_notes(content, tmp_path / "network.pth", caplog)
    assert_holds(network, {key: value.half().float() for key, value in STATES[kind].items()})
    assert len(notes) == 4


def test_a_checkpoint_of_ours_keeps_its_facts_where_it_is_nested_or_halved(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = models.ARCHITECTURES[NAME].create()
    network.load_state_dict(STATES["two exits"])
    write_checkpoint(tmp_path / "ours.pth", network, {"epoch": 3})
    content = torch.load(tmp_path / "ours.pth", weights_only=True)
    torch.save({"model": content, "more": 1}, tmp_path / "nested.pth")
    with caplog.at_level(logging.WARNING):
        assert read_checkpoint(tmp_path / "ours.pth").training == {"epoch": 3}
        assert not caplog.records
        assert read_checkpoint(tmp_path / "nested.pth").training == {"epoch": 3}
    assert len(caplog.records) == 1
    halved = {**content, "state_dict": {f"module.{key}": value.half() for key, value in content["state_dict"].items()}}
    _, notes = read_with_notes(halved, tmp_path / "halved.pth", caplog)
    assert len(notes) == 2


def test_ambiguous_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    path, state = tmp_path / "network.pth", dict(STATES["two exits"])
    for content, cause in (
        ({"teacher": state, "student": state}, "holds two networks, 'teacher' and 'student'"),
        ({**state, **prefixed("module.")(state)}, "holds weights twice, with and without 'module.'"),
        ({"state_dict": {"module.layer.weight": torch.zeros(2)}}, "holds none of the networks AlexNetWithExits"),
        ({"a": {"b": 1}}, "'a' is not a float32 tensor, but dict"),
    ):
        torch.save(content, path)
        assert refusal(path).startswith(cause)


def test_what_a_checkpoint_holds_besides_tensors_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": dict(STATES["two exits"]), "file": Path("x")}, tmp_path / "network.pth")
    assert "holds more than tensors and plain values (pathlib" in refusal(tmp_path / "network.pth")


# Files that would fill the memory


def archive(compression: int, **members: bytes) -> bytes:
    with zipfile.ZipFile(stream := io.BytesIO(), "w", compression) as file:
        for name, member in members.items():
            file.writestr(f"archive/{name.replace('_', '.')}", member)
    return stream.getvalue()


@pytest.mark.parametrize("read", [read_checkpoint, load_tensors])
def test_a_file_whose_parts_are_compressed_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    torch.save({"a.weight": torch.zeros(1000)}, tmp_path / "whole.pth")
    with zipfile.ZipFile(tmp_path / "whole.pth") as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(tmp_path / "network.pth", "w", zipfile.ZIP_DEFLATED) as file:
        for name, member in members.items():
            file.writestr(name, member)
    assert refusal(tmp_path / "network.pth", read).startswith("its parts are compressed, which torch.save never does")


def test_a_file_whose_parts_claim_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    whole = archive(zipfile.ZIP_STORED, data_pkl=b"x" * 100)
    header = whole.index(b"PK\x01\x02")
    claimed = whole[: header + 20] + (2**31).to_bytes(4, "little") * 2 + whole[header + 28 :]
    (tmp_path / "network.pth").write_bytes(claimed)
    assert refusal(tmp_path / "network.pth").startswith("its parts are larger than the file itself")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_asks_for_memory_is_refused(tmp_path: Path, *, zipped: bool) -> None:
    asks = b"\x80\x02cbuiltins\nbytearray\nq\x00\x8a\x06" + (10**11).to_bytes(6, "little") + b"\x85Rq\x01."
    (tmp_path / "network.pth").write_bytes(
        archive(zipfile.ZIP_STORED, data_pkl=asks, version=b"3", byteorder=b"little") if zipped else asks
    )
    assert refusal(tmp_path / "network.pth").startswith("holds a byte array")


def test_the_older_format_of_torch_is_still_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False, pickle_protocol=2)
    assert load_tensors(tmp_path / "old.pth")["a"].tolist() == [1, 1]
