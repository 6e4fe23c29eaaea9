"""`gor`: GoReplay's own command line on our engine, rules and replay."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from replaykit import __version__
from replaykit.cli import ending, rewrites
from replaykit.cli.gor_inputs import Inputs
from replaykit.cli.gor_outputs import Outputs
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.goreplay import flags as goflags
from replaykit.goreplay.inputs.file import FileInput
from replaykit.goreplay.limiter import speed, split_limit
from replaykit.goreplay.pipeline import Log, Route, Settings, run
from replaykit.pipeline.options import FilterOptions, RewriteOptions
from replaykit.plain import emit, say
from replaykit.replaying.own import OwnConnections

if TYPE_CHECKING:
    from replaykit.goreplay.outputs.stats import StatsOutput


class Gor:
    """What a command line asks for, opened. Raises UsageError."""

    def __init__(self, flags: dict[str, Any], log: Log) -> None:
        self.f = SimpleNamespace(**flags)
        self.log = log
        self.stats = self._stats()
        own, rules = OwnConnections(), self._rules()
        self.rules = rules
        self.inputs = Inputs(self.f, log, rules, own, None if self.stats is None else self.stats.measured)
        self.outputs = Outputs(self.f, log, rules, own)

    def _stats(self) -> StatsOutput | None:
        if not self.f.stats:
            return None
        from replaykit.goreplay.outputs.stats import StatsOutput

        # Where messages go to standard output, they are alone there.
        return StatsOutput(sys.stderr if self.f.output_stdout else sys.stdout)

    def _rules(self) -> Rules:
        f = self.f
        chosen = RewriteOptions(
            **{one.name: tuple(getattr(f, f"http_{one.name}")) for one in fields(RewriteOptions)}
        )
        filters = FilterOptions(
            allow_header=tuple(f.http_allow_header),
            disallow_header=tuple(f.http_disallow_header),
            allow_method=tuple(f.http_allow_method),
            allow_url=tuple(f.http_allow_url),
            disallow_url=(*f.http_disallow_url, *f.http_black_list),
        )
        made = rewrites.filter_rules(rewrites.rules(chosen, prefix="--http-"), filters)
        return replace(made, first_field_only=True)

    def open(self) -> None:
        """Outputs first, so that nothing is read that could not be put anywhere."""
        self.outputs.open()
        self.inputs.open()
        if not self.inputs.opened or not self.outputs.opened:
            raise UsageError("gor: at least one input and one output are needed (see gor --help)")

    async def run(self) -> int:
        """Exit status: 0, 1 after a signal, 2 where an output lost messages."""
        from replaykit.goreplay.middleware import open_middleware

        f = self.f
        stopping, status = asyncio.Event(), 0
        loop = asyncio.get_running_loop()

        def ask() -> None:
            nonlocal status
            status = 1
            stopping.set()

        ending.in_loop(ask)
        if f.exit_after > 0:
            loop.call_later(f.exit_after, stopping.set)
        self.open()
        split: Literal["turn", "session"] | None = None
        if f.split_output:
            split = "session" if f.recognize_tcp_sessions else "turn"
        settings = Settings(self.rules, f.prettify_http, f.copy_buffer_size or 5 << 20, split)
        route = Route(settings, self.outputs.opened)
        if self.stats is not None:
            route.watchers.append(self.stats)
            route.measured = all(source.measured for source, _ in self.inputs.opened)
            self.stats.start()
        if f.middleware:
            route.middleware = await open_middleware(f.middleware, route.onwards, self.log)
        tellers = [asyncio.create_task(self._tell(*queue)) for queue in self.outputs.queues]
        try:
            await run(self.inputs.opened, route, stopping, self.outputs.echoes)
        finally:
            for teller in tellers:
                teller.cancel()
            if self.outputs.sink is not None:
                await self.outputs.sink.close()
        self._denied(route)
        return self._ended(status)

    def _denied(self, route: Route) -> None:
        """Says so where the rules let nothing through."""
        counts = [
            route.counts,
            *(s.read.counts for s, _ in self.inputs.opened if isinstance(s, FileInput) and s.ruled),
        ]
        requests = sum(c.requests for c in counts)
        if requests and requests == sum(c.denied_requests for c in counts):
            self.log(0, f"the rules denied all {requests:,} requests: nothing was put out")

    def _ended(self, status: int) -> int:
        lost = 0
        for output, limiter in self.outputs.opened:
            if output.lost:
                lost += output.lost
                self.log(0, f"{output.name}: {output.lost:,} messages were lost")
            if limiter is not None:
                self.log(1, f"{output.name}: {limiter.dropped:,} messages were beyond the limit")
        return status or (2 if lost else 0)

    async def _tell(self, name: str, every_s: float, output: Any) -> None:
        """GoReplay's line about a queue."""
        say("", f"{name}:latest,mean,max,count,count/second,gcount")
        while True:
            await asyncio.sleep(every_s)
            latest, mean, longest, count = output.queue.take()
            say(
                "",
                f"{name}:{latest},{mean},{longest},{count},{int(count / every_s)},{len(asyncio.all_tasks())}",
            )


def _dry_run(flags: dict[str, Any]) -> int:
    from replaykit.goreplay.inputs.file import dry_run

    for text in flags["input_file"]:
        pattern, limit = split_limit(text)
        pace, _ = speed(limit)
        wait = flags["input_file_max_wait"] or None
        emit(dry_run(pattern, pace, wait, max(flags["input_file_read_depth"], 0)))
    return 0


def _file_server(address: str) -> int:
    """GoReplay's little server of the current directory, to try things with."""
    import http.server

    from replaykit.goreplay.inputs.tcp import listen_address

    host, port = listen_address(address)
    with http.server.ThreadingHTTPServer((host or "", port), http.server.SimpleHTTPRequestHandler) as server:
        say(f"serving {os.getcwd()} on {address}")
        server.serve_forever()
    return 0


def _standard_files() -> None:
    """Where one of the three is closed, nothing else may get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
            if number:
                setattr(sys, ("stdout", "stderr")[number - 1], open(number, "w", closefd=False))  # noqa: SIM115


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 after a signal, 2 wrong use or input, or messages lost."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _standard_files()
    try:
        if not arguments or arguments[0].lstrip("-") in ("h", "help"):
            emit(goflags.usage() + "\n")
            return 0 if arguments else 2
        if arguments[0] in ("-version", "--version"):
            emit(f"gor by replaykit {__version__}\n")
            return 0
        if arguments[0] == "file-server" and len(arguments) == 2:
            return _file_server(arguments[1])
        flags = goflags.parse(arguments)

        def log(level: int, text: str) -> None:
            if level <= flags["verbose"]:
                say(f"{time.strftime('%Y/%m/%d %H:%M:%S')} {text}")

        log(0, f"gor by replaykit {__version__}, PID {os.getpid()}")
        if flags["input_file_dry_run"] and flags["input_file"]:
            return _dry_run(flags)

        from replaykit.cli.event_loop import event_loops

        with event_loops() as runner:
            return runner.run(_run(flags, log))
    except UsageError as error:
        say(f"{'' if str(error).startswith('gor: ') else 'gor: '}{error}")
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 1


async def _run(flags: dict[str, Any], log: Log) -> int:
    return await Gor(flags, log).run()


if __name__ == "__main__":
    sys.exit(main())
