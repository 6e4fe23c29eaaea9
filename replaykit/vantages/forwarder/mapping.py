"""What is forwarded: mappings of ports, hosts, and the clients that own them; as configuration and API
declare them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from collections.abc import Mapping as Dict
from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from replaykit.config.kinds import (
    RATE_SCHEMA,
    Flag,
    Kind,
    Many,
    Text,
    as_choice,
    as_rate,
    as_text,
    number,
    one_of,
)
from replaykit.config.places import Problem
from replaykit.config.problems import wrong_at
from replaykit.config.reading import made
from replaykit.config.sections import Section
from replaykit.config.wording import missing, wrong
from replaykit.errors import UsageError

PROTOCOLS = ("tcp", "udp", "host")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_MOST = 2**43


def _named(given: Any) -> str:
    found = as_text(given)
    if not found:
        raise wrong("give a name or an address")
    return found


def _address(given: Any) -> str:
    text = as_text(given)
    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise wrong(f"{text!r} is no address") from None
    return text


def _network(given: Any) -> str:
    text = as_text(given)
    networks((text,))
    return text


def _rate(given: Any) -> int:
    rate = as_rate(given)
    if not 1 <= rate <= _MOST:
        raise wrong(f"{given!r}: give more than nothing, and at most {_MOST} bytes a second")
    return rate


def _version(given: Any) -> str:
    return as_choice(given, ("v1", "v2")) if given != "" else ""


Port = Annotated[int, number(1, 65_535, whole=True)]
Host = Annotated[str, Kind(_named, {"type": "string", "minLength": 1})]
Address = Annotated[str, Kind(_address, {"type": "string", "examples": ["127.0.0.1", "0.0.0.0", "::"]})]
Networks = Many[Annotated[str, Kind(_network, {"type": "string", "examples": ["192.0.2.0/24"]})]]
Count = Annotated[int, number(0, _MOST, whole=True)]
Rate = Annotated[int, Kind(_rate, RATE_SCHEMA)]

_TARGET = {
    "type": "string",
    "pattern": r":[0-9]+$",
    "description": "HOST:PORT that it is handed on to; or target_host and target_port",
    "examples": ["127.0.0.1:22", "[::1]:22"],
}


class Mapping(Section):
    """A port that is handed on; of `host`, the connections on that port that ask for this host (HTTP's Host,
    TLS's SNI).
    """

    source_port: Port = Field(description="The port that visitors come to")
    target_host: Host = Field(description="Where it is handed on to: a name or an address")
    target_port: Port = Field(description="The port there")
    protocol: Annotated[str, one_of(PROTOCOLS)] = Field(
        "tcp", description="tcp, udp, or host: connections that ask for `host` on a port that many share"
    )
    listen: Address = Field("127.0.0.1", description="The address to listen on")
    host: Text = Field(
        "", description="With protocol host: the name that is asked for, such as *.example.org"
    )
    client: Text = Field("", description="Who owns it: its limits are over all that it owns")
    use_tunnel: Flag = Field(False, description="The target is behind the client's tunnel")
    flow_limit_mb: Count | None = Field(None, description="MB of 2^20, both directions, ever; 0: no limit")
    max_connections: Count | None = Field(None, description="Connections at a time; 0: no limit")
    rate_limit: Rate | None = Field(None, description="Bytes a second, both directions together")
    allow: Networks = Field((), description="Networks that visitors may come from")
    deny: Networks = Field((), description="Networks that visitors may not come from")
    proxy_protocol: Annotated[str, Kind(_version, {"enum": ["", "v1", "v2"]})] = Field(
        "", description="Tells the target who the visitor is"
    )
    accept_proxy: Flag = Field(False, description="Visitors come by a proxy, which says who they are")
    remark: Text = Field("", description="A note of your own")

    @property
    def name(self) -> str:
        """Its own among all: `30009`, `30009/udp`, `example.com:8081`."""
        if self.protocol == "host":
            return f"{self.host}:{self.source_port}"
        return str(self.source_port) if self.protocol == "tcp" else f"{self.source_port}/{self.protocol}"

    def disagreements(self) -> Iterator[Problem]:
        if (self.protocol == "host") != bool(self.host):
            yield Problem(("host",), "give the host's name with protocol host, and only there")
        for name in ("proxy_protocol", "accept_proxy"):
            if getattr(self, name) and self.protocol == "udp":
                yield Problem((name,), "not for udp")

    @classmethod
    def known(cls) -> list[str]:
        return ["target", *cls.model_fields]

    @model_validator(mode="before")
    @classmethod
    def _spelt(cls, given: Dict[str, Any]) -> dict[str, Any]:
        """`target` in its two parts; the host in small letters, as what is asked for is compared."""
        values = dict(given)
        if isinstance(values.get("host"), str):
            values["host"] = values["host"].lower()
        if "target" in values:
            host, found, port = as_text(values.pop("target")).rpartition(":")
            if not found or not port.isdigit():
                raise wrong_at("write HOST:PORT, such as 127.0.0.1:22", "target")
            values |= {"target_host": host.strip("[]"), "target_port": int(port)}
        elif not {"target_host", "target_port"} & set(values):
            raise wrong(missing("target"))
        return values

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        found = handler.resolve_ref_schema(handler(schema))
        found["properties"] = {**found["properties"], "target": _TARGET}
        found["required"] = ["source_port"]
        found["anyOf"] = [{"required": ["target"]}, {"required": ["target_host", "target_port"]}]
        return found


class Client(Section):
    """Who owns mappings; its limits are over all of them together."""

    name: Host = Field(description="As mappings name it")
    flow_limit_mb: Count | None = Field(None, description="MB of 2^20, both directions, ever; 0: no limit")
    max_connections: Count | None = Field(None, description="Connections at a time; 0: no limit")
    rate_limit: Rate | None = Field(None, description="Bytes a second, both directions together")
    max_mappings: Annotated[int, number(0, 2**31, whole=True)] | None = Field(
        None, description="So many mappings at most"
    )
    remark: Text = Field("", description="A note of your own")


def mapping(given: Dict[str, Any]) -> Mapping:
    """From plain values, of which those that are None are not given.

    Raises UsageError that names the keys.
    """
    return made({n: v for n, v in given.items() if v is not None}, Mapping)


def client(given: Dict[str, Any]) -> Client:
    """From plain values, of which those that are None are not given.

    Raises UsageError that names the keys.
    """
    return made({n: v for n, v in given.items() if v is not None}, Client)


def plain(one: Mapping | Client) -> dict[str, Any]:
    """As JSON can hold it; what is not set is left out."""
    return one.model_dump(mode="json", exclude_defaults=True)


def networks(texts: tuple[str, ...]) -> list[Network]:
    """Raises UsageError."""
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise UsageError(f"{text!r} is no network; write 192.0.2.0/24") from None
    return found
