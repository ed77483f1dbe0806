import bz2
import collections
import csv
import gzip
import io
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.captures import SHARED, needs_shared
from tests.hostile import Bomb, Evaluated
from utils.errors import InputFileError, ResultFileError
from utils.results import (
    Front,
    read_evaluation,
    read_front,
    read_single_exit_evaluation,
    write_front,
    write_table,
)
from utils.schema import EVALUATION_COLUMNS, SINGLE_EXIT_EVALUATION_COLUMNS

ROOT = Path(__file__).resolve().parents[2]

# Tables


@pytest.mark.parametrize(
    ("ending", "opened"),
    [("", open), (".gz", gzip.open), (".bz2", bz2.open), (".GZ", gzip.open), (".BZ2", bz2.open)],
)
def test_the_ending_chooses_the_compression_of_a_table(tmp_path: Path, ending: str, opened: Any) -> None:
    path = tmp_path / f"table.csv{ending}"
    write_table(pd.DataFrame({"a": [1, 2], "b": [0.1, 0.25]}), path)
    with opened(path, "rt") as stream:
        assert stream.read() == "a,b\n1,0.1\n2,0.25\n"


@pytest.mark.parametrize("name", ["table", "table.CSV", "table.txt", "table.2016_01", "x.y/table"])
def test_a_table_with_another_ending_is_plain_text(tmp_path: Path, name: str) -> None:
    write_table(pd.DataFrame({"a": [1]}), tmp_path / name)
    assert (tmp_path / name).read_text() == "a\n1\n"


@pytest.mark.parametrize(
    "ending", [".parquet", ".pq", ".xz", ".csv.xz", ".zst", ".zip", ".xlsx", ".JSON", ".tar.gz", ".parquet.gz", ".tsv"]
)
def test_an_ending_of_another_format_is_refused(tmp_path: Path, ending: str) -> None:
    with pytest.raises(InputFileError, match=f"t{ending}: tables are written as CSV, not as .*; end the name in .csv"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path / f"t{ending}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-cmd", "@SUM(A1)", "\t=1", "\r=1", "=HYPERLINK(x)"])
def test_text_is_escaped_against_formulas_and_numbers_are_not(tmp_path: Path, text: str) -> None:
    table = pd.DataFrame({text: [text, "plain"], "number": [-1.5, 2], "mixed": ["-0.25", text]})
    write_table(table, path := tmp_path / "t.csv")
    header, first, second = csv.reader(io.StringIO(path.read_bytes().decode(), newline=""))
    safe = "'" + text.replace("\r", " ")
    assert header == [safe, "number", "mixed"]
    assert first == [safe, "-1.5", "-0.25"]
    assert second == ["plain", "2.0", safe]


def test_a_table_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="is a folder"):
        write_table(pd.DataFrame({"a": [1]}), tmp_path)


# Evaluation CSV


def evaluation_table(rows: int = 4, seed: int = 0) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    table = pd.DataFrame({name: draw.random(rows) for name in EVALUATION_COLUMNS})
    classes = [name for name in EVALUATION_COLUMNS if name.startswith("y")]
    table[classes] = draw.integers(0, 2, (rows, len(classes)))
    return table


def evaluation_refusal(path: Path) -> str:
    """Return the message that refuses an evaluation CSV, without the file name."""
    with pytest.raises(ResultFileError) as caught:
        read_evaluation([path])
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def test_an_evaluation_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    table = evaluation_table()
    write_table(table, path := tmp_path / "e.csv")
    found = read_evaluation([path])
    columns = (
        *(found.labels, found.prediction_1, found.certainty_1, found.time_segment_1, found.time_exit_1),
        *(found.prediction_2, found.certainty_2, found.time_segment_2, found.time_exit_2),
    )
    for name, values in zip(EVALUATION_COLUMNS, columns, strict=True):
        np.testing.assert_array_equal(values, table[name])
        assert values.dtype == (np.int64 if name.startswith("y") else np.float64)
    assert len(found) == 4


def test_several_evaluations_are_read_as_one_in_the_order_given(tmp_path: Path) -> None:
    tables = [evaluation_table(rows=3, seed=seed) for seed in (1, 2)]
    paths = [tmp_path / "b.csv", tmp_path / "a.csv"]
    for table, path in zip(tables, paths, strict=True):
        write_table(table, path)
    expected = [*tables[0]["cnf_exit_2"], *tables[1]["cnf_exit_2"]]
    assert read_evaluation(paths).certainty_2.tolist() == expected


def test_columns_may_be_in_any_order_among_others(tmp_path: Path) -> None:
    table = evaluation_table()[[*reversed(EVALUATION_COLUMNS)]].assign(note="text")
    write_table(table, path := tmp_path / "e.csv")
    np.testing.assert_array_equal(read_evaluation([path]).time_segment_2, table["bb_time_exit_2"])


@needs_shared
def test_the_published_evaluations_are_read() -> None:
    paths = list((SHARED / "data" / "evaluations").glob("*_2016_0?.csv"))
    assert len({"_single_" in path.name for path in paths}) == 2
    for path in paths:
        if "_single_" in path.name:
            assert evaluation_refusal(path).startswith("is not an evaluation CSV of two exits, it lacks y_exit_1")
        else:
            assert len(read_evaluation([path])) == 5000


@pytest.mark.parametrize(
    ("column", "value", "allowed"),
    [
        ("y", "2", "0 or 1"),
        ("y_exit_1", "0.5", "0 or 1"),
        ("y_exit_2", "attack", "0 or 1"),
        ("y_exit_2", "", "0 or 1"),
        ("cnf_exit_1", "1.0001", "a certainty between 0 and 1"),
        ("cnf_exit_2", "-0.1", "a certainty between 0 and 1"),
        ("cnf_exit_2", "nan", "a certainty between 0 and 1"),
        ("bb_time_exit_1", "-0.5", "a time in seconds, 0 or more"),
        ("exit_time_exit_1", "inf", "a time in seconds, 0 or more"),
        ("exit_time_exit_1", "1e+308", "a time in seconds, 0 or more"),
        ("bb_time_exit_2", "1 s", "a time in seconds, 0 or more"),
    ],
)
def test_a_cell_out_of_range_is_refused_with_its_row_and_column(
    tmp_path: Path, column: str, value: str, allowed: str
) -> None:
    table = evaluation_table().astype(object)
    table.loc[2, column] = value
    write_table(table, path := tmp_path / "e.csv")
    found = "is empty or NaN" if value in {"", "nan"} else f"holds '{value}'"
    assert evaluation_refusal(path) == f"row 3 (line 4), column '{column}' {found}; it must be {allowed}"


@pytest.mark.parametrize("column", EVALUATION_COLUMNS)
def test_an_evaluation_that_lacks_a_column_is_refused_naming_it(tmp_path: Path, column: str) -> None:
    write_table(evaluation_table().drop(columns=column), path := tmp_path / "e.csv")
    assert f"it lacks {column} and has " in evaluation_refusal(path)


def test_the_message_about_a_single_exit_evaluation_names_the_script_that_writes_the_right_one(tmp_path: Path) -> None:
    write_table(pd.DataFrame([[0, 1, 0.5, 0.1]], columns=[*SINGLE_EXIT_EVALUATION_COLUMNS]), path := tmp_path / "e.csv")
    assert evaluation_refusal(path).endswith("write one with evaluations/generate-model-evaluation-csv.py")


def test_the_evaluation_of_a_single_exit_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    table = pd.DataFrame({name: draw.random(5) for name in SINGLE_EXIT_EVALUATION_COLUMNS})
    table[["y", "y_pred"]] = draw.integers(0, 2, (5, 2))
    write_table(table, path := tmp_path / "single.csv")
    found = read_single_exit_evaluation(path)
    for name, values in zip(SINGLE_EXIT_EVALUATION_COLUMNS, vars(found).values(), strict=True):
        np.testing.assert_array_equal(values, table[name])
    assert len(found) == 5


@needs_shared
def test_the_published_evaluations_of_single_exits_are_read() -> None:
    paths = sorted((SHARED / "data" / "evaluations").glob("*_single_*.csv"))
    assert [len(read_single_exit_evaluation(path)) for path in paths] == [5000, 5000]


@pytest.mark.parametrize("column", SINGLE_EXIT_EVALUATION_COLUMNS)
def test_an_evaluation_of_a_single_exit_that_lacks_a_column_is_refused_naming_it(tmp_path: Path, column: str) -> None:
    table = pd.DataFrame({name: [0.0] for name in SINGLE_EXIT_EVALUATION_COLUMNS if name != column})
    write_table(table, path := tmp_path / "single.csv")
    with pytest.raises(ResultFileError, match=f"of a single exit, it lacks {column}"):
        read_single_exit_evaluation(path)


def test_an_evaluation_without_rows_is_refused(tmp_path: Path) -> None:
    write_table(evaluation_table(rows=0), path := tmp_path / "e.csv")
    assert evaluation_refusal(path).startswith("has a header but no rows")


def test_a_file_that_is_not_an_evaluation_is_refused(tmp_path: Path) -> None:
    text = evaluation_table().to_csv(index=False)
    for name, content, reason in [
        ("empty.csv", b"", "is empty"),
        ("noise.csv", bytes(range(254, 0, -1)) * 20, "is not a well-formed CSV"),
        ("zeros.csv", bytes(1000), "is not an evaluation CSV"),
        ("utf16.csv", text.encode("utf-16"), "is UTF-16 text; save it as UTF-8"),
        ("cut.csv.gz", gzip.compress(text.encode())[:-20], "is not a well-formed CSV"),
        ("long.csv", text.replace("\n", ",1\n").replace(",1\n", "\n", 1).encode(), "row 1 (line 2) has more cells"),
        ("blank.csv", text.replace("\n", "\n\n", 2).replace("\n\n", "\n", 1).encode(), "row 2 (line 3), column 'y' is"),
    ]:
        (path := tmp_path / name).write_bytes(content)
        assert evaluation_refusal(path).startswith(reason)


@pytest.mark.parametrize("name", ["none.csv", "."])
def test_a_missing_evaluation_or_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert evaluation_refusal(tmp_path / name).startswith(("no such file", "is a folder"))


# NSGA-II result file: what is read and written

FRONT = Front(
    thresholds=np.array([[0.9, 0.8, 0.7, 0.6], [0.5, 0.0, 1.0, 0.25]]),
    objectives=np.array([[0.1, 0.02], [0.08, 0.5]]),
    min_time=100.5,
    max_time=2000.25,
    accuracy_1=0.875,
    acceptance_1=1.0,
    accuracy_2=0.9,
    acceptance_2=1.0,
)
PLAIN: list[Any] = [*vars(FRONT).values()]


def bytes_of(content: object, protocol: int = 4) -> bytes:
    return pickle.dumps(content, protocol=protocol)


def replaced(index: int, value: object) -> bytes:
    """Return a result file with one item replaced."""
    return bytes_of([*PLAIN[:index], value, *PLAIN[index + 1 :]])


def assert_same(front: Front, items: list[Any]) -> None:
    for found, expected in zip(vars(front).values(), items, strict=True):
        np.testing.assert_array_equal(found, expected)


@needs_shared
@pytest.mark.parametrize("name", ["alexnet_x_f_0.9_2016_23.sav", "mobilenet_x_f_0.9_2016_23.sav"])
def test_a_published_result_file_is_read_like_by_pickle(name: str) -> None:
    path = SHARED / "data" / "nsga2" / name
    front = read_front(path)
    assert_same(front, pickle.loads(path.read_bytes()))
    assert len(front) == 100
    assert front.thresholds.dtype == front.objectives.dtype == np.float64


def test_a_written_result_file_is_a_plain_pickled_list_of_the_8_items(tmp_path: Path) -> None:
    write_front(FRONT, path := tmp_path / "front.sav")
    content = pickle.loads(path.read_bytes())
    assert type(content) is list
    assert [type(item) for item in content] == [np.ndarray, np.ndarray, *[float] * 6]
    assert [item.shape for item in content[:2]] == [(2, 4), (2, 2)]
    assert_same(FRONT, content)
    assert_same(read_front(path), content)


VARIANTS = {
    "protocol 3": bytes_of(PLAIN, 3),
    "protocol 5": bytes_of(PLAIN, 5),
    "numpy scalars": bytes_of([*PLAIN[:2], *map(np.float64, PLAIN[2:])]),
    "float32 scalars": bytes_of([*PLAIN[:2], *map(np.float32, PLAIN[2:])]),
    "columns first": replaced(0, np.asfortranarray(PLAIN[0])),
    "columns first, protocol 5": bytes_of([np.asfortranarray(PLAIN[0]), *PLAIN[1:]], 5),
    "big-endian": replaced(0, PLAIN[0].astype(">f8")),
    "numpy 1": bytes_of(PLAIN, 3).replace(b"numpy._core", b"numpy.core"),
}


@pytest.mark.parametrize("content", VARIANTS.values(), ids=VARIANTS)
def test_a_result_file_is_read_in_every_form_that_numpy_pickles(tmp_path: Path, content: bytes) -> None:
    (path := tmp_path / "front.sav").write_bytes(content)
    np.testing.assert_allclose(read_front(path).thresholds, FRONT.thresholds)
    np.testing.assert_allclose(read_front(path).accuracy_2, FRONT.accuracy_2, rtol=1e-6)


# NSGA-II result file: what is refused


def refusal(path: Path, content: bytes) -> str:
    """Return the message that refuses a result file with this content, without the file name."""
    path.write_bytes(content)
    with pytest.raises(ResultFileError) as caught:
        read_front(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < len(str(path)) + 200
    return str(caught.value).removeprefix(f"{path}: ")


def with_values(index: int, value: float) -> bytes:
    table = PLAIN[index].copy()
    table[1, 1] = value
    return replaced(index, table)


WRONG = {
    "a table": (bytes_of({"X": 1}), "the pickle operation"),
    "a number": (bytes_of(5), "not the list of 8 items"),
    "an array": (bytes_of(PLAIN[0]), "not the list of 8 items"),
    "7 items": (bytes_of(PLAIN[:-1]), "not the list of 8 items"),
    "9 items": (bytes_of([*PLAIN, 1.0]), "not the list of 8 items"),
    "a tuple": (bytes_of(tuple(PLAIN)), "not the list of 8 items"),
    "lists for tables": (replaced(0, PLAIN[0].tolist()), "table of 4 columns"),
    "3 thresholds": (replaced(0, PLAIN[0][:, :3].copy()), "table of 4 columns"),
    "3 objectives": (replaced(1, np.zeros((2, 3))), "table of 2 columns"),
    "one dimension": (replaced(0, np.zeros(4)), "table of 4 columns"),
    "three dimensions": (replaced(0, np.zeros((2, 2, 2))), "table of 4 columns"),
    "no rows": (replaced(0, np.zeros((0, 4))), "table of 4 columns"),
    "whole numbers": (replaced(0, np.zeros((2, 4), dtype=np.int64)), "table of 4 columns"),
    "objects": (replaced(0, PLAIN[0].astype(object)), "table of 4 columns"),
    "text": (replaced(0, PLAIN[0].astype("U8")), "table of 4 columns"),
    "complex numbers": (replaced(0, PLAIN[0].astype(complex)), "table of 4 columns"),
    "dates": (replaced(0, PLAIN[0].astype("M8[s]")), "table of 4 columns"),
    "other lengths": (replaced(1, np.zeros((3, 2))), "2 sets of thresholds but 3 of objectives"),
    "threshold over 1": (with_values(0, 1.01), "a threshold outside [0, 1]"),
    "threshold under 0": (with_values(0, -0.01), "a threshold outside [0, 1]"),
    "NaN threshold": (with_values(0, np.nan), "NaN or infinity"),
    "infinite objective": (with_values(1, np.inf), "NaN or infinity"),
    "NaN time": (replaced(2, float("nan")), "holds nan"),
    "infinite time": (replaced(3, np.float64("inf")), "holds inf"),
    "negative rate": (replaced(4, -0.5), "holds -0.5"),
    "text for a rate": (replaced(5, "much"), "no number"),
    "no rate": (replaced(6, None), "no number"),
    "a table for a rate": (replaced(7, np.zeros(2)), "no number"),
    "a number of 30 digits": (replaced(2, 10**30), "the pickle operation LONG1"),
    "a number of 9,000 digits": (replaced(2, 10**9000), "the pickle operation LONG4"),
}


@pytest.mark.parametrize(("content", "reason"), WRONG.values(), ids=WRONG)
def test_a_result_file_of_another_form_is_refused_with_the_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refusal(tmp_path / "front.sav", content)


def test_a_file_that_is_not_a_pickle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "front.sav"
    for content in (b"text\n", bytes(100), b"\x80", b".", np.random.default_rng(0).bytes(5000), b"\x80\x04."):
        assert "is not an NSGA-II result file" in refusal(path, content) or "the pickle operation" in refusal(
            path, content
        )
    assert refusal(path, b"").startswith("is empty")
    assert refusal(path, b"\0" * (5 << 20)).startswith("is larger than any")


def test_a_missing_result_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    for path, reason in [(tmp_path / "none.sav", "no such file"), (tmp_path, "is a folder")]:
        with pytest.raises(ResultFileError, match=reason):
            read_front(path)


def test_a_truncated_result_file_is_refused(tmp_path: Path) -> None:
    for content in (bytes_of(PLAIN), VARIANTS["protocol 5"], VARIANTS["numpy scalars"]):
        for length in range(1, len(content)):
            assert "is cut off" in refusal(tmp_path / "front.sav", content[:length])


# NSGA-II result file: hostile


@pytest.mark.parametrize("kind", [Bomb, Evaluated])
@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("alone", [True, False])
def test_code_in_a_result_file_never_runs(tmp_path: Path, kind: type[Bomb], protocol: int, *, alone: bool) -> None:
    canary = tmp_path / "canary"
    bomb = kind(canary)
    content = bytes_of(bomb if alone else [*PLAIN[:7], bomb], protocol)
    assert "asks for" in refusal(tmp_path / "front.sav", content)
    assert not canary.exists()


def call(module: str, name: str, *arguments: object) -> bytes:
    """Return a result file whose first item is the result of a call."""
    packed = bytes_of(arguments, 2)[2:-1]  # less its frame
    return b"\x80\x02](c" + f"{module}\n{name}\n".encode() + packed + b"R" + bytes_of(PLAIN[1:], 3)[3:-2] + b"e."


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("numpy", "fromfile", ("/etc/passwd",)),
        ("numpy", "load", ("/etc/passwd",)),
        ("numpy", "memmap", ("/etc/passwd",)),
        ("numpy.lib.npyio", "DataSource", ()),
        ("numpy.testing._private.utils", "runstring", ("1", {})),
        ("numpy", "zeros", ((1 << 30, 4),)),
        ("numpy.f2py", "compile", ("",)),
        ("builtins", "eval", ("1",)),
        ("builtins", "getattr", ("", "join")),
        ("__builtin__", "eval", ("1",)),
        ("os", "system", ("true",)),
        ("numpy_evil", "ndarray", ()),
        ("utils.results", "_PickledArray", ()),
        ("collections", "OrderedDict", ()),
    ],
)
def test_a_function_that_no_result_file_needs_is_named_and_refused(
    tmp_path: Path, module: str, name: str, arguments: tuple[object, ...]
) -> None:
    reason = refusal(tmp_path / "front.sav", call(module, name, *arguments))
    assert "asks for" in reason
    assert name in reason or "the pickle operation" in reason


def small(number: int) -> bytes:
    return b"J" + struct.pack("<i", number)


TEXT_F8 = b"X\x02\0\0\0f8"
HUGE = b"\x8a\x0a" + bytes(9) + b"\x01"  # 2^72
NESTED = b"N\x85\x94" + b"".join(b"0h%ch%c\x86\x94" % (i, i) for i in range(60))  # a tuple of 2^60 ends
LISTS = b"]\x94" + b"".join(b"0](h%ch%ce\x94" % (i, i) for i in range(60))  # a list of 2^60 ends


def dtype(code: bytes = TEXT_F8, state: bytes = b"") -> bytes:
    return b"cnumpy\ndtype\n" + code + b"\x85R" + state


def array(shape: bytes, data: bytes = b"", kind: bytes = dtype()) -> bytes:
    packed = b"B" + struct.pack("<I", len(data)) + data
    return b"cnumpy.core.multiarray\n_frombuffer\n(" + packed + kind + shape + b"X\x01\0\0\0CtR"


def scalar(kind: bytes) -> bytes:
    return b"cnumpy.core.multiarray\nscalar\n" + kind + b"C\x08" + bytes(8) + b"\x86R"


X_OF_ONE = array(small(1) + small(4) + b"\x86", bytes(32))
F_OF_ONE = array(small(1) + small(2) + b"\x86", bytes(16))


def raw_file(thresholds: bytes = X_OF_ONE, time: bytes = b"K\x01") -> bytes:
    """Return a result file of one point, assembled from pickle operations that only an attacker writes."""
    return b"\x80\x04](" + thresholds + F_OF_ONE + time + b"K\x01" * 5 + b"e."


HOSTILE = {
    "huge shape": raw_file(array(small(2**31 - 1) + small(4) + b"\x86", bytes(32))),
    "huge shape of nothing": raw_file(array(small(0) + small(2**31 - 1) + b"\x86")),
    "shape beyond 64 bits": raw_file(array(HUGE + small(4) + b"\x86", bytes(32))),
    "shape of nothing beyond 64 bits": raw_file(array(small(0) + HUGE + b"\x86")),
    "negative shape": raw_file(array(small(-1) + small(4) + b"\x86", bytes(32))),
    "two negative lengths": raw_file(array(small(-1) + small(-4) + b"\x86", bytes(32))),
    "100 dimensions": raw_file(time=array(b"(" + small(1) * 100 + b"t", bytes(8))),
    "text for a shape": raw_file(array(TEXT_F8, bytes(32))),
    "fractions for a shape": raw_file(array(b"G" + struct.pack(">d", 1.0) + small(4) + b"\x86", bytes(32))),
    "an array for a shape": raw_file(array(X_OF_ONE, bytes(32))),
    "ndarray called with a huge shape": raw_file(b"cnumpy\nndarray\n" + small(2**30) + small(4) + b"\x86\x85R"),
    "ndarray made without a call": raw_file(b"cnumpy\nndarray\n)\x81"),
    "ndarray itself": raw_file(b"cnumpy\nndarray\n"),
    "ndarray of another state": raw_file(b"cnumpy\nndarray\n)R(" + X_OF_ONE + b"tb"),
    "a list for a number type": raw_file(time=scalar(dtype(b"]"))),
    "nested tuples for a number type": raw_file(time=scalar(dtype(NESTED))),
    "no number type": raw_file(time=scalar(b"N")),
    "number type of objects": raw_file(time=scalar(dtype(b"X\x02\0\0\0O8"))),
    "number type of anything": raw_file(time=scalar(dtype(b"X\x03\0\0\0V1G"))),
    "nested tuples for a byte order": raw_file(time=scalar(dtype(state=b"K\x03" + NESTED + b"\x86b"))),
    "list for a byte order": raw_file(time=scalar(dtype(state=b"K\x03]\x86b"))),
    "sub-array in a number type's state": raw_file(
        time=scalar(dtype(state=b"(K\x03X\x01\0\0\0|" + TEXT_F8 + small(2**30) + b"\x85\x86NNK\x08K\x08K\0tb"))
    ),
    "nested lists for a number": raw_file(time=LISTS),
    "deep lists for a number": raw_file(time=b"]" * 200_000 + b"a" * 199_999),
    "a table keyed by nested tuples": b"\x80\x04}(" + NESTED + b"K\x01u.",
    "a set of nested tuples": b"\x80\x04\x8f(" + NESTED + b"\x90.",
    "an object outside": raw_file(time=b"K\x01Q"),
    "a registered extension": raw_file(time=b"\x82\x01"),
    "a function's state": raw_file(time=b"cnumpy\nscalar\nN}X\x0c\0\0\0__defaults__)s\x86b"),
    "a memory slot of 4 billion": b"\x80\x04]r\xff\xff\xff\xff.",
    "a memory slot of 250 million": b"\x80\x04]r\xff\xff\xff\x0f.",
    "a frame of a terabyte": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"].",
    "bytes of a terabyte": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"].",
    "a byte array of 2 gigabytes": b"\x80\x05\x96" + struct.pack("<Q", 1 << 31) + b"].",
    "text of 4 gigabytes": b"\x80\x04X\xff\xff\xff\xff].",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_result_file_is_refused(tmp_path: Path, content: bytes) -> None:
    refusal(tmp_path / "front.sav", content)


def test_the_unchanged_parts_of_the_hostile_files_are_a_valid_file(tmp_path: Path) -> None:
    (path := tmp_path / "front.sav").write_bytes(raw_file(time=scalar(dtype())))
    assert_same(read_front(path), [np.zeros((1, 4)), np.zeros((1, 2)), 0.0, *[1.0] * 5])


READER = """
import resource, sys, time
from pathlib import Path
from utils.errors import ResultFileError
from utils.results import read_front

time_before = time.process_time()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB

before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        read_front(path)
    except ResultFileError:
        continue
    raise SystemExit(f"{path} was read")
print(peak() - before, time.process_time() - time_before)
"""


def test_no_hostile_result_file_uses_much_memory_or_time(tmp_path: Path) -> None:
    for number, content in enumerate(HOSTILE.values()):
        (tmp_path / f"{number}.sav").write_bytes(content)
    command = [sys.executable, "-c", READER, str(tmp_path)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
    more_memory, processor_time = map(float, answer.stdout.split())
    assert more_memory < 64 * 1024  # KiB
    assert processor_time < 10  # seconds


def test_a_hostile_file_does_not_affect_the_next_one(tmp_path: Path) -> None:
    write_front(FRONT, good := tmp_path / "good.sav")
    for content in HOSTILE.values():
        refusal(tmp_path / "front.sav", content)
    assert_same(read_front(good), PLAIN)


def mutated(content: bytes, draw: np.random.Generator) -> bytes:
    """Change, remove, repeat or insert a few bytes, most of them outside the numbers."""
    changed = bytearray(content)
    for _ in range(draw.integers(1, 5)):
        at = int(draw.integers(len(changed)))
        match draw.integers(4):
            case 0:
                changed[at] = draw.integers(256)
            case 1:
                changed[at] ^= 1 << int(draw.integers(8))
            case 2:
                del changed[at : at + int(draw.integers(1, 4))]
            case _:
                changed[at:at] = draw.bytes(int(draw.integers(1, 4)))
    return bytes(changed)


@pytest.mark.parametrize("source", ["protocol 3", "protocol 5", "numpy scalars"])
def test_a_randomly_damaged_file_is_read_or_refused(tmp_path: Path, source: str) -> None:
    draw, path, endings = np.random.default_rng(7), tmp_path / "front.sav", collections.Counter[str]()
    for _ in range(1500):
        path.write_bytes(mutated(VARIANTS[source], draw))
        try:
            front = read_front(path)
        except ResultFileError:
            endings["refused"] += 1
        else:
            endings["read"] += 1
            assert ((front.thresholds >= 0) & (front.thresholds <= 1)).all()
            assert len(front.objectives) == len(front) > 0
    assert min(endings["refused"], endings["read"]) > 20
