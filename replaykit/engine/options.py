"""What a run may be told. Every bound has a sound default, as in the core."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Options:
    """Times in ns, sizes in bytes.

    ports: of the servers looked at; empty means every TCP connection.
    weight: 1 / sampling probability. real_ip_header: a field of this name with the client's address is
    set in every request. client_from: the field that names a request's client, and how many proxies are
    trusted, from the right. allow_incomplete: messages with bytes missing from their body are handed out
    without them. requests, responses: which messages are handed out. slice_ns: length of the slices of packet
    time in which increments are told; 0: none are. settle_*: how long a connection without a seen handshake
    is held back, so that its beginning is not mistaken. reorder_ns, hole_ns: how long a hole may wait once
    the receiver has acknowledged it, and without that. vxlan_*: see `envelope.Vxlan`. raw: every connection
    is a stream of bytes, no protocol is looked for. protocols: names of plug-ins, which read the connections
    of plugin_ports and those that are not understood. tls_keys: a key log's path; secrets are fed to the
    engine. Header rules are (name, pattern or None). first_field_only: of repeated fields they see the first,
    as GoReplay's do.
    """

    ports: tuple[int, ...] = ()
    weight: float = 1.0
    real_ip_header: str = ""
    client_from: tuple[str, int] | None = None
    allow_incomplete: bool = False
    requests: bool = False
    responses: bool = False
    slice_ns: int = 0
    first_connection: int = 1
    max_connections: int = 100_000
    max_ended: int = 16_384
    max_connection_bytes: int = 1 << 20
    max_head_bytes: int = 64 << 10
    max_message_bytes: int = 16 << 20
    max_buffer_bytes: int = 96 << 20
    max_pipeline: int = 1024
    max_held: int = 1024
    idle_ns: int = 300_000_000_000
    linger_ns: int = 5_000_000_000
    reorder_ns: int = 100_000_000
    hole_ns: int = 5_000_000_000
    settle_ns: int = 1_000_000_000
    settle_segments: int = 64
    vxlan_ports: tuple[int, ...] = (4789, 8472)
    vxlan_vnis: tuple[int, ...] = ()
    raw: bool = False
    protocols: tuple[str, ...] = ()
    tls_keys: str | None = None
    plugin_ports: tuple[int, ...] = ()
    endpoints: tuple[str, ...] = ()
    allow_headers: tuple[tuple[str, str | None], ...] = ()
    deny_headers: tuple[tuple[str, str | None], ...] = ()
    allow_methods: tuple[str, ...] = ()
    deny_methods: tuple[str, ...] = ()
    allow_urls: tuple[str, ...] = ()
    deny_urls: tuple[str, ...] = ()
    first_field_only: bool = False
    redact_headers: tuple[str, ...] = field(default=())
    redact_parameters: tuple[str, ...] = field(default=())


def header_rule(text: str) -> tuple[str, str | None]:
    """`Name` (it must be there) or `Name:regex`."""
    name, colon, value = text.partition(":")
    return name.strip(), value.strip() if colon else None
