"""`replaykit users`: who used the interface, per user, from counters that the kernel keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaykit.cli import ending
from replaykit.cli.asking import agreed, say_if_earlier, warn_of_rules
from replaykit.cli.ledgers import own_ledger
from replaykit.cli.options.vantages import UsersOptions
from replaykit.cli.serving import listen, origins, place, serve_beside, url
from replaykit.errors import UsageError
from replaykit.outputs.settings import secret
from replaykit.plain import emit, out, say, visible
from replaykit.units import parse_duration, show_size

if TYPE_CHECKING:
    from replaykit.ledger.store import Ledger
    from replaykit.rules.enforcement import Guard
    from replaykit.vantages.netfilter.counters import Source
    from replaykit.vantages.netfilter.users import UserMap
    from replaykit.vantages.netfilter.watch import Watch

SOURCES = ("auto", "nftables", "ebpf", "iptables", "tc")
TOP = 20


def run(args: UsersOptions) -> int:
    from replaykit.vantages.netfilter import control, table
    from replaykit.vantages.netfilter.programs import nft

    if args.install + args.list_rules + args.remove + args.once + args.check > 1:
        raise UsageError("users: one of --install, --list, --remove, --once and --check")
    if args.remove:
        if not agreed("take the table, what it counted and all limits away?", args.yes):
            return 1
        say("removed" if table.remove() else "it was not there")
        control.remove()
        return 0
    if args.check:
        return _check(args)
    if args.list_rules:
        if table.installed() is None:
            raise UsageError("the table is not installed: replaykit users --install --interface NAME")
        out(*nft(f"list table inet {table.TABLE}\n").splitlines())
        return 0
    if not args.interface:
        raise UsageError("users: name the interface, such as --interface wg0")
    if args.install:
        if args.size < 1:
            raise UsageError("--size: at least 1")
        fresh = table.install(args.interface, args.size)
        for name in args.interface:
            if not Path("/sys/class/net", name).exists():
                say(f"{name}: there is no such interface now; it is counted when there is")
        say(f"counts each address on {', '.join(args.interface)}" if fresh else "it is there already")
        return 0
    return _watch(args)


def _check(args: UsersOptions) -> int:
    from replaykit.vantages.netfilter.marks import MarkSource
    from replaykit.vantages.netfilter.traffic_control import FilterSource
    from replaykit.vantages.netfilter.users import UserMap

    UserMap(args.users)  # it can be read
    if args.source == "tc":
        if len(args.interface) != 1:
            raise UsageError("users --check --source tc: name one interface, such as --interface wg0")
        found = FilterSource(args.interface[0]).unclear()
    else:
        found = MarkSource().unclear()
    for pair in found:
        out(f"both count the same packets: {pair}")
    if not found:
        out("no packet is counted twice")
    return 1 if found else 0


def _watch(args: UsersOptions) -> int:
    from replaykit.vantages.netfilter.metrics import serve
    from replaykit.vantages.netfilter.users import UserMap

    every = parse_duration(args.every)
    if every < 0.1:
        raise UsageError("--every: at least 100ms")
    users = UserMap(args.users)
    source, began = open_source(args.source, args.interface)
    _warn_of_double(source)
    if args.once:
        return _once(source, users)
    ledger = own_ledger(args.ledger, args.time_zone)
    stop = ending.in_threads()
    try:
        watch = _open_watch(args, ledger, source, users, began, every)
        if args.prometheus is not None:
            serve(watch, *place("--prometheus", args.prometheus), secret("REPLAYKIT_TOKEN"))
        guard = None if args.rules is None else _guard(args, args.rules, ledger, users, stop)
        listening, token = listen(args.api)
        if listening is not None:
            serve_beside(
                ledger,
                listening,
                token=token,
                exchanges=args.exchanges,
                rules=guard.now if guard else None,
                origins=origins(args),
            )
            say(f"page and API on {url(listening)}")
        say(f"reads {source.name} every {args.every}")
        try:
            _loop(args, watch, every, stop)
        finally:
            watch.close()
    finally:
        ledger.close()
    return 0


def _warn_of_double(source: Source) -> None:
    """Where two rules or filters count the same packets."""
    from replaykit.vantages.netfilter.marks import MarkSource
    from replaykit.vantages.netfilter.traffic_control import FilterSource

    if isinstance(source, MarkSource):
        for pair in source.unclear():
            say(f"warning: both rules count the same packets, so a user may be counted twice: {pair}")
    if isinstance(source, FilterSource):
        for pair in source.unclear():
            say(f"warning: both filters may count the same packets, so a user may be counted twice: {pair}")


def _open_watch(
    args: UsersOptions, ledger: Ledger, source: Source, users: UserMap, began: bool, every: float
) -> Watch:
    from replaykit.vantages.netfilter.ebpf import EbpfSource
    from replaykit.vantages.netfilter.marks import MarkSource
    from replaykit.vantages.netfilter.watch import Watch

    return Watch(
        ledger,
        source,
        args.interface,
        users,
        began,
        source.addresses if isinstance(source, MarkSource) else None,
        every,
        _whole(source, args.interface),
        source.links if isinstance(source, EbpfSource) else None,
    )


def _guard(args: UsersOptions, rules: str, ledger: Ledger, users: UserMap, stop: threading.Event) -> Guard:
    """Judges and acts beside, in a thread of its own."""
    from replaykit.rules.enforcement import Guard
    from replaykit.rules.enforcement import watch as follow
    from replaykit.vantages.netfilter.control import UserControl

    control = UserControl(users, args.interface, args.limit_by)
    if control.refused:
        say(f"rates are limited by nftables: {control.refused}")
    guard = Guard(ledger, Path(rules), {"netfilter": control})
    warn_of_rules(rules, guard.rules.notify)
    say_if_earlier(rules, guard.rules.earlier, args.quiet)
    threading.Thread(target=follow, args=(guard, say, stop), daemon=True).start()
    return guard


def _whole(source: Source, interfaces: Sequence[str]) -> bool:
    """Whether it counts what these interfaces move, and nothing else, so that the rest is theirs alone."""
    from replaykit.vantages.netfilter import table
    from replaykit.vantages.netfilter.marks import MarkSource

    if source.name == "nftables":
        return set(table.installed() or ()) == set(interfaces)
    if isinstance(source, MarkSource):
        return {rule.interface for _, rule in source.rules()} == set(interfaces)
    return True  # eBPF and tc are of the interfaces they were given


def open_source(wanted: str, interfaces: Sequence[str]) -> tuple[Source, bool]:
    """The source, and whether its counters begin now. Raises UsageError."""
    from replaykit.vantages.netfilter import table
    from replaykit.vantages.netfilter.counters import InterfaceSource
    from replaykit.vantages.netfilter.ebpf import EbpfSource
    from replaykit.vantages.netfilter.marks import MarkSource
    from replaykit.vantages.netfilter.traffic_control import FilterSource

    for interface in interfaces:
        InterfaceSource(interface).read()  # there is such an interface
    if wanted == "auto":
        if table.installed() is not None:
            wanted = "nftables"
        elif _marks():
            wanted = "iptables"
        else:
            try:
                return EbpfSource(*interfaces), True
            except UsageError as error:
                raise UsageError(
                    f"{error}; install our table instead: replaykit users --install --interface"
                    f" {interfaces[0]}"
                ) from None
    if wanted == "nftables":
        counted = table.installed()
        missing = [i for i in interfaces if i not in (counted or ())]
        if missing:
            raise UsageError(
                f"the table does not count on {', '.join(missing)}: replaykit users --install --interface …"
            )
        return table.TableSource(), False
    if wanted == "ebpf":
        return EbpfSource(*interfaces), True
    if wanted == "iptables":
        if not _marks():
            raise UsageError(
                "iptables: the mangle table has no rule that sets a mark (iptables-save -c -t mangle)"
            )
        return MarkSource(), False
    if len(interfaces) > 1:
        raise UsageError("--source tc: one interface, please")
    return FilterSource(interfaces[0]), False


def _marks() -> bool:
    from replaykit.vantages.netfilter.marks import MarkSource

    try:
        return any(True for _ in MarkSource().rules())
    except UsageError:
        return False


def _loop(args: UsersOptions, watch: Watch, every: float, stop: threading.Event) -> None:
    import sys

    from replaykit.reporting.terminal import LiveView

    said = ""
    table = not args.quiet and sys.stdout.isatty()
    live = LiveView(transient=False) if table else None
    before: dict[Any, Any] = {}
    at = time.monotonic()
    if live is not None:
        live.start()
    try:
        while True:
            try:
                watch.step(int(time.time()))
                trouble = watch.users.trouble or watch.trouble
            except UsageError as error:
                trouble = str(error)
            if trouble and trouble != said:
                say(trouble)
            said = trouble
            now = time.monotonic()
            if live is not None:
                live.update(_table(watch, before, now - at))
            before, at = dict(watch.places), now
            if stop.wait(every):
                return
    finally:
        if live is not None:
            live.stop()


def _table(watch: Watch, before: Any, seconds: float) -> Any:
    from replaykit.reporting.terminal import PlainTable

    table = PlainTable(title="Who uses the interface")
    for name in ("user", "address"):
        table.add_column(name)
    for name in ("rx/s", "tx/s", "rx", "tx", "packets"):
        table.add_column(name, justify="right")
    rows = sorted(watch.places.items(), key=lambda p: -p[1].rx_bytes - p[1].tx_bytes)
    for (code, address), counts in rows[:TOP]:
        last = before.get((code, address), counts)
        rates = [
            show_size((n - b) / seconds) + "/s" if seconds > 0.05 else "–"
            for n, b in ((counts.rx_bytes, last.rx_bytes), (counts.tx_bytes, last.tx_bytes))
        ]
        table.add_row(
            code,
            address,
            *rates,
            show_size(counts.rx_bytes),
            show_size(counts.tx_bytes),
            f"{counts.rx_packets + counts.tx_packets:,}",
        )
    if len(rows) > TOP:
        table.add_row(f"and {len(rows) - TOP:,} more", *[""] * 6)
    return table


def _once(source: Source, users: Any) -> int:
    try:
        _, found = source.read()
    finally:
        source.close()
    sums: dict[tuple[str, str], Any] = {}
    for name, counts in found.items():
        key = name.partition(" ")[0]
        user = users.users.find(key)
        at = (user.code if user is not None else key, key)
        sums[at] = counts if at not in sums else sums[at].plus(counts)
    emit("user\taddress\trx_bytes\ttx_bytes\trx_packets\ttx_packets\n")
    for (code, key), counts in sorted(sums.items(), key=lambda s: -s[1].rx_bytes - s[1].tx_bytes):
        emit("\t".join(map(visible, (code, key, *counts))) + "\n")
    return 0
