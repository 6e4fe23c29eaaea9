"""Files in which people declare things (YAML): values that know their line, and errors that name it.

Owns reading, `${NAME}` and `${NAME:-default}` from the environment, and the checks of keys and kinds. Every error is
`FILE:LINE: KEY: what is wrong`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from replaykit.config.reading import stamp as stamp
from replaykit.errors import UsageError
from replaykit.units import parse_duration, parse_size

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_MISSING: Any = object()
T = TypeVar("T")


class Value:
    """A value of the file, and where it stands."""

    def __init__(self, node: yaml.Node, file: str, path: str) -> None:
        self._node, self._file, self.path = node, file, path
        self.line = node.start_mark.line + 1

    def error(self, text: str) -> UsageError:
        return UsageError(
            f"{self._file}:{self.line}: {self.path}: {text}"
            if self.path
            else f"{self._file}:{self.line}: {text}"
        )

    def _plain(self) -> Any:
        """A scalar as YAML reads it, variables of the environment filled in."""
        if not isinstance(self._node, yaml.ScalarNode):
            raise self.error("one value is needed here, not a list or a mapping")
        node = self._node
        if "${" not in node.value:
            return yaml.safe_load(yaml.serialize(node))

        def fill(match: re.Match[str]) -> str:
            found = os.environ.get(match[1], match[2])
            if found is None:
                raise self.error(
                    f"the environment has no {match[1]}; set it, or write ${{{match[1]}:-default}}"
                )
            return found

        text = _VARIABLE.sub(fill, node.value)
        return text if node.style in ("'", '"') else yaml.safe_load(text) if text else ""

    def text(self) -> str:
        found = self._plain()
        if found is None or isinstance(found, bool):
            raise self.error("a text is needed here")
        return (
            str(self._node.value)
            if isinstance(found, int | float) and "${" not in self._node.value
            else str(found)
        )

    def flag(self) -> bool:
        found = self._plain()
        if not isinstance(found, bool):
            raise self.error("write true or false")
        return found

    def number(self) -> float:
        found = self._plain()
        if isinstance(found, bool) or not isinstance(found, int | float):
            raise self.error(f"{found!r} is no number")
        return float(found)

    def share(self) -> float:
        """`30%` or 0.3."""
        text = self.text()
        try:
            value = float(text[:-1]) / 100 if text.endswith("%") else float(text)
        except ValueError:
            raise self.error(f"{text!r} is no share: write 30% or 0.3") from None
        return value

    def size(self) -> int:
        return self._parsed(parse_size)

    def duration(self) -> float:
        """Seconds."""
        return self._parsed(parse_duration)

    def _parsed(self, parse: Callable[[str], T]) -> T:
        text = self.text()
        try:
            return parse(text)
        except UsageError as error:
            raise self.error(str(error)) from None

    def choice(self, choices: Sequence[str]) -> str:
        found = self.text()
        if found not in choices:
            raise self.error(f"{found!r}: choose from {', '.join(choices)}{_near(found, choices)}")
        return found

    def items(self) -> list[Value]:
        """A list's values; one value is a list of one."""
        if isinstance(self._node, yaml.SequenceNode):
            return [Value(n, self._file, f"{self.path}[{i}]") for i, n in enumerate(self._node.value)]
        return [self]

    def texts(self) -> list[str]:
        return [item.text() for item in self.items()]

    @property
    def is_section(self) -> bool:
        return isinstance(self._node, yaml.MappingNode)

    @property
    def is_list(self) -> bool:
        return isinstance(self._node, yaml.SequenceNode)

    def section(self) -> Section:
        if not isinstance(self._node, yaml.MappingNode):
            raise self.error("keys and values are needed here")
        return Section(self._node, self._file, self.path)


class Section(Value):
    """A mapping. Keys are taken with `get` and `need`; `done` complains of those nobody took."""

    def __init__(self, node: yaml.MappingNode, file: str, path: str) -> None:
        super().__init__(node, file, path)
        self._values: dict[str, Value] = {}
        self._taken: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            at = f"{path}.{name}" if path else name
            here = Value(value, file, at)
            here.line = key.start_mark.line + 1
            if name in self._values:
                raise here.error("this key stands here twice")
            self._values[name] = here

    def get(self, name: str) -> Value | None:
        self._taken.add(name)
        return self._values.get(name)

    def need(self, name: str) -> Value:
        found = self.get(name)
        if found is None:
            raise self.error(f"the key {name!r} is missing")
        return found

    def pairs(self) -> Iterator[tuple[str, Value]]:
        self._taken |= set(self._values)
        yield from self._values.items()

    def done(self) -> None:
        """Raises UsageError for a key that is not known here."""
        for name, value in self._values.items():
            if name not in self._taken:
                known = sorted(self._taken)
                raise value.error(
                    f"this key is not known here; there are {', '.join(known)}{_near(name, known)}"
                )


def _near(name: str, known: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, known, 1)
    return f" (did you mean {found[0]}?)" if found else ""


def load(path: str) -> Section:
    """A file's top. Raises UsageError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse(text, path)


def parse(text: str, file: str) -> Section:
    """As `load`, of a text."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{file}:{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(f"{file}:1: keys and values are needed here")
    return Section(node, file, "")
