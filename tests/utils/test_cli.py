import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from utils import cli, errors
from utils.errors import DatasetError, ToolkitError

ROOT = Path(__file__).resolve().parents[2]


def ending_in(problem: BaseException) -> int:
    """Run a script whose body raises ``problem``; return its exit code."""

    def body(_args: argparse.Namespace) -> None:
        raise problem

    return cli.run(argparse.ArgumentParser(prog="script.py"), body, [])


def parse(add: Callable[[argparse.ArgumentParser], object], *arguments: str) -> argparse.Namespace:
    parser = cli.new_parser("text")
    add(parser)
    return parser.parse_args(arguments)


# How a run ends


def test_a_successful_run_passes_the_arguments_and_returns_0() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--number", type=int)
    seen = list[int]()
    assert cli.run(parser, lambda args: seen.append(args.number), ["--number", "7"]) == 0
    assert seen == [7]


def test_a_toolkit_error_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending_in(DatasetError("a.csv: row 1:\n  Expected 59 fields,\tsaw 60\n; export it again")) == 2
    captured = capsys.readouterr()
    assert captured.err == "script.py: error: a.csv: row 1: Expected 59 fields, saw 60 ; export it again\n"
    assert captured.out == ""


def test_text_quoted_in_an_error_cannot_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending_in(ToolkitError("a\x1b[2J\x1b]0;title\x07.csv: \x9b31m \u202egnp.exe \udcff")) == 2
    expected = "script.py: error: a\\x1b[2J\\x1b]0;title\\x07.csv: \\x9b31m \\u202egnp.exe \\udcff\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (ToolkitError("x"), 2),
        (errors.InputFileError("x"), 2),
        (errors.CheckpointError("x"), 2),
        (errors.ResultFileError("x"), 2),
        (errors.DeviceError("x"), 2),
        (errors.InfeasibleError("x"), 2),
        (errors.MessageError("code", "x"), 2),
        (errors.DownloadError("x"), 3),
        (errors.UnreachableError("x"), 3),
        (errors.CloudUnavailableError("x"), 3),
        (errors.BrokerRefusedError("x"), 4),
    ],
)
def test_each_kind_of_error_has_its_exit_code(problem: ToolkitError, code: int) -> None:
    assert ending_in(problem) == code


def test_an_interrupt_ends_with_130_and_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending_in(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "script.py: interrupted\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        ending_in(ZeroDivisionError())


def test_a_run_ends_quietly_if_the_reader_closes_the_output() -> None:
    code = (
        "import sys; from utils import cli; "
        "sys.exit(cli.run(cli.new_parser(None), lambda _: [print('x' * 100) for _ in range(100_000)], []))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 0


# Argument types


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("17", 17), ("20", 20)])
def test_whole_numbers_within_the_limits_are_accepted(text: str, value: int) -> None:
    assert cli.whole_number(1, 20)(text) == value


@pytest.mark.parametrize("text", ["0", "21", "-5", "1.5", "1e3", "", "ten", "nan"])
def test_other_text_than_a_whole_number_within_the_limits_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match=f"'{text}' is not a whole number of at least 1 and at most 20"
    ):
        cli.whole_number(1, 20)(text)


def test_a_whole_number_without_an_upper_limit_may_be_any_size() -> None:
    assert cli.whole_number(1)("1" + "0" * 30) == 10**30


@pytest.mark.parametrize("text", ["0", "1", "0.25", "1e-3"])
def test_real_numbers_up_to_both_ends_are_accepted(text: str) -> None:
    assert cli.real_number(0, 1)(text) == float(text)


@pytest.mark.parametrize("text", ["-0.01", "1.01", "nan", "inf", "-inf", "half", ""])
def test_other_text_than_a_real_number_within_the_limits_is_refused_and_quoted(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not a number between 0 and 1"):
        cli.real_number(0, 1)(text)


@pytest.mark.parametrize("text", ["0", "1"])
def test_open_ends_are_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="strictly between 0 and 1"):
        cli.real_number(0, 1, open_ends=True)(text)


def test_a_choice_is_accepted_in_any_case() -> None:
    choose = cli.one_of(("alexnet", "mobilenet"))
    assert [choose(text) for text in ("alexnet", "AlexNet", "MOBILENET")] == ["alexnet", "alexnet", "mobilenet"]


@pytest.mark.parametrize("text", ["alex", "alexnet ", "", "resnet"])
def test_the_message_about_an_unknown_choice_lists_the_choices(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is unknown; choose from alexnet, mobilenet"):
        cli.one_of(("alexnet", "mobilenet"))(text)


# Common options


def test_the_batch_size_has_both_spellings() -> None:
    assert parse(cli.add_batch_size).batch_size == 1000
    assert parse(cli.add_batch_size, "--batch-size", "5").batch_size == 5
    assert parse(cli.add_batch_size, "--batch_size", "5").batch_size == 5


def test_an_option_cannot_be_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        parse(cli.add_batch_size, "--batch", "5")
    assert ending.value.code == 2
    assert "--batch" in capsys.readouterr().err


def test_the_model_is_optional() -> None:
    def add(parser: argparse.ArgumentParser) -> None:
        cli.add_trained_model(parser, ("alexnet", "mobilenet"))

    assert parse(add, "--trained-model", "a.pth").model is None
    args = parse(add, "--trained-model", "a.pth", "--model", "MobileNet")
    assert (args.trained_model, args.model) == (Path("a.pth"), "mobilenet")


@pytest.mark.parametrize("add", [cli.add_dataset, lambda parser: cli.add_trained_model(parser, ("alexnet",))])
def test_input_files_are_required_options(add: Callable[[argparse.ArgumentParser], None]) -> None:
    with pytest.raises(SystemExit):
        parse(add)


def test_a_seed_has_32_bits_and_a_default() -> None:
    assert parse(cli.add_seed).seed == 1
    assert parse(cli.add_seed, "--seed", str(2**32 - 1)).seed == 2**32 - 1
    with pytest.raises(SystemExit):
        parse(cli.add_seed, "--seed", str(2**32))


def test_the_default_device_is_auto() -> None:
    assert parse(cli.add_device).device == "auto"


def test_an_address_with_a_password_is_refused_without_printing_it() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="netrc") as caught:
        cli.web_address("https://me:secret@a.example")
    assert "secret" not in str(caught.value)
