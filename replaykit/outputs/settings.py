"""What outputs have in common: secrets from the environment, and the folder where spools lie."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from replaykit.errors import UsageError


def state_folder() -> Path:
    """Where what must outlive a run is kept, unless told."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "replaykit"


def state_of(kind: str, path: str) -> Path:
    """Where the state that belongs to a file of the user's is kept: two files of one name have two."""
    whole = Path(path).resolve()
    digest = hashlib.blake2b(os.fsencode(whole), digest_size=6).hexdigest()
    return state_folder() / f"{kind}-{whole.stem}-{digest}"


def secret(name: str) -> str | None:
    """The value of an environment variable, or of the file that NAME_FILE names. Raises UsageError."""
    path = os.environ.get(f"{name}_FILE")
    if path is None:
        return os.environ.get(name) or None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise UsageError(f"{name}_FILE: {path}: {(error.strerror or str(error)).lower()}") from None
