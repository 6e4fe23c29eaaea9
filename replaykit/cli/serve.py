"""`replaykit serve`: who uses the bandwidth, on one page over all vantages, from their ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from replaykit.cli import ending
from replaykit.cli.asking import say_if_earlier
from replaykit.cli.event_loop import event_loops
from replaykit.cli.ledgers import open_ledger
from replaykit.cli.options.vantages import ServeOptions
from replaykit.cli.serving import listen, origins, url, uvicorn_server
from replaykit.errors import UsageError
from replaykit.plain import say

if TYPE_CHECKING:
    from replaykit.rules.enforcement import Guard
    from replaykit.rules.limits import Rule


def _shown(guard: Guard) -> Callable[[], Sequence[Rule]]:
    """The file's rules as they are now; it is read again when it changes."""

    def now() -> Sequence[Rule]:
        problem = guard.reload()
        if problem:
            say(problem)
        return guard.now()

    return now


def run(args: ServeOptions) -> int:
    if args.api == "none":
        raise UsageError("serve --api none: there would be nothing to do")
    from replaykit.rules.enforcement import Guard

    ledger = open_ledger(args.ledger)
    try:
        listening, token = listen(args.api)
        assert listening is not None
        guard = None if args.rules is None else Guard(ledger, Path(args.rules))
        if guard is not None:
            say_if_earlier(args.rules or "", guard.rules.earlier, args.quiet)
        rules = None if guard is None else _shown(guard)
        server = uvicorn_server(
            ledger, token=token, exchanges=args.exchanges, rules=rules, origins=origins(args)
        )

        async def serve() -> None:
            def stop() -> None:
                server.should_exit = server.force_exit = True

            ending.in_loop(stop)
            if not args.quiet:
                say(f"{ledger.database.shown} on {url(listening)}")
            await server.serve([listening])

        with event_loops() as runner:
            runner.run(serve())
    finally:
        ledger.close()
    return 0
