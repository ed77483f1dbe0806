from pathlib import Path

import pytest

from figs.results_folder import (
    SINGLE_EXIT,
    TIMING_COLUMNS,
    TWO_EXITS,
    UNCALIBRATED,
    find_results,
    format_months,
    format_sources,
    is_device,
    name_evaluation,
    name_timings,
    read_timings,
)
from tests.captures import SHARED, needs_shared
from tests.figs.folders import TIMINGS, fill
from utils.errors import InputFileError, ResultFileError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("kind", [TWO_EXITS, SINGLE_EXIT, UNCALIBRATED])
def test_an_evaluation_is_found_by_the_name_it_was_given(tmp_path: Path, kind: str) -> None:
    name = name_evaluation(kind, "mobilenet", "lab-7", "2017_11")
    (found,) = find_results(touch(tmp_path, f"evaluations/{name}")).evaluations
    assert (found.kind, found.network, found.device, found.month) == (kind, "mobilenet", "lab-7", "2017_11")
    assert found.path == tmp_path / "evaluations" / name


@pytest.mark.parametrize(
    "name",
    [
        "evaluations/alexnet_pc_2016_13.csv",
        "evaluations/alexnet_single_2016_02.csv",
        "evaluations/resnet_pc_2016_02.csv",
        "evaluations/alexnet_pc_x_2016_02.csv",
        "evaluations/notes.txt",
        "nsga2/front.sav",
        "nsga2/alexnet_x_f_0.9.pkl",
    ],
)
def test_a_file_with_another_name_is_reported_and_ignored(tmp_path: Path, name: str) -> None:
    results = find_results(touch(tmp_path, name))
    assert results.ignored == (tmp_path / name,)
    assert (results.evaluations, results.timings, results.fronts) == ((), {}, {})


def test_the_last_front_by_name_is_used(tmp_path: Path) -> None:
    names = ("nsga2/alexnet_x_f_0.7_a.sav", "nsga2/alexnet_x_f_0.9_a.sav", "nsga2/mobilenet_x_f_0.8.sav")
    assert find_results(touch(tmp_path, *names)).fronts == {
        "alexnet": tmp_path / names[1],
        "mobilenet": tmp_path / names[2],
    }


def test_a_month_is_shown_from_the_main_device_or_if_missing_from_another(tmp_path: Path) -> None:
    names = ("alexnet_pc_2016_02", "alexnet_pi_2016_02", "alexnet_pi_2016_03", "alexnet_pc_2016_04")
    results = find_results(
        touch(tmp_path, *(f"evaluations/{name}.csv" for name in names), "evaluations/mobilenet_single_pi_2016_02.csv")
    )
    assert results.main_device == "pi"
    assert [file.path.stem for file in results.list_by_month(TWO_EXITS, "alexnet")] == [names[1], names[2], names[3]]
    assert [file.path.stem for file in results.list_files(TWO_EXITS, "alexnet", "pc")] == [names[0], names[3]]
    assert results.list_devices("alexnet") == ["pc", "pi"]
    assert results.networks == ["alexnet", "mobilenet"]


def test_if_devices_have_as_many_evaluations_the_first_by_name_is_shown(tmp_path: Path) -> None:
    names = ("evaluations/alexnet_pi_2016_02.csv", "evaluations/alexnet_pc_2016_02.csv")
    assert find_results(touch(tmp_path, *names)).main_device == "pc"


def test_a_folder_without_results_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"holds neither evaluations/ nor nsga2/; make such a folder with figs/"):
        find_results(tmp_path)
    with pytest.raises(InputFileError, match="no such folder"):
        find_results(tmp_path / "none")


@needs_shared
def test_the_published_data_are_a_results_folder_as_they_are() -> None:
    results = find_results(SHARED / "data")
    assert results.ignored == ()
    assert results.provenance is None
    assert len(results.evaluations) == 10
    assert set(results.timings) == {"rpi"}
    assert set(results.fronts) == {"alexnet", "mobilenet"}
    assert results.main_device == "rpi"
    assert [file.month for file in results.list_by_month(SINGLE_EXIT, "alexnet")] == ["2016_02", "2016_03"]


def test_timings_are_read_with_the_networks_name_in_lower_case(tmp_path: Path) -> None:
    timings = read_timings(fill(tmp_path) / "evaluations" / name_timings("pi"))
    assert tuple(timings.columns) == TIMING_COLUMNS
    assert set(timings["network"]) == {"alexnet"}
    assert timings["request_process_time"].tolist() == [1, 2, 3, 99]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("e2_remote_time", "remote", "is not a table of offload timings, it lacks e2_remote_time"),
        ("\t100\t", "\tfast\t", "column 'e2_local_time' holds a cell that is not a number of at least 0"),
        ("\t100\t", "\t-1\t", "column 'e2_local_time' holds a cell"),
        ("near\t8\t1\t", "near\t8\t0\t", "column 'batch_size' holds a request of no events"),
        (TIMINGS.partition("\n")[2], "", "has a header but no rows"),
    ],
)
def test_a_file_that_is_not_a_table_of_timings_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    path = tmp_path / "t.tsv"
    path.write_text(TIMINGS.replace(old, new))
    with pytest.raises(ResultFileError, match=complaint):
        read_timings(path)


@pytest.mark.parametrize(
    ("months", "words"),
    [
        (["2016_02"], "2016_02"),
        (["2016_03", "2016_02"], "2016_{02,03}"),
        (["2016_02", "2016_03", "2016_04"], "2016_{02..04}"),
        (["2016_01", *(f"2016_{month:02}" for month in range(4, 13)), "2017_01"], "2016_{01,04..12}, 2017_01"),
    ],
)
def test_months_are_named_in_few_words(months: list[str], words: str) -> None:
    assert format_months(months) == words


def test_sources_that_differ_only_in_the_month_are_named_together() -> None:
    folder = Path("r")
    paths = [folder / f"evaluations/alexnet_pc_2016_{month:02}.csv" for month in (2, 3, 2)]
    named = format_sources([folder / "nsga2/a.sav", *paths, folder / "nsga2/a.sav"], folder)
    assert named == "nsga2/a.sav, evaluations/alexnet_pc_2016_{02,03}.csv"


def test_a_device_is_any_word_except_a_kind_of_evaluation() -> None:
    assert [is_device(word) for word in ("pc", "lab-7", "single", "uncalibrated", "a_b", "")] == [True, True] + [
        False
    ] * 4
