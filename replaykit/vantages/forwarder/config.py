"""The forwarder's configuration (YAML): mappings, hosts and clients. Refused whole, with the line, where it is wrong."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

from replaykit.config.declared import Section, Value, load
from replaykit.errors import UsageError
from replaykit.vantages.forwarder.mapping import Client, Mapping, client, mapping

T = TypeVar("T", Mapping, Client)


@dataclass(frozen=True)
class Config:
    mappings: tuple[Mapping, ...] = ()
    clients: tuple[Client, ...] = ()


def read_config(path: str) -> Config:
    """Raises UsageError that names file, line and key."""
    top = load(path)
    clients = [_made(item.section(), Client) for item in _items(top, "clients")]
    mappings: dict[str, Mapping] = {}
    for item in _items(top, "mappings"):
        one = _made(item.section(), Mapping)
        if one.name in mappings:
            raise item.error(f"there are two mappings of {one.name}")
        if one.client and all(c.name != one.client for c in clients):
            raise item.error(f"client: there is no client {one.client!r}")
        mappings[one.name] = one
    top.done()
    return Config(tuple(mappings.values()), tuple(clients))


def _items(top: Section, name: str) -> list[Value]:
    found = top.get(name)
    return [] if found is None else found.items()


def _made(section: Section, kind: type[T]) -> T:
    values: dict[str, Any] = {}
    places: dict[str, Value] = {}
    for name, value in section.pairs():
        places[name] = value
        if name == "target" and kind is Mapping:
            host, found, port = value.text().rpartition(":")
            if not found or not port.isdigit():
                raise value.error("write HOST:PORT, such as 127.0.0.1:22")
            values["target_host"], values["target_port"] = host.strip("[]"), int(port)
        elif name in ("allow", "deny"):
            values[name] = value.texts()
        elif name in ("use_tunnel", "accept_proxy"):
            values[name] = value.flag()
        elif name in ("source_port", "target_port", "flow_limit_mb", "max_connections", "max_mappings"):
            values[name] = int(value.number())
        elif name == "rate_limit" or name in [f.name for f in fields(kind)]:
            values[name] = value.text()
        else:
            raise value.error(
                f"this key is not known here; there are target, {', '.join(f.name for f in fields(kind))}"
            )
    try:
        made: Any = mapping(values) if kind is Mapping else client(values)
    except UsageError as error:
        place = places.get(str(error).partition(":")[0], section)
        raise place.error(str(error)) from None
    return made  # type: ignore[no-any-return]
