"""A command starts with what it uses.

Not at all: pyarrow loads numpy and pandas where they are installed, for conversions that no command asks for;
whoever else asks for them gets them. When first used: what many commands import and few use.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType, ModuleType
from typing import Any

LATER = frozenset(("pyarrow.compute", "pyarrow.parquet", "replaykit.reporting.terminal"))


def begin() -> None:
    """From now on, for this process."""
    os.environ.setdefault(
        "PYDANTIC_DISABLE_PLUGINS", "1"
    )  # it would look through all that is installed for them
    sys.meta_path.insert(0, _Finder)


def finish() -> None:
    """Loads what was put off: whoever gives up privileges may not be able to read it later."""
    for name in LATER:
        module = importlib.import_module(name)
        loader = module.__spec__.loader if module.__spec__ is not None else None
        if isinstance(loader, _Later):
            loader.load(module)


class _Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in ("numpy", "pandas") and _importer().startswith("pyarrow"):
            raise ModuleNotFoundError(f"{name} is not wanted here", name=name)
        found = PathFinder.find_spec(name, path, target) if name in LATER else None
        if found is not None and found.loader is not None:
            found.loader = _Later(found.loader)
        return found


def _importer() -> str:
    """The module whose import statement is being carried out."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and "importlib" in frame.f_code.co_filename:
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__", ""))


class _Later(Loader):
    """Loads when an attribute is asked for that only the loaded module has.

    Not importlib's LazyLoader: for that one a second import is use.
    """

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._lock = threading.RLock()
        self._loading = False

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Not yet."""

    def load(self, module: ModuleType) -> None:
        with self._lock:
            if isinstance(module, _Module) and not self._loading:
                self._loading = True
                self._loader.exec_module(module)
                module.__class__ = ModuleType  # type: ignore[assignment]


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        loader = self.__spec__.loader if self.__spec__ is not None else None
        if name.startswith("__") or not isinstance(loader, _Later):
            raise AttributeError(name)
        loader.load(self)
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None
