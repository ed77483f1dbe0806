"""The folder of published data: where it is, and which tests need it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT / (os.environ.get("IDS_SHARED") or "../shared")
"""The folder of real captures and data, which is not a part of the project; a relative path starts at the root."""

needs_shared = pytest.mark.published
"""Mark a test that reads the folder; ``require_shared`` decides whether it runs."""


def require_shared(item: pytest.Item) -> None:
    """Skip a test that needs the folder where there is none; fail it where it was named, or lacks what the test reads.

    Parameters that are found by a glob in an incomplete folder are none, and pytest would skip their test.
    """
    if not SHARED.is_dir():
        if os.environ.get("IDS_SHARED"):
            pytest.fail(
                f"{SHARED}: no such folder; IDS_SHARED must name the folder of the published data", pytrace=False
            )
        pytest.skip(f"the published data is not at {SHARED}; IDS_SHARED names another place")
    for mark in item.iter_markers("skip"):
        if str(mark.kwargs.get("reason", "")).startswith("got empty parameter set"):
            pytest.fail(f"{SHARED}: holds no file for this test: {mark.kwargs['reason']}", pytrace=False)
