"""Certificates for tests of TLS: an authority, a server, a client, and those that must not be trusted."""

from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.controlled_broker import TlsFiles

SERVER_NAMES = ("localhost", "127.0.0.1")
WRONG_NAME = "elsewhere.example"


@dataclass(frozen=True)
class Identity:
    """The PEM files of a certificate and its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Certificates:
    """Certificates that both ends of a connection show and trust.

    Attributes:
        ca: signed ``server``, ``misnamed`` and ``client``.
        server: for localhost and 127.0.0.1.
        misnamed: for another host.
        other_ca: signed ``other_server`` and ``other_client``, which are right but for that.
    """

    ca: Path
    server: Identity
    misnamed: Identity
    client: Identity
    other_ca: Path
    other_server: Identity
    other_client: Identity

    def node(self, *, client_certificate_required: bool = True) -> TlsFiles:
        """Return the TLS files of a node with the right certificate."""
        return TlsFiles(self.ca, self.server.certificate, self.server.key, client_certificate_required)


def make_certificates(folder: Path) -> Certificates:
    """Make all certificates, with their files in a folder."""
    ca, other_ca = trustme.CA(), trustme.CA()
    return Certificates(
        ca=_write(ca.cert_pem, folder / "ca.pem"),
        server=_issue(ca, folder / "server", *SERVER_NAMES),
        misnamed=_issue(ca, folder / "misnamed", WRONG_NAME),
        client=_issue(ca, folder / "client", "client.example"),
        other_ca=_write(other_ca.cert_pem, folder / "other-ca.pem"),
        other_server=_issue(other_ca, folder / "other-server", *SERVER_NAMES),
        other_client=_issue(other_ca, folder / "other-client", "client.example"),
    )


def _issue(ca: trustme.CA, stem: Path, *names: str) -> Identity:
    issued = ca.issue_cert(*names)
    return Identity(
        _write(issued.cert_chain_pems[0], stem.with_suffix(".pem")),
        _write(issued.private_key_pem, stem.with_suffix(".key")),
    )


def _write(blob: trustme.Blob, path: Path) -> Path:
    blob.write_to_path(path)
    return path
