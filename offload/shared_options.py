"""Command-line options that client, worker and load generator share; ``broker_options`` has those of RabbitMQ."""

import argparse
import contextlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import models
from offload import defaults
from utils import cli
from utils.errors import InputFileError
from utils.expert_options import add_expert

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from offload.operations.health_server import Health

LOG_FORMATS: Final = ("text", "json")
_EPILOG: Final = "offload/README.md lists further options for experts, which can also be set in the environment."


def add_network(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of the network: file, family and device; return their group."""
    group = parser.add_argument_group("network")
    group.add_argument(
        "--trained-network-file",
        required=True,
        type=Path,
        metavar="FILE",
        help="checkpoint (.pth), the same on both sides, or its exported first half (.onnx)",
    )
    group.add_argument(
        "--network",
        type=cli.one_of(models.FAMILIES),
        metavar="{" + ",".join(models.FAMILIES) + "}",
        help="family that the network in the file must have (default: any)",
    )
    cli.add_device(group)
    return group


def add_computing(group: argparse._ActionsContainer) -> None:
    """Add the options of the computation: runtime, second half of an exported network, threads, chunk and cache."""
    cli.add_runtime(group, "to compute exit 2 here (default: only workers compute it)")
    add_expert(
        group,
        "--threads",
        type=cli.or_auto(cli.whole_number(1, 1024)),
        metavar="N",
        meaning="threads per inference; `auto` benchmarks one thread against all cores (1; for a checkpoint all cores)",
    )
    add_expert(
        group,
        "--chunk",
        type=cli.or_auto(cli.whole_number(1, 4096)),
        default=32,
        metavar="N",
        meaning="most events of one pass; `auto` benchmarks several values",
    )
    add_cache_size(group)


def add_cache_size(group: argparse._ActionsContainer) -> None:
    """Add the size of the cache."""
    add_expert(
        group,
        "--cache-size",
        type=cli.whole_number(0, 10_000_000),
        default=defaults.CACHE_SIZE,
        metavar="N",
        meaning="vectors whose logits are cached, half a kilobyte each; 0: no cache",
    )


def add_threads(group: argparse._ActionsContainer) -> None:
    """Add the number of threads."""
    add_expert(
        group,
        "--threads",
        type=cli.whole_number(1, 1024),
        metavar="N",
        meaning="threads per inference (all cores)",
    )


def add_asking(parser: argparse.ArgumentParser) -> None:
    """Add the options of requests to the cloud, and of its failure."""
    group = parser.add_argument_group("cloud")
    group.add_argument("--process-exit2-locally", action="store_true", help="compute exit 2 here, without RabbitMQ")
    add_payload(group)
    add_expert(
        group,
        "--window",
        type=cli.whole_number(1, 1000),
        default=defaults.WINDOW,
        metavar="N",
        meaning="most requests in flight",
    )
    add_request_timeout(group)
    group.add_argument(
        "--on-cloud-failure",
        choices=defaults.FAILURE_POLICIES,
        default=defaults.FAILURE_POLICIES[0],
        help="if the cloud does not answer: compute exit 2 here, reject events, or wait (default: %(default)s)",
    )
    add_expert(
        group,
        "--wait-timeout",
        type=cli.real_number(0.1, 1e7),
        default=defaults.WAIT_TIMEOUT,
        metavar="S",
        meaning="seconds after which `--on-cloud-failure wait` gives up",
    )
    add_expert(
        group,
        "--drain-timeout",
        type=cli.real_number(0, 86400),
        default=defaults.DRAIN_TIMEOUT,
        metavar="S",
        meaning="seconds to wait for replies after SIGTERM",
    )


def add_payload(group: argparse._ActionsContainer) -> None:
    """Add the options of the content of requests."""
    add_expert(
        group,
        "--payload",
        type=cli.one_of(defaults.PAYLOADS),
        default=defaults.PAYLOADS[0],
        metavar="{features,activations}",
        meaning="content of requests: the 58 features, or the activations behind segment 1",
    )
    add_expert(group, "--half-precision", action="store_true", meaning="send activations as float16, half the bytes")


def add_request_timeout(group: argparse._ActionsContainer) -> None:
    """Add the options of the timeout and the retries of requests."""
    add_expert(
        group,
        "--request-timeout",
        type=cli.real_number(0.1, 86400),
        default=defaults.REQUEST_TIMEOUT,
        metavar="S",
        meaning="seconds to wait for a reply before a request is sent again",
    )
    add_expert(
        group,
        "--retries",
        type=cli.whole_number(0, 100),
        default=defaults.RETRIES,
        metavar="N",
        meaning="how often a request is sent again",
    )


def check_payload(args: argparse.Namespace) -> None:
    """Check that the options of the content of requests agree.

    Raises:
        InputFileError: they contradict each other.
    """
    if args.half_precision and args.payload != "activations":
        raise InputFileError("--half-precision is for activations; add --payload activations")


def add_alerts(group: argparse._ActionsContainer) -> None:
    """Add the options of alerts on traffic."""
    group.add_argument(
        "--alerts", type=Path, metavar="FILE", help="append alerts to this file as Suricata EVE JSON; - is stdout"
    )
    add_expert(
        group,
        "--max-rejected-alerts",
        type=cli.whole_number(0, 1_000_000),
        default=defaults.MAX_REJECTED_ALERTS,
        metavar="N",
        meaning="most alerts on rejected records in each window of 15 s; others are only counted",
    )
    add_expert(
        group,
        "--max-alerts-per-source",
        type=cli.whole_number(0, 1_000_000),
        default=defaults.MAX_ALERTS_PER_SOURCE,
        metavar="N",
        meaning="most alerts of each signature in a window for one source address; for all addresses "
        f"{defaults.SOURCES} times as many; 0: no limit",
    )


def add_monitoring(parser: argparse.ArgumentParser) -> None:
    """Add the options of metrics and logs."""
    parser.epilog = _EPILOG
    group = parser.add_argument_group("monitoring")
    group.add_argument(
        "--metrics-port",
        type=cli.whole_number(1, 65535),
        metavar="N",
        help="serve /metrics (Prometheus), /healthz and /readyz on this port (default: none)",
    )
    add_expert(
        group,
        "--metrics-address",
        default="127.0.0.1",
        metavar="A",
        meaning="address to serve `--metrics-port` on; anyone who can connect can read the metrics",
    )
    add_expert(
        group,
        "--log-format",
        type=cli.one_of(LOG_FORMATS),
        default="text",
        metavar="{text,json}",
        meaning="`json` writes one object per line",
    )
    group.add_argument("--debug", action="store_true", help="log each request, and what pika logs")


def serve_metrics(
    args: argparse.Namespace, registry: "CollectorRegistry", health: "Health"
) -> AbstractContextManager[object]:
    """Return a block in which metrics and health are served if ``--metrics-port`` is given.

    Raises:
        InputFileError: on entering: the port is taken.
    """
    if args.metrics_port is None:
        return contextlib.nullcontext()
    from offload.operations.health_server import serve_health

    return serve_health(args.metrics_address, args.metrics_port, registry, health)
