"""Command-line options for the connection to RabbitMQ: single options, a URL, or a file."""

import argparse
import functools
import ipaddress
import logging
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from offload.link.broker import PASSWORD_VARIABLE, Broker, Host, Tls
from utils import cli
from utils.errors import InputFileError
from utils.expert_options import add_expert
from utils.files import check_readable

PORT: Final = 5672
TLS_PORT: Final = 5671
DEFAULTS: Final[dict[str, object]] = {"username": "guest", "vhost": "/", "queue": "ee-processor", "tls": False}
"""Defaults of settings that neither an option, nor the URL, nor the file gives."""
FILE_KEYS: Final[dict[str, type]] = {
    "url": str, "hostname": str, "port": int, "username": str, "password_file": Path, "vhost": str, "queue": str,
    "tls": bool, "ca_file": Path, "certificate_file": Path, "key_file": Path,
}  # fmt: skip
"""Keys of a ``--mq-config`` file and their types; a Path is a string, relative to the file."""
_LARGEST_FILE: Final = 1 << 16
_HOST: Final = re.compile(
    r"\[(?P<address>[^\]]+)\](?::(?P<port6>[0-9]{1,9}))?|(?P<name>[^:]*)(?::(?P<port>[0-9]{1,9}))?"
)
_URL: Final = "amqp://USER@HOST:PORT/VHOST, or amqps:// for TLS"

log = logging.getLogger(__name__)


def add_broker(parser: argparse.ArgumentParser) -> None:
    """Add the options of the broker; rare ones are expert options."""
    group = parser.add_argument_group("broker")
    add = group.add_argument
    add("--mq-url", metavar="URL", help=f"RabbitMQ as one URL: {_URL}; write / in a name as %%2F")
    add("--mq-config", type=Path, metavar="TOML", help="file with these settings; options take precedence")
    add("--mq-hostname", metavar="H[:PORT][,H...]", help="host name or address; several are tried in turn")
    add("--mq-username", metavar="U", help=f"(default: {DEFAULTS['username']})")
    password = group.add_mutually_exclusive_group()
    password.add_argument(
        "--mq-password",
        metavar="P",
        help=f"visible in the list of processes: rather set {PASSWORD_VARIABLE} or use a file (default: guest)",
    )
    add_expert(
        password, "--mq-password-file", type=Path, metavar="FILE", meaning="file whose first line is the password"
    )
    add("--mq-queue", metavar="Q", help=f"request queue (default: {DEFAULTS['queue']})")
    expert = functools.partial(add_expert, group)
    ports = f"port of hosts without one ({PORT}, with TLS {TLS_PORT})"
    expert("--mq-port", type=cli.whole_number(1, 65535), metavar="N", meaning=ports)
    expert("--mq-vhost", metavar="V", meaning=f"virtual host ({DEFAULTS['vhost']})")
    expert("--mq-tls", action="store_const", const=True, meaning="use TLS and check the broker's certificate")
    expert("--mq-ca-file", type=Path, metavar="PEM", meaning="certificate of the authority to trust (the system's)")
    expert("--mq-certificate-file", type=Path, metavar="PEM", meaning="client certificate, if the broker requires one")
    expert("--mq-key-file", type=Path, metavar="PEM", meaning="its private key (in the certificate's file)")


def has_broker(args: argparse.Namespace) -> bool:
    """Return whether the arguments name a broker."""
    return any(given is not None for given in (args.mq_hostname, args.mq_url, args.mq_config))


def read_broker(args: argparse.Namespace) -> Broker:
    """Return the connection settings; warn if a password would cross a network unencrypted.

    An option takes precedence over the URL, and the URL over the file. Afterwards ``args.mq_queue`` is set.

    Raises:
        InputFileError: no host is named, a name is empty or too long, a file is missing or invalid, or options
            contradict each other.
    """
    _fill_in_defaults(args)
    if args.mq_hostname is None:
        raise InputFileError("no --mq-hostname: name the host of RabbitMQ, or give --mq-url or --mq-config")
    for option, name in (("--mq-queue", args.mq_queue), ("--mq-vhost", args.mq_vhost)):
        if not 0 < len(name.encode(errors="replace")) <= 255:
            raise InputFileError(f"{option} {name[:40]!r}: a name must have 1 to 255 bytes")
    files = {
        "--mq-ca-file": args.mq_ca_file,
        "--mq-certificate-file": args.mq_certificate_file,
        "--mq-key-file": args.mq_key_file,
    }
    given = [option for option, path in files.items() if path is not None]
    if given and not args.mq_tls:
        raise InputFileError(f"{given[0]} needs --mq-tls; add it")
    if args.mq_key_file is not None and args.mq_certificate_file is None:
        raise InputFileError("--mq-key-file needs --mq-certificate-file; add it")
    tls = Tls(*files.values()) if args.mq_tls else None
    hosts = _parse_hosts(args.mq_hostname, args.mq_port or (TLS_PORT if args.mq_tls else PORT))
    if tls is None and not all(_is_loopback(host.name) for host in hosts):
        log.warning("without --mq-tls the password and the flows cross the network unencrypted")
    return Broker(hosts, args.mq_username, _read_password(args), args.mq_vhost, tls)


def _fill_in_defaults(args: argparse.Namespace) -> None:
    """Set the options that were not given from the URL, the file, and the defaults."""
    from_file = {} if args.mq_config is None else _read_file(args.mq_config)
    url = from_file.pop("url", None) if args.mq_url is None else args.mq_url
    from_url = {} if url is None else _parse_url(url)
    if args.mq_password is not None or args.mq_password_file is not None:
        from_url.pop("password", None)
        from_file.pop("password_file", None)
    for key, value in (DEFAULTS | from_file | from_url).items():
        if getattr(args, f"mq_{key}") is None:
            setattr(args, f"mq_{key}", value)


def _parse_url(text: str) -> dict[str, Any]:
    """Return the settings in a URL of RabbitMQ's URI specification; several hosts are allowed.

    An error message never quotes the URL, because it may hold a password, even if it cannot be parsed.
    """
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    user, has_user, hosts = parts.netloc.rpartition("@")
    if parts.scheme not in {"amqp", "amqps"} or not hosts or parts.query or parts.fragment or "@" in parts.path:
        raise InputFileError(f"--mq-url: is not a valid URL; write {_URL}, and special characters in names as %XX")
    name, has_password, password = user.partition(":")
    found: dict[str, Any] = {"hostname": hosts, "tls": parts.scheme == "amqps"}
    if has_user and name:
        found["username"] = unquote(name)
    if has_password:
        found["password"] = unquote(password)
    if parts.path.strip("/"):
        found["vhost"] = unquote(parts.path[1:])
    return found


def _read_file(path: Path) -> dict[str, Any]:
    """Return the settings of a ``--mq-config`` file."""
    with check_readable(path).open("rb") as stream:
        content = stream.read(_LARGEST_FILE + 1)
    if len(content) > _LARGEST_FILE:
        raise InputFileError(f"{path}: is larger than {_LARGEST_FILE} bytes; name a file of settings")
    try:
        settings = tomllib.loads(content.decode())
    except ValueError as problem:
        raise InputFileError(f'{path}: is not TOML: {problem}; write lines like hostname = "HOST"') from problem
    for key, value in settings.items():
        if key not in FILE_KEYS:
            raise InputFileError(f"{path}: {key!r} is not a setting; choose from {', '.join(FILE_KEYS)}")
        kind = str if FILE_KEYS[key] is Path else FILE_KEYS[key]
        if type(value) is not kind:
            raise InputFileError(f"{path}: {key} must be of type {kind.__name__}; correct the line")
    if not 1 <= settings.get("port", PORT) <= 65535:
        raise InputFileError(f"{path}: {settings['port']} is not a port; choose 1 to 65535")
    return {key: path.parent / value if FILE_KEYS[key] is Path else value for key, value in settings.items()}


def _parse_hosts(text: str, default_port: int) -> tuple[Host, ...]:
    hosts = []
    for part in text.split(","):
        name, port = part.strip(), default_port
        if not _is_address(name):  # an IPv6 address has colons of its own
            match = _HOST.fullmatch(name)
            if match is None or not (match["address"] or match["name"]):
                raise InputFileError(f"--mq-hostname {text[:80]!r}: {part[:40]!r} is not a host; write HOST[:PORT]")
            name = match["address"] or match["name"]
            port = int(match["port6"] or match["port"] or default_port)
        if not 1 <= port <= 65535:
            raise InputFileError(f"--mq-hostname {text[:80]!r}: {port} is not a port; choose 1 to 65535")
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


def _read_password(args: argparse.Namespace) -> str:
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
        log.warning("%s: other users can read this password; run chmod 600 %s", path, path)
    return password
