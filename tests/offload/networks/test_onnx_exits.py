"""An exported network at the edge: the same verdicts as its checkpoint, without PyTorch."""

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest

from models.checkpoint import compute_fingerprint, read_two_exits, write_checkpoint
from models.onnx_export import write_edge_model, write_second_exit_model
from offload.link.broker import PASSWORD_VARIABLE, Broker
from offload.link.protocol import make_id
from offload.networks.onnx_exits import open_exported
from offload.networks.torch_exits import open_checkpoint
from tests.networks import SAMPLE, calibrated_network
from tests.offload.link_ends import Program, open_channel
from tests.offload.test_link import ALL_OFFLOADED
from tests.scripts import CLIENT, EXPORT, ROOT, SERVER, call, flat
from utils.classification_metrics import classify
from utils.dataset import read_dataset
from utils.errors import CheckpointError
from utils.policy import Policy, write_policy
from utils.schema import Thresholds

TOLERANCE = 5e-5


def export(checkpoint: Path, folder: Path) -> tuple[Path, Path]:
    """Return both halves of a checkpoint, exported."""
    network, _ = read_two_exits(checkpoint)
    halves = folder / "edge.onnx", folder / "second.onnx"
    features = read_dataset(SAMPLE).features[:50]
    write_edge_model(halves[0], network, features)
    write_second_exit_model(halves[1], network, features)
    return halves


@pytest.fixture(scope="module")
def halves(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return export(checkpoint, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def others_halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("others")
    write_checkpoint(folder / "other.pth", calibrated_network("MobileNetV2WithExits", seed=1), {})
    return export(folder / "other.pth", folder)


def test_both_exported_exits_equal_those_of_the_checkpoint(checkpoint: Path, halves: tuple[Path, Path]) -> None:
    features = read_dataset(SAMPLE).features[:150]
    ours, theirs = open_exported(*halves, "mobilenet"), open_checkpoint(checkpoint, "mobilenet", "cpu")
    assert (ours.architecture, ours.fingerprint) == (theirs.architecture, theirs.fingerprint)
    (logits, activations), (wanted, wanted_activations) = ours.exit_1(features), theirs.exit_1(features)
    np.testing.assert_allclose(classify(logits)[1], classify(wanted)[1], atol=1e-5)
    rows = np.array([3, 1, 149])
    np.testing.assert_allclose(activations(rows), wanted_activations(rows), rtol=1e-4, atol=1e-4)
    assert ours.exit_2 is not None and theirs.exit_2 is not None
    for mine, yours in (
        (ours.exit_2.compute_from_features(features), theirs.exit_2.compute_from_features(features)),
        (ours.exit_2.compute_from_activations(activations(rows)), theirs.exit_2.compute_from_features(features[rows])),
    ):
        np.testing.assert_allclose(classify(mine)[1], classify(yours)[1], atol=TOLERANCE)


def test_halves_of_different_networks_or_of_another_family_are_refused(
    halves: tuple[Path, Path], others_halves: tuple[Path, Path]
) -> None:
    with pytest.raises(CheckpointError, match=r"second\.onnx: is of another network than .*edge\.onnx"):
        open_exported(halves[0], others_halves[1], "mobilenet")
    with pytest.raises(CheckpointError, match="holds MobileNetV2WithExits, not alexnet"):
        open_exported(*halves, "alexnet")
    assert open_exported(halves[0], None, "mobilenet").exit_2 is None


def test_the_client_decides_a_month_equally_without_importing_torch_or_pandas(
    checkpoint: Path, halves: tuple[Path, Path], sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--network", "mobilenet", "--process-exit2-locally", "--dataset", sample / "2016_03.csv", *ALL_OFFLOADED]
    plain, fast = tmp_path / "plain.csv", tmp_path / "fast.csv"
    assert call(capsys, CLIENT, "--trained-network-file", checkpoint, *common, "--savefile", plain).code == 0
    exported = ["--trained-network-file", halves[0], "--second-exit-file", halves[1], "--savefile", fast]
    program = (
        "import runpy, sys\nsys.modules['torch'] = sys.modules['pandas'] = None\n"
        "try:\n    runpy.run_path(sys.argv[1], run_name='__main__')\nexcept SystemExit as ended:\n"
        "    sys.exit(ended.code)\n"
    )
    command = [sys.executable, "-c", "import sys; script = sys.argv.pop(1)\n" + program.replace(
        "sys.argv[1]", "script"), ROOT / CLIENT, *common, *exported]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, other = (pd.read_csv(path, keep_default_na=False) for path in (plain, fast))
    clear = (one["exit_2_certainty"].astype(float) - 0.5).abs() > TOLERANCE
    assert (one["exit_2_prediction"] == other["exit_2_prediction"])[clear].all()
    assert (one["exit_1_certainty"] - other["exit_1_certainty"]).abs().max() < TOLERANCE


WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = sys.modules["pandas"] = sys.modules["onnx"] = None
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_client_decides_traffic_without_importing_torch_or_pandas(
    halves: tuple[Path, Path], sample: Path, tmp_path: Path
) -> None:
    exported = ("--trained-network-file", halves[0], "--second-exit-file", halves[1], "--process-exit2-locally")
    files = ("--savefile", tmp_path / "verdicts.csv", "--alerts", tmp_path / "eve.json")
    traffic = ("--pcap", sample / "network" / "capture.pcap.gz")
    command = [sys.executable, "-c", WITHOUT_TORCH, ROOT / CLIENT, *traffic, *exported, *files, *ALL_OFFLOADED]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(pd.read_csv(tmp_path / "verdicts.csv")) > 100
    assert (tmp_path / "eve.json").stat().st_size > 1000


@pytest.mark.parametrize("exported", [True, False])
def test_workers_of_a_checkpoint_and_of_an_export_answer_an_exported_edge(
    link: Broker, checkpoint: Path, halves: tuple[Path, Path], sample: Path, tmp_path: Path, *, exported: bool
) -> None:
    queue = f"requests.{make_id()}"
    broker = ("--mq-hostname", "127.0.0.1", "--mq-port", link.hosts[0].port, "--mq-username", link.username,
              "--mq-queue", queue, "--network", "mobilenet")  # fmt: skip
    password = {PASSWORD_VARIABLE: link.password}
    (tmp_path / "worker").mkdir()
    with contextlib.ExitStack() as stack:
        arguments: tuple[object, ...] = (SERVER, "--trained-network-file", checkpoint, *broker)
        if exported:
            of_files = ("--trained-network-file", halves[0], "--second-exit-file", halves[1])
            arguments = ("-c", WITHOUT_TORCH, SERVER, *of_files, *broker)
        worker = stack.enter_context(Program(tmp_path / "worker", *arguments, **password))
        worker.wait_for("ready: MobileNetV2WithExits")
        client = stack.enter_context(Program(
            tmp_path, CLIENT, *broker, "--trained-network-file", halves[0], "--on-cloud-failure", "wait",
            "--dataset", sample / "2016_03.csv", "--show-decider", "--savefile", tmp_path / "v.csv", *ALL_OFFLOADED,
            **password,
        ))  # fmt: skip
        assert client.end(60) == 0, client.err
    assert set(pd.read_csv(tmp_path / "v.csv")["decider"]) == {"cloud", "rejected"}
    with open_channel(link) as channel:
        channel.queue_delete(queue)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trained-network-file", "c.pth", "--second-exit-file", "s.onnx"), "--second-exit-file is for an exported"),
        (("--trained-network-file", "e.onnx"), "has its exit 2 in a second file; name it with --second-exit-file"),
        (("--trained-network-file", "e.onnx", "--second-exit-file", "s.onnx", "--device", "cuda"), "--device is for"),
        (("--trained-network-file", "c.pth", "--runtime", "onnx"), "has its exit 2 in a second file"),
    ],
)
def test_options_of_the_other_runtime_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    ended = call(capsys, CLIENT, *arguments, "--network", "mobilenet", "--dataset", "d.csv", "--process-exit2-locally")
    assert (ended.code, message in ended.err) == (2, True), ended.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("e.onnx",), "has its exit 2 in a second file; name it with --second-exit-file"),
        (
            ("e.onnx", "--second-exit-file", "s.onnx", "--quantize", "int8"),
            "when you export it",
        ),
        (("e.onnx", "--second-exit-file", "s.onnx", "--device", "cuda"), "--device is for"),
        (("c.pth", "--second-exit-file", "s.onnx"), "--second-exit-file is for an exported"),
    ],
)
def test_a_worker_needs_both_halves_of_an_exported_network_or_a_checkpoint(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    ended = call(
        capsys, SERVER, "--mq-hostname", "127.0.0.1", "--network", "mobilenet", "--trained-network-file", *arguments
    )
    assert (ended.code, message in ended.err) == (2, True), ended.err


@pytest.mark.slow
def test_the_thresholds_in_the_exported_file_are_the_defaults_of_the_client(
    checkpoint: Path, sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edge, second = tmp_path / "edge.onnx", tmp_path / "second.onnx"
    names = [f"--{name}-exit{number}-min-certainty" for number in (1, 2) for name in ("normal", "attack")]
    chosen = dict(zip(names, (0.6, 0.7, 0.8, 0.65), strict=True))
    export_ = ("--trained-model", checkpoint, "--output", edge, "--second-exit-output", second, *flat(chosen))
    assert call(capsys, EXPORT, *export_).code == 0
    common = ("--process-exit2-locally", "--network", "mobilenet", "--dataset", sample / "2016_03.csv")
    ours = ("--trained-network-file", edge, "--second-exit-file", second)

    def summary(*options: object) -> str:
        ended = call(capsys, CLIENT, *common, *options)
        assert ended.code == 0, ended.err
        return next(line for line in ended.out.splitlines() if line.startswith("total"))

    assert summary(*ours) == summary("--trained-network-file", checkpoint, *flat(chosen))
    stricter = {**chosen, names[0]: 0.99}
    assert summary(*ours, names[0], 0.99) == summary("--trained-network-file", checkpoint, *flat(stricter))
    assert summary(*ours) != summary("--trained-network-file", checkpoint)

    policy, other = tmp_path / "policy.json", tmp_path / "other.onnx"
    fingerprint = compute_fingerprint(read_two_exits(checkpoint)[0])
    write_policy(Policy(Thresholds(*stricter.values()), fingerprint), policy)
    assert summary(*ours, "--policy", policy) == summary(*ours, names[0], 0.99)
    assert summary("--trained-network-file", checkpoint, "--policy", policy, names[0], 0.6) == summary(*ours)
    assert call(capsys, EXPORT, "--trained-model", checkpoint, "--output", other, "--policy", policy).code == 0
    exported = ("--trained-network-file", other, "--second-exit-file", second)
    assert summary(*exported) == summary(*ours, names[0], 0.99)


@pytest.mark.parametrize("text", ["0.5,0.5,0.5", "0.5,0.5,0.5,1.5", "0.5,0.5,0.5,nan", "a,b,c,d", "", "1,1,1,1,1"])
def test_damaged_thresholds_are_reported(halves: tuple[Path, Path], tmp_path: Path, text: str) -> None:
    model = onnx.load(halves[0])
    onnx.helper.set_model_props(model, {**{p.key: p.value for p in model.metadata_props}, "thresholds": text})
    onnx.save(model, tmp_path / "edge.onnx")
    with pytest.raises(CheckpointError, match=r"edge\.onnx: its thresholds are damaged"):
        open_exported(tmp_path / "edge.onnx", None, "mobilenet")


def test_repeated_vectors_are_served_from_the_cache_and_counted_in_the_summary(
    halves: tuple[Path, Path], sample: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def verdicts(size: int) -> tuple[pd.DataFrame, str]:
        savefile = tmp_path / f"{size}.csv"
        ended = call(
            capsys, CLIENT, "--process-exit2-locally", "--network", "mobilenet", "--trained-network-file", halves[0],
            "--second-exit-file", halves[1], "--dataset", sample / "2016_03.csv", "--batch-size", 10,
            "--savefile", savefile, "--cache-size", size, "--threads", "auto", "--chunk", "auto",
        )  # fmt: skip
        assert ended.code == 0, ended.err
        return pd.read_csv(savefile, dtype=str), ended.out

    (plain, said_nothing), (ours, said) = verdicts(0), verdicts(200)
    labels = [name for name in plain.columns if "certainty" not in name]
    pd.testing.assert_frame_equal(ours[labels], plain[labels])
    found = re.search(
        r"served from the cache: (\d+) of (\d+) vectors at exit 1, (\d+) of (\d+) vectors at exit 2", said
    )
    assert found is not None and "from memory" not in said_nothing
    (found_1, all_1), (found_2, all_2) = (int(found[1]), int(found[2])), (int(found[3]), int(found[4]))
    assert 0 < found_2 < all_2 < all_1 <= len(plain) and 0.1 * all_1 < found_1 < all_1
    assert re.search(r"fastest here: --threads \d+ --chunk (8|16|32|64|128)$", said, re.MULTILINE)
