"""What a mapping, a client or a tunnel has moved, and how much it may.

Owns the counts (they only grow), the flow limit (MB of 2^20, over everything ever moved, as NPS counts it),
the number of connections, and the rate. A meter may have a parent, such as a mapping's client, which counts
and limits the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from replaykit.vantages.forwarder.bucket import Bucket

MB = 1 << 20
EXCEEDED = "Traffic exceeded"
TOO_MANY = "Connections exceed the current client limit"


class Running(Protocol):
    """A connection, or what stands for one."""

    def close(self, why: str = "") -> None: ...


@dataclass(eq=False)
class Meter:
    """rx: bytes from visitors; tx: bytes to visitors; connections: begun.

    before: moved in earlier runs, rx and tx.
    """

    kind: str
    name: str
    parent: Meter | None = None
    rx: int = 0
    tx: int = 0
    connections: int = 0
    open: int = 0
    before: tuple[int, int] = (0, 0)
    flow_limit_bytes: int | None = None
    max_connections: int | None = None
    restraints: set[str] = field(default_factory=set)
    last_update: int = 0
    own: Bucket = field(default_factory=Bucket)
    ruled: Bucket = field(default_factory=Bucket)
    running: set[Running] = field(default_factory=set)

    @property
    def received(self) -> int:
        """From visitors, ever."""
        return self.before[0] + self.rx

    @property
    def sent(self) -> int:
        """To visitors, ever."""
        return self.before[1] + self.tx

    @property
    def spent(self) -> bool:
        """Whether its own flow limit is used up."""
        return self.flow_limit_bytes is not None and self.received + self.sent >= self.flow_limit_bytes

    def left(self) -> int | None:
        """Bytes until a flow limit is reached; None: there is none."""
        own = (
            None
            if self.flow_limit_bytes is None
            else max(0, self.flow_limit_bytes - self.received - self.sent)
        )
        above = None if self.parent is None else self.parent.left()
        return own if above is None else above if own is None else min(own, above)

    def refusal(self) -> str:
        """Why no connection may begin now; empty: it may."""
        if self.restraints:
            return "blocked by a rule"
        if self.spent:
            return EXCEEDED
        if self.max_connections is not None and self.open >= self.max_connections:
            return TOO_MANY
        return "" if self.parent is None else self.parent.refusal()

    def refusals(self) -> list[str]:
        """All that refuses a connection now, here and above: whose limit it is, and how far it is used."""
        who, found = f"{self.kind} {self.name}", []
        if self.restraints:
            found.append(f"{who}: blocked by a rule")
        if self.spent and self.flow_limit_bytes is not None:
            found.append(f"{who}: {EXCEEDED}: {self._flow(self.flow_limit_bytes)}")
        if self.max_connections is not None and self.open >= self.max_connections:
            found.append(f"{who}: {TOO_MANY}: {self._connections(self.max_connections)}")
        return found if self.parent is None else found + self.parent.refusals()

    def limits(self) -> list[str]:
        """What each limit, here and above, stands at."""
        who, found = f"{self.kind} {self.name}", []
        if self.flow_limit_bytes is not None:
            found.append(f"{who}: {self._flow(self.flow_limit_bytes)}")
        if self.max_connections is not None:
            found.append(f"{who}: {self._connections(self.max_connections)}")
        if self.own.rate is not None:
            found.append(f"{who}: rate_limit {self.own.rate:,.0f} bytes a second")
        return found if self.parent is None else found + self.parent.limits()

    def _flow(self, limit: int) -> str:
        return f"{self.received + self.sent:,} of {limit:,} bytes used (flow_limit_mb {limit // MB})"

    def _connections(self, most: int) -> str:
        return f"{self.open:,} of {most:,} connections open (max_connections)"

    def begin(self, one: Running) -> None:
        """A connection begins."""
        self.connections += 1
        self.open += 1
        self.running.add(one)
        if self.parent is not None:
            self.parent.begin(one)

    def end(self, one: Running) -> None:
        self.open -= 1
        self.running.discard(one)
        if self.parent is not None:
            self.parent.end(one)

    def count(self, rx: int, tx: int) -> None:
        """Bytes have moved; they are taken from the rates too."""
        self.rx += rx
        self.tx += tx
        self.last_update = int(time.time())
        self.own.spend(rx + tx)
        self.ruled.spend(rx + tx)
        if self.parent is not None:
            self.parent.count(rx, tx)

    def buckets(self) -> list[Bucket]:
        """Those that limit the rate now."""
        found = [b for b in (self.own, self.ruled) if b.rate is not None]
        return found if self.parent is None else found + self.parent.buckets()

    def allowance(self, want: int, resume: Callable[[], None]) -> int:
        """How much may move now; 0: nothing, and `resume` is called when that has changed; -1: nothing more,
        ever.
        """
        left = self.left()
        if left is not None:
            if left <= 0:
                return -1
            want = min(want, left)
        for bucket in self.buckets():
            allowed = bucket.allowed(want)
            if allowed <= 0:
                bucket.wait(resume)
                return 0
            want = min(want, allowed)
        return want

    def cut_spent(self) -> None:
        """Where a flow limit is used up, here or above, nothing that it counts goes on."""
        if self.spent:
            self.close_all(EXCEEDED)
        if self.parent is not None:
            self.parent.cut_spent()

    def close_all(self, why: str) -> None:
        for one in list(self.running):
            one.close(why)
