"""The program's first step: what it is asked most often and needs nothing for, it says at once."""

from __future__ import annotations

import sys

from replaykit import __version__


def command() -> int:
    """The program `replaykit`."""
    if sys.argv[1:] == ["--version"]:
        sys.stdout.write(f"replaykit {__version__}\n")
        return 0
    from replaykit.cli import sparing

    sparing.begin()
    from replaykit.cli.main import main  # Typer and what comes with it takes most of the time of a start

    return main()
