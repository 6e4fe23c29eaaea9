"""What all responses of the API are made of."""

from __future__ import annotations

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
    """A response that is no success."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorAnswer, "description": text}
    for code, text in (
        (400, "wrong request"),
        (401, "no or wrong token"),
        (403, "not from another site's page, or not without a token"),
        (404, "no such thing"),
        (409, "not possible now"),
        (413, "too large a body"),
        (429, "too many wrong tokens"),
        (503, "too many streams"),
    )
}
