"""What is wrong with values, in words: raised by models and their kinds, and read out of pydantic's errors.

pydantic's own phrases ("Input should be …") are for programmers; nobody who wrote a file is to meet them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from replaykit.config.places import Problem
from replaykit.config.wording import missing, near

_TEXTS = {
    "dict_type": "keys and values are needed here",
    "mapping_type": "keys and values are needed here",
    "model_type": "keys and values are needed here",
    "list_type": "a list is needed here",
    "tuple_type": "a list is needed here",
    "string_type": "a text is needed here",
    "bool_type": "write true or false",
    "int_parsing": "give a whole number",
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_parsing": "give a number",
    "float_type": "give a number",
    "greater_than_equal": "give {ge} or more",
    "less_than_equal": "give {le} or less",
}


def all_wrong(found: Iterable[Problem]) -> ValidationError:
    """To raise where several are; `at` from here on."""
    return ValidationError.from_exception_data("wrong", list(map(_detail, found)))


def wrong_at(text: str, *at: str | int) -> ValidationError:
    """To raise where a part of this value is wrong."""
    return all_wrong([Problem(at, text)])


def problems(error: ValidationError, data: Any) -> list[Problem]:
    """Of an error, where they stand in the values that were given."""
    return [_placed(p, data) for p in raw_problems(error)]


def raw_problems(error: ValidationError) -> list[Problem]:
    """Of an error, in the model's own terms."""
    found = []
    for one in error.errors(include_url=False):
        at, kind = one["loc"], one["type"]
        if kind == "missing":
            found.append(Problem(at[:-1], missing(str(at[-1]))))
        else:
            text = _TEXTS.get(kind) or one["msg"].removeprefix("Value error, ")
            if kind == "literal_error":
                choices = [
                    c.strip("'") for c in str(one["ctx"]["expected"]).replace(" or ", ", ").split(", ")
                ]
                text = f"{one['input']!r}: choose from {', '.join(choices)}{near(str(one['input']), choices)}"
            text = text.format(**one.get("ctx", {})) if kind in _TEXTS else text
            found.append(Problem(at, text))
    return found


def _detail(problem: Problem) -> InitErrorDetails:
    return InitErrorDetails(
        type=PydanticCustomError("wrong", "{text}", {"text": problem.text}), loc=problem.at, input=None
    )


def _placed(problem: Problem, data: Any) -> Problem:
    """Without what only the model knows of: a list of one that is written without its list, the name of an
    alternative.
    """
    here: list[str | int] = []
    for part in problem.at:
        if isinstance(data, dict) and isinstance(part, str):
            part = part if part in data else part.replace("_", "-")
            if part not in data:
                continue
        elif not (isinstance(data, list) and isinstance(part, int) and part < len(data)):
            continue
        data = data[part]
        here.append(part)
    return Problem(tuple(here), problem.text)
