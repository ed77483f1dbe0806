"""The dashboard uses only exported metrics, in the right way."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.offload.operations.promql import (
    EXPORTED,
    LABELS,
    asks_for_what_is_exported,
    assert_prometheus_understands,
    metric_names,
    needs_promtool,
)

PATH = Path(__file__).resolve().parents[3] / "offload" / "grafana-dashboard.json"
DASHBOARD = json.loads(PATH.read_text())
ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
QUERIES = [variable["definition"] for variable in VARIABLES.values() if variable["type"] == "query"]
every_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])

NOT_SHOWN = {"ee_client_attempts_total"}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_use_only_exported_metrics(expression: str) -> None:
    assert asks_for_what_is_exported(expression)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_counters_are_shown_as_rates(expression: str) -> None:
    assert not re.search(r"(?<!rate\()(?<!increase\()\bee_\w+(_total|_bucket|_sum|_count)\b", expression)


@pytest.mark.parametrize(
    "expression",
    [
        "ee_client_conected",
        'ee_worker_waiting_requests{instance=~"$worker"} or made_up',
        "sum by (le) (rate(ee_client_attempts[$__rate_interval]))",
        'sum(rate(ee_client_events_total{decider!="clowd"}[$__rate_interval]))',
    ],
)
def test_a_planted_error_is_found(expression: str) -> None:
    assert not asks_for_what_is_exported(expression)


@pytest.mark.parametrize("query", QUERIES)
def test_a_variable_uses_the_instances_of_an_exported_metric(query: str) -> None:
    name = re.fullmatch(r"label_values\((\w+), instance\)", query)
    assert name and name[1] in EXPORTED


def test_every_exported_metric_is_shown() -> None:
    shown, ours = (
        {re.sub("_(bucket|sum|count)$", "", name) for name in names if name.startswith("ee_")}
        for names in (set().union(*map(metric_names, EXPRESSIONS)), EXPORTED)
    )
    assert ours - shown == NOT_SHOWN


@needs_promtool
def test_promtool_accepts_every_expression(tmp_path: Path) -> None:
    plain = [re.sub(r"\$(client|worker)", "a", e.replace("$__rate_interval", "1m")) for e in EXPRESSIONS]
    assert_prometheus_understands(plain, tmp_path)


@every_panel
def test_a_panel_has_title_unit_and_description(panel: dict[str, Any]) -> None:
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert 10 < len(panel["description"]) <= 120


@every_panel
def test_a_panel_uses_the_chosen_data_source_and_instances(panel: dict[str, Any]) -> None:
    sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0
    for target in panel["targets"]:
        named = [word for word in re.findall(r"\w+", target["expr"]) if word in EXPORTED]
        assert target["expr"].count('instance=~"$') == len(named) > 0


@every_panel
def test_a_legend_uses_labels_of_its_series(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        grouped = re.search(r"\bby \(([\w, ]+)\)", target["expr"])
        kept = set(grouped[1].split(", ")) if grouped else {"instance"}
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept
        assert kept <= {label for label, _ in LABELS} | {"instance"}


def test_the_used_variables_are_the_defined_ones() -> None:
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"] + QUERIES)))
    assert used - {"__rate_interval"} == set(VARIABLES)
    assert (VARIABLES["datasource"]["type"], VARIABLES["datasource"]["query"]) == ("datasource", "prometheus")


def test_all_panels_have_different_ids() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], int] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert taken.setdefault(cell, panel["id"]) == panel["id"]


def test_edge_traffic_cloud_and_processes_have_one_row_each() -> None:
    assert [row["title"] for row in ROWS] == ["Edge", "Traffic", "Cloud", "Processes"]


def test_a_recent_grafana_accepts_the_dashboard() -> None:
    assert DASHBOARD["schemaVersion"] >= 38
    assert {panel["type"] for panel in PANELS} <= {"timeseries", "stat", "state-timeline", "heatmap", "table"}
    assert re.fullmatch("[a-z0-9-]{1,40}", DASHBOARD["uid"])
    assert "id" not in DASHBOARD
