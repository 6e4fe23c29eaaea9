"""Options: one model a group, whoever fills it in, a command line, a file or a call.

A field's annotation holds an `Option`: what it is for, in words, and how a command line spells it. Commands are made of
these fields (`replaykit.cli.typed`), JSON Schema takes its descriptions from them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, ValidationError

from replaykit.config.kinds import Section
from replaykit.config.problems import raw_problems
from replaykit.errors import UsageError

Positive = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65_535)]


@dataclass(frozen=True)
class Option:
    """also: spellings beside the field's own, `--max-wait` of `max_wait`. only: in place of it. argument: by its place, not by a flag.

    panel: where help shows it, when not with its group. bare: what the flag without a value means. complete: what of
    `replaykit.cli.completing` a shell offers for its value.
    """

    help: str
    metavar: str | None = None
    also: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    argument: bool = False
    panel: str | None = None
    hidden: bool = False
    bare: str | None = None
    complete: str | None = None

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(schema), "description": self.help}

    def spellings(self, name: str) -> tuple[str, ...]:
        """The flags of a field of this name."""
        return self.only or (f"--{name.replace('_', '-')}", *self.also)


class Options(Section):
    """A group of options. panel: its title in help; "": among the first ones."""

    model_config = ConfigDict(defer_build=True)  # most are only looked at
    panel: ClassVar[str] = ""
    are_flags: ClassVar[bool] = True
    """Whether errors spell them as a command line does, or as the keys of a file."""

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
                panel = owner.__dict__.get("panel", "") if option.panel is None else option.panel
                yield name, option, panel

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Of what a command line or a call says; None: nothing. Raises UsageError, a line for each option that is wrong."""
        said = {name: value for name, value in values.items() if value is not None}
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            raise cls.refused(error, said) from None

    @classmethod
    def refused(cls, error: ValidationError, values: Mapping[str, Any]) -> UsageError:
        """A line for each option that is wrong, spelt as on a command line."""
        spelt = {
            name: name
            if not cls.are_flags
            else (option.metavar or name)
            if option.argument
            else option.spellings(name)[0]
            for name, option, _ in cls.described()
        }
        lines = []
        for problem in raw_problems(error):
            name = str(problem.at[0]) if problem.at else ""
            given = values.get(name)
            for part in problem.at[1:]:
                given = given[part] if isinstance(given, Sequence) and isinstance(part, int) else given
            shown = "" if given is None else f" {given}"
            lines.append(f"{spelt.get(name, name)}{shown}: {problem.text}" if name else problem.text)
        return UsageError("\n".join(lines))
