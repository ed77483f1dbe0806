import resource
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
from urllib3.util import Retry

from tests.download_server import Answer, DownloadServer, running_server
from utils.download import Download, Progress, download, download_all
from utils.errors import DatasetError, DownloadError, InputFileError, UnreachableError

BODY = bytes(range(256)) * 4000  # larger than one read of the network or the disk
PATH = "/folder/file.bin"
NOT_ADDRESSES = (
    "file:///etc/passwd", "ftp://a/b", "javascript:1", "http://[::1", "http://a:99999999/", "http:///x", "http://[x]/",
    "http://a..b/", "http://" + "a" * 300 + ".example/", "http://\xff.example/", "http://%zz/", "http://user@:80/",
)  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DownloadServer]:
    with running_server() as running:
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("utils.download.RETRIES", Retry(1, status_forcelist=[503], raise_on_status=False))
        running.files[PATH] = [Answer(BODY)]
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file of an earlier run, alone in its folder."""
    (tmp_path / "out").mkdir()
    path = tmp_path / "out" / "file.bin"
    path.write_text("old")
    path.chmod(0o640)
    return path


def check(path: Path) -> None:
    if path.read_bytes() != BODY:
        raise DatasetError(f"{path}: is cut off")


def job(server: DownloadServer, target: Path, path: str = PATH) -> Download:
    return Download(f"{server.url}{path}", target, check)


def ignore(received: int, total: int | None) -> None:
    del received, total


def is_unchanged(target: Path) -> bool:
    return target.read_text() == "old" and list(target.parent.iterdir()) == [target]


def test_a_new_file_replaces_the_old_one_and_gets_its_permissions(server: DownloadServer, target: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    assert download(job(server, target), lambda *progress: seen.append(progress)) == len(BODY)
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (BODY, 0o640)
    assert list(target.parent.iterdir()) == [target]
    assert (seen[0], seen[-1]) == ((0, len(BODY)), (len(BODY), len(BODY)))


def test_a_request_to_a_busy_server_is_retried(server: DownloadServer, target: Path) -> None:
    server.files[PATH] = [Answer(status=503), Answer(BODY)]
    assert download(job(server, target), ignore) == len(BODY)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (Answer(status=503), r"file\.bin: the server answered with status 503; check --base-url, or try again later"),
        (Answer(status=404), "answered with status 404"),
        (Answer(status=302, headers={"Location": PATH}), "Exceeded 5 redirects"),
        (Answer(BODY, end="broken off"), r"the connection broke off or stalled after \d+ bytes; run the command again"),
        (Answer(BODY, end="stalled"), r"the connection broke off or stalled after \d+ bytes; run the command again"),
        (Answer(BODY, end="endless"), "is larger than 2 MB; check --base-url"),
        (Answer(BODY * 2), "is larger than 2 MB; check --base-url"),
        (Answer(BODY[:-1]), "discarded: is cut off; check --base-url"),
        (Answer(b""), "discarded: is cut off"),
        (Answer(b"\n <!DOCTYPE html><html>Sign in</html>"), "discarded: is a web page, such as the sign-in page"),
        (Answer(b"version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer; use https://media"),
        *((Answer(status=307, headers={"Location": address}), "file.bin: ") for address in NOT_ADDRESSES),
    ],
)  # fmt: skip
def test_the_response_of_a_bad_server_never_replaces_a_file(
    server: DownloadServer, target: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer, complaint: str
) -> None:
    monkeypatch.setattr("utils.download.TIMEOUT", (10.0, 0.5))
    monkeypatch.setattr("utils.download.MOST_BYTES", 2 * len(BODY) - 1)
    server.files[PATH] = [answer]
    with pytest.raises(DownloadError, match=complaint):
        download(job(server, target), ignore)
    assert is_unchanged(target)


def test_an_insecure_server_and_a_missing_certificate_bundle_have_different_messages(
    server: DownloadServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = Download(server.url.replace("http:", "https:"), target, check)
    with pytest.raises(UnreachableError, match="cannot be reached, or not securely; check the network, the clock"):
        download(secure, ignore)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "missing.pem")
    with pytest.raises(DownloadError, match="CA certificate bundle"):
        download(secure, ignore)


def test_a_full_disk_is_one_error_and_leaves_no_file(server: DownloadServer, target: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(BODY) // 2, hard))  # the nearest to a full disk without root
    try:
        with pytest.raises(InputFileError, match="cannot be written: File too large; free disk space or choose"):
            download(job(server, target), ignore)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert is_unchanged(target)


def test_an_interrupt_leaves_no_file(server: DownloadServer, target: Path) -> None:
    def stop(received: int, total: int | None) -> None:
        if received:
            raise KeyboardInterrupt(total)

    with pytest.raises(KeyboardInterrupt):
        download(job(server, target), stop)
    assert is_unchanged(target)


def test_a_name_that_cannot_be_written_is_reported_before_the_request(server: DownloadServer, target: Path) -> None:
    for path, complaint in ((target / "file.bin", "cannot be written to"), (target.parent, "is a folder")):
        with pytest.raises(InputFileError, match=complaint):
            download(job(server, path), ignore)
    assert server.requests == []


# Several files


def no_bar(name: str) -> nullcontext[Progress]:
    del name
    return nullcontext(ignore)


def test_only_missing_and_damaged_files_are_downloaded_unless_forced(server: DownloadServer, target: Path) -> None:
    (target.parent / "a").write_bytes(BODY)
    lines: list[str] = []
    run = partial(download_all, [job(server, path) for path in (target.parent / "a", target)], show=no_bar)
    assert run(force=False, say=lines.append) == "1 downloaded (1.0 MB), 1 already there"
    assert lines == [
        f"{target.parent / 'a'}: already there",
        f"{target}: is cut off (downloading it again)",
        f"{target}: downloaded",
    ]
    assert run(force=True, say=lines.append) == "2 downloaded (2.0 MB), 0 already there"


def test_the_other_files_are_downloaded_if_one_is_missing(server: DownloadServer, tmp_path: Path) -> None:
    jobs = [job(server, tmp_path / name, path) for name, path in {"a": "/none", "b": PATH, "c": "/none"}.items()]
    lines: list[str] = []
    with pytest.raises(DownloadError, match=r"^1 downloaded \(1\.0 MB\), 0 already there, 2 failed: http.*404"):
        download_all(jobs, force=False, show=no_bar, say=lines.append)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert len(lines) == len(jobs)


@pytest.mark.usefixtures("server")
def test_no_more_files_are_requested_from_an_unreachable_server(tmp_path: Path) -> None:
    jobs = [Download("http://127.0.0.1:1/x", tmp_path / name, check) for name in ("a", "b")]
    lines: list[str] = []
    with pytest.raises(DownloadError, match="cannot be reached"):
        download_all(jobs, force=False, show=no_bar, say=lines.append)
    assert len(lines) == 1
