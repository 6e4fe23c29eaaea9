"""Options: one class a group, whoever fills it in, a command line, a file or a call.

A field's annotation holds an `Option`: what it is for, in words, and how a command line spells it. Commands
are made of these fields (`replaykit.cli.typed`), JSON Schema takes its descriptions from them. The classes
are plain dataclasses, so that help is there at once; `of` and `section` check values by a model of pydantic
that is made of the same fields.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, dataclass_transform, get_type_hints

from replaykit.config.kinds import Kind, as_text
from replaykit.config.wording import wrong
from replaykit.errors import UsageErrors

if TYPE_CHECKING:
    from pydantic import GetJsonSchemaHandler, ValidationError

    from replaykit.config.sections import Section


def _whole(least: int | None = None, most: int | None = None) -> Kind:
    """A whole number, of a file or in the text of a command line."""

    def read(given: Any) -> int:
        try:
            found = int(as_text(given))
        except ValueError:
            raise wrong("give a whole number") from None
        if least is not None and found < least:
            raise wrong(f"give {least} or more")
        if most is not None and found > most:
            raise wrong(f"give {most} or less")
        return found

    bounds = {"minimum": least, "maximum": most}
    return Kind(read, {"type": "integer", **{name: n for name, n in bounds.items() if n is not None}})


def _real(given: Any) -> float:
    try:
        found = float(as_text(given))
    except ValueError:
        raise wrong("give a number") from None
    if not math.isfinite(found):
        raise wrong("give a number")
    return found


Whole = Annotated[int, _whole()]
Positive = Annotated[int, _whole(1)]
Port = Annotated[int, _whole(1, 65_535)]
Real = Annotated[float, Kind(_real, {"type": "number"})]


@dataclass(frozen=True)
class Option:
    """also: spellings beside the field's own, `--max-wait` of `max_wait`. only: in place of it. argument: by
    its place, not by a flag.

    panel: where help shows it, when not with its group. bare: what the flag without a value means. complete:
    what of `replaykit.cli.completing` a shell offers for its value.
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


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Options:
    """A group of options. panel: its title in help; "": among the first ones."""

    panel: ClassVar[str] = ""
    are_flags: ClassVar[bool] = True
    """Whether errors spell them as a command line does, or as the keys of a file."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    @classmethod
    def described(cls) -> Iterator[Described]:
        """This class's own fields first, then those of its bases."""
        known = {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]
        hints = get_type_hints(cls, include_extras=True)
        for owner in cls.__mro__:
            for name in inspect.get_annotations(owner):
                if name in known:
                    panel = owner.__dict__.get("panel", "")
                    yield Described.of(name, hints[name], known.pop(name), panel)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Of what a command line or a call says; None: nothing.

        Raises UsageError, a line for each option that is wrong.
        """
        from pydantic import ValidationError  # a tenth of a second, only where values are checked

        said = {name: value for name, value in values.items() if value is not None}
        try:
            checked = section(cls).model_validate(said)
        except ValidationError as error:
            raise cls._refused(error, said) from None
        return cls(**{name: getattr(checked, name) for name in checked.model_fields_set})

    @classmethod
    def _refused(cls, error: ValidationError, values: Mapping[str, Any]) -> UsageErrors:
        from replaykit.config.problems import raw_problems  # as above

        spelt = {d.name: d.spelling if cls.are_flags else d.name for d in cls.described()}
        lines = []
        for problem in raw_problems(error):
            name = str(problem.at[0]) if problem.at else ""
            given = values.get(name)
            for part in problem.at[1:]:
                given = given[part] if isinstance(given, Sequence) and isinstance(part, int) else given
            shown = "" if given is None or repr(given) in problem.text else f" {given}"
            lines.append(f"{spelt.get(name, name)}{shown}: {problem.text}" if name else problem.text)
        return UsageErrors(lines)


@dataclass(frozen=True)
class Described:
    """A field: its kind, its default (MISSING: it must be given), and the panel it is shown in."""

    name: str
    annotation: Any
    default: Any
    option: Option
    panel: str

    @staticmethod
    def of(name: str, annotation: Any, default: Any, panel: str) -> Described:
        option = next(m for m in annotation.__metadata__ if isinstance(m, Option))
        return Described(name, annotation, default, option, panel if option.panel is None else option.panel)

    @property
    def required(self) -> bool:
        return self.default is MISSING

    @property
    def spelling(self) -> str:
        """As people write it."""
        return (
            self.option.metavar or self.name
            if self.option.argument
            else self.option.spellings(self.name)[0].partition("/")[0]
        )


_SECTIONS: dict[tuple[type[Options], ...], type[Section]] = {}


def section(*groups: type[Options]) -> type[Section]:
    """The model of a mapping that holds these groups' fields."""
    if groups not in _SECTIONS:
        _SECTIONS[groups] = _section(*groups)
    return _SECTIONS[groups]


def _section(*groups: type[Options]) -> type[Section]:
    from pydantic import create_model

    from replaykit.config.sections import Section

    found: dict[str, Any] = {}
    for group in groups:
        for one in group.described():
            found[one.name] = (one.annotation, ... if one.required else one.default)
    return create_model(groups[0].__name__, __base__=Section, __doc__=groups[0].__doc__, **found)
