"""The forwarder: mappings, hosts and clients, with their listeners, meters and tunnels.

Owns what is declared (by configuration and by API; the latter is kept in a state file), and the flush: every
FLUSH_S what has grown is written to the ledger by minute, so a kill loses at most that. Everything here runs
in the event loop.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from replaykit.atomic_files import write_whole
from replaykit.errors import UsageError
from replaykit.ledger.store import Ledger
from replaykit.vantages.forwarder.accounts import Accounts
from replaykit.vantages.forwarder.listeners import Listeners
from replaykit.vantages.forwarder.mapping import Client, client, plain
from replaykit.vantages.forwarder.mapping import Mapping as Mapped
from replaykit.vantages.forwarder.mapping import mapping as read_mapping
from replaykit.vantages.forwarder.meter import EXCEEDED, MB, TOO_MANY, Meter
from replaykit.vantages.forwarder.relay import Relay
from replaykit.vantages.forwarder.route import Route
from replaykit.vantages.forwarder.tcp import Connection, TunnelListener
from replaykit.vantages.forwarder.tunnel import Line
from replaykit.vantages.forwarder.udp import MOST_SESSIONS

FLUSH_S = 2.0
SWEEP_S = 30.0


class Forwarder:
    """state: where what the API made is kept; None: nowhere. say: takes a line for the log."""

    def __init__(self, ledger: Ledger, state: Path | None = None, say: Callable[[str], None] = print) -> None:
        self.ledger, self._state, self.say = ledger, state, say
        self.mappings: dict[str, Mapped] = {}
        self.clients: dict[str, Client] = {}
        self.routes: dict[str, Route] = {}
        self.accounts = Accounts(ledger, self.labels, self._refused, self._declared, say)
        self.meters, self.meter, self.flush = self.accounts.meters, self.accounts.meter, self.accounts.flush
        self.tunnels: dict[str, Line] | None = None
        self.closed: dict[str, str] = {}
        """Mappings that are declared and could not be opened, and why."""
        self._configured: dict[tuple[str, str], Any] = {}
        self._listeners = Listeners()
        self._labels: dict[tuple[str, str], Mapping[str, str]] = {}
        self._tunnel_listener: TunnelListener | None = None
        self._changing = asyncio.Lock()
        self._ended = False

    # What is declared.

    async def configure(self, mappings: Sequence[Mapped], clients: Sequence[Client]) -> None:
        """What the configuration says now: new ones begin, others end, changed ones change. Raises
        UsageError.

        Where something cannot be opened, what was configured before is there again.
        """
        wanted: dict[tuple[str, str], Any] = {("client", c.name): c for c in clients}
        for one in mappings:
            if ("mapping", one.name) in wanted:
                raise UsageError(f"there are two mappings of {one.name}")
            wanted["mapping", one.name] = one
        async with self._changing:
            before = self._configured
            try:
                await self._apply(wanted)
            except UsageError:
                with suppress(UsageError):  # what it was before cannot be had any more either
                    await self._apply(before)
                raise

    async def _apply(self, wanted: dict[tuple[str, str], Any]) -> None:
        gone = [key for key in self._configured if key not in wanted]
        self._configured = dict(wanted)
        for kind, name in sorted(gone, key=lambda k: k[0] == "client"):
            if kind == "client":
                self._remove_client(name)
            elif name in self.mappings:
                self._remove(name)
        for (kind, name), one in wanted.items():
            if kind == "client":
                self._put_client(one)
            elif self.mappings.get(name) != one:
                await self._put(one)

    async def restore(self) -> None:
        """What the API made in earlier runs. What cannot be opened now is said, and stays declared."""
        if self._state is None or not self._state.exists():
            return
        try:
            kept = json.loads(self._state.read_text())
            clients, mappings = (
                [client(c) for c in kept["clients"]],
                [read_mapping(m) for m in kept["mappings"]],
            )
        except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
            raise UsageError(
                f"{self._state}: not a forwarder's state ({error}); move it away to begin anew"
            ) from None
        for one in clients:
            if ("client", one.name) not in self._configured:
                self._put_client(one)
        for each in mappings:
            if ("mapping", each.name) not in self._configured:
                try:
                    async with self._changing:
                        await self._put(each)
                except UsageError as error:
                    self.mappings[each.name] = each
                    self.closed[each.name] = str(error)
                    self.say(f"{each.name}: {error}")
        if clients or mappings:
            names = ", ".join(sorted(m.name for m in mappings)) or "none"
            self.say(
                f"{self._state}: what the API made before is there again: {len(clients)} clients, mappings"
                f" {names}"
            )

    async def put(self, one: Mapped) -> Mapped:
        """Begins a mapping, or changes it; connections of one that only changes its limits go on.

        Raises UsageError.
        """
        async with self._changing:
            self._own("mapping", one.name)
            await self._put(one)
            self._save()
            return one

    async def _put(self, one: Mapped) -> None:
        owner = self.clients.get(one.client)
        if one.client and owner is None:
            raise UsageError(f"client: there is no client {one.client!r}")
        if one.use_tunnel and self.tunnels is None:
            raise UsageError("use_tunnel: this forwarder has no --tunnel")
        before = self.mappings.get(one.name)
        moves = before is None or before.client != one.client
        owned = sum(m.client == one.client for m in self.mappings.values())
        if owner is not None and owner.max_mappings is not None and moves and owned >= owner.max_mappings:
            raise UsageError(f"client: {one.client} may have {owner.max_mappings} mappings")
        meter = self.meter("mapping", one.name)
        route = Route(one, meter, (lambda: self.line(one.client)) if one.use_tunnel else None)
        if not one.use_tunnel:  # a tunnel's target is known at its other end
            await route.lookup()
        if before is None or _place(before) != _place(one) or one.name not in self.routes:
            self._move(before, one, route)
        else:
            self._listeners.reroute(one, route)
        if before is not None and (before.client, before.target_host, before.target_port) != (
            one.client,
            one.target_host,
            one.target_port,
        ):
            meter.close_all("the mapping was changed")
        meter.parent = self.meter("client", one.client) if one.client else None
        _limit(meter, one.flow_limit_mb, one.max_connections, one.rate_limit)
        if meter.spent:
            meter.close_all(EXCEEDED)
        self.routes[one.name], self.mappings[one.name] = route, one
        self.closed.pop(one.name, None)

    def _move(self, before: Mapped | None, one: Mapped, route: Route) -> None:
        """Opens it where it is now.

        Raises UsageError, and then it is where it was, if that can be had yet.
        """
        was = self.routes.get(one.name)
        self._listeners.close(one.name)
        try:
            self._listeners.open(one, route)
        except UsageError:
            if before is not None and was is not None:
                try:
                    self._listeners.open(before, was)
                except UsageError as error:
                    del self.routes[one.name]
                    self.closed[one.name] = str(error)
            raise

    async def remove(self, name: str) -> Mapped:
        """Ends a mapping and its connections; what it moved stays in the ledger. Raises UsageError."""
        async with self._changing:
            if name not in self.mappings:
                raise UsageError(f"there is no mapping {name}")
            self._own("mapping", name)
            found = self._remove(name)
            self._save()
            return found

    def _remove(self, name: str) -> Mapped:
        self._listeners.close(name)
        self.routes.pop(name, None)
        self.closed.pop(name, None)
        self.meter("mapping", name).close_all("the mapping was deleted")
        return self.mappings.pop(name)

    async def put_client(self, one: Client) -> Client:
        self._own("client", one.name)
        self._put_client(one)
        self._save()
        return one

    def _put_client(self, one: Client) -> None:
        self.clients[one.name] = one
        meter = self.meter("client", one.name)
        _limit(meter, one.flow_limit_mb, one.max_connections, one.rate_limit)
        if meter.spent:
            meter.close_all(EXCEEDED)

    async def remove_client(self, name: str) -> Client:
        """Raises UsageError where it still owns mappings."""
        if name not in self.clients:
            raise UsageError(f"there is no client {name}")
        self._own("client", name)
        found = self._remove_client(name)
        self._save()
        return found

    def _remove_client(self, name: str) -> Client:
        owned = [m.name for m in self.mappings.values() if m.client == name]
        if owned:
            raise UsageError(f"{name} owns {', '.join(sorted(owned))}; delete these first")
        return self.clients.pop(name)

    def _own(self, kind: str, name: str) -> None:
        if (kind, name) in self._configured:
            raise UsageError(f"{kind} {name} is in the configuration file: change it there")

    def _save(self) -> None:
        if self._state is None:
            return
        kept = {
            "clients": [plain(c) for n, c in self.clients.items() if ("client", n) not in self._configured],
            "mappings": [
                plain(m) for n, m in self.mappings.items() if ("mapping", n) not in self._configured
            ],
        }
        write_whole(self._state, json.dumps(kept, indent=2).encode())

    def refusals(self, kind: str, name: str) -> list[str]:
        """Why nobody is let in at a mapping, or at any of a client's, now; empty: they are."""
        if kind == "tunnel":
            return []
        one = self.mappings.get(name) if kind == "mapping" else self.clients.get(name)
        if one is None:
            return [f"there is no {kind} {name} any more"]
        found = []
        if isinstance(one, Mapped):
            if name not in self.routes:
                found.append(f"mapping {name}: cannot listen: {self.closed.get(name, 'it is not open')}")
            if one.use_tunnel and self.line(one.client) is None:
                found.append(f"mapping {name}: no tunnel{one.client and f' of {one.client}'} is connected")
            if self._listeners.full(name):
                found.append(f"mapping {name}: {TOO_MANY}: {MOST_SESSIONS:,} visitors at a time")
        return found + self.meter(kind, name).refusals()

    def _declared(self, name: str) -> bool:
        return name in self.mappings or name in self.clients

    def _refused(self, kind: str, name: str) -> list[str]:
        """The same for the ledger, which is read after this has ended, too."""
        return ["the forwarder has ended"] if self._ended else self.refusals(kind, name)

    @property
    def trouble(self) -> str:
        """Why the ledger could not be written the last time."""
        return self.accounts.trouble

    # Tunnels.

    def listen_for_tunnels(self, address: str, port: int, context: ssl.SSLContext) -> None:
        """Takes tunnels of those whose certificate the context accepts; its common name is their name.

        Raises UsageError.
        """
        self._tunnel_listener = TunnelListener(address, port, context, self._tunnel_up, self._tunnel_down)
        self.tunnels = {}

    def _tunnel_up(self, line: Line) -> None:
        assert self.tunnels is not None
        before = self.tunnels.get(line.name)
        self.tunnels[line.name] = line
        if before is not None:  # it came back before we noticed that it had gone
            before.close()
        line.meter = self.meter("tunnel", line.name)
        line.meter.connections += 1
        self.say(f"tunnel {line.name} is connected")

    def _tunnel_down(self, line: Line, error: Exception | None) -> None:
        if self.tunnels is not None and self.tunnels.get(line.name) is line:
            del self.tunnels[line.name]
            self.say(f"tunnel {line.name} is gone")

    def line(self, name: str) -> Line | None:
        """The tunnel of this client; without a name the only one."""
        lines = self.tunnels or {}
        return lines.get(name) if name else next(iter(lines.values())) if len(lines) == 1 else None

    # What was moved.

    def labels(self, kind: str, name: str) -> Mapping[str, str]:
        one = self.mappings.get(name) if kind == "mapping" else None
        if one is None:
            return self._labels.get((kind, name), {})
        found = {"protocol": one.protocol, "target": f"{one.target_host}:{one.target_port}"}
        if one.client:
            found["client"] = one.client
        if one.remark:
            found["remark"] = one.remark
        self._labels[kind, name] = found
        return found

    def sweep(self) -> None:
        """Ends connections of which one side died unnoticed."""
        for name in self.mappings:
            for one in list(self.meter("mapping", name).running):
                if isinstance(one, Connection) and isinstance(one.relay, Relay):
                    one.relay.check()

    async def keep_flushing(self) -> None:
        swept = 0.0
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()
            if time.monotonic() - swept > SWEEP_S:
                swept = time.monotonic()
                self.sweep()

    async def close(self) -> None:
        """Ends all connections and writes what is left. Raises UsageError where that fails."""
        for meter in self.meters.values():
            meter.close_all("the forwarder ends")
        for name in list(self.mappings):
            self._listeners.close(name)
        if self._tunnel_listener is not None:
            self._tunnel_listener.close()
            for line in list((self.tunnels or {}).values()):
                line.close()
        self._ended = True
        await self.accounts.close()


def _place(one: Mapped) -> tuple[int, str, str, str]:
    """What of it makes the listening socket."""
    return one.source_port, one.protocol, one.listen, one.host


def _limit(
    meter: Meter, flow_limit_mb: int | None, max_connections: int | None, rate_limit: int | None
) -> None:
    """0 of the first two is no limit, as in NPS."""
    meter.flow_limit_bytes = flow_limit_mb * MB if flow_limit_mb else None
    meter.max_connections = max_connections or None
    if meter.own.rate != rate_limit:
        meter.own.rate = rate_limit
