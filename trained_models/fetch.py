"""Fetch published checkpoints from Google Drive, past the pages that it puts in front of a large file."""

import zipfile
from functools import partial
from html.parser import HTMLParser
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

from trained_models.catalog import Published
from utils.download import Job
from utils.errors import CheckpointError, DownloadError
from utils.web import Page, join_url

_DRIVE_HOSTS: Final = ("drive.google.com", "drive.usercontent.google.com")
_QUOTA_PHRASES: Final = ("too many users have viewed or downloaded this file", "quota exceeded")
_COOKIE_PREFIX: Final = "download_warning"


def job_for(entry: Published, folder: Path, base_url: str) -> Job:
    """Return the job that fetches a published checkpoint into a folder.

    Args:
        entry: which one.
        folder: where it goes, under its published name.
        base_url: Google Drive's address, or that of a mirror that answers to the same paths.

    Raises:
        ToolkitError: ``base_url`` is not an address.
    """
    url = join_url(base_url, f"uc?{urlencode({'export': 'download', 'id': entry.drive_id})}")
    return Job(
        url,
        folder / entry.file_name,
        verify=partial(verify_checkpoint, entry),
        follow=partial(next_url, entry, url),
    )


def verify_checkpoint(entry: Published, path: Path) -> None:
    """Check that a file is sound and holds the network that the catalog says.

    Raises:
        CheckpointError: it is damaged, hostile, or another network.
    """
    # torch takes seconds; confirmation pages do not need it
    from models.checkpoint import read_checkpoint
    from models.tensor_files import check_memory

    check_memory(path)
    _check_archive(path)
    found = read_checkpoint(path)
    if (found.architecture.name, found.calibrated) != (entry.architecture, entry.calibrated):
        raise CheckpointError(
            f"{path}: holds {_describe(found.architecture.name, found.calibrated)}, but {entry.file_name} is "
            f"{_describe(entry.architecture, entry.calibrated)}"
        )


def next_url(entry: Published, url: str, page: Page) -> str:
    """Return the address that a Google Drive page in front of a file leads to.

    Three kinds of it are known: a form (today's), a link, and a cookie whose value belongs into the address
    (both older).

    Args:
        entry: the file asked for.
        url: the address it was asked at first.
        page: what came.

    Raises:
        DownloadError: the page leads nowhere (quota, sign-in, no such file), or to a foreign host.
    """
    _check_refusal(entry, page)
    parser = _ConfirmationParser()
    parser.feed(page.text)
    parser.close()
    for address in parser.addresses:
        try:
            target = urljoin(page.url, address)
            leads_on = "confirm" in dict(parse_qsl(urlsplit(target).query))
        except ValueError:
            continue  # it is no address
        if leads_on:
            return _check_host(target, url, page)
    for name, token in page.cookies.items():
        if name.startswith(_COOKIE_PREFIX):
            return f"{url}&{urlencode({'confirm': token})}"
    raise DownloadError(
        f"{url}: Google Drive answered with a page, titled {parser.title[:80]!r}, that leads to no file; "
        f"{_by_hand(entry)}"
    )


class _ConfirmationParser(HTMLParser):
    """Collects the addresses to which a page's forms and links lead, and its title."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.title = ""
        self._in_title = False
        self._action: str | None = None
        self._fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a form, its hidden inputs, a link."""
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._finish_form()
            self._action, self._fields = values.get("action", ""), {}
        elif tag == "input" and values.get("type", "").lower() == "hidden":
            self._fields[values.get("name", "")] = values.get("value", "")
        elif tag == "a":
            self.addresses.append(values.get("href", ""))
        self._in_title = tag == "title"

    def handle_endtag(self, tag: str) -> None:
        """Note a form's end."""
        if tag == "form":
            self._finish_form()
        self._in_title = False

    def handle_data(self, data: str) -> None:
        """Note the title."""
        if self._in_title:
            self.title += data

    def close(self) -> None:
        """End the page, and a form that was left open."""
        super().close()
        self._finish_form()

    def _finish_form(self) -> None:
        if self._action is None:
            return
        # A form of 2023 had its fields in the action's query already.
        address, _, query = self._action.partition("?")
        self.addresses.append(f"{address}?{urlencode(dict(parse_qsl(query)) | self._fields)}")
        self._action = None


def _check_refusal(entry: Published, page: Page) -> None:
    place, text = urlsplit(page.url), page.text.lower()
    if any(phrase in text for phrase in _QUOTA_PHRASES):
        raise DownloadError(
            f"{page.url}: Google Drive's download quota for {entry.file_name} is used up; try again in a "
            f"day, or {_by_hand(entry)}"
        )
    sign_in = place.hostname == "accounts.google.com" or "servicelogin" in place.path.lower()
    if sign_in or page.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise DownloadError(
            f"{page.url}: Google Drive asks to sign in for {entry.file_name}: it is no longer shared with "
            f"everyone; {_by_hand(entry)}"
        )
    if page.status != HTTPStatus.OK:
        raise DownloadError(
            f"{page.url}: Google Drive has no file of this id ({page.status}) for {entry.file_name}; ask "
            "its authors, or train the network with dnn/"
        )


def _check_host(target: str, url: str, page: Page) -> str:
    to, asked = urlsplit(target), urlsplit(url)
    secure = to.scheme == "https" or (to.scheme == "http" and urlsplit(page.url).scheme == "http")
    if not secure or to.hostname not in (*_DRIVE_HOSTS, asked.hostname):
        raise DownloadError(
            f"{page.url}: its confirmation leads to {target[:80]!r}, not to Google Drive; check --base-url"
        )
    return target


def _by_hand(entry: Published) -> str:
    page = f"https://drive.google.com/file/d/{entry.drive_id}/view"
    return f"fetch {page} with a browser and save it as {entry.file_name}"


def _check_archive(path: Path) -> None:
    """Check the sums in a zip archive, which torch does not; another format is left to the loader."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            if not any(name.endswith("data.pkl") for name in archive.namelist()):
                raise CheckpointError(f"{path}: is an archive, but not one of PyTorch's")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as problem:
        raise CheckpointError(f"{path}: is a damaged archive: {problem}") from problem
    if damaged is not None:
        raise CheckpointError(f"{path}: is damaged: the checksum of {damaged!r} is wrong")


def _describe(architecture: str, calibrated: bool) -> str:
    return f"{architecture}, {'calibrated' if calibrated else 'not calibrated'}"
