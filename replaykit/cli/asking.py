"""Before something is deleted, or a file is used: what a person is asked and told."""

from __future__ import annotations

import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from replaykit.plain import say, visible


def agreed(question: str, yes: bool) -> bool:
    """Whether to go on: asked where a person is at the terminal and did not say --yes.

    A script is not asked.
    """
    if yes or not sys.stdin.isatty():
        return True
    if input(f"{visible(question)} [y/N] ").strip().lower() in ("y", "yes"):
        return True
    say("nothing was deleted")
    return False


def warn_of_rules(path: str | Path, notify: Mapping[str, object]) -> None:
    """Who is told, and how, is a secret: a webhook's URL lets anybody speak there."""
    if notify:
        warn_of_readers(path)


def say_if_earlier(path: str | Path, earlier: bool, quiet: bool = False) -> None:
    """How to write a file of rules anew that is in the form of earlier versions, and is read all the same."""
    if earlier and not quiet:
        anew = f"`replaykit rules convert {path}` writes it anew"
        say(f"{path} is written in the form of earlier versions; {anew}")


def warn_of_readers(*paths: str | Path | None) -> None:
    """A line for each file that holds a secret and can be read by others than its owner."""
    for path in paths:
        try:
            mode = 0 if path is None else Path(path).stat().st_mode
        except OSError:
            continue  # who needs it says that it is not there
        if mode & (stat.S_IRGRP | stat.S_IROTH):
            say(f"warning: {path} holds a secret, and others can read it: chmod 600 {path}")
