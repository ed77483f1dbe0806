"""Run a cloud worker on this machine, for the demos and for measurements without a cloud."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from offload.broker_options import DEFAULTS, PASSWORD_VARIABLE
from offload.link.broker import Broker, Host
from offload.link.private_broker import PrivateBroker
from utils.script_runner import serving


@dataclass(frozen=True)
class LocalWorker:
    """How a client reaches the worker.

    Attributes:
        options: the client's command-line options.
        environment: the client's environment variables: the password.
        broker: the same as connection settings.
    """

    options: tuple[object, ...]
    environment: dict[str, str]
    broker: Broker


@contextmanager
def run_local_worker(
    node: PrivateBroker,
    checkpoint: Path,
    network: str,
    queue: str | None = None,
    worker_options: tuple[object, ...] = (),
) -> Iterator[LocalWorker]:
    """Run ``ee-processor-server.py`` on a private node during the block.

    Args:
        node: runs during the block.
        checkpoint: of two exits.
        network: the value of ``--network``.
        queue: the request queue; None: the scripts' default.
        worker_options: further options of the worker.

    Raises:
        CloudUnavailableError: the worker did not start.
    """
    link = (
        "--mq-hostname", "127.0.0.1", "--mq-port", node.port, "--mq-username", node.username,
        "--mq-queue", queue or DEFAULTS["queue"],
    )  # fmt: skip
    environment = {PASSWORD_VARIABLE: node.password}
    served = ("--trained-network-file", checkpoint, "--network", network, "--quiet", *worker_options)
    with serving("offload/ee-processor-server.py", (*link, *served), environment):
        yield LocalWorker(link, environment, Broker((Host("127.0.0.1", node.port),), node.username, node.password))
