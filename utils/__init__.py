"""What two or more stages agree on: schema, errors, files, the decision rule, metrics."""

from typing import Final

VERSION: Final = "1.0.0"
"""Of the toolkit, as the newest entry of CHANGELOG.md names it and ``--version`` of every script prints it."""
