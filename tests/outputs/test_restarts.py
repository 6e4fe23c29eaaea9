"""Servers and replaykit killed in the middle of load: every exchange counts exactly once at the end."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ci.servers import elasticsearch, free_port, kafka, moto, prometheus
from replaykit.outputs.output import Rotation
from replaykit.outputs.prometheus import PrometheusOutput
from tests.conftest import needs
from tests.kibana.test_grafana import get
from tests.outputs.conftest import REPLAYKIT, batch, capture, report, run
from tests.outputs.test_fleet import consumed
from tests.target import until

COUNT = 6_000


def shipping(pcap: Path, target: str, command: str = "exchanges") -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*REPLAYKIT, command, str(pcap), "--quiet", "--to", target],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def counted(url: str, name: str) -> tuple[int, float]:
    """Documents of the kind exchanges, and the exchanges that those by minute add up to."""
    try:
        urllib.request.urlopen(f"{url}/{name}-*/_refresh", data=b"", timeout=20).close()
        with urllib.request.urlopen(f"{url}/{name}-exchanges*/_count", timeout=20) as answer:
            documents = json.load(answer)["count"]
        body = json.dumps({"size": 0, "aggs": {"n": {"sum": {"field": "replaykit.exchanges"}}}}).encode()
        asked = urllib.request.Request(
            f"{url}/{name}-minutes*/_search", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=20) as answer:
            return documents, json.load(answer)["aggregations"]["n"]["value"]
    except (urllib.error.URLError, OSError, KeyError):
        return 0, 0


def test_elasticsearch_killed_amid_load(tmp_path: Path) -> None:
    needs("elasticsearch")
    pcap, port = capture(tmp_path / "a.pcap", COUNT), free_port()
    target = f"elasticsearch://127.0.0.1:{port}/killed?spool={tmp_path / 'spool'}"
    with elasticsearch(tmp_path / "es", port) as url:
        process = shipping(pcap, target)
        until(lambda: counted(url, "killed")[0] > 0, 60)
    assert process.poll() is None or counted(f"http://127.0.0.1:{port}", "killed")[0] == 0
    with elasticsearch(tmp_path / "es", port) as url:
        process.wait(120)
        while (done := run("ship", str(pcap), "--to", target)).returncode:
            assert "wait in" in done.stderr, done.stderr
        assert counted(url, "killed") == (COUNT, COUNT)


def test_kafka_and_its_producer_killed_amid_load(tmp_path: Path) -> None:
    needs("kafka")
    pcap, root = capture(tmp_path / "a.pcap", COUNT), tmp_path / "kafka"
    with kafka(root) as there:
        target = f"kafka://{there.plain}/killed?spool={tmp_path / 'spool'}&observer=me"
        process = shipping(pcap, target)
        until(lambda: (tmp_path / "spool" / "state").exists(), 60)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    with kafka(root) as there:
        while (done := run("exchanges", str(pcap), "--quiet", "--to", target)).returncode:
            assert "wait in" in done.stderr, done.stderr
        ids = consumed(there.plain, "killed")
    assert len(set(ids)) == COUNT  # repeats are told apart by their ids


def test_the_archive_in_s3_after_kill_9(store: Any, tmp_path: Path) -> None:
    pcap, target = capture(tmp_path / "a.pcap", COUNT), f"s3://traffic/killed/?staging={tmp_path / 'staging'}"
    process = subprocess.Popen(
        [*REPLAYKIT, "exchanges", str(pcap), "--quiet", "--to", target, "--rotate-size", "100kB"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: bool(store.list_objects_v2(Bucket="traffic", Prefix="killed/").get("Contents")), 60)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    there = "s3://traffic/killed/"
    before = report(there)["total"]["requests"]
    finished = sum(1 for _ in (tmp_path / "staging").glob("date=*/hour=*/*.parquet"))
    assert run("exchanges", str(capture(tmp_path / "b.pcap", 5)), "--quiet", "--to", target).returncode == 0
    after = report(there)["total"]["requests"]
    # What was finished is there once, what was not finished is not there: files are whole or absent.
    assert after >= before + 5 and after <= COUNT + 5 and (finished or after == before + 5)
    assert list((tmp_path / "staging").glob("date=*/hour=*/.*")) == []


def test_s3_killed_amid_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is killed when it has some of the files, and comes back with what it had taken."""
    import boto3

    root, port, there = tmp_path / "moto", free_port(), "s3://traffic/again/"
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
        ("AWS_ACCESS_KEY_ID", "id"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ):
        monkeypatch.setenv(name, value)
    pcap, target = capture(tmp_path / "a.pcap", COUNT), f"{there}?staging={tmp_path / 'staging'}"

    def objects() -> int:
        return len(boto3.client("s3").list_objects_v2(Bucket="traffic").get("Contents", ()))

    with moto(root, port):
        boto3.client("s3").create_bucket(Bucket="traffic")
        process = subprocess.Popen(
            [*REPLAYKIT, "exchanges", str(pcap), "--quiet", "--to", target, "--rotate-size", "20kB"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: objects() > 0, 60)
    with moto(root, port):
        assert objects() > 0
        if process.wait(150):  # it gave up before the store was back: the next run sends what waits
            assert (
                run(
                    "exchanges", str(capture(tmp_path / "none.pcap", 0)), "--quiet", "--to", target
                ).returncode
                == 0
            )
        assert report(there)["total"]["requests"] == COUNT


def test_prometheus_killed_amid_load(tmp_path: Path) -> None:
    needs("prometheus")
    output = PrometheusOutput("prometheus://127.0.0.1:0", Rotation())
    stop = threading.Event()
    sent = 0

    def load() -> None:
        nonlocal sent
        while not stop.is_set():
            output.exchanges(batch(sent * 10**9, 10))
            sent += 10
            time.sleep(0.05)

    thread = threading.Thread(target=load)
    thread.start()

    def value(url: str) -> float:
        found = get(f"{url}/api/v1/query", query="sum(replaykit_exchanges_total)")["data"]["result"]
        return float(found[0]["value"][1]) if found else 0.0

    try:
        with ExitStack() as stack:
            for _ in range(2):  # the same data again: killed, and started again
                with prometheus(tmp_path, [f"127.0.0.1:{output.port}"]) as url:
                    before = sent
                    until(lambda url=url, before=before: value(url) > before, 40)  # type: ignore[misc]
            stop.set()
            thread.join()
            url = stack.enter_context(prometheus(tmp_path, [f"127.0.0.1:{output.port}"]))
            until(lambda: value(url) == sent, 40)
    finally:
        stop.set()
        thread.join()
        output.close()


@pytest.mark.parametrize("moment", [0.5, 1.2])
def test_replaykit_killed_amid_load_into_elasticsearch(elastic: str, tmp_path: Path, moment: float) -> None:
    pcap, name = capture(tmp_path / "a.pcap", COUNT), f"again{int(moment * 10)}"
    target = f"elasticsearch://{elastic.removeprefix('http://')}/{name}?spool={tmp_path / 'spool'}"
    process = shipping(pcap, target)
    time.sleep(moment)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    done = run("exchanges", str(pcap), "--quiet", "--to", target)
    assert done.returncode == 0, done.stderr
    assert counted(elastic, name) == (COUNT, COUNT)
