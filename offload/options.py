"""The command line that the programs of the link share."""

import argparse
import contextlib
import ipaddress
import logging
import os
import re
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import models
from offload.alert_limit import MOST_PER_SOURCE, MOST_REJECTED, SOURCES
from offload.broker import Broker, Host, Tls
from utils import cli
from utils.errors import InputFileError
from utils.files import check_readable

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from offload.monitoring import Health

PASSWORD_VARIABLE: Final = "EE_MQ_PASSWORD"
PORT: Final = 5672
TLS_PORT: Final = 5671
_HOST: Final = re.compile(r"\[(?P<address>[^\]]+)\](?::(?P<port6>\d+))?|(?P<name>[^:]*)(?::(?P<port>\d+))?")

log = logging.getLogger(__name__)


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the network file, the network's name, and the device."""
    parser.add_argument(
        "--trained-network-file",
        required=True,
        type=Path,
        metavar="FILE",
        help="checkpoint (.pth), the same on both sides; for a client also its exported first half (.onnx)",
    )
    parser.add_argument(
        "--network",
        required=True,
        type=cli.one_of(models.FAMILIES),
        metavar="{" + ",".join(models.FAMILIES) + "}",
        help="network that the file must hold, in any case",
    )
    cli.add_device(parser)


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Add what computes the network, an exported one's second half, and how much at once."""
    cli.add_runtime(parser, "to run exit 2 here (default: only workers run it)")
    add = parser.add_argument
    add(
        "--threads",
        type=cli.or_auto(cli.whole_number(1, 1024)),
        metavar="N",
        help="that a pass is spread over; auto: one or all cores, by a measurement at the start, of a second or more "
        "(default: 1, with PyTorch what it chooses)",
    )
    add(
        "--chunk",
        type=cli.or_auto(cli.whole_number(1, 4096)),
        default=32,
        metavar="N",
        help="events of one pass at most, or auto (default: %(default)s, which was the fastest on most machines)",
    )
    add_cache_size(parser)


def add_cache_size(parser: argparse.ArgumentParser) -> None:
    """Add how many vectors' answers are remembered."""
    parser.add_argument(
        "--cache-size",
        type=cli.whole_number(0, 10_000_000),
        default=4096,
        metavar="N",
        help="vectors used last whose answers are remembered for each exit, rather than computed or asked again; half "
        "a kilobyte each, 0 remembers none (default: %(default)s)",
    )


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add how many threads compute."""
    parser.add_argument(
        "--threads", type=cli.whole_number(1, 1024), metavar="N", help="that compute (default: what PyTorch chooses)"
    )


def own_name() -> str:
    """Return what this process calls itself in its messages: host and process number."""
    return f"{re.sub(r'[^a-zA-Z0-9_.-]', '-', socket.gethostname())[:100]}:{os.getpid()}"


def add_broker(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add where RabbitMQ is and who asks."""
    group = parser.add_argument_group("RabbitMQ")
    add = group.add_argument
    add(
        "--mq-hostname",
        required=required,
        metavar="H[:PORT][,H...]",
        help="host name or address; several nodes of one cluster, separated by commas, are tried in turn",
    )
    add(
        "--mq-port",
        type=cli.whole_number(1, 65535),
        metavar="N",
        help=f"port of hosts that name none (default: {PORT}, with --mq-tls {TLS_PORT})",
    )
    add("--mq-username", default="guest", metavar="U", help="(default: %(default)s)")
    password = group.add_mutually_exclusive_group()
    password.add_argument(
        "--mq-password",
        metavar="P",
        help=f"seen by anyone who lists processes: better use --mq-password-file, or set {PASSWORD_VARIABLE} "
        "(default: guest)",
    )
    password.add_argument("--mq-password-file", type=Path, metavar="FILE", help="file whose first line is the password")
    add("--mq-vhost", default="/", metavar="V", help="virtual host (default: %(default)s)")
    add("--mq-queue", default="ee-processor", metavar="Q", help="request queue (default: %(default)s)")
    add("--mq-tls", action="store_true", help="encrypt, and check the broker's certificate and host name")
    add("--mq-ca-file", type=Path, metavar="PEM", help="authority to trust with --mq-tls (default: the system's)")
    add("--mq-certificate-file", type=Path, metavar="PEM", help="our own certificate, if the broker asks for one")
    add("--mq-key-file", type=Path, metavar="PEM", help="its private key (default: in the certificate's file)")


def broker(args: argparse.Namespace) -> Broker:
    """Return where the arguments say RabbitMQ is, and warn where a password would cross a network unencrypted.

    Raises:
        InputFileError: a name is empty or too long, a file is missing, or options contradict each other.
    """
    for option, name in (("--mq-queue", args.mq_queue), ("--mq-vhost", args.mq_vhost)):
        if not 0 < len(name.encode(errors="replace")) <= 255:
            raise InputFileError(f"{option} {name[:40]!r}: such a name has 1 to 255 bytes")
    files = {
        "--mq-ca-file": args.mq_ca_file,
        "--mq-certificate-file": args.mq_certificate_file,
        "--mq-key-file": args.mq_key_file,
    }
    given = [option for option, path in files.items() if path is not None]
    if given and not args.mq_tls:
        raise InputFileError(f"{given[0]} is of use only with --mq-tls; add it")
    if args.mq_key_file is not None and args.mq_certificate_file is None:
        raise InputFileError("--mq-key-file is of use only with --mq-certificate-file; add it")
    tls = Tls(*files.values()) if args.mq_tls else None
    hosts = _hosts(args.mq_hostname, args.mq_port or (TLS_PORT if args.mq_tls else PORT))
    if tls is None and not all(_is_loopback(host.name) for host in hosts):
        log.warning("without --mq-tls the password and the flows cross the network unencrypted")
    return Broker(hosts, args.mq_username, _password(args), args.mq_vhost, tls)


def _hosts(text: str, default_port: int) -> tuple[Host, ...]:
    hosts = []
    for part in text.split(","):
        name, port = part.strip(), default_port
        if not _is_address(name):  # an IPv6 address has colons of its own
            match = _HOST.fullmatch(name)
            if match is None or not (match["address"] or match["name"]):
                raise InputFileError(f"--mq-hostname {text[:80]!r}: {part[:40]!r} is no host; write HOST or HOST:PORT")
            name = match["address"] or match["name"]
            port = int(match["port6"] or match["port"] or default_port)
        if not 1 <= port <= 65535:
            raise InputFileError(f"--mq-hostname {text[:80]!r}: {port} is no port; one is between 1 and 65535")
        hosts.append(Host(name, port))
    return tuple(hosts)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _password(args: argparse.Namespace) -> str:
    if args.mq_password is not None:
        return str(args.mq_password)
    if args.mq_password_file is None:
        return os.environ.get(PASSWORD_VARIABLE, "guest")
    path = check_readable(args.mq_password_file)
    with path.open(encoding="utf-8") as stream:
        try:
            password = stream.readline(1000).rstrip("\r\n")
        except UnicodeDecodeError as problem:
            raise InputFileError(f"{path}: its first line is not text; write the password into it") from problem
    if not password:
        raise InputFileError(f"{path}: its first line is empty; write the password into it")
    if path.stat().st_mode & 0o007:
        log.warning("%s: others may read this password; chmod 600 %s", path, path)
    return password


def add_asking(parser: argparse.ArgumentParser) -> None:
    """Add how the cloud is asked, and what is done where it does not answer."""
    group = parser.add_argument_group("asking the cloud")
    add_payload(group)
    add = group.add_argument
    add(
        "--window",
        type=cli.whole_number(1, 1000),
        default=8,
        metavar="N",
        help="requests under way at once, while exit 1 goes on (default: %(default)s)",
    )
    add_request_timeout(group)
    add(
        "--on-cloud-failure",
        choices=("local", "reject", "wait"),
        default="local",
        help="run exit 2 here, reject the events, or wait, at most --wait-timeout (default: %(default)s)",
    )
    add(
        "--wait-timeout",
        type=cli.real_number(0.1, 1e7),
        default=600.0,
        metavar="S",
        help="with --on-cloud-failure wait: seconds after which to give up (default: %(default)g)",
    )
    add(
        "--drain-timeout",
        type=cli.real_number(0, 86400),
        default=10.0,
        metavar="S",
        help="when stopped: seconds that answers under way may still take (default: %(default)g)",
    )


def add_payload(group: argparse._ActionsContainer) -> None:
    """Add what requests hold."""
    group.add_argument(
        "--payload",
        choices=("features", "activations"),
        default="features",
        help="what is sent of an event: its 58 features (232 bytes), or segment 1's activations (default: %(default)s)",
    )
    group.add_argument("--half-precision", action="store_true", help="send activations as float16, half the bytes")


def add_request_timeout(group: argparse._ActionsContainer) -> None:
    """Add how long and how often a request is tried."""
    add = group.add_argument
    add(
        "--request-timeout",
        type=cli.real_number(0.1, 86400),
        default=15.0,
        metavar="S",
        help="seconds to wait for a worker's answer before asking again (default: %(default)g)",
    )
    add(
        "--retries",
        type=cli.whole_number(0, 100),
        default=1,
        metavar="N",
        help="times to ask again (default: %(default)s)",
    )


def check_payload(args: argparse.Namespace) -> None:
    """Check that the options on what requests hold go together.

    Raises:
        InputFileError: they do not.
    """
    if args.half_precision and args.payload != "activations":
        raise InputFileError("--half-precision is for activations; add --payload activations")


def add_alerts(parser: argparse.ArgumentParser) -> None:
    """Add where the alerts on traffic go."""
    add = parser.add_argument_group("alerts").add_argument
    add(
        "--alerts",
        type=Path,
        metavar="FILE",
        help="add alerts to this file of Suricata EVE JSON lines; - is standard output, and the rest goes to stderr",
    )
    add(
        "--max-rejected-alerts",
        type=cli.whole_number(0, 1_000_000),
        default=MOST_REJECTED,
        metavar="N",
        help="alerts on rejected records in each window of 15 s; more are but counted (default: %(default)s)",
    )
    add(
        "--max-alerts-per-source",
        type=cli.whole_number(0, 1_000_000),
        default=MOST_PER_SOURCE,
        metavar="N",
        help="alerts of each signature on records of one source address in each window of 15 s, and "
        f"{SOURCES} times as many on those of all sources; more are counted, not written; 0: no such limit "
        "(default: %(default)s)",
    )


def add_watching(parser: argparse.ArgumentParser) -> None:
    """Add how those who run a process can watch it."""
    add = parser.add_argument_group("watching").add_argument
    add(
        "--metrics-port",
        type=cli.whole_number(1, 65535),
        metavar="N",
        help="serve /metrics (Prometheus), /healthz and /readyz there (default: do not)",
    )
    add(
        "--metrics-address",
        default="127.0.0.1",
        metavar="A",
        help="where to listen; anyone who reaches it can read (default: %(default)s)",
    )
    add("--log-format", choices=("text", "json"), default="text", help="(default: %(default)s)")
    add("--debug", action="store_true", help="log each request and RabbitMQ's own reports")


def watched(
    args: argparse.Namespace, registry: "CollectorRegistry", health: "Health"
) -> AbstractContextManager[object]:
    """Return a block within which the process can be watched, if that was asked for.

    Raises:
        InputFileError: on entering: the port is taken.
    """
    if args.metrics_port is None:
        return contextlib.nullcontext()
    from offload.monitoring import MonitoringServer

    return MonitoringServer(args.metrics_address, args.metrics_port, registry, health)
