"""The kinds of value that files hold (sizes, durations, shares, choices, …).

Each reads what people write, says in its own words what is wrong, and describes itself for JSON Schema, by
which editors complete and check a file while it is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

from replaykit.config.spelling import Spelt
from replaykit.config.wording import near, wrong
from replaykit.errors import UsageError
from replaykit.units import parse_duration, parse_size

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")
Description = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Kind:
    """A value of one kind: what makes it of what was written (raising UsageError or `wrong`), and its JSON
    Schema.
    """

    read: Callable[[Any], Any]
    schema: Description = field(default_factory=dict)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # pydantic is loaded where values are checked, and not before

        return core_schema.no_info_plain_validator_function(self._made)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(self.schema)

    def _made(self, given: Any) -> Any:
        try:
            return self.read(given)
        except UsageError as error:
            raise wrong(str(error)) from None


@dataclass(frozen=True, eq=False)
class ByOthers:
    """A value whose kind depends on the keys before it, which `read` is given as they were understood."""

    read: Callable[[Any, Mapping[str, Any]], Any]
    schema: Description = field(default_factory=dict)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # pydantic is loaded where values are checked, and not before

        return core_schema.with_info_plain_validator_function(self._made)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return dict(self.schema)

    def _made(self, given: Any, info: core_schema.ValidationInfo[Any]) -> Any:
        try:
            return self.read(given, info.data)
        except UsageError as error:
            raise wrong(str(error)) from None


class OneOrMany:
    """A list; one value is a list of one."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # pydantic is loaded where values are checked, and not before

        return core_schema.no_info_before_validator_function(_listed, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        several = handler(schema)
        return {"anyOf": [several["items"], several]} if "items" in several else several


def _listed(given: Any) -> Any:
    return given if isinstance(given, list | tuple) else [given]


def as_text(given: Any) -> str:
    """A text; a number as it was written."""
    if isinstance(given, list | dict | tuple):
        raise wrong("one value is needed here, not a list or a mapping")
    if isinstance(given, Spelt):
        return given.spelling
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        raise wrong("a text is needed here")
    return str(given)


def as_flag(given: Any) -> bool:
    if not isinstance(given, bool):
        raise wrong("write true or false")
    return given


def as_number(given: Any) -> float:
    if isinstance(given, list | dict | tuple):
        raise wrong("one value is needed here, not a list or a mapping")
    if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
        raise wrong(f"{given!r} is no number")
    return float(given)


def as_share(given: Any) -> float:
    """`30%` or 0.3."""
    text = as_text(given)
    try:
        value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        raise wrong(f"{text!r} is no share: write 30% or 0.3") from None
    return value


def as_size(given: Any) -> int:
    """`500MB` or `500MiB`."""
    return parse_size(as_text(given))


def as_duration(given: Any) -> float:
    """`90s`, `5m` or `1h30m` in seconds."""
    return parse_duration(as_text(given))


def as_rate(given: Any) -> int:
    """`10MB/s` or `10MB`: bytes a second."""
    return parse_size(as_text(given).removesuffix("/s"))


def as_url(given: Any) -> str:
    text = as_text(given)
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        good = False
    if not good:
        raise wrong("write a URL with http:// or https://")
    return text


def as_choice(given: Any, choices: Sequence[str]) -> str:
    found = as_text(given)
    if found not in choices:
        raise wrong(f"{found!r}: choose from {', '.join(choices)}{near(found, choices)}")
    return found


def one_of(choices: Sequence[str]) -> Kind:
    """One of these texts."""
    return Kind(lambda given: as_choice(given, choices), {"type": "string", "enum": list(choices)})


def number(least: float | None = None, most: float | None = None, whole: bool = False) -> Kind:
    """A number from `least` to `most`."""

    def read(given: Any) -> float | int:
        found = as_number(given)
        low, high = least is not None and found < least, most is not None and found > most
        if low or high or (whole and found != int(found)):
            raise wrong(f"{given!r}: give a {'whole ' if whole else ''}number {_span(least, most)}".rstrip())
        return int(found) if whole else found

    schema: dict[str, Any] = {"type": "integer" if whole else "number"}
    schema |= {} if least is None else {"minimum": least}
    schema |= {} if most is None else {"maximum": most}
    return Kind(read, schema)


def _span(least: float | None, most: float | None) -> str:
    if least is None:
        return "" if most is None else f"up to {most:.16g}"
    return f"of {least:.16g} or more" if most is None else f"from {least:.16g} to {most:.16g}"


_TEXT: Description = {"type": ["string", "number"]}
_SIZE = r"^\s*[0-9]+(\.[0-9]+)?\s*([KkMmGgTtPp]?([Ii]?[Bb])?)"
_DURATION = r"^\s*([0-9]+(\.[0-9]+)?(ns|us|µs|ms|s|m|h|d))+\s*$"
_SHARE = r"^\s*-?[0-9]*\.?[0-9]+\s*%?$"

SIZE_SCHEMA: Description = {
    "type": ["string", "number"],
    "pattern": _SIZE + r"\s*$",
    "examples": ["500MB", "10MiB", "20kB"],
}
DURATION_SCHEMA: Description = {"type": "string", "pattern": _DURATION, "examples": ["30s", "5m", "1h30m"]}
SHARE_SCHEMA: Description = {"type": ["string", "number"], "pattern": _SHARE, "examples": ["30%", 0.3]}
RATE_SCHEMA: Description = {
    "type": ["string", "number"],
    "pattern": _SIZE + r"(/s)?\s*$",
    "examples": ["10MB/s", "500kB/s"],
}
URL_SCHEMA: Description = {
    "type": "string",
    "pattern": "^https?://",
    "examples": ["https://example.org/hook"],
}

Text = Annotated[str, Kind(as_text, _TEXT)]
Flag = Annotated[bool, Kind(as_flag, {"type": "boolean"})]
Number = Annotated[float, number()]
Share = Annotated[float, Kind(as_share, SHARE_SCHEMA)]
Size = Annotated[int, Kind(as_size, SIZE_SCHEMA)]
Duration = Annotated[float, Kind(as_duration, DURATION_SCHEMA)]
Rate = Annotated[int, Kind(as_rate, RATE_SCHEMA)]
Url = Annotated[str, Kind(as_url, URL_SCHEMA)]
Many = Annotated[tuple[T, ...], OneOrMany()]
Texts = Many[Text]
