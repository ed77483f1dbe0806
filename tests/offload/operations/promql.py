"""Check that PromQL expressions use only metrics that client and worker export."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from offload.operations.metrics import ClientMetrics, WorkerMetrics

SAMPLES = [
    sample
    for registry in (ClientMetrics().registry, WorkerMetrics().registry)  # the load generator exports the client's
    for metric in registry.collect()
    for sample in metric.samples
]
EXPORTED = {sample.name for sample in SAMPLES}
LABELS = {pair for sample in SAMPLES for pair in sample.labels.items()}
NO_NAMES = re.compile(
    r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)|\b(?:and|or|unless|bool)\b'
)
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (on Debian: in prometheus)"
)


def metric_names(expression: str) -> set[str]:
    """Return the words that are neither functions nor operators, and not in braces, brackets or a grouping."""
    return set(re.findall(r"[a-zA-Z_:][\w:]*\b(?!\s*\()", NO_NAMES.sub(" ", expression)))


def asks_for_what_is_exported(expression: str) -> bool:
    """Return whether every metric is exported, and every label with a fixed value, but for those of Prometheus."""
    fixed = {pair for pair in re.findall(r'(\w+)!?="([^"]*)"', expression) if pair[0] not in {"job", "instance"}}
    return metric_names(expression) <= EXPORTED | {"up"} and fixed <= LABELS


def assert_prometheus_understands(expressions: list[str], folder: Path) -> None:
    """Have promtool check expressions."""
    rules = [{"record": f"r{number}", "expr": expression} for number, expression in enumerate(expressions)]
    path = folder / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "tests", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
