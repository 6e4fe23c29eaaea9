"""What a stream of a tunnel is to reach, and the CONNECT that asks for it (RFC 9113 §8.5, RFC 9298)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote, unquote

from h2.events import RequestReceived, ResponseReceived

_MASQUE = "/.well-known/masque/udp/"
"""RFC 9298 §2."""


@dataclass(frozen=True)
class Asked:
    """What a stream is to reach: `host:port`, by TCP or, in capsules (RFC 9297), by UDP."""

    target: str
    datagrams: bool = False

    def refused(self, status: int) -> str:
        """What a response that is not 200 means."""
        words = {403: "not allowed there", 502: "cannot be reached", 504: "does not answer"}
        return f"{self.target} through the tunnel: {words.get(status, status)}"


def connect_fields(asked: Asked) -> list[tuple[str, str]]:
    """The CONNECT's header fields."""
    if not asked.datagrams:
        return [(":method", "CONNECT"), (":authority", asked.target)]
    host, _, port = asked.target.rpartition(":")
    return [
        (":method", "CONNECT"),
        (":protocol", "connect-udp"),
        (":scheme", "https"),
        (":path", _MASQUE + quote(host.strip("[]"), safe="") + f"/{port}/"),
        (":authority", asked.target),
        ("capsule-protocol", "?1"),
    ]


def wanted(event: RequestReceived) -> Asked | None:
    """What a CONNECT asks for; None: it is something else."""
    if field(event, ":method") != "CONNECT":
        return None
    kind = field(event, ":protocol")
    if not kind:
        return Asked(field(event, ":authority"))
    parts = field(event, ":path").removeprefix(_MASQUE).strip("/").split("/")
    if kind != "connect-udp" or len(parts) != 2:
        return None
    host = unquote(parts[0])
    return Asked(f"[{host}]:{parts[1]}" if ":" in host else f"{host}:{parts[1]}", True)


def field(event: RequestReceived | ResponseReceived, name: str) -> str:
    """Of a request's or a response's head; empty where it is not there."""
    for key, value in event.headers or ():
        if key in (name, name.encode()):
            return value.decode("latin-1") if isinstance(value, bytes) else value
    return ""
