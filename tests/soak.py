#!/usr/bin/env python3
"""Soak test: run the edge-cloud link for a long time while its parts fail, and print whether each promise is kept.

Run:
    python tests/soak.py [--only NAME]

It needs RabbitMQ's programs and takes about forty minutes on two cores. The logs of all processes stay in the output
folder. Exit codes: 0 all goals are met, 1 a goal is not met.
"""

import argparse
import contextlib
import random
import re
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # repo root

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.checkpoint import write_checkpoint
from offload.link.private_broker import PrivateBroker, find_free_port
from offload.link.protocol import make_id
from tests.benchmarks.results import write_results
from tests.networks import SAMPLE, calibrated_network
from tests.offload.chaos import (
    NO_DIFFERENCES,
    Intruder,
    KillingRelay,
    Script,
    Setup,
    compare_verdicts,
    is_all_by_cloud,
    read_metric,
    read_verdicts,
    wait_for_port,
    write_distinct_events,
)
from tests.offload.hostile_peers import FailingRelay
from tests.offload.link_ends import wait_until
from tests.promised import FIGURE_COLUMNS, Figure
from utils import cli
from utils.files import make_folder

WAIT = ("--on-cloud-failure", "wait", "--wait-timeout", 600, "--request-timeout", 5, "--show-decider")
LOCAL = ("--on-cloud-failure", "local", "--request-timeout", 2, "--show-decider")
LOG = ("--log-format", "json", "--debug")
EVENTS, KILLS, BROKER_KILLS, STOPS, LOST_ACKS, CUTS, MUTANTS, MILLION = 100_000, 20, 10, 20, 20, 100, 100_000, 1_000_000
RECOVERY, RESUMPTION, STOPPING, ABSENCE = 2.0, 5.0, 30.0, 60.0  # seconds
GROWTH = 0.05  # share of the resident memory
NOTHING_WRONG = f"{NO_DIFFERENCES}, all by the cloud"
_LONGEST = 3600.0


class SoakTest:
    """The node, the checkpoint and the datasets of all steps.

    Args:
        folder: folder for the files of all steps.
        node: RabbitMQ node.
    """

    def __init__(self, folder: Path, node: PrivateBroker) -> None:
        self.folder = folder
        self.node = node
        self.broker = node.connection
        self.checkpoint = folder / "calibrated.pth"
        write_checkpoint(self.checkpoint, calibrated_network("MobileNetV2WithExits"), {"data": "none"})
        self._expected: dict[int, pd.DataFrame] = {}

    def prepare(self, count: int, batch: int) -> tuple[Setup, pd.DataFrame]:
        """Return a setup with ``count`` distinct events, and the verdicts on them without a cloud."""
        dataset = self.folder / f"{count}.csv"
        if count not in self._expected:
            write_distinct_events(dataset, SAMPLE.parent, count)
            self._expected[count] = self.make_setup(dataset, 100).decide_locally(self.name_folder("local"))
        return self.make_setup(dataset, batch), self._expected[count]

    def make_setup(self, dataset: Path, batch: int) -> Setup:
        """Return a setup with a dataset and a queue of its own."""
        return Setup(self.broker, f"soak.{make_id()}", self.checkpoint, dataset, batch)

    def name_folder(self, name: str) -> Path:
        """Return the path of a folder that does not exist yet."""
        return self.folder / f"{name}-{make_id()[:8]}"


class WorkerPool:
    """Workers of a setup; entering the ``with`` block waits until they are ready."""

    def __init__(self, soak: SoakTest, setup: Setup, count: int = 2) -> None:
        self._soak, self._setup = soak, setup
        self._stack = contextlib.ExitStack()
        self.members = [self._enter() for _ in range(count)]

    def replace(self, victim: Script) -> None:
        """Start a worker in place of one that has ended, and wait until it is ready."""
        self.members[self.members.index(victim)] = self._enter().wait_for("ready: ", 120)

    def _enter(self) -> Script:
        return self._stack.enter_context(self._setup.start_worker(self._soak.name_folder("worker"), "--prefetch", 4))

    def __enter__(self) -> Self:
        for worker in self.members:
            worker.wait_for("ready: ", 120)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()


@contextmanager
def running(setup: Setup, folder: Path, *options: object) -> Iterator[Script]:
    """Run a client during the block, which begins after its first batch."""
    with setup.start_client(folder, *options) as client:
        wait_until(lambda: "batch 1:" in client.out or not client.is_running, 120)
        yield client


def check_rows(what: str, client: Script, folder: Path, expected: pd.DataFrame) -> Figure:
    """Wait for the end of a client; return whether its rows are right and the cloud answered all of them."""
    code = client.end(_LONGEST)
    verdicts = read_verdicts(folder)
    found, by_cloud = compare_verdicts(verdicts, expected), is_all_by_cloud(verdicts)
    measured = f"{found}, {'all' if by_cloud else 'NOT all'} by the cloud, exit code {code}"
    met = (found, by_cloud, code) == (NO_DIFFERENCES, True, 0) and "Traceback" not in "\n".join(client.error_lines)
    return Figure(f"{what}, {len(expected)} events: rows", f"{NOTHING_WRONG}, exit code 0", measured, met)


def check_longest(name: str, limit: float, values: list[float], count: int) -> Figure:
    """Return whether the longest of ``count`` times in seconds is within a limit."""
    longest = max(values, default=float("nan"))
    return Figure(
        f"{name}, {count} times",
        f"≤ {limit:g} s, {count} times",
        f"{longest:.2f} s, {len(values)} times" + (f", median {float(np.median(values)):.2f} s" if values else ""),
        longest <= limit and len(values) == count,
    )


def kill_workers(soak: SoakTest) -> Iterator[Figure]:
    """Kill workers at random times, and start others."""
    setup, expected = soak.prepare(EVENTS, 50)
    folder, rng = soak.name_folder("worker-kills"), random.Random()
    kills: list[float] = []
    with WorkerPool(soak, setup) as worker_pool, running(setup, folder, *WAIT, *LOG) as client:
        while len(kills) < KILLS and client.is_running:
            time.sleep(rng.uniform(0, 1))
            victim = rng.choice(worker_pool.members)
            kills.append(time.time())
            victim.kill()
            worker_pool.replace(victim)
        yield check_rows(f"{len(kills)} × kill -9 of a worker", client, folder, expected)
        trips = list(client.read_round_trips())
        recoveries = [max((end - kill for start, end in trips if start < kill < end), default=0.0) for kill in kills]
        yield check_longest("a killed worker's requests are answered by another", RECOVERY, recoveries, KILLS)


def kill_workers_before_acknowledgements(soak: SoakTest) -> Iterator[Figure]:
    """Kill workers between a reply and its acknowledgement."""
    setup, expected = soak.prepare(EVENTS, 50)
    folder, rng, kills = soak.name_folder("acknowledgements"), random.Random(), 0
    with WorkerPool(soak, setup, 1), running(setup, folder, *WAIT, "--debug") as client:
        while kills < LOST_ACKS and client.is_running:
            relay = KillingRelay(soak.node.port)
            with relay.running() as port, setup.with_port(port).start_worker(soak.name_folder("victim")) as victim:
                relay.kill_at(rng.randint(1, 5), victim)
                wait_until(lambda: not (victim.is_running and client.is_running), 120)
                kills += not victim.is_running
        yield check_rows(f"{kills} × kill -9 of a worker between reply and acknowledgement", client, folder, expected)
        doubled = client.out.count("discarded a reply to no pending request")
        yield Figure("second answers dropped by the client", f"≥ {LOST_ACKS}", str(doubled), doubled >= LOST_ACKS)


def stop_workers(soak: SoakTest) -> Iterator[Figure]:
    """Stop workers under load, and start others."""
    setup, expected = soak.prepare(EVENTS, 50)
    folder, rng = soak.name_folder("worker-stops"), random.Random()
    times: list[float] = []
    codes: set[int] = set()
    with WorkerPool(soak, setup) as worker_pool, running(setup, folder, *WAIT) as client:
        while len(times) < STOPS and client.is_running:
            time.sleep(rng.uniform(0, 1))
            victim, start = rng.choice(worker_pool.members), time.monotonic()
            victim.send(signal.SIGTERM)
            codes.add(victim.end())
            times.append(time.monotonic() - start)
            worker_pool.replace(victim)
        yield check_rows(f"{len(times)} × SIGTERM to a worker", client, folder, expected)
    yield check_longest("a worker told to stop under load ends", STOPPING, times, STOPS)
    yield Figure("with exit code", "0", ", ".join(map(str, codes)), codes == {0})


def kill_broker(soak: SoakTest) -> Iterator[Figure]:
    """Kill the broker, and start it again."""
    setup, expected = soak.prepare(EVENTS, 50)
    folder, rng = soak.name_folder("broker-kills"), random.Random()
    opened: list[float] = []
    with WorkerPool(soak, setup), running(setup, folder, *WAIT, *LOG) as client, ThreadPoolExecutor() as pool:
        while len(opened) < BROKER_KILLS and client.is_running:
            time.sleep(rng.uniform(0, 2))
            soak.node.kill()
            time.sleep(rng.uniform(0, 10))
            opening = pool.submit(wait_for_port, soak.node.port)
            soak.node.start()
            opened.append(opening.result())
            wait_until(lambda: [end for _, end in client.read_round_trips() if end > opened[-1]], 60)
        yield check_rows(f"{len(opened)} × kill -9 of the broker", client, folder, expected)
        answers = [end for _, end in client.read_round_trips()]
    resumptions = [min(end for end in answers if end > opening) - opening for opening in opened]
    yield check_longest("requests are answered again after the port opens", RESUMPTION, resumptions, BROKER_KILLS)


def start_without_broker(soak: SoakTest) -> Iterator[Figure]:
    """Start clients a minute before the broker."""
    setup, expected = soak.prepare(EVENTS // 50, 50)
    folders = {way: soak.name_folder(f"absent-{way}") for way in ("wait", "local")}
    soak.node.kill()
    start = time.monotonic()
    with (
        ThreadPoolExecutor() as pool,
        setup.start_client(folders["local"], *LOCAL) as local,
        setup.start_client(folders["wait"], *WAIT, *LOG) as waiting,
    ):
        code = local.end()
        seconds = time.monotonic() - start
        found = compare_verdicts(read_verdicts(folders["local"]), expected)
        yield Figure(
            f"no broker at the start, the edge decides {len(expected)} events for itself",
            f"{NO_DIFFERENCES}, exit code 0, ≤ {ABSENCE:g} s",
            f"{found}, exit code {code}, {seconds:.1f} s",
            (found, code) == (NO_DIFFERENCES, 0) and seconds <= ABSENCE,
        )
        time.sleep(ABSENCE - seconds)
        opening = pool.submit(wait_for_port, soak.node.port)
        soak.node.start()
        wait_until(lambda: "RabbitMQ is back" in waiting.err)
        back = time.time() - opening.result()
        with WorkerPool(soak, setup):
            yield check_rows(
                f"no broker for the first {ABSENCE:g} s, a client that waits", waiting, folders["wait"], expected
            )
    yield check_longest("it is connected after the port opens", RESUMPTION, [back], 1)


def cut_connections(soak: SoakTest) -> Iterator[Figure]:
    """Cut the connection of a client after random numbers of bytes, mostly within a request."""
    setup, expected = soak.prepare(EVENTS // 5, 50)
    folder, rng, relay = soak.name_folder("cuts"), random.Random(), FailingRelay(soak.node.port)
    with WorkerPool(soak, setup), relay.running() as port, running(setup.with_port(port), folder, *WAIT) as client:
        before = client.open_files
        relay.cut_after(*(rng.randrange(600, 40_000) for _ in range(CUTS)))  # the greeting has 600, a request 12,000
        wait_until(lambda: client.err.count("RabbitMQ is back") == CUTS or not client.is_running, _LONGEST)
        after = client.open_files
        yield check_rows(f"{CUTS} × connection cut inside a request", client, folder, expected)
    yield Figure("open files of the client after that many new connections", str(before), str(after), after == before)


def stop_clients(soak: SoakTest) -> Iterator[Figure]:
    """Stop or kill a client under load, and continue with --resume."""
    setup, expected = soak.prepare(EVENTS // 5, 50)
    folder, rng = soak.name_folder("client-stops"), random.Random()
    codes: list[int] = []
    with WorkerPool(soak, setup):
        for number in range(STOPS):
            way = (signal.SIGTERM, signal.SIGKILL)[number % 2]
            with running(setup, folder, *WAIT, "--resume") as client:
                time.sleep(rng.uniform(0, 1))
                client.send(way)
                codes.append(client.end())
        with setup.start_client(folder, *WAIT, "--resume") as client:
            yield check_rows(f"{STOPS} × a client stopped or killed, then --resume", client, folder, expected)
    left = sorted(path.name for path in folder.iterdir())
    yield Figure("exit codes", "0, -9", ", ".join(map(str, dict.fromkeys(codes))), set(codes[::2]) == {0})
    expected_files = ["err", "out", "verdicts.csv", "verdicts.csv.resume.json"]
    yield Figure("files left by a killed client", "its CSV and resume file", ", ".join(left), left == expected_files)


class MemoryWatch:
    """Samples the resident memory of processes once a second during its ``with`` block.

    Args:
        scripts: processes by name.
        done: returns the progress of the run, in any unit.
    """

    def __init__(self, scripts: Mapping[str, Script], done: Callable[[], float]) -> None:
        self._scripts = scripts
        self._done = done
        self._samples: list[tuple[float, dict[str, int]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.wait(1):
            with contextlib.suppress(OSError, IndexError):  # a process has ended
                self._samples.append((self._done(), {name: s.resident_bytes for name, s in self._scripts.items()}))

    def report(self, what: str) -> Iterator[Figure]:
        """Yield for each process whether its median memory grew from the second tenth of the run to the last."""
        total = max(done for done, _ in self._samples)
        for name in self._scripts:
            tenths: dict[int, list[int]] = {}
            for done, memory in self._samples:
                tenths.setdefault(min(int(10 * done / total), 9), []).append(memory[name])
            first, last = statistics.median(tenths[1]), statistics.median(tenths[9])
            yield Figure(
                f"{what}: resident memory of the {name}, medians of the second tenth and the last",
                f"grows < {100 * GROWTH:g} %",
                f"{first / 1e6:.1f} MB, {last / 1e6:.1f} MB ({100 * (last / first - 1):+.1f} %), "
                f"peak {max(map(max, tenths.values())) / 1e6:.1f} MB",
                last < (1 + GROWTH) * first,
            )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._over.set()
        self._thread.join()


def send_mutants(soak: SoakTest) -> Iterator[Figure]:
    """Send mutated and harmful messages to a worker and a client."""
    setup, expected = soak.prepare(EVENTS // 50, 20)
    folder, canary, port, dropped = soak.name_folder("mutants"), soak.folder / "canary", find_free_port(), [0.0]
    each = -(-MUTANTS // (len(expected) // setup.batch))
    front, patient = (
        soak.make_setup(setup.dataset, setup.batch),
        (*WAIT, "--request-timeout", 60, "--metrics-port", port),
    )
    with WorkerPool(soak, setup, 1) as worker_pool, Intruder(front, setup.queue, canary, each).running() as intruder:
        (worker,) = worker_pool.members
        with running(front, folder, *patient) as client:

            def done() -> float:
                dropped.append(read_metric(port, "ee_client_dropped_replies_total"))
                return intruder.sent

            with MemoryWatch({"worker": worker, "client": client}, done) as watch:
                yield check_rows("harmful messages meanwhile", client, folder, expected)
            yield from watch.report(f"{intruder.sent} harmful messages")
        worker.send(signal.SIGTERM)
        code = worker.end()
        refused = int(re.findall(r"^stopped: .* (\d+) refused", worker.out, re.M)[0])
    yield Figure(
        "harmful messages dropped by the client, refused by the worker",
        f"≥ {MUTANTS * 9 // 10} each",  # some mutants are valid
        f"{max(dropped):.0f}, {refused}",
        min(max(dropped), refused) >= MUTANTS * 9 // 10,
    )
    unharmed = code == 0 and not canary.exists()
    yield Figure("worker ends well, nothing unpickled", "yes", "yes" if unharmed else "NO", unharmed)


def _middle(certainties: NDArray[np.float64]) -> float:
    """Return a threshold that splits the certainties into halves, and that no certainty is close to."""
    values, counts = np.unique(certainties, return_counts=True)
    gaps, below = np.diff(values), np.cumsum(counts)[:-1] / len(certainties)
    chosen = np.argmin(np.where(gaps > 0.001, np.abs(below - 0.5), 1))
    return float(values[chosen] + gaps[chosen] / 2)


def decide_a_million(soak: SoakTest) -> Iterator[Figure]:
    """Decide a million events, half of them uncertain, with one client and one worker."""
    months = [pd.read_csv(month, dtype=str) for month in sorted(SAMPLE.parent.glob("2016_*.csv"))]
    few, many = soak.folder / "few.csv", soak.folder / "many.csv"
    table = pd.concat(months)
    table.to_csv(few, index=False)
    header, _, rows = few.read_text().partition("\n")
    times = -(-MILLION // len(table))
    many.write_text(f"{header}\n{rows * times}")
    once = soak.make_setup(few, 1000)
    limit = _middle(once.decide_locally(soak.name_folder("median"))["exit_1_certainty"].to_numpy())
    half = ("--normal-exit1-min-certainty", limit, "--attack-exit1-min-certainty", limit)
    expected = once.decide_locally(soak.name_folder("local"), *half)
    expected = pd.concat([expected] * times, ignore_index=True)
    setup, folder, start = soak.make_setup(many, 1000), soak.name_folder("million"), time.monotonic()
    with WorkerPool(soak, setup, 1) as worker_pool, setup.start_client(folder, *WAIT, *half) as client:
        verdicts = folder / "verdicts.csv"
        wait_until(lambda: verdicts.exists() or not client.is_running, 600)
        scripts = {"worker": worker_pool.members[0], "client": client}
        with MemoryWatch(scripts, lambda: verdicts.stat().st_size) as watch:
            code = client.end(_LONGEST)
        seconds = time.monotonic() - start
    found, offloaded = (
        compare_verdicts(read_verdicts(folder), expected),
        re.findall(r"offloaded \d+ \(([\d.]+) %", client.out),
    )
    yield Figure(
        f"{len(expected)} events, {offloaded[-1]} % uncertain, in {seconds:.0f} s: rows",
        f"{NO_DIFFERENCES}, exit code 0",
        f"{found}, exit code {code}",
        (found, code) == (NO_DIFFERENCES, 0),
    )
    yield from watch.report(f"{len(expected)} events")
    many.unlink()


STEPS = {
    "worker-kills": kill_workers,
    "acknowledgements": kill_workers_before_acknowledgements,
    "worker-stops": stop_workers,
    "broker-kills": kill_broker,
    "broker-absent": start_without_broker,
    "cuts": cut_connections,
    "client-stops": stop_clients,
    "mutants": send_mutants,
    "million": decide_a_million,
}


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("--output-folder", type=Path, default=Path("soak-output"), metavar="D")
    parser.add_argument(
        "--only", choices=sorted(STEPS), action="append", metavar="NAME", help="this alone: " + ", ".join(STEPS)
    )
    return parser


def run(args: argparse.Namespace) -> int:
    """Run the steps, and write their figures; return the exit code."""
    figures: list[Figure] = []
    with PrivateBroker() as node:
        soak = SoakTest(make_folder(args.output_folder).resolve(), node)
        for step in args.only or STEPS:
            for figure in STEPS[step](soak):
                figures.append(figure)
                print(f"  {figure.word}: {figure.name}: {figure.measured}", flush=True)
    path = args.output_folder / "soak.json"
    write_results(path, FIGURE_COLUMNS, [figure.cells() for figure in figures])
    print(f"{len(figures)} figures -> {path}; tests/benchmarks/write-readme.py makes a table of them")
    return 0 if all(figure.met for figure in figures) else 1


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
