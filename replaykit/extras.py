"""What to type where an extra is missing, for the way in which this copy was installed.

Owns no name: the distribution's is in pyproject.toml alone, and is read back from what is installed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from replaykit.errors import UsageError

if TYPE_CHECKING:
    from importlib import metadata


def needs(what: str, extra: str) -> UsageError:
    """The one line for a missing extra: `what` is needed by whom, and how to install it."""
    return UsageError(f"{what}: {install(extra)}")


def install(extra: str) -> str:
    """The command that installs an extra beside this copy: of a checkout, a wheel's file, or a
    package index.
    """
    return f"pip install {_source(_distribution(), extra)}"


def missing(error: ModuleNotFoundError) -> UsageError | None:
    """What to say of a module that is not there; None where no extra of ours brings it."""
    wanted = (error.name or "").partition(".")[0].replace("_", "-")
    found = _distribution()
    for line in (found.requires or ()) if found is not None else ():
        name = re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0].lower()
        extra = re.search(r"extra == [\"'](\w+)[\"']", line)
        if extra is not None and name.replace("_", "-") == wanted:
            return needs(f"this needs {error.name}", extra[1])
    return None


def _distribution() -> metadata.Distribution | None:
    """The installed distribution that this package came with, whatever its name."""
    from importlib import metadata  # slow to load, and needed only where something is missing

    for name in metadata.packages_distributions().get(__package__, ()):
        found = metadata.distribution(name)
        if "replaykit.cli.start" in (found.read_text("entry_points.txt") or ""):
            return found
    return None


def _source(found: metadata.Distribution | None, extra: str) -> str:
    checkout = Path(__file__).parents[1]
    if (checkout / "pyproject.toml").exists():
        return f"-e '{checkout}[{extra}]'"
    origin = json.loads((found.read_text("direct_url.json") if found is not None else None) or "{}")
    path = unquote(urlsplit(origin["url"]).path) if origin.get("url", "").startswith("file:") else ""
    if path and Path(path).exists():
        return f"'{path}[{extra}]'"
    name = found.metadata["Name"] if found is not None else "."
    return f"'{name}[{extra}]'"
