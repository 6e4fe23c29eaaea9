"""Kafka, a real broker: text and JSON, from GoReplay's fields, SCRAM, TLS, offsets and pace."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from ci.servers import Kafka
from replaykit.outputs.kafka import from_json, from_text, to_json
from replaykit.records.message import Message
from tests.goreplay.test_gor_files import records
from tests.target import OK, Rec, get, gor, gor_running, post, run_gor, until


def consume(broker: Kafka, topic: str, count: int) -> list[bytes]:
    import aiokafka

    async def go() -> list[bytes]:
        consumer = aiokafka.AIOKafkaConsumer(
            topic, bootstrap_servers=broker.plain, auto_offset_reset="earliest"
        )
        await consumer.start()
        found: list[bytes] = []
        try:
            async with asyncio.timeout(60):
                while len(found) < count:
                    polled = await consumer.getmany(timeout_ms=500)
                    found += [r.value for rs in polled.values() for r in rs]
        finally:
            await consumer.stop()
        return found

    return asyncio.run(go())


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    name = tmp_path / "in.gor"
    name.write_bytes(gor([r for n in range(20) for r in (Rec(get(f"/{n}"), n), Rec(OK, n, 2))]))
    return name


def test_text(broker: Kafka, recording: Path, tmp_path: Path) -> None:
    done = run_gor(
        "--input-file", str(recording), "--output-kafka-host", broker.plain, "--output-kafka-topic", "text"
    )
    assert done.returncode == 0, done.stderr
    assert sorted(consume(broker, "text", 40)) == sorted(records(recording.read_bytes()))
    out = tmp_path / "out.gor"
    with gor_running(
        "--input-kafka-host",
        broker.plain,
        "--input-kafka-topic",
        "text",
        "--input-kafka-offset",
        "-2|1000%",
        "--output-file",
        str(out),
        "--output-file-append",
        "--output-file-flush-interval",
        "20ms",
    ):
        until(lambda: out.exists() and len(records(out.read_bytes())) == 40, 60)
    assert sorted(records(out.read_bytes())) == sorted(records(recording.read_bytes()))


def test_json_with_scram(broker: Kafka, recording: Path, tmp_path: Path) -> None:
    login = [
        "--output-kafka-use-sasl",
        "true",
        "--output-kafka-mechanism",
        "SCRAM-SHA-512",
        "--output-kafka-username",
        "gor",
    ]
    done = run_gor(
        "--input-file",
        str(recording),
        "--output-kafka-host",
        broker.sasl,
        "--output-kafka-topic",
        "json",
        "--output-kafka-json-format",
        *login,
        "--output-kafka-password",
        "secret",
    )
    assert done.returncode == 0 and b"secret" not in done.stderr, done.stderr
    found = [json.loads(r) for r in consume(broker, "json", 40)]
    one = next(r for r in found if r["Req_URL"] == "/7")
    assert (
        one["Req_Method"] == "GET"
        and one["Req_Type"] == "1"
        and one["Req_Headers"] == {"Host": "recorded.example"}
    )
    out = tmp_path / "out.gor"
    reading = [
        "--input-kafka-use-sasl",
        "true",
        "--input-kafka-mechanism",
        "SCRAM-SHA-512",
        "--input-kafka-username",
        "gor",
    ]
    with gor_running(
        "--input-kafka-host",
        broker.sasl,
        "--input-kafka-topic",
        "json",
        "--input-kafka-json-format",
        *reading,
        "--input-kafka-password",
        "secret",
        "--input-kafka-offset",
        "0",
        "--output-file",
        str(out),
        "--output-file-append",
        "--output-file-flush-interval",
        "20ms",
    ):
        until(lambda: out.exists() and len(records(out.read_bytes())) == 40, 60)
    text = out.read_bytes()
    assert b"GET /7 HTTP/1.1\r\nHost: recorded.example\r\n\r\n" in text
    assert OK.replace(b"200 OK", b"200 ") in text  # the JSON has no place for the reason
    wrong = run_gor(
        "--input-file",
        str(recording),
        "--output-kafka-host",
        broker.sasl,
        "--output-kafka-topic",
        "json",
        *login,
        "--output-kafka-password",
        "wrong",
    )
    assert wrong.returncode == 2 and b"Traceback" not in wrong.stderr


def test_tls(broker: Kafka, recording: Path) -> None:
    to = ["--input-file", str(recording), "--output-kafka-host", broker.tls, "--output-kafka-topic", "tls"]
    key = str(broker.ca.parent / "key.pem")
    done = run_gor(
        *to,
        "--kafka-tls-ca-cert",
        str(broker.ca),
        "--kafka-tls-client-cert",
        str(broker.ca),
        "--kafka-tls-client-key",
        key,
    )
    assert done.returncode == 0, done.stderr
    assert len(consume(broker, "tls", 40)) == 40
    half = run_gor(*to, "--kafka-tls-client-cert", str(broker.ca))
    assert half.returncode == 2 and b"give both or none" in half.stderr


def test_the_recorded_pace(broker: Kafka, tmp_path: Path) -> None:
    name, out = tmp_path / "in.gor", tmp_path / "out.gor"
    name.write_bytes(gor([Rec(get(f"/{n}"), n * 500) for n in range(4)]))
    done = run_gor(
        "--input-file",
        str(name) + "|10000%",
        "--output-kafka-host",
        broker.plain,
        "--output-kafka-topic",
        "pace",
    )
    assert done.returncode == 0
    with gor_running(
        "--input-kafka-host",
        broker.plain,
        "--input-kafka-topic",
        "pace",
        "--input-kafka-offset",
        "-2",
        "--output-file",
        str(out),
        "--output-file-append",
        "--output-file-flush-interval",
        "10ms",
    ):
        until(lambda: out.exists() and len(records(out.read_bytes())) >= 1, 60)
        begun = time.monotonic()
        until(lambda: len(records(out.read_bytes())) == 4, 60)
        assert time.monotonic() - begun > 0.5


def test_no_broker_and_no_topic(broker: Kafka, recording: Path) -> None:
    done = run_gor(
        "--input-file", str(recording), "--output-kafka-host", "127.0.0.1:1", "--output-kafka-topic", "t"
    )
    assert done.returncode == 2 and b"Traceback" not in done.stderr


def test_the_form_of_messages() -> None:
    request = Message(
        1, "abc", 5, 0, post("/p?x=ä", b"\xff\x00body").replace(b"\r\nHost", b"\r\nx-a: 1\r\nx-a: 2\r\nHost")
    )
    found: dict[str, Any] = json.loads(to_json(request))
    assert found["Req_Headers"]["X-A"] == "1, 2" and found["Req_Method"] == "POST" and found["Req_Ts"] == "5"
    back = from_json(to_json(request))
    assert back is not None and back.payload.endswith(b"\xff\x00body") and back.id == "abc"
    for bad in (
        b"",
        b"[]",
        b"{}",
        b'{"Req_Type":"9","Req_Ts":"1","Req_Method":"G","Req_URL":"/","Req_ID":"a"}',
        b"\xff",
    ):
        assert from_json(bad) is None
    assert from_text(b"1 abc 5 0\nGET /") == Message(1, "abc", 5, 0, b"GET /") and from_text(b"x") is None
