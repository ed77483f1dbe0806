import os
import resource
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from tests.download_server import DownloadServer, Fault, Served, running_server
from utils.download import Job, Progress, fetch, fetch_all
from utils.errors import DatasetError, DownloadError, InputFileError, ToolkitError, UnreachableError
from utils.web import Page, Patience, join_url

BODY = bytes(range(256)) * 4000  # larger than one read of the network or the disk
CHUNK = 1 << 14  # what is read at once
BREAK = 20 * CHUNK
QUICK = Patience(waits=(0.0, 0.0))
ONCE = Patience(waits=())
SHORT = Patience(read=0.3, waits=(0.0, 0.0))
PATH = "/folder/file.bin"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[DownloadServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_server() as running:
        running.files[PATH] = Served(BODY)
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out" / "file.bin"


class Recorder:
    def __init__(self) -> None:
        self.received: list[int] = []
        self.totals: set[int | None] = set()

    def __call__(self, received: int, total: int | None) -> None:
        self.received.append(received)
        self.totals.add(total)


def accept(path: Path) -> None:
    assert path.read_bytes() == BODY


def accept_anything(path: Path) -> None:
    assert path.is_file()


def refuse(path: Path) -> None:
    raise DatasetError(f"{path}: has no rows")


def job(server: DownloadServer, target: Path, patience: Patience = QUICK, path: str = PATH) -> Job:
    return Job(f"{server.url}{path}", target, accept, patience=patience)


def break_off(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, Fault(drop_after=BREAK))
    with pytest.raises(DownloadError, match="broke off"):
        fetch(job(server, target, ONCE))
    assert target.with_name("file.bin.part").stat().st_size == BREAK


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What comes whole


def test_a_file_comes_whole_and_leaves_nothing_beside_it(server: DownloadServer, target: Path) -> None:
    assert fetch(job(server, target)) == len(BODY)
    assert target.read_bytes() == BODY
    assert left_in(target.parent) == ["file.bin"]


def test_progress_counts_up_to_the_size_that_the_server_states(server: DownloadServer, target: Path) -> None:
    progress = Recorder()
    fetch(job(server, target), progress)
    assert progress.received[0] == 0
    assert progress.received[-1] == len(BODY)
    assert progress.received == sorted(progress.received)
    assert progress.totals == {len(BODY)}


def test_a_file_of_unstated_size_is_accepted_if_its_check_accepts_it(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, Fault(headers={"Content-Length": ""}))
    progress = Recorder()
    fetch(job(server, target), progress)
    assert progress.totals == {None}
    assert target.read_bytes() == BODY


def test_the_old_file_stays_until_the_new_one_is_accepted(server: DownloadServer, target: Path) -> None:
    target.parent.mkdir()
    target.write_text("old")
    with pytest.raises(DownloadError):
        fetch(Job(f"{server.url}{PATH}", target, refuse))
    assert target.read_text() == "old"
    fetch(job(server, target))
    assert target.read_bytes() == BODY


# What breaks off


def test_a_dropped_connection_is_resumed_within_the_run(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, Fault(drop_after=BREAK), Fault(drop_after=CHUNK))
    fetch(job(server, target))
    assert server.ranges(PATH) == [None, f"bytes={BREAK}-", f"bytes={BREAK + CHUNK}-"]


def test_a_later_run_resumes_where_the_first_stopped(server: DownloadServer, target: Path) -> None:
    break_off(server, target)
    progress = Recorder()
    fetch(job(server, target), progress)
    assert server.ranges(PATH) == [None, f"bytes={BREAK}-"]
    assert progress.received[0] == BREAK
    assert left_in(target.parent) == ["file.bin"]


def test_a_truncated_body_is_completed(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, Fault(headers={"Content-Length": str(len(BODY))}, drop_after=len(BODY) - 1))
    fetch(job(server, target))
    assert server.ranges(PATH) == [None, f"bytes={len(BODY) // CHUNK * CHUNK}-"]


def test_a_body_that_never_reaches_its_stated_size_is_given_up(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, *[Fault(headers={"Content-Length": str(len(BODY) + 5)}, ignore_range=True)] * 3)
    with pytest.raises(DownloadError, match=r"broke off \(tried 3 times\)"):
        fetch(job(server, target))
    assert not target.exists()


def test_a_stalled_server_is_given_up_and_asked_again(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, Fault(stall_after=BREAK))
    fetch(job(server, target, SHORT))
    assert server.ranges(PATH) == [None, f"bytes={BREAK}-"]


def test_a_server_that_always_stalls_is_named_with_the_time_waited(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, *[Fault(stall_after=100)] * 3)
    with pytest.raises(DownloadError, match=r"file\.bin: no data for 0\.3 s \(tried 3 times\)"):
        fetch(job(server, target, SHORT))


def test_a_server_that_ignores_ranges_makes_the_file_start_over(server: DownloadServer, target: Path) -> None:
    break_off(server, target)
    server.fail(PATH, Fault(ignore_range=True))
    fetch(job(server, target))
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    "fault",
    [
        Fault(shift=7),
        Fault(headers={"Content-Range": "bytes somewhere"}),
        Fault(headers={"Content-Range": f"bytes {BREAK}-{len(BODY) - 1}/{len(BODY) + 1}"}),
        Fault(headers={"ETag": '"v2"'}),
        Fault(status=416),
    ],
    ids=["wrong offset", "no offset", "other size", "other version", "no such range"],
)
def test_a_part_that_does_not_fit_makes_the_file_start_over(server: DownloadServer, target: Path, fault: Fault) -> None:
    break_off(server, target)
    server.fail(PATH, fault)
    fetch(job(server, target))
    assert server.ranges(PATH) == [None, f"bytes={BREAK}-", None]
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    "fault",
    [Fault(headers={"ETag": ""}), Fault(ignore_if_range=True)],  # a part need not repeat the ETag
    ids=["told by If-Range", "told by the part's ETag"],
)
def test_a_file_that_changed_in_between_is_not_patched_together(
    server: DownloadServer, target: Path, fault: Fault
) -> None:
    server.files[PATH] = Served(BODY[::-1], etag='"v0"')
    break_off(server, target)
    server.files[PATH] = Served(BODY)
    server.fail(PATH, fault)
    fetch(job(server, target))
    assert target.read_bytes() == BODY


@pytest.mark.parametrize(
    ("served", "resumed"),
    [
        (Served(BODY, etag=None, last_modified="Mon, 04 Jan 2016 10:00:00 GMT"), True),
        (Served(BODY, etag='W/"v1"', last_modified="Mon, 04 Jan 2016 10:00:00 GMT"), True),
        (Served(BODY, etag='W/"v1"'), False),
        (Served(BODY, etag=None), False),
    ],
    ids=["Last-Modified", "weak ETag and Last-Modified", "weak ETag alone", "nothing"],
)
def test_a_file_is_resumed_only_if_the_server_can_say_that_it_is_the_same(
    server: DownloadServer, target: Path, served: Served, resumed: bool
) -> None:
    server.files[PATH] = served
    break_off(server, target)
    fetch(job(server, target))
    assert server.ranges(PATH) == [None, f"bytes={BREAK}-" if resumed else None]


def test_a_partial_file_from_another_address_is_not_used(server: DownloadServer, target: Path) -> None:
    server.files["/mirror/file.bin"] = Served(BODY)
    break_off(server, target)
    fetch(job(server, target, path="/mirror/file.bin"))
    assert server.ranges("/mirror/file.bin") == [None]


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"url": 1, "validator": 2, "total": 3}'])
def test_a_partial_file_with_a_damaged_note_starts_over(server: DownloadServer, target: Path, note: str) -> None:
    break_off(server, target)
    target.with_name("file.bin.origin.part").write_text(note)
    fetch(job(server, target))
    assert server.ranges(PATH) == [None, None]


def test_a_partial_file_longer_than_the_file_starts_over(server: DownloadServer, target: Path) -> None:
    break_off(server, target)
    target.with_name("file.bin.part").write_bytes(BODY + b"more")
    fetch(job(server, target))
    assert target.read_bytes() == BODY


def test_a_run_stopped_before_the_check_only_needs_the_check(server: DownloadServer, target: Path) -> None:
    def stop(path: Path) -> None:
        raise KeyboardInterrupt(path)

    with pytest.raises(KeyboardInterrupt):
        fetch(Job(f"{server.url}{PATH}", target, stop))
    fetch(job(server, target))
    assert len(server.requests) == 1
    assert target.read_bytes() == BODY


def test_an_interrupt_keeps_what_has_come(server: DownloadServer, target: Path) -> None:
    def stop(received: int, total: int | None) -> None:
        if received > 0:
            raise KeyboardInterrupt(total)

    with pytest.raises(KeyboardInterrupt):
        fetch(job(server, target), stop)
    kept = target.with_name("file.bin.part").stat().st_size
    fetch(job(server, target))
    assert server.ranges(PATH) == [None, f"bytes={kept}-"]


# What the server refuses


@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_busy_server_is_asked_again(server: DownloadServer, target: Path, status: int) -> None:
    server.fail(PATH, Fault(status=status), Fault(status=status))
    fetch(job(server, target))
    assert target.read_bytes() == BODY


def test_a_server_that_stays_busy_is_given_up(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, *[Fault(status=503)] * 3)
    with pytest.raises(DownloadError, match=r"answered 503 Service Unavailable \(tried 3 times\)"):
        fetch(job(server, target))
    assert left_in(target.parent) == []


@pytest.mark.parametrize(
    ("asked", "waited"), [("2", 2.0), ("", 0.5), ("Fri, 01 Jan 2027 00:00:00 GMT", 0.5), ("-1", 0.5)]
)
def test_the_pause_that_a_server_asks_for_is_kept(
    server: DownloadServer, target: Path, monkeypatch: pytest.MonkeyPatch, asked: str, waited: float
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("utils.download.time.sleep", pauses.append)
    server.fail(PATH, Fault(status=429, headers={"Retry-After": asked}))
    fetch(job(server, target, Patience(waits=(0.5,))))
    assert pauses == [waited]


def test_a_server_that_asks_for_a_long_pause_is_left_alone(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, Fault(status=429, headers={"Retry-After": "3600"}))
    with pytest.raises(DownloadError, match="429 Too Many Requests and asks to be left alone for 3600 s"):
        fetch(job(server, target))
    assert len(server.requests) == 1


def test_a_missing_file_is_not_asked_for_twice(server: DownloadServer, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"/nothing: the server answered 404 Not Found; check --base-url"):
        fetch(job(server, target, path="/nothing"))
    assert len(server.requests) == 1
    assert left_in(target.parent) == []


def test_a_server_that_is_not_there_is_unreachable(target: Path) -> None:
    with running_server() as stopped:
        url = f"{stopped.url}{PATH}"
    with pytest.raises(UnreachableError, match=r"cannot be reached.*tried 3 times.*check the network"):
        fetch(Job(url, target, accept, patience=QUICK))


def test_a_server_without_a_secure_connection_is_unreachable(server: DownloadServer, target: Path) -> None:
    url = server.url.replace("http:", "https:")
    with pytest.raises(UnreachableError, match="the connection is not secure; check the clock, the proxy"):
        fetch(Job(f"{url}{PATH}", target, accept))


def test_a_missing_certificate_bundle_is_not_taken_for_a_full_disk(
    server: DownloadServer, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(target))
    with pytest.raises(DownloadError, match="CA certificate bundle"):
        fetch(Job(f"{server.url.replace('http:', 'https:')}{PATH}", target, accept))


def test_redirections_in_a_circle_are_left(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, *[Fault(status=302, headers={"Location": PATH})] * 40)
    with pytest.raises(DownloadError, match="redirects"):
        fetch(job(server, target))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    "address",
    [
        "http://[::1", "http://[::1]:x/", "http://a:99999999/", "http:///x", "http://[x]/",
        "http://a..b/", "http://" + "a" * 300 + ".example/", "http://\xff.example/", "http://*.example/", "ftp://a/b",
        "file:///etc/passwd", "javascript:1", "http://%zz/", "http://a b/", "http://.example/", "http://user@:80/",
    ],
)  # fmt: skip
def test_a_redirection_to_what_is_no_address_is_one_error(
    server: DownloadServer, target: Path, address: str, status: int
) -> None:
    server.fail(PATH, Fault(status=status, headers={"Location": address}))
    with pytest.raises(DownloadError):
        fetch(job(server, target, ONCE))
    assert left_in(target.parent) == []


def test_a_web_page_is_not_a_file(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, Fault(page="Welcome to our hotel's network"))
    with pytest.raises(DownloadError, match="answered with a web page in place of the file"):
        fetch(job(server, target))
    assert left_in(target.parent) == []


def test_a_web_page_under_another_type_is_not_a_file_either(server: DownloadServer, target: Path) -> None:
    server.files[PATH] = Served(b"\n <!DOCTYPE html><html></html>")
    with pytest.raises(DownloadError, match="is a web page"):
        fetch(Job(f"{server.url}{PATH}", target, accept_anything))
    assert left_in(target.parent) == []


def test_a_web_page_in_answer_to_a_resumption_costs_nothing_of_what_is_there(
    server: DownloadServer, target: Path
) -> None:
    break_off(server, target)
    server.fail(PATH, Fault(page="Quota"))
    with pytest.raises(DownloadError, match="web page"):
        fetch(job(server, target))
    fetch(job(server, target))
    assert server.ranges(PATH)[-1] == f"bytes={BREAK}-"


def test_pages_are_followed_but_not_without_end(server: DownloadServer, target: Path) -> None:
    def follow(page: Page) -> str:
        return page.url

    patient = Job(f"{server.url}{PATH}", target, accept, follow)
    server.fail(PATH, *[Fault(page="Please confirm")] * 3)
    fetch(patient)
    server.fail(PATH, *[Fault(page="Please confirm")] * 4)
    with pytest.raises(DownloadError, match="page leads to page"):
        fetch(patient)


def test_an_unasked_part_is_refused(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, Fault(status=206))
    with pytest.raises(DownloadError, match="answered 206 Partial Content, unasked"):
        fetch(job(server, target))


def test_an_unasked_compression_is_refused(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, Fault(headers={"Content-Encoding": "gzip"}))
    with pytest.raises(DownloadError, match="comes in 'gzip' encoding"):
        fetch(job(server, target))


# What is too much, or not what it should be


def test_a_file_stated_over_the_cap_is_refused_before_its_body(server: DownloadServer, target: Path) -> None:
    progress = Recorder()
    small = Job(f"{server.url}{PATH}", target, accept, max_bytes=len(BODY) - 1)
    with pytest.raises(DownloadError, match=r"larger than 1\.0 MB, so not the file expected"):
        fetch(small, progress)
    assert progress.received == []
    assert left_in(target.parent) == []


def test_a_file_that_grows_over_the_cap_is_cut_off(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, Fault(headers={"Content-Length": ""}))
    with pytest.raises(DownloadError, match="larger than"):
        fetch(Job(f"{server.url}{PATH}", target, accept, max_bytes=BREAK))
    assert left_in(target.parent) == []


def test_bytes_past_the_stated_size_are_not_taken(server: DownloadServer, target: Path) -> None:
    server.fail(PATH, Fault(headers={"Content-Length": str(len(BODY))}, extra=b"more"))
    fetch(job(server, target))
    assert target.read_bytes() == BODY


def test_a_rest_that_makes_the_file_too_long_is_dropped(server: DownloadServer, target: Path) -> None:
    break_off(server, target)
    server.fail(PATH, Fault(headers={"Content-Length": ""}, extra=b"more"))
    fetch(job(server, target))
    assert target.read_bytes() == BODY


def test_a_file_that_fails_its_check_is_removed_and_the_reason_given(server: DownloadServer, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"file\.bin came, was refused and is removed: has no rows;"):
        fetch(Job(f"{server.url}{PATH}", target, refuse))
    assert left_in(target.parent) == []


# The disk


def test_a_folder_that_cannot_be_written_to_is_named(server: DownloadServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputFileError, match="file: cannot be written to"):
        fetch(job(server, tmp_path / "file" / "file.bin"))
    with pytest.raises(InputFileError, match="is a folder"):
        fetch(job(server, tmp_path))
    assert server.requests == []


def test_a_full_disk_is_one_line_and_what_fits_is_kept(server: DownloadServer, target: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BREAK, hard))  # the nearest to a full disk without root
    try:
        with pytest.raises(InputFileError, match="cannot be written: File too large; make room or choose"):
            fetch(job(server, target))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    fetch(job(server, target))
    assert server.ranges(PATH) == [None, f"bytes={BREAK}-"]


def test_two_runs_do_not_write_to_one_partial_file(server: DownloadServer, target: Path) -> None:
    def fetch_again(*progress: object) -> None:
        del progress
        with pytest.raises(DownloadError, match=r"file\.bin\.part: another run is fetching this file"):
            fetch(job(server, target))

    fetch(job(server, target), fetch_again)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("kind", ["link", "second name", "pipe"])
@pytest.mark.parametrize("name", ["file.bin.part", "file.bin.origin.part"])
def test_a_link_in_place_of_the_partial_file_is_not_followed(
    server: DownloadServer, target: Path, name: str, kind: str
) -> None:
    target.parent.mkdir(exist_ok=True)
    victim = target.with_name("victim")
    victim.write_bytes(b"precious")
    laid = target.with_name(name)
    match kind:
        case "link":
            laid.symlink_to(victim)
        case "second name":
            laid.hardlink_to(victim)
        case _ if name == "file.bin.part":
            os.mkfifo(laid)
    try:
        fetch(job(server, target))
    except ToolkitError:
        assert name == "file.bin.part" and not target.exists()
    else:
        assert name != "file.bin.part" and target.read_bytes() == BODY
    assert victim.read_bytes() == b"precious"


def test_a_file_that_is_fetched_again_keeps_its_permissions(server: DownloadServer, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"old")
    target.chmod(0o640)
    fetch(job(server, target))
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (BODY, 0o640)


# Several files


def silent(name: str) -> AbstractContextManager[Progress]:
    del name
    return nullcontext(Recorder())


def test_files_already_there_whole_are_left_alone_unless_forced(server: DownloadServer, tmp_path: Path) -> None:
    lines: list[str] = []
    jobs = [job(server, tmp_path / name) for name in ("a", "b")]
    (tmp_path / "a").write_bytes(BODY)
    totals = fetch_all(jobs, force=False, show=silent, say=lines.append)
    assert (totals.fetched, totals.fetched_bytes, totals.kept) == (1, len(BODY), 1)
    assert lines == [f"{tmp_path / 'a'}: already there", f"{tmp_path / 'b'}: fetched, 1.0 MB"]
    assert fetch_all(jobs, force=True, show=silent, say=lines.append).fetched == 2


def test_a_damaged_file_is_fetched_again(server: DownloadServer, target: Path) -> None:
    def check(path: Path) -> None:
        if path.read_bytes() != BODY:
            raise DatasetError(f"{path}: is cut off")

    target.parent.mkdir()
    target.write_bytes(BODY[:10])
    lines: list[str] = []
    fetch_all([Job(f"{server.url}{PATH}", target, check)], force=False, show=silent, say=lines.append)
    assert lines[0] == f"{target}: is cut off (there, but not whole: fetching it)"
    assert target.read_bytes() == BODY


def test_one_missing_file_does_not_keep_the_others_from_coming(server: DownloadServer, tmp_path: Path) -> None:
    jobs = [job(server, tmp_path / name, path=path) for name, path in {"a": "/none", "b": PATH, "c": "/none"}.items()]
    lines: list[str] = []
    with pytest.raises(DownloadError, match=r"^2 files failed, 1 fetched .*: a, c; the first: http.*404"):
        fetch_all(jobs, force=False, show=silent, say=lines.append)
    assert left_in(tmp_path) == ["b"]
    assert len(lines) == len(jobs)


def test_no_more_files_are_asked_of_a_server_that_is_not_there(tmp_path: Path) -> None:
    with running_server() as stopped:
        jobs = [job(stopped, tmp_path / name) for name in ("a", "b")]
    lines: list[str] = []
    with pytest.raises(UnreachableError):
        fetch_all(jobs, force=False, show=silent, say=lines.append)
    assert len(lines) == 1


# Addresses


def test_a_path_is_joined_to_a_base_with_or_without_a_slash() -> None:
    assert join_url("https://a.example/b", "c/d") == join_url("https://a.example/b/", "c/d")


@pytest.mark.parametrize(
    "base",
    [
        "",
        "a.example",
        "ftp://a.example",
        "file:///etc",
        "https://",
        "http://[",
        "http://a:x",
        "http://a b",
        "http://a?b",
    ],
)
def test_a_base_that_is_no_address_is_refused(base: str) -> None:
    with pytest.raises(ToolkitError, match="is not an address"):
        join_url(base, "c")


def test_a_password_in_an_address_is_neither_used_nor_shown() -> None:
    with pytest.raises(ToolkitError, match="netrc") as caught:
        join_url("https://me:secret@a.example", "c")
    assert "secret" not in str(caught.value)
