"""A private RabbitMQ node that tests configure and control."""

import re
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from offload.link.private_broker import PrivateBroker, find_free_port
from utils.errors import CloudError, CloudUnavailableError

# Only a node that hangs reaches this: on two cores with a load of 13, one call of rabbitmqctl took more than a minute.
_CONTROL_TIMEOUT: Final = 600.0
# The line of rabbitmqctl that says what is wrong. Later lines may repeat the whole command with its passwords.
_ERROR_LINE: Final = re.compile(r"^Error[^:\n]*:\s*(.+?)[.:]?(?: Please see .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a node that listens for TLS.

    Attributes:
        ca: certificate of the authority that signs the clients' certificates.
        certificate, key: certificate and private key of the node.
        client_certificate_required: whether a client without a certificate is refused.
    """

    ca: Path
    certificate: Path
    key: Path
    client_certificate_required: bool = True


def _format_tls_settings(port: int, files: TlsFiles) -> str:
    return (
        f"listeners.ssl.1 = 127.0.0.1:{port}\n"
        f"ssl_options.cacertfile = {files.ca.resolve()}\n"
        f"ssl_options.certfile = {files.certificate.resolve()}\n"
        f"ssl_options.keyfile = {files.key.resolve()}\n"
        "ssl_options.verify = verify_peer\n"
        f"ssl_options.fail_if_no_peer_cert = {str(files.client_certificate_required).lower()}\n"
    )


class ControlledBroker(PrivateBroker):
    """A private node with more settings, and with rabbitmqctl.

    Args:
        tls: files with which the node listens for TLS as well; None: it does not.
        settings: further lines of ``rabbitmq.conf``, which take precedence.

    Attributes:
        tls_port: port of AMQP over TLS; 0 without TLS.
    """

    def __init__(self, *, tls: TlsFiles | None = None, settings: str = "") -> None:
        self.tls_port = 0 if tls is None else find_free_port()
        self._tls, self._settings = tls, settings
        super().__init__()

    def _make_configuration(self) -> str:
        tls = "" if self._tls is None else _format_tls_settings(self.tls_port, self._tls)
        return f"{super()._make_configuration()}{tls}{self._settings}\n"

    def _is_ready(self) -> bool:
        try:
            if self.tls_port:
                socket.create_connection(("127.0.0.1", self.tls_port), timeout=2).close()
        except OSError:
            return False
        return super()._is_ready()

    def control(self, command: str, *arguments: str) -> str:
        """Return the output of a ``rabbitmqctl`` command, without headings.

        Raises:
            CloudError: the node does not run or answer, or refuses the command; the message never holds a password.
        """
        if self._process is None:
            raise CloudUnavailableError("the private RabbitMQ node does not run; start it first")
        try:
            done = subprocess.run(
                [str(self._server.with_name("rabbitmqctl")), "--silent", command, *arguments],
                env=self._node_environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_CONTROL_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            # "from None", because the original exception quotes the whole command.
            raise CloudUnavailableError(f"rabbitmqctl {command}: no answer within {_CONTROL_TIMEOUT:g} s") from None
        if done.returncode != 0:
            raise CloudError(f"rabbitmqctl {command}: {_extract_error(done.stderr)}")
        return done.stdout

    def pause(self) -> None:
        """Pause the node: it accepts connections and bytes but answers nothing until ``resume``."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume a paused node."""
        self._signal(signal.SIGCONT)


def _extract_error(text: str) -> str:
    found = _ERROR_LINE.search(text)
    return found[1] if found else text.strip().partition("\n")[0].strip()
