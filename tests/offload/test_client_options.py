"""Contradicting arguments of the client are refused in one line, before a file is read or opened."""

import runpy
from pathlib import Path

import pytest

from offload.client_options import check_client_arguments
from tests.scripts import ROOT
from utils.errors import InputFileError

NETWORK = ("--trained-network-file", "network.pth")
EXPORTED = ("--trained-network-file", "edge.onnx")
RELEASE = ("--release", "releases")
ROWS, TRAFFIC = ("--dataset", "rows.csv"), ("--interface", "eth0")
LOCAL, BROKER = ("--process-exit2-locally",), ("--mq-hostname", "localhost")


def check(*options: str | Path) -> None:
    make_parser = runpy.run_path(str(ROOT / "offload" / "ee-processor-client.py"))["make_parser"]
    check_client_arguments(make_parser().parse_args([*map(str, options)]))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ((*NETWORK, *ROWS), "no --mq-hostname: name the host of RabbitMQ, or add --process-exit2-locally"),
        ((*NETWORK, *ROWS, *BROKER, "--half-precision"), "--half-precision is for activations"),
        ((*EXPORTED, *ROWS, *LOCAL), "has its exit 2 in a second file; name it with --second-exit-file"),
        ((*EXPORTED, *ROWS, *BROKER), "has its exit 2 in a second file; name it with --second-exit-file"),
        ((*NETWORK, *ROWS, *LOCAL, "--resume"), "--resume needs --savefile and --dataset; name both"),
        ((*NETWORK, *TRAFFIC, *LOCAL, "--resume", "--savefile", "v.csv"), "--resume needs --savefile"),
        ((*NETWORK, *ROWS, *LOCAL, "--alerts", "eve.json"), "--alerts is for traffic"),
        ((*NETWORK, *ROWS, *LOCAL, "--follow"), "--follow is for traffic"),
        ((*NETWORK, *ROWS, *LOCAL, "--on-drift", "tighten"), "--on-drift tighten needs --policy"),
        (
            (*NETWORK, *ROWS, *LOCAL, "--on-drift", "reject", "--policy", "p.json", "--resume", "--savefile", "v.csv"),
            "--resume cannot continue with --on-drift reject",
        ),
        ((*RELEASE, *ROWS, *LOCAL, "--policy", "p.json"), "--policy does not go with --release"),
        ((*RELEASE, *ROWS, *LOCAL, "--second-exit-file", "s.onnx"), "--second-exit-file does not go with --release"),
        ((*RELEASE, *ROWS, *LOCAL, "--runtime", "onnx"), "--runtime does not go with --release"),
        ((*RELEASE, *ROWS, *LOCAL, "--device", "cuda"), "--device is for PyTorch"),
        ((*NETWORK, *TRAFFIC, *LOCAL, "--savefile", "v.json"), "v.json"),
        ((*NETWORK, *TRAFFIC, *LOCAL, "--savefile", "a.csv", "--alerts", "a.csv"), "a.csv"),
        ((*NETWORK, *ROWS, *LOCAL, "--savefile", "rows.csv"), "rows.csv"),
    ],
)
def test_contradicting_arguments_are_refused_with_the_option_or_file(
    options: tuple[str, ...], complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").touch()
    with pytest.raises(InputFileError, match=complaint):
        check(*options)


@pytest.mark.parametrize(
    "options",
    [
        (*NETWORK, *ROWS, *LOCAL, "--savefile", "verdicts.csv", "--resume"),
        (*NETWORK, *TRAFFIC, *BROKER, "--savefile", "verdicts.csv.gz", "--alerts", "eve.json"),
        (*EXPORTED, *ROWS, *BROKER, "--on-cloud-failure", "reject"),
        (*EXPORTED, *ROWS, *LOCAL, "--second-exit-file", "second.onnx"),
        (*RELEASE, *ROWS, *LOCAL, "--on-drift", "tighten"),
        (*RELEASE, *TRAFFIC, *BROKER, "--device", "cpu"),
    ],
)
def test_arguments_that_agree_pass(options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check(*options)


@pytest.mark.parametrize("options", [(), (*NETWORK, *RELEASE)])
def test_exactly_one_network_is_named(options: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        check(*options, *ROWS, *LOCAL)
    assert "--release" in capsys.readouterr().err
