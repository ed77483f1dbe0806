"""Open pages in a headless Chromium."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def find_chromium() -> str:
    """Return the path of Chromium; if there is none, skip the test, or fail it under CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        reason = "Chromium is not installed (on Debian: apt install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def visit(page: Path, profile: Path, *options: str) -> str:
    """Open a page without network access and return the output of Chromium."""
    command = [
        find_chromium(), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={profile}", "--virtual-time-budget=5000", "--window-size=1200,1000",
        "--proxy-server=127.0.0.1:9", *options, page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return done.stdout


def dom_after(page: Path, script: str, folder: Path) -> str:
    """Return the document of a page after a script has run in it as if a person had acted."""
    acted = folder / f"acted-{page.name}"
    acted.write_text(page.read_text().replace("</body>", f"<script>{script}</script></body>"))
    return visit(acted, folder / "profile", "--dump-dom")


def screenshot(page: Path, folder: Path) -> Path:
    """Return a PNG of the top of a page."""
    picture = folder / "screenshot.png"
    visit(page, folder / "profile", f"--screenshot={picture}")
    return picture
