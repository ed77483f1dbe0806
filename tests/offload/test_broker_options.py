"""The connection settings by options, URL and file; and the expert options that ``--help`` does not show."""

import argparse
import re
from pathlib import Path

import pytest

from offload.broker_options import FILE_KEYS, add_broker, has_broker, read_broker
from offload.link.broker import Broker, Host, Tls
from tests.scripts import CLIENT, ENERGY, GENERATOR, ROOT, SERVER, load_script
from utils.errors import InputFileError

README = (ROOT / "offload" / "README.md").read_text()
MOST_OPTIONS = 30
PARSERS = {"client": CLIENT, "worker": SERVER, "generator": GENERATOR}
NO_TLS = "without --mq-tls the password and the flows cross the network unencrypted"


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_broker(parser)
    return parser.parse_args(words)


def broker_of(*words: str) -> Broker:
    return read_broker(parsed(*words))


def refusal_of(*words: str) -> str:
    with pytest.raises(InputFileError) as refused:
        broker_of(*words)
    return str(refused.value)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The file of the README, with a password file beside it."""
    (text,) = re.findall(r"```toml broker.toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "client-password").write_text("from the file\n")
    (tmp_path / "client-password").chmod(0o600)
    path = tmp_path / "broker.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://localhost", Broker((Host("localhost"),), "guest", "guest")),
        ("amqp://localhost/", Broker((Host("localhost"),), "guest", "guest")),
        ("amqp://ee@127.0.0.1:99/%2F", Broker((Host("127.0.0.1", 99),), "ee", "guest", "/")),
        ("amqp://a%40b:c%2Fd@localhost/ee%2Fx", Broker((Host("localhost"),), "a@b", "c/d", "ee/x")),
        ("amqp://[::1]:99/ee", Broker((Host("::1", 99),), "guest", "guest", "ee")),
        ("amqps://a,b:99", Broker((Host("a", 5671), Host("b", 99)), "guest", "guest", "/", Tls())),
    ],
)
def test_a_url_gives_hosts_user_and_virtual_host(url: str, expected: Broker) -> None:
    assert broker_of("--mq-url", url) == expected


@pytest.mark.parametrize(
    "url", ["localhost", "http://localhost", "amqp://", "amqp://h?x=1", "amqp://[::1", "amqp://h#x"]
)
def test_an_invalid_url_is_refused_with_the_right_form(url: str) -> None:
    assert "write amqp://USER@HOST:PORT/VHOST, or amqps:// for TLS" in refusal_of("--mq-url", url)


@pytest.mark.parametrize(
    "url",
    [
        "http://u:secret@h",
        "amqp://u:secret@h?x=1",
        "amqp://u:secret@[::1",
        "amqp://u:secret@h:x",
        "amqp://u:secret/secret@h",
        "amqp://u:secret#secret@h",
        "amqp://u:secret\u2100@h",
        f"http://u:{'secret' * 100}@h",
    ],
)
def test_an_error_never_quotes_the_password_of_a_url(url: str) -> None:
    assert "secret" not in refusal_of("--mq-url", url)


def test_the_file_of_the_readme_is_read(config: Path) -> None:
    tls = Tls(ca_file=config.with_name("ca.pem"))
    hosts = (Host("mq1.example", 5671), Host("mq2.example", 5671))
    args = parsed("--mq-config", str(config))
    assert has_broker(args)
    assert read_broker(args) == Broker(hosts, "ee-client", "from the file", "ee", tls)
    assert args.mq_queue == "ee-processor"


def test_an_option_takes_precedence_over_the_url_and_the_url_over_the_file(config: Path) -> None:
    url = "amqp://someone:secret@localhost/other"
    args = parsed("--mq-config", str(config), "--mq-url", url, "--mq-username", "me", "--mq-queue", "mine")
    config.write_text(config.read_text().replace("tls = true\nca_file", "queue = 'theirs' #"))
    assert read_broker(args) == Broker((Host("localhost"),), "me", "secret", "other")
    assert args.mq_queue == "mine"


def test_a_password_option_takes_precedence(config: Path) -> None:
    assert broker_of("--mq-config", str(config), "--mq-password", "given").password == "given"
    other = config.with_name("other")
    other.write_text("of another file")
    words = ("--mq-url", "amqp://u:secret@localhost", "--mq-password-file", str(other))
    assert broker_of(*words).password == "of another file"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("hostname = 'h'\nhots = 'x'", "'hots' is not a setting; choose from url, hostname, port"),
        ("hostname", "is not TOML"),
        ("hostname = 5", "hostname must be of type str"),
        ("hostname = 'h'\ntls = 'yes'", "tls must be of type bool"),
        ("hostname = 'h'\nport = 0", "0 is not a port"),
        ("hostname = 'h'\nport = true", "port must be of type int"),
        ("#" * 70_000, "is larger than 65536 bytes"),
        ("\xff\udcff", "is not TOML"),
        ("username = 'ee'", "no --mq-hostname: name the host of RabbitMQ, or give --mq-url or --mq-config"),
    ],
)
def test_an_invalid_file_is_refused_in_one_line_with_the_remedy(tmp_path: Path, content: str, reason: str) -> None:
    path = tmp_path / "broker.toml"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert reason in refusal_of("--mq-config", str(path))


def test_the_error_without_a_host_says_how_to_name_one() -> None:
    assert not has_broker(parsed())
    assert "no --mq-hostname" in refusal_of()


def test_the_readme_names_all_keys_of_the_file() -> None:
    sentence = README.partition("The keys are ")[2].partition(";")[0]
    assert re.findall(r"`(\w+)`", sentence) == list(FILE_KEYS)


# Expert options


@pytest.mark.parametrize("script", [*PARSERS.values(), ENERGY])
def test_help_shows_at_most_thirty_options(script: str) -> None:
    shown = [action for action in load_script(script).make_parser()._actions if action.help != argparse.SUPPRESS]
    assert len(shown) <= MOST_OPTIONS


def test_the_readme_lists_every_expert_option_with_its_default() -> None:
    rows: dict[tuple[str, str, str], list[str]] = {}
    for program, script in PARSERS.items():
        for action in load_script(script).make_parser()._actions:
            if action.help == argparse.SUPPRESS:
                default = "" if action.default in (None, False) else f"{action.default}".removesuffix(".0")
                rows.setdefault((action.option_strings[0], vars(action)["meaning"], default), []).append(program)
    expected = {
        f"| `{option}` | {meaning} | {default} | {', '.join(programs)} |"
        for (option, meaning, default), programs in rows.items()
    }
    section = README.partition("## Expert settings\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `--.*$", section, re.MULTILINE)) == expected


def test_the_environment_does_not_switch_off_the_tls_of_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EE_MQ_TLS", "0")
    assert broker_of("--mq-url", "amqps://localhost").tls == Tls()
    monkeypatch.setenv("EE_MQ_TLS", "1")
    assert broker_of("--mq-url", "amqp://localhost").tls == Tls()
