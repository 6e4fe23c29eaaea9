"""A month of rules over users on a simulated clock, with the kernel's own sets and limits in a namespace of
their own.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

import pytest

from replaykit.ledger.done import log
from replaykit.ledger.history import history
from replaykit.ledger.selection import Selection, Subject
from replaykit.ledger.store import Ledger
from replaykit.rules.enforcement import Guard
from replaykit.rules.limits import parse_rules
from replaykit.vantages.netfilter import control
from replaykit.vantages.netfilter.control import UserControl
from replaykit.vantages.netfilter.counters import Counters
from replaykit.vantages.netfilter.owned import Table, owner_of
from replaykit.vantages.netfilter.programs import run
from replaykit.vantages.netfilter.users import UserMap
from replaykit.vantages.netfilter.watch import Watch
from tests.conftest import needs
from tests.simulated import ZONE, Month

_CLONE_NEWNET = 0x40000000
RULES = """rules:
  - {name: hourly, kind: user, subjects: [alice], period: hour, limit: 1GB, actions: [rate_limit: 1MB/s]}
  - {name: daily, kind: user, subjects: [bob], period: day, limit: 8GB, actions: [block]}
  - {name: monthly, kind: user, subjects: [carol], period: month, limit: 120GB, direction: rx, actions: [rate_limit: 64kB]}
"""  # noqa: E501
USERS = "users:\n" + "".join(
    f"  - {{code: {n}, addresses: [10.0.0.{i}, 'fd00::{i}']}}\n"
    for i, n in enumerate(("alice", "bob", "carol"), 1)
)


class Kernel:
    """Counters that move with the simulated clock; exact, as those of our own table."""

    name, exact = "nftables", True

    def __init__(self) -> None:
        self.epoch, self.stands = 0, dict.fromkeys((f"10.0.0.{n}" for n in (1, 2, 3)), Counters())

    def move(self, address: str, size: int) -> None:
        self.stands[address] = self.stands[address].plus(Counters(size, 0, size // 1000, 0))

    def restart(self) -> None:
        self.epoch += 1
        self.stands = dict.fromkeys(self.stands, Counters())

    def read(self) -> tuple[str, Mapping[str, Counters]]:
        return str(self.epoch), dict(self.stands)

    def close(self) -> None:
        pass


def apart(work: Callable[[], None]) -> None:
    """In a network namespace that ends with the thread."""
    failed: list[BaseException] = []

    def inside() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@pytest.mark.timeout(280)
def test_a_month_of_rules_over_reboots_restarts_and_daylight_saving(tmp_path: Path) -> None:
    needs("nft", "tc")
    apart(lambda: _month(tmp_path))


def _month(root: Path) -> None:
    run("ip", "link", "add", "users0", "type", "veth", "peer", "name", "users1")
    (root / "users.yaml").write_text(USERS)
    ledger, users, kernel = (
        Ledger(f"sqlite:///{root / 'usage.db'}", "Europe/Berlin"),
        UserMap(str(root / "users.yaml")),
        Kernel(),
    )
    rules, month = parse_rules(RULES), Month(1800)
    who = {"alice": ("hour", 1), "bob": ("day", 8), "carol": ("month", 120)}
    owners = {n: owner_of(Subject("netfilter", "user", n)) for n in who}

    def started() -> tuple[Watch, Guard]:
        by = UserControl(users, ["users0"])
        assert not by.refused
        return Watch(ledger, kernel, [], users), Guard(ledger, rules, {"netfilter": by})

    watch, guard = started()
    watch.step(month.begin)
    watch.flush()
    limited, before = dict.fromkeys(who, 0), dict.fromkeys(who, False)
    for step, at in month.steps():
        # From the 3rd to the 22nd every two hours, in which all move evenly, else every half hour.
        coarse = 3 <= month.day(at) <= 22
        if step % 97 == 5 and (not coarse or step % 4 == 1):
            kernel.restart()  # the host starts anew: counters and limits are gone
            control.remove()
        if step % 50 == 7:
            watch, guard = started()  # only the program does
        busy = (at - 1800) // 3600 % 7 == 0 and not coarse
        sizes = {
            "alice": 1_200_000_000 if busy else 10**8,
            "bob": 2 * 10**8 + month.day(at) % 4 * 10**7,
            "carol": 13 * 10**7,
        }
        for number, (name, size) in enumerate(sizes.items(), 1):
            kernel.move(f"10.0.0.{number}", size)
            month.moves(name, at, size)
        if coarse and step % 4:
            continue
        watch.step(at)
        watch.flush()
        guard.step(at)
        over = {n: month.used(n, period, at) > limit * 10**9 for n, (period, limit) in who.items()}
        if over != before or not step % 12:
            both, received = Table(), Table("netdev")
            found = {
                n: [len(t.of("classes", owners[n])) for t in (both, received)] for n in ("alice", "carol")
            }
            found["bob"] = [len(both.of("blocked", owners["bob"]))]
            at_ = datetime.fromtimestamp(at, ZONE)
            assert {n: set(f) for n, f in found.items()} == {n: {2 * o} for n, o in over.items()}, (
                at_,
                log(ledger)[-3:],
            )
        before = over
        for name in who:
            limited[name] += over[name]
    for name in who:
        hours = history(ledger, "hour", month.begin, month.end, Selection("netfilter", "user", (name,)))
        assert sum(r.rx_bytes for r in hours) == sum(month.hours(name)), name
    assert limited["alice"] > 30 and limited["bob"] > 100 and limited["carol"] > 100
    outcomes = {
        n: [e.outcome for e in log(ledger, most=10_000) if e.rule == n and "somebody" not in e.reason]
        for n in ("hourly", "daily", "monthly")
    }
    for name, found_ in outcomes.items():
        assert found_ == ["done", "undone"] * (len(found_) // 2) + ["done"] * (len(found_) % 2), name
    assert len(outcomes["hourly"]) > 60 and len(outcomes["monthly"]) == 2
    assert not Table("netdev").there and "htb" not in run(
        "tc", "qdisc", "show"
    )  # the month has turned: nothing is left
    ledger.close()


def test_a_user_and_their_address(tmp_path: Path) -> None:
    """Rules that limit both: the first holds, nobody takes turns, and the other follows when it ends."""
    needs("nft", "tc")
    apart(lambda: _both(tmp_path))


def _both(root: Path) -> None:
    run("ip", "link", "add", "users0", "type", "veth", "peer", "name", "users1")
    (root / "users.yaml").write_text(USERS)
    for by in ("tc", "nftables"):
        made = UserControl(UserMap(str(root / "users.yaml")), ["users0"], by)  # type: ignore[arg-type]
        user, host = Subject("netfilter", "user", "alice"), Subject("netfilter", "host", "10.0.0.1")
        made.enforce(user, "rate_limit", 1_000_000)
        made.enforce(host, "rate_limit", 2_000_000)
        for _ in range(2):
            assert made.holds(user, "rate_limit", 1_000_000) and made.holds(host, "rate_limit", 2_000_000)
        assert not made.holds(user, "rate_limit", 1_100_000)
        made.restore(user, "rate_limit", None)
        assert not made.holds(host, "rate_limit", 2_000_000)
        made.enforce(host, "rate_limit", 2_000_000)
        assert made.holds(host, "rate_limit", 2_000_000) and not made.holds(user, "rate_limit", 1_000_000)
        made.restore(host, "rate_limit", None)
        made.enforce(user, "block", True)
        made.enforce(host, "block", True)
        assert made.holds(user, "block", True) and made.holds(host, "block", True)
        control.remove()
    assert not Table().there and "htb" not in run("tc", "qdisc", "show")


def test_a_network_and_who_is_in_it(tmp_path: Path) -> None:
    """A user with a network, one with an address in it, and a host of it: who is limited never is by
    another's limit.
    """
    needs("nft", "tc")
    apart(lambda: _network(tmp_path))


def _network(root: Path) -> None:
    run("ip", "link", "add", "users0", "type", "veth", "peer", "name", "users1")
    (root / "users.yaml").write_text(
        "users:\n  - {code: office, addresses: [10.1.0.0/24, 'fd00::/64']}\n  - {code: boss, addresses:"
        " [10.1.0.5, 'fd00::5']}\n"
    )
    office, boss = Subject("netfilter", "user", "office"), Subject("netfilter", "user", "boss")
    guest = Subject("netfilter", "host", "10.1.0.9")
    for by, effect, value, name in (
        ("tc", "rate_limit", 10**6, "classes"),
        ("nftables", "rate_limit", 10**6, "sent_limits"),
        ("tc", "block", True, "blocked"),
    ):
        made = UserControl(UserMap(str(root / "users.yaml")), ["users0"], by)  # type: ignore[arg-type]

        def whose(address: str, name: str = name) -> set[str]:
            """The owners of the elements that hold it."""
            where = ipaddress.ip_address(address)
            return {e.owner for e in Table().sets[name] if where in ipaddress.ip_network(e.address)}

        made.enforce(office, effect, value)
        assert (
            whose("10.1.0.4") == whose("fd00::6") == {owner_of(office)}
            and not whose("10.1.0.5")
            and not whose("fd00::5")
        )
        made.enforce(guest, effect, value)
        assert whose("10.1.0.9") == {owner_of(office)} and made.holds(
            guest, effect, value
        )  # it is limited already
        made.enforce(boss, effect, value)
        assert whose("10.1.0.5") == whose("fd00::5") == {owner_of(boss)}
        made.restore(office, effect, None)
        assert not whose("10.1.0.4") and not made.holds(guest, effect, value)
        made.enforce(guest, effect, value)
        made.enforce(office, effect, value)  # around the two of them
        assert whose("10.1.0.9") == {owner_of(guest)} and whose("10.1.0.8") == {owner_of(office)}
        assert all(made.holds(s, effect, value) for s in (office, boss, guest))
        for subject in (guest, office, boss):
            made.restore(subject, effect, None)
        assert not Table().sets[name]
        control.remove()
