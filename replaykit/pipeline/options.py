"""What of the traffic is looked at and how, as people say it: in a command line, a pipeline's file, a call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from replaykit.attribution.patterns import read_patterns
from replaykit.capturing.places import parse_ports
from replaykit.engine.options import Options, header_rule
from replaykit.errors import UsageError
from replaykit.units import parse_duration, parse_size


@dataclass(frozen=True)
class Filters:
    """Names and values are those of the commands' options; sizes and times as people write them, such as `16MiB` and `5m`.

    port: only connections to these, `80,8000-8010`. Header rules are `NAME` or `NAME:REGEX`. endpoints: files of patterns.
    """

    port: str | None = None
    allow_header: Sequence[str] = ()
    disallow_header: Sequence[str] = ()
    allow_method: Sequence[str] = ()
    disallow_method: Sequence[str] = ()
    allow_url: Sequence[str] = ()
    disallow_url: Sequence[str] = ()
    redact: Sequence[str] = ()
    redact_param: Sequence[str] = ()
    endpoints: Sequence[str] = ()
    tls_keys: str | None = None
    protocol: Sequence[str] = ()
    client_from: str | None = None
    vxlan_port: Sequence[int] = ()
    vni: Sequence[int] = ()
    max_connections: int | None = None
    max_connection_buffer: str | None = None
    max_buffer: str | None = None
    max_message: str | None = None
    idle_timeout: str | None = None

    def options(self, requests: bool, responses: bool, slice_ns: int = 0) -> Options:
        """The engine's options. requests, responses: these messages are wanted. Raises UsageError."""
        bounds: dict[str, Any] = {
            "max_connections": self.max_connections,
            "max_connection_bytes": self.max_connection_buffer and parse_size(self.max_connection_buffer),
            "max_buffer_bytes": self.max_buffer and parse_size(self.max_buffer),
            "max_message_bytes": self.max_message and parse_size(self.max_message),
            "idle_ns": self.idle_timeout and int(parse_duration(self.idle_timeout) * 1e9),
            "vxlan_ports": tuple(self.vxlan_port) or None,
        }
        protocols = [name for part in self.protocol for name in part.split(",")]
        return Options(
            vxlan_vnis=tuple(self.vni),
            raw="raw" in protocols,
            protocols=tuple(name for name in protocols if name != "raw"),
            tls_keys=self.tls_keys,
            client_from=None if self.client_from is None else _client_from(self.client_from),
            ports=parse_ports(self.port),
            requests=requests,
            responses=responses,
            slice_ns=slice_ns,
            endpoints=tuple(p for name in self.endpoints for p in read_patterns(name)),
            allow_headers=tuple(map(header_rule, self.allow_header)),
            deny_headers=tuple(map(header_rule, self.disallow_header)),
            allow_methods=tuple(f"^{re.escape(m)}$" for m in self.allow_method),
            deny_methods=tuple(f"^{re.escape(m)}$" for m in self.disallow_method),
            allow_urls=tuple(self.allow_url),
            deny_urls=tuple(self.disallow_url),
            redact_headers=tuple(self.redact),
            redact_parameters=tuple(self.redact_param),
            **{name: value for name, value in bounds.items() if value is not None},
        )


def _client_from(text: str) -> tuple[str, int]:
    """`x-forwarded-for:2` as a header's name and the proxies to trust. Raises UsageError."""
    name, colon, hops = text.partition(":")
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise UsageError(f"--client-from {text!r}: give a header's name, such as x-forwarded-for")
    if colon and not (hops.isascii() and hops.isdecimal() and 1 <= int(hops) <= 100):
        raise UsageError(f"--client-from {text}: after the colon give how many proxies are trusted, 1 to 100")
    return name, int(hops or 1)
