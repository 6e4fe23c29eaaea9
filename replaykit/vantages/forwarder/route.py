"""Where a connection goes: its mapping's targets, and who may use it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Sequence

from replaykit.errors import UsageError
from replaykit.vantages.forwarder.mapping import Mapping, networks
from replaykit.vantages.forwarder.meter import Meter
from replaykit.vantages.forwarder.tunnel import Line
from replaykit.vantages.forwarder.tunnel_target import Asked

RESOLVE_S = 60.0


class Route:
    """A mapping with its meter: who may come, and where they go. Targets are looked up again every minute.

    line: gives the tunnel that is connected, for a mapping that uses one.
    """

    def __init__(self, mapping: Mapping, meter: Meter, line: Callable[[], Line | None] | None = None) -> None:
        self.mapping, self.meter, self.line = mapping, meter, line
        self._allow, self._deny = networks(mapping.allow), networks(mapping.deny)
        self._found: list[tuple[int, tuple[str, int]]] = []
        self._looked = -RESOLVE_S
        self.troubles: dict[str, int] = {}

    @property
    def asked(self) -> Asked:
        """What the end of a tunnel is asked for."""
        m = self.mapping
        host = f"[{m.target_host}]" if ":" in m.target_host else m.target_host
        return Asked(f"{host}:{m.target_port}", m.protocol == "udp")

    def admits(self, address: str) -> bool:
        ip = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        inside = [n for n in (*self._allow, *self._deny) if n.version == ip.version and ip in n]
        return not any(n in self._deny for n in inside) and (not self._allow or bool(inside))

    def refusal(self, address: str) -> str:
        """Why this visitor may not connect now; empty: it may."""
        return self.meter.refusal() if self.admits(address) else "not allowed from there"

    async def lookup(self) -> None:
        """Raises UsageError."""
        m = self.mapping
        kind = socket.SOCK_DGRAM if m.protocol == "udp" else socket.SOCK_STREAM
        try:
            found = await asyncio.get_running_loop().getaddrinfo(m.target_host, m.target_port, type=kind)
        except (OSError, ValueError) as error:  # a name may be one that cannot be asked for
            why = getattr(error, "strerror", None) or "not a name of the DNS"
            raise UsageError(f"{m.target_host[:100]}: {why}") from None
        self._found = [(family, address[:2]) for family, _, _, _, address in found]  # type: ignore[misc]
        self._looked = asyncio.get_running_loop().time()

    @property
    def targets(self) -> Sequence[tuple[int, tuple[str, int]]]:
        """Family and address, the first to be tried first."""
        if asyncio.get_running_loop().time() - self._looked > RESOLVE_S:
            self._looked = asyncio.get_running_loop().time()
            task = asyncio.ensure_future(self.lookup())
            # The addresses of before serve until then.
            task.add_done_callback(lambda t: self.trouble(str(t.exception())) if t.exception() else None)
        return self._found

    def trouble(self, what: str) -> None:
        """Counted by what it was, for the page and the log."""
        if len(self.troubles) < 64 or what in self.troubles:
            self.troubles[what] = self.troubles.get(what, 0) + 1
