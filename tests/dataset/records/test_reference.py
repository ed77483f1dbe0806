"""The records of the captures in ``tests/dataset/captures`` equal those of the independent reference."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dataset.packets.captures import read_capture
from dataset.packets.packets import Packets
from dataset.packets.traffic_counts import TrafficCounts
from dataset.records.dataset_csv import build_table, format_csv
from dataset.records.windows import Windows
from tests import flow_features_reference, odd_capture
from tests.capture_reader import Frame, read_frames
from tests.dataset.records.test_live_records import replay
from tests.scripts import EXTRACT, ROOT, call
from utils.records import Records

FOLDER = Path(__file__).parents[1] / "captures"
CAPTURES = {
    FOLDER / "odd.pcap.gz": FOLDER / "odd.csv",
    FOLDER / "odd.pcapng.gz": FOLDER / "odd.csv",
    FOLDER / "network.pcap.gz": FOLDER / "network.csv",
    ROOT / "dataset" / "sample" / "network" / "capture.pcap.gz": FOLDER / "sample.csv",
}
each_capture = pytest.mark.parametrize(
    ("capture", "expected"), CAPTURES.items(), ids=[str(path.relative_to(ROOT)) for path in CAPTURES]
)


def read_rows(path: Path) -> list[str]:
    return path.read_text().splitlines()[1:]


def format_rows(records: Records) -> list[str]:
    """Return records as rows of a CSV, in the order of their first packets."""
    in_order = records.take(np.argsort(records.first_packet))
    return format_csv(build_table(in_order, None, identity=True)).splitlines()


@each_capture
def test_the_reference_gives_the_expected_records(capture: Path, expected: Path) -> None:
    assert list(flow_features_reference.format_csv(capture)) == expected.read_text().splitlines()


@each_capture
def test_the_script_writes_the_expected_records(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, capture: Path, expected: Path
) -> None:
    output = tmp_path / "o.csv"
    ended = call(capsys, EXTRACT, "--pcap", capture, "--output", output, "--raw", "--identity")
    assert (ended.code, ended.err) == (0, "")
    assert output.read_bytes() == expected.read_bytes()


@each_capture
@pytest.mark.parametrize(("chunk_bytes", "most"), [(300, 7), (7001, 50), (100_003, 100_000)])
def test_a_capture_read_in_chunks_gives_the_expected_records(
    capture: Path, expected: Path, chunk_bytes: int, most: int
) -> None:
    windows, found = Windows(), list[Records]()
    for packets in read_capture(capture, TrafficCounts(), chunk_bytes=chunk_bytes):
        for start in range(0, len(packets), most):
            found += windows.add(packets.take(np.arange(start, min(start + most, len(packets)))))
    assert format_rows(Records.concatenate(found + windows.close())) == read_rows(expected)
    assert (windows.counts.late, windows.counts.left_out) == (0, 0)


@pytest.mark.slow
@each_capture
@pytest.mark.parametrize("most", [7, 1000])
def test_a_capture_replayed_at_its_own_pace_gives_the_expected_records(
    capture: Path, expected: Path, most: int
) -> None:
    source = replay(Packets.concatenate(list(read_capture(capture, TrafficCounts()))))
    source.most = most
    # No packet arrives after its timestamp; one with a wrong timestamp arrives with its neighbours.
    source.due = np.minimum.accumulate(source.all.timestamp[::-1])[::-1]
    assert format_rows(source.run()) == read_rows(expected)


@each_capture
def test_a_capture_from_a_pipe_gives_the_expected_records(tmp_path: Path, capture: Path, expected: Path) -> None:
    output = tmp_path / "o.csv"
    command = [sys.executable, EXTRACT, "--pcap", "-", "--output", str(output), "--raw", "--identity"]
    content = gzip.decompress(capture.read_bytes())
    done = subprocess.run(command, input=content, capture_output=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, b"")
    assert sorted(read_rows(output)) == sorted(read_rows(expected))  # windows of a pipe are written as they are closed


def test_the_reference_imports_nothing_that_it_is_compared_with() -> None:
    program = (
        "import sys\nimport tests.flow_features_reference\n"
        "print({name.partition('.')[0] for name in sys.modules} & {'dataset', 'utils', 'numpy', 'pandas', 'dpkt'})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"


def test_the_reference_runs_as_its_docstring_says() -> None:
    command = [sys.executable, "tests/flow_features_reference.py", str(FOLDER / "odd.pcapng.gz")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == (FOLDER / "odd.csv").read_text()


@pytest.mark.parametrize("name", ["odd.pcap.gz", "odd.pcapng.gz"])
def test_the_odd_captures_equal_those_of_their_script(name: str) -> None:
    frames = odd_capture.make_odd_frames()
    assert list(read_frames(FOLDER / name)) == frames
    content = odd_capture.make_pcap(frames) if name.endswith("pcap.gz") else odd_capture.make_pcapng(frames)
    assert gzip.decompress((FOLDER / name).read_bytes()) == content


def test_the_odd_captures_contain_what_their_docstring_says() -> None:
    frames = odd_capture.make_odd_frames()
    counts = TrafficCounts()
    packets = Packets.concatenate(list(read_capture(FOLDER / "odd.pcap.gz", counts)))
    assert (counts.packets, counts.other, counts.malformed) == (len(frames), 6, 2)
    assert {kind for _, _, content in frames if (kind := content[12:14]) in (b"\x81\0", b"\x86\xdd")} != set()
    first_bytes = {content[14] for _, _, content in select_ip_frames(frames)}
    assert {0x45, 0x46, 0x4F, 0x40, 0x44, 0x65} <= first_bytes
    assert {int.from_bytes(content[20:22]) for _, _, content in select_ip_frames(frames)} >= {0, 0x2000, 185}
    steps = np.diff(packets.timestamp)
    assert (steps == 0).any()
    assert (steps < 0).any()
    assert (steps > 7000 * 10**6).any()
    assert packets.size.max() == 2_000_000


def select_ip_frames(frames: list[Frame]) -> list[Frame]:
    return [one for one in frames if one[2][12:14] == b"\x08\0" and len(one[2]) >= 34]
