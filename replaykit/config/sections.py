"""The mapping that values stand in: a model of pydantic, with words of our own for what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler

from replaykit.config.places import Problem
from replaykit.config.problems import all_wrong, raw_problems
from replaykit.config.wording import missing, nearest, unknown, wrong


class Section(BaseModel):
    """Keys and values. A key that is not known is refused, with the ones that are."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    empty_is_absent: ClassVar[bool] = False
    """Whether a key without a value is as good as none; else it was forgotten."""

    def disagreements(self) -> Iterator[Problem]:
        """What is wrong with values that are each right by themselves."""
        yield from ()

    @classmethod
    def known(cls) -> list[str]:
        """Its keys, as a file spells them."""
        return sorted(f.alias or name for name, f in cls.model_fields.items())

    @model_validator(mode="wrap")
    @classmethod
    def _whole(cls, given: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise wrong("keys and values are needed here")
        known = cls.known()
        strange = [n for n in given if n not in known] if cls.model_config.get("extra") == "forbid" else []
        empty = [n for n, v in given.items() if v is None and n in known]
        found = [Problem((n,), unknown(n, known)) for n in strange]
        found += [Problem((n,), "a value is needed here") for n in empty if not cls.empty_is_absent]
        try:
            made = handler({n: v for n, v in given.items() if n not in empty and n not in strange})
        except ValidationError as error:
            meant = {missing(n) for n in (*empty, *(nearest(n, known) for n in strange))}
            raise all_wrong(
                [*found, *(p for p in raw_problems(error) if p.at or p.text not in meant)]
            ) from None
        if not found:  # what else is wrong may come of it
            found += made.disagreements()
        if found:
            raise all_wrong(found)
        return made


class Open(Section):
    """Keys that are not known are left alone: `model_extra` has them."""

    model_config = ConfigDict(extra="allow", frozen=True)
