"""Which subjects are meant: by vantage, kind, name and label, with globs and exclusions."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

Key = tuple[str, str, str]
"""Vantage, kind and name of a subject."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Something that moves bytes."""

    vantage: str
    kind: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.vantage, self.kind, self.name


@dataclass(frozen=True)
class Selection:
    """Nothing given selects everything.

    names, exclude: globs; labels: a glob, or several, for each label that must match.
    """

    vantage: str | None = None
    kind: str | None = None
    names: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, vantage: str, kind: str, name: str, labels: str) -> bool:
        """labels: as JSON, so that they are read only where they matter."""
        return self._named(vantage, kind, name) and (not self.labels or self._labelled(json.loads(labels)))

    def matches(self, subject: Subject) -> bool:
        return self._named(subject.vantage, subject.kind, subject.name) and self._labelled(subject.labels)

    @property
    def everything(self) -> bool:
        """Whether only vantage and kind choose."""
        return not self.names and not self.exclude and not self.labels

    def _named(self, vantage: str, kind: str, name: str) -> bool:
        return (
            self.vantage in (None, vantage)
            and self.kind in (None, kind)
            and (not self.names or any(_glob(name, p) for p in self.names))
            and not any(_glob(name, p) for p in self.exclude)
        )

    def _labelled(self, labels: Mapping[str, str]) -> bool:
        return all(
            name in labels and any(_glob(value, p) for p in patterns for value in _values(labels[name]))
            for name, patterns in self.labels.items()
        )


def literally(name: str) -> str:
    """A glob that means just this name."""
    return name.replace("[", "[[]").replace("*", "[*]").replace("?", "[?]")


def _values(label: str) -> list[str]:
    """A label may hold several, such as a machine's tags: `web;paid`."""
    return [label, *(v for v in label.split(";") if v != label)]


def _glob(name: str, pattern: str) -> bool:
    # An endpoint such as /files/[id] means itself too.
    return name == pattern or fnmatch.fnmatchcase(name, pattern)


EVERYTHING = Selection()
