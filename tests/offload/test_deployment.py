"""The systemd units and the guide to deployment: their lines, run for real but for systemd itself."""

import functools
import gzip
import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from models.checkpoint import write_checkpoint
from offload.alerts.alerts_file import AlertsFile
from offload.broker_options import FILE_KEYS
from offload.edge.resume_file import make_resume_path
from offload.link.private_broker import find_free_port
from tests.controlled_broker import ControlledBroker
from tests.namespaces import need
from tests.networks import calibrated_network
from tests.offload.alerts.test_alerts_file import events_of, lines_of
from tests.offload.link_ends import Program, wait_until
from tests.offload.operations.promql import asks_for_what_is_exported, assert_prometheus_understands, needs_promtool
from tests.offload.releases import write_release
from tests.scripts import CLIENT, ROOT, SERVER, load_script
from utils.expert_options import get_variable

FOLDER = ROOT / "offload" / "systemd"
README = (FOLDER / "README.md").read_text()
EXAMPLE = (FOLDER / "ee.environment.example").read_text()
BROKER_EXAMPLE = (FOLDER / "broker.toml.example").read_text()
WORKER_UNIT, CLIENT_UNIT, SENSOR_UNIT = "ee-worker@.service", "ee-client.service", "ee-sensor.service"
SCRIPTS = {WORKER_UNIT: SERVER, CLIENT_UNIT: CLIENT, SENSOR_UNIT: CLIENT}
BLOCKS: dict[str, str] = dict(re.findall(r"```\w+ ([\w.-]+)\n(.*?)```", README, re.DOTALL))
ALERTS = re.findall(r"^\| `(.+?)` \|", README, re.MULTILINE)
PYTHON, KILL = "/opt/ee/.venv/bin/python", "/bin/kill"
EVENTS = 700
MONTH = 300.0
"""Seconds in which a month is certainly decided, also where many tests run at once."""
NO_BROKER = {"hostname": "localhost:1"}
every_unit = pytest.mark.parametrize("unit", SCRIPTS)
needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@functools.cache
def settings(unit: str) -> dict[str, list[str]]:
    """Return the settings of a unit by key."""
    text = (FOLDER / unit).read_text().replace("\\\n", "")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def defaults(unit: str) -> dict[str, str]:
    words = [word for line in settings(unit)["Environment"] for word in shlex.split(line)]
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def assignments(environment_file: str) -> dict[str, str]:
    """Return the variables of an environment file."""
    lines = [line for line in environment_file.splitlines() if line and line[0] not in "#;"]
    return {name: value for name, _, value in (line.partition("=") for line in lines)}


def changed(**changes: object) -> str:
    """Return the example with the values that a user must set."""
    text = EXAMPLE
    for name, value in changes.items():
        text, times = re.subn(rf"^#?{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
        assert times == 1 or (not times and name in expert_variables()), f"{name} stands {times} times in the example"
        text += "" if times else f"{name}={value}\n"
    return text


@functools.cache
def expert_variables() -> set[str]:
    """Return the variables with which the environment sets expert options."""
    actions = [action for script in (SERVER, CLIENT) for action in load_script(script).make_parser()._actions]
    return {get_variable(action.option_strings[0]) for action in actions if hasattr(action, "meaning")}


def broker_file(**changes: str | None) -> str:
    """Return the example of the broker's settings, edited as one would; None removes a line."""
    text = BROKER_EXAMPLE
    for name, value in changes.items():
        line = "" if value is None else f'{name} = "{value}"'
        text, times = re.subn(rf"^{name} = .*$", line, text, flags=re.MULTILINE)
        assert times == 1, f"{name} stands {times} times in the example"
    return text


def command(unit: str, environment_file: str, specifiers: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return the words of a unit's command line and the environment, expanded as by systemd."""

    def specified(text: str) -> str:
        return re.sub("%(.)", lambda found: specifiers[found[1]], text)

    variables = {name: specified(value) for name, value in defaults(unit).items()} | assignments(environment_file)
    (line,) = settings(unit)["ExecStart"]
    words: list[str] = []
    for word in shlex.split(line):
        if re.fullmatch(r"\$\w+", word):
            words += shlex.split(variables[word[1:]])
        else:
            words.append(re.sub(r"\$\{(\w+)\}", lambda found: variables.get(found[1], ""), specified(word)))
    return words, variables


def is_tried_again(unit: str, code: int) -> bool:
    """Return whether systemd restarts a service of ours that ended with an exit code."""
    says = settings(unit)
    assert (says["Restart"], says["StartLimitIntervalSec"]) == (["on-failure"], ["0"])
    final = f"0 {says['SuccessExitStatus'][0]} {says['RestartPreventExitStatus'][0]}"
    return str(code) not in final.split()


@dataclass(frozen=True)
class Site:
    """A broker set up as the README says, and the files of both machines.

    Attributes:
        node: its broker; the name in its certificate is localhost.
        tls_port: where it listens for TLS.
        etc: stands for /etc/ee.
        dataset: of 700 events.
    """

    node: ControlledBroker
    tls_port: int
    etc: Path
    dataset: Path

    def moved(self, text: str) -> str:
        """Return a text with this machine's names and places in place of the README's."""
        places = (("/opt/ee/", f"{ROOT}/"), ("/etc/ee/", f"{self.etc}/"), ("/srv/ee/", f"{self.dataset.parent}/"))
        for old, new in (*places, ("broker.example", f"localhost:{self.tls_port}")):
            text = text.replace(old, new)
        return text

    def program(
        self, folder: Path, unit: str, instance: int = 1, broker: dict[str, str | None] | None = None, **changes: object
    ) -> Program:
        """Start what a unit starts, in a folder that stands for /var/lib, with changed settings."""
        folder.mkdir(exist_ok=True)
        (folder / "broker.toml").write_text(self.moved(broker_file(**(broker or {}))))
        credentials, state, logs = folder / "credentials", folder / "ee-client", folder / "ee-sensor"
        for needed in (credentials, state, logs):
            needed.mkdir(exist_ok=True)
        for line in settings(unit)["LoadCredential"]:
            name, _, path = line.partition(":")
            (credentials / name).unlink(missing_ok=True)
            (credentials / name).write_text(Path(self.moved(path)).read_text())
            (credentials / name).chmod(0o400)
        ports = {f"EE_{who}_METRICS_PORT": find_free_port() for who in ("CLIENT", "SENSOR")}
        text = changed(**{**ports, **changes})
        specifiers = {"i": str(instance), "d": str(credentials), "S": str(folder), "L": str(folder)}
        words, variables = command(unit, text, specifiers)
        assert words[0] == PYTHON
        words = [word.replace("/etc/ee/broker.toml", str(folder / "broker.toml")) for word in words[1:]]
        return Program(
            folder, *map(self.moved, words), **{name: self.moved(value) for name, value in variables.items()}
        )


@pytest.fixture(scope="module")
def site(
    broker: ControlledBroker, checkpoint: Path, sample: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    del broker  # requested so that this is skipped, too, where RabbitMQ is missing
    etc, tls_port = tmp_path_factory.mktemp("etc"), find_free_port()
    for line in BLOCKS["openssl"].replace("broker.example", "localhost").splitlines():
        subprocess.run(shlex.split(line), cwd=etc, check=True, capture_output=True)
    configuration = BLOCKS["rabbitmq.conf"].replace("/etc/rabbitmq/", f"{etc}/")
    # Tests reach the private node without TLS too, and no one else does with it.
    configuration = configuration.replace("listeners.tcp = none\n", "")
    configuration = configuration.replace("listeners.ssl.default = 5671", f"listeners.ssl.1 = 127.0.0.1:{tls_port}")
    (etc / "network.pth").symlink_to(checkpoint)
    with ControlledBroker(settings=configuration) as node:
        for line in BLOCKS["rabbitmqctl"].splitlines():
            if "delete_user" not in line:
                node.control(*shlex.split(line)[1:])
        for user in ("client", "worker"):
            (etc / f"{user}-password").write_text(f"{user.upper()}_PASSWORD\n")
        made = Site(node, tls_port, etc, sample / "2016_03.csv")
        (etc / "broker.toml").write_text(made.moved(BROKER_EXAMPLE))
        yield made


@pytest.fixture
def instance() -> int:
    """A worker's number such that no one makes use of its metrics port and the next."""

    def is_free(port: int) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    return next(number for number in range(1, 9) if is_free(9000 + number) and is_free(9001 + number))


def verdicts(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "ee-client" / "verdicts.csv", dtype=str, keep_default_na=False)


def page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=MONTH) as answer:
        return str(answer.read().decode())


def seconds(unit: str) -> float:
    """Return the seconds that systemd waits before it kills a service."""
    (text,) = settings(unit)["TimeoutStopSec"]
    return float(text)


def systemd_root(folder: Path, unit: str, text: str) -> list[str]:
    """Return options that have systemd-analyze look at a root with this unit, what it starts, and bare targets."""
    folder.mkdir()
    units = folder / "etc/systemd/system"
    for started in (PYTHON, KILL):
        (folder / started[1:]).parent.mkdir(parents=True)
        shutil.copy("/bin/true", folder / started[1:])
    units.mkdir(parents=True)
    for target in ("sysinit", "basic", "shutdown", "network-online", "multi-user"):
        (units / f"{target}.target").write_text("[Unit]\n")
    (units / unit).write_text(text)
    return [f"--root={folder}", unit.replace("@.", "@1.")]


@needs_analyze
@every_unit
def test_systemd_verifies_the_units(unit: str, tmp_path: Path) -> None:
    options = systemd_root(tmp_path / "root", unit, (FOLDER / unit).read_text())
    done = subprocess.run(["systemd-analyze", "verify", *options], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_analyze
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("ProtectHome=", "ProtectHme="),
        ("=strict", "=strickt"),
        ("/bin/python ", "/bin/perl "),
        ("@system-s", "@sistem-s"),
    ],
)
def test_a_planted_error_is_found(right: str, wrong: str, tmp_path: Path) -> None:
    text = (FOLDER / WORKER_UNIT).read_text()
    assert right in text
    options = systemd_root(tmp_path / "root", WORKER_UNIT, text.replace(right, wrong))
    done = subprocess.run(["systemd-analyze", "verify", *options], capture_output=True, text=True)
    assert done.stderr != ""


@needs_analyze
@every_unit
def test_systemd_rates_the_sandbox_as_secure(unit: str, tmp_path: Path) -> None:
    options = systemd_root(tmp_path / "root", unit, (FOLDER / unit).read_text())
    threshold = 20 if unit == SENSOR_UNIT else 15  # tenths; a sensor has a capability
    arguments = ["systemd-analyze", "security", "--offline=true", f"--threshold={threshold}", "--no-pager", *options]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_all_services_have_the_same_sandbox_except_for_packet_capture() -> None:
    worker, client, sensor = map(settings, SCRIPTS)
    keys = list(worker)[list(worker).index("NoNewPrivileges") : -1]
    assert len(keys) > 20
    assert {key for key in keys if worker[key] != client[key]} == {"UMask"}
    assert {key for key in keys if client[key] != sensor[key]} == {
        "CapabilityBoundingSet", "AmbientCapabilities", "PrivateUsers", "RestrictAddressFamilies",
    }  # fmt: skip
    assert sensor["AmbientCapabilities"] == sensor["CapabilityBoundingSet"] == ["CAP_NET_RAW"]
    assert sensor["RestrictAddressFamilies"] == [f"{client['RestrictAddressFamilies'][0]} AF_PACKET"]


def test_the_example_has_every_variable_of_the_units_and_shows_their_defaults() -> None:
    used = {name for unit in SCRIPTS for name in re.findall(r"\$\{?(\w+)", settings(unit)["ExecStart"][0])}
    shown = dict(re.findall(r"^#?(\w+)=(.*)$", EXAMPLE, re.MULTILINE))
    assert set(shown) == used | {"OMP_NUM_THREADS", "EE_LOG_FORMAT"}
    for unit in SCRIPTS:
        for name, value in defaults(unit).items():
            assert value.replace("%S", "/var/lib").replace("%L", "/var/log") == shown[name]
    assert set(assignments(EXAMPLE)) == used.difference(*map(defaults, SCRIPTS))


def test_variables_and_options_that_the_example_mentions_exist() -> None:
    mentioned = set(re.findall(r"EE_[A-Z_]+(?==)", "".join(re.findall(r"^# .*$", EXAMPLE, re.MULTILINE))))
    assert mentioned and mentioned <= expert_variables()
    options = {option for script in (SERVER, CLIENT) for action in load_script(script).make_parser()._actions
               for option in action.option_strings}  # fmt: skip
    assert set(re.findall(r"--[a-z][\w-]+", EXAMPLE)) <= options


def test_the_units_take_the_broker_from_one_file_whose_example_is_valid() -> None:
    for unit in SCRIPTS:
        assert "--mq-config /etc/ee/broker.toml" in settings(unit)["ExecStart"][0]
        assert set(re.findall(r"--mq-([\w-]+)", settings(unit)["ExecStart"][0])) == {
            "config", "username", "password-file",
        }  # fmt: skip
    keys = set(re.findall(r"^#?(\w+) = ", BROKER_EXAMPLE, re.MULTILINE))
    assert keys <= set(FILE_KEYS)


def test_the_files_that_the_readme_installs_exist() -> None:
    named = set(re.findall(r"/opt/ee/(offload/[^ `\n]+)", "\n".join(BLOCKS.values())))
    assert {path for path in named if not (ROOT / path).is_file()} == set()
    assert {f"offload/systemd/{path.name}" for path in FOLDER.iterdir() if path.name != "README.md"} < named


def test_logrotate_rotates_the_alerts_without_losing_a_line(tmp_path: Path) -> None:
    need("logrotate", "logrotate")
    logs, eve = tmp_path / "logs", tmp_path / "logs" / "eve.json"
    text = (FOLDER / "ee-sensor.logrotate").read_text()
    assert "su ee ee\n" in text and "/var/log/ee-sensor/" in text
    configuration = tmp_path / "ee-sensor"
    configuration.write_text(text.replace("su ee ee\n", "\n").replace("/var/log/ee-sensor", str(logs)))
    configuration.chmod(0o644)
    command = ["logrotate", "--force", "--state", str(tmp_path / "state"), str(configuration)]
    batches = [events_of(5, seed) for seed in range(4)]
    with AlertsFile(eve) as file:
        for batch in batches:
            file.append(batch)
            done = subprocess.run(command, capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, "")
    assert sorted(path.name for path in logs.iterdir()) == ["eve.json.1", *(f"eve.json.{n}.gz" for n in (2, 3, 4))]
    compressed = [(logs / f"eve.json.{number}.gz").read_bytes() for number in (2, 3, 4)]
    contents = [(logs / "eve.json.1").read_bytes(), *map(gzip.decompress, compressed)]
    assert contents == [lines_of(batch) for batch in reversed(batches)]


def test_worker_and_client_decide_a_month_serve_metrics_and_stop(site: Site, instance: int, tmp_path: Path) -> None:
    with site.program(tmp_path / "worker", WORKER_UNIT, instance) as worker:
        worker.wait_for('"event": "ready"')
        urls = [url.replace("9001", f"900{instance}") for url in re.findall(r"http://\S+", BLOCKS["look"])]
        readyz, metrics = map(page, urls)
        assert readyz == "ok\n"
        assert "\nee_worker_connected 1.0\n" in metrics
        with site.program(tmp_path / "client", CLIENT_UNIT) as client:
            assert client.end(MONTH) == 0, client.err
        assert client.err == ""
        assert json.loads(client.out.splitlines()[-1])["rows"] == EVENTS
        table = verdicts(tmp_path / "client")
        assert len(table) == EVENTS
        assert set(table["reason"]) == {"certain", "uncertain"}
        assert {"edge", "cloud"} <= set(table["decider"])
        worker.send(signal.SIGTERM)
        assert worker.end(seconds(WORKER_UNIT)) == 0, worker.err
        assert worker.err == ""


def test_a_sensor_watches_an_interface_and_asks_the_worker(site: Site, instance: int, tmp_path: Path) -> None:
    all_offloaded = "--normal-exit1-min-certainty 1 --attack-exit1-min-certainty 1"
    eve = tmp_path / "sensor" / "ee-sensor" / "eve.json"
    with site.program(tmp_path / "worker", WORKER_UNIT, instance) as worker:
        worker.wait_for('"event": "ready"')
        with site.program(tmp_path / "sensor", SENSOR_UNIT, EE_INTERFACE="lo", EE_THRESHOLDS=all_offloaded) as sensor:
            wait_until(lambda: eve.exists() and eve.stat().st_size, MONTH)  # once the interface is open
            with closing(socket.socket(type=socket.SOCK_DGRAM)) as sender:
                sender.sendto(b"hello", ("127.0.0.1", 9))
            sensor.send(signal.SIGTERM)
            assert sensor.end(seconds(SENSOR_UNIT)) == 0, sensor.err
    last = json.loads(eve.read_text().splitlines()[-1])
    assert last["stats"]["early_exit"]["offloaded"] == last["stats"]["early_exit"]["records"] > 0
    assert '"event": "batch"' in worker.out


def test_the_readmes_test_of_the_link_succeeds(site: Site, instance: int, tmp_path: Path) -> None:
    (line,) = [line for line in BLOCKS["try"].splitlines() if line.startswith(PYTHON)]
    with site.program(tmp_path / "worker", WORKER_UNIT, instance) as worker:
        worker.wait_for('"event": "ready"')
        with Program(tmp_path, *shlex.split(site.moved(line))[1:]) as generator:
            assert generator.end(MONTH) == 0, generator.err
    assert "20 requests, 20 answered" in generator.out


def test_a_killed_client_continues_where_it_stopped(site: Site, tmp_path: Path) -> None:
    written = tmp_path / "ee-client" / "verdicts.csv"
    note = make_resume_path(written)
    with site.program(
        tmp_path, CLIENT_UNIT, EE_CLIENT_OPTIONS="--show-decider --batch-size 5", EE_REQUEST_TIMEOUT=0.2
    ) as client:
        # Rows that the resume file does not know of yet may be decided again.
        wait_until(lambda: note.exists() and json.loads(note.read_text())["written"]["rows"])
        client.send(signal.SIGKILL)
        client.end()
    before = written.read_bytes()
    assert before.count(b"\n") < EVENTS
    for _ in range(2):  # the second finds nothing to do
        with site.program(tmp_path, CLIENT_UNIT, EE_REQUEST_TIMEOUT=0.2) as client:
            assert client.end(MONTH) == 0, client.err
        assert len(verdicts(tmp_path)) == EVENTS
    assert written.read_bytes().startswith(before[: before.rindex(b"\n") + 1])
    assert verdicts(tmp_path)["class"].tolist() == pd.read_csv(site.dataset, dtype=str)["class"].tolist()


WAITING = {"EE_CLIENT_OPTIONS": "--on-cloud-failure wait", "EE_WAIT_TIMEOUT": 1}


@pytest.mark.parametrize(
    ("unit", "broker_changes", "changes", "code", "line", "again"),
    [
        (WORKER_UNIT, {}, {"EE_WORKER_OPTIONS": "--network lenet"}, 2, "unknown", False),
        (WORKER_UNIT, NO_BROKER, {}, 3, "no RabbitMQ", True),
        (CLIENT_UNIT, NO_BROKER, WAITING, 3, "no Rab", True),
        (WORKER_UNIT, {}, {"EE_WORKER_OPTIONS": "--mq-username ee-client"}, 4, "refuses user 'ee-client'", False),
        (CLIENT_UNIT, {}, {"EE_CLIENT_OPTIONS": "--mq-username no-one"}, 4, "refuses user 'no-one'", False),
        (WORKER_UNIT, {"ca_file": None}, {}, 4, "certificate", False),
    ],
)
def test_what_time_may_heal_is_tried_again_and_nothing_else(
    unit: str, broker_changes: dict[str, str | None], changes: dict[str, object], code: int, line: str, again: bool,
    site: Site, instance: int, tmp_path: Path,
) -> None:  # fmt: skip
    with site.program(tmp_path, unit, instance, broker_changes, **changes) as program:
        assert program.end() == code, program.err
    assert line in program.err.splitlines()[-1]
    assert is_tried_again(unit, code) is again


@every_unit
def test_a_service_stopped_during_its_start_has_not_failed(unit: str) -> None:
    assert not is_tried_again(unit, 130)
    assert settings(unit)["SuccessExitStatus"] == ["130"]


def test_a_broker_that_is_called_by_another_name_than_its_certificates_is_not_trusted(
    site: Site, tmp_path: Path
) -> None:
    broker: dict[str, str | None] = {"hostname": f"127.0.0.1:{site.tls_port}"}
    with site.program(tmp_path, CLIENT_UNIT, broker=broker) as client:
        assert client.end() == 4
    assert "is not trusted" in client.err


def test_workers_share_a_quorum_queue_after_the_classic_one_is_deleted(
    site: Site, instance: int, tmp_path: Path
) -> None:
    with site.program(tmp_path / "classic", WORKER_UNIT, instance) as worker:
        worker.wait_for('"event": "ready"')
    with site.program(tmp_path / "early", WORKER_UNIT, instance, EE_WORKER_OPTIONS="--queue-type quorum") as worker:
        assert worker.end() == 2
    assert "exists with other settings; delete it" in worker.err
    (delete,) = [shlex.split(line)[1:] for line in BLOCKS["delete-queue"].splitlines()]
    site.node.control(*delete)
    with ExitStack() as running:
        workers = [
            running.enter_context(
                site.program(tmp_path / f"{n}", WORKER_UNIT, instance + n, EE_WORKER_OPTIONS="--queue-type quorum")
            )
            for n in range(2)
        ]
        for worker in workers:
            worker.wait_for('"event": "ready"')
        client = running.enter_context(
            site.program(tmp_path / "client", CLIENT_UNIT, EE_CLIENT_OPTIONS="--show-decider --batch-size 50")
        )
        assert client.end(MONTH) == 0, client.err
        for worker in workers:
            worker.send(signal.SIGTERM)
        assert [worker.end() for worker in workers] == [0, 0]
    assert set(verdicts(tmp_path / "client")["reason"]) == {"certain", "uncertain"}
    assert all(json.loads(worker.out.splitlines()[-1])["answered"] > 0 for worker in workers)
    site.node.control(*delete)


def test_the_edge_decides_alone_while_the_worker_has_another_network(site: Site, instance: int, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    write_checkpoint(other, calibrated_network("MobileNetV2WithExits", seed=1), {})
    with site.program(tmp_path / "worker", WORKER_UNIT, instance, EE_NETWORK_FILE=other) as worker:
        worker.wait_for('"event": "ready"')
        with site.program(
            tmp_path / "local", CLIENT_UNIT, EE_CLIENT_OPTIONS="--show-decider --batch-size 100", EE_WINDOW=1
        ) as client:
            assert client.end(MONTH) == 0, client.err
        with site.program(tmp_path / "wait", CLIENT_UNIT, EE_CLIENT_OPTIONS="--on-cloud-failure wait") as waiting:
            assert waiting.end(MONTH) == 2
    reasons = Counter(verdicts(tmp_path / "local")["reason"])
    assert reasons.total() == EVENTS
    # One request at a time, so that those after the third know better than to be sent.
    assert {"wrong-model", "circuit-open"} <= set(reasons) <= {"certain", "uncertain", "wrong-model", "circuit-open"}
    assert "wrong-model" in waiting.err
    with site.program(tmp_path / "local", CLIENT_UNIT, EE_NETWORK_FILE=other) as client:
        assert client.end() == 2
    assert "was written with another network file; give the same, or leave out --resume" in client.err


def reload(service: Program, unit: str) -> None:
    """Reload a service as its unit says."""
    assert settings(unit)["ExecReload"] == [f"{KILL} -HUP $MAINPID"]
    service.send(signal.SIGHUP)


def test_a_worker_takes_over_a_release_when_it_is_reloaded(site: Site, instance: int, tmp_path: Path) -> None:
    release = write_release(tmp_path / "release-0001", calibrated_network("MobileNetV2WithExits"))
    options = dict(re.findall(r"^(\w+)=(.*)$", BLOCKS["environment"], re.MULTILINE))
    assert options.pop("EE_NETWORK_FILE") == "/etc/ee/releases"
    with site.program(tmp_path / "new", WORKER_UNIT, instance, **options, EE_NETWORK_FILE=release) as worker:
        worker.wait_for('"event": "ready"')
        reload(worker, WORKER_UNIT)
        worker.wait_for('"event": "release"')
        worker.send(signal.SIGTERM)
        assert worker.end() == 0


def test_a_worker_without_releases_survives_a_reload(site: Site, instance: int, tmp_path: Path) -> None:
    with site.program(tmp_path / "worker", WORKER_UNIT, instance) as worker:
        worker.wait_for('"event": "ready"')
        reload(worker, WORKER_UNIT)
        worker.send(signal.SIGTERM)
        assert worker.end() == 0
    assert "stopped: 0 requests answered" in worker.out


@pytest.mark.parametrize("unit", [CLIENT_UNIT, SENSOR_UNIT])
def test_edges_are_reloaded_like_workers(unit: str) -> None:
    assert settings(unit)["ExecReload"] == settings(WORKER_UNIT)["ExecReload"]


@pytest.mark.parametrize("fate", ["dropped", "left_out", "late"])
def test_there_is_an_alert_for_each_fate_of_packets_that_are_in_no_record(fate: str) -> None:
    (expression,) = [expression for expression in ALERTS if f'fate="{fate}"' in expression]
    assert expression == f'sum(increase(ee_client_packets_total{{fate="{fate}"}}[10m])) > 0'


def test_alerts_use_only_exported_metrics() -> None:
    assert len(ALERTS) > 5
    assert [expression for expression in ALERTS if not asks_for_what_is_exported(expression)] == []


@needs_promtool
def test_promtool_accepts_every_alert(tmp_path: Path) -> None:
    assert_prometheus_understands(ALERTS, tmp_path)
