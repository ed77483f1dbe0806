"""Figures about captures: every kind of damage is handled, and memory is bounded."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.promised import Figure

ROOT = Path(__file__).resolve().parents[1]
EXTRACT = ROOT / "dataset" / "extract-features.py"
MUTANTS = 10_000
LARGE = 10**9
MOST_MEMORY = 300 * 10**6
LONGEST = 5.0
BYTES = (0, 1, 0x7F, 0x80, 0xFF)


def captures(data: Path, output: Path) -> Iterator[Figure]:
    """Yield the figures: mutated captures give records or one error line; a large capture takes little memory."""
    yield _mutants(data / "pcaps", output)
    yield _large(data / "pcaps" / "echo-connections.pcap.gz", output)


def _mutants(folder: Path, output: Path) -> Figure:
    from dataset.records.capture_records import read_capture_records
    from dataset.records.windows import Windows
    from utils.errors import CaptureError

    originals = [path.read_bytes() for path in sorted(folder.glob("*.pcap*")) if path.stat().st_size < 200_000]
    generator, path = random.Random(1), output / "mutant"
    outcomes = {"records": 0, "one line": 0}
    slowest, start = 0.0, time.monotonic()
    for number in range(MUTANTS):
        content = bytearray(originals[number % len(originals)])
        for _ in range(generator.choice((1, 2, 8, 64))):
            content[generator.randrange(len(content))] = generator.choice((*BYTES, generator.randrange(256)))
        end = generator.choice((len(content), generator.randrange(1, len(content))))
        path.write_bytes(content[:end])
        begun = time.monotonic()
        try:
            for _ in read_capture_records([path], Windows()):
                pass
            outcomes["records"] += 1
        except CaptureError as problem:
            outcomes["one line"] += len(str(problem).splitlines()) == 1
        slowest = max(slowest, time.monotonic() - begun)
    path.unlink()
    borne = sum(outcomes.values())
    return Figure(
        f"{MUTANTS} mutated captures of {len(originals)} real ones", "no crash, no hang; records or one error line",
        f"{outcomes['records']} give records, {outcomes['one line']} one line, slowest {slowest:.2f} s, total "
        f"{time.monotonic() - start:.0f} s", borne == MUTANTS and slowest < LONGEST,
    )  # fmt: skip


def _large(original: Path, output: Path) -> Figure:
    path, records = output / "large.pcap", output / "large.csv"
    packets = _repeat(original, path)
    size = path.stat().st_size
    start = time.monotonic()
    command = [sys.executable, str(EXTRACT), "--pcap", str(path), "--output", str(records)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds, memory = time.monotonic() - start, 1024 * usage.ru_maxrss
    path.unlink()
    return Figure(
        f"a capture of {size / 1e9:.2f} GB and {packets} packets, one repeated with later times: memory", "≤ 300 MB",
        f"{memory / 1e6:.0f} MB, {seconds:.1f} s, start included", process.returncode == 0 and memory <= MOST_MEMORY,
    )  # fmt: skip


def _repeat(original: Path, path: Path) -> int:
    """Write consecutive copies of a capture, each with later timestamps; return the number of packets."""
    import gzip

    from dataset.packets.frames import read_numbers
    from dataset.packets.pcap import Pcap

    content = bytearray(gzip.decompress(original.read_bytes()))
    (frames,), _ = Pcap("<", 10**6, 1).parse(bytes(content[24:]), 24)
    headers = 24 + frames.start - 16
    seconds = read_numbers(np.frombuffer(content, np.uint8), headers, "<u4")
    length = int(seconds.max() - seconds.min()) // 15 * 15 + 15
    times = LARGE // len(content) + 1
    flat = np.frombuffer(content, np.uint8).copy()
    places = headers[:, np.newaxis] + np.arange(4)
    with path.open("wb") as stream:
        stream.write(content[:24])
        for number in range(times):
            flat[places] = (seconds + number * length).astype("<u4").view(np.uint8).reshape(-1, 4)
            stream.write(flat[24:].tobytes())
    return times * len(frames)
