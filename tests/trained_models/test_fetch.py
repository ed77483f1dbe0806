import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from models import ARCHITECTURES
from models.calibrated import calibrated
from models.early_exit import EarlyExitNetwork
from tests.download_server import DownloadServer, Fault, Front, Served, running_server
from trained_models.catalog import CATALOG, Published, find
from trained_models.fetch import job_for, next_url, verify_checkpoint
from utils.download import fetch
from utils.errors import CheckpointError, DownloadError
from utils.web import Page, Patience

ENTRY = find("MobileNetV2WithExits")
CALIBRATED = find("MobileNetV2WithExits_calibrated")
DRIVE = "https://drive.google.com"


@cache
def checkpoint(*, with_temperatures: bool = False, legacy: bool = False) -> bytes:
    torch.manual_seed(1)
    network = ARCHITECTURES["MobileNetV2WithExits"].create()
    assert isinstance(network, EarlyExitNetwork)
    state = (calibrated(network) if with_temperatures else network).state_dict()
    stream = io.BytesIO()
    torch.save(state, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DownloadServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_server() as running:
        yield running


def publish(server: DownloadServer, front: Front, body: bytes | None = None) -> None:
    server.drive[ENTRY.drive_id] = Served(body or checkpoint()), front


def page(body: str, *, url: str = f"{DRIVE}/uc", cookies: dict[str, str] | None = None) -> Page:
    return Page(url, 200, body, cookies or {})


# The catalogue


def test_every_published_file_names_a_network_of_ours_and_has_an_id_of_its_own() -> None:
    assert len(CATALOG) == 7
    assert {entry.architecture for entry in CATALOG} == set(ARCHITECTURES)
    assert len({entry.drive_id for entry in CATALOG}) == len(CATALOG)
    assert all(entry.name == entry.architecture + "_calibrated" * entry.calibrated for entry in CATALOG)


@pytest.mark.parametrize(
    "name",
    ["MobileNetV2WithExits", "mobilenetv2withexits", "MobileNetV2WithExits.pth", "MOBILENETV2WITHEXITS.PTH"],
)
def test_a_name_is_found_in_any_case_with_or_without_ending(name: str) -> None:
    assert find(name) is ENTRY


# Past Drive's pages


@pytest.mark.parametrize("front", ["none", "form", "form with its fields in the action", "link", "cookie"])
def test_a_checkpoint_comes_past_whatever_stands_in_front_of_it(
    server: DownloadServer, tmp_path: Path, front: Front
) -> None:
    publish(server, front)
    job = job_for(ENTRY, tmp_path, server.url)
    assert fetch(job) == len(checkpoint())
    assert (tmp_path / "MobileNetV2WithExits.pth").read_bytes() == checkpoint()


def test_a_checkpoint_behind_a_form_is_resumed(server: DownloadServer, tmp_path: Path) -> None:
    publish(server, "form")
    server.fail("/download", Fault(drop_after=5 << 20))
    job = job_for(ENTRY, tmp_path, server.url)
    fetch(replace(job, patience=Patience(waits=(0.0,))))
    asked = [request for request in server.requests if request.query.get("confirm") == ["t"]]
    assert [request.headers["Range"] for request in asked] == [None, f"bytes={5 << 20}-"]


@pytest.mark.parametrize(
    ("front", "complaint"),
    [
        ("quota", r"quota for MobileNetV2WithExits\.pth is used up; try again in a day, or fetch .*browser"),
        ("sign-in", r"asks to sign in for MobileNetV2WithExits\.pth"),
        ("foreign form", r"leads to 'http://elsewhere\.example/download\?id=.*', not to Google Drive"),
        ("endless", "page leads to page"),
        ("strange", r"a page, titled 'Google Drive - Virus scan warning', that leads to no file"),
    ],
)
def test_a_page_that_leads_nowhere_is_explained_and_never_saved(
    server: DownloadServer, tmp_path: Path, front: Front, complaint: str
) -> None:
    publish(server, front)
    with pytest.raises(DownloadError, match=complaint):
        fetch(job_for(ENTRY, tmp_path, server.url))
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_drive_does_not_know_is_explained(server: DownloadServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"has no file of this id \(404\) for MobileNetV2WithExits\.pth"):
        fetch(job_for(ENTRY, tmp_path, server.url))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["http://[::1?confirm=t", "//[x]/?confirm=t", "https://[/?confirm=t"])
@pytest.mark.parametrize("body", ['<a href="{}">', '<form action="{}"><input type="hidden" name="confirm" value="t">'])
def test_a_page_that_leads_to_what_is_no_address_is_explained(address: str, body: str) -> None:
    with pytest.raises(DownloadError, match=r"not to Google Drive|leads to no file"):
        next_url(ENTRY, f"{DRIVE}/uc", page(body.format(address)))


FORM = '<form id="download-form" action="{}"><input type="hidden" name="confirm" value="t"></form>'


@pytest.mark.parametrize(
    "action",
    [
        "https://drive.usercontent.google.com/download",
        "https://drive.google.com/uc",
        "/download",
        "https://DRIVE.google.com/x",
    ],
)
def test_a_form_may_lead_to_the_hosts_of_drive(action: str) -> None:
    assert next_url(ENTRY, f"{DRIVE}/uc", page(FORM.format(action))).endswith("?confirm=t")


@pytest.mark.parametrize(
    "action",
    [
        "https://drive.google.com.elsewhere.example/download",
        "https://drive.google.com@elsewhere.example/download",
        "//elsewhere.example/download",
        "http://drive.google.com/download",
        "file:///etc/passwd",
        "javascript:void(0)",
    ],
)
def test_a_form_may_lead_nowhere_else(action: str) -> None:
    with pytest.raises(DownloadError, match="not to Google Drive"):
        next_url(ENTRY, f"{DRIVE}/uc", page(FORM.format(action)))


def test_a_form_that_is_not_closed_is_read_all_the_same() -> None:
    form = FORM.removesuffix("</form>").format("/download")
    assert next_url(ENTRY, f"{DRIVE}/uc", page(form)) == f"{DRIVE}/download?confirm=t"


def test_markup_in_an_address_is_decoded() -> None:
    link = '<a href="/uc?export=download&amp;confirm=A%26b&amp;id=7">Download anyway</a>'
    assert next_url(ENTRY, DRIVE, page(link)) == f"{DRIVE}/uc?export=download&confirm=A%26b&id=7"


def test_a_token_in_a_cookie_is_encoded() -> None:
    asked = f"{DRIVE}/uc?export=download&id=7"
    assert (
        next_url(ENTRY, asked, page("", cookies={"NID": "x", "download_warning_7": "a&b"})) == f"{asked}&confirm=a%26b"
    )


# What came


def test_a_calibrated_checkpoint_is_told_from_a_plain_one(tmp_path: Path) -> None:
    plain, warm = tmp_path / "plain.pth", tmp_path / "calibrated.pth"
    plain.write_bytes(checkpoint())
    warm.write_bytes(checkpoint(with_temperatures=True))
    verify_checkpoint(ENTRY, plain)
    verify_checkpoint(CALIBRATED, warm)
    with pytest.raises(
        CheckpointError, match=r"holds MobileNetV2WithExits, calibrated, but MobileNetV2WithExits\.pth is"
    ):
        verify_checkpoint(ENTRY, warm)
    with pytest.raises(
        CheckpointError, match=r"MobileNetV2WithExits, not calibrated, but .* is MobileNetV2WithExits, cal"
    ):
        verify_checkpoint(CALIBRATED, plain)


def test_another_network_under_a_published_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(checkpoint())
    with pytest.raises(CheckpointError, match=r"holds MobileNetV2WithExits, .* but AlexNet\.pth is AlexNet"):
        verify_checkpoint(find("AlexNet"), path)


def test_a_file_of_the_format_before_zip_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(checkpoint(legacy=True))
    verify_checkpoint(ENTRY, path)


def with_a_flipped_bit() -> bytes:
    body = bytearray(checkpoint())
    body[len(body) // 2] ^= 1
    return bytes(body)


def without_its_end() -> bytes:
    return checkpoint()[:-1000]


def another_archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "not a checkpoint")
    return stream.getvalue()


def compressed() -> bytes:
    with zipfile.ZipFile(io.BytesIO(checkpoint())) as whole:
        members = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(stream := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (compressed, "its parts are compressed, which torch.save never does"),
        (with_a_flipped_bit, "is damaged: the checksum of '.*' is wrong"),
        (without_its_end, "is not a checkpoint, or is cut off"),
        (another_archive, "is an archive, but not one of PyTorch's"),
        (b"no checkpoint at all".upper, "is not a checkpoint|is damaged"),
    ],
    ids=["compressed", "flipped bit", "cut off", "other archive", "text"],
)
def test_a_corrupted_checkpoint_never_takes_its_name(
    server: DownloadServer, tmp_path: Path, body: Callable[[], bytes], complaint: str
) -> None:
    publish(server, "form", body())
    with pytest.raises(
        DownloadError, match=rf"MobileNetV2WithExits\.pth came, was refused and is removed: {complaint}"
    ):
        fetch(job_for(ENTRY, tmp_path, server.url))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)
def test_each_file_is_asked_of_drive_by_its_id(entry: Published, tmp_path: Path) -> None:
    job = job_for(entry, tmp_path, f"{DRIVE}/")
    assert job.url == f"{DRIVE}/uc?export=download&id={entry.drive_id}"
    assert job.target == tmp_path / f"{entry.name}.pth"
