import errno
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.errors import CheckpointError, InputFileError
from utils.files import (
    check_apart,
    check_folder,
    check_readable,
    check_writable,
    expand_pattern,
    make_folder,
    replacing,
)

TOO_LONG = "a" * 300


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the text ``old``, alone in its folder."""
    path = tmp_path / "folder" / "file.csv"
    path.parent.mkdir()
    path.write_text("old")
    return path


def names_beside(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def write(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("new")


# Writing whole or not at all


def test_a_file_is_replaced_when_the_block_succeeds(file: Path) -> None:
    with replacing(file) as partial:
        partial.write_text("new")
        assert file.read_text() == "old"
        assert (partial.parent, partial.suffix) == (file.parent, file.suffix)
    assert file.read_text() == "new"
    assert names_beside(file) == ["file.csv"]


@pytest.mark.parametrize("problem", [ValueError("x"), KeyboardInterrupt(), SystemExit(1)])
def test_a_block_that_raises_leaves_only_the_whole_old_file(file: Path, problem: BaseException) -> None:
    with pytest.raises(type(problem)), replacing(file) as partial:
        partial.write_text("half of the n")
        raise problem
    assert file.read_text() == "old"
    assert names_beside(file) == ["file.csv"]


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_the_old_one(file: Path) -> None:
    with (
        pytest.raises(InputFileError, match=r"file\.csv: cannot be written: No space left"),
        replacing(file) as partial,
    ):
        partial.write_text("half of the n")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert file.read_text() == "old"
    assert names_beside(file) == ["file.csv"]


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_file(file: Path) -> None:
    with pytest.raises(InputFileError, match=r"file\.csv"), replacing(file):
        pass
    assert file.read_text() == "old"


def test_missing_folders_are_created(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "c.csv")
    assert (tmp_path / "a" / "b" / "c.csv").read_text() == "new"


WRITERS = pytest.mark.parametrize("use", [check_writable, write], ids=["check_writable", "replacing"])


@WRITERS
def test_a_folder_instead_of_a_file_is_refused(file: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(InputFileError, match="folder: is a folder; name the file to write in it"):
        use(file.parent)


@WRITERS
def test_a_file_instead_of_a_folder_is_refused_and_unchanged(file: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(InputFileError, match=r"file\.csv: cannot be written to: .*; choose another folder"):
        use(file / "new.csv")
    assert file.read_text() == "old"


@WRITERS
def test_a_folder_that_cannot_be_written_to_is_refused(use: Callable[[Path], object]) -> None:
    with pytest.raises(InputFileError, match="/proc: cannot be written to"):
        use(Path("/proc/new.csv"))


@WRITERS
def test_a_name_too_long_to_write_is_refused(tmp_path: Path, use: Callable[[Path], object]) -> None:
    with pytest.raises(InputFileError, match="cannot be written: File name too long"):
        use(tmp_path / TOO_LONG)


def test_a_name_too_long_for_its_temporary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="cannot be written: File name too long"):
        write(tmp_path / ("a" * 250))
    assert list(tmp_path.iterdir()) == []


def test_the_check_that_a_file_can_be_written_leaves_no_file(tmp_path: Path) -> None:
    assert check_writable(tmp_path / "new" / "file.csv") == tmp_path / "new" / "file.csv"
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o666])
def test_a_file_that_exists_keeps_its_permissions(file: Path, mode: int) -> None:
    file.chmod(mode)
    with replacing(file) as partial:
        assert partial.stat().st_mode & 0o077 == 0
        partial.write_text("new")
    assert (file.read_text(), file.stat().st_mode & 0o7777) == ("new", mode)


def test_a_new_file_has_default_permissions(file: Path) -> None:
    (other := file.with_name("other.csv")).touch()
    write(file.with_name("new.csv"))
    assert file.with_name("new.csv").stat().st_mode == other.stat().st_mode


def test_the_name_of_a_temporary_file_cannot_be_guessed(file: Path) -> None:
    names = set()
    for _ in range(3):
        with replacing(file) as partial:
            names.add(partial.name)
            partial.write_text("new")
    assert len(names) == 3


def test_a_link_instead_of_the_temporary_file_is_not_followed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = file.with_name("victim")
    victim.write_text("precious")
    monkeypatch.setattr(secrets, "token_hex", lambda _bytes: "guessed")
    (laid := file.with_name(".file.guessed.part.csv")).symlink_to(victim)
    for use in (check_writable, write):
        with pytest.raises(InputFileError, match="cannot be written"):
            use(file)
    assert (victim.read_text(), file.read_text(), laid.is_symlink()) == ("precious", "old", True)


def test_a_temporary_file_that_is_replaced_by_a_link_is_refused(file: Path) -> None:
    victim = file.with_name("victim")
    victim.write_text("precious")
    victim.chmod(0o600)
    file.chmod(0o666)
    with pytest.raises(InputFileError, match="cannot be written"), replacing(file) as partial:
        partial.unlink()
        partial.symlink_to(victim)
    assert (file.read_text(), victim.stat().st_mode & 0o777) == ("old", 0o600)


# Reading


def test_the_path_of_a_readable_file_is_returned(file: Path) -> None:
    assert check_readable(file) == file


def test_an_unreadable_file_is_named_in_the_given_error(file: Path) -> None:
    (empty := file.with_name("empty.pth")).touch()
    for path, reason in [
        (file.with_name("none.pth"), "no such file"),
        (file / "none.pth", "no such file"),
        (file.parent, "is a folder"),
        (empty, "is empty"),
        (file.with_name(TOO_LONG), "cannot be read: File name too long"),
    ]:
        with pytest.raises(CheckpointError) as caught:
            check_readable(path, CheckpointError)
        assert str(caught.value).startswith(f"{path}: {reason}")


# Folders


def test_the_path_of_a_folder_is_returned(tmp_path: Path) -> None:
    assert check_folder(tmp_path) == tmp_path
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()


def test_a_missing_folder_or_a_file_is_refused(file: Path) -> None:
    for path, reason in [
        (file, "is a file, not a folder"),
        (file.with_name("none"), "no such folder"),
        (file.with_name(TOO_LONG), "no such folder"),
    ]:
        with pytest.raises(InputFileError) as caught:
            check_folder(path)
        assert str(caught.value).startswith(f"{path}: {reason}")


def test_a_folder_that_cannot_be_created_is_refused(file: Path) -> None:
    for path in (file, file / "folder", Path("/proc/folder"), file.with_name(TOO_LONG)):
        with pytest.raises(InputFileError, match="cannot be written to"):
            make_folder(path)


# Patterns


def test_a_pattern_expands_to_sorted_files_and_a_path_to_itself(tmp_path: Path) -> None:
    for name in ("b_03.csv", "b_02.csv", "other.txt"):
        (tmp_path / name).touch()
    assert expand_pattern(tmp_path / "b_*.csv") == [tmp_path / "b_02.csv", tmp_path / "b_03.csv"]
    assert expand_pattern(tmp_path / "b_03.csv") == [tmp_path / "b_03.csv"]


def test_a_file_whose_name_looks_like_a_pattern_expands_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a[1].csv").touch()
    (tmp_path / "a1.csv").touch()
    assert expand_pattern(tmp_path / "a*.csv") == [tmp_path / "a1.csv", tmp_path / "a[1].csv"]
    assert expand_pattern(tmp_path / "a[2].csv") == [tmp_path / "a[2].csv"]


# Inputs and outputs


def test_an_output_that_is_an_input_under_any_name_is_refused(file: Path) -> None:
    link = file.with_name("link.csv")
    link.symlink_to(file)
    for output in (file, link, file.parent / ".." / "folder" / "file.csv"):
        with pytest.raises(InputFileError, match="is an input, too, and would be lost"):
            check_apart(output, [file.with_name("other.csv"), file])


def test_other_and_new_outputs_are_accepted(file: Path) -> None:
    file.with_name("other.csv").touch()
    check_apart(file.with_name("new.csv"), [file, file.with_name("missing.csv")])
    check_apart(file.with_name("other.csv"), [file, file.with_name(TOO_LONG)])
