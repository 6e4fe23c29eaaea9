"""`replaykit machines`: what virtual machines moved, and what happens to those that moved too much."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaykit.cli import cleanup, ending, export
from replaykit.cli.asking import say_if_earlier, warn_of_readers
from replaykit.cli.ledgers import open_ledger, place
from replaykit.cli.options.over_time import CleanupOptions, ExportOptions
from replaykit.cli.options.vantages import MachinesOptions
from replaykit.cli.serving import NeedsToken, listen, serve_beside, url
from replaykit.config.reading import stamp
from replaykit.errors import UsageError
from replaykit.plain import say
from replaykit.units import show_size

if TYPE_CHECKING:
    from replaykit.rules.enforcement import Guard
    from replaykit.rules.limits import Rule
    from replaykit.vantages.hypervisor.config import Config
    from replaykit.vantages.hypervisor.machine import Hypervisor, Machine
    from replaykit.vantages.hypervisor.watch import Watch

_RETAIN_S = 3600


def run(args: MachinesOptions) -> int:
    if args.what == "config":
        from replaykit.cli.machines_wizard import wizard

        return wizard(Path(args.config))
    if args.what == "service":
        from replaykit.cli.machines_service import ACTIONS, service

        if args.folder not in ACTIONS:
            raise UsageError(f"machines service: choose from {', '.join(ACTIONS)}")
        return service(args.folder, Path(args.config))
    from replaykit.vantages.hypervisor.config import read_config

    config = read_config(args.config)
    if config.secret:
        warn_of_readers(args.config)
    if not args.quiet:
        for warning in config.warnings:
            say(f"warning: {warning}")
    if args.export is not None and args.cleanup is not None:
        raise UsageError("machines: one of -export and -cleanup")
    if args.export is not None:
        return _export(args, config)
    if args.cleanup is not None:
        return _cleanup(args, config)
    if args.what == "import":
        return _import(args, config)
    return _list(config) if args.what == "list" else _run(args, config)


def open_hypervisor(config: Config) -> Hypervisor:
    """Raises UsageError."""
    from replaykit.vantages.hypervisor.libvirt import Libvirt
    from replaykit.vantages.hypervisor.proxmox import Proxmox

    h = config.hypervisor
    if h["kind"] == "libvirt":
        return Libvirt(h["uri"])
    if h["verify"] is False:
        say(f"{h['host']}: its certificate is not verified (verify_tls: false)")
    return Proxmox(h["host"], h["token_id"], h["secret"], h["port"], h["verify"], config.templates)


def _list(config: Config) -> int:
    from replaykit.reporting.terminal import PlainTable, show

    try:
        found = open_hypervisor(config).machines()
    except OSError as error:
        raise UsageError(str(error.strerror or error)) from None
    table = PlainTable()
    for name in ("id", "name", "node", "type", "state", "tags"):
        table.add_column(name)
    for name in ("received", "sent"):
        table.add_column(name, justify="right")
    for m in sorted(found, key=lambda m: (len(m.id), m.id)):
        rx, tx = (sum(c[n] for c in m.counters.values()) for n in (0, 1))
        table.add_row(m.id, m.name, m.node, m.type, m.status, " ".join(m.tags), show_size(rx), show_size(tx))
    show(table)
    return 0


def _run(args: MachinesOptions, config: Config) -> int:
    from replaykit.rules.enforcement import Guard
    from replaykit.rules.limits import Rules
    from replaykit.vantages.hypervisor.control import MachineControl
    from replaykit.vantages.hypervisor.watch import Watch

    hypervisor = open_hypervisor(config)
    if config.ledger.startswith("files:"):
        Path(config.ledger[6:]).mkdir(parents=True, exist_ok=True)
    ledger = open_ledger(config.ledger, must_exist=False)
    stop, again = ending.in_threads(), threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: again.set())
    try:
        watch = Watch(ledger, hypervisor, config.interval_s)
        rules: Path | Rules = Path(config.rules_file) if config.rules_file else Rules(config.rules)
        control = MachineControl(hypervisor, watch.find)
        guard = Guard(ledger, rules, {"hypervisor": control}, dry_run=args.dry_run_rules)
        say_if_earlier(config.rules_file or "", guard.rules.earlier, args.quiet)
        try:
            listening, token = listen(config.api, config.token)
        except NeedsToken:
            listening, token = None, None
            say(
                f"no page and no API: on {config.api} they need a token: set api.token in {args.config}, or"
                " REPLAYKIT_TOKEN, or api.host to 127.0.0.1"
            )
        polled = _Polled(watch, guard, config.given, config.retention_days)
        if listening is not None:
            from replaykit.web.admission import origin

            allowed = [origin(text) for text in config.origins]
            serve_beside(ledger, listening, token=token, machines=polled, rules=guard.now, origins=allowed)
            say(f"page and API on {url(listening)}")
        if not args.quiet:
            say(f"polls {hypervisor.name} every {config.interval_s} s into {ledger.database.shown}")
        _loop(args, config, polled, stop, again)
    finally:
        ledger.close()
    return 0


@dataclass
class _Polled:
    """For the API: `replaykit.web.machines.Machines`."""

    watch: Watch
    guard: Guard
    given: Sequence[Mapping[str, Any]]
    retention_days: int = 0
    trouble: str = ""

    @property
    def name(self) -> str:
        return self.watch.name

    @property
    def every_s(self) -> float:
        return self.watch.every_s or 0

    @property
    def answered(self) -> int | None:
        return self.watch.polled

    @property
    def now(self) -> Mapping[str, Machine]:
        return self.watch.now

    @property
    def rules(self) -> Sequence[Rule]:
        return self.guard.rules.rules


def _loop(
    args: MachinesOptions, config: Config, polled: _Polled, stop: threading.Event, again: threading.Event
) -> None:
    """One step after another, so that rules see what was just counted. Nothing here ends it but a signal."""
    from replaykit.ledger.cleanup import retain
    from replaykit.rules.limits import Rules
    from replaykit.rules.shown import show
    from replaykit.vantages.hypervisor.config import read_config

    watch, guard = polled.watch, polled.guard
    said, retained, path = "", 0.0, Path(args.config)
    known = stamp(path)
    while not stop.is_set():
        begun = time.monotonic()
        seen = stamp(path) or known
        if seen != known or again.is_set():
            known = seen
            again.clear()
            try:
                config = read_config(str(path))
                if not config.rules_file:
                    guard.rules = Rules(config.rules)
                    polled.given = config.given
                polled.retention_days = config.retention_days
                watch.every_s = config.interval_s
                say(f"{path} was read again: interval and rules are as it says")
            except UsageError as error:
                say(f"configuration not changed: {error}")
        problem = guard.reload()
        if problem:
            say(problem)
        trouble = ""
        try:
            watch.poll(int(time.time()))
            for entry in guard.step(int(time.time())):
                say(show(entry))
            if config.retention is not None and time.monotonic() - retained > _RETAIN_S:
                retained = time.monotonic()
                retain(watch.ledger, config.retention, int(time.time()))
        except (UsageError, OSError) as error:
            trouble = str(getattr(error, "strerror", None) or error)
        polled.trouble = trouble
        if trouble != said:
            say(trouble or f"{watch.name} answers again")
            said = trouble
        stop.wait(max(0.05, config.interval_s - (time.monotonic() - begun)))


def _span(args: MachinesOptions) -> tuple[str | None, str | None, str]:
    """since, until, and as file names have it."""
    from datetime import date, timedelta

    def following(text: str) -> str:
        """The end is meant with its whole day."""
        try:
            return (date.fromisoformat(text) + timedelta(days=1)).isoformat()
        except ValueError:
            return text

    if (args.start is None) != (args.end is None):
        raise UsageError("machines: give both -start and -end, or neither")
    if args.start is not None and args.end is not None:
        return args.start, following(args.end), f"{args.start[:10]}_to_{args.end[:10]}".replace("-", "")
    if args.date is not None:
        return args.date, following(args.date), f"{args.date}_to_{args.date}".replace("-", "")
    return None, None, ""


def _export(args: MachinesOptions, config: Config) -> int:
    since, until, span = _span(args)
    folder = Path(config.export_path)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%d_%H%M%S")
    way = {"download": "rx", "upload": "tx"}.get(args.direction, args.direction)
    name = "_".join(
        p
        for p in (
            "traffic_stats" if args.export == "all" else f"vm_{args.export}_traffic",
            way if way != "both" else "",
            span,
            stamp,
        )
        if p
    )
    target = folder / f"{name}.{args.format}"
    chosen: dict[str, Any] = {
        "ledger": place(config.ledger), "vantage": "hypervisor", "kind": "machine", "period": args.period,
        "format": args.format, "direction": way, "output": str(target), "dark": args.dark, "since": since,
        "until": until,
    }  # fmt: skip
    if args.export is not None and args.export != "all":
        _one(config, args.export)
        chosen["label"] = [f"vmid={args.export}"]
    status = export.run(ExportOptions.of(chosen))
    if not args.quiet:
        say(f"wrote {target}")
    return status


def _one(config: Config, vmid: str) -> None:
    """Raises UsageError where the ledger never saw it; one that was deleted is there still."""
    from replaykit.ledger.history import subjects
    from replaykit.ledger.selection import Selection

    ledger = open_ledger(config.ledger)
    try:
        if not subjects(ledger, Selection("hypervisor", "machine", labels={"vmid": (vmid,)})):
            raise UsageError(f"-export {vmid}: the ledger knows no such machine")
    finally:
        ledger.close()


def _cleanup(args: MachinesOptions, config: Config) -> int:
    since, until, _ = _span(args)
    chosen: dict[str, Any] = {"ledger": place(config.ledger), "vantage": "hypervisor", "kind": "machine"}
    if args.cleanup == "before":
        if args.before is None:
            raise UsageError("-cleanup before: give -before DATE")
        chosen["before"] = args.before
    elif since is None or until is None:
        raise UsageError(
            f"-cleanup {args.cleanup}: give -start and -end" + (", or -date" if args.cleanup == "vm" else "")
        )
    else:
        chosen |= {"since": since, "until": until}
    if args.cleanup == "vm":
        if args.vmid is None:
            raise UsageError("-cleanup vm: give -vmid")
        chosen["label"] = [f"vmid={args.vmid}"]
    chosen |= {
        "dry_run": args.dry_run,
        "yes": args.yes or not sys.stdin.isatty(),
        "quiet": args.quiet,
    }
    return cleanup.run(CleanupOptions.of(chosen))


def _import(args: MachinesOptions, config: Config) -> int:
    from replaykit.vantages.hypervisor.imported import read_folder

    if args.folder is None:
        raise UsageError("machines import: name the data folder, with vm_100/ and the like in it")
    ledger = open_ledger(config.ledger, must_exist=False)
    try:
        count, bad = read_folder(ledger, Path(args.folder))
    finally:
        ledger.close()
    say(f"{count:,} samples taken over" + (f"; {bad:,} lines could not be read" if bad else ""))
    return 0
