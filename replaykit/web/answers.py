"""What all answers of the API are made of, and who may ask."""

from __future__ import annotations

import hmac
import ipaddress
from typing import Any, Literal

from pydantic import BaseModel


class Answer(BaseModel):
    success: bool = True
    message: str = "ok"


class DataAnswer(Answer):
    data: dict[str, Any]


class ListAnswer(Answer):
    data: list[dict[str, Any]]


class ErrorAnswer(BaseModel):
    success: Literal[False] = False
    message: str


class Problem(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": text}
    for code, text in (
        (400, "wrong request"),
        (401, "no or wrong token"),
        (404, "no such thing"),
        (409, "not possible now"),
    )
}


def permitted(header: str, token: str | None) -> bool:
    """Whether an Authorization header brings the token."""
    if token is None:
        return True
    kind, _, given = header.partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def local(host: str) -> bool:
    """Whether a Host header names this machine: a page of somebody else's could have its own name lead here."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
