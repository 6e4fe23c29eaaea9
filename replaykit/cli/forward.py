"""`replaykit forward`: ports and hosts handed on, counted and limited; with an API."""

from __future__ import annotations

import asyncio
import hashlib
import resource
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replaykit.cli import ending
from replaykit.cli.asking import say_if_earlier, warn_of_readers, warn_of_rules
from replaykit.cli.event_loop import event_loops
from replaykit.cli.ledgers import own_ledger
from replaykit.cli.ledgers import place as ledger_url
from replaykit.cli.options.vantages import ForwardOptions
from replaykit.cli.serving import listen, origins, place, url, uvicorn_server
from replaykit.config.reading import stamp
from replaykit.errors import UsageError
from replaykit.outputs.settings import state_folder
from replaykit.plain import say

if TYPE_CHECKING:
    from replaykit.ledger.store import Ledger
    from replaykit.rules.enforcement import Guard
    from replaykit.vantages.forwarder.config import Config
    from replaykit.vantages.forwarder.server import Forwarder


def run(args: ForwardOptions) -> int:
    extra = _declared(list(args.map))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (most, most)
    )  # a connection is two files, and one moving data four
    ledger = own_ledger(args.ledger, args.time_zone)
    try:
        with event_loops() as runner:
            runner.run(_forward(args, ledger, extra))
    finally:
        ledger.close()
    return 0


def _declared(texts: list[str]) -> list[dict[str, Any]]:
    """The mappings of --map, as plain values."""
    found = []
    for text in texts:
        rest, _, protocol = text.partition("/")
        parts = _split(rest)
        if len(parts) not in (3, 4) or not all(p.isdigit() for p in (parts[-3], parts[-1])):
            raise UsageError(
                f"--map {text}: write PORT:HOST:PORT, such as 30009:127.0.0.1:22 or 5300:127.0.0.1:53/udp"
            )
        values: dict[str, Any] = {
            "source_port": int(parts[-3]), "target_host": parts[-2], "target_port": int(parts[-1]),
            "protocol": protocol or "tcp",
        }  # fmt: skip
        if len(parts) == 4:
            values["listen"] = parts[0]
        found.append(values)
    return found


def _split(text: str) -> list[str]:
    """At colons that are not inside brackets."""
    import re

    return [p.strip("[]") for p in re.findall(r"\[[^\]]*\]|[^:]+", text)]


def _state(ledger: str | None) -> Path:
    """What the API makes belongs to the ledger that counts it."""
    if ledger is None:
        return state_folder() / "forward.json"
    url = ledger_url(ledger)
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        return path.with_name(f"{path.name}.forward.json")
    if url.startswith("files:"):
        return Path(url.removeprefix("files:").removeprefix("//") or ".") / "forward.json"
    kept = hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
    return state_folder() / f"forward-{kept}.json"


async def _forward(args: ForwardOptions, ledger: Ledger, extra: list[dict[str, Any]]) -> None:
    from replaykit.rules.enforcement import Guard
    from replaykit.vantages.forwarder.control import ForwarderControl
    from replaykit.vantages.forwarder.server import Forwarder

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    ending.in_loop(stop.set)
    state = Path(args.state) if args.state else _state(args.ledger)
    before = state_folder() / "forward.json"
    if args.state is None and state != before and before.exists() and not state.exists():
        say(f"{before} is of another ledger, and is not taken over; give --state {before} for what it holds")
    forwarder = Forwarder(ledger, state, say)
    guard = None
    if args.rules is not None:
        guard = Guard(ledger, Path(args.rules), {"forwarder": ForwarderControl(forwarder)})
        warn_of_rules(args.rules, guard.rules.notify)
        say_if_earlier(args.rules, guard.rules.earlier, args.quiet)
    listening, token = listen(args.api)
    config = _read(args.config, extra)
    try:
        if args.tunnel is not None:
            names = ("tunnel_certificate", "tunnel_key", "tunnel_ca")
            if not all(getattr(args, name) for name in names):
                raise UsageError(
                    "--tunnel needs --tunnel-certificate, --tunnel-key and --tunnel-ca (replaykit tunnel"
                    " --make-keys DIR)"
                )
            warn_of_readers(args.tunnel_key)
            context = tls(True, *(getattr(args, name) for name in names))
            forwarder.listen_for_tunnels(*place("--tunnel", args.tunnel), context)
        await forwarder.configure(config.mappings, config.clients)
        await forwarder.restore()
        if guard is not None:
            # What rules hold is in force before the first byte moves.
            await loop.run_in_executor(None, guard.step, int(time.time()))
        if not args.quiet:
            for name, one in sorted(forwarder.mappings.items()):
                say(f"{one.listen} {name} -> {one.target_host}:{one.target_port}")
            if listening is not None:
                say(f"API on {url(listening)}")
        await _serve(args, ledger, forwarder, guard, listening, token, extra, stop)
    finally:
        await forwarder.close()


async def _serve(
    args: ForwardOptions,
    ledger: Ledger,
    forwarder: Forwarder,
    guard: Guard | None,
    listening: socket.socket | None,
    token: str | None,
    extra: list[dict[str, Any]],
    stop: asyncio.Event,
) -> None:
    tasks = [asyncio.ensure_future(forwarder.keep_flushing())]
    if args.config is not None:
        tasks.append(asyncio.ensure_future(_follow(args.config, extra, forwarder)))
    ended = threading.Event()
    watcher = None
    if guard is not None:
        from replaykit.rules.enforcement import watch

        watcher = threading.Thread(target=watch, args=(guard, say, ended), daemon=True)
        watcher.start()
    server = None
    if listening is not None:
        server = uvicorn_server(
            ledger,
            forwarder,
            token,
            exchanges=args.exchanges,
            rules=None if guard is None else guard.now,
            origins=origins(args),
        )
        tasks.append(asyncio.ensure_future(server.serve([listening])))
    waiting = asyncio.ensure_future(stop.wait())
    await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    ended.set()
    if server is not None:
        server.should_exit = True
        server.force_exit = True
        await asyncio.wait(tasks[-1:], timeout=5)
    for task in (waiting, *tasks):
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    if watcher is not None:
        await asyncio.get_running_loop().run_in_executor(None, watcher.join, 5)


def tls(server: bool, certificate: str, key: str, ca: str) -> ssl.SSLContext:
    """Mutual, TLS 1.3 only. Raises UsageError that names the file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    for names, load in (
        ((certificate, key), context.load_cert_chain),
        ((ca,), context.load_verify_locations),
    ):
        try:
            load(*names)
        except (OSError, ssl.SSLError) as error:
            why = (getattr(error, "strerror", None) or str(error)).lower()
            raise UsageError(f"{' and '.join(names)}: cannot be used: {why}") from None
    return context


def _read(path: str | None, extra: list[dict[str, Any]]) -> Config:
    """The configuration and the mappings of the command line. Raises UsageError."""
    from replaykit.vantages.forwarder.config import Config, read_config
    from replaykit.vantages.forwarder.mapping import mapping

    found = Config() if path is None else read_config(path)
    return Config((*found.mappings, *(mapping(values) for values in extra)), found.clients)


async def _follow(path: str, extra: list[dict[str, Any]], forwarder: Forwarder) -> None:
    """Takes over what the file says when it changes; what is wrong is said, and changes nothing."""
    seen = stamp(path)
    while True:
        await asyncio.sleep(1)
        now = stamp(path)
        if now == seen:
            continue
        seen = now
        try:
            config = _read(path, extra)
            await forwarder.configure(config.mappings, config.clients)
            say(f"{path} was read again")
        except UsageError as error:
            say(f"configuration not changed: {error}")
