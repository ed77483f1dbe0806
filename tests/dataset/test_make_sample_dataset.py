import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray

from dataset.records.scaling import PUBLISHED
from dataset.simulated_conversations import Sent
from dataset.simulated_months import KINDS, MONTHS, Kind, compute_repeated_share, simulate_month, write_month
from utils.dataset import Dataset, find_datasets, read_labelled
from utils.schema import ATTACK, FEATURES, NORMAL

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "dataset" / "make-sample-dataset.py"
SAMPLE = ROOT / "dataset" / "sample"
NAMES = [f"2016_{month:02d}.csv" for month in range(1, MONTHS + 1)]

LabelledMonth = tuple[Dataset, NDArray[np.int64]]


def run_make_sample(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def make_sample(folder: Path, *arguments: str) -> dict[str, bytes]:
    done = run_make_sample("--output-folder", str(folder), *arguments, folder=folder.parent)
    assert (done.returncode, done.stderr) == (0, "")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def months() -> list[LabelledMonth]:
    return [read_labelled(SAMPLE / name) for name in NAMES]


def compute_exact_match_bound(months: list[LabelledMonth]) -> float:
    """Return the accuracy of the best possible class for each distinct vector of these months."""
    features = np.concatenate([dataset.features for dataset, _ in months])
    labels = np.concatenate([labels for _, labels in months])
    _, vector, count = np.unique(features, axis=0, return_inverse=True, return_counts=True)
    attacks = np.bincount(vector, weights=labels)
    return float(np.maximum(attacks, count - attacks).sum() / len(labels))


def unscale(name: str, dataset: Dataset) -> NDArray[np.float64]:
    """Return one raw feature (N,), rounded to the integer that it was."""
    return np.rint(PUBLISHED.unscale(dataset.features.astype(np.float64))[:, FEATURES.index("MOORE_" + name)])


def compute_accuracy_of_one_rule(month: LabelledMonth) -> float:
    """Return the accuracy of the rule: normal if every frame is 60 bytes and a sent neither SYN nor ACK."""
    dataset, labels = month
    small = unscale("maximumDataWire", dataset) == 60
    quiet = (unscale("syn_pkts_sent_a_b", dataset) == 0) & (unscale("ack_pkts_sent_a_b", dataset) == 0)
    return float((np.where(small & quiet, NORMAL, ATTACK) == labels).mean())


def test_the_bundled_sample_equals_the_output_of_the_script_byte_for_byte(tmp_path: Path) -> None:
    made = make_sample(tmp_path / "sample")
    assert made == {name: (SAMPLE / name).read_bytes() for name in NAMES}


def test_the_bundled_sample_is_small_and_described_as_synthetic() -> None:
    files = sorted(path.name for path in SAMPLE.iterdir())
    assert files == [*NAMES, "README.md", "network"]
    assert sum((SAMPLE / name).stat().st_size for name in NAMES) < 2_500_000
    assert "**not real traffic**" in (SAMPLE / "README.md").read_text(encoding="utf-8")


def test_the_bundled_sample_is_found_and_read_like_any_dataset(months: list[LabelledMonth]) -> None:
    assert find_datasets(SAMPLE, "2016_01") == [SAMPLE / "2016_01.csv"]
    assert [len(dataset) for dataset, _ in months] == [700] * 12


def test_the_bundled_sample_has_about_as_many_attacks_as_normal_records(months: list[LabelledMonth]) -> None:
    assert all(0.45 < labels.mean() < 0.55 for _, labels in months)


def test_two_thirds_of_the_bundled_sample_repeat_an_earlier_vector(months: list[LabelledMonth]) -> None:
    assert all(0.5 < compute_repeated_share(dataset.features) < 0.75 for dataset, _ in months)
    assert 0.62 < compute_repeated_share(np.concatenate([dataset.features for dataset, _ in months])) < 0.72


def test_about_half_of_the_bundled_sample_are_single_packets(months: list[LabelledMonth]) -> None:
    shares = []
    for dataset, _ in months:
        packets = unscale("total_packets_a_b", dataset) + unscale("total_packets_b_a", dataset)
        lone = (packets == 1) & (unscale("maximumDataWire", dataset) == 60)
        shares.append((lone & (unscale("ack_pkts_sent_a_b", dataset) == 0)).mean())
    assert 0.42 < np.mean(shares) < 0.52


def test_equal_vectors_of_the_bundled_sample_have_both_labels(months: list[LabelledMonth]) -> None:
    bounds = [compute_exact_match_bound([month]) for month in months]
    assert all(0.88 < bound < 0.98 for bound in bounds)
    assert 0.92 < compute_exact_match_bound(months) < 0.96
    assert bounds[5] == min(bounds[:10])  # June


def test_the_bundled_sample_drifts_in_november_and_december(months: list[LabelledMonth]) -> None:
    accuracies = [compute_accuracy_of_one_rule(month) for month in months]
    assert all(0.86 < accuracy < 0.96 for accuracy in accuracies[:10])
    assert min(accuracies[:10]) == accuracies[5]  # June
    assert max(accuracies[10:]) < min(accuracies[:10]) - 0.05


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    arguments = ("--rows", "40", "--months", "2")
    first = make_sample(tmp_path / "first", *arguments, "--seed", "7")
    assert sorted(first) == NAMES[:2]
    assert make_sample(tmp_path / "second", *arguments, "--seed", "7") == first
    other = make_sample(tmp_path / "other", *arguments, "--seed", "8")
    assert all(other[name] != first[name] for name in first)


def test_the_script_prints_one_line_per_month(tmp_path: Path) -> None:
    done = run_make_sample("--output-folder", "made", "--rows", "30", "--months", "3", folder=tmp_path)
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"made/{name}" for name in NAMES[:3]]
    size = (tmp_path / "made" / NAMES[0]).stat().st_size
    assert lines[0].startswith("made/2016_01.csv: 30 rows, ")
    assert lines[0].endswith(f" repeated, {size:,} bytes")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--rows", "0"], "--rows"),
        (["--rows", "many"], "--rows"),
        (["--months", "13"], "--months"),
        (["--seed", "-1"], "--seed"),
        (["--output-folder", "a-file/sample"], "a-file/sample"),
        (["--output-folder", "a-file"], "a-file"),
    ],
)
def test_bad_arguments_give_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], named: str) -> None:
    (tmp_path / "a-file").write_text("in the way")
    done = run_make_sample(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert named in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"]


@pytest.mark.parametrize("rows", [1, 2, 50])
def test_a_month_has_the_given_number_of_rows(rows: int) -> None:
    features, labels = simulate_month(12, rows, seed=3)
    assert features.shape == (rows, 58)
    assert features.dtype == np.float32
    assert labels.shape == (rows,)


def test_cells_are_read_as_exactly_the_numbers_written(tmp_path: Path) -> None:
    features, labels = simulate_month(11, 300, seed=5)
    write_month(features, labels, tmp_path / "month.csv")
    dataset, read = read_labelled(tmp_path / "month.csv")
    np.testing.assert_array_equal(dataset.features, features)
    np.testing.assert_array_equal(read, labels)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.behaviour.__name__)
def test_a_conversation_begins_with_a_and_has_ascending_times_and_valid_frames(kind: Kind) -> None:
    for seed in range(60):
        packets: list[Sent] = kind.behaviour(Random(seed))
        assert packets
        assert not packets[0].by_b
        assert all(later.at > earlier.at for earlier, later in pairwise(packets))
        assert packets[0].at >= 0
        assert all(60 <= packet.size <= 1514 for packet in packets)
        assert all((packet.flags != 0) == (kind.protocol == 6) for packet in packets)


@pytest.mark.parametrize("month", range(1, MONTHS + 1))
def test_no_kind_of_conversation_has_a_negative_share(month: int) -> None:
    assert all(kind.compute_share(month) > 0 for kind in KINDS)


def describe_lone_syns(month: int, drift: tuple[str, ...]) -> tuple[float, float]:
    """Return the share of lone SYNs of 60 bytes among 3,000 records, and the share of attacks among them."""
    features, labels = simulate_month(month, 3000, seed=1, drift=drift)
    dataset = Dataset(features, labels, "simulated")
    lone = (unscale("total_packets_a_b", dataset) == 1) & (unscale("syn_pkts_sent_a_b", dataset) == 1)
    return float(lone.mean()), float(labels[lone].mean())


def test_with_drifting_shares_lone_syns_are_more_frequent_and_less_often_attacks_from_september_on() -> None:
    for month, drifts in ((8, False), (9, True)):
        (usual, attacks), (share, fewer) = (describe_lone_syns(month, drift) for drift in ((), ("shares",)))
        assert (share > 1.6 * usual) == drifts
        assert (fewer < attacks - 0.1) == drifts
        assert drifts or (usual, attacks) == (share, fewer)


def test_with_drifting_labels_only_labels_of_june_change() -> None:
    for month, drifts in ((5, False), (6, True), (7, False)):
        (features, labels), (same, others) = (simulate_month(month, 500, 1, drift) for drift in ((), ("labels",)))
        assert (features == same).all()
        assert (others.mean() > labels.mean() + 0.05) == drifts
        assert drifts or (labels == others).all()
