"""RabbitMQ connection settings: hosts, credentials, TLS."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from utils.errors import InputFileError
from utils.files import check_readable

PASSWORD_VARIABLE: Final = "EE_MQ_PASSWORD"
"""Environment variable from which the scripts take the password if no option gives it."""


@dataclass(frozen=True)
class Host:
    """A node of RabbitMQ."""

    name: str
    port: int = 5672

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True)
class Tls:
    """TLS settings of a connection. The broker's certificate must be valid for the host name in the settings.

    Attributes:
        ca_file: PEM file of the authority that signed the broker's certificate; None: the system's authorities.
        certificate_file: PEM file of the client certificate, where the broker requires one.
        key_file: PEM file of its private key; None: the certificate's file holds it.
    """

    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None

    def make_context(self) -> ssl.SSLContext:
        """Return the SSL context of the connection.

        Raises:
            InputFileError: a file is missing, or holds no certificate or key.
        """
        for path in (self.ca_file, self.certificate_file, self.key_file):
            if path is not None:
                check_readable(path)
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except ssl.SSLError as problem:
            raise InputFileError(f"{self.ca_file}: holds no certificate in PEM form") from problem
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.certificate_file is not None:
            try:
                # Never ask at the terminal for a key's password: a service would hang.
                context.load_cert_chain(self.certificate_file, self.key_file, password=_refuse_password)
            except (ssl.SSLError, ValueError) as problem:
                files = " and ".join(str(path) for path in (self.certificate_file, self.key_file) if path is not None)
                raise InputFileError(
                    f"{files}: not a certificate and its unencrypted private key in PEM form"
                ) from problem
        return context


def _refuse_password() -> str:
    raise ValueError("the key is encrypted")


@dataclass(frozen=True)
class Broker:
    """Connection settings. The password is not part of the repr.

    Attributes:
        hosts: nodes of one cluster, tried in turn; at least one.
    """

    hosts: tuple[Host, ...]
    username: str = "guest"
    password: str = field(default="guest", repr=False)
    virtual_host: str = "/"
    tls: Tls | None = None

    def __str__(self) -> str:
        return ", ".join(map(str, self.hosts))
