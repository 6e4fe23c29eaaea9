"""Marks that overlap: a packet counts once where the rules let that be known, and is named where they
do not.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from replaykit.errors import UsageError
from replaykit.vantages.netfilter.counters import Counters
from replaykit.vantages.netfilter.mark_rules import parse
from replaykit.vantages.netfilter.overlaps import overlaps
from replaykit.vantages.netfilter.traffic_control import found_in, unclear
from replaykit.vantages.netfilter.watch import NOBODY, nobodys
from tests.vantages.netfilter.test_users import Net, net

assert net  # a fixture
CHAIN = "*mangle\n:PREROUTING ACCEPT [0:0]\n"


def saved(*rules: str) -> str:
    return CHAIN + "".join(f"[1:100] -A PREROUTING {r}\n" for r in rules) + "COMMIT\n"


def of(*rules: str) -> Any:
    return overlaps(parse(saved(*rules)))


MARK = "-j MARK --set-xmark {}/0xffffffff"


def test_which_rules_meet() -> None:
    network, host, part = "-s 10.0.0.0/24", "-s 10.0.0.2/32", "-s 10.0.0.2/32 -d 192.0.2.1/32"
    found = of(*(f"{m} {MARK.format(n)}" for n, m in enumerate((network, host, part, "-s 10.0.1.2/32"))))
    assert found.parts == {0: (1,), 1: (2,)} and found.unclear == ()  # a part of a part is taken off once
    found = of(*(f"{host} {MARK.format(n)}" for n in (1, 2)))
    assert found.parts == {0: (1,)}  # of two that match the same the later sets the mark
    found = of(f"{host} -p tcp {MARK.format(1)}", f"{host} -d 192.0.2.1/32 {MARK.format(2)}")
    assert found.parts == {} and len(found.unclear) == 1 and "-p tcp" in found.unclear[0]
    assert of(f"{host} -p tcp {MARK.format(1)}", f"{host} -p udp {MARK.format(2)}").unclear == ()
    # A chain in which a packet may end is not known to show it all of its rules.
    found = of(f"{network} {MARK.format(1)}", "-j RETURN", f"{host} {MARK.format(2)}")
    assert found.parts == {} and len(found.unclear) == 1
    assert of(f"-s 10.0.0.0/255.0.255.0 {MARK.format(1)}", f"{host} {MARK.format(2)}").unclear


def test_many_rules_are_quick() -> None:
    text = [f"-s 10.{n >> 8 & 255}.{n & 255}.7/32 {MARK.format(n + 1)}" for n in range(10_000)]
    rules, begun = parse(saved(*text, f"-s 10.0.0.0/8 {MARK.format(0xFFFFF)}")), time.monotonic()
    assert len(overlaps(rules).parts[10_000]) == 10_000
    assert time.monotonic() - begun < 20


def test_pings_count_once(net: Net) -> None:
    net.sh("iptables-legacy", "-t", "mangle", "-F")
    one = ("iptables-legacy", "-t", "mangle", "-A", "PREROUTING", "-i", net.interface, "-s")
    net.sh(*one, "10.77.0.0/24", "-j", "MARK", "--set-mark", "0x1")
    net.sh(*one, "10.77.0.11", "-j", "MARK", "--set-mark", "0x2")
    (net.root / "both.yaml").write_text("users: [{code: alice, marks: [1, 2]}]\n")
    check = net.replaykit("--check")
    assert check.returncode == 0 and "no packet is counted twice" in check.stdout, check.stderr
    net.ping("10.77.0.11", 4)
    done = net.replaykit(
        "--interface", net.interface, "--source", "iptables", "--once", "--users", str(net.root / "both.yaml")
    )
    assert sum(int(line.split("\t")[4]) for line in done.stdout.splitlines()[1:]) == 4, done.stdout
    net.sh(*one, "10.77.0.11", "-p", "icmp", "-j", "MARK", "--set-mark", "0x3")
    net.sh(*one, "10.77.0.11", "-d", "10.77.0.1", "-j", "MARK", "--set-mark", "0x4")
    check = net.replaykit("--check")
    assert check.returncode == 1 and "both count the same packets" in check.stdout
    done = net.replaykit("--interface", net.interface, "--source", "iptables", "--once")
    assert "may be counted twice" in done.stderr
    net.sh("iptables-legacy", "-t", "mangle", "-F")


def test_who_is_no_user() -> None:
    for key in ("::", "0.0.0.0", "ff02::1", "224.0.0.251", "fe80::1", "169.254.1.1", "255.255.255.255"):
        assert nobodys(key), key
    for key in ("10.0.0.1", "2001:db8::1", "fd00::2", "mark:0x10", "127.0.0.1"):
        assert not nobodys(key), key


def test_what_is_no_users_is_one(tmp_path: Path) -> None:
    from replaykit.ledger.store import Ledger
    from replaykit.vantages.netfilter.users import UserMap
    from replaykit.vantages.netfilter.watch import Watch

    class Source:
        name, exact = "nftables", True

        def read(self) -> Any:
            moved = Counters(100, 0, 1, 0)
            return "epoch", dict.fromkeys(("10.0.0.2", "::", "ff02::1", "fe80::7"), moved)

        def close(self) -> None:
            """Nothing is held."""

    ledger = Ledger(f"sqlite:///{tmp_path / 'u.db'}")
    (tmp_path / "u.yaml").write_text("users: {linked: 'fe80::7'}\n")
    watch = Watch(ledger, Source(), [], UserMap(str(tmp_path / "u.yaml")), True)
    watch.step(1_795_000_000)
    assert {p: c.rx_packets for p, c in watch.places.items()} == {
        ("10.0.0.2", "10.0.0.2"): 1,
        (NOBODY, NOBODY): 2,
        ("linked", "fe80::7"): 1,
    }
    ledger.close()


def test_filters_by_mark_and_by_address() -> None:
    """As tc prints them; whether they meet cannot be known, and one of each place is named."""

    def marks(control: str) -> dict[str, Any]:
        stats = {"bytes": 1, "packets": 1}
        action = {"kind": "gact", "control_action": {"type": control}, "stats": stats}
        return {"protocol": "ip", "pref": 9, "kind": "fw", "options": {"handle": "0x11", "actions": [action]}}

    def address(number: int, **more: Any) -> dict[str, Any]:
        keys = {"eth_type": "ipv4", "dst_ip": f"10.0.0.{number}"}
        return {
            "protocol": "ip",
            "pref": number,
            "kind": "flower",
            "options": {"handle": 1, "keys": keys, **more},
        }

    def said(here: list[dict[str, Any]], there: list[dict[str, Any]], received: bool = False) -> list[str]:
        found = [
            *found_in(json.dumps(here), "egress", received),
            *found_in(json.dumps(there), "parent 1:", False),
        ]
        return unclear(found)

    many = [address(n) for n in range(1, 200)]
    (line,) = said([marks("pass")], many)
    assert line == "egress pref 9 fw mark:0x11 | parent 1: pref 1 flower 10.0.0.1"
    assert said([marks("drop")], []) == said([*many, marks("pass")], []) == []
    assert len(said([marks("continue"), *many], [])) == 1
    assert said([marks("pass")], many, received=True) == []
    # What is redirected in one place is seen in no other.
    redirect = {"kind": "mirred", "mirred_action": "redirect", "control_action": {"type": "stolen"}}
    taken = [address(7, actions=[redirect])]
    (line,) = said(taken, [address(7)])  # the other may come first, and let it go on
    assert said(taken, [address(7, actions=[redirect])]) == [] and "10.0.0.7" in line


def test_nothing_to_count_is_said() -> None:
    from replaykit.vantages.netfilter.traffic_control import FilterSource

    with pytest.raises(UsageError, match="there is nothing to count"):
        FilterSource("lo")
