#!/usr/bin/env python3
"""Write measured tables into tests/benchmarks/README.md.

Run:
    python tests/benchmarks/write-readme.py acceptance-output/acceptance.json bench-output/bench.json

Each JSON file is what a measurement left behind. Its table replaces the one between the markers of its name,
<!-- acceptance --> and <!-- end of acceptance -->.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # repo root

from utils import cli
from utils.errors import InputFileError
from utils.files import check_readable, replacing

README = Path(__file__).with_name("README.md")


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = cli.new_parser(__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="JSON", help="what a measurement wrote")
    parser.add_argument("--readme", type=Path, default=README, metavar="FILE", help="(default: the one beside this)")
    return parser


def run(args: argparse.Namespace) -> None:
    """Replace the tables."""
    text = check_readable(args.readme).read_text()
    for path in args.results:
        text = replace_table(text, path.stem, read_results(path))
    with replacing(args.readme) as partial:
        partial.write_text(text)
    print(f"{len(args.results)} tables -> {args.readme}")


def read_results(path: Path) -> dict[str, Any]:
    """Return what a measurement wrote.

    Raises:
        InputFileError: the file is missing or is not of this form.
    """
    try:
        results = json.loads(check_readable(path).read_bytes())
    except (ValueError, RecursionError):
        results = None
    if not isinstance(results, dict) or not {"command", "machine", "date", "commit", "columns", "rows"} <= set(results):
        raise InputFileError(f"{path}: holds no results of a measurement. Name a JSON file that one has written.")
    return results


def replace_table(text: str, name: str, results: Mapping[str, Any]) -> str:
    """Return a README with the table between the markers of a name replaced.

    Raises:
        InputFileError: there are no such markers.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise InputFileError(f"{README.name}: has no markers {begin} and {end}; add them where the table belongs")
    return pattern.sub(lambda _match: f"{begin}\n{format_table(results)}\n{end}", text)


def format_table(results: Mapping[str, Any]) -> str:
    """Return results as a sentence on their origin and a Markdown table."""
    origin = f"`{results['command']}` on {results['machine']}, {results['date']}, commit {results['commit']}:"
    columns = results["columns"]
    lines = [columns, ["---"] * len(columns), *results["rows"]]
    return "\n".join(
        [origin, "", *("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)]
    )


def main(argv: list[str] | None = None) -> int:
    """Run the script; return its exit code."""
    return cli.run(make_parser(), run, argv)


if __name__ == "__main__":
    raise SystemExit(main())
