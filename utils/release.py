"""Releases: folders that hold a network with all that edges and workers need, and say where it comes from.

A release folder holds these files:

    network.pth    the calibrated network
    edge.onnx      segment 1 and exit 1, for edges without PyTorch
    second.onnx    segment 2 and exit 2
    policy.json    thresholds and reference, see ``utils.policy``
    manifest.json  format "early-exit release"; version 1; parent, the name of the release that this one was trained
                   from, or null; architecture and fingerprint of the network, see ``models.checkpoint``; files,
                   the SHA-256 of each file above; data, the name, number of rows and SHA-256 of each labelled file;
                   judgement, numbers that compare it with its parent

A folder of releases also has the link ``current``, which names one of them. It is replaced atomically, so a reader sees
either the old release or the new one.
"""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from utils.errors import InputFileError, ResultFileError
from utils.files import check_folder, check_readable, compute_digest, replacing

FORMAT: Final = "early-exit release"
VERSION: Final = 1
NETWORK: Final = "network.pth"
EDGE: Final = "edge.onnx"
SECOND: Final = "second.onnx"
POLICY: Final = "policy.json"
FILES: Final = (NETWORK, EDGE, SECOND, POLICY)
MANIFEST: Final = "manifest.json"
CURRENT: Final = "current"

LARGEST_MANIFEST: Final = 2**20
"""Bytes."""

_REMEDY: Final = "make a release with dnn/renew-network.py"


@dataclass(frozen=True)
class LabelledFile:
    """A labelled file that a release was trained or judged on.

    Attributes:
        name: of the file.
        rows: number of labelled rows.
        sha256: of the file, hexadecimal.
    """

    name: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class Release:
    """A release whose files are the ones that its manifest names.

    Attributes:
        folder: its folder, without links.
        parent: name of the release that it was trained from; None: there is none.
        architecture: name of the network's class.
        fingerprint: of the network.
        data: the labelled files.
        judgement: numbers that compare it with its parent.
    """

    folder: Path
    parent: str | None
    architecture: str
    fingerprint: str
    data: tuple[LabelledFile, ...]
    judgement: Mapping[str, float]

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.name

    def get_path(self, file: str) -> Path:
        """Return the path of one of ``FILES``."""
        return self.folder / file


def find_release_folder(path: Path) -> Path:
    """Return the folder of a release, without links, from that folder or from a folder of releases.

    Raises:
        InputFileError: there is no such folder, or it names no current release.
    """
    check_folder(path)
    if os.path.lexists(path / CURRENT) and not (path / MANIFEST).exists():
        path = path / CURRENT
        if not path.is_dir():
            raise InputFileError(f"{path}: leads to no release; point it to one with dnn/renew-network.py --rollback")
    return path.resolve()


def read_release(path: Path) -> Release:
    """Read a release, and check that its files are the ones that its manifest names.

    Args:
        path: folder of the release, or of releases, whose current one is read.

    Raises:
        InputFileError: there is no such folder.
        ResultFileError: the release is half written, damaged, or of a later version.
    """
    folder = find_release_folder(path)
    manifest = folder / MANIFEST
    if not manifest.exists():
        raise ResultFileError(f"{folder}: holds no {MANIFEST}, so it is no release, or half written; {_REMEDY}")
    if check_readable(manifest, ResultFileError).stat().st_size > LARGEST_MANIFEST:
        raise ResultFileError(f"{manifest}: is larger than any manifest; {_REMEDY}")
    try:
        content = json.loads(manifest.read_bytes())
        if content["format"] != FORMAT:
            raise ValueError("it has another format")
        if content["version"] != VERSION:
            raise ValueError(f"it is of version {str(content['version'])[:20]}, and this toolkit reads {VERSION}")
        release = Release(
            folder,
            _check_folder_name(content["parent"]) if content["parent"] is not None else None,
            _check_text(content["architecture"]),
            _check_text(content["fingerprint"]),
            tuple(LabelledFile(_check_text(one["name"]), int(one["rows"]), one["sha256"]) for one in content["data"]),
            {_check_text(name): float(value) for name, value in content["judgement"].items()},
        )
        digests = {name: _check_text(content["files"][name]) for name in FILES}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as problem:
        raise ResultFileError(f"{manifest}: is not the manifest of a release ({problem}); {_REMEDY}") from problem
    for name, digest in digests.items():
        if compute_digest(folder / name, ResultFileError) != digest:
            raise ResultFileError(
                f"{folder / name}: is not the file that {MANIFEST} names, it was changed or is half copied; copy the "
                "release again"
            )
    return release


def _check_folder_name(value: object) -> str:
    name = _check_text(value)
    if Path(name).name != name or name == "..":  # it could lead out of the folder of releases
        raise ValueError(f"{name[:20]!r} is not the name of a folder")
    return name


def _check_text(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise ValueError(f"{str(value)[:20]!r} is not a name")
    return value


def write_manifest(
    folder: Path,
    parent: str | None,
    architecture: str,
    fingerprint: str,
    data: Sequence[LabelledFile],
    judgement: Mapping[str, float],
) -> None:
    """Write the manifest of a folder that holds all ``FILES``.

    Raises:
        InputFileError: the manifest cannot be written.
        ResultFileError: a file is missing.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "parent": parent,
        "architecture": architecture,
        "fingerprint": fingerprint,
        "files": {name: compute_digest(folder / name, ResultFileError) for name in FILES},
        "data": [asdict(one) for one in data],
        "judgement": dict(judgement),
    }
    with replacing(folder / MANIFEST) as partial:
        partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def point_to(releases: Path, name: str) -> None:
    """Make a release the current one of a folder of releases, atomically.

    Raises:
        InputFileError: the folder cannot be written to, or holds no such release.
    """
    if not (releases / name / MANIFEST).is_file():
        raise InputFileError(f"{releases / name}: is no release; name one of the releases in {releases}")
    link = releases / f".{CURRENT}.{secrets.token_hex(8)}"
    try:
        link.symlink_to(name, target_is_directory=True)
        link.replace(releases / CURRENT)
    except OSError as problem:
        link.unlink(missing_ok=True)
        raise InputFileError(
            f"{releases / CURRENT}: cannot be written: {problem.strerror}; choose another folder"
        ) from problem
