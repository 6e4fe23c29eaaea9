"""What reads the packets: an engine, and above it what the options ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from replaykit.errors import UsageError
from replaykit.extras import needs
from replaykit.wire.engine import Choice, Engine, open_engine
from replaykit.wire.options import Options


def open_reader(options: Options, choice: Choice, report: Callable[[str], None]) -> Engine:
    """An engine; with a key log or plug-ins, one that has these above it.

    `report` is told of connections that a plug-in cannot read. Raises UsageError, and what
    `open_engine` raises.
    """
    if options.tls_keys is None and not options.protocols:
        return open_engine(options, choice)
    from replaykit.wire.protocol import plugins  # loaded only here: most runs start without it

    if options.tls_keys is not None and find_spec("cryptography") is None:
        raise needs("--tls-keys needs the package cryptography", "tls")
    known = {plugin.name: plugin for plugin in plugins()} if options.protocols else {}
    missing = [name for name in options.protocols if name not in known]
    if missing:
        raise UsageError(f"--protocol {missing[0]}: there are {', '.join(['raw', *known])}")
    from replaykit.capture.keylog import KeyLogFile
    from replaykit.wire.layers import Layered

    chosen = [known[name] for name in options.protocols]
    keys = None if options.tls_keys is None else KeyLogFile(Path(options.tls_keys))
    tapped = replace(
        options,
        tap_tls=keys is not None,
        tap_ports=tuple(port for plugin in chosen for port in plugin.ports),
        tap_unknown=bool(chosen),
    )
    return Layered(open_engine(tapped, choice), options, keys, chosen, report)
