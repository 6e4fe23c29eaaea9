"""What the witness says of a conversation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class Undecided(Exception):
    """The libraries do not say what these bytes are; why."""


@dataclass(frozen=True, order=True)
class Exchange:
    """What is compared. Sizes in bytes as in the exchange's columns; packets: the request's first, the response's first."""

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
            self.method, self.target, self.status, self.request_header_bytes, self.request_body_bytes,
            self.response_header_bytes, self.response_body_bytes,
        )  # fmt: skip
