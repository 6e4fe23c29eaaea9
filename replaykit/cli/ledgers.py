"""What commands on a ledger share: its place, which subjects, which time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from replaykit.cli.options.shared import SelectionOptions
from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.outputs.settings import state_folder

if TYPE_CHECKING:
    from replaykit.ledger.selection import Selection
    from replaykit.ledger.store import Ledger


def place(text: str) -> str:
    """The URL of a ledger that was named on a command line."""
    return text if "://" in text or text.startswith("files:") else f"sqlite:///{text}"


def open_ledger(text: str, must_exist: bool = True, time_zone: str | None = None) -> Ledger:
    """Raises UsageError."""
    try:
        from replaykit.ledger.files import open_url
    except ImportError as error:
        raise needs(f"a ledger needs {error.name}", "ledger") from None
    url = place(text)
    path = url.removeprefix("sqlite:///").removeprefix("files:")
    if must_exist and path != url and not Path(path).exists():
        raise UsageError(f"{path}: there is no such ledger")
    return open_url(url, time_zone)


def own_ledger(ledger: str | None, time_zone: str | None) -> Ledger:
    """Of a command that writes one: --ledger and --time-zone, by default usage.db in the state folder.

    Raises UsageError.
    """
    if ledger is None:
        state_folder().mkdir(parents=True, exist_ok=True)
    return open_ledger(ledger or str(state_folder() / "usage.db"), must_exist=False, time_zone=time_zone)


def selection(args: SelectionOptions) -> Selection:
    """Raises UsageError."""
    from replaykit.ledger.selection import Selection

    labels: dict[str, tuple[str, ...]] = {}
    for text in args.label:
        name, found, pattern = text.partition("=")
        if not found or not name:
            raise UsageError(f"--label {text!r}: write NAME=GLOB, as in client=home")
        labels[name] = (*labels.get(name, ()), pattern)
    return Selection(args.vantage, args.kind, tuple(args.subject), tuple(args.exclude), labels)
