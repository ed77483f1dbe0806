"""Open the release that a process uses, and later ones while it runs.

A process looks for another release when it gets SIGHUP, or when the link ``current`` of its folder names another one.
It opens the release in a thread of its own, and goes on with the running one until the new one is ready. A release
that is broken is reported in one line, and the running one stays in use.
"""

import json
import logging
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from offload.operations import logs
from utils.errors import InputFileError, ResultFileError, ToolkitError
from utils.files import check_readable
from utils.release import LARGEST_MANIFEST, MANIFEST, Release, find_release_folder, read_release

POLL: Final = 0.25
"""Seconds between two looks at the link and at the signal."""
_RESCAN: Final = 1.0
_JOIN: Final = 5.0
_NAME: Final = re.compile(r"[\w.+@=-]{1,100}", re.ASCII)

log = logging.getLogger(__name__)

Content = TypeVar("Content")


@dataclass(frozen=True)
class Opened(Generic[Content]):
    """A release that is open, and can be used.

    Attributes:
        release: the release.
        content: what the process opened of it.
        seconds: that it took to read and open it.
        moment: when it was open, on the monotonic clock.
    """

    release: Release
    content: Content
    seconds: float
    moment: float

    def report_use(self) -> None:
        """Log that the release is in use from now on."""
        waited = time.monotonic() - self.moment
        logs.report(
            log,
            "release",
            f"changed over to release {self.release.name} in {waited:.3f} s, after it was opened in "
            f"{self.seconds:.3f} s",
            release=self.release.name,
            fingerprint=self.release.fingerprint,
            seconds=round(waited, 6),
            opened_in_seconds=round(self.seconds, 6),
        )


class ReleaseWatch(Generic[Content]):
    """Opens the current release of a folder, and those that follow it.

    Args:
        path: folder of a release, or of releases with the link ``current``.
        open_release: opens a release whose files were checked. A ToolkitError that it raises is reported.
    """

    def __init__(self, path: Path, open_release: Callable[[Release], Content]) -> None:
        self._path = path
        self._open_release = open_release
        self._lock = threading.Lock()  # one release is opened at a time
        self._asked = False  # not an Event: the code that a signal interrupts could hold its lock
        self._ending = threading.Event()
        self._seen: Path | None = None  # the last release that was looked at, whether it was good or not
        self._current: Release | None = None
        self._known: dict[str, list[Path]] = {}  # releases of the folder by fingerprint, as of the last scan
        self._scanned: tuple[int, float] = (0, float("-inf"))  # time of the folder's last change, and of the scan
        self._broken: set[tuple[Path, tuple[int, ...]]] = set()

    @contextmanager
    def on_hangup(self) -> Iterator[None]:
        """In the block, look for a release on SIGHUP; the signal is remembered until ``follow`` looks."""

        def handle(_number: int, _frame: object) -> None:
            self._asked = True

        previous = signal.signal(signal.SIGHUP, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, previous)

    def open_first(self) -> Opened[Content]:
        """Open the current release, with which the process starts.

        Raises:
            InputFileError: there is none, or it is broken.
            ToolkitError: ``open_release`` raised it.
        """
        self._seen = find_release_folder(self._path)
        opened = self._open(self._seen)
        self._current = opened.release
        return opened

    @contextmanager
    def follow(self, on_opened: Callable[[Opened[Content]], object]) -> Iterator[None]:
        """In the block, open each later release in the background.

        Args:
            on_opened: called in a thread of the watch with each release that was opened. A ToolkitError that it raises
                is reported as that of a broken release.
        """
        thread = threading.Thread(target=self._follow, args=(on_opened,), name="releases", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ending.set()
            thread.join(_JOIN)  # an interpreter that ends must not find ONNX Runtime at work

    def open_for(self, fingerprint: str, use: Callable[[Opened[Content]], object], is_here: Callable[[], bool]) -> None:
        """Open the release of the folder whose network has a fingerprint, and pass it to ``use``, if there is one.

        If the same release is being opened in the background, wait for it. The search reads the small manifests, at
        most once a second unless the folder changes. A broken release is reported and not tried again until its
        folder changes or another release is looked for, because its files are large.

        Args:
            fingerprint: from a message of another process, so any text of that form.
            use: called with the opened release.
            is_here: returns whether the release was opened meanwhile.
        """
        with self._lock:
            if is_here():
                return
            for folder in self._find_by_fingerprint(fingerprint):
                state = folder, _read_times(folder)
                if state in self._broken:
                    continue
                try:
                    use(self._open(folder))
                except (ToolkitError, OSError, MemoryError) as problem:
                    self._broken.add(state)
                    self._report_broken(problem)
                else:
                    return

    def _follow(self, on_opened: Callable[[Opened[Content]], object]) -> None:
        while not self._ending.wait(POLL):
            self._look(on_opened)

    def _look(self, on_opened: Callable[[Opened[Content]], object]) -> None:
        """Open the current release if it is another one, or if a signal asks for it."""
        asked, self._asked = self._asked, False
        try:
            folder = find_release_folder(self._path)
        except (ToolkitError, OSError) as problem:
            if asked or self._seen is not None:
                self._report_broken(problem)
            self._seen = None
            return
        if not asked and folder == self._seen:
            return
        self._seen = folder
        with self._lock:
            self._broken.clear()
            try:
                opened = self._open(folder)
                on_opened(opened)
            except (ToolkitError, OSError, MemoryError) as problem:
                self._report_broken(problem)
            else:
                self._current = opened.release

    def _open(self, folder: Path) -> Opened[Content]:
        start = time.monotonic()
        if _NAME.fullmatch(folder.name) is None:
            raise InputFileError(f"{folder}: is no name for a release; use letters, digits and .+@=_-, at most 100")
        release = read_release(folder)
        if self._current is not None and release.architecture != self._current.architecture:
            raise ResultFileError(
                f"{folder}: holds {release.architecture}, but {self._current.architecture} runs here; start this "
                "process again to change the architecture"
            )
        content = self._open_release(release)
        now = time.monotonic()
        return Opened(release, content, now - start, now)

    def _report_broken(self, problem: BaseException) -> None:
        running = "the running one" if self._current is None else self._current.name
        sentence = f"release {running} stays in use: {str(problem) or type(problem).__name__}"
        logs.report(log, "release-broken", " ".join(sentence.split()), level=logging.WARNING)

    def _find_by_fingerprint(self, fingerprint: str) -> list[Path]:
        try:
            folder = find_release_folder(self._path).parent
            changed, now = folder.stat().st_mtime_ns, time.monotonic()
            if changed != self._scanned[0] or now - self._scanned[1] > _RESCAN:
                self._known = _scan(folder)
                self._scanned = changed, now
        except (ToolkitError, OSError):
            return []
        return self._known.get(fingerprint, [])


def _scan(folder: Path) -> dict[str, list[Path]]:
    """Return the releases in a folder by fingerprint; their files are not checked, only the manifests are read."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir(), reverse=True):
        manifest = path / MANIFEST
        if path.is_symlink() or _NAME.fullmatch(path.name) is None or path.name.startswith("."):
            continue
        try:
            if check_readable(manifest).stat().st_size <= LARGEST_MANIFEST:
                found.setdefault(str(json.loads(manifest.read_bytes())["fingerprint"]), []).append(path)
        except (InputFileError, OSError, ValueError, TypeError, KeyError, RecursionError):
            continue  # what is no release, or is half written
    return found


def _read_times(folder: Path) -> tuple[int, ...]:
    """Return when a release's folder and files last changed."""
    try:
        return folder.stat().st_mtime_ns, *(path.stat().st_mtime_ns for path in sorted(folder.iterdir()))
    except OSError:
        return ()


@contextmanager
def ignore_hangup() -> Iterator[None]:
    """In the block, ignore SIGHUP unless a terminal sends it.

    ``systemctl reload`` sends it to a service without releases, too, which it would end.
    """
    if sys.stdin is not None and sys.stdin.isatty():
        yield
        return
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)
