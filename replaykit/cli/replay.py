"""`replaykit replay`: recorded requests to a target, at their own pace or another."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

from replaykit.cli import common, rewrites
from replaykit.cli.event_loop import event_loops
from replaykit.cli.options.replaying import ReplayOptions
from replaykit.errors import UsageError
from replaykit.outputs.gor import GorOutput
from replaykit.outputs.output import Rotation
from replaykit.plain import emit, json_text, out, say
from replaykit.replaying.compare import Comparison
from replaykit.replaying.outgoing import CUT, NOT_SENT
from replaykit.replaying.plan import plan as planned
from replaykit.replaying.reading import Read
from replaykit.replaying.runner import Plan, Replay
from replaykit.replaying.target import Target
from replaykit.units import show_size

if TYPE_CHECKING:
    from replaykit.reporting.terminal import PlainTable


def run(args: ReplayOptions) -> int:
    read = Read()
    chosen = rewrites.filter_rules(rewrites.rules(args), args)
    plan = planned(args, read, chosen, rewrites.sets_host(chosen))
    saved = None
    for name in ("append", "overwrite"):
        if getattr(args, name) and args.save is None:
            raise UsageError(f"--{name}: there is no file that it could act on; give --save FILE")
    if args.save is not None:
        if not args.save.endswith((".gor", ".gor.gz")):
            raise UsageError(f"--save {args.save}: the name ends in .gor or .gor.gz")
        saved = GorOutput(args.save, Rotation(existing=common.existing(args)))
        plan.saved = saved.messages
    with event_loops() as runner:
        try:
            replay = runner.run(_go(plan, args))
        finally:
            if saved is not None:
                saved.close()
    if read.cut:
        replay.stats.skipped[NOT_SENT[CUT]] += read.cut
    return show(replay, args, read)


async def _go(plan: Plan, args: ReplayOptions) -> Replay:
    replay = Replay(plan)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, replay.stop)
    watching = None
    if not args.quiet and sys.stderr.isatty():
        watching = loop.create_task(_watch(replay))
    try:
        await replay.run()
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    return replay


async def _watch(replay: Replay) -> None:
    """A line that refreshes."""
    from rich.text import Text

    from replaykit.reporting.terminal import LiveView

    last, before = 0, 0.0
    live = LiveView(stderr=True)
    live.start()
    try:
        while True:
            await asyncio.sleep(0.5)
            stats, now = replay.stats, replay.seconds
            rate = (stats.sent - last) / ((now - before) or 1)
            last, before = stats.sent, now
            errors = sum(stats.errors.values())
            text = (
                f"{now:.0f} s, {stats.sent:,} sent, {rate:,.0f}/s, {stats.answered:,} answered, {errors:,}"
                " errors; Ctrl-C ends"
            )
            live.update(Text(text))
    finally:
        live.stop()


def show(replay: Replay, args: ReplayOptions, read: Read) -> int:
    """Prints what came of it; returns the exit status."""
    stats, comparison = replay.stats, replay.plan.comparison
    if args.format == "json":
        found = stats.as_dict() | {
            "seconds": round(replay.seconds, 3),
            "records": read.counts.records,
            "denied": read.counts.denied,
            "interrupted": replay.interrupted,
            "unsent": replay.unsent,
        }
        if comparison is not None:
            found["comparison"] = {
                "different": comparison.different,
                "unpaired": comparison.unpaired,
                "endpoints": {name: d.as_dict() for name, d in comparison.endpoints.items()},
            }
        emit(json_text(found) + "\n")
    elif not args.quiet:
        out(*summary(replay))
        if comparison is not None:
            from replaykit.reporting import terminal

            terminal.show(_table(comparison))
            for name, d in comparison.endpoints.items():
                for e in d.examples[:2]:
                    out(f"{name}  {e['request']}  {e['what']}: {e['recorded']} -> {e['replayed']}")
        out(*last_words(replay))
    status = common.print_troubles(read.troubles)
    if replay.interrupted:
        return 130
    if status:
        return status
    if comparison is not None and (comparison.different or not comparison.endpoints):
        if not comparison.endpoints:
            say("replaykit: nothing was compared: the recording holds no responses to what was sent")
        return 1
    return int(bool(stats.errors) and not stats.answered)


def last_words(replay: Replay) -> list[str]:
    """What must not be overlooked."""
    stats, out = replay.stats, []
    if stats.missed:
        found = ", ".join(f"{s} x {n:,}" for s, n in sorted(stats.statuses.items()))
        out.append(f"every response was 404 or 5xx ({found}): is this the right target?")
    if replay.interrupted:
        least = "" if replay.unsent_known else "at least "
        out.append(f"interrupted: {least}{replay.unsent:,} requests of the recording were not sent")
    return out


def summary(replay: Replay) -> list[str]:
    """A few lines for a person."""
    stats, seconds = replay.stats, replay.seconds or 1e-9
    lines = [
        f"sent {stats.sent:,} requests to {_shown(replay.plan.target)} in {seconds:.2f} s"
        f" ({stats.rate:,.0f}/s) over {stats.connections:,} connections; {stats.answered:,} answered;"
        f" {show_size(stats.sent_bytes)} out, {show_size(stats.received_bytes)} in"
    ]
    if stats.statuses:
        lines.append("statuses: " + ", ".join(f"{s} x {n:,}" for s, n in sorted(stats.statuses.items())))
    errors = ", ".join(f"{kind} x {n:,}" for kind, n in stats.errors.most_common())
    lines.append(f"errors: {errors or 'none'}")
    if stats.skipped:
        lines.append("not sent: " + ", ".join(f"{why} x {n:,}" for why, n in stats.skipped.most_common()))
    if stats.beyond:
        lines.append(
            f"left out: {stats.beyond_bytes:,} bytes beyond the request of {stats.beyond:,} records; a record"
            " is one request"
        )
    for count, what in (
        (stats.retried, "retried"),
        (stats.reopened, "sent again on a new connection, as the target had closed the one before"),
        (stats.redirected, "redirects followed"),
    ):
        if count:
            lines.append(f"{what}: {count:,}")
    for name, times in (("latency", stats.latency), ("sent late by", stats.lag)):
        found = times.percentiles_ms()
        if found:
            lines.append(f"{name} (ms): " + ", ".join(f"{p} {v:.3f}" for p, v in found.items()))
    return lines


def _shown(target: Target) -> str:
    return f"{target.scheme}://{target.authority}"


def _table(comparison: Comparison) -> PlainTable:
    from replaykit.reporting.terminal import PlainTable

    table = PlainTable(
        title=f"{comparison.different:,} responses differ, {comparison.unpaired:,} without their other half"
    )
    table.add_column("endpoint", overflow="fold")
    for name in (
        "pairs",
        "same",
        "status",
        "header",
        "body",
        "recorded",
        "replayed",
        "recorded ms",
        "replayed ms",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    ordered = sorted(comparison.endpoints.items(), key=lambda item: item[1].same - item[1].pairs)
    for name, d in ordered:
        timed = d.timed or 1
        table.add_row(
            name,
            *(f"{n:,}" for n in (d.pairs, d.same, d.status, d.header, d.body)),
            show_size(d.recorded_bytes),
            show_size(d.replayed_bytes),
            f"{d.recorded_ns / timed / 1e6:.2f}",
            f"{d.replayed_ns / timed / 1e6:.2f}",
        )
    return table
