"""`replaykit rules`: checked, written anew, explained, judged, and what was done about it."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from replaykit.cli import ending
from replaykit.cli.asking import say_if_earlier, warn_of_rules
from replaykit.cli.ledgers import open_ledger
from replaykit.cli.options.over_time import RulesOptions
from replaykit.errors import UsageError
from replaykit.plain import emit, json_text, out, say


def run(args: RulesOptions) -> int:
    if args.what == "explain" and args.subject is None:
        raise UsageError("rules explain: name the subject, such as a port, a client or '*'")
    if args.what == "convert":
        return _convert(args)
    rules = _given(args, "rules") if args.what in ("check", "explain", "run") else ""
    if args.what == "check":
        from replaykit.rules.limits import read_rules

        found = read_rules(rules)
        say_if_earlier(rules, found.earlier)
        for rule in found.rules:
            off = "" if rule.enabled else " (not enabled)"
            out(f"{rule.name}: {rule.describe()}{off}")
        return 0
    ledger = open_ledger(_given(args, "ledger"))
    try:
        if args.what == "explain":
            from replaykit.ledger.calendar import moment
            from replaykit.ledger.states import kept
            from replaykit.rules.evaluate import explain
            from replaykit.rules.limits import read_rules

            now = int(time.time()) if args.at is None else moment(args.at, ledger.zone)
            states = kept(ledger) if args.at is None else None
            lines = explain(ledger, read_rules(rules).rules, _given(args, "subject"), now, states)
            if not lines:
                raise UsageError(f"{args.subject}: the ledger knows no such subject")
            out(*lines)
            return 0
        if args.what == "run":
            return _run(args, rules, ledger)
        return _show(args, ledger)
    finally:
        ledger.close()


def _convert(args: RulesOptions) -> int:
    from replaykit.config.reading import read_text
    from replaykit.rules.convert import convert

    path = args.subject or args.rules
    if path is None:
        raise UsageError("rules convert: name the file")
    text = read_text(path)
    found = convert(text, path)
    if found == text:
        say(f"{path}: is written in today's form already")
    emit(found)
    return 0


def _given(args: RulesOptions, name: str) -> str:
    value = getattr(args, name)
    if value is None:
        raise UsageError(f"rules {args.what}: give --{name}")
    return str(value)


def _run(args: RulesOptions, rules: str, ledger: object) -> int:
    from replaykit.ledger.store import Ledger
    from replaykit.rules.enforcement import Guard, watch
    from replaykit.rules.limits import EFFECTS
    from replaykit.rules.shown import show

    assert isinstance(ledger, Ledger)
    guard = Guard(ledger, Path(rules), dry_run=args.dry_run)
    warn_of_rules(rules, guard.rules.notify)
    say_if_earlier(rules, guard.rules.earlier)
    kinds = {a.kind for r in guard.rules.rules for t in r.thresholds for a in t.actions} & set(EFFECTS)
    if kinds and not args.dry_run:
        say(
            f"{', '.join(sorted(kinds))}: done by the process of the vantage, such as replaykit forward"
            " --rules; here people are told"
        )
    if args.once:
        for entry in guard.step(int(time.time())):
            out(show(entry))
        return 0
    watch(guard, out, ending.in_threads())
    return 0


def _show(args: RulesOptions, ledger: object) -> int:
    from replaykit.ledger.calendar import show
    from replaykit.ledger.done import effects, log
    from replaykit.ledger.store import Ledger
    from replaykit.reporting import terminal
    from replaykit.rules.shown import value_in_words

    assert isinstance(ledger, Ledger)
    if args.what == "log":
        rows = [asdict(e) for e in log(ledger, most=args.most, subject=args.subject)]
        columns = ["time", "rule", "kind", "subject", "action", "value", "outcome", "reason", "error"]
    else:
        rows = effects(ledger)
        columns = ["since", "rule", "kind", "subject", "effect", "value", "original", "state", "error"]
    for row in rows:
        for name in ("time", "since"):
            if name in row:
                row[name] = show(row[name], ledger.zone)
    if args.format == "json":
        emit(json_text(rows, indent=2) + "\n")
        return 0
    for row in rows:
        kind = str(row.get("action") or row.get("effect"))
        for name in ("value", "original"):
            if name in row:
                row[name] = value_in_words(kind, str(row[name] or ""))
    table = terminal.PlainTable(caption=f"times: {ledger.zone}")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if row[n] is True else str(row[n]) for n in columns))
    terminal.show(table)
    return 0
