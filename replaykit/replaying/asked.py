"""A replay as people ask for it: in a command line, in a call."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from replaykit.attribution.patterns import read_patterns
from replaykit.capturing import keylog
from replaykit.capturing.places import parse_ports
from replaykit.engine.options import Options
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.replaying.compare import BodyRule, Comparison
from replaykit.replaying.job import Sending
from replaykit.replaying.outgoing import Aim
from replaykit.replaying.pace import AnyPace, Flat, Rate, Recorded, parse_speed
from replaykit.replaying.reading import Read, names, read_files
from replaykit.replaying.runner import Plan
from replaykit.replaying.target import parse_target
from replaykit.units import parse_duration


@dataclass(frozen=True)
class Asked:
    """Names and values are those of `replaykit replay`; times as people write them, such as `5s`.

    port: of captures, only connections to these. loop: 0 goes on until it is stopped. connections: None: as many as fit
    the pace. sessions: None: where the recorded pace is kept. body: `exact`, `json` or `none`.
    """

    files: Sequence[str]
    to: str
    port: str | None = None
    tls_keys: str | None = None
    speed: str = "1x"
    rate: float | None = None
    ramp: str | None = None
    max_wait: str | None = None
    loop: int = 1
    limit: int | None = None
    duration: str | None = None
    read_depth: int = 100
    connections: int | None = None
    sessions: bool | None = None
    http2: bool = False
    timeout: str = "5s"
    connect_timeout: str = "5s"
    retries: int = 0
    redirects: int = 0
    insecure: bool = False
    ca: str | None = None
    keep_host: bool = False
    all_methods: bool = False
    compare: bool = False
    compare_header: Sequence[str] = ()
    body: BodyRule = "exact"
    ignore: Sequence[str] = ()
    endpoints: Sequence[str] = ()

    def plan(self, read: Read, rules: Rules, sets_host: bool = False) -> Plan:
        """What is to be done. read: is told what comes of the files. sets_host: the rules say what Host is. Raises UsageError."""
        target = parse_target(self.to)
        pace = self._pace()
        sessions = self.sessions if self.sessions is not None else isinstance(pace, Recorded)
        for name in ("retries", "redirects", "loop", "read_depth"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} {getattr(self, name)}: give 0 or more")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit {self.limit}: give 1 or more")
        connections = self.connections or (32 if isinstance(pace, Flat) else 10_000)
        if self.http2 and self.connections is None and not sessions:
            connections = 4
        if connections < 1:
            raise UsageError(f"--connections {connections}: give 1 or more")
        if self.loop != 1 and "-" in self.files:
            raise UsageError("--loop: standard input can be read once only")
        for name in self.files:
            names(name)
        keylog.require(self.tls_keys)
        options = Options(
            requests=True,
            responses=self.compare,
            ports=parse_ports(self.port),
            tls_keys=self.tls_keys,
        )
        patterns = tuple(p for name in self.endpoints for p in read_patterns(name))
        prefix = target.path.rstrip("/") if not target.query else ""
        query = f"{target.path or '/'}?{target.query}".encode() if target.query else None
        return Plan(
            target,
            lambda: read_files(self.files, rules, depth=self.read_depth, options=options, read=read),
            Aim(
                None if self.keep_host or sets_host else target.authority.encode(),
                prefix.encode(),
                query,
            ),
            pace,
            Sending(
                connections=connections,
                sessions=sessions,
                timeout_s=parse_duration(self.timeout),
                connect_s=parse_duration(self.connect_timeout),
                retries=self.retries,
                redirects=self.redirects,
                verify=not self.insecure,
                ca=self.ca,
                http2=self.http2,
            ),
            methods=self.all_methods or target.local,
            loops=self.loop or None,
            most=self.limit,
            duration_s=None if self.duration is None else parse_duration(self.duration),
            comparison=Comparison(self.compare_header, self.body, self.ignore, patterns)
            if self.compare
            else None,
        )

    def _pace(self) -> AnyPace:
        if self.ramp is not None:
            match = re.fullmatch(r"([0-9.]+)-([0-9.]+)/(\w+)", self.ramp)
            if match is None or float(match[1]) <= 0 or float(match[2]) <= 0:
                raise UsageError(
                    f"--ramp {self.ramp}: write FROM-TO/TIME in requests a second, as in 10-1000/60s"
                )
            return Rate(float(match[1]), float(match[2]), parse_duration(match[3]))
        if self.rate is not None:
            if self.rate <= 0:
                raise UsageError(f"--rate {self.rate:g}: give a number above 0")
            return Rate(self.rate)
        speed = parse_speed(self.speed)
        if speed is None:
            return Flat()
        return Recorded(speed, None if self.max_wait is None else int(parse_duration(self.max_wait) * 1e9))
