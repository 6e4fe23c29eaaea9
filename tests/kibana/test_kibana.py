"""Dashboards and alert rules: whole, of fields that exist, and asking what a real Elasticsearch can
answer.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kibana.build import FOLDER, built
from replaykit.outputs.ecs import mappings
from replaykit.outputs.elastic import ElasticOutput
from replaykit.outputs.output import Rotation
from samples.make import OUT
from tests.conftest import needs
from tests.outputs.conftest import batch, report, run

SOURCE = yaml.safe_load((FOLDER / "source.yaml").read_text())
OBJECTS = [json.loads(line) for line in built()["replaykit.ndjson"].splitlines()]
PANELS = [(d, p) for d, dashboard in SOURCE["dashboards"].items() for p in dashboard["panels"]]
BY_ID = {(o["type"], o["id"]): o for o in OBJECTS}


def ask(url: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def fields(kind: str) -> dict[str, str]:
    """The template's fields and their types."""
    out = {}

    def walk(properties: dict[str, Any], path: str) -> None:
        for name, value in properties.items():
            if "properties" in value:
                walk(value["properties"], f"{path}{name}.")
            else:
                out[path + name] = value["type"]

    walk(mappings(kind)["properties"], "")
    return out


def test_the_import_files_are_what_the_source_gives() -> None:
    assert [name for name, text in built().items() if (FOLDER / name).read_text() != text] == []


def test_every_reference_leads_somewhere() -> None:
    assert len(BY_ID) == len(OBJECTS)
    for number, each in enumerate(OBJECTS):
        for reference in each["references"]:
            target = BY_ID[reference["type"], reference["id"]]
            assert OBJECTS.index(target) < number  # Kibana imports in this order
        if each["type"] == "dashboard":
            panels = json.loads(each["attributes"]["panelsJSON"])
            names = {r["name"].partition(":")[2] for r in each["references"]}
            assert {p["panelRefName"] for p in panels} == names and len(names) == len(panels)
            taken = set()
            for p in panels:
                grid = p["gridData"]
                assert grid["x"] + grid["w"] <= 48
                cells = {
                    (x, y)
                    for x in range(grid["x"], grid["x"] + grid["w"])
                    for y in range(grid["y"], grid["y"] + grid["h"])
                }
                assert not cells & taken
                taken |= cells
        if each["type"] == "visualization":
            state = json.loads(each["attributes"]["visState"])
            search = json.loads(each["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])
            assert (
                search["indexRefName"] == each["references"][0]["name"]
                and state["title"] == each["attributes"]["title"]
            )


def test_every_field_is_in_the_template() -> None:
    for each in OBJECTS:
        if each["type"] != "visualization":
            continue
        known = fields(each["references"][0]["id"].partition("-")[2])
        text = each["attributes"]["visState"]
        used = set(re.findall(r'"field":"([A-Za-z@][^"]*\.[^"]+|@timestamp)"', text))
        where = json.loads(each["attributes"]["kibanaSavedObjectMeta"]["searchSourceJSON"])["query"]["query"]
        used |= set(re.findall(r"([a-z_.]+) (?::|>=)", where))
        assert used and used <= set(known), (each["attributes"]["title"], used - set(known))
        for aggregation in json.loads(text)["aggs"]:
            if aggregation["type"] in ("sum", "max", "percentiles"):
                assert known[aggregation["params"]["field"]] in ("long", "double", "integer")
    for name, watch in json.loads(built()["watches.json"]).items():
        known = fields(SOURCE["alerts"][name]["of"])
        text = json.dumps(watch["input"])
        used = set(re.findall(r'"field": "([^"]+)"', text)) | set(
            re.findall(r"((?:url|event)\.[a-z]+):", text)
        )
        assert used and used <= set(known), name
    for name, rule in json.loads(built()["rules.json"]).items():
        text = rule["params"]["esqlQuery"]["esql"]
        used = set(re.findall(r"\b((?:network|url|event|replaykit)\.[a-z_.]+)\b", text))
        assert (
            text.startswith("FROM replaykit-") and used <= set(fields(SOURCE["alerts"][name]["of"])) and used
        ), name


def request(visualisation: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What Kibana would ask: index and body, of the saved object alone."""
    attributes = visualisation["attributes"]
    view = BY_ID["index-pattern", visualisation["references"][0]["id"]]
    state = json.loads(attributes["visState"])
    where = json.loads(attributes["kibanaSavedObjectMeta"]["searchSourceJSON"])["query"]["query"]
    body: dict[str, Any] = {"size": 0, "query": kql(where)}
    if state["type"] == "metrics":
        (series,) = state["params"]["series"]
        inner = {
            m["id"]: {m["type"]: {"field": m["field"]}} for m in series["metrics"] if m["type"] != "math"
        }
        over_time = {
            "date_histogram": {
                "field": state["params"]["time_field"],
                "fixed_interval": "1h",
                "min_doc_count": 1,
            },
            "aggs": inner,
        }
        return state["params"]["index_pattern"], {**body, "aggs": {"t": over_time, **inner}}
    metrics = {
        a["id"]: {a["type"]: a["params"]}
        for a in state["aggs"]
        if a["schema"] == "metric" and a["type"] != "count"
    }
    aggregations: dict[str, Any] = metrics
    for each in [a for a in state["aggs"] if a["schema"] != "metric"]:
        p = each["params"]
        if each["type"] == "date_histogram":
            bucket: dict[str, Any] = {
                "date_histogram": {"field": p["field"], "fixed_interval": "1h", "min_doc_count": 1}
            }
        else:
            order = "_count" if p["orderBy"] not in metrics and p["orderBy"] != "_key" else p["orderBy"]
            bucket = {"terms": {"field": p["field"], "size": p["size"], "order": {order: p["order"]}}}
        aggregations = {
            each["id"]: {**bucket, "aggs": aggregations},
            **(metrics if aggregations is metrics else {}),
        }
    return view["attributes"]["title"], {**body, "aggs": aggregations}


def kql(text: str) -> dict[str, Any]:
    if not text:
        return {"match_all": {}}
    field, mark, value = re.fullmatch(r"([a-z_.]+) (:|>=) (\w+)", text).groups()  # type: ignore[union-attr]
    plain = json.loads(value)
    return {"term": {field: plain}} if mark == ":" else {"range": {field: {"gte": plain}}}


@pytest.fixture(scope="module")
def filled(elastic: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The sample, and the counters of one host, under the names that the dashboards ask for."""
    spool = tmp_path_factory.mktemp("spool")
    target = f"elasticsearch://{elastic.removeprefix('http://')}/replaykit?spool="
    done = run("ship", str(OUT), "--to", f"{target}{spool / 'a'}")
    assert done.returncode == 0, done.stderr
    output = ElasticOutput(f"{target}{spool / 'b'}&observer=web-1", Rotation())
    account = report(str(OUT))["account"]
    for share in (0.5, 1):  # counters that grow
        output.observe(
            {
                "capture": {"packets": int(1000 * share), "drops": int(10 * share)},
                "account": {n: int(v * share) for n, v in account.items()},
            }
        )
    output.close()
    urllib.request.urlopen(f"{elastic}/replaykit-*/_refresh", data=b"", timeout=20).close()
    yield elastic
    for kind in ("exchanges", "minutes", "hosts"):
        for name in ask(elastic, f"_cat/indices/replaykit-{kind}*?format=json"):
            urllib.request.urlopen(
                urllib.request.Request(f"{elastic}/{name['index']}", method="DELETE"), timeout=20
            ).close()


def test_every_panel_has_an_answer(filled: str) -> None:
    """And where the report says the same, it is the same number."""
    total, rows = report(str(OUT))["total"], report(str(OUT))["rows"]
    sizes = {r["endpoint"]: r["request_wire_bytes"] + r["response_wire_bytes"] for r in rows}
    answers = {}
    for number, (dashboard, panel) in enumerate(PANELS):
        name = f"{dashboard}-{[p for d, p in PANELS[: number + 1] if d == dashboard].__len__() - 1:02d}"
        index, body = request(BY_ID["visualization", name])
        found = ask(filled, f"{index}/_search", body)
        answers[dashboard, panel["title"]] = found
        assert found["_shards"]["failed"] == 0 and found["_shards"]["total"] > 0, panel["title"]
        empty = panel["title"] in (
            "Errors",
            "Traces",
            "Compression: sent and decoded bytes (with --decode)",
            "Incomplete exchanges",
        )
        assert empty or found["hits"]["total"]["value"] > 0, panel["title"]
    overview = "replaykit-overview"
    whole = total["request_wire_bytes"] + total["response_wire_bytes"]
    assert answers[overview, "Bytes"]["aggregations"]["1"]["value"] == whole
    assert answers[overview, "Exchanges"]["aggregations"]["1"]["value"] == total["requests"]
    top = answers[overview, "Top endpoints with their share"]["aggregations"]["s"]["buckets"]
    assert {b["key"]: b["1"]["value"] for b in top} == {
        e: s for e, s in sizes.items() if not e.startswith("(")
    }
    by_status = answers[overview, "Traffic by status"]["aggregations"]["s"]["buckets"]
    statuses = {
        r["status"]: r["request_wire_bytes"] + r["response_wire_bytes"]
        for r in report(str(OUT), "--by", "status")["rows"]
    }
    sums = {str(b["key"]): sum(t["1"]["value"] for t in b["t"]["buckets"]) for b in by_status}
    assert sums == {k: v for k, v in statuses.items() if not k.startswith("(")}
    coverage = answers[overview, "Attributed share of the bytes captured"]["aggregations"]
    account = report(str(OUT))["account"]
    assert (coverage["a"]["value"], coverage["b"]["value"]) == (account["exchange_bytes"], account["bytes"])
    (host,) = answers["replaykit-fleet", "Hosts"]["aggregations"]["s"]["buckets"]
    assert (host["key"], host["1"]["value"], host["2"]["value"]) == ("web-1", 1000, 10)


def fires(url: str, watch: dict[str, Any]) -> bool:
    """The watch's search, and its condition as JavaScript: this Elasticsearch has no Painless, and the forms
    used here (`def`, `for (b in list)`, `L` behind a number) say the same in both."""
    asked = watch["input"]["search"]["request"]
    payload = ask(url, f"{','.join(asked['indices'])}/_search", asked["body"])
    script = re.sub(
        r"\bfor \((\w+) in ", r"for (const \1 of ", watch["condition"]["script"]["source"]
    ).replace("def ", "let ")
    script = re.sub(r"(\d)L\b", r"\1", script)
    code = f"console.log(((ctx) => {{ {script} }})({json.dumps({'payload': payload})}))"
    done = subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True, timeout=30)
    return {"true": True, "false": False}[done.stdout.strip()]


def test_watches_fire_and_stay_quiet(filled: str, tmp_path: Path) -> None:
    needs("node")
    watches = json.loads(built()["watches.json"])
    target = f"elasticsearch://{filled.removeprefix('http://')}/replaykit?spool={tmp_path / 'spool'}"

    def ship(path: str, seconds_ago: float, count: int, answer: bytes, slow_ns: int = 0) -> None:
        output = ElasticOutput(target, Rotation())
        made = batch(int((time.time() - seconds_ago) * 1e9), count, path, answer)
        if slow_ns:
            import pyarrow as pa

            at = made.schema.get_field_index("duration_ns")
            made = made.set_column(at, made.schema.field(at), pa.array([slow_ns] * made.num_rows, pa.int64()))
        output.exchanges(made)
        output.close()
        urllib.request.urlopen(f"{filled}/replaykit-*/_refresh", data=b"", timeout=20).close()

    def big(size: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size

    share, slow, much, growth, loss = (
        watches[n]
        for n in (
            "one-api-above-30-percent",
            "static-resources-slower-than-500-ms",
            "more-than-1-gb-in-5-minutes",
            "half-as-much-again-as-yesterday",
            "capture-loss",
        )
    )
    assert fires(filled, loss)  # 10 of 1010 packets, just now
    for n in range(5):
        ship(f"/part{n}", 10, 5, big(200))
    ship("/old", 24.5 * 3600, 5, big(1000))
    ship("/static", 10, 5, big(10))
    assert not any(fires(filled, w) for w in (share, slow, much, growth))
    ship("/part0", 5, 40, big(1000))
    assert fires(filled, share) and fires(filled, growth)
    ship("/static", 2, 3, big(20), 600_000_000)
    assert fires(filled, slow) and not fires(filled, much)
