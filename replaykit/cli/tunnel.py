"""`replaykit tunnel`: the end of a tunnel that is behind a NAT."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

from replaykit.cli.asking import warn_of_readers
from replaykit.cli.event_loop import event_loops
from replaykit.config.kinds import Text, Texts
from replaykit.config.options import Option, Options
from replaykit.errors import UsageError
from replaykit.plain import out, say

EXAMPLES = (
    "replaykit tunnel --make-keys keys/ --server tunnel.example.org --client home",
    "replaykit forward --tunnel 0.0.0.0:7000 --tunnel-certificate keys/server.pem --tunnel-key keys/server.key --tunnel-ca keys/ca.pem",
    "replaykit tunnel tunnel.example.org:7000 --certificate home.pem --key home.key --ca ca.pem",
)


class TunnelOptions(Options):
    place: Annotated[Text | None, Option("where a forwarder takes tunnels", "SERVER:PORT", argument=True)] = (
        None
    )
    certificate: Annotated[
        Text | None, Option("this client's, PEM; its common name is the client's name", "FILE")
    ] = None
    key: Annotated[Text | None, Option("its key, PEM", "FILE")] = None
    ca: Annotated[Text | None, Option("who signed the server's certificate, PEM", "FILE")] = None
    allow: Annotated[
        Texts,
        Option(
            "what the server may ask for, a glob such as 192.168.1.*:22 (default: this machine only); may be repeated",
            "HOST:PORT",
        ),
    ] = ()
    make_keys: Annotated[
        Text | None,
        Option(
            "makes an authority, unless DIR has one, and what --server and --client name", "DIR", panel="keys"
        ),
    ] = None
    server: Annotated[
        Texts, Option("the server's name or address; may be repeated", "NAME", panel="keys")
    ] = ()
    client: Annotated[Texts, Option("a client's name; may be repeated", "NAME", panel="keys")] = ()


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
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
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
