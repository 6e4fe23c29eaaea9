"""Kafka, by aiokafka (the extra `kafka`): how brokers are reached, and what a message looks like there."""

from __future__ import annotations

import json
import logging
import ssl
from dataclasses import dataclass
from typing import Any

from replaykit.engine import head, http1
from replaykit.engine.gor import parse_record
from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.records.message import Message


@dataclass(frozen=True)
class Broker:
    """hosts: `a:9092,b:9092`. json: GoReplay's JSON in place of its text."""

    hosts: str
    topic: str
    json: bool = False
    sasl: bool = False
    mechanism: str = ""
    username: str = ""
    password: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""


def options(broker: Broker) -> dict[str, Any]:
    """What aiokafka's clients take. Raises UsageError."""
    out: dict[str, Any] = {"bootstrap_servers": broker.hosts.split(",")}
    tls = bool(broker.ca or broker.certificate)
    if bool(broker.certificate) != bool(broker.key):
        raise UsageError("--kafka-tls-client-cert and --kafka-tls-client-key: give both or none")
    if tls:
        try:
            context = ssl.create_default_context(cafile=broker.ca or None)
            if broker.certificate:
                context.load_cert_chain(broker.certificate, broker.key)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"--kafka-tls-*: cannot be read: {error}") from None
        out["ssl_context"] = context
    if broker.sasl:
        mechanism = broker.mechanism or "PLAIN"
        if mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
            raise UsageError(f"kafka mechanism {mechanism!r}: there are PLAIN, SCRAM-SHA-256, SCRAM-SHA-512")
        out |= {
            "sasl_mechanism": mechanism,
            "sasl_plain_username": broker.username,
            "sasl_plain_password": broker.password,
        }
    out["security_protocol"] = ("SASL_" if broker.sasl else "") + ("SSL" if tls else "PLAINTEXT")
    return out


def module() -> Any:
    """aiokafka. Raises UsageError where it is not installed."""
    try:
        import aiokafka
    except ImportError:
        raise needs("Kafka needs the package aiokafka", "kafka") from None
    logging.getLogger("aiokafka").setLevel(
        logging.CRITICAL
    )  # a broker that is away is told once, by whoever waits for it
    return aiokafka


def to_json(m: Message) -> bytes:
    """GoReplay's JSON of a message."""
    size = head.end(m.payload)
    line = head.request(m.payload)
    first = m.payload.split(b"\n", 1)[0].rstrip(b"\r").split(b" ")
    method, target = (
        (m.payload[slice(*at)] for at in line) if line else (first[0], first[1] if first[1:] else b"")
    )
    headers: dict[str, str] = {}
    for name, value in http1.fields(m.payload[:size]):
        key = "-".join(part.capitalize() for part in name.decode("latin-1").strip().split("-"))
        text = value.decode("utf-8", "surrogateescape")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    record = {
        "Req_URL": target.decode("utf-8", "surrogateescape"),
        "Req_Type": str(m.kind),
        "Req_ID": m.id,
        "Req_Ts": str(m.time_ns),
        "Req_Method": method.decode("latin-1"),
    }
    body = m.payload[size:]
    if body:
        record["Req_Body"] = body.decode("utf-8", "surrogateescape")
    return json.dumps(record | ({"Req_Headers": headers} if headers else {})).encode()


def from_json(data: bytes) -> Message | None:
    """A message of GoReplay's JSON; None where it is none."""
    try:
        found = json.loads(data)
        kind, time = int(found["Req_Type"]), int(found["Req_Ts"])
        lines = [f"{found['Req_Method']} {found['Req_URL']}" + (" HTTP/1.1" if kind == 1 else " ")]
        lines += [f"{name}: {value}" for name, value in (found.get("Req_Headers") or {}).items()]
        text = "\r\n".join([*lines, "", found.get("Req_Body") or ""])
        identifier = str(found["Req_ID"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if kind not in (1, 2, 3) or not identifier or any(c in identifier for c in " \n"):
        return None
    return Message(kind, identifier, time, 0, text.encode("utf-8", "surrogateescape"))


def from_text(data: bytes) -> Message | None:
    """A message of GoReplay's text: its first line, then the payload."""
    record = parse_record(data)
    if record is None:
        return None
    identifier = record.id.decode("latin-1")
    return Message(record.kind, identifier, record.time, record.latency, record.payload)
