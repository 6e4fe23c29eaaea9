"""Files in which people declare things (YAML, or JSON): plain values that know their line, checked by a
model.

Owns reading, `${NAME}` and `${NAME:-default}` from the environment, and how errors are told: all of them
together, each as `FILE:LINE: KEY: what is wrong`. pydantic is imported where a file is checked and not
before, since that takes a tenth of a second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.resolver import Resolver

from replaykit.config.places import Location, Problem, dotted
from replaykit.config.spelling import SpeltFloat, SpeltInt
from replaykit.errors import UsageError, UsageErrors

if TYPE_CHECKING:
    from pydantic import BaseModel

Model = TypeVar("Model", bound="BaseModel")

VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

MOST_LINES = 50
"""So much that is wrong is told; a file that is worse is another kind of file."""
_MOST_REPEATED = 100_000


class Unreadable:
    """In place of a value that could not be read, which was said already: every model refuses it."""


def stamp(path: str | Path) -> tuple[int, int] | None:
    """Another one when the file was changed: when, and its size; None: it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def read_text(path: str | Path) -> str:
    """A file's whole text. Raises UsageError."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: cannot be read: it is not UTF-8") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None


def read(path: str | Path, model: type[Model]) -> Model:
    """A file as its model. Raises UsageError."""
    return load(path).checked(model)


def parse(text: str, file: str, model: type[Model]) -> Model:
    """As `read`, of a text."""
    return Document(text, file).checked(model)


def load(path: str | Path) -> Document:
    """A file's values. Raises UsageError."""
    return Document(read_text(path), str(path))


class Document:
    """A text's values, as lists, mappings and scalars, and the line of each.

    Raises UsageError where it is no YAML.
    """

    def __init__(self, text: str, file: str, loader: type[Any] = yaml.SafeLoader) -> None:
        self.file = file
        builder = _Builder()
        try:
            node = yaml.compose(text, loader)
            self.data = None if node is None else builder.value(node, ())
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise UsageError(f"{file}:{line}: not YAML: {error.problem}") from None
        except yaml.YAMLError as error:
            raise UsageError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
        except RecursionError:
            raise UsageError(f"{file}: lists and mappings stand in each other too deeply") from None
        self._lines, self._problems = builder.lines, builder.problems

    def line(self, at: Location) -> int:
        """Where it stands: a key's line, an item's first one; of what is not there, that of what it would be
        in.
        """
        while at and at not in self._lines:
            at = at[:-1]
        return self._lines.get(at, 1)

    def told(self, problem: Problem) -> str:
        """`FILE:LINE: KEY: what is wrong`."""
        path = dotted(problem.at)
        said = f"{self.file}:{self.line(problem.at)}: {path + ': ' if path else ''}{problem.text}"
        return said.replace("\n", "\\n")  # one line each, whatever was written

    def checked(self, model: type[Model], values: Any = None) -> Model:
        """The values as the model has them. Raises UsageError that tells everything that is wrong, by line.

        values: in place of the text's own, where the model has them somewhere else.
        """
        from pydantic import ValidationError  # a tenth of a second, only where a file is read

        from replaykit.config.problems import problems

        wrong = [*self._problems]
        said = {p.at for p in wrong}
        found = None
        try:
            found = model.model_validate(self.data if values is None else values)
        except ValidationError as error:
            wrong += [p for p in problems(error, self.data) if p.at not in said]
        if wrong or found is None:
            raise self.refused(wrong)
        return found

    def refused(self, found: Sequence[Problem]) -> UsageErrors:
        """All of them, by line."""
        ordered = sorted(found, key=lambda p: self.line(p.at))
        said = list(dict.fromkeys(map(self.told, ordered)))
        if len(said) > MOST_LINES:
            said[MOST_LINES:] = [f"{self.file}: and {len(said) - MOST_LINES:,} more"]
        return UsageErrors(said)


def made(values: Any, model: type[Model]) -> Model:
    """Values that are in no file, such as an API's.

    Raises UsageError that tells everything that is wrong, in one line.
    """
    from pydantic import ValidationError  # as above

    from replaykit.config.problems import problems

    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = [f"{dotted(p.at)}: {p.text}".removeprefix(": ") for p in problems(error, values)]
        raise UsageError("; ".join(dict.fromkeys(found))) from None


class _Builder:
    """Plain values of nodes."""

    def __init__(self) -> None:
        self.lines: dict[Location, int] = {}
        self.problems: list[Problem] = []
        self._open: set[int] = set()
        self._known: set[int] = set()
        self._repeated = 0
        self._constructor, self._resolver = SafeConstructor(), Resolver()

    def value(self, node: yaml.Node, at: Location) -> Any:
        self.lines.setdefault(at, node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, at)
        if id(node) in self._open:
            return self._wrong(at, "this refers to what it is itself a part of")
        self._repeated += id(node) in self._known
        if (
            self._repeated > _MOST_REPEATED
        ):  # a few lines of references to references can stand for any number
            raise yaml.YAMLError("too much is referred to again and again")
        self._known.add(id(node))
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*at, n)) for n, item in enumerate(node.value)]
            return self._mapping(node, at)
        finally:
            self._open.discard(id(node))

    def _mapping(self, node: yaml.Node, at: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._wrong(at, "a key is one word or text, no list and no mapping")
                continue
            name = str(key.value)
            here = (*at, name)
            if name in found:
                self.lines[here] = key.start_mark.line + 1
                self._wrong(here, "this key stands here twice")
                continue
            self.lines.setdefault(here, key.start_mark.line + 1)
            found[name] = self.value(value, here)
        return found

    def _scalar(self, node: yaml.ScalarNode, at: Location) -> Any:
        if "${" not in node.value:
            return self._constructed(node, at)
        missing: list[str] = []

        def fill(match: re.Match[str]) -> str:
            found = os.environ.get(match[1], match[2])
            if found is None:
                missing.append(match[1])
            return found or ""

        text = VARIABLE.sub(fill, node.value)
        for name in missing:
            self._wrong(at, f"the environment has no {name}; set it, or write ${{{name}:-default}}")
        if missing:
            return Unreadable()
        return text if node.style in ("'", '"') else self._resolved(text, at)

    def _resolved(self, text: str, at: Location) -> Any:
        """What a text without quotes stands for; one that the environment gave in quotes is that text."""
        bare = text.strip()
        if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\"":
            return bare[1:-1]
        if not bare:
            return ""
        tag = self._resolver.resolve(yaml.ScalarNode, bare, (True, False))  # type: ignore[no-untyped-call]
        return self._constructed(yaml.ScalarNode(tag, bare), at)

    def _constructed(self, node: yaml.ScalarNode, at: Location) -> Any:
        try:
            found = self._constructor.construct_object(node)
        except ConstructorError:
            return self._wrong(at, f"the tag {node.tag} is not known here")
        except ValueError:  # it looks like a date, and is none
            return str(node.value)
        if isinstance(found, bool | str) or found is None:
            return found
        if not isinstance(found, int | float):
            return str(found)
        spelt = SpeltInt(found) if isinstance(found, int) else SpeltFloat(found)
        spelt.spelling = str(node.value)
        return spelt

    def _wrong(self, at: Location, text: str) -> Unreadable:
        self.problems.append(Problem(at, text))
        return Unreadable()
