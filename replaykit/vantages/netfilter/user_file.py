"""The map of users, as a file, a command or a server declares it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic_core import CoreSchema

from replaykit.config.kinds import Kind, Text, as_text
from replaykit.config.places import Problem
from replaykit.config.sections import Open
from replaykit.config.wording import wrong

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_ONE = {"type": ["string", "integer"]}
_SEVERAL = {"anyOf": [_ONE, {"type": "array", "items": _ONE}]}


def _texts(given: Any) -> list[str]:
    """A list, or a text with blanks, commas or semicolons between."""
    if isinstance(given, list | tuple):
        return [as_text(one).strip() for one in given]
    return as_text(given).replace(",", " ").replace(";", " ").split()


def _addresses(given: Any) -> tuple[Network, ...]:
    found = []
    for text in _texts(given):
        try:
            found.append(ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise wrong(f"{text!r} is no address") from None
    return tuple(found)


def _marks(given: Any) -> tuple[int, ...]:
    found = []
    numbers = given if isinstance(given, list | tuple) else [given]
    if all(isinstance(one, int) and not isinstance(one, bool) for one in numbers):
        return tuple(map(int, numbers))
    for text in _texts(given):
        try:
            found.append(int(text, 0))
        except ValueError:
            raise wrong(f"{text!r} is no mark, such as 0x10") from None
    return tuple(found)


Addresses = Annotated[tuple[Network, ...], Kind(_addresses, _SEVERAL | {"examples": ["10.0.0.2"]})]
Marks = Annotated[tuple[int, ...], Kind(_marks, _SEVERAL | {"examples": ["0x10"]})]


class UserEntry(Open):
    """A user: what is theirs. Other keys are left alone, and what is empty is not there."""

    empty_is_absent: ClassVar[bool] = True

    code: Text = Field("", description="As the user is called everywhere")
    user_code: Text = Field("", description="The same")
    name: Text = Field("", description="For people")
    addresses: Addresses = Field((), description="Addresses and networks")
    address: Addresses = Field((), description="The same")
    ip: Addresses = Field((), description="The same")
    user_intra_ip: Addresses = Field((), description="The same")
    marks: Marks = Field((), description="Marks of packets, such as 0x10")
    mark: Marks = Field((), description="The same")
    mark_id: Marks = Field((), description="The same")

    @property
    def called(self) -> str:
        return (self.code or self.user_code).strip()

    @property
    def prefixes(self) -> tuple[Network, ...]:
        return (*self.address, *self.addresses, *self.user_intra_ip, *self.ip)

    @property
    def numbers(self) -> tuple[int, ...]:
        return (*self.mark, *self.marks, *self.mark_id)

    def disagreements(self) -> Iterator[Problem]:
        if not self.called:
            yield Problem((), "has no code")


Users = Annotated[
    Annotated[tuple[UserEntry, ...], Tag("(list)")] | Annotated[dict[str, Addresses], Tag("(codes)")],
    Discriminator(lambda given: "(codes)" if isinstance(given, dict) else "(list)"),
]


class UsersFile(Open):
    """Who is behind an address or a mark: `users` with a list of code, name, addresses and marks; or code to
    addresses.
    """

    users: Users = Field((), description="The users")

    @property
    def entries(self) -> list[UserEntry]:
        if isinstance(self.users, dict):
            return [
                UserEntry.model_construct(code=code, addresses=found) for code, found in self.users.items()
            ]
        return list(self.users)

    @model_validator(mode="before")
    @classmethod
    def _either(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        return {"users": given["users"] if "users" in given else dict(given)}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        found = handler.resolve_ref_schema(handler(schema))
        found["anyOf"] = [{"required": ["users"]}, {"additionalProperties": {"anyOf": _SEVERAL["anyOf"]}}]
        found["additionalProperties"] = True
        return found
