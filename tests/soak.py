#!/usr/bin/env python3
"""Run the edge-cloud link for long while all sorts of things fail, and print what came of it.

Run:
    python tests/soak.py [--only NAME]

It needs RabbitMQ's programs and takes some forty minutes on two cores. The logs of all processes stay in the output
folder. Exit code 0: every figure is met; 1: one is not.
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
    RIGHT,
    Gate,
    Intruder,
    Scene,
    Script,
    all_by_cloud,
    check,
    metric,
    opening_of,
    read_verdicts,
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
EVENTS, KILLS, BROKER_KILLS, STOPS, THEFTS, CUTS, MUTANTS, MILLION = 100_000, 20, 10, 20, 20, 100, 100_000, 1_000_000
RECOVERY, RESUMPTION, STOPPING, ABSENCE, GROWTH = 2.0, 5.0, 30.0, 60.0, 0.05
NOTHING_WRONG = f"{RIGHT}, all by the cloud"
_LONGEST = 3600.0


class Ground:
    """A node, a checkpoint and datasets, on which the figures are taken.

    Args:
        folder: for the files of all.
        node: RabbitMQ.
    """

    def __init__(self, folder: Path, node: PrivateBroker) -> None:
        self.folder = folder
        self.node = node
        self.broker = node.connection
        self.checkpoint = folder / "calibrated.pth"
        write_checkpoint(self.checkpoint, calibrated_network("MobileNetV2WithExits"), {"data": "none"})
        self._expected: dict[int, pd.DataFrame] = {}

    def scene(self, count: int, batch: int) -> tuple[Scene, pd.DataFrame]:
        """Return a scene of so many distinct events, and the verdicts on them without a cloud."""
        dataset = self.folder / f"{count}.csv"
        if count not in self._expected:
            write_distinct_events(dataset, SAMPLE.parent, count)
            self._expected[count] = self.of(dataset, 100).without_cloud(self.new("local"))
        return self.of(dataset, batch), self._expected[count]

    def of(self, dataset: Path, batch: int) -> Scene:
        """Return the scene of a dataset, with a queue of its own."""
        return Scene(self.broker, f"soak.{make_id()}", self.checkpoint, dataset, batch)

    def new(self, name: str) -> Path:
        """Return a folder that is not there yet."""
        return self.folder / f"{name}-{make_id()[:8]}"


class Crew:
    """Workers of a scene, two unless told otherwise; use it in a ``with`` block."""

    def __init__(self, ground: Ground, scene: Scene, count: int = 2) -> None:
        self._ground, self._scene = ground, scene
        self._stack = contextlib.ExitStack()
        self.members = [self._enter() for _ in range(count)]

    def replace(self, victim: Script) -> None:
        """Put a worker that serves in the place of one that ended."""
        self.members[self.members.index(victim)] = self._enter().wait_for("ready: ", 120)

    def _enter(self) -> Script:
        return self._stack.enter_context(self._scene.worker(self._ground.new("worker"), "--prefetch", 4))

    def __enter__(self) -> Self:
        for worker in self.members:
            worker.wait_for("ready: ", 120)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stack.close()


@contextmanager
def running(scene: Scene, folder: Path, *options: object) -> Iterator[Script]:
    """Yield a client that has begun to decide."""
    with scene.client(folder, *options) as client:
        wait_until(lambda: "batch 1:" in client.out or not client.is_running, 120)
        yield client


def rows_of(what: str, client: Script, folder: Path, expected: pd.DataFrame) -> Figure:
    """Wait for a client's end and say whether its rows are right and all from the cloud."""
    code = client.end(_LONGEST)
    verdicts = read_verdicts(folder)
    found, by_cloud = check(verdicts, expected), all_by_cloud(verdicts)
    measured = f"{found}, {'all' if by_cloud else 'NOT all'} by the cloud, exit code {code}"
    met = (found, by_cloud, code) == (RIGHT, True, 0) and "Traceback" not in "\n".join(client.complaints)
    return Figure(f"{what}, {len(expected)} events: rows", f"{NOTHING_WRONG}, exit code 0", measured, met)


def at_most(name: str, limit: float, values: list[float], count: int) -> Figure:
    """Return the figure of the longest of so many times in seconds."""
    longest = max(values, default=float("nan"))
    return Figure(
        f"{name}, {count} times",
        f"≤ {limit:g} s, {count} times",
        f"{longest:.2f} s, {len(values)} times" + (f", median {float(np.median(values)):.2f} s" if values else ""),
        longest <= limit and len(values) == count,
    )


def worker_kills(ground: Ground) -> Iterator[Figure]:
    """Workers are killed at random moments, and started again."""
    scene, expected = ground.scene(EVENTS, 50)
    folder, rng = ground.new("worker-kills"), random.Random()
    kills: list[float] = []
    with Crew(ground, scene) as crew, running(scene, folder, *WAIT, *LOG) as client:
        while len(kills) < KILLS and client.is_running:
            time.sleep(rng.uniform(0, 1))
            victim = rng.choice(crew.members)
            kills.append(time.time())
            victim.kill()
            crew.replace(victim)
        yield rows_of(f"{len(kills)} × kill -9 of a worker", client, folder, expected)
        trips = list(client.round_trips())
        recoveries = [max((end - kill for start, end in trips if start < kill < end), default=0.0) for kill in kills]
        yield at_most("a killed worker's requests are answered by another", RECOVERY, recoveries, KILLS)


def acknowledgements(ground: Ground) -> Iterator[Figure]:
    """Workers are killed after a reply and before its acknowledgement."""
    scene, expected = ground.scene(EVENTS, 50)
    folder, rng, thefts = ground.new("acknowledgements"), random.Random(), 0
    with Crew(ground, scene, 1), running(scene, folder, *WAIT, "--debug") as client:
        while thefts < THEFTS and client.is_running:
            gate = Gate(ground.node.port)
            with gate.running() as port, scene.through(port).worker(ground.new("victim")) as victim:
                gate.kill_at(rng.randint(1, 5), victim)
                wait_until(lambda: not (victim.is_running and client.is_running), 120)
                thefts += not victim.is_running
        yield rows_of(f"{thefts} × kill -9 of a worker between reply and acknowledgement", client, folder, expected)
        doubled = client.out.count("discarded a reply to no pending request")
        yield Figure("second answers dropped by the client", f"≥ {THEFTS}", str(doubled), doubled >= THEFTS)


def worker_stops(ground: Ground) -> Iterator[Figure]:
    """Workers are stopped under load, and started again."""
    scene, expected = ground.scene(EVENTS, 50)
    folder, rng = ground.new("worker-stops"), random.Random()
    times: list[float] = []
    codes: set[int] = set()
    with Crew(ground, scene) as crew, running(scene, folder, *WAIT) as client:
        while len(times) < STOPS and client.is_running:
            time.sleep(rng.uniform(0, 1))
            victim, start = rng.choice(crew.members), time.monotonic()
            victim.send(signal.SIGTERM)
            codes.add(victim.end())
            times.append(time.monotonic() - start)
            crew.replace(victim)
        yield rows_of(f"{len(times)} × SIGTERM to a worker", client, folder, expected)
    yield at_most("a worker told to stop under load ends", STOPPING, times, STOPS)
    yield Figure("with exit code", "0", ", ".join(map(str, codes)), codes == {0})


def broker_kills(ground: Ground) -> Iterator[Figure]:
    """The broker is killed, and started again."""
    scene, expected = ground.scene(EVENTS, 50)
    folder, rng = ground.new("broker-kills"), random.Random()
    opened: list[float] = []
    with Crew(ground, scene), running(scene, folder, *WAIT, *LOG) as client, ThreadPoolExecutor() as pool:
        while len(opened) < BROKER_KILLS and client.is_running:
            time.sleep(rng.uniform(0, 2))
            ground.node.kill()
            time.sleep(rng.uniform(0, 10))
            opening = pool.submit(opening_of, ground.node.port)
            ground.node.start()
            opened.append(opening.result())
            wait_until(lambda: [end for _, end in client.round_trips() if end > opened[-1]], 60)
        yield rows_of(f"{len(opened)} × kill -9 of the broker", client, folder, expected)
        answers = [end for _, end in client.round_trips()]
    resumptions = [min(end for end in answers if end > opening) - opening for opening in opened]
    yield at_most("requests are answered again after the port opens", RESUMPTION, resumptions, BROKER_KILLS)


def broker_absent(ground: Ground) -> Iterator[Figure]:
    """There is no broker at the start, nor for a minute."""
    scene, expected = ground.scene(EVENTS // 50, 50)
    folders = {way: ground.new(f"absent-{way}") for way in ("wait", "local")}
    ground.node.kill()
    start = time.monotonic()
    with (
        ThreadPoolExecutor() as pool,
        scene.client(folders["local"], *LOCAL) as local,
        scene.client(folders["wait"], *WAIT, *LOG) as waiting,
    ):
        code = local.end()
        seconds = time.monotonic() - start
        found = check(read_verdicts(folders["local"]), expected)
        yield Figure(
            f"no broker at the start, the edge decides {len(expected)} events for itself",
            f"{RIGHT}, exit code 0, ≤ {ABSENCE:g} s",
            f"{found}, exit code {code}, {seconds:.1f} s",
            (found, code) == (RIGHT, 0) and seconds <= ABSENCE,
        )
        time.sleep(ABSENCE - seconds)
        opening = pool.submit(opening_of, ground.node.port)
        ground.node.start()
        wait_until(lambda: "RabbitMQ is back" in waiting.err)
        back = time.time() - opening.result()
        with Crew(ground, scene):
            yield rows_of(
                f"no broker for the first {ABSENCE:g} s, a client that waits", waiting, folders["wait"], expected
            )
    yield at_most("it is connected after the port opens", RESUMPTION, [back], 1)


def cuts(ground: Ground) -> Iterator[Figure]:
    """The client's connection is cut at random bytes, mostly within a request."""
    scene, expected = ground.scene(EVENTS // 5, 50)
    folder, rng, relay = ground.new("cuts"), random.Random(), FailingRelay(ground.node.port)
    with Crew(ground, scene), relay.running() as port, running(scene.through(port), folder, *WAIT) as client:
        before = client.open_files
        relay.cut_after(*(rng.randrange(600, 40_000) for _ in range(CUTS)))  # the greeting has 600, a request 12,000
        wait_until(lambda: client.err.count("RabbitMQ is back") == CUTS or not client.is_running, _LONGEST)
        after = client.open_files
        yield rows_of(f"{CUTS} × connection cut inside a request", client, folder, expected)
    yield Figure("open files of the client after that many new connections", str(before), str(after), after == before)


def client_stops(ground: Ground) -> Iterator[Figure]:
    """A client is stopped or killed under load, and goes on with --resume."""
    scene, expected = ground.scene(EVENTS // 5, 50)
    folder, rng = ground.new("client-stops"), random.Random()
    codes: list[int] = []
    with Crew(ground, scene):
        for number in range(STOPS):
            way = (signal.SIGTERM, signal.SIGKILL)[number % 2]
            with running(scene, folder, *WAIT, "--resume") as client:
                time.sleep(rng.uniform(0, 1))
                client.send(way)
                codes.append(client.end())
        with scene.client(folder, *WAIT, "--resume") as client:
            yield rows_of(f"{STOPS} × a client stopped or killed, then --resume", client, folder, expected)
    left = sorted(path.name for path in folder.iterdir())
    yield Figure("exit codes", "0, -9", ", ".join(map(str, dict.fromkeys(codes))), set(codes[::2]) == {0})
    expected_files = ["err", "out", "verdicts.csv", "verdicts.csv.resume.json"]
    yield Figure("files left by a killed client", "its CSV and resume file", ", ".join(left), left == expected_files)


class MemoryWatch:
    """Takes the resident memory of processes each second; use it in a ``with`` block.

    Args:
        scripts: by name.
        done: returns how much has been done; any unit.
    """

    def __init__(self, scripts: Mapping[str, Script], done: Callable[[], float]) -> None:
        self._scripts = scripts
        self._done = done
        self._samples: list[tuple[float, dict[str, int]]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._over.wait(1):
            with contextlib.suppress(OSError, IndexError):  # one has ended
                self._samples.append((self._done(), {name: s.resident for name, s in self._scripts.items()}))

    def figures(self, what: str) -> Iterator[Figure]:
        """Return how the memory of each grew from the second tenth to the last; a peak that goes again is no growth."""
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


def mutants(ground: Ground) -> Iterator[Figure]:
    """Mutated and harmful messages go both ways."""
    scene, expected = ground.scene(EVENTS // 50, 20)
    folder, canary, port, dropped = ground.new("mutants"), ground.folder / "canary", find_free_port(), [0.0]
    each = -(-MUTANTS // (len(expected) // scene.batch))
    front, patient = ground.of(scene.dataset, scene.batch), (*WAIT, "--request-timeout", 60, "--metrics-port", port)
    with Crew(ground, scene, 1) as crew, Intruder(front, scene.queue, canary, each).running() as intruder:
        (worker,) = crew.members
        with running(front, folder, *patient) as client:

            def done() -> float:
                dropped.append(metric(port, "ee_client_dropped_replies_total"))
                return intruder.sent

            with MemoryWatch({"worker": worker, "client": client}, done) as watch:
                yield rows_of("harmful messages meanwhile", client, folder, expected)
            yield from watch.figures(f"{intruder.sent} harmful messages")
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
    """Return a limit that about half of the certainties are below, and none is close to."""
    values, counts = np.unique(certainties, return_counts=True)
    gaps, below = np.diff(values), np.cumsum(counts)[:-1] / len(certainties)
    chosen = np.argmin(np.where(gaps > 0.001, np.abs(below - 0.5), 1))
    return float(values[chosen] + gaps[chosen] / 2)


def million(ground: Ground) -> Iterator[Figure]:
    """A million events, half of them uncertain, through one client and one worker."""
    months = [pd.read_csv(month, dtype=str) for month in sorted(SAMPLE.parent.glob("2016_*.csv"))]
    few, many = ground.folder / "few.csv", ground.folder / "many.csv"
    table = pd.concat(months)
    table.to_csv(few, index=False)
    header, _, rows = few.read_text().partition("\n")
    times = -(-MILLION // len(table))
    many.write_text(f"{header}\n{rows * times}")
    once = ground.of(few, 1000)
    limit = _middle(once.without_cloud(ground.new("median"))["exit_1_certainty"].to_numpy())
    half = ("--normal-exit1-min-certainty", limit, "--attack-exit1-min-certainty", limit)
    expected = once.without_cloud(ground.new("local"), *half)
    expected = pd.concat([expected] * times, ignore_index=True)
    scene, folder, start = ground.of(many, 1000), ground.new("million"), time.monotonic()
    with Crew(ground, scene, 1) as crew, scene.client(folder, *WAIT, *half) as client:
        verdicts = folder / "verdicts.csv"
        wait_until(lambda: verdicts.exists() or not client.is_running, 600)
        scripts = {"worker": crew.members[0], "client": client}
        with MemoryWatch(scripts, lambda: verdicts.stat().st_size) as watch:
            code = client.end(_LONGEST)
        seconds = time.monotonic() - start
    found, offloaded = check(read_verdicts(folder), expected), re.findall(r"offloaded \d+ \(([\d.]+) %", client.out)
    yield Figure(
        f"{len(expected)} events, {offloaded[-1]} % uncertain, in {seconds:.0f} s: rows",
        f"{RIGHT}, exit code 0",
        f"{found}, exit code {code}",
        (found, code) == (RIGHT, 0),
    )
    yield from watch.figures(f"{len(expected)} events")
    many.unlink()


STEPS = {
    "worker-kills": worker_kills,
    "acknowledgements": acknowledgements,
    "worker-stops": worker_stops,
    "broker-kills": broker_kills,
    "broker-absent": broker_absent,
    "cuts": cuts,
    "client-stops": client_stops,
    "mutants": mutants,
    "million": million,
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
    """Take the figures; return the exit code."""
    figures: list[Figure] = []
    with PrivateBroker() as node:
        ground = Ground(make_folder(args.output_folder).resolve(), node)
        for step in args.only or STEPS:
            for figure in STEPS[step](ground):
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
