"""This host's addresses, in its network namespace (proc(5))."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from pathlib import Path

_LOCAL = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")


def local_addresses() -> list[str]:
    """IPv4 without 127.0.0.0/8, and IPv6 without ::1; none where the system does not tell."""
    found: set[str] = set()
    with suppress(OSError):
        found.update(_LOCAL.findall(Path("/proc/net/fib_trie").read_text()))
    with suppress(OSError):  # IPv6 is off
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            found.add(str(ipaddress.IPv6Address(int(line.split()[0], 16))))
    return sorted(a for a in found if not ipaddress.ip_address(a).is_loopback)
