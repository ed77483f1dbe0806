"""Fixtures of all tests: the published data, small networks and a private RabbitMQ node."""

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]
# With the handler of SIGINT, SIGTERM also ends the nodes and workers that the tests started.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# In a background job of a shell SIGINT is ignored, and the scripts that the tests interrupt would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, str(ROOT))
# The tests, the worker and the client share two cores. Torch reads this when it is imported, here and in scripts.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Results are compared to the last digit, so a GPU is used only if the environment selects one.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

from models.checkpoint import write_checkpoint
from offload.link.private_broker import find_server
from tests.controlled_broker import ControlledBroker
from tests.networks import calibrated_network
from tests.shared_data import require_shared

# No deadline: the time of an example depends on how busy the machine is.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


MARKS_BY_FIXTURE = {"broker": "system", "node": "system", "chain": "slow", "halves": "slow"}
"""Marks of the tests that use a fixture, directly or indirectly, by the fixture's name."""
LONGEST = (
    "test_published_readme", "test_rights", "test_client", "test_faults", "test_distributed", "test_deployment",
    "test_scripts", "test_readme", "test_silent_network", "test_link", "test_outages", "test_traffic",
    "test_measure_energy", "test_cloud", "test_bench", "test_memory_alarm", "test_worker_faults", "test_connection",
    "test_private_broker", "test_inference", "test_cluster", "test_scripts_bad_input",
)  # fmt: skip
"""Modules that start first, so that with several processes none of them runs alone at the end."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their fixtures, before pytest selects by marks, and sort the longest modules first."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    for item in items:
        for fixture in getattr(item, "fixturenames", ()):
            if mark := MARKS_BY_FIXTURE.get(fixture):
                item.add_marker(mark)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Decide whether a test that needs the published data runs, before pytest applies its own skips."""
    if item.get_closest_marker("published"):
        require_shared(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape invalid characters in captured logs, which some tests write, so that they pass between processes."""
    report = yield
    report.sections = [(title, text.encode("utf-8", "backslashreplace").decode()) for title, text in report.sections]
    return report


@pytest.fixture(scope="session")
def broker() -> Iterator[ControlledBroker]:
    """A RabbitMQ node for all tests of this process; if it is not installed, skip the test, or fail it under CI."""
    if find_server() is None:
        reason = "RabbitMQ is not installed (on Debian: apt install rabbitmq-server)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with ControlledBroker() as node:
        yield node


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated, untrained MobileNetV2 with two exits and certainties throughout [0.5, 1]."""
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
