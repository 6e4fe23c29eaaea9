"""A live capture: rings and engines, one thread a worker (`worker.py`).

Owns the choice of interfaces, their rings and filters, and the workers. Both directions of a connection reach
the same worker. Results go into one queue of bounded length; if its reader is slower than the traffic, the
rings fill and the kernel counts what it drops.
"""

from __future__ import annotations

import grp
import os
import pwd
import queue
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from replaykit.capturing import beside_the_filter, bpf, expression
from replaykit.capturing.addresses import local_addresses
from replaykit.capturing.kernel_filter import Wanted, compile_filter
from replaykit.capturing.mirror import Mirror
from replaykit.capturing.places import Place
from replaykit.capturing.reader import open_reader
from replaykit.capturing.ring import Counting, Ring
from replaykit.capturing.worker import Result as Result
from replaykit.capturing.worker import Source, Worker
from replaykit.engine.engine import Engine
from replaykit.engine.envelope import Vxlan
from replaykit.engine.options import Options, header_rule
from replaykit.errors import UsageError


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
class Totals:
    """The engines' accounts added up, and beside them what the kernel kept back."""

    account: dict[str, int] = field(default_factory=dict)
    kernel_packets: int = 0
    kernel_drops: int = 0
    connections_begun: int = 0
    connections_kept: int = 0
    """Since the capture began, where it samples."""


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
                        counted = bpf.both(beside_the_filter.beginnings(), program)
                        counters.append(Counting(index, name, counted))
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
        wanted = Wanted(
            sorted(ports),
            sorted(hosts | set(settings.hosts)),
            settings.sample,
            settings.headers_only,
            socket.if_nametoindex("lo") if name == "any" else None,
            settings.tunnels,
        )
        program = compile_filter(wanted)
        addresses = [] if settings.own_requests or wanted.hosts or not ports else local_addresses()
        if addresses:
            program = bpf.both(beside_the_filter.not_own_requests(addresses, wanted.ports), program)
        if settings.vlans:
            program = bpf.both(beside_the_filter.vlans(settings.vlans), program)
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
