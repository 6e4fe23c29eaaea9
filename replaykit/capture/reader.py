"""The engine as the options ask for it: with a key log, with plug-ins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from replaykit.capture.keylog import KeyLogFile
from replaykit.errors import UsageError
from replaykit.wire.engine import Engine
from replaykit.wire.options import Options


def key_log(options: Options) -> KeyLogFile | None:
    return None if options.tls_keys is None else KeyLogFile(Path(options.tls_keys))


def open_reader(options: Options, report: Callable[[str], None]) -> Engine:
    """An engine. `report` is told of connections that a plug-in cannot read, and of a key log of no use.

    Raises UsageError, and ValueError for a pattern that cannot be read.
    """
    keys = key_log(options)
    if not options.protocols:
        return Engine(options, keys, report=report)
    from replaykit.wire.protocol import plugins  # loaded only here: most runs start without it

    known = {plugin.name: plugin for plugin in plugins()}
    missing = [name for name in options.protocols if name not in known]
    if missing:
        raise UsageError(f"--protocol {missing[0]}: there are {', '.join(['raw', *known])}")
    chosen = [known[name] for name in options.protocols]
    ports = tuple(port for plugin in chosen for port in plugin.ports)
    return Engine(replace(options, plugin_ports=ports), keys, chosen, report)
