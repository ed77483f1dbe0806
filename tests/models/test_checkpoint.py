import io
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import models
from models.calibrated import CalibratedNetwork, CalibratedSingleExit, add_temperatures
from models.checkpoint import (
    FORMAT_VERSION,
    Checkpoint,
    compute_fingerprint,
    read_checkpoint,
    read_two_exits,
    write_checkpoint,
)
from models.early_exit import EarlyExitNetwork, TwoExits
from models.preprocessing import fit_quantile_transform
from models.tensor_files import load_tensors, save_tensors
from tests.hostile import Bomb, Evaluated
from tests.models import published
from utils.errors import CheckpointError, InputFileError

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
HEAD = "exits.0.2.1.bias"
"""A small tensor for tests to damage."""

Table = dict[str, Any]


def new_network(class_name: str = "MobileNetV2WithExits", *, transform: bool = True) -> Any:
    """A network with random weights and, as ours have, a quantile transform."""
    network = models.ARCHITECTURES[class_name].create()
    network.load_state_dict(published.state_of(class_name))
    if transform:
        features = np.random.default_rng(0).lognormal(size=(100, 58)).astype(np.float32)
        network.transform = fit_quantile_transform(features)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def content() -> Table:
    """What a checkpoint of ours holds; tests vary it by ``{**content, ...}`` and leave it as it is."""
    network = new_network()
    return {
        "format_version": FORMAT_VERSION,
        "architecture": "MobileNetV2WithExits",
        "input_transform": network.transform.to_entry(),
        "training": {"data": "2016_01.csv", "epoch": 3},
        "state_dict": network.state_dict(),
    }


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A checkpoint's name; the file is not kept."""
    yield tmp_path / "network.pth"
    (tmp_path / "network.pth").unlink(missing_ok=True)


@dataclass
class Written:
    """Writes a table as a checkpoint and asks how it is refused."""

    path: Path

    def refusal(self, table: object, family: str | None = None, read: Callable[..., object] = read_checkpoint) -> str:
        torch.save(table, self.path)
        return refusal(self.path, family, read)


@pytest.fixture
def written(path: Path) -> Written:
    return Written(path)


def refusal(path: Path, family: str | None = None, read: Callable[..., object] = read_checkpoint) -> str:
    """Return the message with which a file is refused, less the file's name."""
    with pytest.raises(CheckpointError) as caught:
        read(path, family) if family else read(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < len(str(path)) + 300
    return str(caught.value).removeprefix(f"{path}: ")


def outputs_of(network: nn.Module) -> list[Tensor]:
    with torch.inference_mode():
        logits = network(IMAGES)
    return list(logits) if isinstance(logits, tuple) else [logits]


# Round trip


@pytest.mark.parametrize("class_name", ["MobileNetV2WithExits", "MobileNetV2"])
@pytest.mark.parametrize("temperatures", [(), (2.5, 0.75)], ids=["plain", "calibrated"])
@pytest.mark.parametrize("transform", [True, False], ids=["quantile", "identity"])
def test_a_written_network_is_read_back_unchanged(
    path: Path, class_name: str, temperatures: tuple[float, ...], *, transform: bool
) -> None:
    network = new_network(class_name, transform=transform)
    if temperatures:
        two = isinstance(network, EarlyExitNetwork)
        network = CalibratedNetwork(network, temperatures) if two else CalibratedSingleExit(network, temperatures[0])
    facts = {"data": "2016_01.csv 2016_02.csv", "seed": 7, "epoch": 3, "accuracies": (0.9, 0.91), "more": {"a": [1]}}
    write_checkpoint(path, network, facts)
    found = read_checkpoint(path)
    assert (found.architecture.name, found.calibrated) == (class_name, bool(temperatures))
    assert found.training == facts
    for again, once in zip(outputs_of(found.network), outputs_of(network), strict=True):
        assert torch.equal(again, once)
    assert not found.network.training
    assert not any(parameter.requires_grad for parameter in found.network.parameters())
    assert not any(buffer.is_meta for buffer in found.network.buffers())


def test_a_written_file_holds_plain_values_and_tensors_with_the_published_keys(path: Path) -> None:
    write_checkpoint(path, add_temperatures(new_network()), {})
    found = torch.load(path, weights_only=True)
    assert list(found) == ["format_version", "architecture", "input_transform", "training", "state_dict"]
    expected = published.calibrated(published.state_of("MobileNetV2WithExits"), 1.0, 1.0)
    assert {key: value.shape for key, value in found["state_dict"].items()} == {
        key: value.shape for key, value in expected.items()
    }


def test_a_file_without_a_transform_means_identity(path: Path, content: Table) -> None:
    torch.save({key: value for key, value in content.items() if key != "input_transform"}, path)
    for found, expected in zip(
        outputs_of(read_checkpoint(path).network), outputs_of(new_network(transform=False)), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_published_file_is_read_in_either_format_of_torch(path: Path, content: Table, *, zipped: bool) -> None:
    torch.save(content["state_dict"], path, _use_new_zipfile_serialization=zipped)
    assert read_checkpoint(path, "mobilenet").architecture.name == "MobileNetV2WithExits"


def test_a_calibrated_single_exit_may_name_its_temperature_without_a_number(path: Path) -> None:
    state = published.calibrated(published.state_of("MobileNetV2"), 3.0)
    state["temperature"] = state.pop("temperature.0")
    torch.save(state, path)
    found = read_checkpoint(path)
    assert found.calibrated
    (logits,) = outputs_of(found.network)
    (plain,) = outputs_of(new_network("MobileNetV2", transform=False))
    assert torch.equal(logits, plain / 3)


def test_a_network_with_two_exits_is_returned_as_such(path: Path, content: Table) -> None:
    torch.save(content, path)
    network, found = read_two_exits(path, "mobilenet")
    assert network is found.network
    assert isinstance(found, Checkpoint)
    assert isinstance(network, TwoExits)


# Another network than asked for


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "published"])
def test_a_checkpoint_of_the_other_network_is_refused_naming_both(
    written: Written, content: Table, *, ours: bool
) -> None:
    reason = written.refusal(content if ours else content["state_dict"], "alexnet")
    assert reason == "holds MobileNetV2WithExits, but alexnet was asked for. Ask for mobilenet."


def test_a_single_exit_is_refused_where_two_are_needed(written: Written) -> None:
    reason = written.refusal(published.state_of("MobileNetV2"), read=read_two_exits)
    assert reason == "holds MobileNetV2, which has one exit. Name a network with two."


def test_a_file_that_names_another_network_than_it_holds_is_refused_naming_both(
    written: Written, content: Table
) -> None:
    reason = written.refusal({**content, "architecture": "AlexNet"})
    assert reason.startswith("says 'AlexNet' but holds the weights of MobileNetV2WithExits")


def test_an_unknown_network_is_refused_with_the_closest_known_one(written: Written) -> None:
    layer = {"layer.weight": torch.zeros(2, 2), "layer.bias": torch.zeros(2)}
    assert written.refusal(layer).startswith("holds none of the networks AlexNetWithExits, MobileNetV2WithExits,")


# Damaged contents


def changed_state(content: Table, **changes: object) -> Table:
    return {**content, "state_dict": {**content["state_dict"], **changes}}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.tensor([0.0, float("nan")]), "holds NaN or infinity"),
        (torch.tensor([float("-inf"), 0.0]), "holds NaN or infinity"),
        (torch.full((2,), 1e39, dtype=torch.float64), "holds NaN or infinity"),
        (torch.zeros(2, dtype=torch.int64), "is not a float32 tensor, but torch.int64"),
        (torch.zeros(2, dtype=torch.float8_e4m3fn), "is not a float32 tensor, but torch.float8_e4m3fn"),
        (torch.zeros(2).to_sparse(), "is not a float32 tensor"),
        (torch.zeros(2, device="meta"), "is not a float32 tensor"),
        (torch._neg_view(torch.zeros(2)), "is not a float32 tensor"),
        ([0.0, 0.0], "is not a float32 tensor"),
        (None, "is not a float32 tensor"),
        (torch.zeros(3), "has shape (3,), not (2,)"),
        (torch.tensor(1.0), "has shape (), not (2,)"),
        (torch.zeros(1).expand(10**6, 10**6), "has shape (1000000, 1000000), not (2,)"),
    ],
)
def test_an_impossible_weight_is_refused_by_its_name(
    written: Written, content: Table, value: object, reason: str
) -> None:
    found = written.refusal(changed_state(content, **{HEAD: value}))
    assert found.startswith(f"{HEAD!r} {reason}")


def test_a_missing_weight_is_refused_by_its_name(written: Written, content: Table) -> None:
    state = {key: value for key, value in content["state_dict"].items() if key != HEAD}
    assert f"Closest is MobileNetV2WithExits, but it lacks {HEAD!r}" in written.refusal(
        {**content, "state_dict": state}
    )


def test_an_additional_weight_is_refused_by_its_name(written: Written, content: Table) -> None:
    reason = written.refusal(changed_state(content, **{"exits.9.bias": torch.zeros(2)}))
    assert "Closest is MobileNetV2WithExits, but it has besides 'exits.9.bias'" in reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"temperature.0": torch.zeros(1)}, "'temperature.0' is not positive"),
        ({"temperature.1": torch.tensor([-1.0])}, "'temperature.1' is not positive"),
        ({"temperature.1": torch.tensor([float("nan")])}, "'temperature.1' holds NaN or infinity"),
        ({"temperature.1": torch.ones(2)}, "'temperature.1' has shape (2,), not (1,)"),
        ({"temperature.2": torch.ones(1)}, "has besides 'temperature.2'"),
        ({"temperature.1": None}, "lacks 'temperature.1'"),
    ],
)
def test_impossible_temperatures_are_refused(
    written: Written, content: Table, changes: dict[str, Tensor | None], reason: str
) -> None:
    state = {**published.calibrated(content["state_dict"], 1.0, 1.0), **changes}
    assert written.refusal({key: value for key, value in state.items() if value is not None}).startswith(reason)


def test_temperatures_of_a_network_that_is_not_wrapped_are_refused(written: Written, content: Table) -> None:
    reason = written.refusal(changed_state(content, **{"temperature.0": torch.ones(1)}))
    assert reason.startswith("has besides 'temperature.0'")


def test_a_network_wrapped_in_part_is_refused(written: Written, content: Table) -> None:
    state = {f"model.{key}" if key == HEAD else key: value for key, value in content["state_dict"].items()}
    assert "train it again." in written.refusal({**content, "state_dict": state})


@pytest.mark.parametrize("version", [0, 2, 99])
def test_an_unknown_format_version_is_refused_with_the_remedy(written: Written, content: Table, version: int) -> None:
    reason = written.refusal({**content, "format_version": version})
    assert reason == f"checkpoint format {version} is not 1. Update the toolkit."


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format_version", None),
        ("format_version", "1"),
        ("format_version", 10**401),
        ("format_version", [1]),
        ("format_version", torch.zeros(3)),
        ("architecture", ["MobileNetV2WithExits"]),
        ("architecture", torch.zeros(3)),
        ("training", [1, 2]),
        ("training", None),
    ],
)
def test_a_header_of_the_wrong_types_is_refused(written: Written, content: Table, key: str, value: object) -> None:
    assert "are damaged" in written.refusal({**content, key: value})


@pytest.mark.parametrize("entry", [{"kind": "other"}, "quantile", {"kind": "quantile", "knots": torch.zeros(58, 2)}])
def test_a_damaged_transform_is_refused(written: Written, content: Table, entry: object) -> None:
    assert written.refusal({**content, "input_transform": entry}).endswith("Fetch or train it again.")


@pytest.mark.parametrize(
    "table",
    [{}, [], torch.zeros(3), "text", 5, {1: torch.zeros(2)}, {"state_dict": {}, "format_version": 1}],
    ids=["no weights", "list", "tensor", "text", "number", "keys without names", "empty state"],
)
def test_a_file_of_something_else_is_refused(written: Written, table: object) -> None:
    assert "Name a checkpoint" in written.refusal(table)


def test_weights_without_names_are_refused(written: Written, content: Table) -> None:
    state = {**content["state_dict"], 5: torch.zeros(2)}
    assert written.refusal({**content, "state_dict": state}).startswith("holds weights without names")


# Damaged and hostile files


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_truncated_file_is_refused(path: Path, content: Table, *, zipped: bool) -> None:
    torch.save(content, stream := io.BytesIO(), _use_new_zipfile_serialization=zipped)
    whole = stream.getvalue()
    for length in (1, 2, 4, 30, 100, 5000, len(whole) // 2, len(whole) - 5000, len(whole) - 22, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "damaged" in (reason := refusal(path)) or "truncated" in reason


def test_a_flipped_first_byte_is_refused(path: Path, content: Table) -> None:
    torch.save(content, path)
    whole = bytearray(path.read_bytes())
    for place in range(4):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert "damaged" in (reason := refusal(path)) or "truncated" in reason


def zip_of(**members: bytes) -> bytes:
    with zipfile.ZipFile(stream := io.BytesIO(), "w") as archive:
        for name, member in members.items():
            archive.writestr(f"archive/{name.replace('_', '.')}", member)
    return stream.getvalue()


@pytest.mark.parametrize(
    "whole",
    [
        b"hello, this is text\n",
        bytes(1000),
        np.random.default_rng(0).bytes(5000),
        b"<!doctype html><html></html>",
        zip_of(readme=b"x"),
        zip_of(data_pkl=b"x", version=b"3"),
        zip_of(data_pkl=b"x", constants_pkl=b"x", version=b"3"),  # looks like TorchScript
        pickle.dumps({"a": 1}, protocol=4)[:-1],
    ],
    ids=["text", "zeros", "noise", "web page", "zip", "torch zip", "TorchScript", "pickle"],
)
def test_another_file_is_refused_without_a_warning_of_torch(path: Path, whole: bytes) -> None:
    path.write_bytes(whole)
    assert "damaged" in (reason := refusal(path)) or "is not a checkpoint" in reason


def test_a_missing_file_an_empty_one_and_a_folder_are_refused(path: Path) -> None:
    assert refusal(path).startswith("no such file")
    path.touch()
    assert refusal(path).startswith("is empty")
    assert refusal(path.parent).startswith("is a folder")


@pytest.mark.parametrize("kind", [Bomb, Evaluated])
@pytest.mark.parametrize("writer", ["zip", "legacy", "pickle 2", "pickle 4"])
@pytest.mark.parametrize("reader", [read_checkpoint, load_tensors])
def test_code_in_a_checkpoint_never_runs(
    path: Path, kind: type[Bomb], writer: str, reader: Callable[[Path], object]
) -> None:
    canary = path.with_name("canary")
    hostile = {"a": torch.zeros(1), "b": kind(canary)}
    if writer.startswith("pickle"):
        path.write_bytes(pickle.dumps(kind(canary), protocol=int(writer[-1])))
    else:
        torch.save(hostile, path, _use_new_zipfile_serialization=writer == "zip")
    reason = refusal(path, read=reader)
    assert "is damaged, or holds more than tensors" in reason
    assert not canary.exists()


def test_a_whole_pickled_network_is_refused(written: Written) -> None:
    assert "holds more than tensors and plain values" in written.refusal(nn.Linear(2, 2))


# Writing


def test_a_write_that_is_interrupted_leaves_the_old_file_and_nothing_else(
    path: Path, content: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_tensors(path, content)
    whole = path.read_bytes()

    def interrupted(_content: object, partial: Path) -> None:
        partial.write_bytes(whole[: len(whole) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(path, new_network("MobileNetV2"), {})
    assert path.read_bytes() == whole
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this machine has no /dev/full")
def test_a_full_disk_is_an_error_that_names_the_file(
    path: Path, content: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save
    monkeypatch.setattr(torch, "save", lambda table, _partial: save(table, "/dev/full"))
    with pytest.raises(InputFileError, match=r"network\.pth: cannot be written"):
        save_tensors(path, content)
    assert list(path.parent.iterdir()) == []


def test_a_written_table_is_read_back_unchanged(path: Path) -> None:
    table = {"epoch": 3, "moments": [torch.arange(3.0)], "facts": {"a": (1, "b", None)}}
    save_tensors(path, table)
    found = load_tensors(path)
    assert torch.equal(found.pop("moments")[0], torch.arange(3.0))
    assert found == {"epoch": 3, "facts": {"a": (1, "b", None)}}


# Fingerprint


@pytest.fixture(scope="module")
def network() -> CalibratedNetwork:
    return CalibratedNetwork(new_network(), (1.5, 2.5)).requires_grad_(False)


def after_changing(tensor: Tensor, network: TwoExits) -> str:
    """Return the fingerprint that the network has while one number of it is another."""
    before = tensor.clone()
    tensor.view(-1)[-1] -= 0.25
    try:
        return compute_fingerprint(network)
    finally:
        tensor.copy_(before)


def test_the_fingerprint_changes_with_every_part_that_decides_exit_2(network: CalibratedNetwork) -> None:
    transform = network.model.transform
    parts = dict(network.state_dict()) | dict(transform.named_buffers())
    decisive = [key for key in parts if not key.startswith("model.exits.0.") and key != "temperature.0"]
    assert {"knots", "levels", "temperature.1", "model.backbone.0.1.0.weight", "model.exits.1.2.1.bias"} < {*decisive}
    found = {key: after_changing(parts[key], network) for key in decisive}
    assert len({*found.values(), compute_fingerprint(network)}) == len(decisive) + 1


def test_the_fingerprint_does_not_change_with_exit_1(network: CalibratedNetwork) -> None:
    for key, value in network.state_dict().items():
        if key.startswith("model.exits.0.") or key == "temperature.0":
            assert after_changing(value, network) == compute_fingerprint(network), key


def test_the_fingerprint_depends_on_transform_and_temperatures(
    network: CalibratedNetwork,
) -> None:
    others = [network.model, new_network(transform=False), CalibratedNetwork(network.model, (1.5, 2.0))]
    assert len({compute_fingerprint(other) for other in (network, *others)}) == 4


def test_the_fingerprint_is_the_same_after_reading_and_for_any_memory_layout(
    path: Path, network: CalibratedNetwork
) -> None:
    write_checkpoint(path, network, {"epoch": 1})
    again, _ = read_two_exits(path)
    assert compute_fingerprint(again) == compute_fingerprint(network)
    again.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert compute_fingerprint(again) == compute_fingerprint(network)
    assert len(bytes.fromhex(compute_fingerprint(network))) == 32
