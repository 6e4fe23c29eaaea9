"""Per-user counters: what it costs to read them, and what each source costs a packet.

Between two namespaces, at 1, 1,000 and 10,000 users. `python -m bench.users inner` is the part that runs in
the second.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ci.servers import namespaces
from replaykit.vantages.netfilter import control, owned, table
from replaykit.vantages.netfilter.counters import Source
from replaykit.vantages.netfilter.ebpf import EbpfSource
from replaykit.vantages.netfilter.owned import Seen
from replaykit.vantages.netfilter.policer import Policer
from replaykit.vantages.netfilter.programs import nft
from replaykit.vantages.netfilter.shaper import Shaper

USERS = (1, 1_000, 10_000)
ROUNDS, SECONDS = 7, 2
SENDER = """
import socket, struct, sys
s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for n in range(int(sys.argv[1])):
    source = socket.inet_aton(f"10.80.{n >> 8}.{n & 255}")
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, n & 65535, 0, 64, 17, 0, source, socket.inet_aton("10.77.0.2"))
    s.sendto(head + struct.pack("!HHHH", 9, 9, 8, 0), ("10.77.0.2", 0))
"""  # noqa: E501


def median_ms(call: Callable[[], object], rounds: int = 11) -> float:
    took = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        took.append(time.perf_counter() - begun)
    return statistics.median(took) * 1000


def busy_s() -> float:
    """CPU time of the whole machine that was not idle: a packet is paid for by whoever is there."""
    fields = [int(v) for v in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:8]) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def packet_ns(client: list[str], *more: str) -> float:
    """Small datagrams through the interface as fast as they go, for two seconds.

    more: -R sends them to the users.
    """
    server = subprocess.Popen(["iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    before = busy_s()
    command = [
        *client,
        "iperf3",
        "-c",
        "10.77.0.2",
        "-u",
        "-l",
        "64",
        "-b",
        "0",
        "-t",
        str(SECONDS),
        "-J",
        *more,
    ]
    end = json.loads(subprocess.run(command, capture_output=True, check=False).stdout)["end"]
    spent = busy_s() - before
    server.wait(20)
    return spent / end["sum"]["packets"] * 1e9


def nft_json() -> int:
    """What it would be without netlink: nft's JSON, and Python's reading of it."""
    count = 0
    for name in ("rx4", "tx4", "rx6", "tx6"):
        text = subprocess.run(
            ["nft", "-j", "list", "set", "inet", table.TABLE, name], capture_output=True, check=True
        ).stdout
        found: list[Any] = json.loads(text)["nftables"]
        count += sum(len(i["set"].get("elem", ())) for i in found if "set" in i)
    return count


def inner(client: list[str]) -> None:
    rows: list[dict[str, Any]] = []
    for users in USERS:
        cost: dict[str, list[float]] = {}
        read: dict[str, float] = {}
        for _ in range(ROUNDS):
            for name in random.sample(["off", "nftables", "ebpf"], 3):
                source: Source | None = None
                if name == "nftables":
                    table.install(["veth0"])
                    source = table.TableSource()
                elif name == "ebpf":
                    source = EbpfSource("veth0")
                if source is not None:
                    subprocess.run([*client, sys.executable, "-c", SENDER, str(users)], check=True)
                    assert len(source.read()[1]) >= users
                cost.setdefault(name, []).append(packet_ns(client))
                if source is not None:
                    read[name] = min(read.get(name, 1e9), median_ms(source.read))
                if name == "nftables":
                    read["nft -j"] = min(read.get("nft -j", 1e9), median_ms(nft_json, 5))
                    table.remove()
                elif source is not None:
                    source.close()
        rows.append(
            {"users": users, "cost": {n: statistics.median(c) for n, c in cost.items()}, "read": read}
        )
    print(
        json.dumps({"rows": rows, "limits": {way or "received": limits(client, way) for way in ("", "-R")}})
    )


def limits(client: list[str], way: str) -> dict[str, float]:
    """What a packet costs of a user who is not limited, while another is: by nothing, by each of the two that
    can.
    """
    seen, cost = Seen(), {}
    ways = {"off": None, "nftables": Policer(seen), "tc": Shaper(["veth0"], seen)}
    for _ in range(ROUNDS):
        for name in random.sample(sorted(ways), 3):
            nft(f"add table inet {owned.TABLE}\n{control.SETS}{control.CHAINS}" if name == "nftables" else "")
            by = ways[name]
            if by is not None:
                by.set("someone", 1_000_000, ["10.80.200.1"])
            cost.setdefault(name, []).append(packet_ns(client, *way.split()))
            control.remove()
    return {n: statistics.median(c) for n, c in cost.items()}


def shown(found: dict[str, dict[str, float]]) -> str:
    parts = []
    for way, cost in found.items():
        more = ", ".join(f"by {n} {cost[n] - cost['off']:+,.0f} ns" for n in ("nftables", "tc"))
        parts.append(f"{'sent' if way == '-R' else way}, {cost['off']:,.0f} ns without limits, {more}")
    return "; ".join(parts)


def results() -> tuple[str, list[list[str]]]:
    """A text and a table for bench/RESULTS.md."""
    with namespaces("rk-users-bench", offloads=True) as (client, host):
        done = subprocess.run(
            [*host, sys.executable, "-m", "bench.users", "inner", *client],
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    rows = [
        [
            "users",
            "reading all: nftables",
            "the same by nft -j",
            "reading all: eBPF",
            "a packet: nothing counts",
            "nftables",
            "eBPF",
        ]
    ]
    found = json.loads(done.stdout.splitlines()[-1])
    for row in found["rows"]:
        read, cost = row["read"], row["cost"]
        off = cost["off"]
        rows.append(
            [
                f"{row['users']:,}",
                f"{read['nftables']:.1f} ms",
                f"{read['nft -j']:.0f} ms",
                f"{read['ebpf']:.1f} ms",
                f"{off:,.0f} ns",
                *(f"{cost[n] - off:+,.0f} ns" for n in ("nftables", "ebpf")),
            ]
        )
    return (
        (
            "Counters of each address on an interface, between two namespaces. A packet: a datagram of 64"
            " bytes by iperf3, the whole machine's CPU for it (sender and receiver included), the median of"
            f" {ROUNDS} rounds. At a reading every 10 s, 10 ms are 0.1 % of a core.\n\nA packet of a user who"
            f" is not limited, while another is: {shown(found['limits'])}.\n\n"
        ),
        rows,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["inner"]:
        inner(sys.argv[2:])
    else:
        text, found = results()
        print(text + "\n".join(" | ".join(row) for row in found))
