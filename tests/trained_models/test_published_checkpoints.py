import io
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch

from models import ARCHITECTURES
from models.calibrated import add_temperatures
from tests.download_server import Answer, DownloadServer, run_script, running_server
from tests.scripts import FETCH_MODELS
from trained_models.checkpoint_catalog import CATALOG, find_checkpoint
from trained_models.published_checkpoints import check_checkpoint, make_download
from utils.download import download
from utils.errors import CheckpointError, DownloadError

PLAIN, CALIBRATED = find_checkpoint("MobileNetV2WithExits"), find_checkpoint("mobilenetv2withexits_CALIBRATED.PTH")
DRIVE = "https://drive.google.com"
# The test server's: Python leaves a socket open whose client is gone before the handshake.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning")


@cache
def checkpoint(*, with_temperatures: bool = False, older_format: bool = False) -> bytes:
    torch.manual_seed(1)
    network = ARCHITECTURES["MobileNetV2WithExits"].create()
    stream = io.BytesIO()
    state = (add_temperatures(network) if with_temperatures else network).state_dict()
    torch.save(state, stream, _use_new_zipfile_serialization=not older_format)
    return stream.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DownloadServer]:
    with running_server() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        running.drive = {PLAIN.drive_id: checkpoint(), CALIBRATED.drive_id: checkpoint(with_temperatures=True)}
        yield running


def ignore(received: int, total: int | None) -> None:
    del received, total


def test_every_published_file_names_a_network_of_ours_and_has_an_id_of_its_own() -> None:
    assert {entry.name.removesuffix("_calibrated") for entry in CATALOG} == set(ARCHITECTURES)
    assert len({entry.drive_id for entry in CATALOG}) == len(CATALOG) == 7


@pytest.mark.slow
def test_the_script_passes_google_drives_pages_once_and_names_what_is_missing(
    server: DownloadServer, tmp_path: Path
) -> None:
    models = ("--model", PLAIN.name, "--model", "mobilenetv2withexits_CALIBRATED.PTH", "--model", PLAIN.name)
    first = run_script(server, FETCH_MODELS, *models, cwd=tmp_path)
    assert (first.returncode, first.stderr) == (0, "")
    assert first.stdout.splitlines()[-1] == "2 downloaded (17.9 MB), 0 already there"
    assert (tmp_path / "trained_models" / PLAIN.file_name).read_bytes() == checkpoint()
    assert sum("confirm=t" in path for path in server.requests) == 2
    server.requests.clear()
    assert "0 downloaded (0.0 MB), 2 already there" in run_script(server, FETCH_MODELS, *models, cwd=tmp_path).stdout
    assert server.requests == []
    rest = run_script(server, FETCH_MODELS, "--base-url", server.url, cwd=tmp_path)
    (line,) = rest.stderr.splitlines()
    assert rest.returncode == 3
    assert f"{line} {rest.stdout}".count("AlexNet.pth: not downloaded") == 1
    assert "0 downloaded (0.0 MB), 2 already there, 5 failed" in line
    assert len(list((tmp_path / "trained_models").iterdir())) == 2


@pytest.mark.parametrize(
    ("page", "missing"),
    [
        ('<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p>', False),
        ("<title>Sign in - Google Accounts</title>", False),
        ("", True),
        ('<form id="download-form" action="https://drive.google.com/download?id={}"></form>', False),
    ],
    ids=["quota", "sign-in", "no such file", "page after page"],
)
def test_a_page_that_leads_to_no_file_is_explained_and_never_saved(
    server: DownloadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str, missing: bool
) -> None:
    monkeypatch.setattr("trained_models.published_checkpoints.SECONDS_OF_PAGES", 1.0)
    server.page = page
    if missing:
        server.drive.clear()
    with pytest.raises(DownloadError, match=rf"a page, not {PLAIN.file_name}: its quota .*{PLAIN.drive_id}/view with"):
        download(make_download(PLAIN, tmp_path, DRIVE), ignore)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("base", [DRIVE, None], ids=["Google Drive", "mirror"])
def test_an_interrupt_or_a_size_limit_leaves_no_file(
    server: DownloadServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str | None
) -> None:
    def stop(received: int, total: int | None) -> None:
        raise KeyboardInterrupt(received, total)

    job = make_download(PLAIN, tmp_path, base or server.url)
    with pytest.raises(KeyboardInterrupt):
        download(job, stop)
    monkeypatch.setattr("utils.download.MOST_BYTES", 1 << 20)
    with pytest.raises(DownloadError, match="is larger than 1 MB"):
        download(job, ignore)
    assert list(tmp_path.iterdir()) == []


def with_a_flipped_bit() -> bytes:
    body = bytearray(checkpoint())
    body[len(body) // 2] ^= 1
    return bytes(body)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (lambda: Answer(checkpoint(with_temperatures=True)), f"discarded: holds {CALIBRATED.name}, not {PLAIN.name}"),
        (lambda: Answer(with_a_flipped_bit()), "discarded: is damaged: the checksum of '.*' is wrong"),
        (lambda: Answer(checkpoint()[:-1000]), "discarded: is not a checkpoint, or is truncated"),
        (lambda: Answer(b"cos\nsystem\n(S'touch canary'\ntR."), "discarded: (is not a checkpoint|is damaged)"),
        (lambda: Answer(b"<html>Quota exceeded</html>"), "discarded: is a web page"),
        (lambda: Answer(bytes(1 << 20), end="endless"), "is larger than 20 MB"),
        (lambda: Answer(bytes(1 << 20), end="stalled"), "broke off or stalled after"),
        (lambda: Answer(bytes(1 << 20), end="broken off"), "broke off or stalled after"),
        (lambda: Answer(status=503), "answered with status 503"),
        (lambda: Answer(status=302, headers={"Location": "file:///etc/passwd"}), "cannot be downloaded"),
        (lambda: Answer(status=302, headers={"Location": "http://[::1"}), "cannot be downloaded"),
        (lambda: Answer(status=302, headers={"Location": "/uc"}), "Exceeded 30 redirects"),
    ],
)
def test_a_bad_mirrors_file_never_gets_the_name_of_a_checkpoint(
    server: DownloadServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[], Answer],
    complaint: str,
) -> None:
    monkeypatch.setattr("trained_models.published_checkpoints.TIMEOUT", (10.0, 0.5))
    monkeypatch.setattr("trained_models.published_checkpoints.RETRIES", 1)
    monkeypatch.setattr("utils.download.MOST_BYTES", 20_000_000)
    server.files["/uc"] = [answer()]
    with pytest.raises(DownloadError, match=complaint):
        download(make_download(PLAIN, tmp_path, server.url), ignore)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_format_before_zip_is_accepted_and_another_network_is_not(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(checkpoint(older_format=True))
    check_checkpoint(PLAIN, path)
    with pytest.raises(CheckpointError, match="holds MobileNetV2WithExits, not AlexNet"):
        check_checkpoint(find_checkpoint("AlexNet"), path)
