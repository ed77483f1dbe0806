"""What all tests stand on: the shared data folder, small trained networks, and a private RabbitMQ node."""

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
# As an interrupt, SIGTERM ends the nodes and workers that the tests started.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# A shell's background job ignores SIGINT, and so would the scripts that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(ROOT))
# Two cores serve the tests, the worker and the client at once. Read when torch is imported, here and in scripts run.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Results are compared to the last digit, so a GPU is used only where the environment names one.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from models.checkpoint import write_checkpoint
from offload.link.private_broker import PrivateBroker, find_server
from tests.networks import calibrated_network
from tests.shared_data import require_shared

# How long an example takes to make or to run says how busy the machine is.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


MARKS_BY_FIXTURE = {"broker": "system", "node": "system", "chain": "slow", "halves": "slow"}
"""Fixture -> the mark of all tests that use it, directly or through another fixture."""
LONGEST = (
    "test_published_readme", "test_rights", "test_client", "test_faults", "test_distributed", "test_deployment",
    "test_scripts", "test_readme", "test_silent_network", "test_link", "test_outages", "test_traffic",
    "test_measure_energy", "test_cloud", "test_bench", "test_memory_alarm", "test_worker_faults", "test_connection",
    "test_private_broker", "test_inference", "test_cluster", "test_scripts_bad_input",
)  # fmt: skip
"""Modules that begin first where several processes share the tests, so that none runs alone at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, before pytest selects by marks, and put the longest modules first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if mark := MARKS_BY_FIXTURE.get(fixture):
                item.add_marker(mark)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Decide whether a test that needs the published data runs, before pytest looks at its own skips."""
    if item.get_closest_marker("published"):
        require_shared(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let what tests log pass from process to process, also halves of characters, which some log on purpose."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session")
def broker() -> Iterator[PrivateBroker]:
    """A RabbitMQ node for all tests of this process; where it is not installed, skip, but fail under CI."""
    if find_server() is None:
        reason = "RabbitMQ is not installed (on Debian: apt install rabbitmq-server)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with PrivateBroker() as node:
        yield node


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated MobileNetV2 with two exits, untrained but with certainties all over [0.5, 1]."""
    path = tmp_path_factory.mktemp("checkpoint") / "calibrated.pth"
    write_checkpoint(path, calibrated_network("MobileNetV2WithExits"), {"data": "none"})
    return path


@pytest.fixture(scope="session")
def alexnet_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated AlexNet of the same kind."""
    path = tmp_path_factory.mktemp("checkpoint") / "alexnet.pth"
    write_checkpoint(path, calibrated_network("AlexNetWithExits"), {"data": "none"})
    return path


@pytest.fixture(scope="session")
def sample() -> Path:
    """The folder of the bundled synthetic months."""
    return ROOT / "dataset" / "sample"
