"""`replaykit run`: a declared pipeline, inputs to outputs, until it is told to stop or its files have
ended.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from replaykit.capturing.live import Capture, changed_options
from replaykit.capturing.results import results
from replaykit.cli import capture as capture_command
from replaykit.cli import common, ending, sparing
from replaykit.cli.flow import FileOptions, Flow, Source, Target, read_flow
from replaykit.cli.options.looking import CaptureOptions
from replaykit.cli.options.shipping import RunOptions
from replaykit.cli.rewrites import filter_rules, rules
from replaykit.cli.watching import LiveAlerts
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.goreplay import pipeline
from replaykit.goreplay.limiter import Limiter
from replaykit.outputs.output import open_output
from replaykit.outputs.settings import secret
from replaykit.pipeline import writing
from replaykit.pipeline.fan_out import FanOut
from replaykit.plain import json_text, out, say
from replaykit.records.message import Messages
from replaykit.rules.alerts import read_rules
from replaykit.web.health import Health, place

OBSERVE_S = 10.0


def run(args: RunOptions) -> int:
    flow = read_flow(args.pipeline)
    if args.check:
        check(flow)
        for source in flow.sources:
            out(f"from {', '.join(source.places)}")
        for target in flow.targets:
            out(f"to   {_shown(target.to)}")
        return 0
    return asyncio.run(Running(flow).run())


def check(flow: Flow) -> None:
    """What can be known before anything is begun. Raises UsageError that names file, line and key."""
    for source in flow.sources:
        for name in source.files:
            if "://" not in name and name != "-" and not Path(name).exists():
                raise flow.refused(source.at, f"{name}: there is no such file")
    for target in flow.targets:
        if target.limit is not None:
            try:
                Limiter(target.limit)
            except UsageError as error:
                raise flow.refused(target.at, str(error)) from None
    if flow.declared.alerts is not None:
        read_rules(flow.declared.alerts)
    if flow.declared.health is not None:
        place(flow.declared.health, secret("REPLAYKIT_TOKEN"), flow.declared.health_open)


def _shown(target: str) -> str:
    """Without credentials."""
    scheme, mark, rest = target.partition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}".partition("?")[0]


class _Messages:
    """An output of messages that is written to in a thread of its own, as the pipeline's outputs are."""

    lost = 0

    def __init__(self, output: writing.Background) -> None:
        self.name = output.output.target
        self._output = output

    async def write(self, messages: Messages) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._output.messages, messages)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._output.close)


class Running:
    """A pipeline at work. Raises UsageError."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self._exchanges = 0
        self._began = time.monotonic()
        self._capture: Capture | None = None
        self._alerts: LiveAlerts | None = None
        self._health: Health | None = None
        self._outputs: list[writing.Background] = []
        self._fan_out = FanOut(self._outputs, common.folding(True, False))
        self._stopping = asyncio.Event()
        self._troubles: list[str] = []
        # One thread that waits for results, so that their order stays.
        self._thread = ThreadPoolExecutor(1)

    def say(self, level: int, text: str, **more: Any) -> None:
        """A line of the log, on stderr; level 0 always."""
        if level > 0:
            return
        if self.flow.declared.log == "json":
            line: dict[str, Any] = {
                "@timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "message": text,
                **more,
            }
            say(json_text(line))
        else:
            say(f"replaykit: {text}")

    async def run(self) -> int:
        """Exit status: 0, or 2 where something was lost or cut short."""
        ending.in_loop(self._stop)
        try:
            return await self._run()
        except UsageError as error:
            self.say(0, str(error), severity="error")
            return 2
        finally:
            if self._health is not None:
                self._health.close()
            self._thread.shutdown(wait=False)

    def _stop(self) -> None:
        if self._stopping.is_set():
            os._exit(130)
        self._stopping.set()

    async def _run(self) -> int:
        flow = self.flow
        chosen = rules(flow.sources[0].args)
        messages: list[tuple[pipeline.Output, Limiter | None]] = []
        route = pipeline.Route(pipeline.Settings(chosen), messages)
        live = next((s for s in flow.sources if not s.files), None)
        if live is not None:  # before the outputs: where nothing can be captured, nothing is begun
            self._open_capture(live.args)
        troubles: list[UsageError] = []
        try:
            for target in flow.targets:
                self._open(target, messages, chosen)
            if flow.declared.middleware is not None:
                from replaykit.goreplay.middleware import open_middleware

                route.middleware = await open_middleware(flow.declared.middleware, route.onwards, self.say)
            if flow.declared.health is not None:
                self._health = Health(
                    flow.declared.health, self.status, secret("REPLAYKIT_TOKEN"), flow.declared.health_open
                )
            _notify("READY=1")
            self.say(0, f"running: {len(flow.sources)} inputs, {len(flow.targets)} outputs")
            await self._move(route)
        finally:
            _notify("STOPPING=1")
            if self._capture is not None:
                self._capture.close()
            if self._alerts is not None:
                self._alerts.close()
            troubles = await self._close(route)
        for trouble in [*self._troubles, *map(str, troubles)]:
            self.say(0, trouble, severity="error")
        lost = sum(o.lost for o, _ in route.outputs)
        if lost:
            self.say(0, f"{lost:,} messages were lost", severity="error")
        self.say(0, f"ended: {self._exchanges:,} exchanges", exchanges=self._exchanges)
        return 2 if troubles or self._troubles or lost else 0

    def _open_capture(self, args: CaptureOptions | FileOptions) -> None:
        assert isinstance(args, CaptureOptions)
        wants = self._wants
        options = args.options(wants, wants and self.flow.declared.responses)
        settings = capture_command.settings_of(args)
        if self.flow.declared.alerts is not None:
            self._alerts = LiveAlerts(self.flow.declared.alerts, self.flow.declared.alert_state, True)
            for rule in self._alerts.watch.rules.rules:
                common.engine(changed_options(options, rule.change))
        sparing.finish()  # before privileges are dropped
        self._fan_out = FanOut(self._outputs, self._fan_out.folding, alerts=self._alerts)
        self._capture = Capture(settings, options)

    @property
    def _wants(self) -> bool:
        return any(t.takes_messages for t in self.flow.targets)

    def _open(
        self, target: Target, messages: list[tuple[pipeline.Output, Limiter | None]], chosen: Rules
    ) -> None:
        try:
            limiter = None if target.limit is None else Limiter(target.limit)
            if target.to.startswith(("http://", "https://")):
                from replaykit.goreplay.outputs.http import HttpOutput, HttpSettings

                keeps = any(n.lower() == b"host" for n, _ in chosen.set_headers)
                messages.append((HttpOutput(target.to, HttpSettings(host=not keeps), self.say), limiter))
                return
            output = writing.Background(open_output(target.to, target.rotation))
        except UsageError as error:
            raise self.flow.refused(target.at, str(error)) from None
        if output.output.wants_messages:
            messages.append((_Messages(output), limiter))
        else:
            self._outputs.append(output)

    async def _move(self, route: pipeline.Route) -> None:
        async def move(source: Source) -> None:
            async for messages in self._batches(source):
                await route.push(messages, source.speed is not None)

        timer = None
        if self.flow.declared.duration is not None:
            timer = asyncio.get_running_loop().call_later(self.flow.declared.duration, self._stopping.set)
        try:
            async with asyncio.TaskGroup() as group:
                for source in self.flow.sources:
                    group.create_task(move(source))
        except ExceptionGroup as error:
            raise error.exceptions[0] from None
        finally:
            if timer is not None:
                timer.cancel()

    async def _close(self, route: pipeline.Route) -> list[UsageError]:
        if route.middleware is not None:
            await route.middleware.close()
        troubles: list[UsageError] = []
        loop = asyncio.get_running_loop()
        for output, _ in route.outputs:
            try:
                await output.close()
            except UsageError as error:
                troubles.append(error)
        for background in self._outputs:
            try:
                await loop.run_in_executor(None, background.close)
            except UsageError as error:
                troubles.append(error)
        return troubles

    async def _batches(self, source: Source) -> AsyncIterator[Messages]:
        """Messages; exchanges go to their outputs on the way."""
        if source.speed is not None:
            async for messages in self._paced(source):
                yield messages
            return
        loop = asyncio.get_running_loop()
        given = self._live() if not source.files else self._files(source)
        while (piece := await loop.run_in_executor(self._thread, next, given, None)) is not None:
            if isinstance(piece, Messages):
                yield piece

    def _put(self, exchanges: pa.RecordBatch, moved: pa.RecordBatch | None, live: bool = False) -> None:
        self._exchanges += exchanges.num_rows
        self._fan_out.exchanges(exchanges, moved, live)

    async def _paced(self, source: Source) -> AsyncIterator[Messages]:
        from replaykit.goreplay.inputs.file import FileInput

        for name in source.files:
            reader = FileInput(
                name, self.say, source.speed or 1.0, rules=filter_rules(rules(source.args), source.args)
            )
            stopper = asyncio.create_task(self._stop_it(reader))
            try:
                async for messages in reader.batches():
                    yield messages
            finally:
                stopper.cancel()
            self._troubles += reader.read.troubles

    async def _stop_it(self, reader: pipeline.Input) -> None:
        await self._stopping.wait()
        reader.stop()

    def _files(self, source: Source) -> Iterator[Messages | tuple[()]]:
        wants = self._wants
        chosen = source.args.options(wants, wants and self.flow.declared.responses)
        reader = common.reader(source.args, writing.sliced(chosen, self._outputs))
        for piece in reader.read_moved(source.files):
            if isinstance(piece, Messages):
                yield piece
            else:
                self._put(*piece)
                yield ()
            if self._stopping.is_set():
                return
        self._troubles += reader.troubles

    def _live(self) -> Iterator[Messages | tuple[()]]:
        """The messages of the capture, and () now and then; exchanges go to their outputs on the way."""
        capture = self._capture
        assert capture is not None
        with closing(results(capture, self._stopping.is_set)) as found:
            for result in found:
                if result is not None and result.exchanges is not None:
                    self._put(result.exchanges, result.moved, live=True)
                yield () if result is None or result.messages is None else result.messages
                self._fan_out.turn(capture)
        self._fan_out.turn(capture, last=True)

    def status(self) -> Mapping[str, Any]:
        """What /health and /metrics say. `ok`: every part of the pipeline is at work."""
        capture = self._capture
        totals = None if capture is None else capture.totals()
        outputs = {}
        metrics: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {
            ("replaykit_exchanges_total", ()): self._exchanges
        }
        for background in self._outputs:
            state = getattr(background.output, "state", None)
            name = _shown(background.output.target)
            outputs[name] = {"failed": background.failed, **({} if state is None else state)}
            for key, value in outputs[name].items():
                if isinstance(value, int | float):
                    suffix = key if key in ("waiting_bytes", "failed") else f"{key}_total"
                    metrics[f"replaykit_output_{suffix}", (("output", name),)] = value
        if totals is not None:
            metrics["replaykit_kernel_packets_total", ()] = totals.kernel_packets
            metrics["replaykit_kernel_drops_total", ()] = totals.kernel_drops
            metrics["replaykit_captured_bytes_total", ()] = totals.account.get("bytes", 0)
        alive = capture is None or capture.running or self._stopping.is_set()
        return {
            "ok": alive and not any(o["failed"] for o in outputs.values()),
            "seconds": round(time.monotonic() - self._began, 1),
            "exchanges": self._exchanges,
            "kernel_drops": None if totals is None else totals.kernel_drops,
            "outputs": outputs,
            "metrics": metrics,
        }


def _notify(state: str) -> None:
    """Tells systemd (Type=notify), where it asks for that."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
