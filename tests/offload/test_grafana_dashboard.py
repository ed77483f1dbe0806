"""The dashboard asks only for what is exported, and asks rightly."""

import itertools
import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from offload.metrics import ClientMetrics, WorkerMetrics

PATH = Path(__file__).resolve().parents[2] / "offload" / "grafana-dashboard.json"
DASHBOARD = json.loads(PATH.read_text())
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
QUERIES = [variable["definition"] for variable in VARIABLES.values() if variable["type"] == "query"]
every_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])

TARGET_LABELS = {"instance", "job"}
"""What Prometheus itself adds to every series."""
RATES = {"rate", "increase"}
FUNCTIONS = {"sum", "count", "avg", "min", "max", "histogram_quantile", "vector", "label_values", *RATES}
GROUPINGS = {"by", "without", "on", "ignoring", "group_left", "group_right"}
OPERATORS = {"and", "or", "unless", "bool", "offset"}
TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*')|(?P<range>\[[^\]]*\])|(?P<name>[A-Za-z_:][\w:]*)"""
    r"""|(?P<number>\d+(?:\.\d+)?)|(?P<sign>=~|!~|!=|[=<>]=?|[-+*/%^(){},]))"""
)
NOT_SHOWN = {"ee_client_attempts_total"}


@dataclass(frozen=True)
class Exported:
    """A series' type and what values its labels have."""

    kind: str
    labels: dict[str, set[str]]


def exported() -> dict[str, Exported]:
    """Return name -> series of everything that client and worker export."""
    found: dict[str, Exported] = {}
    for registry in (ClientMetrics().registry, WorkerMetrics().registry):
        for metric in registry.collect():
            for sample in metric.samples:
                series = found.setdefault(sample.name, Exported(metric.type, defaultdict(set)))
                for label, value in sample.labels.items():
                    series.labels[label].add(value)
    return found


EXPORTED = exported()


@dataclass(frozen=True)
class Selector:
    """A place in an expression where series are named.

    Attributes:
        name: of the series.
        matchers: (label, operator, value), all of them.
        function: what is directly applied to it.
        range: as in ``[5m]``, empty without.
    """

    name: str
    matchers: tuple[tuple[str, str, str], ...]
    function: str
    range: str


@dataclass(frozen=True)
class Expression:
    """What a PromQL expression names."""

    selectors: list[Selector]
    groupings: set[str]
    functions: set[str]


def tokens(expression: str) -> list[str]:
    """Split an expression.

    Raises:
        ValueError: at what is no token.
    """
    found, place = [], 0
    while expression[place:].strip():
        token = TOKEN.match(expression, place)
        if token is None:
            raise ValueError(f"{expression[place:]!r} is no PromQL")
        found.append(token[0].strip())
        place = token.end()
    return found


def read(expression: str) -> Expression:
    """Return what an expression names; neither nesting nor precedence matter for that.

    Raises:
        ValueError: it is not understood.
    """
    words = [*tokens(expression), "", ""]
    result = Expression([], set(), set())
    i = 0
    while words[i]:
        word, following = words[i], words[i + 1]
        if word in GROUPINGS and following == "(":
            end = words.index(")", i)
            result.groupings.update(set(words[i + 2 : end]) - {","})
            i = end
        elif re.match("[A-Za-z_:]", word) and word not in OPERATORS | GROUPINGS:
            if following == "(" or following in GROUPINGS:
                result.functions.add(word)
            else:
                end = words.index("}", i) if following == "{" else i
                after = words[end + 1]
                before = words[i - 2] if i >= 2 and words[i - 1] == "(" else ""
                result.selectors.append(
                    Selector(word, matchers(words[i + 2 : end]), before, after if after.startswith("[") else "")
                )
                i = end
        elif word == "{":
            raise ValueError("series without a name")
        i += 1
    return result


def matchers(words: list[str]) -> tuple[tuple[str, str, str], ...]:
    """Return what stands between the braces of a selector."""
    parts = [list(part) for is_comma, part in itertools.groupby(words, lambda word: word == ",") if not is_comma]
    if any(len(part) != 3 or part[2][0] not in "\"'" for part in parts):
        raise ValueError(f"{' '.join(words)!r} are no label matchers")
    return tuple((label, operator, value[1:-1]) for label, operator, value in parts)


def complaints(expression: str) -> list[str]:
    """Return what is wrong with an expression."""
    try:
        asked = read(expression)
    except ValueError as problem:
        return [str(problem)]
    found = [f"{name} is no function that is known here" for name in asked.functions - FUNCTIONS]
    if "histogram_quantile" in asked.functions and "le" not in asked.groupings:
        found.append("a quantile without its buckets")
    for selector in asked.selectors:
        series = EXPORTED.get(selector.name)
        found += [f"nobody exports {selector.name}"] if series is None else wrong(selector, series, asked.groupings)
    return found


def wrong(selector: Selector, series: Exported, groupings: set[str]) -> Iterator[str]:
    labels = {label for label, *_ in selector.matchers} | groupings
    yield from (f"{selector.name} has no {label}" for label in labels - set(series.labels) - TARGET_LABELS)
    for label, operator, value in selector.matchers:
        if operator in {"=", "!="} and value not in series.labels.get(label, set()):
            yield f"{selector.name} is never {value!r} by {label}"
    rises = series.kind in {"counter", "histogram"}
    if rises is not (selector.function in RATES):
        yield f"{selector.name} is a {series.kind}"
    if rises is not (selector.range == "[$__rate_interval]"):
        yield f"{selector.name} over {selector.range or 'no time'}"


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_rightly_for_what_is_exported(expression: str) -> None:
    assert complaints(expression) == []


@pytest.mark.parametrize("query", QUERIES)
def test_a_variable_has_the_instances_of_a_metric_that_is_exported(query: str) -> None:
    names = [selector.name for selector in read(query).selectors]
    assert names[0] in EXPORTED
    assert names[1:] == ["instance"]


def test_everything_that_is_counted_is_shown() -> None:
    shown = {selector.name for expression in EXPRESSIONS for selector in read(expression).selectors}
    shown |= {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    ours = {re.sub("_(bucket|sum|count)$", "", name) for name in EXPORTED if name.startswith("ee_")}
    assert ours - shown == NOT_SHOWN


@pytest.mark.parametrize(
    "expression",
    [
        "ee_client_conected",
        'ee_worker_waiting_requests{instance=~"$worker"} or made_up',
        "sum(rate(ee_client_attempts[$__rate_interval]))",
        'ee_client_connected{host="x"}',
        "sum by (verdikt) (rate(ee_client_events_total[$__rate_interval]))",
        "sum(rate(ee_client_events_total[$__rate_interval])) by (code)",
        'sum(rate(ee_client_events_total{decider="clowd"}[$__rate_interval]))',
        "ee_client_events_total",
        "sum(rate(ee_client_events_total[5m]))",
        "rate(ee_client_connected[$__rate_interval])",
        "ee_client_connected[$__rate_interval]",
        "histogram_quantile(0.5, rate(ee_client_round_trip_seconds_bucket[$__rate_interval]))",
        "histogram_quantile(0.5, sum by (le) (rate(ee_client_round_trip_seconds_sum[$__rate_interval])))",
        "summ(ee_client_connected)",
        '{instance="x"}',
        "ee_client_connected{instance}",
        "ee_client_connected @ §",
        'ee_client_connected{instance="x',
    ],
)
def test_a_planted_mistake_is_found(expression: str) -> None:
    assert len(complaints(expression)) >= 1


def test_what_an_expression_names_is_found() -> None:
    expression = (
        "histogram_quantile(0.9, sum by (le, job) (rate(a_bucket{x!=\"p, q)}\", y=~'z'} [5m]))) / on (z) group_left"
        " b:c > bool 2.5 or (d)"
    )
    assert read(expression) == Expression(
        [
            Selector("a_bucket", (("x", "!=", "p, q)}"), ("y", "=~", "z")), "rate", "[5m]"),
            Selector("b:c", (), "", ""),
            Selector("d", (), "or", ""),
        ],
        {"le", "job", "z"},
        {"histogram_quantile", "sum", "rate"},
    )


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (on Debian: in prometheus)")
def test_prometheus_itself_understands_every_expression(tmp_path: Path) -> None:
    plain = [re.sub(r"\$(client|worker)", "a", e.replace("$__rate_interval", "1m")) for e in EXPRESSIONS]
    rules = [{"record": f"r{number}", "expr": expression} for number, expression in enumerate(plain)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@every_panel
def test_a_panel_has_title_unit_and_description(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert 10 < len(panel["description"]) <= 120


@every_panel
def test_a_panel_asks_the_chosen_data_source_for_the_chosen_instances(panel: dict[str, Any]) -> None:
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
    for target in panel["targets"]:
        for selector in read(target["expr"]).selectors:
            assert [label for label, *_ in selector.matchers].count("instance") == 1


@every_panel
def test_a_legend_names_labels_that_the_series_have(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        asked = read(target["expr"])
        kept = asked.groupings if asked.functions - RATES else TARGET_LABELS
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept


def test_every_variable_that_is_used_is_defined_and_the_other_way_round() -> None:
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"] + QUERIES)))
    assert used - {"__rate_interval"} == set(VARIABLES)
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == ("datasource", "prometheus")


def test_no_two_panels_have_one_id() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_lie_side_by_side_in_the_grid_and_never_on_each_other() -> None:
    taken: dict[tuple[int, int], int] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["id"]) == panel["id"]


def test_edge_traffic_cloud_and_processes_have_a_row_each() -> None:
    assert [row["title"] for row in ROWS] == ["Edge", "Traffic", "Cloud", "Processes"]


def test_a_recent_grafana_takes_it() -> None:
    assert DASHBOARD["schemaVersion"] >= 38
    assert {panel["type"] for panel in PANELS} <= {"timeseries", "stat", "state-timeline", "heatmap", "table"}
    assert re.fullmatch("[a-z0-9-]{1,40}", DASHBOARD["uid"])
    assert "id" not in DASHBOARD
