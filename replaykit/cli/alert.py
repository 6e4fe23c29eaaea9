"""`replaykit alert`: rules over an archive or Elasticsearch, and word of what they find."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from replaykit.archive.partitions import parse_time
from replaykit.atomic_files import exclusive
from replaykit.cli import ending
from replaykit.cli.asking import say_if_earlier, warn_of_rules
from replaykit.cli.options.shipping import AlertOptions
from replaykit.errors import UsageError
from replaykit.outputs.settings import state_of
from replaykit.plain import emit, json_text, out, say
from replaykit.rules import notify
from replaykit.rules.alerts import Rules, read_rules
from replaykit.rules.episodes import Source, Watch
from replaykit.rules.sources import open_source
from replaykit.units import parse_duration


def run(args: AlertOptions) -> int:
    rules = read_rules(args.rules)
    warn_of_rules(args.rules, rules.notify)
    say_if_earlier(args.rules, rules.earlier, args.quiet)
    delay = parse_duration(args.delay)
    if args.check:
        if not args.quiet:
            written = sum(rule.at == 1 for rule in rules.rules)
            out(f"{args.rules}: {written} rules, {len(rules.notify)} receivers")
        return 0
    if args.source is None:
        raise UsageError("--source: name an archive or elasticsearch://HOST:9200, or give --check")
    source = open_source(args.source)
    if args.since is not None:
        return _past(rules, source, args)
    path = Path(args.state) if args.state else state_of("alert", args.rules).with_suffix(".json")
    lock = judging(path)
    try:
        watch = Watch(rules, source, path)
        stopping = ending.in_threads()
        while True:
            step(watch, time.time() - delay, args.quiet)
            if args.once:
                return 2 if watch.state.outbox else 0
            if stopping.wait(min(rules.interval_s, 5.0)):
                return 0
    finally:
        os.close(lock)


def judging(state: Path) -> int:
    """A lock on a state: two that judge the same rules would resolve each other's episodes.

    Raises UsageError.
    """
    return exclusive(state.with_suffix(".lock"), f"{state}: another process judges these rules")


def step(watch: Watch, now: float, quiet: bool = False) -> None:
    """Evaluates what is due, prints the events, and sends word; troubles are said and tried again."""

    def send(name: str, event: Mapping[str, Any]) -> None:
        notify.send(watch.rules.notify[name], event)

    try:
        events = watch.advance(now)
    except OSError as error:
        say(f"replaykit: {error}; it is tried again")
        return
    if not quiet:
        for event in events:
            tell(event)
    watch.state.outbox = [e for e in watch.state.outbox if e["to"] in watch.rules.notify]
    for trouble in watch.deliver(send, time.time()):
        say(f"replaykit: {trouble}")


def tell(event: Mapping[str, Any]) -> None:
    """A sentence for a person at a terminal, JSON for a program."""
    if sys.stdout.isatty():
        out(notify.sentence(event))
    else:
        emit(json_text(event) + "\n")


def _past(rules: Rules, source: Source, args: AlertOptions) -> int:
    since = parse_time("--since", args.since or "") / 1e9
    until = parse_time("--until", args.until or "now") / 1e9
    if until <= since:
        raise UsageError("--until: give a time after --since")
    watch = Watch(rules, source)
    at = since - since % rules.interval_s + rules.interval_s
    while at <= until:
        for event in watch.evaluate(at):
            tell(event)
        watch.state.outbox.clear()
        at += rules.interval_s
    return 0
