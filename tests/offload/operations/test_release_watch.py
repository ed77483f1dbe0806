import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from offload.operations.release_watch import Opened, ReleaseWatch, ignore_hangup
from tests.offload.link_ends import wait_until
from utils.errors import InputFileError, ResultFileError
from utils.release import CURRENT, FILES, MANIFEST, NETWORK, Release, point_to, write_manifest


def make_release(folder: Path, fingerprint: str, architecture: str = "AlexNetWithExits") -> Path:
    """Make a release whose files hold their own names only; the watch does not look into them."""
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(name)
    write_manifest(folder, None, architecture, fingerprint * 64, [], {})
    return folder


@dataclass
class Process:
    """What a process that runs releases keeps."""

    watch: ReleaseWatch[str]
    taken: list[Opened[str]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        return [opened.content for opened in self.taken]


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    for name, fingerprint in (("r1", "a"), ("r2", "b")):
        make_release(tmp_path / "releases" / name, fingerprint)
    point_to(tmp_path / "releases", "r1")
    return tmp_path / "releases"


@pytest.fixture
def process(releases: Path) -> Iterator[Process]:
    """A process that runs release r1."""
    process = Process(ReleaseWatch(releases, lambda release: release.name))
    with process.watch.on_hangup():
        assert process.watch.open_first().content == "r1"
        with process.watch.follow(process.taken.append):
            yield process


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def hang_up() -> None:
    os.kill(os.getpid(), signal.SIGHUP)


def test_another_current_release_is_opened_in_the_background(process: Process, releases: Path) -> None:
    point_to(releases, "r2")
    wait_until(lambda: process.names == ["r2"])
    point_to(releases, "r1")
    wait_until(lambda: process.names == ["r2", "r1"])
    assert process.taken[0].release.fingerprint == "b" * 64
    assert process.taken[0].seconds >= 0


def test_a_signal_opens_the_current_release_again(process: Process) -> None:
    hang_up()
    wait_until(lambda: process.names == ["r1"])
    hang_up()
    wait_until(lambda: process.names == ["r1", "r1"])


def test_a_signal_before_the_watch_follows_is_remembered(releases: Path) -> None:
    process = Process(ReleaseWatch(releases, lambda release: release.name))
    with process.watch.on_hangup():
        process.watch.open_first()
        hang_up()
        with process.watch.follow(process.taken.append):
            wait_until(lambda: process.names == ["r1"])


def damage(releases: Path) -> None:
    (releases / "r2" / NETWORK).write_text("changed")


def tear(releases: Path) -> None:
    (releases / "r2" / MANIFEST).unlink()


def change_architecture(releases: Path) -> None:
    write_manifest(releases / "r2", None, "MobileNetV2WithExits", "b" * 64, [], {})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [(damage, "copy the release again"), (tear, "half written"), (change_architecture, "change the architecture")],
)
def test_a_broken_release_is_one_line_and_the_running_one_stays(
    process: Process, releases: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], object],
    words: str,
) -> None:  # fmt: skip
    spoil(releases)
    (releases / "other").symlink_to("r2")  # point_to would refuse a release without a manifest
    (releases / "other").replace(releases / CURRENT)
    wait_until(lambda: lines_of(caplog))
    hang_up()
    wait_until(lambda: len(lines_of(caplog)) == 2)
    assert all(line.startswith("release r1 stays in use: ") and words in line for line in lines_of(caplog))
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert process.names == []
    point_to(releases, "r1")
    wait_until(lambda: process.names == ["r1"])


def test_a_link_that_leads_nowhere_is_one_line(
    process: Process, releases: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (releases / CURRENT).unlink()
    (releases / CURRENT).symlink_to("absent")
    wait_until(lambda: lines_of(caplog))
    point_to(releases, "r2")
    wait_until(lambda: process.names == ["r2"])
    (line,) = lines_of(caplog)
    assert "leads to no release" in line


def test_what_the_process_refuses_is_one_line(releases: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(_opened: object) -> None:
        raise ResultFileError("policy.json: holds no reference")

    watch = ReleaseWatch(releases, lambda release: release.name)
    watch.open_first()
    with watch.follow(refuse):
        point_to(releases, "r2")
        wait_until(lambda: lines_of(caplog))
    assert lines_of(caplog) == ["release r1 stays in use: policy.json: holds no reference"]


def test_a_name_that_would_not_fit_into_a_row_is_refused(releases: Path) -> None:
    make_release(releases / "r3,4", "c")
    with pytest.raises(InputFileError, match="is no name for a release"):
        ReleaseWatch(releases / "r3,4", lambda release: release.name).open_first()


def find(watch: ReleaseWatch[str], fingerprint: str) -> list[str]:
    found: list[Opened[str]] = []
    watch.open_for(fingerprint * 64, found.append, lambda: False)
    return [opened.content for opened in found]


def test_a_release_of_the_folder_is_found_by_its_fingerprint(process: Process, releases: Path) -> None:
    assert find(process.watch, "b") == ["r2"]
    assert find(process.watch, "c") == []
    make_release(releases / ".r3.part", "c").rename(releases / "r3")
    assert find(process.watch, "c") == ["r3"]
    assert find(ReleaseWatch(releases / "r1", lambda release: release.name), "c") == ["r3"]
    assert find(ReleaseWatch(releases / "absent", lambda release: release.name), "c") == []


def test_what_is_no_release_is_not_found(process: Process, releases: Path) -> None:
    make_release(releases / "r0", "d")
    for name, content in (("r5", b"["), ("r6", b"[]"), ("r7", b""), ("r8", b'{"fingerprint": 5}'), ("r9", None)):
        (releases / name).mkdir()
        if content is not None:
            (releases / name / MANIFEST).write_bytes(content)
    assert find(process.watch, "d") == ["r0"]
    assert find(process.watch, "5") == []


def test_a_broken_release_that_is_named_is_tried_once_until_it_changes(
    process: Process, releases: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(releases)
    assert [find(process.watch, "b") for _ in range(3)] == [[]] * 3
    assert len(lines_of(caplog)) == 1
    (releases / "r2" / NETWORK).write_text(NETWORK)
    assert find(process.watch, "b") == ["r2"]


def test_who_names_a_release_waits_while_it_is_opened(releases: Path) -> None:
    opening, go_on = threading.Event(), threading.Event()
    opened: set[str] = set()

    def open_release(release: Release) -> str:
        if release.name == "r2":
            opening.set()
            go_on.wait()
        return release.name

    watch = ReleaseWatch(releases, open_release)
    watch.open_first()
    with watch.follow(lambda one: opened.add(one.content)):
        point_to(releases, "r2")
        assert opening.wait(60)
        asking = threading.Thread(
            target=watch.open_for, args=("b" * 64, lambda _one: opened.add("twice"), lambda: "r2" in opened)
        )
        asking.start()
        go_on.set()
        asking.join()
    assert opened == {"r2"}


def test_a_service_without_releases_survives_the_signal() -> None:
    with Path(os.devnull).open() as nothing, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", nothing)
        before = signal.getsignal(signal.SIGHUP)
        with ignore_hangup():
            hang_up()
        assert signal.getsignal(signal.SIGHUP) == before
