"""Download published checkpoints from Google Drive, and check that each holds the network that its name says."""

import shutil
import threading
import zipfile
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import gdown
import requests

from models.checkpoint import read_checkpoint
from trained_models.checkpoint_catalog import PublishedCheckpoint
from utils.download import TIMEOUT, Download, Progress
from utils.errors import CheckpointError, DownloadError

# Time limit until the file begins: Google Drive may send web pages first, and gdown limits neither number nor size.
SECONDS_OF_PAGES: Final = 120.0
RETRIES: Final = 3


def make_download(entry: PublishedCheckpoint, folder: Path, base_url: str) -> Download:
    """Return the download of a checkpoint from Google Drive, or from a mirror with the same paths."""
    url = f"{base_url}/uc?export=download&id={entry.drive_id}"
    check, transfer = partial(check_checkpoint, entry), partial(_transfer_from_drive, entry)
    return Download(url, folder / entry.file_name, check, transfer)


def check_checkpoint(entry: PublishedCheckpoint, path: Path) -> None:
    """Check that a file is undamaged and holds the network that the catalog says.

    Raises:
        CheckpointError: the file is damaged or hostile, or holds another network.
    """
    found = read_checkpoint(path)
    name = found.architecture.name + "_calibrated" * found.calibrated
    if name != entry.name:
        raise CheckpointError(f"{path}: holds {name}, not {entry.name}. Download it again.")
    if zipfile.is_zipfile(path):  # files of torch's older format are not zip files
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()  # torch does not check the checksums
        except (zipfile.BadZipFile, RuntimeError, EOFError, ValueError):
            damaged = "the directory"
        if damaged is not None:
            raise CheckpointError(f"{path}: is damaged: the checksum of {damaged!r} is wrong. Download it again.")


def _transfer_from_drive(entry: PublishedCheckpoint, url: str, path: Path, progress: Progress) -> None:
    cancel = threading.Event()
    timer = threading.Timer(SECONDS_OF_PAGES, cancel.set)

    def stop_timer(received: int, total: int | None) -> None:
        timer.cancel()
        progress(received, total)

    # gdown retries only into a file of its own, and does not remove that file after an error.
    with TemporaryDirectory(dir=path.parent, prefix=".download.") as folder:
        timer.start()
        try:
            whole = gdown.download(
                url, f"{folder}/{entry.file_name}", quiet=True, use_cookies=False, progress=stop_timer,
                timeout=TIMEOUT, retries=RETRIES, cancel=cancel,
            )  # fmt: skip
        except (gdown.FileURLRetrievalError, gdown.DownloadCancelled, KeyError) as problem:
            raise DownloadError(
                f"{url}: Google Drive replied with a page, not {entry.file_name}: its quota is used up, or it is no "
                f"longer shared. Try again in a day, or save https://drive.google.com/file/d/{entry.drive_id}/view "
                "with a browser."
            ) from problem
        except gdown.DownloadError as problem:
            raise requests.ConnectionError(str(problem)) from problem
        finally:
            timer.cancel()
        shutil.copyfile(str(whole), path)
