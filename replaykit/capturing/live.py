"""A live capture: rings and engines, one thread a worker.

Owns the threads, the choice of interfaces and the order of ending: stop the kernel, read what is in
the rings, finish the engines. Both directions of a connection reach the same worker. Results go into
one queue of bounded length; if its reader is slower than the traffic, the rings fill and the kernel
counts what it drops.
"""

from __future__ import annotations

import grp
import os
import pwd
import queue
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from replaykit.capturing import bpf, expression
from replaykit.capturing.addresses import local_addresses
from replaykit.capturing.mirror import Mirror
from replaykit.capturing.places import Place
from replaykit.capturing.reader import open_reader
from replaykit.capturing.ring import RETIRE_MS, Counting, Ring
from replaykit.engine.engine import Engine
from replaykit.engine.envelope import Vxlan
from replaykit.engine.options import Options, header_rule
from replaykit.errors import UsageError
from replaykit.records.increment import movements, plain
from replaykit.records.message import Messages

Source = Ring | Mirror

FLUSH_S = 0.5
ROWS = 32_768
MESSAGE_BYTES = 1 << 20
"""So many go to the outputs at once: buffers that stay in the cache."""


@dataclass(frozen=True)
class Settings:
    """How to capture. `buffer_bytes` is for each ring, `sample` the share of connections kept."""

    places: Sequence[Place]
    hosts: Sequence[str] = ()
    expression: str | None = None
    sample: float = 1.0
    headers_only: bool = False
    workers: int = 1
    buffer_bytes: int = 128 << 20
    user: str | None = None
    above: Callable[[Engine], Engine] | None = None
    """Put around each engine."""
    tunnels: tuple[int, ...] | None = None
    """What may carry packets inside packets is captured too; UDP ports of VXLAN."""
    vlans: Sequence[int] = ()
    """Only frames of these 802.1Q networks."""
    group: int | None = None
    """Of PACKET_FANOUT: captures of one group share the connections, in other processes too."""
    promiscuous: bool = False
    own_requests: bool = True
    """False: what this host asks of others on these ports is left out; where a host is named it never is."""
    slice_s: float = 0
    """Length of the slices in which exchanges in flight are told; 0: they are not."""
    in_flight: bool = False
    """Once a slice all of them are handed over with what they have moved, for whoever shows them."""
    report: Callable[[str], None] = print
    """Told of connections that a plug-in cannot read."""


@dataclass
class Result:
    """What a worker hands over."""

    exchanges: pa.RecordBatch | None = None
    messages: Messages | None = None
    moved: pa.RecordBatch | None = None
    """With exchanges: all that moved, see `records.increment.movements`."""
    in_flight: tuple[int, pa.RecordBatch] | None = None
    """A worker's number, and its exchanges in flight with all that they have moved."""


@dataclass
class Totals:
    """The engines' accounts added up, and beside them what the kernel kept back."""

    account: dict[str, int] = field(default_factory=dict)
    kernel_packets: int = 0
    kernel_drops: int = 0
    connections_begun: int = 0
    connections_kept: int = 0
    """Since the capture began, where it samples."""


class Worker(threading.Thread):
    """Reads its rings into its engine and puts the results into the queue."""

    def __init__(
        self,
        number: int,
        rings: list[Source],
        engine: Engine,
        results: queue.Queue[Result],
        messages: bool,
        slice_s: float,
        in_flight: bool,
    ) -> None:
        super().__init__(daemon=True)
        self._number, self._slice_s, self._in_flight = number, slice_s, in_flight
        self._looked = time.monotonic()
        self._rings, self.engine, self._results, self._messages = rings, engine, results, messages
        self.sources = len(rings)
        self._stopping = threading.Event()
        self.error: BaseException | None = None
        self.cpu_s = 0.0
        self.account = engine.account()
        """The engines' account at the last flush; the engine itself belongs to this thread."""
        self._ended: dict[str, int] = {}
        self._next: queue.SimpleQueue[tuple[Engine, list[list[bpf.Instruction]]]] = queue.SimpleQueue()

    def stop(self) -> None:
        self._stopping.set()

    def change(self, engine: Engine, programs: list[list[bpf.Instruction]]) -> None:
        """Goes on with another engine, and another filter on each ring."""
        self._next.put((engine, programs))

    def _changed(self) -> None:
        """What the old filter let in is read by the old engine; exchanges it had not finished are
        incomplete.
        """
        engine, programs = self._next.get()
        for ring, program in zip(self._rings, programs, strict=True):
            ring.attach(program)
        self._read()
        self.engine.finish()
        self._flush()
        self._ended = _sum(self._ended, self.engine.account())
        self.engine = engine
        self._flush()

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:
            self.error = error

    def _run(self) -> None:
        poll = select.poll()
        for ring in self._rings:
            poll.register(ring, select.POLLIN)
        flushed = time.monotonic()
        while not self._stopping.is_set():
            if not self._read():
                poll.poll(RETIRE_MS)
            if not self._next.empty():
                self._changed()
            now = time.monotonic()
            if self.engine.message_bytes > MESSAGE_BYTES:
                self._take_messages()
            if now - flushed >= FLUSH_S or self.engine.rows >= ROWS:
                self.engine.advance(time.time_ns())
                self._flush()
                flushed = now
        for ring in self._rings:
            ring.stop()
        # The block being filled is handed over when it retires.
        deadline = time.monotonic() + 3 * RETIRE_MS / 1000
        while time.monotonic() < deadline:
            if not self._read():
                poll.poll(RETIRE_MS // 2)
        self.engine.finish()
        self._flush()

    def _read(self) -> int:
        packets = 0
        for ring in self._rings:
            for count in ring.feed(self.engine):
                packets += count
                if self.engine.rows >= ROWS:
                    self._flush()
        return packets

    def _flush(self) -> None:
        self.account = _sum(self._ended, self.engine.account())
        self.cpu_s = time.thread_time()
        if self.engine.rows or self.engine.increments:
            exchanges = self.engine.take_exchanges()
            if self._slice_s:
                increments = self.engine.take_increments() if self.engine.increments else None
                self._results.put(Result(plain(exchanges), moved=movements(exchanges, increments)))
            else:
                self._results.put(Result(exchanges))
        if self._in_flight and time.monotonic() - self._looked >= self._slice_s:
            self._looked = time.monotonic()
            self._results.put(Result(in_flight=(self._number, self.engine.in_flight())))
        self._take_messages()

    def _take_messages(self) -> None:
        while self._messages and self.engine.message_bytes:
            self._results.put(Result(messages=self.engine.take_messages()))


def _sum(one: dict[str, int], other: dict[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + count for name, count in other.items()}


class Capture:
    """A running capture. Raises UsageError if it cannot start."""

    def __init__(self, settings: Settings, options: Options) -> None:
        self.settings = settings
        self.results: queue.Queue[Result] = queue.Queue(maxsize=64)
        self._rings: list[Source] = []
        self._begun: list[Counting] = []
        self._kept: list[Counting] = []
        self.workers: list[Worker] = []
        self._options, self._generation = options, 0
        workers: list[list[Source]] = [[] for _ in range(max(settings.workers, 1))]
        try:
            for number, (index, name, program) in enumerate(_programs(settings)):
                group = settings.group
                if group is None and len(workers) > 1:
                    group = (os.getpid() * 16 + number) & 0xFFFF
                for rings in workers:
                    ring = Ring(index, name, program, settings.buffer_bytes, group, settings.promiscuous)
                    self._rings.append(ring)
                    rings.append(ring)
            if settings.sample < 1 and settings.group is None:
                for counters, share in ((self._begun, 1.0), (self._kept, settings.sample)):
                    for index, name, program in _programs(replace(settings, sample=share)):
                        counters.append(Counting(index, name, bpf.both(bpf.beginnings(), program)))
            for place in settings.places:
                if place.listen is not None:
                    vxlan = Vxlan((), options.vxlan_vnis)
                    mirror = Mirror(*place.listen, vxlan, settings.buffer_bytes)
                    self._rings.append(mirror)
                    workers[0].append(mirror)
            if settings.user is not None:
                drop_privileges(settings.user)
            engines = self._engines(settings, options)
        except BaseException:
            self.close()
            raise
        wants_messages = options.requests or options.responses
        self.workers = [
            Worker(n, rings, engine, self.results, wants_messages, settings.slice_s, settings.in_flight)
            for n, (rings, engine) in enumerate(zip(workers, engines, strict=True))
        ]

    def _engines(self, settings: Settings, options: Options) -> list[Engine]:
        """One a worker."""
        ports = tuple(sorted({p for place in settings.places for p in place.ports}))
        engines = []
        for i in range(max(settings.workers, 1)):
            first = (i << 48) + (self._generation << 40) + 1
            own = replace(
                options,
                ports=ports,
                weight=1 / settings.sample,
                first_connection=first,
                slice_ns=int(settings.slice_s * 1e9),
            )
            # Of several workers, one that saw no TLS says nothing about the key log.
            engine = open_reader(own, settings.report if settings.workers <= 1 or own.protocols else _silent)
            engines.append(engine if settings.above is None else settings.above(engine))
        return engines

    def change(self, changes: Mapping[str, Any]) -> None:
        """Goes on with another `sample`, `headers_only`, or more filters (`allow_url`, …); {}: as it began.

        The settings and options it began with stay the base. Raises UsageError, ValueError for a pattern.
        """
        settings = replace(
            self.settings, **{n: changes[n] for n in ("sample", "headers_only") if n in changes}
        )
        options = changed_options(self._options, changes)
        programs = [program for _, _, program in _programs(settings)]
        self._generation += 1
        for worker, engine in zip(self.workers, self._engines(settings, options), strict=True):
            worker.change(engine, programs + [[]] * (worker.sources - len(programs)))

    def start(self) -> None:
        for worker in self.workers:
            worker.start()

    def stop(self) -> None:
        """Asks the workers to end; results keep coming until `running` is false."""
        for worker in self.workers:
            worker.stop()

    @property
    def running(self) -> bool:
        return any(worker.is_alive() for worker in self.workers)

    def totals(self) -> Totals:
        """The counters as they stand."""
        out = Totals()
        for worker in self.workers:
            for name, value in worker.account.items():
                out.account[name] = out.account.get(name, 0) + value
        for ring in self._rings:
            counters = ring.count()
            out.kernel_packets += counters.packets
            out.kernel_drops += counters.drops
        out.connections_begun = sum(counting.count().packets for counting in self._begun)
        out.connections_kept = sum(counting.count().packets for counting in self._kept)
        return out

    def close(self) -> None:
        """Ends what still runs and gives the rings back; raises what ended a worker."""
        self.stop()
        for worker in self.workers:
            if worker.ident is not None:
                worker.join()
        for ring in (*self._rings, *self._begun, *self._kept):
            ring.close()
        for worker in self.workers:
            if worker.error is not None:
                raise worker.error


def _programs(settings: Settings) -> list[tuple[int, str, list[bpf.Instruction]]]:
    """Interface index, name and filter for each interface named."""
    places: dict[str, tuple[set[int], set[str]]] = {}
    for place in settings.places:
        if place.listen is not None:
            continue
        ports, hosts = places.setdefault(place.interface, (set(), set()))
        ports |= set(place.ports)
        hosts |= {place.host} if place.host else set()
    if "any" in places and len(places) > 1:
        raise UsageError("`any` already captures every interface: name it alone, or name the interfaces")
    out = []
    for name, (ports, hosts) in places.items():
        index = 0 if name == "any" else socket.if_nametoindex(name)
        wanted = bpf.Wanted(
            sorted(ports),
            sorted(hosts | set(settings.hosts)),
            settings.sample,
            settings.headers_only,
            socket.if_nametoindex("lo") if name == "any" else None,
            settings.tunnels,
        )
        program = bpf.compile_filter(wanted)
        addresses = [] if settings.own_requests or wanted.hosts or not ports else local_addresses()
        if addresses:
            program = bpf.both(bpf.not_own_requests(addresses, wanted.ports), program)
        if settings.vlans:
            program = bpf.both(bpf.vlans(settings.vlans), program)
        if settings.expression:
            program = bpf.both(expression.expression(settings.expression, _link(name)), program)
        out.append((index, name, program))
    return out


def _link(name: str) -> int:
    """What a tcpdump expression has to expect in front of IP."""
    kind = Path(f"/sys/class/net/{name}/type")
    ethernet = name == "any" or not kind.exists() or kind.read_text().strip() in ("1", "772")
    return expression.ETHERNET if ethernet else expression.RAW_IP


def changed_options(options: Options, changes: Mapping[str, Any]) -> Options:
    """With the filters of `changes`: allowed URLs and methods in place of those that are there, the others
    beside them.
    """

    def patterns(name: str) -> tuple[str, ...]:
        return tuple(f"^{re.escape(t)}$" if name.endswith("method") else t for t in changes.get(name, ()))

    def headers(name: str) -> tuple[tuple[str, str | None], ...]:
        return tuple(map(header_rule, changes.get(name, ())))

    return replace(
        options,
        allow_urls=patterns("allow_url") or options.allow_urls,
        allow_methods=patterns("allow_method") or options.allow_methods,
        allow_headers=(*options.allow_headers, *headers("allow_header")),
        deny_urls=(*options.deny_urls, *patterns("disallow_url")),
        deny_methods=(*options.deny_methods, *patterns("disallow_method")),
        deny_headers=(*options.deny_headers, *headers("disallow_header")),
    )


def drop_privileges(name: str) -> None:
    """Becomes another user for good; sockets stay open. Raises UsageError."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise UsageError(f"--user {name}: there is no such user") from None
    if os.geteuid() != 0:
        raise UsageError(f"--user {name}: only root can become another user")
    os.setgroups([g.gr_gid for g in grp.getgrall() if name in g.gr_mem])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def _silent(line: str) -> None:
    """Says nothing."""
