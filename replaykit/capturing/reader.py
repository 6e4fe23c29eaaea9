"""The engine as the options ask for it: with a key log, with plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from replaykit.capturing.files import CaptureFile, Reading
from replaykit.capturing.keylog import KeyLogFile
from replaykit.engine.engine import Engine
from replaykit.engine.engines import Engines
from replaykit.engine.options import Options
from replaykit.errors import UsageError


def key_log(options: Options) -> KeyLogFile | None:
    return None if options.tls_keys is None else KeyLogFile(Path(options.tls_keys))


def open_reader(options: Options, report: Callable[[str], None]) -> Engine:
    """An engine. `report` is told of connections that a plug-in cannot read, and of a key log of no use.

    Raises UsageError, and ValueError for a pattern that cannot be read.
    """
    keys = key_log(options)
    if not options.protocols:
        return Engine(options, keys, report=report)
    from replaykit.engine.protocol import plugins  # loaded only here: most runs start without it

    known = {plugin.name: plugin for plugin in plugins()}
    missing = [name for name in options.protocols if name not in known]
    if missing:
        raise UsageError(f"--protocol {missing[0]}: there are {', '.join(['raw', *known])}")
    chosen = [known[name] for name in options.protocols]
    ports = tuple(port for plugin in chosen for port in plugin.ports)
    return Engine(replace(options, plugin_ports=ports), keys, chosen, report)


def keep_keys_of(
    engine: Engine | Engines, files: Sequence[CaptureFile], options: Options, report: Callable[[str], None]
) -> None:
    """Where a key log holds more than an engine keeps: only the secrets of the files' connections are kept.

    The files are read once more for it, before. Where one can be read only once, such as a pipe, `report` is
    told that the oldest secrets were forgotten.
    """
    if not engine.keys_forgotten:
        return
    if any(file.once for file in files):
        report(
            f"--tls-keys {options.tls_keys}: the oldest {engine.keys_forgotten:,} of its secrets are too many"
            " to keep for what can be read only once, and were passed over"
        )
        return
    before = Engine(replace(options, requests=False, responses=False, protocols=()))
    before.note_randoms()
    for file in files:
        again = CaptureFile(file.name)
        for _ in again.feed(before, Reading()):
            before.take_exchanges()
            if before.increments:
                before.take_increments()
        again.close()
    engine.keep_keys_of(before.noted_randoms)
