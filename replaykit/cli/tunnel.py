"""`replaykit tunnel`: the end of a tunnel that is behind a NAT."""

from __future__ import annotations

import asyncio
from pathlib import Path

from replaykit.cli import ending
from replaykit.cli.asking import warn_of_readers
from replaykit.cli.event_loop import event_loops
from replaykit.cli.options.vantages import TunnelOptions
from replaykit.errors import UsageError
from replaykit.plain import out, say


def run(args: TunnelOptions) -> int:
    if args.make_keys is not None:
        return _keys(args)
    if args.server or args.client:
        raise UsageError("--server and --client are of --make-keys DIR")
    if args.place is None:
        raise UsageError("tunnel: name the server, such as tunnel.example.org:7000")
    host, _, port = args.place.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise UsageError(f"tunnel: {args.place!r}: write SERVER:PORT")
    if not (args.certificate and args.key and args.ca):
        raise UsageError(
            "tunnel: give --certificate, --key and --ca (replaykit tunnel --make-keys DIR makes them)"
        )

    from replaykit.cli.forward import tls
    from replaykit.vantages.forwarder.agent import LOOPBACK, Agent

    warn_of_readers(args.key)
    context = tls(False, args.certificate, args.key, args.ca)

    async def forever() -> None:
        agent = Agent((host.strip("[]"), int(port)), context, args.allow or LOOPBACK, say)
        task = asyncio.ensure_future(agent.run())
        ending.in_loop(task.cancel)
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    with event_loops() as runner:
        runner.run(forever())
    return 0


def _keys(args: TunnelOptions) -> int:
    from replaykit.vantages.forwarder.keys import make

    wrong = [n for n in args.client if "/" in n or n in ("ca", "server") or n.startswith(".")]
    if wrong:
        raise UsageError(f"--client {wrong[0]}: not a name for a file of its own")
    if not args.server and not args.client:
        raise UsageError("--make-keys: name whom they are for, with --server and --client")
    for path in make(Path(args.make_keys or "."), list(args.server), list(args.client)):
        out(path)
    return 0
