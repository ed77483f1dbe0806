"""Code that several stages share: schema, errors, files, tables, the decision rule, metrics, command lines."""

from typing import Final

VERSION: Final = "1.0.0"
"""Version of the toolkit, which ``--version`` of every script prints. It is that of the newest CHANGELOG.md entry."""
