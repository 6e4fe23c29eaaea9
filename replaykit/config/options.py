"""Options: one model a group, whoever fills it in, a command line, a file or a call.

A field's annotation holds an `Option`: what it is for, in words, and how a command line spells it. Commands are made of
these fields (`replaykit.cli.typed`), JSON Schema takes its descriptions from them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError

from replaykit.errors import UsageError

Texts = tuple[str, ...]
Positive = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65_535)]


@dataclass(frozen=True)
class Option:
    """also: spellings beside the field's own, `--max-wait` of `max_wait`. only: in place of it. argument: by its place, not by a flag.

    panel: where help shows it, when not with its group. bare: what the flag without a value means. complete: values that fit
    a beginning, for the shell.
    """

    help: str
    metavar: str | None = None
    also: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    argument: bool = False
    panel: str | None = None
    hidden: bool = False
    bare: str | None = None
    complete: Callable[[str], list[str]] | None = None

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "description": self.help}

    def spellings(self, name: str) -> tuple[str, ...]:
        """The flags of a field of this name."""
        return self.only or (f"--{name.replace('_', '-')}", *self.also)


class Options(BaseModel):
    """A group of options. panel: its title in help; "": among the first ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    panel: ClassVar[str] = ""

    @classmethod
    def described(cls) -> Iterator[tuple[str, Option, str]]:
        """Each field, how it is spelt, and the panel it is shown in: this class's own first, then those of its bases."""
        seen: set[str] = set()
        for owner in cls.__mro__:
            for name in inspect.get_annotations(owner):
                field = cls.model_fields.get(name)
                if field is None or name in seen:
                    continue
                seen.add(name)
                option = next(m for m in field.metadata if isinstance(m, Option))
                yield (
                    name,
                    option,
                    option.panel if option.panel is not None else owner.__dict__.get("panel", ""),
                )

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """Of what a command line says. Raises UsageError, a line for each option that is wrong."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise cls.refused(error) from None

    @classmethod
    def refused(cls, error: ValidationError) -> UsageError:
        """A line for each option that is wrong."""
        return UsageError("\n".join(cls._told(error)))

    @classmethod
    def _told(cls, error: ValidationError) -> Iterator[str]:
        options = {name: option for name, option, _ in cls.described()}
        for one in error.errors(include_url=False):
            name = str(one["loc"][0]) if one["loc"] else ""
            option = options.get(name)
            spelt = (
                option.metavar or name
                if option is None or option.argument
                else option.spellings(name)[0]
                if option
                else name
            )
            yield f"{spelt} {one['input']}: {_wrong(one)}" if name else _wrong(one)


_WRONG = {
    "int_parsing": "give a whole number",
    "float_parsing": "give a number",
    "int_type": "give a whole number",
}


def _wrong(error: Any) -> str:
    context = error.get("ctx", {})
    if error["type"] == "greater_than_equal":
        return f"give {context['ge']} or more"
    if error["type"] == "less_than_equal":
        return f"give {context['le']} or less"
    if error["type"] == "literal_error":
        return f"choose from {str(context['expected']).replace(' or ', ', ')}"
    return _WRONG.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
