"""A private RabbitMQ node on free loopback ports, for demos, measurements and tests.

It runs as the user who starts it, without a service manager, and removes its temporary folder when it is closed.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Self

from offload.link.broker import PASSWORD_VARIABLE, Broker, Host
from offload.link.protocol import LARGEST_MESSAGE
from utils.errors import CloudUnavailableError
from utils.script_runner import run_server

_SERVER_FOLDERS: Final = "lib/rabbitmq/lib/rabbitmq_server-*/sbin"
_START_TIMEOUT: Final = 600.0  # only a node that hangs takes so long


def find_server() -> Path | None:
    """Return RabbitMQ's own start script, None if it is not installed.

    The script on the PATH is Debian's wrapper, which switches the user.
    """
    for root in (Path("/usr"), Path("/usr/local"), Path("/opt")):
        found = sorted(root.glob(f"{_SERVER_FOLDERS}/rabbitmq-server"))
        if found:
            return found[-1]
    return None


def find_free_port() -> int:
    """Return a loopback port on which nothing listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PrivateBroker:
    """A running node; use it in a ``with`` block.

    Attributes:
        port: AMQP port on 127.0.0.1.
        username, password: credentials of the only user.
        connection: the same as connection settings.
        options: the same as command-line options of a script, except the password.
        environment: environment variable of a script, which holds the password.

    Raises:
        CloudUnavailableError: RabbitMQ is not installed, or did not start.
    """

    def __init__(self) -> None:
        server = find_server()
        if server is None or shutil.which("epmd") is None:
            raise CloudUnavailableError("RabbitMQ is not installed; on Debian: apt install rabbitmq-server")
        self._server = server
        self.port, self._dist_port, self._epmd_port = find_free_port(), find_free_port(), find_free_port()
        self.username, self.password = "ee", secrets.token_hex(12)
        self.connection = Broker((Host("127.0.0.1", self.port),), self.username, self.password)
        self.options = ("--mq-hostname", "127.0.0.1", "--mq-port", self.port, "--mq-username", self.username)
        self.environment = {PASSWORD_VARIABLE: self.password}
        self._folder = Path(tempfile.mkdtemp(prefix="private-broker-"))
        self._node = f"private{self.port}@localhost"
        self._log = self._folder / "output.log"
        (self._folder / "rabbitmq.conf").write_text(self._make_configuration())
        (self._folder / "plugins").write_text("[].")
        self._node_environment = self._make_node_environment()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def _make_configuration(self) -> str:
        return (
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"default_user = {self.username}\n"
            f"default_pass = {self.password}\n"
            "disk_free_limit.absolute = 50MB\n"
            f"max_message_size = {LARGEST_MESSAGE}\n"
        )

    def _make_node_environment(self) -> dict[str, str]:
        folder = self._folder
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            # Otherwise Erlang's ports of the node and of rabbitmqctl, which accept commands, are open to the network.
            "ERL_AFLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def start(self) -> None:
        """Start the node, also after ``kill``, and wait until it accepts connections."""
        if self._epmd is None:
            # In the foreground: an epmd that the node itself starts would outlive it.
            self._epmd = subprocess.Popen(
                ["epmd"], env=self._node_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(self._server)],
                env=self._node_environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = " ".join(self._log.read_text(errors="replace").split()[-60:])
                raise CloudUnavailableError(f"the private RabbitMQ node did not start: {tail}")
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        """Return whether the node answers a protocol header; its port opens a little earlier."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(1))
        except OSError:
            return False

    def run_worker(self, checkpoint: Path, network: str, *options: object) -> AbstractContextManager[None]:
        """Return a block during which a worker runs on the node.

        Args:
            checkpoint: checkpoint of two exits.
            network: its family, as in ``models.FAMILIES``.
            options: further options of ``offload/ee-processor-server.py``.

        Raises:
            CloudUnavailableError: on entering: the worker did not start.
        """
        served = ("--trained-network-file", checkpoint, "--network", network, "--quiet")
        return run_server("offload/ee-processor-server.py", [*self.options, *served, *options], self.environment)

    def kill(self) -> None:
        """Kill the node, as in a crash; its durable data is there again after ``start``."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        """Send a signal to the node and its child processes, if it runs."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def close(self) -> None:
        """Stop the node and its epmd, and remove their files."""
        # An orderly shutdown takes seconds, and no data has to be kept.
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
