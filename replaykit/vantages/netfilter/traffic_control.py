"""Counters of tc, where it tells users apart: filters by mark (fw), or by address (flower, u32), as `tc -s
-j` prints them.

An interface's egress is TX, its ingress RX. A filter's action (police, gact, mirred) counts; where it has
none, the class does to which it leads.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from replaykit.errors import UsageError
from replaykit.vantages.netfilter.counters import Counters, boot_id
from replaykit.vantages.netfilter.programs import run

_CLASS = re.compile(r"^class \S+ (\S+) .*\n\s*Sent (\d+) bytes (\d+) pkt", re.MULTILINE)
Moved = tuple[int, int]
"""Bytes and packets."""


def parse(
    printed: str, received: bool, classes: Mapping[str, Moved] | None = None
) -> Iterator[tuple[str, str, Counters]]:
    """Key, filter and counts, of `tc -s -j filter show`. classes: by their ids. Raises UsageError.

    A class to which filters of several users lead appears as itself, `class:1:10`.
    """
    leading: dict[str, set[str]] = {}
    for kind, key, one, options in _filters(printed, received):
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


def _filters(printed: str, received: bool) -> Iterator[tuple[str, str, dict[str, Any], dict[str, Any]]]:
    """Kind, key, and as they were printed the filter and its options, of those that tell users apart.

    Raises UsageError.
    """
    try:
        filters = json.loads(printed or "[]", object_pairs_hook=_object)
    except ValueError:
        raise UsageError("tc: what it printed is no JSON; iproute2 4.17 or later is needed") from None
    for one in filters if isinstance(filters, list) else ():
        options = one.get("options") if isinstance(one, dict) else None
        if isinstance(options, dict):
            kind = str(one.get("kind", ""))
            key = _key(kind, str(one.get("protocol", "")), options, received)
            if key:
                yield kind, key, one, options


class Filter(NamedTuple):
    """place: where it is, such as `egress` or `parent 1:`. goes_on: whether a packet that it counted is shown
    to the next there.

    hands_on: whether what it counted goes on to other places.
    """

    key: str
    place: str
    received: bool
    text: str
    goes_on: bool
    hands_on: bool


def found_in(printed: str, place: str, received: bool) -> Iterator[Filter]:
    """Of `tc -s -j filter show`, in their order. Raises UsageError."""
    for kind, key, one, options in _filters(printed, received):
        actions = [a for a in options.get("actions", ()) if isinstance(a, dict)]
        last = actions[-1] if actions else {}
        control = last.get("control_action", {})
        ends = str(control.get("type", "")) if isinstance(control, dict) else ""
        taken = ends in ("drop", "shot", "stolen", "queued", "trap") or "redirect" in str(
            last.get("mirred_action", "")
        )
        yield Filter(
            key,
            place,
            received,
            f"{place} pref {one.get('pref')} {kind} {key}",
            ends == "continue",
            not taken,
        )


def unclear(filters: Sequence[Filter]) -> list[str]:
    """Pairs that may count the same packets: of one place, where the first lets the second see them; of two,
    for the same user, or by mark here and by address there. The cost grows with the filters of a key.
    """
    found: list[str] = []
    marks_and_addresses: set[tuple[str, str]] = set()
    keyed: dict[tuple[str, bool], list[Filter]] = {}
    for one in filters:
        keyed.setdefault((one.key, one.received), []).append(one)
    for same in keyed.values():
        for at, one in enumerate(same):
            for other in same[at + 1 :]:
                if one.goes_on if one.place == other.place else one.hands_on or other.hands_on:
                    found.append(f"{one.text} | {other.text}")
    kinds: dict[tuple[bool, bool], list[Filter]] = {}
    for one in filters:
        kinds.setdefault((one.received, one.key.startswith("mark:")), []).append(one)
    for received in (True, False):
        # One of each pair of places speaks for all.
        marks = _one_a_place(kinds.get((received, True), []))
        for one in marks:
            for other in _one_a_place(kinds.get((received, False), [])):
                places = one.place, other.place
                if places not in marks_and_addresses and (
                    one.goes_on or other.goes_on
                    if one.place == other.place
                    else one.hands_on or other.hands_on
                ):
                    marks_and_addresses.add(places)
                    found.append(f"{one.text} | {other.text}")
    return found


def _one_a_place(filters: Sequence[Filter]) -> list[Filter]:
    """The first of each place, and of each the first that lets others see its packets."""
    kept: dict[tuple[str, bool, bool], Filter] = {}
    for one in filters:
        kept.setdefault((one.place, one.goes_on, one.hands_on), one)
    return list(kept.values())


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
                f"tc: {interface} has no filter that tells users apart (fw by mark, flower or u32 by"
                " address): there is nothing to count"
            )

    def read(self) -> tuple[str, Mapping[str, Counters]]:
        sums: dict[str, Counters] = {}
        classes = self._classes()
        for place, received, printed in self._printed():
            for key, which, counts in parse(printed, received, {} if received else classes):
                name = f"{key} {place} {which}"
                sums[name] = sums.get(name, Counters()).plus(counts)
        return boot_id(), sums

    def _printed(self) -> Iterator[tuple[str, bool, str]]:
        """Each place where filters may be, whether it is of what is received, and its filters as tc prints
        them.
        """
        for place, received in (*self._qdiscs(), ("egress", False), ("ingress", True)):
            yield (
                place,
                received,
                run("tc", "-s", "-j", "filter", "show", "dev", self._interface, *place.split()),
            )

    def unclear(self) -> list[str]:
        """Pairs of filters that may count the same packets, so that who they are of is counted twice.

        Raises UsageError.
        """
        return unclear(
            [f for place, received, printed in self._printed() for f in found_in(printed, place, received)]
        )

    def _qdiscs(self) -> list[tuple[str, bool]]:
        """Those of its egress that may have filters."""
        found = json.loads(run("tc", "-j", "qdisc", "show", "dev", self._interface) or "[]")
        handles = [q["handle"] for q in found if q["kind"] not in ("clsact", "ingress")]
        return [(f"parent {h}", False) for h in handles if h != "0:"]

    def _classes(self) -> dict[str, Moved]:
        return parse_classes(run("tc", "-s", "class", "show", "dev", self._interface))

    def close(self) -> None:
        """Nothing is held."""
