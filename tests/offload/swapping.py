"""Helpers: edges and workers that change releases under load, with what is lost, doubled, misplaced or refused."""

import contextlib
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from offload.link.broker import Broker
from tests.networks import calibrated_network
from tests.offload.chaos import Differences, Script, compare_verdicts, read_verdicts
from tests.offload.link_ends import PATIENCE, wait_until
from tests.offload.releases import ALL_UNCERTAIN, MOBILENET, write_release, write_same_exit_2
from tests.scripts import CLIENT, SERVER
from utils.release import point_to
from utils.schema import RELEASE_COLUMN, Thresholds

RELEASES = ("r1", "r2", "r3")
BATCH = 8
_LONGEST_WAIT = 0.6
"""Most seconds from a change of the link until a worker is killed: about when others open the release."""
_EDGE_DECIDES = Thresholds(0.9, 0.9, ALL_UNCERTAIN.normal_exit_2, ALL_UNCERTAIN.attack_exit_2)


def write_swapped_releases(folder: Path) -> Path:
    """Write a folder of three releases. The first and the last have one fingerprint."""
    first = write_release(folder / RELEASES[0], calibrated_network(MOBILENET, 0))
    write_release(folder / RELEASES[1], calibrated_network(MOBILENET, 1), parent=RELEASES[0])
    write_same_exit_2(first, folder / RELEASES[2], _EDGE_DECIDES)
    point_to(folder, RELEASES[0])
    return folder


def decide_by_each(folder: Path, releases: Path, dataset: Path) -> dict[str, pd.DataFrame]:
    """Return, by release, the verdicts of a client that computes both exits with it."""
    expected = {}
    for name in RELEASES:
        options = ("--process-exit2-locally", "--release", releases / name, "--dataset", dataset)
        savefile = folder / name / "verdicts.csv"
        with Script(folder / name, CLIENT, *options, "--batch-size", BATCH, "--savefile", savefile) as client:
            assert client.end(3600) == 0, client.err
        expected[name] = read_verdicts(folder / name)
    return expected


@dataclass
class Figures:
    """What a run of swaps gave.

    Attributes:
        swaps, kills: how often the link was changed, and a worker was killed meanwhile.
        rows: rows of all edges.
        used: number of rows that each release decided.
        differences: from the verdicts of the release that each row names.
        refused: replies of the workers that are refusals.
        opened_on_request: how often a worker opened a release because a request named it.
        change_over: most seconds from an opened release to its use.
        opening: most seconds to check and open a release.
        in_use: most seconds from the change of the link to the use.
    """

    swaps: int = 0
    kills: int = 0
    rows: int = 0
    used: dict[str, int] = field(default_factory=dict)
    differences: Differences = field(default_factory=Differences)
    refused: int = 0
    opened_on_request: int = 0
    change_over: float = 0.0
    opening: float = 0.0
    in_use: float = 0.0

    def __str__(self) -> str:
        found = self.differences
        return (
            f"{self.swaps} swaps, {self.kills} workers killed, {self.rows} rows: {found.lost} lost, "
            f"{found.duplicated} doubled, {found.misplaced} misplaced, {self.refused} refused, "
            f"{found.unanswered} unanswered, {found.wrong} other than the release says; "
            f"largest change-over {self.change_over:.3f} s, opening {self.opening:.2f} s, "
            f"from the link to the use {self.in_use:.2f} s; {self.opened_on_request} opened on request; rows: "
            + ", ".join(f"{name} {count}" for name, count in sorted(self.used.items()))
        )


class Fleet:
    """Two edges and two workers that run the current release of a folder.

    Args:
        broker: connection settings.
        queue: the request queue.
        releases: folder of ``write_swapped_releases``.
        dataset: distinct events, which each edge decides; when it has done so, another edge takes its place.
        folder: for the output of the processes.
        batches: that each edge decides from one swap to the next, at least.
    """

    def __init__(
        self, broker: Broker, queue: str, releases: Path, dataset: Path, folder: Path, batches: int = 3
    ) -> None:
        self._batches = batches
        self._releases, self._dataset, self._folder = releases, dataset, folder
        (host, *_) = broker.hosts
        self._common = (
            "--mq-hostname", host.name, "--mq-port", host.port, "--mq-username", broker.username, "--mq-queue", queue,
            "--release", releases, "--log-format", "json",
        )  # fmt: skip
        self._password = broker.password
        self._stack = contextlib.ExitStack()
        self._workers: list[Script] = []
        self._edges: list[Script] = []
        self._former: list[Script] = []  # workers that were killed
        self._folders: dict[Script, Path] = {}  # of all edges
        self.figures = Figures()

    @contextlib.contextmanager
    def running(self) -> Iterator["Fleet"]:
        """Start all processes; in the block, the edges decide events."""
        with self._stack:
            for _ in range(2):
                self._start_worker()
            for worker in self._workers:
                worker.wait_for('"ready"')
            self._keep_load()
            yield self

    def _start_worker(self) -> Script:
        number = len(self._workers) + len(self._former)
        script = Script(self._folder / f"worker-{number}", SERVER, *self._common, password=self._password)
        self._workers.append(self._stack.enter_context(script))
        return script

    def _start_edge(self) -> Script:
        folder = self._folder / f"edge-{len(self._folders)}"
        script = Script(
            folder, CLIENT, *self._common, "--dataset", self._dataset, "--batch-size", BATCH, "--window", 4,
            "--savefile", folder / "verdicts.csv", "--show-decider", "--on-cloud-failure", "wait",
            password=self._password,
        )  # fmt: skip
        self._folders[script] = folder
        return self._stack.enter_context(script)

    def _keep_load(self) -> None:
        """Let two edges decide events."""
        running = [edge for edge in self._edges if edge.is_running]
        self._edges = [*running, *(self._start_edge() for _ in range(2 - len(running)))]
        for edge in self._edges:
            edge.wait_for("batch 3:")

    def swap(self, name: str, *, kill: bool = False) -> None:
        """Make a release the current one, and wait until all processes use it and have worked with it.

        Args:
            name: of the release.
            kill: kill a worker meanwhile, and start another one.
        """
        self._keep_load()
        scripts = [*self._edges, *self._workers]
        before = {script: len(_uses(script)) for script in scripts}
        start = time.time()
        point_to(self._releases, name)
        self.figures.swaps += 1
        if kill:
            time.sleep(random.uniform(0, _LONGEST_WAIT))
            victim = random.choice(self._workers)
            victim.kill()
            self.figures.kills += 1
            scripts.remove(victim)
            self._former.append(victim)
            self._workers.remove(victim)
            self._start_worker().wait_for('"ready"')
        for script in scripts:
            use = _wait_for_use(script, before[script])
            if use is None and script in self._edges:
                continue  # it has decided its last event
            assert use is not None, script.err
            moment, change_over, opening, used = use
            assert used == name, (name, _uses(script), script.err)
            self.figures.change_over = max(self.figures.change_over, change_over)
            self.figures.opening = max(self.figures.opening, opening)
            self.figures.in_use = max(self.figures.in_use, moment - start)
        for edge in self._edges:  # a number of batches, so that the speed of the machine does not matter
            self._work(edge)

    def _work(self, edge: Script) -> None:
        enough = edge.out.count('"batch ') + self._batches
        wait_until(lambda: edge.out.count('"batch ') >= enough or not edge.is_running)

    def finish(self, expected: Mapping[str, pd.DataFrame]) -> Figures:
        """Wait for the end of the edges; return the figures, given the verdicts by release."""
        figures = self.figures
        for edge, folder in self._folders.items():
            assert edge.end(30 * PATIENCE) == 0, edge.err
            assert edge.err == "", edge.err
            verdicts = read_verdicts(folder)
            figures.rows += len(verdicts)
            for name, count in verdicts[RELEASE_COLUMN].value_counts().items():
                figures.used[str(name)] = figures.used.get(str(name), 0) + int(count)
            figures.differences += compare_verdicts(verdicts, choose_rows(verdicts, expected))
        for worker in (*self._workers, *self._former):
            events = [fields.get("event") for _, fields in worker.read_log()]
            figures.refused += events.count("refused")
            figures.opened_on_request += events.count("release-opened")
            assert "release-broken" not in worker.err, worker.err
        return figures


def _wait_for_use(script: Script, before: int) -> tuple[float, float, float, str] | None:
    """Wait until a process has logged more than ``before`` changes; return the next one, None if it ended before."""
    wait_until(lambda: len(_uses(script)) > before or not script.is_running)
    return next(iter(_uses(script)[before:]), None)


def _uses(script: Script) -> list[tuple[float, float, float, str]]:
    """Return the changes that a process logged: time, seconds of the change-over and of the opening, release."""
    return [
        (moment, fields["seconds"], fields["opened_in_seconds"], fields["release"])
        for moment, fields in script.read_log()
        if fields.get("event") == "release"
    ]


def choose_rows(verdicts: pd.DataFrame, expected: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the expected verdicts, each row those of the release that the row of the same number names."""
    names = np.full(len(expected[RELEASES[0]]), RELEASES[0], dtype=object)
    found = verdicts[RELEASE_COLUMN].to_numpy()[: len(names)]
    names[: len(found)] = found
    rows: pd.DataFrame = pd.concat([table[names == name] for name, table in expected.items()]).sort_index()
    return rows
