"""Command-line options that client, worker and load generator share; ``broker_options`` has those of RabbitMQ."""

import argparse
import contextlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import models
from offload import defaults
from utils import cli
from utils.errors import InputFileError
from utils.expert_options import add_expert
from utils.schema import AUTO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import CollectorRegistry

    from offload.operations.health_server import Health
    from offload.operations.release_watch import ReleaseWatch
    from utils.release import Release

Content = TypeVar("Content")

LOG_FORMATS: Final = ("text", "json")
_EPILOG: Final = "offload/README.md lists further options for experts, which can also be set in the environment."


def add_network(parser: argparse.ArgumentParser, *, has_releases: bool = False) -> argparse._ArgumentGroup:
    """Add the options of the network: file, family and device; return their group.

    Args:
        parser: the parser.
        has_releases: whether ``--release`` can take the place of the file.
    """
    group = parser.add_argument_group("network")
    sources = group.add_mutually_exclusive_group(required=True)
    sources.add_argument(
        "--trained-network-file",
        type=Path,
        metavar="FILE",
        help="checkpoint (.pth), the same on both sides, or its exported first half (.onnx)",
    )
    if has_releases:
        sources.add_argument(
            "--release",
            type=Path,
            metavar="DIR",
            help="release, or folder of releases whose current one is used; a later one is taken over without a stop "
            "when current names it, or on SIGHUP",
        )
    group.add_argument(
        "--network",
        type=cli.one_of(models.FAMILIES),
        metavar="{" + ",".join(models.FAMILIES) + "}",
        help="family that the network in the file must have (default: any)",
    )
    cli.add_device(group)
    return group


def check_release(args: argparse.Namespace, *others: str) -> None:
    """Check that nothing else is given that a release holds or decides.

    Args:
        args: the parsed arguments.
        others: further options that do not go with ``--release``.

    Raises:
        InputFileError: ``--release`` and such an option are given.
    """
    if args.release is None:
        return
    for option in ("--second-exit-file", *others):
        if getattr(args, option.removeprefix("--").replace("-", "_")) is not None:
            raise InputFileError(f"{option} does not go with --release, which holds all files; leave it out")
    if args.device not in {AUTO, "cpu"}:
        raise InputFileError("--device is for PyTorch; ONNX Runtime computes releases on the processor, leave it out")


@contextlib.contextmanager
def watch_release(
    args: argparse.Namespace, open_release: "Callable[[Release], Content]"
) -> "Iterator[ReleaseWatch[Content] | None]":
    """Yield the watch of ``--release``, which remembers each SIGHUP in the block; None without that option."""
    from offload.operations.release_watch import ReleaseWatch, ignore_hangup

    if args.release is None:
        with ignore_hangup():
            yield None
        return
    watch = ReleaseWatch(args.release, open_release)
    with watch.on_hangup():
        yield watch


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
