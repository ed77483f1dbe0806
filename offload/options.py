"""The command line that both sides of the link share."""

import argparse
import os
from pathlib import Path
from typing import Final

import models
from offload.broker import Broker
from utils import cli
from utils.errors import InputFileError

PASSWORD_VARIABLE: Final = "EE_MQ_PASSWORD"


def add_network(parser: argparse.ArgumentParser) -> None:
    """Add the network file, the network's name, and the device."""
    parser.add_argument(
        "--trained-network-file",
        required=True,
        type=Path,
        metavar="FILE",
        help="checkpoint (.pth), the same on both sides",
    )
    parser.add_argument(
        "--network",
        required=True,
        type=cli.one_of(models.FAMILIES),
        metavar="{" + ",".join(models.FAMILIES) + "}",
        help="network that the file must hold, in any case",
    )
    cli.add_device(parser)


def add_broker(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Add where RabbitMQ is and who asks."""
    group = parser.add_argument_group("RabbitMQ")
    add = group.add_argument
    add("--mq-hostname", required=required, metavar="H", help="host name or address")
    add("--mq-port", type=cli.whole_number(1, 65535), default=5672, metavar="N", help="(default: %(default)s)")
    add("--mq-username", default="guest", metavar="U", help="(default: %(default)s)")
    add(
        "--mq-password",
        metavar="P",
        help=f"seen by anyone who lists processes: better set {PASSWORD_VARIABLE} (default: guest)",
    )
    add("--mq-vhost", default="/", metavar="V", help="virtual host (default: %(default)s)")
    add("--mq-queue", default="ee-processor", metavar="Q", help="request queue (default: %(default)s)")


def broker(args: argparse.Namespace) -> Broker:
    """Return where the arguments say RabbitMQ is.

    Raises:
        InputFileError: the name of the queue or of the virtual host is empty or too long.
    """
    for option, name in (("--mq-queue", args.mq_queue), ("--mq-vhost", args.mq_vhost)):
        if not 0 < len(name.encode(errors="replace")) <= 255:
            raise InputFileError(f"{option} {name[:40]!r}: such a name has 1 to 255 bytes")
    password = args.mq_password if args.mq_password is not None else os.environ.get(PASSWORD_VARIABLE, "guest")
    return Broker(args.mq_hostname, args.mq_port, args.mq_username, password, args.mq_vhost)
