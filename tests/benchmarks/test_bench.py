"""The benchmark itself: what it compares, how it counts, and that a wrong answer is no fast one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from calibration.temperature import fit_by_likelihood
from models.prediction import predict
from offload.link.private_broker import PrivateBroker
from tests.benchmarks import plain_network, plain_training, steps_link
from tests.benchmarks.agreement import DisagreementError, agreement, approximation
from tests.benchmarks.bench import STEPS, main, steps
from tests.benchmarks.ceiling import Ceiling, operations
from tests.benchmarks.material import CLASSES, REAL_MONTHS, ROOT, SAMPLE_MONTHS, Bench, Budget, month_path
from tests.benchmarks.plain_network import PlainNetwork
from tests.benchmarks.rounds import Costs, Turns, compared_in_turns, in_turns
from tests.benchmarks.steps_link import half_offloaded
from tests.benchmarks.steps_start import first_verdict
from tests.benchmarks.steps_training import compared_losses
from tests.benchmarks.table import COLUMNS, goals, in_words, row
from tests.networks import SAMPLE, calibrated_network
from tests.shared_data import needs_shared
from utils.classification_metrics import classify
from utils.dataset import read_dataset
from utils.decision import is_accepted

pytestmark = pytest.mark.slow

CEILING = Ceiling({(1, torch.float32): 1e9, (1, torch.bfloat16): 1e9}, 1e9)
TINY = ("--rounds", "1", "--rows", "40", "--events", "20")


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests" / "benchmarks" / "bench.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the networks' files, which are the same for all steps."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture
def bench(exports: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A small benchmark on the bundled sample, also where the published months are at hand."""
    monkeypatch.setattr("tests.benchmarks.material.REAL_MONTHS", SAMPLE_MONTHS)
    return small_bench(exports)


def small_bench(folder: Path) -> Bench:
    return Bench(folder, Budget(rounds=1, rows=40, events=20, families=("mobilenet",)), CEILING)


def test_a_step_gives_a_table_and_the_same_figures_as_json(tmp_path: Path) -> None:
    written = tmp_path / "bench.json"
    done = run_script(*TINY, "--only", "month", "--family", "mobilenet", "--json", written)
    assert done.returncode == 0, done.stderr
    figures = json.loads(written.read_text())
    (one,) = figures["figures"]
    assert one["step"] == "1 exit 1, a month as it comes, MobileNetV2"
    assert done.stdout.count(one["step"]) >= 2, "as it is measured, and in the table"
    assert one["ratio"] == pytest.approx(one["ours"] / one["plain"])
    assert one["met"] is (one["ratio"] >= 15)
    assert "labels equal" in one["note"] and one["ceiling"] is None
    assert "of 1 goals met" in done.stdout and figures["failures"] == []


@pytest.mark.parametrize("step", [step for step in STEPS if step not in {"calibration", "link"}])
def test_every_step_can_be_measured(step: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.steps_worker.THREADS", 1)  # with two, this test waits for the other tests
    rows = list(steps()[step](bench))
    assert rows and all(row.plain > 0 and row.ours > 0 for row in rows)


@needs_shared
@pytest.mark.parametrize("step", ["month", "distinct", "event"])
def test_on_the_published_months_the_answers_agree_too(step: str, tmp_path: Path) -> None:
    assert month_path(3).parent == REAL_MONTHS
    assert list(steps()[step](small_bench(tmp_path)))


def test_the_link_can_be_measured(bench: Bench, broker: PrivateBroker) -> None:
    (row,) = steps_link.through(broker, bench)
    assert "offloaded" in row.note and row.ratio > 0


def test_help_is_answered_without_torch() -> None:
    code = "import sys, tests.benchmarks.bench as b; b.make_parser().format_help(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_a_step_that_fails_is_told_and_leaves_the_others_to_be_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def other_answers(_network: PlainNetwork, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(features), dtype=np.int64), np.full(len(features), 0.99)

    monkeypatch.setattr("tests.benchmarks.plain_network.at_exit_1", other_answers)
    monkeypatch.setattr("tests.benchmarks.ceiling.measure_ceiling", lambda: CEILING)
    monkeypatch.setattr("tests.benchmarks.steps_worker.THREADS", 1)  # with two, this test waits for the other tests
    written = tmp_path / "bench.json"
    arguments = [*TINY, "--only", "month", "--only", "worker", "--family", "mobilenet", "--json", str(written)]
    assert main(arguments) == 1
    figures = json.loads(written.read_text())
    assert {one["step"][:8] for one in figures["figures"]} == {"5 worker"}
    assert len(figures["failures"]) == 1 and figures["failures"][0].startswith("month: DisagreementError: ")
    assert "FAILED: month" in capsys.readouterr().out


def test_every_step_has_a_name() -> None:
    assert tuple(steps()) == STEPS


@pytest.mark.parametrize("family", CLASSES)
def test_the_plain_network_answers_as_the_toolkits_own(family: str) -> None:
    network, features = calibrated_network(CLASSES[family]), read_dataset(SAMPLE).features[:50]
    plain = PlainNetwork(family, network.model.transform, network.state_dict()).eval()
    for compute, logits in zip(
        (plain_network.at_exit_1, plain_network.at_exit_2), predict(network, features, 50), strict=True
    ):
        agreement(compute(plain, features), classify(logits), 1e-6)


def test_equal_answers_agree_and_labels_may_differ_only_at_even_odds() -> None:
    plain = np.array([0, 1, 1]), np.array([0.9, 0.50001, 0.8])
    assert agreement(plain, plain).startswith("labels equal, ")
    assert "but for 1 at even odds" in agreement(plain, (np.array([0, 0, 1]), np.array([0.9, 0.50001, 0.8])))
    with pytest.raises(DisagreementError, match="1 of 3 labels differ"):
        agreement(plain, (np.array([0, 1, 0]), plain[1]))
    with pytest.raises(DisagreementError, match=r"by up to 1\.0e-02"):
        agreement(plain, (plain[0], np.array([0.91, 0.50001, 0.8])))
    with pytest.raises(DisagreementError, match="2 answers for 3"):
        agreement(plain, (plain[0][:2], plain[1][:2]))
    with pytest.raises(DisagreementError):
        agreement(plain, (plain[0], np.array([0.9, np.nan, 0.8])))


def test_answers_that_are_meant_to_differ_need_a_share_of_equal_labels() -> None:
    plain, ours = (np.array([0, 1]), np.array([0.9, 0.8])), (np.array([0, 0]), np.array([0.9, 0.6]))
    assert approximation(plain, ours, 0.5) == "50 % of labels equal (≥ 50 %), max |Δ certainty| 0.4"
    with pytest.raises(DisagreementError, match="where 95 % are needed"):
        approximation(plain, ours, 0.95)
    assert approximation(plain, ours, 0.5, 0.45).endswith("0.4 (≤ 0.45)")
    at_even_odds = np.array([0, 1]), np.array([0.9, 0.5])
    assert approximation(at_even_odds, ours, 1.0).startswith("100 % of labels equal")
    with pytest.raises(DisagreementError, match=r"by up to 4\.0e-01, where 0\.1 is allowed"):
        approximation(plain, ours, 0.5, 0.1)


def test_turns_alternate_who_goes_first_and_a_ratio_is_of_one_round() -> None:
    order: list[str] = []

    def work(name: str, costs: list[Costs]) -> Costs:
        order.append(name)
        return costs.pop(0)

    plain: list[Costs] = [(0.0, 0.0), (4.0, 10.0), (9.0, 10.0)]
    ours: list[Costs] = [(0.0, 0.0), (2.0, 5.0), (3.0, 1.0)]
    seconds, other = in_turns(lambda: work("plain", plain), lambda: work("ours", ours), 2)
    assert order == ["plain", "ours", "plain", "ours", "ours", "plain"]
    assert seconds == Turns((4.0, 9.0), (2.0, 3.0)) and seconds.ratios == (2.0, 3.0)
    assert other.ratios == (2.0, 10.0)


def test_what_is_timed_is_what_is_compared() -> None:
    plain, ours = iter([1, 2]), iter([1, 3])

    def compare(one: int, other: int) -> str:
        if one != other:
            raise DisagreementError(f"{one} is not {other}")
        return "equal"

    with pytest.raises(DisagreementError, match="2 is not 3"):
        compared_in_turns(lambda: next(plain), lambda: next(ours), compare, 2)


def test_the_table_aligns_its_columns_and_says_what_was_missed() -> None:
    turns = Turns((2.0, 4.0, 3.0), (1.0, 1.0, 1.0))
    rows = [
        row("short", "s", turns, goal=2, note="a note"),
        row("a longer step", "events/s", turns, events=6000, goal=5, ceiling=0.123, note="a note"),
        row("no goal", "ms", turns, scale=1e3),
        row("another result", "s", turns, goal=2, holds=False),
    ]
    assert [(one.plain, one.ours, one.ratio) for one in rows[:3]] == [(3, 1, 3), (2000, 6000, 3), (3000, 1000, 3)]
    lines = in_words(rows).splitlines()
    place = lines[0].index("goal")
    assert [line[place - 1 : place + 4].strip() for line in lines[2:6]] == ["≥ 2×", "≥ 5×", "–", "≥ 2×"]
    assert lines[0].split() == [word for column in COLUMNS for word in column.split()]
    assert "2–4" in lines[2] and "12.3 %" in lines[3] and lines[-1] == "[1] a note"
    assert goals(rows).splitlines() == [
        "1 of 3 goals met",
        "MISSED: a longer step: 3× of 5×",
        "MISSED: another result: 3× of 2×, and other results",
    ]


def test_operations_are_those_of_the_layers() -> None:
    layers = torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3, bias=False), torch.nn.Flatten(), torch.nn.Linear(108, 2))
    assert operations(layers) == 2 * 36 * 3 * 9 + 2 * 108 * 2


def test_half_of_the_events_are_offloaded_and_none_stands_on_a_threshold() -> None:
    generator = np.random.default_rng(1)
    labels, certainties = generator.integers(0, 2, 400), generator.uniform(0.5, 1, 400)
    thresholds = half_offloaded(labels, certainties)
    limits = (thresholds.normal_exit_1, thresholds.attack_exit_1)
    accepted = is_accepted(labels, certainties, *limits)
    assert accepted.mean() == pytest.approx(0.5, abs=0.05)
    assert np.array_equal(accepted, is_accepted(labels, certainties + 1e-9, *limits))


def test_losses_further_apart_than_the_seeds_do_not_hold() -> None:
    assert compared_losses([(0.50, 0.51), (0.53, 0.52)])[0]
    holds, words = compared_losses([(0.50, 0.61), (0.53, 0.62)])
    assert not holds and "means 0.100 apart, the plain one's seeds 0.030" in words


def test_the_plain_calibration_finds_the_temperature_that_logits_were_multiplied_by() -> None:
    generator = np.random.default_rng(2)
    margins = generator.normal(0, 2, 4000)
    labels = (generator.uniform(size=4000) < 1 / (1 + np.exp(-margins))).astype(np.int64)
    logits = 3 * np.stack([-margins / 2, margins / 2], axis=1).astype(np.float32)
    found = plain_training.temperature(torch.from_numpy(logits), torch.from_numpy(labels), 20)
    assert found == pytest.approx(3, rel=0.1)
    assert fit_by_likelihood(logits, labels) == pytest.approx(found, rel=0.2)


def test_a_childs_memory_is_its_own_and_its_failure_is_told(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    ballast = np.ones(50_000_000)  # 400 MB of ours, which the system would count to a direct child
    program.write_text("import sys\nprint('other')\nprint('ready', 1)\nsys.exit(int(sys.argv[1]))\n")
    ended = first_verdict([program, 0], "ready")
    assert ended.line == "ready 1\n" and 0 < ended.bytes < 50e6 < ballast.nbytes
    assert ended.seconds is not None and ended.seconds > 0
    with pytest.raises(RuntimeError, match=r"program\.py: exit code 3"):
        first_verdict([program, 3], "ready")
    with pytest.raises(RuntimeError, match="exit code 0"):
        first_verdict([program, 0], "never said")
