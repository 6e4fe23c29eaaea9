"""Who used the interface: real traffic between two namespaces, each source of counters against what
was sent.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ci.servers import free_port, namespaces
from replaykit.ledger.history import totals
from replaykit.ledger.selection import Selection
from replaykit.ledger.store import Ledger
from replaykit.vantages.netfilter.watch import NOBODY, REST
from tests.conftest import needs
from tests.target import until

HOST = "10.77.0.2"
USERS = """users:
  - { code: alice, name: Alice, addresses: [10.77.0.11, "fd77::11"], marks: [0x11] }
  - { code: bob, addresses: [10.77.0.12, "fd77::12"], marks: 0x12 }
"""
SOURCES = ("nftables", "ebpf", "iptables-legacy", "iptables-nft")


class Net:
    """Users in one namespace, the host that they use in another.

    run: a command there, as `replaykit` or any.
    """

    def __init__(self, users: list[str], host: list[str], root: Path) -> None:
        self.users, self.host, self.root, self.interface = users, host, root, "veth0"
        (root / "users.yaml").write_text(USERS)

    def sh(self, *command: str, check: bool = True) -> str:
        done = subprocess.run([*self.host, *command], capture_output=True, text=True, check=False, timeout=60)
        assert not check or not done.returncode, done.stderr
        return done.stdout

    def replaykit(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.host, sys.executable, "-m", "replaykit", "users", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def ping(self, address: str, count: int, size: int = 56, all_answered: bool = True) -> None:
        to = "fd77::2" if ":" in address else HOST
        command = [
            "ping",
            "-q",
            "-c",
            str(count),
            "-i",
            "0.01",
            "-W",
            "1",
            "-s",
            str(size),
            "-I",
            address,
            to,
        ]
        done = subprocess.run(
            [*self.users, *command], capture_output=True, text=True, check=False, timeout=60
        )
        assert not all_answered or f"{count} received" in done.stdout, done.stdout + done.stderr

    def iperf(self, address: str, size: str, *more: str) -> tuple[int, int]:
        """Bytes of the data connection: what the client sent, what came."""
        port = free_port()
        server = subprocess.Popen(
            [*self.host, "iperf3", "-s", "-1", "-p", str(port)], stdout=subprocess.DEVNULL
        )
        try:
            time.sleep(0.4)
            command = ["iperf3", "-c", HOST, "-B", address, "-p", str(port), "-n", size, "-J", *more]
            done = subprocess.run(
                [*self.users, *command], capture_output=True, text=True, check=False, timeout=60
            )
            end = json.loads(done.stdout)["end"]
            return end["sum_sent"]["bytes"], end["sum_received"]["bytes"]
        finally:
            server.kill()
            server.wait(10)

    def rate(self, address: str, *more: str) -> float:
        """Bytes a second that come through within two seconds."""
        port, to = free_port(), "fd77::2" if ":" in address else HOST
        with subprocess.Popen([*self.host, "iperf3", "-s", "-1", "-p", str(port)], stdout=subprocess.DEVNULL):
            time.sleep(0.4)
            command = ["iperf3", "-c", to, "-B", address, "-p", str(port), "-t", "2", "-J", *more]
            done = subprocess.run(
                [*self.users, *command], capture_output=True, text=True, check=False, timeout=60
            )
        return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 8

    @contextmanager
    def watching(self, source: str, *more: str) -> Iterator[subprocess.Popen[bytes]]:
        """The command in the host's namespace, until it has read once."""
        if source == "ebpf":
            needs("clang")  # which compiled it
        command = [
            *self.host, sys.executable, "-m", "replaykit", "users", "--interface", self.interface, "--users",
            str(self.root / "users.yaml"), "--ledger", str(self.root / "usage.db"), "--time-zone", "UTC",
            "--every", "300ms", "--source", source, *more,
        ]  # fmt: skip
        with (self.root / "users.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            until(lambda: "reads" in self.log, 20, self.log)
            time.sleep(0.5)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)
            assert process.returncode in (0, -signal.SIGKILL), self.log

    @property
    def log(self) -> str:
        return (self.root / "users.log").read_text()

    def used(self, kind: str = "user") -> dict[str, tuple[int, int, int, int]]:
        """From the ledger: rx and tx bytes, rx and tx packets."""
        ledger = Ledger(f"sqlite:///{self.root / 'usage.db'}")
        rows = totals(ledger, 0, int(time.time()) + 60, Selection("netfilter", kind)).sums
        ledger.close()
        return {r.subject: (r.rx_bytes, r.tx_bytes, r.rx_packets, r.tx_packets) for r in rows}


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    needs("nft", "ip", "ping", "iperf3", "iptables-legacy", "iptables-nft", "ethtool")
    with namespaces("rk-users", offloads=True) as (users, host):
        for n in (11, 12, 13):
            subprocess.run([*users, "ip", "addr", "add", f"10.77.0.{n}/24", "dev", "veth0"], check=True)
        for prefix, address in ((users, "fd77::11/64"), (users, "fd77::12/64"), (host, "fd77::2/64")):
            subprocess.run([*prefix, "ip", "addr", "add", address, "dev", "veth0", "nodad"], check=True)
        yield Net(users, host, tmp_path)


def prepared(net: Net, source: str) -> str:
    """Makes what the source reads; its name on the command line."""
    if source == "nftables":
        done = net.replaykit("--interface", net.interface, "--install")
        assert done.returncode == 0 and "counts each address" in done.stderr, done.stderr
    if source.startswith("iptables"):
        for mark, address in ((0x11, "10.77.0.11"), (0x12, "10.77.0.12")):
            for chain, side in (("PREROUTING", "-s"), ("POSTROUTING", "-d")):
                net.sh(
                    source, "-t", "mangle", "-A", chain, side, address, "-j", "MARK", "--set-mark", hex(mark)
                )
    return source.partition("-")[0]


@pytest.mark.parametrize("source", SOURCES)
def test_each_source_counts_what_was_sent(net: Net, source: str) -> None:
    """Pings to the packet and the byte; a transfer to within the headers."""
    name = prepared(net, source)
    with net.watching(name):
        net.ping("10.77.0.11", 20)
        net.ping("10.77.0.12", 7, 1000)
        if source in ("nftables", "ebpf"):
            net.ping("fd77::11", 5)
            net.ping("10.77.0.13", 3)  # nobody's: it appears as itself
    used = net.used()
    alice = [20 * 84, 20 * 84, 20, 20]
    if source in ("nftables", "ebpf"):
        # IPv6 has neighbours to discover too, from the same address.
        rx, tx, rx_packets, tx_packets = (a - b for a, b in zip(used["alice"], alice, strict=True))
        assert (
            5 <= rx_packets <= 9
            and 5 * 104 <= rx <= 5 * 104 + 4 * 72
            and rx >= tx - 4 * 72
            and tx_packets >= 5
        )
        assert used["10.77.0.13"] == (3 * 84, 3 * 84, 3, 3)
    else:
        assert used["alice"] == tuple(alice)
    assert used["bob"] == (7 * 1028, 7 * 1028, 7, 7)
    hosts = net.used("host")
    assert hosts["10.77.0.12"] == used["bob"]
    with net.watching(name):
        there = net.iperf("10.77.0.12", "20M")
        back = net.iperf("10.77.0.12", "10M", "-R")
    grown = [a - b for a, b in zip(net.used()["bob"], used["bob"], strict=True)]
    # At the end of a run iperf3 closes on what is still on its way.
    for (sent, received), size, packets in ((there, grown[0], grown[2]), (back, grown[1], grown[3])):
        assert received < size < sent + packets * 60 + sent * 60 // 1400 + 20_000


@pytest.mark.parametrize("source", ["nftables", "ebpf"])
def test_users_add_up_to_the_interface(net: Net, source: str) -> None:
    """Packets of IP at least: ARP is the interface's alone. And the bytes, less the links' headers."""
    name = prepared(net, source)
    with net.watching(name):
        for address in ("10.77.0.11", "10.77.0.12", "10.77.0.13"):
            net.ping(address, 50, 500)
    users, (rx, tx, rx_packets, tx_packets) = net.used().values(), net.used("interface")["veth0"]
    sums = [sum(u[n] for u in users) for n in range(4)]
    # What passes between the first readings of the two, such as a neighbour's discovery, is in one of them
    # only.
    assert abs(rx_packets - sums[2]) < 20 and abs(tx_packets - sums[3]) < 20
    assert abs(rx - sums[0] - 14 * sums[2]) < 20 * 100 and abs(tx - sums[1] - 14 * sums[3]) < 20 * 100
    assert sums[2] >= 150


@pytest.mark.parametrize("source", ["nftables", "ebpf"])
def test_users_and_the_rest_are_the_interface(net: Net, source: str) -> None:
    """To the packet and the byte, in each direction: headers of the link, ARP, and segments that the kernel
    joins are the rest.
    """
    name = prepared(net, source)

    def sums() -> tuple[list[int], list[int], tuple[int, ...]]:
        users, rest = net.used().values(), net.used("remainder").get(REST, (0, 0, 0, 0))
        return [sum(u[n] for u in users) for n in range(4)], list(rest), net.used("interface")["veth0"]

    with net.watching(name):
        time.sleep(1)
        for address in ("10.77.0.11", "10.77.0.12", "10.77.0.13", "fd77::11"):
            net.ping(address, 30, 500)
        net.ping("10.77.0.11", 4, 4000)  # in pieces
        net.sh(
            "ping", "-q", "-c", "2", "-W", "1", "-I", "veth0", "224.0.0.251", check=False
        )  # nobody's address
        net.sh("ip", "neigh", "flush", "dev", "veth0")  # who is who is asked again, by ARP
        net.ping("10.77.0.12", 3)
    users, rest, interface = sums()
    assert [u + r for u, r in zip(users, rest, strict=True)] == list(interface)
    assert NOBODY in net.used()
    # A link's header is 14 bytes a packet; ARP is among the rest alone, as whole packets.
    assert users[2] >= 127 and rest[0] >= 14 * users[2] and rest[1] >= 14 * users[3]
    assert 1 <= rest[2] < 20 and rest[0] - 14 * users[2] < 64 * rest[2] + 1
    # What moves while nobody reads is made up for, where the kernel went on counting; a transfer under way
    # makes it no larger.
    net.ping("10.77.0.11", 20, 300)
    with net.watching(name):
        net.iperf("10.77.0.12", "30M")
        net.iperf("10.77.0.11", "10M", "-R")
        time.sleep(1)
    users, rest, interface = sums()
    assert [u + r for u, r in zip(users, rest, strict=True)] == list(interface)
    assert rest[0] < interface[0] * 0.02


def test_a_table_of_other_interfaces_has_no_rest(net: Net) -> None:
    """What it counts is not this interface's alone."""
    done = net.replaykit("--interface", "veth0", "--interface", "lo", "--install")
    assert done.returncode == 0, done.stderr
    with net.watching("nftables"):
        net.ping("10.77.0.11", 3)
    assert net.used()["alice"][2] == 3 and net.used("remainder") == {}


@pytest.mark.parametrize("source", ["iptables", "tc"])
def test_rules_of_one_interface_have_a_rest(net: Net, source: str) -> None:
    """What an administrator's own rules or filters do not count is named, so that all adds up to the
    interface.
    """
    if source == "iptables":
        for chain, side, way in (("PREROUTING", "-s", "-i"), ("POSTROUTING", "-d", "-o")):
            rule = ("-A", chain, way, "veth0", side, "10.77.0.11", "-j", "MARK", "--set-mark", "0x11")
            net.sh("iptables-legacy", "-t", "mangle", *rule)
    else:
        net.sh("ip", "link", "add", "ifb9", "type", "ifb")
        net.sh("ip", "link", "set", "ifb9", "up")
        net.sh("tc", "qdisc", "add", "dev", "veth0", "clsact")
        one = (
            "tc filter add dev veth0 {} protocol ip u32 match ip {} 10.77.0.11/32 action mirred egress mirror"
            " dev ifb9"
        )
        net.sh(*one.format("ingress", "src").split())
        net.sh(*one.format("egress", "dst").split())
    with net.watching(source):
        time.sleep(1)
        net.ping("10.77.0.11", 30, 500)
        net.ping("10.77.0.12", 20)
    users, rest, interface = net.used()["alice"], net.used("remainder")[REST], net.used("interface")["veth0"]
    assert users[2] >= 30 and rest[2] >= 20
    assert [u + r for u, r in zip(users, rest, strict=True)] == list(interface)


def test_filters_that_overlap_are_named(net: Net) -> None:
    """One that goes on, and one in another place; none where a packet is seen once."""
    net.sh("ip", "link", "add", "ifb9", "type", "ifb")
    net.sh("ip", "link", "set", "ifb9", "up")
    passing = "action mirred egress mirror dev ifb9"
    going_on = f"{passing} continue"
    net.sh("tc", "qdisc", "add", "dev", "veth0", "root", "handle", "1:", "htb")
    net.sh("tc", "qdisc", "add", "dev", "veth0", "clsact")
    net.sh("tc", "class", "add", "dev", "veth0", "parent", "1:", "classid", "1:10", "htb", "rate", "1gbit")
    one = "tc filter add dev veth0 {} protocol ip prio {} u32 match ip {} {}/32 {}"
    net.sh(*one.format("ingress", 1, "src", "10.77.0.11", passing).split())
    net.sh(*one.format("ingress", 2, "src", "10.77.0.11", passing).split())  # never reached
    net.sh(*one.format("ingress", 3, "src", "10.77.0.12", passing).split())
    net.sh(*one.format("parent 1:", 1, "dst", "10.77.0.12", "classid 1:10").split())
    check = ("--check", "--source", "tc", "--interface", "veth0")
    done = net.replaykit(*check)
    assert done.returncode == 0 and "no packet is counted twice" in done.stdout, done.stdout + done.stderr
    net.sh(*one.format("ingress", 4, "src", "10.77.0.13", going_on).split())
    net.sh(*one.format("ingress", 5, "src", "10.77.0.13", passing).split())
    net.sh(*one.format("egress", 1, "dst", "10.77.0.12", passing).split())
    done = net.replaykit(*check)
    lines = done.stdout.splitlines()
    assert done.returncode == 1 and len(lines) == 2, done.stdout
    assert any("ingress pref 4" in line and "ingress pref 5" in line for line in lines)
    assert any(
        "egress pref 1" in line and "parent 1: pref 1" in line and "10.77.0.12" in line for line in lines
    )
    # It is so: both count the same pings, and the program says so when it starts.
    with net.watching("tc"):
        net.ping("10.77.0.13", 5)
    assert net.log.count("may be counted twice") == 2
    assert net.used()["10.77.0.13"][2] == 10


def test_totals_never_go_back(net: Net) -> None:
    """The table is made anew, rules are deleted and zeroed, the program is killed: what was moved stays
    moved.
    """
    prepared(net, "nftables")
    with net.watching("nftables"):
        net.ping("10.77.0.12", 10)
        time.sleep(0.7)
        assert net.replaykit("--remove").returncode == 0
        assert net.replaykit("--interface", "veth0", "--install").returncode == 0
        net.ping("10.77.0.12", 4)
        time.sleep(0.7)
    assert net.used()["bob"][2:] == (14, 14)
    for mark in ("0x12", "0x12"):  # twice the same mark
        net.sh(
            "iptables-legacy",
            "-t",
            "mangle",
            "-A",
            "PREROUTING",
            "-s",
            "10.77.0.12",
            "-j",
            "MARK",
            "--set-mark",
            mark,
            "-m",
            "comment",
            "--comment",
            f"n{mark}",
        )
    net.sh(
        "iptables-legacy",
        "-t",
        "mangle",
        "-I",
        "PREROUTING",
        "-s",
        "10.77.0.12",
        "-j",
        "MARK",
        "--set-mark",
        "0x12",
    )
    with net.watching("iptables"):
        net.ping("10.77.0.12", 5)
        time.sleep(0.7)
        net.sh("iptables-legacy", "-t", "mangle", "-D", "PREROUTING", "1")  # one of three rules goes
        time.sleep(0.7)
        net.ping("10.77.0.12", 5)
        time.sleep(0.7)
        net.sh("iptables-legacy", "-t", "mangle", "-Z")
        net.ping("10.77.0.12", 2)
        time.sleep(0.7)
    # However many rules mark the same packets, each counts once, and nothing is lost where one of them goes.
    assert net.used()["bob"][2] == 14 + 5 + 5 + 2


def test_killed_amid_it(net: Net) -> None:
    """The table counts on, and the next run takes over what was moved meanwhile."""
    prepared(net, "nftables")
    with net.watching("nftables") as process:
        net.ping("10.77.0.12", 10)
        time.sleep(0.7)
        process.kill()
        process.wait(10)
    net.ping("10.77.0.12", 10)
    port = free_port()
    with net.watching("nftables", "--prometheus", f"127.0.0.1:{port}"):
        net.ping("10.77.0.12", 10)
        wanted = 'net_user_rx_packets{user_code="bob",user_intra_ip="10.77.0.12"} 30.0'
        until(lambda: wanted in net.sh("curl", "-s", f"http://127.0.0.1:{port}/metrics"), 10)
    with net.watching("nftables"):
        pass
    assert (
        20 <= net.used()["bob"][2] <= 30
    )  # what was there before the first reading of a ledger that is new is not counted


def test_a_real_prometheus_and_the_dashboard(net: Net) -> None:
    """Names, labels and query, and the variable User, as the dashboard asks them."""
    needs("prometheus")
    prepared(net, "nftables")
    root = net.root / "prometheus"
    root.mkdir()
    port, prometheus = free_port(), free_port()
    (root / "prometheus.yml").write_text(
        "global: { scrape_interval: 1s }\nscrape_configs: [{ job_name: users, static_configs: [{"
        f" targets: ['127.0.0.1:{port}'] }}] }}]\n"
    )
    command = [
        "prometheus", f"--config.file={root}/prometheus.yml", f"--storage.tsdb.path={root}/data",
        f"--web.listen-address=127.0.0.1:{prometheus}",
    ]  # fmt: skip
    with net.watching("nftables", "--prometheus", f"127.0.0.1:{port}"):
        server = subprocess.Popen([*net.host, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:

            def ask(path: str) -> list[dict[str, object]]:
                text = net.sh("curl", "-s", f"http://127.0.0.1:{prometheus}/api/v1/{path}")
                found = json.loads(text or "{}").get("data", [])
                return found["result"] if isinstance(found, dict) else found

            for n in range(6):
                net.ping("10.77.0.11", 20)
                net.ping("10.77.0.12", 5 if n else 1)
                time.sleep(1)
            query = urllib.parse.quote('net_user_rx_packets{user_code="alice"}')
            until(lambda: any(float(r["value"][1]) == 120 for r in ask(f"query?query={query}")), 20)  # type: ignore[index]
            dashboard = json.loads((Path(__file__).parents[3] / "kibana" / "grafana-users.json").read_text())
            (user,) = [v for v in dashboard["templating"]["list"] if v["name"] == "user"]
            name = re.fullmatch(r"label_values\((\w+), (\w+)\)", user["query"])
            assert name is not None and set(ask(f"label/{name[2]}/values?match[]={name[1]}")) >= {
                "alice",
                "bob",
            }
            asked = 0
            for panel in dashboard["panels"]:
                for target in panel.get("targets", ()):
                    expr = (
                        target["expr"]
                        .replace("$user", "alice")
                        .replace("$__rate_interval", "30s")
                        .replace("$iface", "veth0")
                    )
                    rows = ask("query?query=" + urllib.parse.quote(expr))
                    assert rows and all(float(r["value"][1]) >= 0 for r in rows), (expr, rows)  # type: ignore[index]
                    asked += 1
            assert asked >= 6
        finally:
            server.terminate()
            server.wait(20)


RULES = (
    "interval: 0.3s\nrules:\n  - { name: much, kind: user, subjects: [alice], period: month, limit: 100kB,"
    " actions: [block] }\n  - { name: some, kind: user, subjects: [bob], period: month, limit: 100kB,"
    " actions: [rate_limit: 1MB/s] }\n"
)


@pytest.mark.parametrize("by", ["tc", "nftables"])
def test_limits(net: Net, by: str) -> None:
    """A user who used too much is blocked, another slowed down; the rest go on; at the end all is as
    it was.
    """
    prepared(net, "nftables")
    before = net.sh("tc", "qdisc", "show"), net.sh("nft", "list", "tables"), net.sh("ip", "link", "show")
    rules = net.root / "rules.yaml"
    rules.write_text(RULES)
    with net.watching("nftables", "--rules", str(rules), *(["--limit-by", by] if by == "nftables" else [])):
        net.ping("10.77.0.11", 100, 1000, all_answered=False)
        net.ping("10.77.0.12", 100, 1000)
        begun = time.monotonic()
        until(lambda: "rate_limit" in net.log and "block" in net.log, 20, net.log)
        assert time.monotonic() - begun < 10  # not only when the next minute is written
        done = subprocess.run(
            [*net.users, "ping", "-c", "2", "-W", "1", "-I", "10.77.0.11", HOST],
            capture_output=True,
            text=True,
            check=False,
        )
        assert "0 received" in done.stdout
        net.ping("10.77.0.13", 3)
        for way in ((), ("-R",)):
            assert 100_000 < net.rate("10.77.0.12", *way) < (1_400_000 if by == "tc" else 2_000_000)
            assert net.rate("10.77.0.13", *way, "-t", "1") > 30_000_000
        if by == "tc":
            # Delayed, not dropped: the rate is met closely, and a hand that takes the limit away is noticed.
            assert net.rate("10.77.0.12") > 800_000
            assert 800_000 < net.rate("fd77::12") < 1_400_000
            net.sh("tc", "qdisc", "delete", "dev", "veth0", "root")
            until(lambda: "was changed by somebody" in net.log, 20, net.log)
            assert net.rate("10.77.0.12", "-R") < 1_400_000
        # Who is blocked goes out of the map meanwhile, and is let in again all the same.
        (net.root / "users.yaml").write_text(USERS.replace("10.77.0.11", "10.77.0.99"))
        rules.write_text(rules.read_text().replace("100kB", "100GB"))
        until(lambda: net.log.count("undone") == 2, 20, net.log)
        net.ping("10.77.0.11", 3)
        assert net.rate("10.77.0.12", "-t", "1") > 30_000_000
    assert net.sh("tc", "qdisc", "show") == before[0] and net.sh("ip", "link", "show") == before[2]
    assert net.replaykit("--remove").returncode == 0
    assert "replaykit" not in net.sh("nft", "list", "ruleset")


def test_limits_are_left_by_a_kill_and_taken_up_again(net: Net) -> None:
    """The rate holds while nobody watches, and --remove takes all of it away."""
    prepared(net, "nftables")
    before = net.sh("tc", "qdisc", "show"), net.sh("ip", "link", "show")
    rules = net.root / "rules.yaml"
    rules.write_text(RULES)
    with net.watching("nftables", "--rules", str(rules)) as process:
        net.ping("10.77.0.12", 100, 1000)
        until(lambda: "rate_limit" in net.log, 20, net.log)
        process.kill()
        process.wait(10)
    assert net.rate("10.77.0.12", "-t", "1") < 3_000_000
    with net.watching("nftables", "--rules", str(rules)):
        time.sleep(1)
        assert "somebody" not in net.log and "rate_limit" not in net.log  # it holds: nothing to do
    assert net.replaykit("--remove").returncode == 0
    assert before == (net.sh("tc", "qdisc", "show"), net.sh("ip", "link", "show"))


PUMP = """
import ctypes, fcntl, os, struct, sys, threading
def tun(namespace):
    entered = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    assert ctypes.CDLL(None).setns(entered, 0x40000000) == 0
    made = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(made, 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))
    return made
def pump(one, other):
    while True:
        os.write(other, os.read(one, 65535))
one, other = map(tun, sys.argv[1:])
print("made", flush=True)
sys.stdin.readline()
threading.Thread(target=pump, args=(one, other), daemon=True).start()
pump(other, one)
"""


@contextmanager
def tunnelled(net: Net) -> Iterator[None]:
    """In place of the pair, interfaces without link headers, as WireGuard's are."""
    names = [net.users[-1], net.host[-1]]
    pump = subprocess.Popen(
        [sys.executable, "-c", PUMP, *names], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert pump.stdout is not None and pump.stdin is not None and pump.stdout.readline() == "made\n"
        for prefix, addresses in ((net.users, ("1", "11", "12", "13")), (net.host, ("2",))):
            for command in (
                "addr flush dev veth0",
                *(f"addr add 10.77.0.{n}/24 dev tun0" for n in addresses),
                "link set tun0 up",
            ):
                subprocess.run([*prefix, "ip", *command.split()], check=True)
        print("go", file=pump.stdin, flush=True)
        net.interface = "tun0"
        yield
    finally:
        pump.kill()
        pump.wait(10)


@pytest.mark.parametrize("source", ["nftables", "ebpf"])
def test_an_interface_without_link_headers(net: Net, source: str) -> None:
    """WireGuard, as wg0: counted to the byte, and limited in both directions."""
    rules = net.root / "rules.yaml"
    rules.write_text(RULES)
    with tunnelled(net):
        prepared(net, source)
        with net.watching(source, "--rules", str(rules)):
            net.ping("10.77.0.11", 20)
            net.ping("10.77.0.12", 7, 1000)
            net.ping("10.77.0.12", 100, 1000)
            until(lambda: "rate_limit" in net.log, 20, net.log)
            for way in ((), ("-R",)):
                assert 700_000 < net.rate("10.77.0.12", *way) < 1_300_000
        used = net.used()
        assert used["alice"] == (20 * 84, 20 * 84, 20, 20)
        assert used["bob"][0] > 107 * 1028


def test_a_qdisc_of_somebody_is_left_alone(net: Net) -> None:
    net.sh("tc", "qdisc", "add", "dev", "veth0", "root", "handle", "5:", "htb")
    prepared(net, "nftables")
    rules = net.root / "rules.yaml"
    rules.write_text(RULES)
    command = ("--interface", "veth0", "--ledger", str(net.root / "u.db"), "--rules", str(rules))
    forced = net.replaykit(*command, "--limit-by", "tc")
    assert forced.returncode == 2 and "veth0 has a qdisc already (htb 5:)" in forced.stderr, forced.stderr
    with net.watching("nftables", "--rules", str(rules)):
        assert "rates are limited by nftables: veth0 has a qdisc already" in net.log
        net.ping("10.77.0.12", 100, 1000)
        until(lambda: "rate_limit" in net.log, 20, net.log)
        assert net.rate("10.77.0.12") < 2_000_000
    assert "qdisc htb 5: root" in net.sh("tc", "qdisc", "show", "dev", "veth0")


def test_filters_and_classes_of_tc(net: Net) -> None:
    """What somebody's own tc counts, in both directions: a class by its filter, an action, and a class that
    two share.
    """
    net.sh("ip", "link", "add", "ifb9", "type", "ifb")
    net.sh("ip", "link", "set", "ifb9", "up")
    net.sh("tc", "qdisc", "add", "dev", "veth0", "root", "handle", "1:", "htb")
    net.sh("tc", "qdisc", "add", "dev", "veth0", "clsact")
    net.sh("tc", "class", "add", "dev", "veth0", "parent", "1:", "classid", "1:30", "htb", "rate", "1gbit")
    match = "u32 match ip6 {} fd77::11/128"
    net.sh(
        *f"tc filter add dev veth0 parent 1: protocol ipv6 prio 2 {match.format('dst')} classid 1:30".split()
    )
    for n, place in ((11, "1:10"), (12, "1:20"), (13, "1:20")):
        net.sh(*f"tc class replace dev veth0 parent 1: classid {place} htb rate 1gbit".split())
        match = f"u32 match ip {{}} 10.77.0.{n}/32"
        at = "tc filter add dev veth0 {} protocol ip prio 1 " + match
        net.sh(*f"{at.format('parent 1:', 'dst')} classid {place}".split())
        net.sh(*f"{at.format('ingress', 'src')} action mirred egress mirror dev ifb9".split())
    net.ping("10.77.0.11", 1)
    net.ping("fd77::11", 2)
    with net.watching("tc"):
        net.ping("10.77.0.11", 30, 500)
        net.ping("fd77::11", 4, 100)
        net.ping("10.77.0.12", 10)
        net.ping("10.77.0.13", 5)
        time.sleep(0.7)
    used = net.used()
    # What is sent has the link's head of 14 bytes here; what is received, not yet.
    rx, tx, rx_packets, tx_packets = used["alice"]
    assert (rx, rx_packets) == (30 * 528, 30)
    neighbours = tx_packets - 34  # IPv6 discovers them now and then
    assert 0 <= neighbours <= 3 and 0 <= tx - 30 * 542 - 4 * 162 <= 90 * neighbours
    assert used["bob"] == (10 * 84, 0, 10, 0)
    assert used["class:1:20"] == (0, 15 * 98, 0, 15)
    assert used["10.77.0.13"] == (5 * 84, 0, 5, 0)


def test_our_table_touches_nothing_else(net: Net) -> None:
    net.sh("nft", "add table ip theirs; add chain ip theirs c { type filter hook input priority 0; }")
    before = net.sh("nft", "list", "ruleset")
    prepared(net, "nftables")
    again = net.replaykit("--interface", "veth0", "--install")
    assert again.returncode == 0 and "already" in again.stderr
    listed = net.replaykit("--list")
    assert "update @rx6" in listed.stdout and "veth0" in listed.stdout
    once = net.replaykit("--interface", "veth0", "--once")
    assert once.stdout.startswith("user\taddress\trx_bytes")
    assert net.replaykit("--remove").returncode == 0
    assert net.sh("nft", "list", "ruleset") == before
    assert "was not there" in net.replaykit("--remove").stderr


def test_an_interface_that_is_not_there_is_said(net: Net) -> None:
    done = net.replaykit("--interface", "wg77", "--install")
    assert done.returncode == 0 and "wg77: there is no such interface now" in done.stderr, done.stderr
    net.replaykit("--remove")


def test_metrics_beyond_this_machine_want_the_token(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    """And on this machine they answer only to its own names."""
    port = free_port()
    with net.watching("ebpf", "--prometheus", f"127.0.0.1:{port}"):
        page = f"http://127.0.0.1:{port}/metrics"
        until(lambda: "net_user_rx_packets" in net.sh("curl", "-s", page), 10)
        assert "for this machine only" in net.sh("curl", "-s", "-H", "Host: evil.example", page)
    monkeypatch.setenv("REPLAYKIT_TOKEN", "a-long-secret")
    with net.watching("ebpf", "--prometheus", f"0.0.0.0:{port}"):
        token = ("-H", "Authorization: Bearer a-long-secret")
        until(lambda: "net_user_rx_packets" in net.sh("curl", "-s", *token, page), 10)
        assert "give the token" in net.sh("curl", "-s", page)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name the interface"),
        (("--interface", "nowhere0"), "there is no such interface"),
        (("--interface", "lo", "--every", "1ms"), "at least 100ms"),
        (("--interface", "lo", "--source", "nftables"), "does not count on lo"),
        (("--interface", "lo", "--source", "iptables"), "no rule that sets a mark"),
        (("--interface", "lo", "--users", "nothing.yaml"), "cannot be read"),
        (("--list",), "not installed"),
        (("--install", "--remove"), "one of"),
        (("--interface", "lo", "--prometheus", "x"), "ADDRESS:PORT"),
        (("--interface", "lo", "--prometheus", "0.0.0.0:0"), "needs a token"),
    ],
)
def test_wrong_use(net: Net, arguments: tuple[str, ...], said: str) -> None:
    done = net.replaykit("--ledger", str(net.root / "u.db"), *arguments)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_a_port_that_is_taken(net: Net) -> None:
    needs("clang")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [
            sys.executable, "-m", "replaykit", "users", "--interface", "lo", "--source", "ebpf", "--ledger",
            str(net.root / "u.db"), "--prometheus", f"127.0.0.1:{taken.getsockname()[1]}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2 and "in use" in done.stderr, done.stderr
