"""The forwarder's configuration (YAML): mappings, hosts and clients.

Refused whole, with the lines, where it is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from replaykit.config.kinds import Many
from replaykit.config.places import Problem
from replaykit.config.reading import read
from replaykit.config.sections import Section
from replaykit.vantages.forwarder.mapping import Client, Mapping


@dataclass(frozen=True)
class Config:
    mappings: tuple[Mapping, ...] = ()
    clients: tuple[Client, ...] = ()


class ForwardFile(Section):
    """What `replaykit forward --config` reads."""

    clients: Many[Client] = Field((), description="Who owns mappings, and what all of theirs may do together")
    mappings: Many[Mapping] = Field((), description="Ports and hosts that are handed on")

    def disagreements(self) -> Iterator[Problem]:
        names: set[str] = set()
        owners = {c.name for c in self.clients}
        for n, one in enumerate(self.mappings):
            if one.name in names:
                yield Problem(("mappings", n), f"there are two mappings of {one.name}")
            if one.client and one.client not in owners:
                yield Problem(("mappings", n, "client"), f"there is no client {one.client!r}")
            names.add(one.name)


def read_config(path: str) -> Config:
    """Raises UsageError that names file, lines and keys."""
    found = read(path, ForwardFile)
    return Config(found.mappings, found.clients)
