"""Declared pipelines: the ready ones run for real, and what is wrong in one is said with file, line
and key.
"""

from __future__ import annotations

import configparser
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from ci.servers import SERVERS, Kafka, Nginx, free_port, influxdb, nginx
from replaykit.errors import UsageError
from replaykit.outputs.ecs import mappings
from samples.make import OUT
from tests.conftest import needs
from tests.outputs.conftest import REPLAYKIT, report, run
from tests.outputs.test_telemetry import query, receiver
from tests.rules.test_live import ask
from tests.target import target, until
from tests.web.test_metrics import rejected

PIPELINES = Path(__file__).parents[2] / "pipelines"


@contextmanager
def running(
    name: str, tmp_path: Path, server: Nginx, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A ready pipeline over a server's port, ended by SIGTERM."""
    more = {"CAPTURE": f"lo:{server.port}", "STATE": str(tmp_path / "state"), **environment}
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*REPLAYKIT, "run", str(PIPELINES / name)],
            stderr=out,
            env={**os.environ, **more},
            cwd=PIPELINES.parent,
        )
    try:
        until(lambda: b"running" in log.read_bytes() or process.poll() is not None, 60)
        assert process.poll() is None, log.read_text()
        time.sleep(0.5)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    assert process.wait(90) == 0, log.read_text()


def health(port: int, what: str = "health") -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{what}", timeout=10) as answer:
        data = answer.read()
    return json.loads(data) if what == "health" else data.decode()


@pytest.mark.usefixtures("live")
def test_capture_to_elasticsearch(elastic: str, tmp_path: Path) -> None:
    port = free_port()
    with nginx(tmp_path) as server:
        host = elastic.removeprefix("http://")
        with running(
            "capture-to-elasticsearch.yaml",
            tmp_path,
            server,
            ELASTICSEARCH=f"{host}/flow",
            HEALTH=f"127.0.0.1:{port}",
            STATE=str(tmp_path / "state"),
        ) as process:
            for path in ("/api/one?token=hidden", "/api/two", "/health"):
                ask(server.port, path, 7)
            until(lambda: health(port)["exchanges"] >= 14, 30)
            found = health(port)
            assert found["ok"] and found["kernel_drops"] == 0 and "metrics" not in found
            assert "replaykit_exchanges_total" in health(
                port, "metrics"
            ) and "replaykit_output_sent_total{" in health(port, "metrics")
            assert rejected(health(port, "metrics")) == ""
            with pytest.raises(urllib.error.HTTPError):
                health(port, "other")
            del process
    urllib.request.urlopen(f"{elastic}/flow-*/_refresh", data=b"", timeout=20).close()
    with urllib.request.urlopen(f"{elastic}/flow-exchanges*/_search?size=100", timeout=20) as answer:
        sources = [h["_source"] for h in json.load(answer)["hits"]["hits"]]
    assert len(sources) == 14 and {s["url"]["path"] for s in sources} == {"/api/one", "/api/two"}
    assert {s["url"]["original"] for s in sources} == {"/api/one?token=***", "/api/two"}
    with urllib.request.urlopen(f"{elastic}/flow-hosts*/_count", timeout=20) as answer:
        assert json.load(answer)["count"] >= 1
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [x["message"] for x in lines][-1] == "ended: 14 exchanges" and all(x["@timestamp"] for x in lines)


@pytest.mark.usefixtures("live")
def test_capture_to_archive(store: Any, tmp_path: Path) -> None:
    with (
        nginx(tmp_path) as server,
        running(
            "capture-to-archive.yaml",
            tmp_path,
            server,
            ARCHIVE=str(tmp_path / "archive"),
            HEALTH=f"127.0.0.1:{free_port()}",
        ),
    ):
        ask(server.port, "/files/100k.bin", 5)
        ask(server.port, "/api/one", 5)
        time.sleep(1.5)
    here, there = report(str(tmp_path / "archive")), report("s3://traffic/web/")
    assert here["total"]["requests"] == 10 and here["total"] == there["total"]
    assert (
        next(r for r in here["rows"] if r["endpoint"].startswith("/files"))["response_body_bytes"] == 500_000
    )  # headers only


@pytest.mark.usefixtures("live")
def test_fleet_agent(broker: Kafka, tmp_path: Path) -> None:
    from tests.outputs.test_fleet import consumed

    prometheus = free_port()
    with nginx(tmp_path) as server:
        with running(
            "fleet-agent.yaml",
            tmp_path,
            server,
            KAFKA=broker.plain,
            PROMETHEUS=f"127.0.0.1:{prometheus}",
            HEALTH=f"127.0.0.1:{free_port()}",
        ):
            ask(server.port, "/api/one", 9)
            until(
                lambda: 'replaykit_exchanges_total{endpoint="/api/one"' in health(prometheus, "metrics"), 20
            )
            metrics = health(prometheus, "metrics")
        assert re.search(r'exchanges_total\{endpoint="/api/one".*\} 9\.0', metrics)
        assert len(set(consumed(broker.plain, "replaykit-exchanges"))) == 9


@pytest.mark.usefixtures("live")
def test_mirror_to_staging(tmp_path: Path) -> None:
    with (
        nginx(tmp_path) as server,
        target() as there,
        running(
            "mirror-to-staging.yaml",
            tmp_path,
            server,
            TARGET=there.url,
            SHARE="100%",
            RECORD=str(tmp_path / "mirrored"),
        ),
    ):
        ask(server.port, "/api/one", 6)
        until(lambda: len(there.requests) == 6, 30)
    assert all(b"X-Mirrored: yes" in r for _, r in there.requests)
    data = gzip.decompress(next(tmp_path.glob("mirrored*.gor.gz")).read_bytes())
    assert data.count(b"GET /api/one") == 6 and b"HTTP/1.1 200" not in data


def test_backfill(elastic: str, tmp_path: Path) -> None:
    needs("influxd")
    host = elastic.removeprefix("http://")
    with influxdb(tmp_path / "influx") as influx, receiver() as (otlp, _, metrics):
        query(influx, "CREATE DATABASE traffic")
        done = run(
            "run",
            str(PIPELINES / "backfill.yaml"),
            env={
                **os.environ,
                "FILES": str(OUT),
                "ELASTICSEARCH": f"{host}/fill",
                "INFLUXDB": influx.removeprefix("http://"),
                "OTLP": otlp,
                "STATE": str(tmp_path),
            },
        )
        assert done.returncode == 0, done.stderr
        total = report(str(OUT))["total"]["requests"]
        found = query(influx, "SELECT sum(exchanges) FROM replaykit")
        assert found["series"][0]["values"][0][1] == total and metrics
    urllib.request.urlopen(f"{elastic}/fill-*/_refresh", data=b"", timeout=20).close()
    with urllib.request.urlopen(f"{elastic}/fill-exchanges*/_count", timeout=20) as answer:
        assert json.load(answer)["count"] == total


@pytest.mark.usefixtures("live")
def test_log_for_filebeat(tmp_path: Path) -> None:
    """What Filebeat and Logstash are told to read is what is written: id, index and fields agree."""
    with (
        nginx(tmp_path) as server,
        running("log-for-filebeat.yaml", tmp_path, server, LOG=str(tmp_path / "traffic")),
    ):
        ask(server.port, "/api/one", 4)
        time.sleep(1.5)
    documents = [json.loads(x) for x in (tmp_path / "traffic.ecs.jsonl").read_text().splitlines()]
    assert len({d["event"]["id"] for d in documents}) == 4 and set(documents[0]) <= set(
        mappings("exchanges")["properties"]
    )
    filebeat = yaml.safe_load((PIPELINES / "filebeat.yml").read_text())
    (source,) = filebeat["filebeat.inputs"]
    assert (
        source["paths"] == ["/var/log/replaykit/*.ecs.jsonl"]
        and source["parsers"][0]["ndjson"]["document_id"] == "event.id"
    )
    assert filebeat["output.elasticsearch"]["index"] == "replaykit-exchanges"
    dropped = filebeat["processors"][0]["drop_fields"]["fields"]
    assert not set(dropped) & set(documents[0])
    logstash = (PIPELINES / "logstash.conf").read_text()
    assert (
        logstash.count("{") == logstash.count("}")
        and 'document_id => "%{[event][id]}"' in logstash
        and source["paths"][0] in logstash
    )


def test_every_ready_pipeline_is_tested_and_reads() -> None:
    tested = Path(__file__).read_text()
    for path in PIPELINES.glob("*.yaml"):
        if path.name == "alerts.yaml":
            assert run("alert", str(path), "--check").stdout.strip().endswith("6 rules, 0 receivers")
            continue
        assert f'"{path.name}"' in tested, path.name
        done = run("run", str(path), "--check", env={**os.environ, "FILES": str(OUT)})
        assert done.returncode == 0 and "from " in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("inputs:\n  - capture: ':80'\n", "p.yaml:1: the key 'outputs' is missing"),
        ("inputs:\n  - captrue: ':80'\noutputs: [a.parquet]\n", "p.yaml:2: inputs[0]: give `capture`"),
        (
            "inputs:\n  - capture: ':80'\n    smaple: 10%\noutputs: [a.parquet]\n",
            "p.yaml:3: inputs[0].smaple: this key is not known here",
        ),
        (
            "inputs:\n  - capture: ':80'\n    sample: much\noutputs: [a.parquet]\n",
            "p.yaml:3: inputs[0].sample: 'much' is no share",
        ),
        ("inputs:\n  - capture: ':99999'\noutputs: [a.parquet]\n", "ports are 1 to 65535"),
        (
            "inputs:\n  - capture: ':80'\nfilters:\n  allow_url: ['(']\noutputs: [a.parquet]\n",
            "regular expression",
        ),
        ("inputs:\n  - capture: ':80'\noutputs: [a.parquet]\nmiddleware: cat\n", "no output of messages"),
        (
            "inputs:\n  - capture: ':80'\n    headers_only: true\noutputs: [a.gor]\n",
            "inputs[0].headers_only: cuts bodies off",
        ),
        ("inputs:\n  - capture: ':80'\n  - capture: ':81'\noutputs: [a.gor]\n", "one capture a pipeline"),
        (
            "inputs:\n  - files: a.pcap\noutputs: [a.gor]\nlog: xml\n",
            "p.yaml:4: log: 'xml': choose from text, json",
        ),
        ("inputs:\n  - files: a.pcap\noutputs: ['${NOT_THERE}']\n", "the environment has no NOT_THERE"),
    ],
)
def test_errors_name_file_line_and_key(text: str, said: str, tmp_path: Path) -> None:
    from replaykit.cli.flow import read_flow

    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UsageError) as error:
        read_flow(str(tmp_path / "p.yaml"))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_troubles_at_start_and_end(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    for text, said in (
        ("inputs:\n  - files: none.pcap\noutputs: [a.parquet]\n", "none.pcap: no such file"),
        (
            "inputs:\n  - files: none.pcap\noutputs: [a.what]\n",
            f"{path}:3: outputs[0]: --to a.what: unknown kind",
        ),
        (
            "inputs:\n  - files: none.pcap\noutputs:\n  - {to: 'http://127.0.0.1:1', limit: x}\n",
            f"{path}:4: outputs[0].to",
        ),
    ):
        path.write_text(text)
        done = run("run", str(path), cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    busy = socket.socket()
    busy.bind(("127.0.0.1", 0))
    busy.listen()
    path.write_text(
        f"inputs:\n  - files: {OUT}\noutputs: [a.parquet]\nhealth: 127.0.0.1:{busy.getsockname()[1]}\n"
    )
    done = run("run", str(path), cwd=tmp_path)
    assert (
        done.returncode == 2 and "address already in use" in done.stderr and "Traceback" not in done.stderr
    ), done.stderr
    busy.close()
    (tmp_path / "cut.pcap.gz").write_bytes(OUT.read_bytes()[:-2000])
    path.write_text("inputs:\n  - files: cut.pcap.gz\noutputs: [b.parquet, b.gor]\n")
    done = run("run", str(path), cwd=tmp_path)
    assert done.returncode == 2 and "what came before was read" in done.stderr, done.stderr
    assert (
        0
        < report(str(tmp_path / "b.parquet"))["total"]["requests"]
        <= report(str(tmp_path / "b.gor"))["total"]["requests"]
    )


def test_recorded_requests_at_their_pace(tmp_path: Path) -> None:
    from tests.target import Rec, get, gor

    (tmp_path / "a.gor").write_bytes(gor([Rec(get(f"/{n}"), n * 100) for n in range(6)]))
    with target() as there:
        (tmp_path / "p.yaml").write_text(
            "inputs:\n  - files: a.gor\n    speed: 1\nfilters:\n  disallow_url: [/3]\noutputs:"
            f" ['{there.url}']\n"
        )
        begun = time.monotonic()
        done = run("run", "p.yaml", cwd=tmp_path)
    assert done.returncode == 0 and time.monotonic() - begun > 0.5, done.stderr
    assert len(there.requests) == 5


def test_what_deploys_it() -> None:
    """The service, the pods and the image ask for one capability and no more; the pods' pipeline reads."""
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(PIPELINES / "deploy" / "replaykit.service")
    service = unit["Service"]
    assert (
        service["AmbientCapabilities"] == service["CapabilityBoundingSet"] == "CAP_NET_RAW"
        and service["Type"] == "notify"
    )
    assert service["DynamicUser"] == service["NoNewPrivileges"] == "yes"
    documents = list(yaml.safe_load_all((PIPELINES / "deploy" / "daemonset.yaml").read_text()))
    daemon = documents[-1]["spec"]["template"]["spec"]
    (container,) = daemon["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["NET_RAW"]}
    assert (
        not container["securityContext"]["allowPrivilegeEscalation"]
        and container["securityContext"]["readOnlyRootFilesystem"]
    )
    mounts = {m["name"] for m in container["volumeMounts"]}
    assert mounts == {v["name"] for v in daemon["volumes"]}
    (config,) = (d for d in documents if d["kind"] == "ConfigMap")
    from replaykit.cli.flow import read_flow
    from replaykit.outputs.output import open_output

    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"replaykit-deploy-{os.getpid()}.yaml"
    folder.write_text(config["data"]["pipeline.yaml"])
    try:
        given = {e["name"]: e.get("value", "x") for e in container["env"]}
        os.environ.update(given)
        _, metrics = read_flow(str(folder)).targets
        # Other pods scrape it: that was agreed to in the manifest, and without a token it opens.
        open_output(metrics.to.replace("x:9900", "0.0.0.0:0"), metrics.rotation).close()
    finally:
        folder.unlink()
        for name in given:
            os.environ.pop(name, None)
    image = (PIPELINES / "deploy" / "Containerfile").read_text()
    extras = re.search(r"/src\[(.*?)\]", image)[1].split(",")  # type: ignore[index]
    import tomllib

    declared = tomllib.loads((PIPELINES.parent / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert set(extras) <= set(declared) and SERVERS
    copied = re.findall(r"/etc/replaykit/pipelines/(\S+?)\"", image)
    assert all((PIPELINES / name).exists() for name in copied)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("inputs: [{files: [gone.pcap]}]\noutputs: [a.parquet]\n", "gone.pcap: there is no such file"),
        ("inputs: [{files: [SHOP]}]\noutputs: [{to: a.gor, limit: lots}]\n", "lots"),
        (
            "inputs: [{files: [SHOP]}]\noutputs: [{to: a.gor, existing: perhaps}]\n",
            "choose from refuse, append, overwrite",
        ),
    ],
)
def test_a_check_finds_what_the_run_would(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(text.replace("SHOP", str(OUT)))
    done = subprocess.run(
        [*REPLAYKIT, "run", "p.yaml", "--check"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and said in done.stderr and "p.yaml:" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_pipeline_that_runs_again_goes_on_with_its_files(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(f"inputs: [{{files: [{OUT}]}}]\noutputs: [a.parquet, a.jsonl]\n")
    for times in (1, 2):
        done = subprocess.run(
            [*REPLAYKIT, "run", "p.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 315 * times
        assert pq.read_metadata(tmp_path / "a.parquet").num_rows == 315 * times
