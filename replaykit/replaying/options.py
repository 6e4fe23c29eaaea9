"""A replay as people ask for it: in a command line, in a call."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from replaykit.attribution.patterns import read_patterns
from replaykit.capturing import keylog
from replaykit.capturing.places import parse_ports
from replaykit.config.kinds import Text, Texts
from replaykit.config.options import Option, Options, Real, Whole
from replaykit.engine.options import Options as EngineSettings
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.replaying.compare import Comparison
from replaykit.replaying.job import Sending
from replaykit.replaying.outgoing import Aim
from replaykit.replaying.pace import AnyPace, Flat, Rate, Recorded, parse_speed
from replaykit.replaying.reading import Read, names, read_files
from replaykit.replaying.runner import Plan
from replaykit.replaying.target import parse_target
from replaykit.units import parse_duration


class ReplayOptions(Options):
    """Names and values are those of `replaykit replay`; times as people write them, such as `5s`.

    loop: 0 goes on until it is stopped. connections: None: as many as fit the pace.
    """

    panel: ClassVar[str] = "connections"

    files: Annotated[
        Texts,
        Option(
            ".gor files (gzip too, globs), captures, s3://BUCKET/PREFIX or -", "FILE", argument=True, panel=""
        ),
    ]
    to: Annotated[Text, Option("http://HOST[:PORT][/PREFIX], or https", "URL", panel="")]
    port: Annotated[
        Text | None, Option("of captures: only connections to these ports", "PORTS", panel="")
    ] = None
    tls_keys: Annotated[Text | None, Option("of captures: key log to read TLS with", "FILE", panel="")] = None
    speed: Annotated[Text, Option("1x as recorded (default), 2x, 50%, or max", "FACTOR", panel="pace")] = "1x"
    rate: Annotated[Real | None, Option("so many requests a second, evenly", "N", panel="pace")] = None
    ramp: Annotated[Text | None, Option("a rate that changes: 10-1000/60s", "FROM-TO/TIME", panel="pace")] = (
        None
    )
    max_wait: Annotated[Text | None, Option("no pause between requests is longer", "TIME", panel="pace")] = (
        None
    )
    loop: Annotated[Whole, Option("so many times; without N until stopped", "N", panel="pace", bare="0")] = 1
    limit: Annotated[Whole | None, Option("ends after so many requests", "N", panel="pace")] = None
    duration: Annotated[Text | None, Option("ends after so long", "TIME", panel="pace")] = None
    read_depth: Annotated[
        Whole, Option("records sorted by time at once (default 100)", "N", panel="pace")
    ] = 100
    connections: Annotated[
        Whole | None, Option("at most so many at a time (default 32 with --speed max, else 10000)", "N")
    ] = None
    sessions: Annotated[
        bool | None,
        Option(
            "requests of one recorded connection share one, in order (default at a recorded pace); or any connection that is free",
            only=("--sessions/--pooled",),
        ),
    ] = None
    http2: Annotated[bool, Option("speaks HTTP/2 to the target")] = False
    timeout: Annotated[Text, Option("for an answer (default 5s)", "TIME")] = "5s"
    connect_timeout: Annotated[Text, Option("for a connection (default 5s)", "TIME")] = "5s"
    retries: Annotated[Whole, Option("of requests that failed and are idempotent (default 0)", "N")] = 0
    redirects: Annotated[Whole, Option("followed on the same target (default 0)", "N")] = 0
    insecure: Annotated[bool, Option("does not verify the target's certificate")] = False
    ca: Annotated[Text | None, Option("CA certificate to verify the target with", "FILE")] = None
    keep_host: Annotated[
        bool, Option("keeps the recorded Host; else it is the target's", panel="requests")
    ] = False
    all_methods: Annotated[
        bool,
        Option(
            "POST and PATCH too; for a target that is not on this machine only idempotent methods are sent unless asked",
            panel="requests",
        ),
    ] = False
    compare: Annotated[
        bool, Option("exit status 1 if an answer differs", panel="comparison with the recorded answers")
    ] = False
    compare_header: Annotated[
        Texts, Option("compares this header too", "NAME", panel="comparison with the recorded answers")
    ] = ()
    body: Annotated[
        Literal["exact", "json", "none"],
        Option("how bodies are compared", panel="comparison with the recorded answers"),
    ] = "exact"
    ignore: Annotated[
        Texts,
        Option(
            "a path in JSON bodies that may differ: data.*.id",
            "PATH",
            panel="comparison with the recorded answers",
        ),
    ] = ()
    endpoints: Annotated[
        Texts,
        Option(
            "endpoint patterns such as /users/{id}, one a line, or an OpenAPI file", "FILE", panel="requests"
        ),
    ] = ()

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
        options = EngineSettings(
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
