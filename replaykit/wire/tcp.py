"""TCP reassembly: segments of many connections to in-order bytes.

Owns the connection table, sequence numbers, holes, repeats, handshakes and ends, and the bounds on
connections and held segments. Never looks at what the bytes say. A segment in order costs a look-up
and a comparison; one out of order waits. Order between the two directions is kept by acknowledgement
numbers: bytes that acknowledge what was not seen yet wait for it. Where several held segments
overlap, the lowest sequence number is delivered first, then the one that came first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

from replaykit.wire.account import CONNECTION_OVERHEAD, DENIED, NOT_UNDERSTOOD, RETRANSMISSION
from replaykit.wire.connection import Chunks, Http, Sink, Skip, distance
from replaykit.wire.link import ACK, FIN, RST, SYN, Addr, Segment

SWEEP_NS = 1_000_000_000
FAR = 1 << 24
"""An acknowledgement further ahead than this is no reason to wait."""

Key = tuple[Addr, int, Addr, int]


@dataclass(slots=True)
class _Held:
    """A segment that waits, or is being delivered."""

    seq: int
    length: int
    data: bytes
    time: int
    ack: int | None
    flags: int
    overhead: int
    packets: int
    arrival: int


@dataclass(slots=True)
class _Direction:
    """`acked`: how far the other side has acknowledged this one."""

    next: int = 0
    known: bool = False
    syn: int | None = None
    acked: int | None = None
    held: list[_Held] = field(default_factory=list)
    ended: bool = False


class Table:
    """All connections; `ports` limits them to those of these servers."""

    def __init__(self, ports: tuple[int, ...], first: int) -> None:
        self._ports = frozenset(ports)
        self._connections: dict[Key, _Connection] = {}
        self._over: deque[_Connection] = deque()
        self._over_count = 0
        self._next_id = first
        self._arrivals = 0
        self._swept: int | None = None
        self._since = 0

    def live(self) -> int:
        return len(self._connections)

    def _wanted(self, port: int) -> bool:
        return not self._ports or port in self._ports

    def segment(self, s: Segment, sink: Sink) -> None:
        """One segment of the capture."""
        size = s.overhead + s.length
        if not self._wanted(s.sport) and not self._wanted(s.dport):
            sink.account.add(DENIED, size)
            return
        self._since += 1
        if self._swept is None:
            self._swept = s.time
        elif not 0 <= s.time - self._swept < SWEEP_NS and self._since >= self.live():
            self._walk(s.time, sink)
        d, key = 0, (s.src, s.sport, s.dst, s.dport)
        if (s.src, s.sport) > (s.dst, s.dport):
            d, key = 1, (s.dst, s.dport, s.src, s.sport)
        c = self._connections.get(key)
        if c is not None and s.flags & SYN and c.begins_anew(d, s):
            self._end(c, False, sink)
            self._remove(c)
            c = None
        if c is None:
            if not s.flags & SYN and s.length == 0:
                sink.account.add(CONNECTION_OVERHEAD, size)
                return
            c = self._create(key, d, s, sink)
        self._arrivals += 1
        c.last = s.time
        if c.over:
            sink.account.add(RETRANSMISSION if s.length else CONNECTION_OVERHEAD, size)
        elif c.take(d, s, self._arrivals, sink):
            self._end(c, bool(s.flags & RST), sink)

    def _create(self, key: Key, d: int, s: Segment, sink: Sink) -> _Connection:
        limit = max(sink.options.max_connections, 1)
        if self.live() - self._over_count >= limit:
            self._evict(limit, sink)
        sink.account.connections += 1
        if s.flags & SYN:
            client = 1 - d if s.flags & ACK else d
        elif self._ports and self._wanted(key[1]) != self._wanted(key[3]):
            client = 1 if self._wanted(key[1]) else 0
        else:
            client = int(key[1] < key[3])  # the lower port is more often the server's
        state = "idle" if s.flags & SYN else Skip(NOT_UNDERSTOOD)
        http = Http(self._next_id, ((key[0], key[1]), (key[2], key[3])), client, state)  # type: ignore[arg-type]
        self._next_id += 1
        c = self._connections[key] = _Connection(key, s.time, http)
        return c

    def _remove(self, c: _Connection) -> None:
        if self._connections.pop(c.key, None) is not None and c.over:
            self._over_count -= 1

    def _evict(self, limit: int, sink: Sink) -> None:
        """Ends the connections that have been silent longest: an eighth of what is allowed."""
        alive = sorted(
            (c for c in self._connections.values() if not c.over), key=lambda c: (c.last, c.http.id)
        )
        for c in alive[: max(limit // 8, 1)]:
            sink.account.bound_hits += 1
            self._end(c, False, sink)
            self._remove(c)

    def _end(self, c: _Connection, reset: bool, sink: Sink) -> None:
        """Ends a connection; it stays in the table a while, so that repeats are known as such."""
        if c.over:
            return
        c.release(sink)
        c.http.close(reset, sink)
        c.over, c.over_at = True, c.last
        self._over.append(c)
        self._over_count += 1
        self._forget(c.last, sink)

    def _forget(self, now: int, sink: Sink) -> None:
        """Forgets ended connections that are too many or too old."""
        while self._over:
            c = self._over[0]
            if self._connections.get(c.key) is c:
                late = now - c.over_at > sink.options.linger_ns
                if self._over_count <= sink.options.max_ended and not late:
                    return
                self._remove(c)
            self._over.popleft()

    def _walk(self, now: int, sink: Sink) -> None:
        """Ends idle connections and gives up on holes that waited too long.

        Its cost is spread: it runs once a second of packet time, and only after as many segments as
        there are connections.
        """
        self._swept, self._since = now, 0
        for c in list(self._connections.values()):
            if c.over:
                continue
            if now - c.last > sink.options.idle_ns:
                self._end(c, False, sink)
                self._remove(c)
            elif c.waiting and c.patience(now, sink):
                self._end(c, False, sink)
        self._forget(now, sink)

    def advance(self, now: int, sink: Sink) -> None:
        """Tells the time of a live capture, so that silence ends things too."""
        if self._swept is None or now - self._swept >= SWEEP_NS:
            self._walk(now, sink)

    def finish(self, sink: Sink) -> None:
        """The capture is over: every connection is ended, the oldest first."""
        for c in sorted(self._connections.values(), key=lambda c: c.http.id):
            self._end(c, False, sink)
        self._connections.clear()
        self._over.clear()
        self._over_count = 0


class _Connection:
    """`settled`: both beginnings are known, or were settled without a handshake."""

    def __init__(self, key: Key, time: int, http: Http) -> None:
        self.key = key
        self.last = self.first = time
        self.http = http
        self.settled = False
        self.over = False
        self.over_at = 0
        self.waiting = 0
        self._held_bytes = 0
        self._directions = (_Direction(), _Direction())

    def begins_anew(self, d: int, s: Segment) -> bool:
        """A SYN that does not belong to this connection: the ports are used again."""
        direction = self._directions[d]
        if direction.syn is not None:
            return direction.syn != s.seq
        if self.over:
            return True
        return (
            self.settled
            and direction.known
            and not 0 <= distance(direction.next, (s.seq + 1) & 0xFFFFFFFF) < 1 << 20
        )

    def take(self, d: int, s: Segment, arrival: int, sink: Sink) -> bool:
        """Takes a segment in; true if the connection is over by it."""
        ack = s.ack if s.flags & ACK else None
        h = _Held(s.seq, s.length, s.payload, s.time, ack, s.flags, s.overhead, s.packets, arrival)
        if s.flags & SYN:
            self._handshake(d, s)
            h.seq = (s.seq + 1) & 0xFFFFFFFF
            if s.length == 0:
                sink.account.add(CONNECTION_OVERHEAD, s.overhead)
                return self._pump(sink) or self.patience(s.time, sink)
        other = self._directions[1 - d]
        if ack is not None and other.known and (other.acked is None or distance(ack, other.acked) > 0):
            other.acked = ack
        if s.length == 0 and not s.flags & (FIN | RST):
            sink.account.add(CONNECTION_OVERHEAD, s.overhead)
            return self.waiting > 0 and self.patience(s.time, sink)
        if self.settled:
            direction = self._directions[d]
            if not direction.known:
                direction.known, direction.next = True, h.seq
            ahead = distance(h.seq, direction.next)
            if ahead == 0 and not self.waiting and not self._gated(d, ack):
                return self._deliver(d, h, sink)
            if ahead <= 0 and s.flags & RST:
                self._repeat(d, h, sink)
                return True
            end = ahead + s.length
            if ahead < 0 and end <= 0 and (not s.flags & FIN or direction.ended or end < 0):
                self._repeat(d, h, sink)
                return self.waiting > 0 and self.patience(s.time, sink)
        self._hold(d, h, sink)
        return self._pump(sink) or self.patience(s.time, sink)

    def _repeat(self, d: int, h: _Held, sink: Sink) -> None:
        """A repeated segment's bytes, all of them."""
        size = h.overhead + h.length
        if h.length == 0:
            sink.account.add(CONNECTION_OVERHEAD, size)
        else:
            self.http.repeated(d, h.seq, size, h.length, h.packets, sink)

    def _handshake(self, d: int, s: Segment) -> None:
        direction, other = self._directions[d], self._directions[1 - d]
        if direction.syn is None and not self.settled:
            self.http.lanes[0].state = self.http.lanes[1].state = "idle"
            direction.next, direction.known = (s.seq + 1) & 0xFFFFFFFF, True
            if s.flags & ACK:
                self.http.client = 1 - d
                if not other.known:
                    other.known, other.next, other.syn = True, s.ack, (s.ack - 1) & 0xFFFFFFFF
            else:
                self.http.client = d
        if direction.syn is None:
            direction.syn = s.seq
        if not self.settled and direction.known and other.known:
            self._settle()

    def _settle(self) -> None:
        """The beginnings are known, or are taken to be the lowest sequence numbers held."""
        self.settled = True
        for direction in self._directions:
            if not direction.held:
                continue
            first = direction.held[0].seq
            if not direction.known:
                lowest = min(distance(h.seq, first) for h in direction.held)
                direction.next, direction.known = (first + lowest) & 0xFFFFFFFF, True
            base = direction.next
            direction.held.sort(key=lambda h: (distance(h.seq, base), h.arrival))

    def _gated(self, d: int, ack: int | None) -> bool:
        """True if bytes with this acknowledgement must wait for the other direction."""
        other = self._directions[1 - d]
        return ack is not None and other.known and 0 < distance(ack, other.next) < FAR

    def _hold(self, d: int, h: _Held, sink: Sink) -> None:
        self._held_bytes += len(h.data)
        sink.buffered += len(h.data)
        self.waiting += 1
        direction = self._directions[d]
        if self.settled:
            base = direction.next
            at = bisect_right(direction.held, distance(h.seq, base), key=lambda x: distance(x.seq, base))
            direction.held.insert(at, h)
        else:
            direction.held.append(h)

    def _deliver(self, d: int, h: _Held, sink: Sink) -> bool:
        """In-order bytes of a segment, whose beginning may have passed already."""
        direction = self._directions[d]
        old = min((direction.next - h.seq) & 0xFFFFFFFF, h.length)
        new = h.length - old
        direction.next = (direction.next + new) & 0xFFFFFFFF
        overhead, packets = h.overhead, h.packets
        if old and not new:
            self.http.repeated(d, h.seq, old + overhead, old, packets, sink)
            overhead = 0
        elif old:
            self.http.repeated(d, h.seq, old, old, 0, sink)
        if new:
            seq = (h.seq + old) & 0xFFFFFFFF
            self.http.feed(d, Chunks(h.data[old:], new, h.time, seq, h.ack, overhead, packets), sink)
            overhead = 0
        sink.account.add(CONNECTION_OVERHEAD, overhead)
        if h.flags & RST:
            return True
        if h.flags & FIN and not direction.ended:
            direction.ended = True
            direction.next = (direction.next + 1) & 0xFFFFFFFF
            return self.http.end(d, sink)
        return False

    def _pop(self, d: int, sink: Sink) -> _Held:
        h = self._directions[d].held.pop(0)
        self.waiting -= 1
        self._held_bytes -= len(h.data)
        sink.buffered -= len(h.data)
        return h

    def _pump(self, sink: Sink) -> bool:
        """Delivers what no longer has to wait; true if the connection is over by it."""
        while self.settled and self.waiting:
            ready = [
                (h.arrival, d)
                for d, direction in enumerate(self._directions)
                for h in direction.held[:1]
                if distance(h.seq, direction.next) <= 0 and not self._gated(d, h.ack)
            ]
            if not ready:
                return False
            _, d = min(ready)
            if self._deliver(d, self._pop(d, sink), sink):
                return True
        return False

    def _oldest(self) -> int:
        """The direction whose first held segment came first."""
        return min(
            (direction.held[0].arrival, d) for d, direction in enumerate(self._directions) if direction.held
        )[1]

    def patience(self, now: int, sink: Sink) -> bool:
        """Gives up waiting where time or a bound is exceeded; true if the connection is over by it."""
        o = sink.options
        while self.waiting:
            full = (
                self._held_bytes > o.max_connection_bytes
                or self.waiting > o.max_held
                or sink.buffered > o.max_buffer_bytes
            )
            if not self.settled:
                if not (full or self.waiting >= o.settle_segments or now - self.first > o.settle_ns):
                    return False
                self._settle()
                if self._pump(sink):
                    return True
                continue
            d = self._oldest()
            direction = self._directions[d]
            h = direction.held[0]
            # What it waits for has passed by: acknowledged, or hidden in the other direction.
            passed = distance(h.seq, direction.next) <= 0 or (
                direction.acked is not None and distance(direction.acked, direction.next) > 0
            )
            if not full and now - h.time <= (o.reorder_ns if passed else o.hole_ns):
                return False
            sink.account.bound_hits += full
            if self._force(d, sink):
                return True
        return False

    def _force(self, d: int, sink: Sink) -> bool:
        """Stops waiting for what the first held segment waits for.

        Its hole is lost, or the order between the directions is given up.
        """
        direction = self._directions[d]
        seq, after = direction.held[0].seq, direction.next
        hole = distance(seq, after)
        if hole > 0:
            direction.next = seq
            self.http.gap(d, after, hole, sink)
        return self._deliver(d, self._pop(d, sink), sink) or self._pump(sink)

    def release(self, sink: Sink) -> None:
        """Delivers everything held, whatever is missing; what follows an end is discarded."""
        over = False
        if not self.settled:
            self._settle()
            over = self._pump(sink)
        while self.waiting and not over:
            over = self._force(self._oldest(), sink)
        for d in (0, 1):
            while self._directions[d].held:
                h = self._pop(d, sink)
                sink.account.add(RETRANSMISSION if h.length else CONNECTION_OVERHEAD, h.overhead + h.length)
