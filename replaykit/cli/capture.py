"""`replaykit capture`: live traffic, a table of who uses the bandwidth, and outputs."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pyarrow as pa
from rich.console import Group
from rich.text import Text as Styled

from replaykit.attribution.long_runners import LongRunners
from replaykit.attribution.recent import Recent
from replaykit.attribution.summary import Summary, parse_keys
from replaykit.capturing.live import Capture, Result, Settings, Totals, changed_options
from replaykit.capturing.places import parse_place
from replaykit.capturing.results import results
from replaykit.cli import common, ending, sparing
from replaykit.cli.options.looking import CaptureOptions
from replaykit.cli.watching import LiveAlerts
from replaykit.engine.options import Options as EngineSettings
from replaykit.errors import UsageError
from replaykit.outputs.output import load_outputs, open_output
from replaykit.pipeline import writing
from replaykit.pipeline.fan_out import FanOut
from replaykit.plain import emit, out, say
from replaykit.reporting import render
from replaykit.reporting.conservation import conservation
from replaykit.reporting.terminal import LiveView, show, width
from replaykit.units import parse_duration, parse_size, show_size

_LINES_BESIDE_ROWS = 9
"""Of the screen: two of heads, (other), the columns left out (up to three), the status line and one that
stays free.
"""

_RUNNERS, _LEAST_ROWS = 5, 3
"""Exchanges in flight that have a line of their own, and rows that the table keeps beside them."""


def settings_of(args: CaptureOptions) -> Settings:
    """How to capture, from the command line. Raises UsageError."""
    if not 0 < args.sample <= 1:
        raise UsageError(f"--sample {args.sample:g}: give a share above 0 and up to 1, such as 0.1")
    workers = 1 if args.workers is None else args.workers
    if not 1 <= workers <= 256:
        raise UsageError(f"--workers {args.workers}: give 1 to 256")
    for host in args.host:
        _check_address(host)
    return Settings(
        [parse_place(p) for p in args.places],
        args.host,
        args.filter,
        args.sample,
        args.headers_only,
        workers,
        parse_size(args.buffer_size),
        args.user,
        common.bodies(args),
        tuple(args.vxlan_port or (4789, 8472)) if args.tunnels else None,
        slice_s=slice_s(args),
        in_flight=args.stats or not args.quiet,
        report=lambda line: say(f"replaykit: {line}"),
    )


def interval_s(args: CaptureOptions) -> float:
    """Between two refreshes."""
    return max(parse_duration(args.interval), 0.1)


def slice_s(args: CaptureOptions) -> float:
    """Length of the slices in which exchanges in flight are told: a second, or shorter where it is shown more
    often.
    """
    return min(interval_s(args), 1.0)


def _check_address(text: str) -> None:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        raise UsageError(f"--host {text!r} is no IP address") from None


@contextmanager
def _signals(stop: list[int]) -> Iterator[None]:
    """SIGINT and SIGTERM end the capture in order; a second one ends it at once."""

    def ask(number: int, _: object) -> None:
        if stop:
            raise KeyboardInterrupt
        stop.append(number)

    before = {n: signal.signal(n, ask) for n in ending.SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(args: CaptureOptions) -> int:
    settings = settings_of(args)
    common.outputs_fit(args, args.to)
    keys = parse_keys(args.by)
    if args.duration is not None:
        parse_duration(args.duration)
    wants = any(t.endswith((".gor", ".gor.gz")) for t in args.to)
    if settings.headers_only and wants:
        raise UsageError("--headers-only cuts bodies off: it cannot fill a .gor file")
    stop: list[int] = []
    rewrite = common.rewriting(args)
    with writing.opened([], common.rotation(args)) as opened, _signals(stop):
        responses = args.decode or (wants and not args.no_responses)
        chosen = args.options(wants or args.decode, responses)
        common.engine(chosen)  # says what is wrong with a pattern before anything is opened
        load_outputs()  # everything is loaded before privileges are dropped
        sparing.finish()
        alerts = _alerts(args, chosen, wants)
        capture = Capture(settings, chosen)
        try:
            opened += [writing.Background(open_output(t, common.rotation(args))) for t in args.to]
            view = _View(args, capture, Summary(keys, measure=args.measure))
            fan_out = FanOut(opened, common.folding(True, args.quiet), rewrite, alerts)
            _loop(capture, fan_out, view, args, stop)
            if alerts is not None:
                alerts.close()
            view.say_ended()
        finally:
            capture.close()
    if not args.quiet and not args.stats:
        out(*(f"wrote {target}" for target in args.to))
    return 0


def _alerts(args: CaptureOptions, chosen: EngineSettings, wants_messages: bool) -> LiveAlerts | None:
    """Raises UsageError, also for what a rule may change and cannot."""
    if args.alerts is None:
        return None
    alerts = LiveAlerts(args.alerts, args.alert_state, args.quiet or args.stats)
    for rule in alerts.watch.rules.rules:
        if rule.change.get("headers_only") and wants_messages:
            raise UsageError(
                f"{args.alerts}: {rule.name}: headers_only cuts bodies off: it cannot fill a .gor file"
            )
        common.engine(changed_options(chosen, rule.change))
    return alerts


def _loop(
    capture: Capture,
    fan_out: FanOut,
    view: _View,
    args: CaptureOptions,
    stop: list[int],
) -> None:
    """Moves results to the outputs and refreshes what is shown, until told to stop."""
    duration = None if args.duration is None else parse_duration(args.duration)
    interval = interval_s(args)
    begun = shown = time.monotonic()
    found = results(capture, lambda: bool(stop), duration, min(interval, 0.25))
    view.say_begun()
    with view, closing(found):
        for result in found:
            if result is not None:
                _take(result, fan_out, view)
            fan_out.turn(capture)
            now = time.monotonic()
            if now - shown >= interval:
                view.refresh(now - begun)
                shown = now
        fan_out.turn(capture, last=True)
        view.refresh(time.monotonic() - begun, last=True)


def _take(result: Result, fan_out: FanOut, view: _View) -> None:
    if result.in_flight is not None:
        worker, in_flight = result.in_flight
        view.in_flight[worker] = fan_out.folding.rename(in_flight)
    if result.exchanges is not None:
        exchanges, moved = fan_out.exchanges(result.exchanges, result.moved, live=True)
        if moved is not None:
            view.add(exchanges, moved)
    if result.messages is not None:
        fan_out.messages(result.messages)


class _View:
    """What is shown while capturing: a table that refreshes, JSON lines, or only the end."""

    def __init__(self, args: CaptureOptions, capture: Capture, summary: Summary) -> None:
        self._args, self._capture, self._summary = args, capture, summary
        self._live: LiveView | None = None
        slice_ns, interval_ns = int(slice_s(args) * 1e9), int(parse_duration(args.interval) * 1e9)
        self._moving = summary.alike(only_sums=True)
        self._recent = Recent(summary, slice_ns, interval_ns)
        self.in_flight: dict[int, pa.RecordBatch] = {}
        """Of each worker, the exchanges that have begun and not ended."""
        self._runners = LongRunners(args.measure)

    def add(self, exchanges: pa.RecordBatch, moved: pa.RecordBatch) -> None:
        """Exchanges that have ended, and all that moved."""
        if self._args.stats or not self._args.quiet:
            self._summary.add(exchanges)
        if self._args.stats or self._live is not None:
            self._moving.add(moved)
            self._recent.add(moved)

    def __enter__(self) -> _View:
        if not self._args.stats and not self._args.quiet and sys.stdout.isatty():
            self._live = LiveView()
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say_begun(self) -> None:
        if not self._args.quiet:
            say(f"capturing on {', '.join(self._args.places)}; Ctrl-C ends")

    def refresh(self, seconds: float, last: bool = False) -> None:
        """Shows the sums with what is in flight, and the rates of the last whole slices."""
        if not self._args.stats and self._live is None:
            return
        in_flight = [] if last else list(self.in_flight.values())
        summary = self._summary if last else self._summary.with_sums_of(self._moving)
        now_ns = time.time_ns()
        rates = render.Rates(self._recent.summary(now_ns), self._recent.window_ns / 1e9)
        runners = self._runners.look(in_flight, now_ns)
        totals = self._capture.totals()
        if self._args.stats:
            extra: dict[str, Any] = {
                "time": time.time(),
                "seconds": round(seconds, 3),
                "dropped_by_kernel": totals.kernel_drops,
                "in_flight": sum(b.num_rows for b in in_flight),
                "long_runners": [r.as_dict() for r in runners],
            }
            if last:
                extra |= {"account": totals.account}
            emit(render.stats_line(summary, self._args.top, extra, rates) + "\n")
        elif self._live is not None:
            # The status line, where drops are told, has its place first; rows get what is left of the screen.
            console = self._live.console
            shown = runners[: max(0, min(_RUNNERS, console.height - _LINES_BESIDE_ROWS - _LEAST_ROWS))]
            rows = max(1, min(self._args.top, console.height - _LINES_BESIDE_ROWS - len(shown)))
            table = render.table(summary, rows, console.width, rates)
            lines = [Styled(render.cut(r.line(), console.width)) for r in shown]
            self._live.update(
                Group(table, *lines, Styled(self._status(seconds, summary, in_flight, rates, totals)))
            )

    def _status(
        self,
        seconds: float,
        summary: Summary,
        in_flight: list[pa.RecordBatch],
        rates: render.Rates,
        totals: Totals,
    ) -> str:
        total = summary.total
        return (
            f"{seconds:.0f} s, {round(total.requests):,} exchanges, {sum(b.num_rows for b in in_flight):,} in"
            f" flight, {show_size(total.bytes(self._args.measure))}; last {rates.window_s:g} s"
            f" {show_size(rates.total)}/s; {totals.kernel_drops:,} packets dropped"
        )

    def say_ended(self) -> None:
        args, totals = self._args, self._capture.totals()
        if args.quiet:
            return
        if args.stats:
            say(_kernel(totals, args.sample))
            return
        show(render.table(self._summary, args.top, width()))
        out("", *conservation(totals.account), _kernel(totals, args.sample))


def _kernel(totals: Totals, sample: float) -> str:
    kept = f"; it kept back all but {sample:g} of the connections, totals are weighted" if sample < 1 else ""
    return f"the kernel passed {totals.kernel_packets:,} packets and dropped {totals.kernel_drops:,}{kept}"
