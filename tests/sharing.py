"""One server for all workers of a test session."""

from __future__ import annotations

import fcntl
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")


@contextmanager
def shared(
    factory: pytest.TempPathFactory, name: str, start: Callable[[Path], AbstractContextManager[T]]
) -> Iterator[T]:
    """What `start` gives for a folder: by the first worker that needs it, until no worker does any more."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    place, users, lock = (folder / f"{name}.{what}" for what in ("server", "users", "lock"))

    @contextmanager
    def alone() -> Iterator[None]:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def count(more: int) -> int:
        found = int(users.read_text()) + more if users.exists() else more
        users.write_text(str(found))
        return found

    with alone():
        running = None
        if not place.exists():
            running = start(folder / name)
            place.write_bytes(pickle.dumps(running.__enter__()))
        count(1)
    try:
        yield pickle.loads(place.read_bytes())
    finally:
        with alone():
            left = count(-1)
        if running is not None:
            while left:  # whoever began it ends it, when the others have done
                time.sleep(0.2)
                with alone():
                    left = count(0)
            with alone():
                place.unlink()
                running.__exit__(None, None, None)
