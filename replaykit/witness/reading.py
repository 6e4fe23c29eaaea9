"""What the witness says of a conversation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replaykit.witness.packets import End


class Undecided(Exception):
    """The libraries do not say what these bytes are; why."""


@dataclass(frozen=True, order=True)
class Exchange:
    """What is compared.

    Sizes in bytes as in the exchange's columns; packets: the request's first, the response's first.
    """

    method: str
    target: str
    status: int
    request_header_bytes: int
    request_body_bytes: int
    response_header_bytes: int
    response_body_bytes: int
    packets: tuple[int, int] = (0, 0)

    def content(self) -> tuple[Any, ...]:
        """Without the packets' numbers."""
        return (
            self.method,
            self.target,
            self.status,
            self.request_header_bytes,
            self.request_body_bytes,
            self.response_header_bytes,
            self.response_body_bytes,
        )


def ends_of(row: Mapping[str, Any]) -> tuple[End, End]:
    """The connection's own ends, whoever spoke for whom."""
    client = (row["proxy_ip"] or row["client_ip"], row["proxy_port"] or row["client_port"])
    return client, (row["server_ip"], row["server_port"])
