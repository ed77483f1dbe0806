#!/usr/bin/env python3
"""Many clients of one worker, against the plainest link; bytes on the wire; how workers add up.

Run:
    python tests/benchmarks/link.py [--only NAME] [--rounds N]

Every program has one thread to compute with: an edge box and a cloud machine do not share their cores. Our workers
remember nothing, for the same events come in every round.
"""

import argparse
import contextlib
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

from models.checkpoint import compute_fingerprint, read_two_exits, write_checkpoint
from models.early_exit import TwoExits
from offload.link.broker import PASSWORD_VARIABLE, Broker
from offload.link.client import Client
from offload.link.load import Pace, send_requests, summarize_load, tabulate_results
from offload.link.pending_requests import RetryPolicy
from offload.link.private_broker import PrivateBroker
from offload.link.protocol import FEATURES, Request, RequestTemplate, make_id
from offload.operations.metrics import ClientMetrics
from tests.benchmarks import plain_link
from tests.networks import calibrated_network
from tests.offload.link_ends import FINGERPRINT, Relay, SleepingWorker, at
from utils.classification_metrics import classify
from utils.dataset import find_distinct_vectors, read_dataset, to_images
from utils.stopping import Stop

PATIENCE = RetryPolicy.from_options(120.0, 0)
CPU = torch.device("cpu")
NAMES = {"alexnet": "AlexNetWithExits", "mobilenet": "MobileNetV2WithExits"}


@dataclass(frozen=True)
class Link:
    """What all measurements stand on."""

    node: PrivateBroker
    folder: Path
    features: np.ndarray
    rounds: int
    trained: Path | None

    @property
    def broker(self) -> Broker:
        return self.node.connection

    def network(self, family: str) -> tuple[Path, TwoExits]:
        path = self.trained or self.folder / f"{family}.pth"
        if not path.exists():
            write_checkpoint(path, calibrated_network(NAMES[family]), {"data": "none"})
        network, _ = read_two_exits(path)
        return path, network

    @contextlib.contextmanager
    def process(self, *arguments: object) -> Iterator[None]:
        """Run a worker, and wait until it is ready."""
        environment = {**os.environ, PASSWORD_VARIABLE: self.node.password, "PYTHONUNBUFFERED": "1"}
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
            "offload/ee-processor-server.py", "--mq-hostname", "127.0.0.1", "--mq-port", self.node.port,
            "--mq-username", self.node.username, "--mq-queue", queue, "--trained-network-file", path,
            "--network", family, "--quiet", "--cache-size", 0, *options,
        )  # fmt: skip

    def plain(self, family: str, queue: str) -> contextlib.AbstractContextManager[None]:
        path, _ = self.network(family)
        return self.process(
            "tests/benchmarks/plain_link.py", self.node.port, self.node.username, queue, path
        )  # fmt: skip


def images_of(features: np.ndarray) -> tuple[torch.Tensor, ...]:
    """Return images (N, 1, 8, 8), in chunks."""
    return torch.split(torch.from_numpy(to_images(features)), 32)


def rate(events: int, work: Callable[[], object]) -> float:
    """Return events a second."""
    start = time.perf_counter()
    work()
    return events / (time.perf_counter() - start)


def many_clients(here: Link, family: str, payload: str, *options: object, count: int = 100) -> None:
    """Sixteen clients of single events: ours, a worker with these options, against plain, in turn."""
    _, network = here.network(family)
    digest = compute_fingerprint(network)
    with contextlib.ExitStack() as stack:
        stack.enter_context(here.plain(family, "plain"))
        stack.enter_context(here.ours(family, "ours", *options))
        clients = [stack.enter_context(Client(here.broker, "ours", PATIENCE, ClientMetrics())) for _ in range(16)]
        plains = [plain_link.PlainClient(here.node.port, here.node.username, "plain") for _ in range(16)]
        templates = [RequestTemplate(digest, f"b{number}", payload) for number in range(16)]
        first, _ = find_distinct_vectors(here.features)
        events = [here.features[row : row + 1] for row in first[:16]]
        if payload != FEATURES:
            with torch.inference_mode():
                events = [network.segment_1(torch.from_numpy(to_images(one))).numpy() for one in events]

        def run_ours() -> None:
            results = send_requests(clients, templates, events, Pace(count, 0.0), Stop(), lambda _done: None)
            load = summarize_load(tabulate_results(results))
            assert load.answered == 16 * count
            print(load.summarize())

        def run_plain() -> None:
            def loop(client: plain_link.PlainClient, one: np.ndarray) -> None:
                for _ in range(count):
                    client.ask(Request(make_id(), "plain", digest, payload, one))

            threads = [threading.Thread(target=loop, args=pair) for pair in zip(plains, events, strict=True)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        title = " ".join(map(str, (f"sixteen clients of single events, {family}, {payload}", *options)))
        compare(title, here, run_plain, run_ours, 16 * count)


def bytes_on_the_wire(here: Link, family: str) -> None:
    """Bytes that cross the network for an event, both ways, AMQP and acknowledgements included."""
    _, network = here.network(family)
    digest = compute_fingerprint(network)
    events = here.features[np.sort(find_distinct_vectors(here.features)[0])][:1000]
    with torch.inference_mode():
        activations = torch.cat([network.segment_1(part) for part in images_of(events)]).numpy()
    counted: dict[str, float] = {}
    certainties: dict[str, np.ndarray] = {}
    with here.ours(family, "bytes"):
        for name, template, tensor in (
            ("features", RequestTemplate(digest, "b", "features"), events),
            ("activations", RequestTemplate(digest, "b", "activations"), activations),
            ("activations, float16", RequestTemplate(digest, "b", "activations", half_precision=True), activations),
        ):
            meter = Meter(here.node.port)
            with meter.running() as port:
                link = at(here.broker, port)
                with Client(link, "bytes", PATIENCE, ClientMetrics()) as client:
                    answer = client.submit(template.make_request(tensor)).result()
                counted[name] = meter.bytes / len(events)
            certainties[name] = classify(answer.logits)[1]
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


def scaling(here: Link, family: str) -> None:
    """Workers that only sleep, and workers that compute: how throughput grows with their number."""
    first = np.sort(find_distinct_vectors(here.features)[0])
    requests = [here.features[row : row + 1] for row in first[:64]]
    rates: dict[int, float] = {}
    for count in (1, 2, 4, 8):
        queue = f"sleepers{count}"
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                worker = stack.enter_context(SleepingWorker(folder, here.broker, queue, seconds_per_event=0.02))
                worker.wait_for("ready")
            clients = [stack.enter_context(Client(here.broker, queue, PATIENCE, ClientMetrics())) for _ in range(64)]
            templates = [RequestTemplate(FINGERPRINT, "b", "features") for _ in clients]
            results = send_requests(clients, templates, requests, Pace(5 * count, 0.0), Stop(), lambda _done: None)
            load = summarize_load(tabulate_results(results))
            rates[count] = load.events / load.seconds
        print(f"{count} sleeping workers: {rates[count]:.1f} events/s, {rates[count] / rates[1]:.2f} times one")
    _, network = here.network(family)
    digest = compute_fingerprint(network)
    templates = [RequestTemplate(digest, "b", "features") for _ in range(16)]
    distinct = here.features[first]
    batches = [distinct[(np.arange(64) + 64 * number) % len(distinct)] for number in range(16)]
    ratios = []
    for _ in range(here.rounds):
        for count in (1, 2):
            queue = f"workers{count}"
            with contextlib.ExitStack() as stack:
                for _ in range(count):
                    stack.enter_context(here.ours(family, queue, "--prefetch", 2))
                clients = [
                    stack.enter_context(Client(here.broker, queue, PATIENCE, ClientMetrics())) for _ in templates
                ]
                send_requests(clients, templates, batches, Pace(1, 0.0), Stop(), lambda _done: None)
                results = send_requests(clients, templates, batches, Pace(8, 0.0), Stop(), lambda _done: None)
                load = summarize_load(tabulate_results(results))
                rates[count] = load.events / load.seconds
        ratios.append(rates[2] / rates[1])
    print(
        f"two workers ({family}) against one on {os.cpu_count()} cores: ratio {statistics.median(ratios):.2f} "
        f"(from {min(ratios):.2f} to {max(ratios):.2f}), {rates[1]:.0f} -> {rates[2]:.0f} events/s"
    )


def compare(title: str, here: Link, plain: Callable[[], object], ours: Callable[[], object], events: int) -> None:
    """Run both in turn and print the median ratio."""
    ratios, rates = [], []
    for _ in range(here.rounds):
        slow, fast = rate(events, plain), rate(events, ours)
        ratios.append(fast / slow)
        rates.append((slow, fast))
    slow, fast = (statistics.median(side) for side in zip(*rates, strict=True))
    spread = f"from {min(ratios):.2f} to {max(ratios):.2f}"
    print(
        f"{title}: plain {slow:.0f}, ours {fast:.0f} events/s, ratio {statistics.median(ratios):.2f} ({spread})",
        flush=True,
    )


MEASUREMENTS: dict[str, Callable[[Link, argparse.Namespace], None]] = {
    "many": lambda here, args: many_clients(here, args.family, args.payload),
    "int8": lambda here, args: many_clients(here, args.family, args.payload, "--quantize", "int8"),
    "bytes": lambda here, args: bytes_on_the_wire(here, args.family),
    "scaling": lambda here, args: scaling(here, args.family),
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
        features = features[np.sort(find_distinct_vectors(features)[0])]
    with PrivateBroker() as broker, tempfile.TemporaryDirectory() as folder:
        os.environ[PASSWORD_VARIABLE] = broker.password
        here = Link(broker, Path(folder), features, args.rounds, args.trained_network_file)
        for name in args.only or MEASUREMENTS:
            if name != "int8" or args.family == "alexnet":  # of the others no layer is computed in 8 bits
                MEASUREMENTS[name](here, args)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
