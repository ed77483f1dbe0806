"""Code that several stages share: schema, errors, files, tables, the decision rule, metrics, command lines."""

from typing import Final

VERSION: Final = "1.0.0"
"""Version of the toolkit: the newest entry of CHANGELOG.md, and what ``--version`` of every script prints."""
