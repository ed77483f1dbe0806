"""A RabbitMQ node of one's own on free loopback ports, for the demo and the tests; gone when it is closed.

It runs as whoever starts it, needs no service manager, and keeps all its files in a temporary folder.
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
from pathlib import Path
from typing import Final

from utils.errors import CloudUnavailableError

_SERVER_FOLDERS: Final = "lib/rabbitmq/lib/rabbitmq_server-*/sbin"
_START_TIMEOUT: Final = 90.0


def find_server() -> Path | None:
    """Return RabbitMQ's own start script, or None where it is not installed.

    The one on the PATH is Debian's wrapper, which switches user.
    """
    for root in (Path("/usr"), Path("/usr/local"), Path("/opt")):
        found = sorted(root.glob(f"{_SERVER_FOLDERS}/rabbitmq-server"))
        if found:
            return found[-1]
    return None


def free_port() -> int:
    """Return a loopback port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class PrivateBroker:
    """A running node; use it in a ``with`` block.

    Attributes:
        port: of AMQP, on 127.0.0.1.
        username, password: of its only user.

    Raises:
        CloudUnavailableError: RabbitMQ is not installed, or did not start.
    """

    def __init__(self) -> None:
        server = find_server()
        if server is None or shutil.which("epmd") is None:
            raise CloudUnavailableError("RabbitMQ is not installed; on Debian: apt install rabbitmq-server")
        self._server = server
        self.port, self._dist_port, self._epmd_port = free_port(), free_port(), free_port()
        self.username, self.password = "ee", secrets.token_hex(12)
        self._folder = Path(tempfile.mkdtemp(prefix="private-broker-"))
        self._node = f"private{self.port}@localhost"
        self._log = self._folder / "output.log"
        (self._folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\n"
            f"default_user = {self.username}\n"
            f"default_pass = {self.password}\n"
            "disk_free_limit.absolute = 50MB\n"
        )
        (self._folder / "plugins").write_text("[].")
        self._environment = self._make_environment()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.start()
        except BaseException:
            self.close()
            raise

    def _make_environment(self) -> dict[str, str]:
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
            # Else Erlang's own port, which takes commands, would be open to the whole network.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def start(self) -> None:
        """Start the node, also after ``kill``, and wait until it takes connections."""
        if self._epmd is None:
            # Our own, in the foreground: the one that the node would start outlives it.
            self._epmd = subprocess.Popen(
                ["epmd"], env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(self._server)],
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._greets():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = " ".join(self._log.read_text(errors="replace").split()[-60:])
                raise CloudUnavailableError(f"the private RabbitMQ node did not start: {tail}")
            time.sleep(0.1)

    def _greets(self) -> bool:
        """Return whether the node answers a protocol header: the port opens a little before it is ready."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                connection.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(connection.recv(1))
        except OSError:
            return False

    def kill(self) -> None:
        """Kill the node as a crash would; its durable data stays for ``start``."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Stop the node and its epmd, and remove their files."""
        # Nothing in it is worth an orderly shutdown of several seconds.
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> "PrivateBroker":
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
