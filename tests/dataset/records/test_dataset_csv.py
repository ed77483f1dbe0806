import bz2
import contextlib
import gzip
import os
import signal
import threading
from dataclasses import fields
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dataset.records.capture_records import read_capture_records
from dataset.records.dataset_csv import build_table, format_csv
from dataset.records.flow_features import compute_records
from dataset.records.scaling import PUBLISHED, fit_scaler, read_scaler
from dataset.records.windows import Windows, clamp_sizes
from tests.captures import SHARED, needs_shared
from tests.dataset.packets.test_captures import FRAMES, frame, make_packets, pcap
from tests.offload.link_ends import Program, wait_until
from tests.scripts import EXTRACT, call
from utils.dataset import read_dataset, read_labelled
from utils.records import Records
from utils.schema import CLASS, FEATURES, IDENTITY

FOLDER = SHARED / "data" / "pcaps"
CAPTURES = sorted(path.name for path in FOLDER.glob("*.pcap*"))
SECOND = 1_000_000


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    (tmp_path / "a.pcap").write_bytes(pcap(FRAMES))
    return tmp_path / "a.pcap"


def read_records(*paths: Path, windows: Windows | None = None) -> Records:
    return Records.concatenate(list(read_capture_records(paths, windows or Windows())))


@needs_shared
@pytest.mark.parametrize("name", [name for name in CAPTURES if "ipv6" not in name])
def test_the_script_writes_the_expected_records_of_a_real_capture(
    capsys: pytest.CaptureFixture[str], name: str, tmp_path: Path
) -> None:
    output = tmp_path / "records.csv"
    ended = call(capsys, EXTRACT, "--pcap", FOLDER / name, "--output", output, "--raw", "--identity")
    assert (ended.code, ended.err) == (0, "")
    wanted = pd.read_csv(FOLDER / "expected" / f"{name.partition('.')[0]}.csv")
    pd.testing.assert_frame_equal(pd.read_csv(output), wanted, check_exact=True)


@needs_shared
def test_a_capture_without_ipv4_gives_one_line_and_no_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    output = tmp_path / "records.csv"
    ended = call(capsys, EXTRACT, "--pcap", FOLDER / "ipv6-only.pcap", "--output", output)
    (line,) = ended.err.splitlines()
    assert (ended.code, "no IPv4 packets" in line, list(tmp_path.iterdir())) == (2, True, [])


def test_a_csv_is_scaled_as_published_and_is_a_dataset(
    capsys: pytest.CaptureFixture[str], capture: Path, tmp_path: Path
) -> None:
    output = tmp_path / "records.csv"
    ended = call(capsys, EXTRACT, "--pcap", capture, "--output", output, "--identity")
    assert (ended.code, ended.err) == (0, "")
    records = compute_records(make_packets(FRAMES))
    scaled = PUBLISHED.scale(records.features).astype(np.float32)
    np.testing.assert_array_equal(read_dataset(output).features, scaled)
    table = pd.read_csv(output)
    assert list(table) == [*IDENTITY, *FEATURES]
    assert table["address_b"].tolist() == ["10.0.1.1", "10.0.1.2", "10.0.1.4"]
    first, second, third = ended.out.splitlines()
    assert first.startswith("4 packets: 3 IPv4, 1 other, 0 malformed, 0 too late for their window, in ")
    outside = PUBLISHED.count_out_of_range(records.features) / records.features.size
    assert second == f"1 windows of 15 s; {100 * outside:.2f} % of the values lie outside the scaler's range"
    assert third == f"3 records -> {output}"


def test_a_fitted_scaler_scales_its_records_to_0_and_1_and_is_written(
    capsys: pytest.CaptureFixture[str], capture: Path, tmp_path: Path
) -> None:
    output, scaler, again = (tmp_path / name for name in ("records.csv", "scaler.json", "again.csv"))
    ended = call(capsys, EXTRACT, "--pcap", capture, "--output", output, "--fit-scaler", scaler)
    assert (ended.code, ended.err) == (0, "")
    table = pd.read_csv(output)
    assert (table.min().min(), table.max().max()) == (0, pytest.approx(1))
    assert "0.00 % of the values lie outside" in ended.out
    np.testing.assert_array_equal(read_scaler(scaler).minimums, fit_scaler(read_records(capture).features).minimums)
    assert call(capsys, EXTRACT, "--pcap", capture, "--output", again, "--scaler", scaler).code == 0
    assert again.read_bytes() == output.read_bytes()


@pytest.mark.parametrize(("ending", "opener"), [(".csv.gz", gzip.open), (".csv.bz2", bz2.open)])
def test_a_csv_is_compressed_if_its_suffix_says_so(
    capsys: pytest.CaptureFixture[str], capture: Path, tmp_path: Path, ending: str, opener: type
) -> None:
    output = tmp_path / f"records{ending}"
    assert call(capsys, EXTRACT, "--pcap", capture, "--output", output).code == 0
    with opener(output, "rt") as stream:
        assert stream.readline().startswith(FEATURES[0])


def test_captures_in_the_order_of_time_are_read_as_one_and_others_separately(tmp_path: Path) -> None:
    frames = [(1_600_000_000 * SECOND + 4 * SECOND * number, 60, frame(1)) for number in range(60)]
    parts = [tmp_path / name for name in ("whole", "first", "second")]
    for path, chosen in zip(parts, (frames, frames[:31], frames[31:]), strict=True):
        path.write_bytes(pcap(chosen))
    whole, *halves = parts
    together = read_records(*halves)
    np.testing.assert_array_equal(together.features, read_records(whole).features)
    windows = Windows(most_packets=2)
    backwards = read_records(*reversed(halves), windows=windows)
    assert windows.counts.late == 0
    assert len(backwards) == len(together) + 1  # the window that the two halves share is in both


def test_a_packet_with_a_wrong_time_makes_no_other_late(tmp_path: Path) -> None:
    frames = [(1_600_000_000 * SECOND + SECOND * number, 60, frame(number % 7)) for number in range(200)]
    frames[3] = (4_000_000_000 * SECOND, 60, frame(3))
    (tmp_path / "a.pcap").write_bytes(pcap(frames))
    windows = Windows()
    found = read_records(tmp_path / "a.pcap", windows=windows)
    wanted = compute_records(make_packets(frames))
    assert windows.counts.late == 0
    for field in fields(Records):
        np.testing.assert_array_equal(getattr(found, field.name), getattr(wanted, field.name))


def test_labels_are_written_as_the_class(capsys: pytest.CaptureFixture[str], capture: Path, tmp_path: Path) -> None:
    output, labels = tmp_path / "records.csv", tmp_path / "labels.txt"
    labels.write_text("10.0.1.2\n2001:db8::1\n")
    ended = call(capsys, EXTRACT, "--pcap", capture, "--output", output, "--labels", labels)
    assert (ended.code, ended.err) == (0, "")
    _, classes = read_labelled(output)
    assert classes.tolist() == [0, 1, 0]
    assert "1 labelled attacks (33.33 %); 1 lines about IPv6 ignored\n" in ended.out


def test_max_records_limits_the_records_of_a_live_window(
    capsys: pytest.CaptureFixture[str], capture: Path, tmp_path: Path
) -> None:
    pipe, output = tmp_path / "pipe", tmp_path / "records.csv"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(capture.read_bytes()))
    writer.start()
    ended = call(capsys, EXTRACT, "--pcap", pipe, "--follow", "--output", output, "--max-records", 2)
    writer.join()
    assert (ended.code, ended.err) == (0, "")
    assert "0 too late for their window, 1 left out by --max-records, in " in ended.out
    assert len(read_dataset(output)) == 2


def test_sigterm_writes_the_records_observed_so_far(capture: Path, tmp_path: Path) -> None:
    output = tmp_path / "records.csv"
    with Program(tmp_path, EXTRACT, "--pcap", capture, "--follow", "--output", output) as program:
        wait_until(lambda: list(tmp_path.glob(".records.*.part.csv")), 120)
        program.send(signal.SIGTERM)
        assert program.end() == 0
    assert len(read_dataset(output)) == 3
    assert f"3 records -> {output}" in program.out


def unlink_once_read(path: Path) -> None:
    """Remove a file once this process has read all of it."""
    wait_until(lambda: str(path.stat().st_size) in read_offsets(path), 120)
    path.unlink()


def read_offsets(path: Path) -> list[str]:
    """Return the offset of each descriptor that this process has of a file."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # it has just been closed
            if descriptor.readlink() == path:
                found.append(Path(f"/proc/self/fdinfo/{descriptor.name}").read_text().split()[1])
    return found


def test_records_observed_before_an_error_are_written_and_the_error_reported(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, output = tmp_path / "a.pcap", tmp_path / "records.csv"
    good = pcap([(1_600_000_000 * SECOND + number, 60, frame(number)) for number in range(90)])
    path.write_bytes(b"no capture at all, of any kind, by its first bytes")
    ended = call(capsys, EXTRACT, "--pcap", path, "--follow", "--output", output)
    assert (ended.code, "is not a pcap or pcapng capture" in ended.err, output.exists()) == (2, True, False)
    path.write_bytes(good)
    remover = threading.Thread(target=unlink_once_read, args=(path,))
    remover.start()
    ended = call(capsys, EXTRACT, "--pcap", path, "--follow", "--output", output)
    remover.join()
    assert (ended.code, "a.pcap: was moved or removed" in ended.err) == (2, True)
    assert len(read_dataset(output)) == 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pcap", "a.pcap", "--fit-scaler", "a.csv", "--output", "a.csv"), "a.csv: is named for two outputs"),
        (("--pcap", "a.pcap", "b.pcap", "--follow"), "only one capture can be followed"),
        (("--pcap", "a.pcap", "--duration", "5"), "--duration is for live traffic only"),
        (("--pcap", "a.pcap", "--interface", "lo"), "not allowed with argument"),
        ((), "one of the arguments --pcap --interface is required"),
    ],
)
def test_incompatible_options_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    output = () if "--output" in options else ("--output", tmp_path / "a.csv")
    ended = call(capsys, EXTRACT, *options, *output)
    assert (ended.code, message in ended.err) == (2, True)


@pytest.mark.parametrize("option", ["--output", "--fit-scaler"])
def test_a_capture_is_never_overwritten(
    capsys: pytest.CaptureFixture[str], capture: Path, tmp_path: Path, option: str
) -> None:
    before = capture.read_bytes()
    ended = call(capsys, EXTRACT, "--pcap", capture, "--output", tmp_path / "a.csv", option, capture)
    (line,) = ended.err.splitlines()
    assert (ended.code, f"{capture}: is an input, too" in line) == (2, True)
    assert (capture.read_bytes(), sorted(tmp_path.iterdir())) == (before, [capture])


def test_clamped_sizes_are_those_of_frames_on_the_wire() -> None:
    packets = make_packets([(0, size, frame(1)) for size in (54, 60, 700, 1514, 9000)])
    assert clamp_sizes(packets).size.tolist() == [60, 60, 700, 1514, 1514]


def test_raw_features_are_integers_except_variances() -> None:
    table = build_table(compute_records(make_packets(FRAMES)), None, np.array([1, 0, 1]))
    kinds = {name: table[name].dtype.kind for name in FEATURES}
    assert {name for name, kind in kinds.items() if kind == "f"} == {name for name in FEATURES if "variance" in name}
    assert table[CLASS].tolist() == [1, 0, 1]


def test_rows_are_written_as_pandas_writes_them() -> None:
    generator = np.random.default_rng(1)
    values = np.round(generator.normal(size=(300, 3)), 2) * 10.0 ** generator.integers(-9, 9, (300, 1)) + 0.0
    table = pd.DataFrame(values, columns=["a", "b", "c"]).assign(n=generator.integers(0, 9, 300), who="10.0.0.1")
    assert format_csv(table) == table.to_csv(index=False, header=False)


def test_equal_rows_and_equal_numbers_of_other_types_are_written_as_pandas_writes_them() -> None:
    generator = np.random.default_rng(2)
    whole, fraction = generator.integers(0, 2, (2, 500))
    table = pd.DataFrame({"n": whole, "x": fraction / 1.0, "who": np.where(whole, "10.0.0.1", "10.0.0.2")})
    table = table.assign(y=fraction / 3, m=whole * 2**52, z=generator.random(500))
    for columns in (["x", "n", "m"], list(table), ["who"]):
        assert format_csv(table[columns]) == table[columns].to_csv(index=False, header=False)
