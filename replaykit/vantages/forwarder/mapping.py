"""What is forwarded: mappings of ports, hosts, and the clients that own them; as configuration and API declare them."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping as Dict
from dataclasses import asdict, dataclass, fields
from typing import Any

from replaykit.errors import UsageError
from replaykit.units import parse_size

PROTOCOLS = ("tcp", "udp", "host")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Mapping:
    """A port that is handed on; of `host`, the connections on that port that ask for this host (HTTP's Host, TLS's SNI).

    flow_limit_mb: MB of 2^20 ever moved; rate_limit: bytes a second; allow, deny: networks that visitors may come from.
    """

    source_port: int
    target_host: str
    target_port: int
    protocol: str = "tcp"
    listen: str = "127.0.0.1"
    host: str = ""
    client: str = ""
    use_tunnel: bool = False
    flow_limit_mb: int | None = None
    max_connections: int | None = None
    rate_limit: int | None = None
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    proxy_protocol: str = ""
    accept_proxy: bool = False
    remark: str = ""

    @property
    def name(self) -> str:
        """Its own among all: `30009`, `30009/udp`, `example.com:8081`."""
        if self.protocol == "host":
            return f"{self.host}:{self.source_port}"
        return str(self.source_port) if self.protocol == "tcp" else f"{self.source_port}/{self.protocol}"


@dataclass(frozen=True)
class Client:
    """Who owns mappings; its limits are over all of them together."""

    name: str
    flow_limit_mb: int | None = None
    max_connections: int | None = None
    rate_limit: int | None = None
    max_mappings: int | None = None
    remark: str = ""


def mapping(given: Dict[str, Any]) -> Mapping:
    """From plain values. Raises UsageError that names the key."""
    values = _plain(given, Mapping)
    for name in ("source_port", "target_host", "target_port"):
        if name not in values:
            raise UsageError(f"{name} is missing")
    for name in ("source_port", "target_port"):
        _number(name, values[name], 1, 65_535)
    if not isinstance(values["target_host"], str) or not values["target_host"]:
        raise UsageError("target_host: give a name or an address")
    protocol = values.get("protocol", "tcp")
    if protocol not in PROTOCOLS:
        raise UsageError(f"protocol: {protocol!r}: choose from {', '.join(PROTOCOLS)}")
    if (protocol == "host") != bool(values.get("host")):
        raise UsageError("host: give the host's name with protocol host, and only there")
    if "host" in values:
        values["host"] = values["host"].lower()  # as what is asked for is compared
    try:
        ipaddress.ip_address(values.get("listen", "127.0.0.1"))
    except ValueError:
        raise UsageError(f"listen: {values['listen']!r} is no address") from None
    if values.get("proxy_protocol", "") not in ("", "v1", "v2"):
        raise UsageError("proxy_protocol: choose from v1 and v2")
    for name in ("proxy_protocol", "accept_proxy"):
        if values.get(name) and protocol == "udp":
            raise UsageError(f"{name} is not for udp")
    for name in ("allow", "deny"):
        values[name] = tuple(_list(name, values.get(name, ())))
        networks(values[name], name)
    _limits(values)
    return Mapping(**values)


def client(given: Dict[str, Any]) -> Client:
    """From plain values. Raises UsageError that names the key."""
    values = _plain(given, Client)
    if not isinstance(values.get("name"), str) or not values["name"]:
        raise UsageError("name is missing")
    _limits(values)
    if values.get("max_mappings") is not None:
        _number("max_mappings", values["max_mappings"], 0, 2**31)
    return Client(**values)


def plain(one: Mapping | Client) -> dict[str, Any]:
    """As JSON can hold it; what is not set is left out."""
    found = {f.name: f.default for f in fields(one)}
    return {n: list(v) if isinstance(v, tuple) else v for n, v in asdict(one).items() if v != found[n]}


def networks(texts: tuple[str, ...], name: str = "allow") -> list[Network]:
    """Raises UsageError."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise UsageError(f"{name}: {text!r} is no network; write 192.0.2.0/24") from None
    return found


def _plain(given: Dict[str, Any], kind: type[Mapping] | type[Client]) -> dict[str, Any]:
    known = [f.name for f in fields(kind)]
    for name in given:
        if name not in known:
            raise UsageError(f"{name}: not known; there are {', '.join(known)}")
    values = {n: v for n, v in given.items() if v is not None}
    for name in ("client", "remark", "host", "use_tunnel", "accept_proxy"):
        wanted = bool if name in ("use_tunnel", "accept_proxy") else str
        if name in values and not isinstance(values[name], wanted):
            raise UsageError(f"{name}: give {'true or false' if wanted is bool else 'a text'}")
    return values


def _limits(values: dict[str, Any]) -> None:
    for name in ("flow_limit_mb", "max_connections"):
        if name in values:
            _number(name, values[name], 0, 2**43)
    if "rate_limit" in values:
        rate = values["rate_limit"]
        if isinstance(rate, str):
            rate = values["rate_limit"] = parse_size(rate.removesuffix("/s"))
        _number("rate_limit", rate, 1, 2**43)


def _number(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{name}: {value!r}: give a number from {least} to {most}")


def _list(name: str, value: Any) -> list[str]:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not all(isinstance(i, str) for i in items):
        raise UsageError(f"{name}: give a list of networks")
    return list(items)
