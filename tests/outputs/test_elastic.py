"""Exchanges in a real Elasticsearch: fields, repeats, outages, restarts, refusals."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ci.servers import elasticsearch, free_port
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.errors import UsageError
from replaykit.outputs import ecs
from replaykit.outputs.ecs import FIELDS, OWN, mappings
from replaykit.outputs.elastic_place import parse_place
from replaykit.records.exchange import SCHEMA
from samples.make import OUT
from tests.conftest import needs
from tests.mutate import write
from tests.outputs.conftest import REPLAYKIT, capture, run
from tests.talk import Talk
from tests.target import OK, get, until


@pytest.fixture
def server(elastic: str) -> str:
    return elastic


def ask(url: str, path: str, body: Any = None) -> Any:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def count(url: str, name: str) -> int:
    try:
        ask(url, f"{name}-exchanges*/_refresh", b"")
        return int(ask(url, f"{name}-exchanges*/_count?allow_no_indices=true")["count"])
    except urllib.error.HTTPError:
        return 0


def place(url: str, name: str, spool: Path) -> str:
    return f"elasticsearch://{url.removeprefix('http://')}/{name}?spool={spool}"


def ship(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run("ship", *arguments)


def test_fields_sums_and_repeats(server: str, tmp_path: Path) -> None:
    to = place(server, "shop", tmp_path / "spool")
    for _ in range(2):
        assert ship("--setup", "--to", to).returncode == 0
    for _ in range(2):  # what is sent twice counts once
        done = ship(str(OUT), "--to", to)
        assert done.returncode == 0, done.stderr
    report = subprocess.run(
        [*REPLAYKIT, "report", str(OUT), "--format", "json", "--quiet"], capture_output=True, check=True
    )
    expected = json.loads(report.stdout)
    total = expected["total"]
    assert count(server, "shop") == total["requests"]
    query = {
        "size": 0,
        "aggs": {
            "by": {
                "terms": {"field": "replaykit.endpoint", "size": 100},
                "aggs": {"b": {"sum": {"field": "replaykit.bytes"}}},
            },
            "all": {"sum": {"field": "network.bytes"}},
        },
    }
    found = ask(server, "shop-exchanges*/_search", query)["aggregations"]
    assert found["all"]["value"] == total["request_wire_bytes"] + total["response_wire_bytes"]
    own = {
        e["endpoint"]: e["requests"] for e in expected["rows"] if e["endpoint"] not in ("(unknown)", "(none)")
    }
    assert {b["key"]: b["doc_count"] for b in found["by"]["buckets"]} == own
    hit = ask(server, "shop-exchanges*/_search?q=http.response.status_code:200&size=1")["hits"]["hits"][0][
        "_source"
    ]
    assert (
        hit["source"]["ip"]
        and hit["url"]["path"]
        and hit["observer"]["product"] == "replaykit"
        and hit["event"]["duration"] > 0
    )


def test_an_outage_costs_nothing(server: str, tmp_path: Path) -> None:
    """The server is away at first: everything waits in the spool, and another run sends it."""
    pcap, spool, port = capture(tmp_path / "a.pcap", 500), tmp_path / "spool", free_port()
    begun = time.monotonic()
    away = ship(str(pcap), "--to", place(f"http://127.0.0.1:{port}", "outage", spool))
    assert away.returncode == 2 and "wait in" in away.stderr and time.monotonic() - begun < 100
    back = ship(str(capture(tmp_path / "b.pcap", 3)), "--to", place(server, "outage", spool))
    assert back.returncode == 0, back.stderr
    assert count(server, "outage") == 500 + 0  # the three of b.pcap are exchanges of a.pcap too


def test_kill_9_amid_shipping_loses_nothing_and_doubles_nothing(server: str, tmp_path: Path) -> None:
    pcap, to = capture(tmp_path / "a.pcap", 6_000), place(server, "killed", tmp_path / "spool")
    process = subprocess.Popen(
        [*REPLAYKIT, "ship", str(pcap), "--to", to], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    until(lambda: count(server, "killed") > 0, 60)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    before = count(server, "killed")
    done = ship(str(pcap), "--to", to)
    assert done.returncode == 0, done.stderr
    assert count(server, "killed") == 6_000 >= before


def test_a_server_that_is_overloaded_or_refuses(tmp_path: Path) -> None:
    """429 for the whole, 429 for some, 400 for one: all but that one arrive, and it is counted."""
    import http.server

    got: dict[str, Any] = {}
    calls = 0

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _say(self, status: int, body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in (
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(data))),
                ("X-Elastic-Product", "Elasticsearch"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self._say(404, {})

        def do_PUT(self) -> None:
            if self.path.startswith("/_bulk"):
                return self._bulk()
            self.rfile.read(int(self.headers["Content-Length"]))
            self._say(200, {"acknowledged": True})

        def _bulk(self) -> None:
            nonlocal calls
            calls += 1
            lines = self.rfile.read(int(self.headers["Content-Length"])).decode().splitlines()
            if calls == 1:
                return self._say(429, {"error": "busy"})
            items = []
            for i in range(0, len(lines), 2):
                name, document = json.loads(lines[i])["create"]["_id"], json.loads(lines[i + 1])
                status = (
                    400 if document["url"]["path"] == "/users/7" else 429 if calls == 2 and i % 4 else 201
                )
                if status == 201:
                    assert name not in got
                    got[name] = document
                items.append({"create": {"status": status, "error": {"reason": "odd"}}})
            self._say(200, {"errors": True, "items": items})

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{there.server_address[1]}"
        done = ship(
            str(capture(tmp_path / "a.pcap", 50)),
            "--to",
            place(url, "odd", tmp_path / "spool") + "&what=exchanges",
        )
        there.shutdown()
    assert (
        len(got) == 49
        and done.returncode == 2
        and "1 documents were refused" in done.stderr
        and "odd" in done.stderr
    )


def test_a_full_disk_under_the_spool_costs_exchanges_not_the_run(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    try:
        target = place(f"http://127.0.0.1:{free_port()}", "full", disk / "spool")
        pcap = capture(tmp_path / "a.pcap", 6000)
        done = subprocess.run(
            [
                *REPLAYKIT,
                "exchanges",
                str(pcap),
                "--to",
                target,
                "--to",
                str(tmp_path / "a.jsonl"),
                "--quiet",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 6000


def test_every_field_is_in_the_template() -> None:
    engine = Engine(Options())
    talk = (
        Talk()
        .open()
        .client(get("/a", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
        .server(OK)
    )
    for p in talk.close().packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    engine.finish()
    batch = engine.take_exchanges()
    made = ecs.exchanges(batch, "host")
    (identifier,), document = made.ids, json.loads(made.lines[0])

    def leaves(value: Any, path: str = "") -> Iterator[str]:
        for key, inner in value.items():
            if isinstance(inner, dict):
                yield from leaves(inner, f"{path}{key}.")
            else:
                yield path + key

    def known(path: str, kind: str = "exchanges") -> bool:
        at = mappings(kind)
        for part in path.split("."):
            at = at["properties"].get(part, {})
            if not at:
                return False
        return True

    assert [p for p in leaves(document) if not known(p)] == []
    (minute,) = ecs.minutes(batch, "host").lines
    assert [p for p in leaves(json.loads(minute)) if not known(p, "minutes")] == []
    status = {"capture": {"packets": 1, "drops": 0}, "account": engine.account(), "spool": {"sent": 1}}
    (host,) = ecs.host(1, "host", "run", status).lines
    assert [p for p in leaves(json.loads(host)) if not known(p, "hosts")] == []
    assert len(identifier) == 32 and document["trace"]["id"] == "0af7651916cd43dd8448eb211c80319c"
    assert set(FIELDS) | set(OWN) <= set(SCHEMA.names)


def test_passwords_and_tls(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    """A node with security: a password from a file, an API key, a CA; and what is wrong is said."""
    import base64
    import ssl

    needs("elasticsearch")
    root = tmp_path_factory.mktemp("secure")
    pcap = capture(tmp_path / "a.pcap", 20)
    with elasticsearch(root, secure=True) as url:
        context = ssl.create_default_context(cafile=str(root / "cert.pem"))
        login = base64.b64encode(b"replaykit:long-secret").decode()

        def asked(path: str, body: Any = None) -> Any:
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            headers = {"Content-Type": "application/json", "Authorization": f"Basic {login}"}
            request = urllib.request.Request(f"{url}/{path}", data, headers)
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                return json.load(answer)

        until(lambda: asked("_security/_authenticate")["username"] == "replaykit", 60)
        (tmp_path / "password").write_text("long-secret\n")
        # A key that may do what shipping needs, and no more.
        allowed = {
            "cluster": ["monitor", "manage_index_templates", "manage_ilm"],
            "indices": [
                {
                    "names": ["key-*"],
                    "privileges": ["create_index", "create", "view_index_metadata", "auto_configure"],
                }
            ],
        }
        made = asked("_security/api_key", {"name": "replaykit", "role_descriptors": {"ship": allowed}})
        (tmp_path / "api.key").write_text(
            base64.b64encode(f"{made['id']}:{made['api_key']}".encode()).decode() + "\n"
        )
        host = url.removeprefix("https://")
        ways = {
            "file": (
                {
                    "ELASTICSEARCH_USERNAME": "replaykit",
                    "ELASTICSEARCH_PASSWORD_FILE": str(tmp_path / "password"),
                },
                0,
            ),
            "key": ({"ELASTICSEARCH_API_KEY_FILE": str(tmp_path / "api.key")}, 0),
            "no-key": ({"ELASTICSEARCH_API_KEY": base64.b64encode(b"none:guessed-secret").decode()}, 2),
            "wrong": ({"ELASTICSEARCH_USERNAME": "replaykit", "ELASTICSEARCH_PASSWORD": "guessed-secret"}, 2),
        }
        for name, (environment, status) in ways.items():
            to = f"elasticsearch://{host}/{name}?ca={root / 'cert.pem'}&spool={tmp_path / name}"
            done = run("ship", str(pcap), "--to", to, env={**os.environ, **environment})
            assert (
                done.returncode == status and "secret" not in done.stderr and "Traceback" not in done.stderr
            ), done.stderr
            assert status == 0 or "unable to authenticate" in done.stderr
        for name in ("file", "key"):
            asked(f"{name}-*/_refresh", b"")
            assert asked(f"{name}-exchanges*/_count")["count"] == 20
        untrusted = run(
            "ship", str(pcap), "--to", f"elasticsearch://{host}/none?tls=1&spool={tmp_path / 'none'}"
        )
        assert untrusted.returncode == 2 and "certificate" in untrusted.stderr.lower(), untrusted.stderr


def test_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = parse_place("elasticsearch://me:pw@es.example/app?spool=/s&spool-size=2GB")
    assert plain.url == "http://es.example:9200" and plain.name == "app" and plain.login == ("me", "pw")
    assert plain.spool == Path("/s") and plain.spool_bytes == 2 * 10**9
    (tmp_path / "key").write_text("secret\n")
    monkeypatch.setenv("ELASTICSEARCH_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("ELASTICSEARCH_USERNAME", "u")
    monkeypatch.setenv("ELASTICSEARCH_PASSWORD", "p")
    tls = parse_place("elasticsearch://[::1]:9243?ca=/ca.pem")
    assert (
        tls.url == "https://[::1]:9243"
        and tls.api_key == "secret"
        and tls.login == ("u", "p")
        and tls.ca == "/ca.pem"
    )
    for bad in (
        "elasticsearch://",
        "elasticsearch://h/Upper",
        "elasticsearch://h?colour=red",
        "elasticsearch://h:99999",
    ):
        with pytest.raises(UsageError):
            parse_place(bad)


def test_wrong_use() -> None:
    for arguments, said in (
        (["--to", "elasticsearch://127.0.0.1:1"], "nothing to ship"),
        (["--setup", "--to", "file.parquet"], "elasticsearch://"),
        (["--setup", "--to", "kafka://127.0.0.1:1"], "only elasticsearch://"),
        (["--setup", "--to", f"elasticsearch://127.0.0.1:{free_port()}"], "cannot be set up"),
    ):
        done = ship(*arguments)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_anomalies_in_minutes_are_those_in_an_archive(server: str, tmp_path: Path) -> None:
    """Four days, an exchange every half hour; in the last hours /film is 500 times as large."""
    begin, half = 1_700_006_400, 1800  # midnight
    packets = []
    for n in range(4 * 48):
        talk = Talk(sport=20_000 + n, start=(begin + n * half) * 10**9).open()
        large = b"x" * (500_000 if n > 180 and n % 2 else 1000 + 7 * (n % 48))
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(large) + large
        packets += talk.client(get("/film")).server(answer).close().packets
    (tmp_path / "days.pcap").write_bytes(write(packets))
    to = place(server, "days", tmp_path / "spool")
    assert ship("--setup", "--to", to).returncode == 0
    assert ship(str(tmp_path / "days.pcap"), "--to", to).returncode == 0
    archive = str(tmp_path / "days.parquet")
    assert run("exchanges", str(tmp_path / "days.pcap"), "--to", archive, "--quiet").returncode == 0
    assert count(server, "days") == 4 * 48
    until = datetime.datetime.fromtimestamp(begin + 4 * 86_400, datetime.UTC).isoformat()
    found = [
        run(
            "anomalies",
            p,
            "--until",
            until,
            "--days",
            "3",
            "--judge",
            "24h",
            "--step",
            "30m",
            "--format",
            "json",
        )
        for p in (archive, to)
    ]
    assert [f.returncode for f in found] == [0, 0], found
    assert [json.loads(line)["endpoint"] for line in found[0].stdout.splitlines()] == ["/film"] * 6
    assert found[1].stdout == found[0].stdout
