"""Counters of tc, where it tells users apart: filters by mark (fw), or by address (flower, u32), as `tc -s -j` prints them.

An interface's egress is TX, its ingress RX. A filter's action (police, gact, mirred) counts; where it has none, the class
does to which it leads.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from replaykit.errors import UsageError
from replaykit.netfilter.counters import Counters, boot_id
from replaykit.netfilter.programs import run

_CLASS = re.compile(r"^class \S+ (\S+) .*\n\s*Sent (\d+) bytes (\d+) pkt", re.MULTILINE)
Moved = tuple[int, int]
"""Bytes and packets."""


def parse(
    printed: str, received: bool, classes: Mapping[str, Moved] | None = None
) -> Iterator[tuple[str, str, Counters]]:
    """Key, filter and counts, of `tc -s -j filter show`. classes: by their ids. Raises UsageError.

    A class to which filters of several users lead appears as itself, `class:1:10`.
    """
    try:
        filters = json.loads(printed or "[]", object_pairs_hook=_object)
    except ValueError:
        raise UsageError("tc: what it printed is no JSON; iproute2 4.17 or later is needed") from None
    leading: dict[str, set[str]] = {}
    for one in filters if isinstance(filters, list) else ():
        options = one.get("options") if isinstance(one, dict) else None
        if not isinstance(options, dict):
            continue
        kind = str(one.get("kind", ""))
        key = _key(kind, str(one.get("protocol", "")), options, received)
        if not key:
            continue
        # Each action of a filter sees the same packets: the first is enough.
        stats = next(
            (a["stats"] for a in options.get("actions", ()) if isinstance(a.get("stats"), dict)), None
        )
        if stats is not None:
            moved = int(stats.get("bytes", 0)), int(stats.get("packets", 0))
            name = f"{kind} {one.get('pref')} {options.get('handle', options.get('fh', ''))}"
            yield key, name, _counters(moved, received)
        elif options.get("flowid", options.get("classid")) in (classes or ()):
            leading.setdefault(str(options.get("flowid", options.get("classid"))), set()).add(key)
    for place, keys in leading.items():
        key = keys.pop() if len(keys) == 1 else f"class:{place}"
        yield key, f"class {place}", _counters((classes or {})[place], received)


def parse_classes(printed: str) -> dict[str, Moved]:
    """Of `tc -s class show`, which prints no JSON before iproute2 6.8."""
    return {place: (int(size), int(packets)) for place, size, packets in _CLASS.findall(printed)}


def _counters(moved: Moved, received: bool) -> Counters:
    return Counters(moved[0], 0, moved[1], 0) if received else Counters(0, moved[0], 0, moved[1])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A u32 filter's `match` may be there several times."""
    found: dict[str, Any] = dict(pairs)
    if "match" in found:
        found["match"] = [value for name, value in pairs if name == "match"]
    return found


def _key(kind: str, protocol: str, options: Mapping[str, Any], received: bool) -> str:
    if kind == "fw":
        mark = options.get("handle", options.get("mark"))
        return "" if mark is None else f"mark:{int(str(mark).partition('/')[0], 0):#x}"
    if kind == "flower":
        keys = options.get("keys", {})
        address = str(keys.get("src_ip" if received else "dst_ip", ""))
        return (
            address.removesuffix("/32").removesuffix("/128")
            if "/" not in address or address.endswith(("/32", "/128"))
            else ""
        )
    if kind == "u32":
        # An IPv4 header has the source at 12 and the destination at 16, an IPv6 header at 8 and 24.
        words = {
            match.get("off", match.get("offset")): str(match.get("value", "")).zfill(8)
            for match in options.get("match", ())
            if isinstance(match, dict) and match.get("mask") == "ffffffff" and not match.get("offmask")
        }
        first, family, size = (
            (8 if received else 24, socket.AF_INET6, 16)
            if protocol == "ipv6"
            else (12 if received else 16, socket.AF_INET, 4)
        )
        found = "".join(words.get(at, "") for at in range(first, first + size, 4))
        if len(found) == 2 * size:
            return socket.inet_ntop(family, bytes.fromhex(found))
    return ""


class FilterSource:
    """The filters of an interface."""

    name, exact = "tc", False

    def __init__(self, interface: str) -> None:
        self._interface = interface
        self._classes()
        if not self.read()[1]:
            raise UsageError(
                f"tc: {interface} has no filter that tells users apart (fw by mark, flower or u32 by address): there is nothing to count"
            )

    def read(self) -> tuple[str, Mapping[str, Counters]]:
        sums: dict[str, Counters] = {}
        classes = self._classes()
        for place, received in (*self._qdiscs(), ("egress", False), ("ingress", True)):
            printed = run("tc", "-s", "-j", "filter", "show", "dev", self._interface, *place.split())
            for key, which, counts in parse(printed, received, {} if received else classes):
                name = f"{key} {place} {which}"
                sums[name] = sums.get(name, Counters()).plus(counts)
        return boot_id(), sums

    def _qdiscs(self) -> list[tuple[str, bool]]:
        """Those of its egress that may have filters."""
        found = json.loads(run("tc", "-j", "qdisc", "show", "dev", self._interface) or "[]")
        handles = [q["handle"] for q in found if q["kind"] not in ("clsact", "ingress")]
        return [(f"parent {h}", False) for h in handles if h != "0:"]

    def _classes(self) -> dict[str, Moved]:
        return parse_classes(run("tc", "-s", "class", "show", "dev", self._interface))

    def close(self) -> None:
        """Nothing is held."""
