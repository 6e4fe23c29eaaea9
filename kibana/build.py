"""Makes the import files from source.yaml: `python -m kibana.build [--check]`.

replaykit.ndjson: Kibana 8's saved objects (data views, visualisations, dashboards). rules.json: bodies for
Kibana's `POST /api/alerting/rule`. watches.json: bodies for `PUT _watcher/watch/NAME`. grafana-*.json:
dashboards.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
BASE = "replaykit"
CHARTS = {
    "line": "line",
    "area": "area",
    "bar": "histogram",
    "pie": "pie",
    "table": "table",
    "number": "metric",
    "numbers": "metric",
}
OVER_TIME = ("line", "area", "bar")
BYTES = "bytes"


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def data_view(kind: str) -> dict[str, Any]:
    """Of `replaykit-exchanges*` and so on. A click on an endpoint leads to its dashboard."""
    template = "/app/dashboards#/view/replaykit-endpoint?_a=(query:(language:kuery,query:'replaykit.endpoint:%22{{value}}%22'))"  # noqa: E501
    formats: dict[str, Any] = {
        "replaykit.endpoint": {
            "id": "url",
            "params": {"urlTemplate": template, "labelTemplate": "{{rawValue}}"},
        }
    }
    fields = (
        "network.bytes",
        "source.bytes",
        "destination.bytes",
        "replaykit.spool.waiting_bytes",
        "replaykit.account.bytes",
    )
    formats |= {name: {"id": BYTES} for name in fields}
    attributes = {
        "title": f"{BASE}-{kind}*",
        "name": f"replaykit {kind}",
        "timeFieldName": "@timestamp",
        "fieldFormatMap": compact(formats),
    }
    return saved("index-pattern", f"{BASE}-{kind}", attributes, [])


def saved(
    kind: str, identifier: str, attributes: Mapping[str, Any], references: list[dict[str, str]]
) -> dict[str, Any]:
    return {
        "type": kind,
        "id": identifier,
        "attributes": dict(attributes),
        "references": references,
        "managed": False,
        "coreMigrationVersion": "8.8.0",
        "typeMigrationVersion": {"index-pattern": "8.0.0", "visualization": "8.5.0", "dashboard": "8.9.0"}[
            kind
        ],
    }


def metric(number: int, text: str) -> dict[str, Any]:
    """An aggregation of a visualisation: `sum:FIELD`, `p95:FIELD`, `count`."""
    name, _, field = text.partition(":")
    params: dict[str, Any] = {} if name == "count" else {"field": field}
    if name.startswith("p") and name[1:].isdecimal():
        name, params = "percentiles", {"field": field, "percents": [int(text[1:].partition(":")[0])]}
    return {"id": str(number), "enabled": True, "type": name, "schema": "metric", "params": params}


def visualisation(identifier: str, panel: Mapping[str, Any]) -> dict[str, Any]:
    state = ratio(panel) if panel["kind"] == "ratio" else chart(panel)
    search = {
        "query": {"query": panel.get("where", ""), "language": "kuery"},
        "filter": [],
        "indexRefName": "kibanaSavedObjectMeta.searchSourceJSON.index",
    }
    attributes = {
        "title": panel["title"],
        "visState": compact({"title": panel["title"], **state}),
        "uiStateJSON": "{}",
        "description": "",
        "version": 1,
        "kibanaSavedObjectMeta": {"searchSourceJSON": compact(search)},
    }
    view = {
        "name": "kibanaSavedObjectMeta.searchSourceJSON.index",
        "type": "index-pattern",
        "id": f"{BASE}-{panel['of']}",
    }
    return saved("visualization", identifier, attributes, [view])


def chart(panel: Mapping[str, Any]) -> dict[str, Any]:
    """An aggregation-based visualisation."""
    kind = CHARTS[panel["kind"]]
    aggregations = [metric(n, text) for n, text in enumerate(panel["show"], 1)]
    if panel["kind"] in OVER_TIME:
        params = {
            "field": "@timestamp",
            "interval": "auto",
            "min_doc_count": 1,
            "useNormalizedEsInterval": True,
        }
        aggregations.append(
            {"id": "t", "enabled": True, "type": "date_histogram", "schema": "segment", "params": params}
        )
    if "split" in panel:
        field, size = panel["split"]
        schema = "group" if panel["kind"] in OVER_TIME else "segment" if kind == "pie" else "bucket"
        order_by = (
            "_key"
            if aggregations[0]["type"] == "percentiles"
            else "_count"
            if aggregations[0]["type"] == "count"
            else "1"
        )
        params = {
            "field": field,
            "size": size,
            "order": "desc",
            "orderBy": "1" if order_by == "_count" else order_by,
            "otherBucket": kind == "pie",
            "otherBucketLabel": "other",
            "missingBucket": False,
        }
        aggregations.append({"id": "s", "enabled": True, "type": "terms", "schema": schema, "params": params})
    return {"type": kind, "aggs": aggregations, "params": look(kind, panel, aggregations)}


def look(kind: str, panel: Mapping[str, Any], aggregations: list[dict[str, Any]]) -> dict[str, Any]:
    legend = {"addTooltip": True, "addLegend": True, "legendPosition": "right"}
    if kind == "pie":
        return {
            "type": "pie",
            **legend,
            "isDonut": True,
            "labels": {"show": True, "values": True, "last_level": True, "truncate": 100},
        }
    if kind == "table":
        shared = panel.get("share")
        column = "" if shared is None else label(shared)
        return {
            "perPage": 20,
            "showPartialRows": False,
            "showTotal": True,
            "totalFunc": "sum",
            "percentageCol": column,
        }
    if kind == "metric":
        style = {"bgFill": "#000", "bgColor": False, "labelColor": False, "subText": "", "fontSize": 36}
        ranges = {
            "colorsRange": [{"from": 0, "to": 10_000}],
            "colorSchema": "Green to Red",
            "useRanges": False,
            "invertColors": False,
        }
        return {
            "addTooltip": True,
            "addLegend": False,
            "type": "metric",
            "metric": {
                **ranges,
                "percentageMode": False,
                "metricColorMode": "None",
                "labels": {"show": True},
                "style": style,
            },
        }
    axis = {
        "show": True,
        "style": {},
        "scale": {"type": "linear"},
        "labels": {"show": True, "filter": True, "truncate": 100},
        "title": {},
    }
    series = [
        {
            "show": True,
            "type": kind,
            "mode": "normal" if kind == "line" else "stacked",
            "data": {"label": label(text), "id": str(n)},
            "valueAxis": "ValueAxis-1",
            "drawLinesBetweenPoints": True,
            "showCircles": False,
        }
        for n, text in enumerate(panel["show"], 1)
    ]
    return {
        "type": kind,
        **legend,
        "grid": {"categoryLines": False},
        "times": [],
        "addTimeMarker": False,
        "seriesParams": series,
        "categoryAxes": [{**axis, "id": "CategoryAxis-1", "type": "category", "position": "bottom"}],
        "valueAxes": [
            {**axis, "id": "ValueAxis-1", "name": "LeftAxis-1", "type": "value", "position": "left"}
        ],
    }


def label(text: str) -> str:
    """As Kibana calls the column."""
    name, _, field = text.partition(":")
    return {"sum": f"Sum of {field}", "max": f"Max {field}", "avg": f"Average {field}"}.get(
        name, "Count" if name == "count" else f"{name} of {field}"
    )


def ratio(panel: Mapping[str, Any]) -> dict[str, Any]:
    """A TSVB visualisation of a / b over time."""
    above, below = (text.partition(":")[2] for text in panel["show"])
    metrics = [
        {"id": "a", "type": "sum", "field": above},
        {"id": "b", "type": "sum", "field": below},
        {
            "id": "c",
            "type": "math",
            "script": "params.b > 0 ? params.a / params.b : null",
            "variables": [{"id": "va", "name": "a", "field": "a"}, {"id": "vb", "name": "b", "field": "b"}],
        },
    ]
    series = {
        "id": "s", "metrics": metrics, "split_mode": "everything", "formatter": "percent",
        "chart_type": "line", "line_width": 2, "point_size": 1, "fill": 0.2, "stacked": "none",
        "separate_axis": 0, "axis_position": "right", "label": panel["title"], "color": "#54B399",
    }  # fmt: skip
    params = {
        "id": "p", "type": "timeseries", "series": [series], "time_field": "@timestamp", "interval": "",
        "index_pattern": f"{BASE}-{panel['of']}*", "use_kibana_indexes": False, "axis_position": "left",
        "axis_formatter": "percent", "axis_scale": "normal", "show_legend": 0, "show_grid": 1,
        "tooltip_mode": "show_all", "drop_last_bucket": 0, "time_range_mode": "entire_time_range",
        "isModelInvalid": False,
    }  # fmt: skip
    return {"type": "metrics", "aggs": [], "params": params}


def objects(source: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All saved objects, those that others refer to first."""
    out = [data_view(kind) for kind in ("exchanges", "minutes", "hosts")]
    for identifier, dashboard in source["dashboards"].items():
        panels, references = [], []
        x = y = row = 0
        for number, panel in enumerate(dashboard["panels"]):
            name = f"{identifier}-{number:02d}"
            out.append(visualisation(name, panel))
            width, height = panel["size"]
            if x + width > 48:
                x, y, row = 0, y + row, 0
            grid = {"x": x, "y": y, "w": width, "h": height, "i": str(number)}
            x, row = x + width, max(row, height)
            panels.append(
                {
                    "version": "8.9.0",
                    "type": "visualization",
                    "gridData": grid,
                    "panelIndex": str(number),
                    "embeddableConfig": {"enhancements": {}},
                    "panelRefName": f"panel_{number}",
                }
            )
            references.append({"name": f"{number}:panel_{number}", "type": "visualization", "id": name})
        attributes = {
            "title": dashboard["title"],
            "description": "",
            "panelsJSON": compact(panels),
            "optionsJSON": compact({"useMargins": True, "syncColors": True, "hidePanelTitles": False}),
            "version": 1,
            "timeRestore": True,
            "timeFrom": "now-1h",
            "timeTo": "now",
            "refreshInterval": {"pause": False, "value": 30_000},
            "kibanaSavedObjectMeta": {
                "searchSourceJSON": compact({"query": {"query": "", "language": "kuery"}, "filter": []})
            },
        }
        out.append(saved("dashboard", identifier, attributes, references))
    return out


def rules(source: Mapping[str, Any]) -> dict[str, Any]:
    """Bodies of Kibana's rules, by name: `.es-query` in ES|QL, which fires for each row that is found."""
    out = {}
    for name, alert in source["alerts"].items():
        params = {
            "searchType": "esqlQuery", "esqlQuery": {"esql": f"FROM {BASE}-{alert['of']}* | {alert['esql']}"},
            "timeField": "@timestamp", "timeWindowSize": alert["minutes"], "timeWindowUnit": "m", "size": 10,
            "threshold": [0], "thresholdComparator": ">", "aggType": "count", "groupBy": "all",
            "termSize": 10, "excludeHitsFromPreviousRun": False,
        }  # fmt: skip
        out[name] = {
            "name": alert["title"], "consumer": "stackAlerts", "rule_type_id": ".es-query", "enabled": True,
            "tags": ["replaykit"], "schedule": {"interval": "1m"}, "params": params, "actions": [],
        }  # fmt: skip
    return out


def watches(source: Mapping[str, Any]) -> dict[str, Any]:
    """Bodies of Watcher's watches, by name."""
    out = {}
    for name, alert in source["alerts"].items():
        window: dict[str, Any] = {"range": {"@timestamp": {"gte": f"now-{alert['minutes']}m"}}}
        filters = [
            window,
            *([{"query_string": {"query": alert["query"]}}] if "query" in alert else []),
        ]
        body = {
            "size": 0,
            "track_total_hits": True,
            "query": {"bool": {"filter": filters}},
            "aggs": alert["aggs"],
        }
        request = {"indices": [f"{BASE}-{alert['of']}*"], "body": body, "rest_total_hits_as_int": False}
        out[name] = {
            "metadata": {"name": alert["title"]},
            "trigger": {"schedule": {"interval": "1m"}},
            "input": {"search": {"request": request}},
            "condition": {"script": {"lang": "painless", "source": alert["condition"]}},
            "throttle_period": "1h",
            "actions": {
                "log": {"logging": {"level": "warn", "text": f"{alert['title']}: {alert['message']}"}}
            },
        }
    return out


def grafana(source: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """A dashboard with a variable for its data source."""
    where = {"type": kind, "uid": "${source}"}
    panels = []
    for n, panel in enumerate(source["grafana"][kind]):
        target: dict[str, Any] = {"refId": "A", "datasource": where}
        if kind == "prometheus":
            target |= {"expr": panel["query"], "legendFormat": panel["legend"]}
        else:
            target |= {"query": panel["query"], "rawQuery": True, "resultFormat": "time_series"}
        panels.append(
            {
                "id": n + 1,
                "type": "timeseries",
                "title": panel["title"],
                "datasource": where,
                "targets": [target],
                "gridPos": {"x": n % 2 * 12, "y": n // 2 * 8, "w": 12, "h": 8},
                "fieldConfig": {"defaults": {"unit": panel["unit"], "min": 0}, "overrides": []},
            }
        )
    variable = {"name": "source", "label": "Data source", "type": "datasource", "query": kind}
    return {
        "title": f"replaykit: who is using the bandwidth? ({kind})",
        "uid": f"replaykit-{kind}",
        "schemaVersion": 39,
        "version": 1,
        "tags": ["replaykit"],
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [variable]},
        "panels": panels,
    }


def built() -> dict[str, str]:
    """File names and their content."""
    source = yaml.safe_load((FOLDER / "source.yaml").read_text())

    def shown(value: Any) -> str:
        return json.dumps(value, indent=1, ensure_ascii=False) + "\n"

    return {
        "replaykit.ndjson": "".join(compact(o) + "\n" for o in objects(source)),
        "rules.json": shown(rules(source)),
        "watches.json": shown(watches(source)),
        "grafana-prometheus.json": shown(grafana(source, "prometheus")),
        "grafana-influxdb.json": shown(grafana(source, "influxdb")),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Makes Kibana's and Grafana's import files from source.yaml."
    )
    parser.add_argument(
        "--check", action="store_true", help="only says which files are not what the source gives"
    )
    args = parser.parse_args()
    stale = [
        name
        for name, text in built().items()
        if not (FOLDER / name).exists() or (FOLDER / name).read_text() != text
    ]
    if args.check:
        for name in stale:
            print(f"kibana/{name} is not what source.yaml gives: python -m kibana.build", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        (FOLDER / name).write_text(built()[name])
        print(f"kibana/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
