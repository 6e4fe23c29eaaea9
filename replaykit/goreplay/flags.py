"""GoReplay's flags: their names, kinds and defaults, and how Go reads a command line.

One or two dashes, `--flag value` or `--flag=value`; a boolean takes `=false` only with the sign;
sizes such as 10mb count 1024 each; durations such as 1m30s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from replaykit.errors import UsageError

Kind = Literal["text", "texts", "flag", "number", "numbers", "duration", "size", "share"]


@dataclass(frozen=True)
class Flag:
    """`not_here`: why it does nothing in replaykit; it is refused with these words."""

    name: str
    kind: Kind
    default: Any
    help: str
    not_here: str | None = None


def _f(name: str, kind: Kind, default: Any, text: str, not_here: str | None = None) -> Flag:
    return Flag(name, kind, default, text, not_here)


_GO = "it profiles Go's runtime; use py-spy or perf"
MB = 1 << 20

FLAGS: tuple[Flag, ...] = (
    _f("input-raw", "texts", (), "captures traffic: [HOST or INTERFACE]:PORT[,PORT], or FILE.pcap:PORT"),
    _f("input-raw-track-response", "flag", False, "captures responses too"),
    _f("input-raw-engine", "text", "libpcap", "libpcap, raw_socket (both: our ring), pcap_file, vxlan"),
    _f("input-raw-protocol", "text", "http", "http, or binary and raw: streams of bytes"),
    _f("input-raw-realip-header", "text", "", "sets this header to the client's address"),
    _f("input-raw-expire", "duration", 2.0, "waits so long for lost bytes of a message"),
    _f("input-raw-bpf-filter", "text", "", "a tcpdump expression"),
    _f("input-raw-buffer-size", "size", 0, "of the ring (default 128 MiB)"),
    _f("input-raw-buffer-timeout", "duration", 0.0, "taken; our ring hands over within 60 ms"),
    _f("input-raw-override-snaplen", "flag", False, "taken; packets are always captured whole"),
    _f(
        "input-raw-timestamp-type",
        "text",
        "",
        "PCAP_TSTAMP_HOST and its kin; others are not to be had from the ring",
    ),
    _f("input-raw-promisc", "flag", False, "promiscuous mode; name an interface"),
    _f(
        "input-raw-monitor",
        "flag",
        False,
        "",
        "radio monitor mode is set outside: iw dev IFACE set type monitor",
    ),
    _f("input-raw-stats", "flag", False, "packets, drops and messages every 5 s"),
    _f("input-raw-allow-incomplete", "flag", False, "messages with bytes missing are handed on"),
    _f("input-raw-ignore-interface", "texts", (), "captures on all interfaces but this one"),
    _f("input-raw-vlan", "flag", False, "taken; 802.1Q is always understood"),
    _f("input-raw-vlan-vid", "numbers", (), "only this 802.1Q network"),
    _f("input-raw-vxlan-port", "number", 4789, "UDP port that --input-raw-engine vxlan listens on"),
    _f("input-raw-vxlan-vni", "numbers", (), "only this VXLAN network; -N: all but this one"),
    _f("input-raw-probability", "share", 1.0, "captures that share of the connections"),
    _f("input-raw-queue", "number", -1, "instances with this number share the connections"),
    _f("input-raw-workers", "number", 1, "captures with so many threads"),
    _f("input-raw-max-size", "size", 0, "largest message handed on (default --copy-buffer-size)"),
    _f("input-raw-own-requests", "flag", False, "captures what this host asks of others on these ports too"),
    _f("input-file", "texts", (), "reads .gor files: a glob or s3://BUCKET/PREFIX, with |200% twice as fast"),
    _f("input-file-loop", "flag", False, "reads them again and again"),
    _f("input-file-read-depth", "number", 100, "records put in order of time at once"),
    _f("input-file-dry-run", "flag", False, "tells how long a replay takes and what is in the files"),
    _f("input-file-max-wait", "duration", 0.0, "no pause between messages is longer"),
    _f("input-tcp", "texts", (), "listens for messages of other instances: [HOST]:PORT"),
    _f("input-tcp-secure", "flag", False, "by TLS"),
    _f("input-tcp-certificate", "text", "", "PEM file"),
    _f("input-tcp-certificate-key", "text", "", "PEM file"),
    _f("input-http", "texts", (), "an HTTP server whose requests are messages: [HOST]:PORT"),
    _f("input-dummy", "texts", (), "a request every second"),
    _f("input-kafka-host", "text", "", "brokers: a:9092,b:9092"),
    _f("input-kafka-topic", "text", "", "topic to read"),
    _f("input-kafka-json-format", "flag", False, "messages are GoReplay's JSON"),
    _f("input-kafka-offset", "text", "-1", "-1 newest, -2 oldest, or a number; with |200% twice as fast"),
    _f("input-kafka-use-sasl", "flag", False, "logs in by SASL"),
    _f("input-kafka-mechanism", "text", "", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
    _f("input-kafka-username", "text", "", "SASL user"),
    _f("input-kafka-password", "text", "", "SASL password"),
    _f(
        "output-file",
        "texts",
        (),
        "writes .gor files; %Y %m %d %H %M %S %NS %r %t %i in names; s3://BUCKET/KEY",
    ),
    _f("output-file-append", "flag", False, "one file that grows, no chunks"),
    _f("output-file-flush-interval", "duration", 1.0, "between flushes"),
    _f("output-file-size-limit", "size", 32 * MB, "of a chunk"),
    _f("output-file-queue-limit", "number", 256, "messages of a chunk; 0: any number"),
    _f("output-file-max-size-limit", "size", 1 << 40, "of all that is written"),
    _f("output-file-buffer", "text", "/tmp", "where chunks for S3 grow"),
    _f("output-http", "texts", (), "sends requests to this URL"),
    _f("output-http-workers", "number", 0, "connections at most; 0: as many as it takes"),
    _f("output-http-workers-min", "number", 0, "taken; connections are opened when needed"),
    _f("output-http-worker-timeout", "duration", 2.0, "taken; idle connections close after a minute"),
    _f("output-http-queue-len", "number", 1000, "requests under way or waiting before inputs wait"),
    _f("output-http-timeout", "duration", 5.0, "for a response"),
    _f("output-http-redirects", "number", 0, "followed on the same target"),
    _f("output-http-track-response", "flag", False, "responses become messages of kind 3"),
    _f("output-http-response-buffer", "size", 100 << 10, "bytes kept of a response"),
    _f("output-http-skip-verify", "flag", False, "does not verify the target's certificate"),
    _f("output-http-stats", "flag", False, "tells about the queue now and then (with --stats)"),
    _f("output-http-stats-ms", "number", 5000, "how often"),
    _f("output-http-elasticsearch", "text", "", "documents of requests and responses: host:port/index"),
    _f("http-original-host", "flag", False, "keeps the recorded Host"),
    _f("output-tcp", "texts", (), "sends messages to another instance: HOST:PORT"),
    _f("output-tcp-secure", "flag", False, "by TLS"),
    _f("output-tcp-skip-verify", "flag", False, "does not verify its certificate"),
    _f("output-tcp-sticky", "flag", False, "request and response over the same connection"),
    _f("output-tcp-workers", "number", 10, "connections"),
    _f("output-tcp-stats", "flag", False, "tells about the queue every 5 s (with --stats)"),
    _f("output-tcp-response-buffer", "size", 100 << 10, "bytes kept of a response by --output-binary"),
    _f("output-ws", "texts", (), "the same by WebSocket: ws://HOST[:PORT]/PATH"),
    _f("output-ws-skip-verify", "flag", False, "does not verify its certificate"),
    _f("output-ws-sticky", "flag", False, "request and response over the same connection"),
    _f("output-ws-workers", "number", 10, "connections"),
    _f("output-ws-stats", "flag", False, "tells about the queue every 5 s (with --stats)"),
    _f("output-binary", "texts", (), "sends payloads of any protocol: HOST:PORT"),
    _f("output-binary-workers", "number", 0, "connections; 0: one for each recorded"),
    _f("output-binary-timeout", "duration", 5.0, "for a response"),
    _f("output-binary-track-response", "flag", False, "responses become messages of kind 3"),
    _f("output-binary-debug", "flag", False, "says what is sent"),
    _f("output-kafka-host", "text", "", "brokers: a:9092,b:9092"),
    _f("output-kafka-topic", "text", "", "topic to write"),
    _f("output-kafka-json-format", "flag", False, "as GoReplay's JSON"),
    _f("output-kafka-use-sasl", "flag", False, "logs in by SASL"),
    _f("output-kafka-mechanism", "text", "", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"),
    _f("output-kafka-username", "text", "", "SASL user"),
    _f("output-kafka-password", "text", "", "SASL password"),
    _f("kafka-tls-ca-cert", "text", "", "CA certificate of the brokers"),
    _f("kafka-tls-client-cert", "text", "", "our certificate"),
    _f("kafka-tls-client-key", "text", "", "its key"),
    _f("output-stdout", "flag", False, "prints messages"),
    _f("output-null", "flag", False, "drops messages"),
    _f("middleware", "text", "", "a program that sees and changes every message; py://NAME: in this process"),
    _f("prettify-http", "flag", False, "messages without chunks and content codings"),
    _f("split-output", "flag", False, "each message goes to one output only, in turn"),
    _f("recognize-tcp-sessions", "flag", False, "a connection for each recorded one; splits by it"),
    _f("copy-buffer-size", "size", 5 * MB, "messages are cut there"),
    _f("exit-after", "duration", 0.0, "ends after so long"),
    _f("http-allow-url", "texts", (), "only requests whose target matches"),
    _f("http-disallow-url", "texts", (), "no requests whose target matches"),
    _f("http-black-list", "texts", (), "the same"),
    _f("http-allow-header", "texts", (), "NAME:REGEX, or NAME: only requests with such a header"),
    _f("http-disallow-header", "texts", (), "NAME:REGEX, or NAME: no requests with such a header"),
    _f("http-allow-method", "texts", (), "only requests of this method"),
    _f("http-rewrite-url", "texts", (), "REGEX:TARGET"),
    _f("http-rewrite-header", "texts", (), "NAME:REGEX,VALUE"),
    _f("http-set-header", "texts", (), "NAME:VALUE"),
    _f("http-set-param", "texts", (), "NAME=VALUE"),
    _f("http-basic-auth-filter", "texts", (), "only requests whose user:password matches"),
    _f("http-header-limiter", "texts", (), "NAME:25%, by the hash of the header"),
    _f("http-param-limiter", "texts", (), "NAME:25%, by the hash of the parameter"),
    _f("stats", "flag", False, "tells who uses the bandwidth, as JSON lines, and about queues"),
    _f("verbose", "number", 0, "more is said with 1, 2 and 3"),
    _f("http-pprof", "text", "", "", _GO),
    _f("cpuprofile", "text", "", "", _GO),
    _f("memprofile", "text", "", "", _GO),
)
BY_NAME = {flag.name: flag for flag in FLAGS}

_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_SIZE = re.compile(r"(?i)((?:0x[0-9a-f_]+|0b[01_]+|0o?[0-7_]+|[0-9_]+))(kb|mb|gb|tb|)\Z")


def duration(text: str) -> float:
    """Seconds of `1m30s`; ValueError for anything else."""
    sign = -1.0 if text.startswith("-") else 1.0
    plain = text.lstrip("+-")
    if plain == "0":
        return 0.0
    parts = _PART.findall(plain)
    if not parts or "".join(n + unit for n, unit in parts) != plain:
        raise ValueError("write 300ms, 2s or 1m30s")
    return sign * float(sum(float(n) * _SECONDS[unit] for n, unit in parts))


def size(text: str) -> int:
    """Bytes of `10mb` (10 x 2^20), `64kb`, `4096`, `0x10`; ValueError for anything else."""
    match = _SIZE.match(text)
    if match is None:
        raise ValueError("write 10mb, 64kb or a number of bytes")
    digits = match[1].lower()
    if re.fullmatch(r"0[0-7_]+", digits):
        digits = "0o" + digits[1:]
    return int(digits, 0) << {"": 0, "kb": 10, "mb": 20, "gb": 30, "tb": 40}[match[2].lower()]


def _boolean(text: str) -> bool:
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError("write true or false")


def _share(text: str) -> float:
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value <= 1:
        raise ValueError("write a share above 0 and up to 1, such as 0.1")
    return value


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Values by flag name, with underscores; flags that may be repeated give lists. Raises UsageError."""
    out: dict[str, Any] = {
        f.name.replace("-", "_"): list(f.default) if f.kind in ("texts", "numbers") else f.default
        for f in FLAGS
    }
    at = 0
    while at < len(arguments):
        argument = arguments[at]
        at += 1
        if not argument.startswith("-") or argument in ("-", "--"):
            raise UsageError(f"gor: {argument!r} belongs to no flag (see gor --help)")
        name, sign, value = argument.lstrip("-").partition("=")
        flag = BY_NAME.get(name)
        if flag is None or argument.startswith("---"):
            raise UsageError(f"gor: there is no flag {argument.partition('=')[0]} (see gor --help)")
        if not sign:
            if flag.kind == "flag":
                follows = arguments[at] if at < len(arguments) else ""
                value = follows if follows in ("true", "false") else "true"
                at += follows in ("true", "false")
            elif at == len(arguments):
                raise UsageError(f"gor: --{name} needs a value")
            else:
                value = arguments[at]
                at += 1
        if flag.not_here is not None:
            if flag.kind == "flag" and value == "false":
                continue
            raise UsageError(f"gor: --{name} is not here: {flag.not_here}")
        _set(out, flag, value)
    return out


def _set(out: dict[str, Any], flag: Flag, value: str) -> None:
    key = flag.name.replace("-", "_")
    try:
        match flag.kind:
            case "texts":
                out[key].append(value)
            case "numbers":
                out[key].append(int(value, 0))
            case "flag":
                out[key] = _boolean(value)
            case "number":
                out[key] = int(value, 0)
            case "duration":
                out[key] = duration(value)
            case "size":
                out[key] = size(value)
            case "share":
                out[key] = _share(value)
            case _:
                out[key] = value
    except ValueError as error:
        said = str(error) if str(error).startswith("write") else "write a number"
        raise UsageError(f"gor: --{flag.name} {value}: {said}") from None


def usage() -> str:
    """The help."""
    lines = ["gor: GoReplay's command line, by replaykit. Flags take one or two dashes, `=` or a space.", ""]
    lines += [
        f"  --{f.name} {'' if f.kind == 'flag' else f.kind.removesuffix('s').upper()}\n      {f.help}"
        for f in FLAGS
        if f.not_here is None
    ]
    lines += [
        "",
        "Any input and output takes a limit: TARGET|10% or TARGET|100 (messages a second).",
        "examples:",
        "  gor --input-raw :8080 --output-file requests.gor",
        "  gor --input-file requests.gor --output-http http://127.0.0.1:8000",
        (
            "  gor --input-raw :80 --input-raw-track-response --middleware ./middleware.sh --output-http"
            " http://127.0.0.1:8000"
        ),
    ]
    return "\n".join(lines)
