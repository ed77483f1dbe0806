"""Options that ``--help`` does not show and whose defaults the environment can set."""

import argparse

import pytest

from utils import cli
from utils.expert_options import add_expert


def expert_parser() -> argparse.ArgumentParser:
    parser = cli.new_parser("")
    add_expert(parser, "--chunk-size", type=cli.whole_number(1), default=32, meaning="a number")
    add_expert(parser, "--half", action="store_true", meaning="a switch")
    return parser


def test_the_environment_sets_the_default_of_an_expert_option(monkeypatch: pytest.MonkeyPatch) -> None:
    assert vars(expert_parser().parse_args([])) == {"chunk_size": 32, "half": False}
    monkeypatch.setenv("EE_CHUNK_SIZE", "64")
    for setting, half in {"1": True, "yes": True, "0": False, "no": False, "": False}.items():
        monkeypatch.setenv("EE_HALF", setting)
        assert vars(expert_parser().parse_args([])) == {"chunk_size": 64, "half": half}
    assert expert_parser().parse_args(["--chunk-size", "7"]).chunk_size == 7


def test_the_message_about_a_wrong_value_in_the_environment_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EE_CHUNK_SIZE", "many")
    with pytest.raises(SystemExit, match="2"):
        expert_parser().parse_args([])
    assert "EE_CHUNK_SIZE in the environment: 'many' is not a whole number" in capsys.readouterr().err
