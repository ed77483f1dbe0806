"""Add expert options, which ``--help`` does not show, and whose defaults can be set by environment variables."""

import argparse
import os
from collections.abc import Callable
from typing import Any


def get_variable(option: str) -> str:
    """Return the environment variable that sets the default of an expert option: ``EE_CHUNK`` for ``--chunk``."""
    return f"EE_{option.removeprefix('--').replace('-', '_').upper()}"


def add_option(group: argparse._ActionsContainer, option: str, *, meaning: str, **details: Any) -> None:
    """Add an ordinary option whose help is ``meaning``, a phrase with the default in brackets."""
    group.add_argument(option, help=meaning.replace(" (", " (default: "), **details)


def add_expert(group: argparse._ActionsContainer, option: str, *, meaning: str, **details: Any) -> None:
    """Add an option that ``--help`` does not show; the variable of ``get_variable`` can set its default.

    Args:
        group: parser or group that gets the option.
        option: its name, with the dashes.
        meaning: a phrase for the table of expert settings, with the default in brackets; stored as the attribute
            ``meaning`` of the argparse action.
        details: arguments of ``add_argument``.
    """
    variable = get_variable(option)
    setting = os.environ.get(variable)
    is_switch = "action" in details
    if setting and not (is_switch and setting.lower() in {"0", "no", "false"}):  # a variable can only turn a switch on
        details["default"] = True if is_switch else setting
    if "type" in details and not isinstance(details["type"], type):  # a class such as Path accepts any text
        details["type"] = _name_variable(variable, details["type"])
    action = group.add_argument(option, help=argparse.SUPPRESS, **details)
    action.meaning = meaning  # type: ignore[attr-defined]


def _name_variable(variable: str, convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return an argparse type whose error message names the environment variable, if the value comes from it."""

    def convert_setting(text: str) -> object:
        try:
            return convert(text)
        except argparse.ArgumentTypeError as problem:
            if text != os.environ.get(variable):
                raise
            raise argparse.ArgumentTypeError(f"{variable} in the environment: {problem}") from problem

    return convert_setting
