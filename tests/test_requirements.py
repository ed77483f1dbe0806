"""The lock files hold what the requirements ask for, every package by version and hash."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("requirements", "requirements-dev", "requirements-edge")
LEFT_OUT = {"torch"}  # its builds for the CPU and for CUDA have other hashes


def pinned(name: str) -> dict[str, str]:
    """Return package -> version that a requirements file names, with those of the file that it includes."""
    found: dict[str, str] = {}
    for line in (ROOT / f"{name}.txt").read_text().splitlines():
        if line.startswith("-r "):
            found |= pinned(line.removeprefix("-r ").removesuffix(".txt"))
        elif line and not line.startswith("#"):
            package, _, version = line.partition("==")
            found[package.replace("_", "-").lower()] = version
    return found


def locked(name: str) -> list[tuple[str, str, int]]:
    """Return package, version and number of hashes of each entry of a lock file."""
    entries = re.split(r"^(?=[a-z])", (ROOT / f"{name}.lock").read_text(), flags=re.MULTILINE)
    found = []
    for entry in filter(None, entries):
        head = re.match(r"([a-z0-9-]+)==(\S+)", entry)
        assert head is not None, entry.splitlines()[0]
        found.append((head[1], head[2], len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", entry))))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_file_holds_the_required_versions_of_all_but_pytorch(name: str) -> None:
    versions = {(package, version) for package, version, _ in locked(name)}
    asked = {(package, version) for package, version in pinned(name).items() if package not in LEFT_OUT}
    assert asked <= versions, "run make lock"


@pytest.mark.parametrize("name", NAMES)
def test_every_locked_package_has_hashes_and_none_is_a_build_of_pytorch(name: str) -> None:
    entries = locked(name)
    assert [package for package, _, hashes in entries if not hashes] == []
    assert [package for package, *_ in entries if re.match("torch|triton|nvidia|cuda", package)] == []


def test_the_tools_of_the_checks_stand_on_the_same_versions_as_the_scripts() -> None:
    assert set(locked("requirements")) <= set(locked("requirements-dev"))
