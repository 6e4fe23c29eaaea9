"""Counters of tc's filters, where they classify users: by mark (fw), or by address (flower, u32), as `tc -s -j` prints them.

An interface's egress is TX, its ingress RX. Only filters with an action (police, gact, mirred) count.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from replaykit.errors import UsageError
from replaykit.netfilter.counters import Counters, boot_id


def parse(printed: str, received: bool) -> Iterator[tuple[str, str, Counters]]:
    """Key, filter and counts, of `tc -s -j filter show`. Raises UsageError."""
    try:
        filters = json.loads(printed or "[]")
    except ValueError:
        raise UsageError("tc: what it printed is no JSON; iproute2 4.17 or later is needed") from None
    for one in filters if isinstance(filters, list) else ():
        options = one.get("options") if isinstance(one, dict) else None
        if not isinstance(options, dict):
            continue
        key = _key(one.get("kind", ""), options, received)
        if not key:
            continue
        # Each action of a filter sees the same packets: the first is enough.
        stats = next(
            (a["stats"] for a in options.get("actions", ()) if isinstance(a.get("stats"), dict)), None
        )
        if stats is not None:
            size, packets = int(stats.get("bytes", 0)), int(stats.get("packets", 0))
            counts = Counters(size, 0, packets, 0) if received else Counters(0, size, 0, packets)
            yield (
                key,
                f"{one.get('kind')} {one.get('pref')} {options.get('handle', options.get('fh', ''))}",
                counts,
            )


def _key(kind: str, options: Mapping[str, Any], received: bool) -> str:
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
        match = options.get("match", {})
        # An IPv4 header has the source at 12, the destination at 16.
        if (
            isinstance(match, dict)
            and match.get("mask") == "ffffffff"
            and match.get("offset") == (12 if received else 16)
        ):
            return socket.inet_ntoa(bytes.fromhex(str(match["value"]).zfill(8)))
    return ""


class FilterSource:
    """The filters of an interface."""

    name, exact = "tc", False

    def __init__(self, interface: str) -> None:
        self._interface = interface
        if shutil.which("tc") is None:
            raise UsageError("tc is needed: apt-get install iproute2")

    def read(self) -> tuple[str, Mapping[str, Counters]]:
        sums: dict[str, Counters] = {}
        for place, received in (("root", False), ("egress", False), ("ingress", True)):
            done = subprocess.run(
                ["tc", "-s", "-j", "filter", "show", "dev", self._interface, place],
                capture_output=True,
                text=True,
                check=False,
                timeout=30,
            )
            if done.returncode:
                raise UsageError(
                    f"tc: {self._interface}: {done.stderr.strip().splitlines()[0] if done.stderr.strip() else 'failed'}"
                )
            for key, which, counts in parse(done.stdout, received):
                name = f"{key} {place} {which}"
                sums[name] = sums.get(name, Counters()).plus(counts)
        return boot_id(), sums

    def close(self) -> None:
        """Nothing is held."""
