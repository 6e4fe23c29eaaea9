"""A third reading, by tshark: which requests and which statuses each connection has.

No sizes: tshark does not add them up.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from replaykit.errors import UsageError
from replaykit.witness.packets import End
from replaykit.witness.reading import ends_of

_FIELDS = (
    "ip.src", "ipv6.src", "tcp.srcport", "ip.dst", "ipv6.dst", "tcp.dstport", "http.request.method",
    "http.request.uri", "http.response.code", "http2.headers.method", "http2.headers.path",
    "http2.headers.status",
)  # fmt: skip
_INTERIM = frozenset(str(status) for status in range(100, 200) if status != 101)
Seen = Counter[str]
"""Requests as `METHOD target`, statuses as they are."""


@dataclass
class Third:
    """agreed: requests that both have.

    differences: what only the engine and only tshark has, by a connection's ends.
    """

    agreed: int = 0
    differences: list[tuple[End, End, Seen, Seen]] = field(default_factory=list)
    undecided: Counter[str] = field(default_factory=Counter)


def compare(path: str, rows: Iterable[Mapping[str, Any]], whole: Collection[frozenset[End]]) -> Third:
    """rows: the engine's. whole: conversations of which nothing is missing; tshark names no message that is
    not whole.

    Raises UsageError where tshark is not there or cannot read the file.
    """
    theirs, doubtful = _read(path)
    mine: dict[frozenset[End], Seen] = {}
    named: dict[frozenset[End], tuple[End, End]] = {}
    for row in rows:
        if row["protocol"] not in ("http/1.0", "http/1.1", "h2"):
            continue
        ends = ends_of(row)
        seen = mine.setdefault(frozenset(ends), Counter())
        named[frozenset(ends)] = ends
        if row["method"] is not None:
            seen[f"{row['method']} {row['target']}"] += 1
        if row["status"] is not None:
            seen[str(row["status"])] += 1
    out = Third()
    for key in {**mine, **theirs}:
        one, other = mine.get(key, Counter()), theirs.get(key, Counter())
        why = ""
        if key in doubtful:
            why = "tshark reads it in part"
        elif not one or not other:
            why = f"{'tshark' if one else 'the engine'} found no HTTP"
        elif key not in whole:
            why = "it is not whole"
        if why:
            out.undecided[why] += 1
            continue
        out.agreed += sum(count for what, count in (one & other).items() if " " in what)
        if one != other:
            out.differences.append((*named[key], one - other, other - one))
    return out


def _read(path: str) -> tuple[dict[frozenset[End], Seen], set[frozenset[End]]]:
    """What each connection has, and those of which a packet cannot be told apart."""
    command = [
        "tshark",
        "-n",
        "-r",
        path,
        "-o",
        "tcp.reassemble_out_of_order:TRUE",
        "-Y",
        "http or http2",
        "-T",
        "fields",
        "-E",
        "separator=/t",
        "-E",
        "aggregator=/s",
    ]
    for name in _FIELDS:
        command += ["-e", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except FileNotFoundError:
        raise UsageError("--with tshark: tshark is not installed") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise UsageError(f"{path}: tshark cannot read it: {said[-1] if said else done.returncode}")
    found: dict[frozenset[End], Seen] = {}
    doubtful: set[frozenset[End]] = set()
    for line in done.stdout.splitlines():
        four, six, sport, four_to, six_to, dport, *texts = line.split("\t")
        key = frozenset(((four or six, int(sport.split()[0])), (four_to or six_to, int(dport.split()[0]))))
        seen = found.setdefault(key, Counter())
        methods, targets, statuses, methods2, paths2, statuses2 = (text.split() for text in texts)
        for verbs, places in ((methods, targets), (methods2, paths2)):
            if len(verbs) != len(places):
                doubtful.add(key)
            seen.update(f"{verb} {place}" for verb, place in zip(verbs, places, strict=False))
        seen.update(status for status in (*statuses, *statuses2) if status not in _INTERIM)
    return found, doubtful
