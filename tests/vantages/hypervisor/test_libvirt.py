"""libvirt for real: QEMU in software emulation, whose firmware asks the network for something to start."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from replaykit.errors import UsageError
from replaykit.ledger import calendar
from replaykit.ledger.history import totals
from replaykit.ledger.selection import Selection, Subject
from replaykit.ledger.store import Ledger
from replaykit.rules.enforcement import Guard
from replaykit.rules.limits import parse_rules
from replaykit.vantages.hypervisor.control import MachineControl
from replaykit.vantages.hypervisor.libvirt import Libvirt
from replaykit.vantages.hypervisor.machine import Machine, Nic
from replaykit.vantages.hypervisor.watch import Watch
from tests.conftest import needs
from tests.target import until

NS = "rk-libvirt"
URI = "qemu:///system"
pytestmark = pytest.mark.timeout(400)
MACS = ("52:54:00:77:00:01", "52:54:00:77:00:02")
DOMAIN = f"""<domain type='qemu'><name>{{name}}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='x86_64'>hvm</type><boot dev='network'/></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<interface type='bridge'><source bridge='br0'/><mac address='{MACS[0]}'/><model type='virtio'/></interface>
<interface type='bridge'><source bridge='br0'/><mac address='{MACS[1]}'/><model type='e1000'/></interface>
</devices></domain>
"""


def virsh(*arguments: str) -> str:
    """The first after the daemon's start waits for it to have tried out QEMU, which takes most of a
    minute.
    """
    done = subprocess.run(
        ["virsh", "-q", "-c", URI, *arguments], capture_output=True, text=True, check=False, timeout=150
    )
    assert not done.returncode, done.stderr
    return done.stdout


def inside(*command: str) -> None:
    subprocess.run(["ip", "netns", "exec", NS, *command], check=False, capture_output=True, timeout=30)


@pytest.fixture(scope="module")
def libvirt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Libvirt]:
    """The daemons live in a namespace with a bridge of its own, and so does the machine `one`."""
    needs("virsh", "libvirtd", "virtlogd", "qemu-system-x86_64", "ip")
    root = tmp_path_factory.mktemp("libvirt")
    with ExitStack() as stack:
        subprocess.run(["ip", "netns", "add", NS], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "del", NS], check=False)
        for words in (
            "link set lo up",
            "link add br0 type bridge",
            "addr add 10.78.0.1/24 dev br0",
            "link set br0 up",
        ):
            subprocess.run(["ip", "-n", NS, *words.split()], check=True)
        Path("/var/log/libvirt").mkdir(exist_ok=True)
        for daemon in ("virtlogd", "libvirtd"):
            process = subprocess.Popen(
                ["ip", "netns", "exec", NS, daemon, "-p", str(root / f"{daemon}.pid")],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            stack.callback(process.wait, 20)
            stack.callback(process.send_signal, signal.SIGTERM)
        until(
            lambda: (
                subprocess.run(["virsh", "-c", URI, "version"], capture_output=True, check=False).returncode
                == 0
            ),
            30,
        )
        (root / "one.xml").write_text(DOMAIN.format(name="one"))
        virsh("define", str(root / "one.xml"))
        stack.callback(
            subprocess.run, ["virsh", "-c", URI, "undefine", "one"], check=False, capture_output=True
        )
        stack.callback(
            subprocess.run, ["virsh", "-c", URI, "destroy", "one"], check=False, capture_output=True
        )
        yield Libvirt(URI, shutdown_s=2)


def the(libvirt: Libvirt) -> Machine:
    (found,) = [m for m in libvirt.machines() if m.id == "one"]
    return found


def domifstat() -> tuple[int, int]:
    """libvirt's own sums over both interfaces."""
    rx = tx = 0
    for mac in MACS:
        for line in virsh("domifstat", "one", mac).splitlines():
            _, name, value = line.split()
            rx += int(value) if name == "rx_bytes" else 0
            tx += int(value) if name == "tx_bytes" else 0
    return rx, tx


def test_totals_agree_with_domifstat(libvirt: Libvirt, tmp_path: Path) -> None:
    """Over a restart, in which its counters begin anew under other names."""
    ledger = Ledger(f"sqlite:///{tmp_path / 'u.db'}", "UTC")
    watch, at, truth = Watch(ledger, libvirt), int(time.time()), (0, 0)
    if the(libvirt).running:
        virsh("destroy", "one")
    watch.poll(at)
    for _ in range(2):
        virsh("start", "one")
        watch.poll(at := at + 30)
        # The bridge tells both of the broadcasts, and the firmware asks for an address.
        until(
            lambda: (
                (inside("ping", "-b", "-c", "2", "-i", "0.2", "-W", "1", "10.78.0.255"), domifstat())[1][1]
                > 0
            ),
            60,
        )
        virsh("suspend", "one")
        inside("ip", "link", "set", "br0", "down")
        time.sleep(0.3)
        now = domifstat()
        watch.poll(at := at + 30)
        inside("ip", "link", "set", "br0", "up")
        truth = truth[0] + now[0], truth[1] + now[1]
        virsh("destroy", "one")
    (row,) = totals(ledger, 0, calendar.LATEST, Selection("hypervisor", "machine")).sums
    assert (row.rx_bytes, row.tx_bytes) == truth and min(truth) > 500
    ledger.close()


def test_links_and_power(libvirt: Libvirt, tmp_path: Path) -> None:
    if not the(libvirt).running:
        virsh("start", "one")
    control = MachineControl(libvirt, lambda name: the(libvirt) if name == "one" else None)
    subject = Subject("hypervisor", "machine", "one")
    virsh("domif-setlink", "one", MACS[1], "down")
    original = control.original(subject, "disconnect")
    assert original == {MACS[0]: True, MACS[1]: False}
    control.enforce(subject, "disconnect", True)
    assert control.holds(subject, "disconnect", True) and "down" in virsh("domif-getlink", "one", MACS[0])
    virsh("domif-setlink", "one", MACS[0], "up")  # somebody's hand
    assert not control.holds(subject, "disconnect", True)
    control.enforce(subject, "disconnect", True)
    control.restore(subject, "disconnect", original)
    assert "up" in virsh("domif-getlink", "one", MACS[0]) and "down" in virsh("domif-getlink", "one", MACS[1])
    virsh("domif-setlink", "one", MACS[1], "up")
    # Its firmware knows no shutdown: it is stopped after a while.
    assert control.original(subject, "shutdown") is True
    control.enforce(subject, "shutdown", True)
    assert control.holds(subject, "shutdown", True) and the(libvirt).running
    time.sleep(2.1)
    assert control.holds(subject, "shutdown", True)
    assert not the(libvirt).running and control.holds(subject, "shutdown", True)
    # Rates, of the machine that is off: what it will be started with.
    was = control.original(subject, "rate_limit")
    control.enforce(subject, "rate_limit", 2 << 20)
    assert libvirt.nics(the(libvirt)) == dict.fromkeys(MACS, Nic(True, 2.0)) and "average='2048'" in virsh(
        "dumpxml", "one"
    )
    assert control.holds(subject, "rate_limit", 2 << 20)
    control.restore(subject, "rate_limit", was)
    assert "average" not in virsh("dumpxml", "one")
    control.restore(subject, "shutdown", True)
    assert the(libvirt).running
    with pytest.raises(UsageError):
        libvirt.power(the(libvirt), "start")
    with pytest.raises(KeyError):
        libvirt.nics(Machine("nobody", "nobody", "", "domain", "running"))


def test_a_rule_stops_it_and_starts_it_again(libvirt: Libvirt, tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path / 'u.db'}", "UTC")
    if not the(libvirt).running:
        virsh("start", "one")
    watch = Watch(ledger, libvirt)
    rules = parse_rules(
        "rules:\n  - { name: r, kind: machine, vantage: hypervisor, period: hour, limit: 1B, actions:"
        " [stop] }\n"
    )
    guard = Guard(ledger, rules, {"hypervisor": MachineControl(libvirt, watch.find)})
    at = calendar.floor("hour", int(time.time()), ledger.zone) + 60
    watch.poll(at)
    until(
        lambda: (
            (inside("ping", "-b", "-c", "2", "-i", "0.2", "-W", "1", "10.78.0.255"), domifstat())[1][0] > 500
        ),
        30,
    )
    for n in (60, 120, 180):
        watch.poll(at + n)
        guard.step(at + n)
    assert not the(libvirt).running
    watch.poll(at + 3600)
    guard.step(at + 3600)
    assert the(libvirt).running
    ledger.close()


def test_nobody_answers() -> None:
    needs("virsh")
    with pytest.raises((OSError, UsageError), match="nowhere"):
        Libvirt("qemu+unix:///system?socket=/nowhere/sock").machines()
