"""What of the traffic is looked at and how, as people say it: in a command line, a pipeline's file, a
call.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from replaykit.attribution.patterns import read_patterns
from replaykit.capturing.places import parse_ports
from replaykit.config.kinds import Kind, Many, Text, Texts
from replaykit.config.options import Option, Options, Port, Positive, Whole
from replaykit.config.wording import wrong
from replaykit.engine.options import Options as EngineSettings
from replaykit.engine.options import header_rule
from replaykit.errors import UsageError
from replaykit.units import parse_duration, parse_size


class FilterOptions(Options):
    """Which exchanges. Header rules are `NAME` or `NAME:REGEX`; endpoints: files of patterns."""

    panel: ClassVar[str] = "filters (regular expressions, RE2 syntax) and redaction"

    allow_header: Annotated[
        Texts,
        Option(
            "only exchanges whose request has this header (with a value that matches)",
            "NAME[:REGEX]",
            also=("--http-allow-header",),
        ),
    ] = ()
    allow_method: Annotated[
        Texts, Option("only exchanges of this method", "METHOD", also=("--http-allow-method",))
    ] = ()
    allow_url: Annotated[
        Texts, Option("only exchanges whose target matches", "REGEX", also=("--http-allow-url",))
    ] = ()
    disallow_header: Annotated[
        Texts,
        Option(
            "no exchanges whose request has this header (with a value that matches)",
            "NAME[:REGEX]",
            also=("--http-disallow-header",),
        ),
    ] = ()
    disallow_method: Annotated[
        Texts, Option("no exchanges of this method", "METHOD", also=("--http-disallow-method",))
    ] = ()
    disallow_url: Annotated[
        Texts, Option("no exchanges whose target matches", "REGEX", also=("--http-disallow-url",))
    ] = ()
    endpoints: Annotated[
        Texts, Option("endpoint patterns such as /users/{id}, one a line, or an OpenAPI file", "FILE")
    ] = ()


class RedactionOptions(FilterOptions):
    """And what of them is never written."""

    panel: ClassVar[str] = FilterOptions.panel

    redact: Annotated[Texts, Option("replaces the values of this header by ***", "NAME")] = ()
    redact_param: Annotated[Texts, Option("replaces the values of this query parameter by ***", "NAME")] = ()


class ProtocolOptions(Options):
    """What is read, and how."""

    panel: ClassVar[str] = "protocols"

    tls_keys: Annotated[
        Text | None, Option("key log (SSLKEYLOGFILE) to read TLS with, followed while it grows", "FILE")
    ] = None
    protocol: Annotated[
        Texts,
        Option(
            "also reads these protocols by their plug-ins: redis, postgresql, ...; raw: connections are"
            " streams of bytes",
            "NAMES",
            complete="protocols",
        ),
    ] = ()
    client_from: Annotated[
        Text | None,
        Option(
            "who the client is: x-forwarded-for, forwarded, x-real-ip, or another header; HOPS trusted"
            " proxies, counted from the right (default 1)",
            "HEADER[:HOPS]",
        ),
    ] = None
    vxlan_port: Annotated[
        Many[Port], Option("UDP port that carries VXLAN (default 4789 and 8472)", "PORT")
    ] = ()
    vni: Annotated[Many[Whole], Option("only this VXLAN network; -N: all but this one", "N")] = ()


class RewriteOptions(Options):
    """What is done to messages on the move."""

    panel: ClassVar[str] = "rules over messages (GoReplay's; with --http- in front too)"

    set_header: Annotated[
        Texts, Option("sets this header in every request", "NAME:VALUE", also=("--http-set-header",))
    ] = ()
    set_param: Annotated[
        Texts,
        Option("sets this query parameter in every request", "NAME=VALUE", also=("--http-set-param",)),
    ] = ()
    rewrite_url: Annotated[
        Texts,
        Option(
            "rewrites targets; $1 is the pattern's first group", "REGEX:TARGET", also=("--http-rewrite-url",)
        ),
    ] = ()
    rewrite_header: Annotated[
        Texts,
        Option("rewrites the values of this header", "NAME:REGEX,VALUE", also=("--http-rewrite-header",)),
    ] = ()
    basic_auth_filter: Annotated[
        Texts,
        Option(
            "only requests whose user:password matches, or that have none",
            "REGEX",
            also=("--http-basic-auth-filter",),
        ),
    ] = ()
    header_limiter: Annotated[
        Texts,
        Option(
            "that share of requests, by the hash of this header",
            "NAME:PERCENT",
            also=("--http-header-limiter",),
        ),
    ] = ()
    param_limiter: Annotated[
        Texts,
        Option(
            "that share of requests, by the hash of this parameter",
            "NAME:PERCENT",
            also=("--http-param-limiter",),
        ),
    ] = ()


def _removed(given: object) -> None:
    raise wrong("there is one engine now, the compiled one; leave the option out")


class RemovedOptions(Options):
    """Of earlier versions: they say what became of them."""

    engine: Annotated[None, Kind(_removed, {"not": {}}), Option("", hidden=True)] = None


class EngineOptions(Options):
    """What the engine may keep; sizes and times as people write them, such as `16MiB` and `5m`."""

    panel: ClassVar[str] = "engine and bounds"

    max_connections: Annotated[Positive | None, Option("connections followed at a time", "N")] = None
    max_connection_buffer: Annotated[
        Text | None, Option("out-of-order bytes kept for one connection (default 1MiB)", "SIZE")
    ] = None
    max_buffer: Annotated[Text | None, Option("bytes in all buffers (default 96MiB)", "SIZE")] = None
    max_message: Annotated[Text | None, Option("largest message written to .gor (default 16MiB)", "SIZE")] = (
        None
    )
    idle_timeout: Annotated[Text | None, Option("ends silent connections (default 5m)", "TIME")] = None


class TrafficOptions(RedactionOptions, ProtocolOptions, EngineOptions, RemovedOptions):
    """All of them, as the engine takes them."""

    @property
    def only_ports(self) -> str | None:
        """Connections to these, `80,8000-8010`; None: to all."""
        return None

    def options(self, requests: bool, responses: bool, slice_ns: int = 0) -> EngineSettings:
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
        return EngineSettings(
            vxlan_vnis=tuple(self.vni),
            raw="raw" in protocols,
            protocols=tuple(name for name in protocols if name != "raw"),
            tls_keys=self.tls_keys,
            client_from=None if self.client_from is None else _client_from(self.client_from),
            ports=parse_ports(self.only_ports),
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


class Filters(TrafficOptions):
    """Of files: names and values are those of the commands' options. Raises UsageError for what is wrong."""

    port: Annotated[
        Text | None, Option("only connections to these ports, e.g. 80,8000-8010", "PORTS", panel="")
    ] = None

    @property
    def only_ports(self) -> str | None:
        return self.port


def _client_from(text: str) -> tuple[str, int]:
    """`x-forwarded-for:2` as a header's name and the proxies to trust. Raises UsageError."""
    name, colon, hops = text.partition(":")
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
        raise UsageError(f"--client-from {text!r}: give a header's name, such as x-forwarded-for")
    if colon and not (hops.isascii() and hops.isdecimal() and 1 <= int(hops) <= 100):
        raise UsageError(f"--client-from {text}: after the colon give how many proxies are trusted, 1 to 100")
    return name, int(hops or 1)
