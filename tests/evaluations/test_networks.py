from pathlib import Path
from typing import Any

import pytest

from evaluations.networks import Origin, find_training_months, read_network, read_origins, read_single_exit
from models.calibrated import CalibratedNetwork
from models.checkpoint import compute_fingerprint, write_checkpoint
from models.early_exit import EarlyExitNetwork
from tests.networks import new_network
from utils.errors import CheckpointError, DatasetError

NAME = "MobileNetV2WithExits"


def wrapped(seed: int) -> CalibratedNetwork:
    inner = new_network(NAME, seed)
    assert isinstance(inner, EarlyExitNetwork)
    return CalibratedNetwork(inner)


@pytest.fixture(scope="module")
def networks() -> list[CalibratedNetwork]:
    return [wrapped(seed) for seed in (1, 2)]


def save(path: Path, network: Any, **facts: object) -> Path:
    write_checkpoint(path, network, facts)
    return path


def origin(*trained: str) -> Origin:
    return Origin(Path("m.pth"), NAME, "1", trained, ())


def test_the_origin_of_a_network_holds_its_seed_and_months(networks: list[CalibratedNetwork], tmp_path: Path) -> None:
    facts = {"data": "2016_01.csv 2016_02.csv.bz2", "seed": 7, "calibration": {"data": "2016_03.csv"}}
    paths = [save(tmp_path / "a.pth", networks[0], **facts), save(tmp_path / "b.pth", networks[1])]
    assert read_origins(paths) == [
        Origin(paths[0], NAME, "7", ("2016_01", "2016_02"), ("2016_03",)),
        Origin(paths[1], NAME, "", (), ()),
    ]
    assert compute_fingerprint(read_network(read_origins(paths)[1])) == compute_fingerprint(networks[1])


def test_a_network_that_is_not_calibrated_or_named_twice_is_refused(
    networks: list[CalibratedNetwork], tmp_path: Path
) -> None:
    raw = save(tmp_path / "raw.pth", new_network(NAME))
    with pytest.raises(CheckpointError, match=r"raw\.pth: is not calibrated; calibrate it with"):
        read_origins([raw])
    one, two = (save(tmp_path / name, networks[0]) for name in ("one.pth", "two.pth"))
    with pytest.raises(CheckpointError, match=r"two\.pth: holds the same network as .*one\.pth"):
        read_origins([one, two])


def test_networks_of_two_kinds_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds MobileNetV2WithExits, but alexnet was asked for"):
        read_origins([checkpoint], "alexnet")
    single = save(tmp_path / "single.pth", new_network("MobileNetV2"))
    with pytest.raises(CheckpointError, match="has one exit"):
        read_origins([single])
    origins = read_origins([checkpoint])
    assert read_single_exit(single, origins) is not None
    with pytest.raises(CheckpointError, match="has two exits; --single-exit takes networks with one"):
        read_single_exit(checkpoint, origins)


def test_all_networks_must_have_been_trained_on_the_same_months() -> None:
    assert find_training_months([origin("2016_01"), origin(), origin("2016_01")]) == ("2016_01",)
    assert find_training_months([origin()]) == ("2016_01",)
    assert find_training_months([origin("2015_12", "2016_01")]) == ("2015_12", "2016_01")
    with pytest.raises(DatasetError, match="different months, 2016_01 and 2016_02; evaluate each kind in its own run"):
        find_training_months([origin("2016_01"), origin("2016_02")])
