"""How fast the link is, against the plainest one, in one run; bytes on the wire; how workers add up.

Run:
    python tests/benchmarks/link.py [--only NAME] [--rounds N]

Every program has one thread to compute with: an edge box and a cloud machine do not share their cores.
"""

import argparse
import contextlib
import copy
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from models.checkpoint import fingerprint, read_two_exits, write_checkpoint
from models.early_exit import TwoExits
from models.packing import pack_layers
from offload.broker import Broker, Host
from offload.client import Client, Patience
from offload.edge import Edge
from offload.load import Pace, ask, load_of, load_table
from offload.metrics import ClientMetrics
from offload.options import PASSWORD_VARIABLE
from offload.private_broker import PrivateBroker
from offload.protocol import FEATURES, Request, new_id
from offload.second_exit import CloudSecondExit, LocalSecondExit, Sending
from offload.torch_exits import Exit1, Exit2
from tests.benchmarks import plain_link
from tests.networks import calibrated_network
from tests.offload.link import FINGERPRINT, Relay, SleepingWorker, at
from utils.dataset import distinct_vectors, read_dataset, to_images
from utils.decision import is_accepted
from utils.metrics import certainty
from utils.schema import Thresholds
from utils.stopping import Stop

PATIENCE = Patience.of(120.0, 0)
CPU = torch.device("cpu")
NAMES = {"alexnet": "AlexNetWithExits", "mobilenet": "MobileNetV2WithExits"}


@dataclass(frozen=True)
class Bench:
    """What all measurements stand on."""

    broker: PrivateBroker
    folder: Path
    features: np.ndarray
    rounds: int
    trained: Path | None

    @property
    def link(self) -> Broker:
        return Broker((Host("127.0.0.1", self.broker.port),), self.broker.username, self.broker.password)

    def network(self, family: str) -> tuple[Path, TwoExits]:
        path = self.trained or self.folder / f"{family}.pth"
        if not path.exists():
            write_checkpoint(path, calibrated_network(NAMES[family]), {"data": "none"})
        network, _ = read_two_exits(path)
        return path, network

    @contextlib.contextmanager
    def process(self, *arguments: object) -> Iterator[None]:
        """Run a worker, and wait until it is ready."""
        environment = {**os.environ, PASSWORD_VARIABLE: self.broker.password, "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, *map(str, arguments)]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as worker:
            assert worker.stdout is not None
            try:
                while not worker.stdout.readline().startswith("ready"):
                    assert worker.poll() is None
                threading.Thread(target=worker.stdout.read, daemon=True).start()
                yield
            finally:
                worker.kill()

    def ours(self, family: str, queue: str, *options: object) -> contextlib.AbstractContextManager[None]:
        path, _ = self.network(family)
        return self.process(
            "offload/ee-processor-server.py", "--mq-hostname", "127.0.0.1", "--mq-port", self.broker.port,
            "--mq-username", self.broker.username, "--mq-queue", queue, "--trained-network-file", path,
            "--network", family, "--quiet", *options,
        )  # fmt: skip

    def plain(self, family: str, queue: str) -> contextlib.AbstractContextManager[None]:
        path, _ = self.network(family)
        return self.process(
            "tests/benchmarks/plain_link.py", self.broker.port, self.broker.username, queue, path
        )  # fmt: skip


def images_of(features: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Return images (N, 1, 8, 8), in chunks."""
    return torch.split(torch.from_numpy(to_images(features)), 32)


def half_offloaded(network: TwoExits, features: np.ndarray) -> Thresholds:
    """Return thresholds that leave half of the events uncertain, and about half of each class."""
    with torch.inference_mode():
        logits = torch.cat([network.edge(part)[1] for part in images_of(features)]).numpy()
    predictions, certainties = certainty(logits)
    levels = [np.unique(np.append(certainties[predictions == kind], 1.0)) for kind in (0, 1)]
    below = [np.searchsorted(np.sort(certainties[predictions == kind]), levels[kind]) for kind in (0, 1)]
    # A vector that repeats goes with all its rows, so exactly half of both cannot be had.
    miss = np.abs(np.add.outer(*below) / len(features) - 0.5)
    uneven = np.abs(np.subtract.outer(*(below[kind] / max(1, (predictions == kind).sum()) for kind in (0, 1))))
    miss = np.where(miss < 0.05, uneven, 1 + miss)
    normal, attack = np.unravel_index(miss.argmin(), miss.shape)
    thresholds = Thresholds(float(levels[0][normal]), float(levels[1][attack]), 0.0, 0.0)
    offloaded = ~is_accepted(predictions, certainties, thresholds.normal_exit_1, thresholds.attack_exit_1)
    distinct = len(distinct_vectors(features)[0])
    print(
        f"{len(features)} events, {distinct} distinct; offloaded {100 * offloaded.mean():.0f} %, "
        f"{len(distinct_vectors(features[offloaded])[0])} distinct"
    )
    return thresholds


def batches(features: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield a month's rows in batches."""
    return (features[i : i + size] for i in range(0, len(features), size))


def rate(events: int, work: Callable[[], object]) -> float:
    """Return events a second."""
    start = time.perf_counter()
    work()
    return events / (time.perf_counter() - start)


def one_client(bench: Bench, family: str, payload: str) -> None:
    """1,000-row batches, half offloaded: ours against plain, in turn."""
    _, network = bench.network(family)
    packed = copy.deepcopy(network)
    pack_layers(packed)
    thresholds = half_offloaded(network, bench.features)
    digest = fingerprint(network)
    with contextlib.ExitStack() as stack:
        stack.enter_context(bench.plain(family, "plain"))
        stack.enter_context(bench.ours(family, "ours"))
        client = stack.enter_context(Client(bench.link, "ours", PATIENCE, ClientMetrics()))
        plain = plain_link.PlainClient(bench.broker.port, bench.broker.username, "plain")
        local = LocalSecondExit(Exit2(packed, CPU))
        edge = Edge(
            Exit1(packed, CPU), thresholds, CloudSecondExit(client, Sending(digest, "b", payload), local, "wait")
        )

        def run_ours() -> None:
            verdicts = list(edge.decide_all(batches(bench.features, 1000), 8, Stop()))
            results["ours"] = np.concatenate([v.prediction for v in verdicts])

        def run_plain() -> None:
            answers = list(
                plain_link.decide_all(network, digest, batches(bench.features, 1000), thresholds, plain, payload)
            )
            results["plain"] = np.concatenate([predictions for predictions, _ in answers])

        results: dict[str, np.ndarray] = {}
        compare(f"one client, 1,000-row batches, half offloaded, {family}, {payload}", bench, run_plain, run_ours,
                len(bench.features))  # fmt: skip
        assert (results["ours"] == results["plain"]).mean() > 0.999


def many_clients(bench: Bench, family: str, payload: str, count: int = 100) -> None:
    """Sixteen clients of single events: ours against plain, in turn."""
    _, network = bench.network(family)
    digest = fingerprint(network)
    with contextlib.ExitStack() as stack:
        stack.enter_context(bench.plain(family, "plain"))
        stack.enter_context(bench.ours(family, "ours"))
        clients = [stack.enter_context(Client(bench.link, "ours", PATIENCE, ClientMetrics())) for _ in range(16)]
        plains = [plain_link.PlainClient(bench.broker.port, bench.broker.username, "plain") for _ in range(16)]
        sending = [Sending(digest, f"b{number}", payload) for number in range(16)]
        first, _ = distinct_vectors(bench.features)
        events = [bench.features[row : row + 1] for row in first[:16]]
        if payload != FEATURES:
            with torch.inference_mode():
                events = [network.segment_1(torch.from_numpy(to_images(one))).numpy() for one in events]

        def run_ours() -> None:
            load = load_of(load_table(ask(clients, sending, events, Pace(count, 0.0), Stop(), lambda _done: None)))
            assert load.answered == 16 * count
            print(load.summary())

        def run_plain() -> None:
            def loop(client: plain_link.PlainClient, one: np.ndarray) -> None:
                for _ in range(count):
                    client.ask(Request(new_id(), "plain", digest, payload, one))

            threads = [threading.Thread(target=loop, args=pair) for pair in zip(plains, events, strict=True)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        compare(f"sixteen clients of single events, {family}, {payload}", bench, run_plain, run_ours, 16 * count)


def bytes_on_the_wire(bench: Bench, family: str) -> None:
    """Bytes that cross the network for an event, both ways, AMQP and acknowledgements included."""
    _, network = bench.network(family)
    digest, events = fingerprint(network), bench.features[np.sort(distinct_vectors(bench.features)[0])][:1000]
    with torch.inference_mode():
        activations = torch.cat([network.segment_1(part) for part in images_of(events)]).numpy()
    counted: dict[str, float] = {}
    certainties: dict[str, np.ndarray] = {}
    with bench.ours(family, "bytes"):
        for name, sending, tensor in (
            ("features", Sending(digest, "b", "features"), events),
            ("activations", Sending(digest, "b", "activations"), activations),
            ("activations, float16", Sending(digest, "b", "activations", half_precision=True), activations),
        ):
            meter = Meter(bench.broker.port)
            with meter.running() as port:
                link = at(bench.link, port)
                with Client(link, "bytes", PATIENCE, ClientMetrics()) as client:
                    answer = client.submit(sending.request(tensor)).result()
                counted[name] = meter.bytes / len(events)
            certainties[name] = certainty(answer.logits)[1]
    for name, count in counted.items():
        difference = np.abs(certainties[name] - certainties["features"]).max()
        print(
            f"{family}, {name}: {count:.0f} bytes an event on the wire, 1/{counted['activations'] / count:.1f} of "
            f"activations; certainty differs by {difference:.1e}"
        )


class Meter(Relay):
    """A relay that counts."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.bytes = 0

    def on_data(self, data: bytes) -> None:
        self.bytes += len(data)


def scaling(bench: Bench, family: str) -> None:
    """Workers that only sleep, and workers that compute: how throughput grows with their number."""
    first = np.sort(distinct_vectors(bench.features)[0])
    requests = [bench.features[row : row + 1] for row in first[:64]]
    rates: dict[int, float] = {}
    for count in (1, 2, 4, 8):
        queue = f"sleepers{count}"
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                worker = stack.enter_context(SleepingWorker(folder, bench.link, queue, seconds_per_event=0.02))
                worker.wait_for("ready")
            clients = [stack.enter_context(Client(bench.link, queue, PATIENCE, ClientMetrics())) for _ in range(64)]
            sending = [Sending(FINGERPRINT, "b", "features") for _ in clients]
            table = load_table(ask(clients, sending, requests, Pace(5 * count, 0.0), Stop(), lambda _done: None))
            load = load_of(table)
            rates[count] = load.events / load.seconds
        print(f"{count} sleeping workers: {rates[count]:.1f} events/s, {rates[count] / rates[1]:.2f} times one")
    _, network = bench.network(family)
    digest = fingerprint(network)
    sending = [Sending(digest, "b", "features") for _ in range(16)]
    distinct = bench.features[first]
    batches = [distinct[(np.arange(64) + 64 * number) % len(distinct)] for number in range(16)]
    ratios = []
    for _ in range(bench.rounds):
        for count in (1, 2):
            queue = f"workers{count}"
            with contextlib.ExitStack() as stack:
                for _ in range(count):
                    stack.enter_context(bench.ours(family, queue, "--prefetch", 2))
                clients = [stack.enter_context(Client(bench.link, queue, PATIENCE, ClientMetrics())) for _ in sending]
                ask(clients, sending, batches, Pace(1, 0.0), Stop(), lambda _done: None)
                load = load_of(load_table(ask(clients, sending, batches, Pace(8, 0.0), Stop(), lambda _done: None)))
                rates[count] = load.events / load.seconds
        ratios.append(rates[2] / rates[1])
    print(
        f"two workers ({family}) against one on {os.cpu_count()} cores: ratio {statistics.median(ratios):.2f} "
        f"(from {min(ratios):.2f} to {max(ratios):.2f}), {rates[1]:.0f} -> {rates[2]:.0f} events/s"
    )


def compare(title: str, bench: Bench, plain: Callable[[], object], ours: Callable[[], object], events: int) -> None:
    """Run both in turn and print the median ratio."""
    ratios, rates = [], []
    for _ in range(bench.rounds):
        slow, fast = rate(events, plain), rate(events, ours)
        ratios.append(fast / slow)
        rates.append((slow, fast))
    slow, fast = (statistics.median(side) for side in zip(*rates, strict=True))
    spread = f"from {min(ratios):.2f} to {max(ratios):.2f}"
    print(
        f"{title}: plain {slow:.0f}, ours {fast:.0f} events/s, ratio {statistics.median(ratios):.2f} ({spread})",
        flush=True,
    )


MEASUREMENTS: dict[str, Callable[[Bench, argparse.Namespace], None]] = {
    "one": lambda bench, args: one_client(bench, args.family, args.payload),
    "many": lambda bench, args: many_clients(bench, args.family, args.payload),
    "bytes": lambda bench, args: bytes_on_the_wire(bench, args.family),
    "scaling": lambda bench, args: scaling(bench, args.family),
}


def main() -> int:
    """Measure; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=tuple(MEASUREMENTS), help="measure this alone")
    parser.add_argument("--family", choices=tuple(NAMES), default="alexnet")
    parser.add_argument("--trained-network-file", type=Path, help="(default: an untrained network)")
    parser.add_argument("--payload", choices=("features", "activations"), default="features")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--distinct", action="store_true", help="leave out the rows that repeat")
    parser.add_argument("--dataset", type=Path, default=ROOT / "dataset" / "sample" / "2016_03.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    features = read_dataset(args.dataset).features
    if args.distinct:
        features = features[np.sort(distinct_vectors(features)[0])]
    with PrivateBroker() as broker, tempfile.TemporaryDirectory() as folder:
        os.environ[PASSWORD_VARIABLE] = broker.password
        bench = Bench(broker, Path(folder), features, args.rounds, args.trained_network_file)
        for name in args.only or MEASUREMENTS:
            MEASUREMENTS[name](bench, args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
