import json
from collections.abc import Callable
from pathlib import Path

import pytest

from utils.errors import InputFileError
from utils.release import (
    CURRENT,
    EDGE,
    FILES,
    MANIFEST,
    LabelledFile,
    find_release_folder,
    point_to,
    read_release,
    write_manifest,
)

DATA = [LabelledFile("2016_03.csv", 500, "a" * 64)]


def make_release(folder: Path, parent: str | None = None) -> Path:
    """Make a release whose files hold their own names only; a release does not look into them."""
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).write_text(name)
    write_manifest(folder, parent, "AlexNetWithExits", "f" * 64, DATA, {"error": 0.05})
    return folder


def test_a_release_is_read_as_it_was_written(tmp_path: Path) -> None:
    release = read_release(make_release(tmp_path / "r2", parent="r1"))
    assert (release.name, release.parent, release.fingerprint) == ("r2", "r1", "f" * 64)
    assert (list(release.data), dict(release.judgement)) == (DATA, {"error": 0.05})
    assert release.get_path(EDGE).read_text() == EDGE


def test_a_folder_of_releases_stands_for_the_current_one_and_can_be_pointed_back(tmp_path: Path) -> None:
    for name in ("r1", "r2"):
        make_release(tmp_path / name)
    point_to(tmp_path, "r2")
    assert read_release(tmp_path).name == "r2"
    point_to(tmp_path, "r1")
    assert find_release_folder(tmp_path) == (tmp_path / "r1").resolve()
    assert sorted(path.name for path in tmp_path.iterdir()) == [CURRENT, "r1", "r2"]


def test_current_cannot_be_pointed_to_what_is_no_release(tmp_path: Path) -> None:
    make_release(tmp_path / "r1")
    point_to(tmp_path, "r1")
    with pytest.raises(InputFileError, match="is no release"):
        point_to(tmp_path, "r2")
    assert read_release(tmp_path).name == "r1"


def remove_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def change_a_file(folder: Path) -> None:
    (folder / EDGE).write_text("other")


def remove_a_file(folder: Path) -> None:
    (folder / EDGE).unlink()


def cut_the_manifest(folder: Path) -> None:
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])


def change_member(name: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**content, name: value}))

    change.__name__ = f"change_{name}"
    return change


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove_manifest, "half written"),
        (change_a_file, "is not the file that manifest.json names"),
        (remove_a_file, "no such file"),
        (cut_the_manifest, "is not the manifest"),
        (change_member("version", 2), "version 2"),
        (change_member("format", "x"), "another format"),
        (change_member("files", {}), "is not the manifest"),
        (change_member("judgement", {"error": "x"}), "is not the manifest"),
        (change_member("data", [{"name": "x"}]), "is not the manifest"),
        (change_member("fingerprint", None), "is not a name"),
        (change_member("parent", "../elsewhere"), "is not the name of a folder"),
        (change_member("parent", ".."), "is not the name of a folder"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_damaged_release_is_refused_in_one_line(damage: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    folder = make_release(tmp_path / "r1")
    damage(folder)
    with pytest.raises(InputFileError, match=said) as caught:
        read_release(folder)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_missing_or_whose_current_leads_nowhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no such folder"):
        read_release(tmp_path / "none")
    (tmp_path / CURRENT).symlink_to("gone")
    with pytest.raises(InputFileError, match="leads to no release"):
        read_release(tmp_path)
