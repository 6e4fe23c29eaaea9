"""What a replay is to do, of its options."""

from __future__ import annotations

import re

from replaykit.attribution.patterns import read_patterns
from replaykit.capturing import keylog
from replaykit.capturing.places import parse_ports
from replaykit.engine.options import Options as EngineSettings
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.replaying.compare import Comparison
from replaykit.replaying.job import Sending
from replaykit.replaying.options import ReplayOptions
from replaykit.replaying.outgoing import Aim
from replaykit.replaying.pace import AnyPace, Flat, Rate, Recorded, parse_speed
from replaykit.replaying.reading import Read, names, read_files
from replaykit.replaying.runner import Plan
from replaykit.replaying.target import parse_target
from replaykit.units import parse_duration


def plan(asked: ReplayOptions, read: Read, rules: Rules, sets_host: bool = False) -> Plan:
    """What is to be done. read: is told what comes of the files. sets_host: the rules say what Host is.

    Raises UsageError.
    """
    target = parse_target(asked.to)
    pace = _pace(asked)
    sessions = asked.sessions if asked.sessions is not None else isinstance(pace, Recorded)
    for name in ("retries", "redirects", "loop", "read_depth"):
        if getattr(asked, name) < 0:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(asked, name)}: give 0 or more")
    if asked.limit is not None and asked.limit < 1:
        raise UsageError(f"--limit {asked.limit}: give 1 or more")
    connections = asked.connections or (32 if isinstance(pace, Flat) else 10_000)
    if asked.http2 and asked.connections is None and not sessions:
        connections = 4
    if connections < 1:
        raise UsageError(f"--connections {connections}: give 1 or more")
    if asked.loop != 1 and "-" in asked.files:
        raise UsageError("--loop: standard input can be read once only")
    for name in asked.files:
        names(name)
    keylog.require(asked.tls_keys)
    options = EngineSettings(
        requests=True,
        responses=asked.compare,
        ports=parse_ports(asked.port),
        tls_keys=asked.tls_keys,
    )
    patterns = tuple(p for name in asked.endpoints for p in read_patterns(name))
    prefix = target.path.rstrip("/") if not target.query else ""
    query = f"{target.path or '/'}?{target.query}".encode() if target.query else None
    return Plan(
        target,
        lambda: read_files(asked.files, rules, depth=asked.read_depth, options=options, read=read),
        Aim(
            None if asked.keep_host or sets_host else target.authority.encode(),
            prefix.encode(),
            query,
        ),
        pace,
        Sending(
            connections=connections,
            sessions=sessions,
            timeout_s=parse_duration(asked.timeout),
            connect_s=parse_duration(asked.connect_timeout),
            retries=asked.retries,
            redirects=asked.redirects,
            verify=not asked.insecure,
            ca=asked.ca,
            http2=asked.http2,
        ),
        methods=asked.all_methods or target.local,
        loops=asked.loop or None,
        most=asked.limit,
        duration_s=None if asked.duration is None else parse_duration(asked.duration),
        comparison=(
            Comparison(asked.compare_header, asked.body, asked.ignore, patterns) if asked.compare else None
        ),
    )


def _pace(asked: ReplayOptions) -> AnyPace:
    if asked.ramp is not None:
        match = re.fullmatch(r"([0-9.]+)-([0-9.]+)/(\w+)", asked.ramp)
        if match is None or float(match[1]) <= 0 or float(match[2]) <= 0:
            raise UsageError(
                f"--ramp {asked.ramp}: write FROM-TO/TIME in requests a second, as in 10-1000/60s"
            )
        return Rate(float(match[1]), float(match[2]), parse_duration(match[3]))
    if asked.rate is not None:
        if asked.rate <= 0:
            raise UsageError(f"--rate {asked.rate:g}: give a number above 0")
        return Rate(asked.rate)
    speed = parse_speed(asked.speed)
    if speed is None:
        return Flat()
    return Recorded(speed, None if asked.max_wait is None else int(parse_duration(asked.max_wait) * 1e9))
