"""The folder of published data, and the mark of the tests that need it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT / (os.environ.get("IDS_SHARED") or "../shared")
"""The folder of real captures and data, outside the project; a relative path is relative to the root."""

needs_shared = pytest.mark.published
"""Mark a test that reads the folder; ``require_shared`` decides whether it runs."""


def require_shared(item: pytest.Item) -> None:
    """Skip a test if the folder is missing; fail it if IDS_SHARED names a missing or incomplete folder.

    In an incomplete folder, a glob finds no parameters, and pytest would skip the test.
    """
    if not SHARED.is_dir():
        if os.environ.get("IDS_SHARED"):
            pytest.fail(
                f"{SHARED}: no such folder; IDS_SHARED must name the folder of the published data", pytrace=False
            )
        pytest.skip(f"there is no published data in {SHARED}; set IDS_SHARED to its folder")
    for mark in item.iter_markers("skip"):
        if str(mark.kwargs.get("reason", "")).startswith("got empty parameter set"):
            pytest.fail(f"{SHARED}: holds no file for this test: {mark.kwargs['reason']}", pytrace=False)
