"""`replaykit machines service` against a real systemd: the first process of namespaces of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from replaykit.ledger.history import totals
from replaykit.ledger.store import Ledger
from replaykit.vantages.forwarder.keys import make
from tests.conftest import needs
from tests.target import until
from tests.vantages.hypervisor.pve import SECRET, Cluster, Guest, pve
from tests.vantages.hypervisor.test_machines import configured

# Everything is read-only to it but the test's own folder, and it knows no units but these: none that the host
# would start.
BOOT = """set -e
mount --make-rprivate /
for place in $(awk '$2 !~ "^/(proc|sys|dev)(/|$)" {print $2}' /proc/self/mounts); do
  mount -o remount,bind,ro $place 2>/dev/null || umount -l $place
done
if touch / /tmp/replaykit-probe 2>/dev/null; then echo "not read-only" >&2; exit 1; fi
mount --bind $ROOT $ROOT
mount -o remount,bind,rw $ROOT
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /etc/systemd/system
mount -t tmpfs tmpfs /usr/lib/systemd/system-generators
mkdir /run/units
cp /usr/lib/systemd/system/systemd-journald*.service /usr/lib/systemd/system/systemd-journald*.socket /run/units
for name in sysinit basic shutdown sockets multi-user network-online umount local-fs test; do
  echo "[Unit]" > /run/units/$name.target
done
echo "Requires=systemd-journald.service" >> /run/units/test.target
echo "After=systemd-journald.service" >> /run/units/test.target
export container=test SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units
exec /lib/systemd/systemd --system --unit=test.target --show-status=false
"""  # noqa: E501


class Systemd:
    """run: a command in its namespaces."""

    def __init__(self, pid: int) -> None:
        self._enter = ["nsenter", "-t", str(pid), "-m", "-p"]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self._enter, *command], capture_output=True, text=True, check=False, timeout=60
        )

    def service(self, action: str, config: Path) -> subprocess.CompletedProcess[str]:
        return self.run(
            sys.executable, "-m", "replaykit", "machines", "service", action, "-config", str(config)
        )

    def shows(self, name: str) -> str:
        return self.run("systemctl", "show", "-P", name, "replaykit-machines").stdout.strip()


@contextmanager
def systemd(root: Path) -> Iterator[Systemd]:
    needs("systemctl", "nsenter", "unshare", "journalctl")
    places = [Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").glob("*/")]
    groups = [p / f"replaykit-test-{os.getpid()}" for p in places if (p / "cgroup.procs").exists()]
    if os.geteuid() != 0 or not groups:
        pytest.skip("needs root and control groups")
    if groups[0].parent == places[0]:
        groups = groups[:1]  # one hierarchy for all (version 2)
    for group in groups:
        group.mkdir()
    (root / "boot").write_text(BOOT)
    enter = " ".join(f"echo $$ > {g}/cgroup.procs;" for g in groups)
    # It ends with us.
    start = f"{enter} exec unshare -p -m -i -f --mount-proc --kill-child sh {root}/boot"
    with (root / "systemd.log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", "-c", start],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "ROOT": str(root)},
        )
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: children.read_text().split(), 10)
        made = Systemd(int(children.read_text().split()[0]))
        until(
            lambda: made.run("systemctl", "is-active", "test.target").stdout == "active\n",
            30,
            (root / "systemd.log").read_text(),
        )
        yield made
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(20)
        for group in groups:
            _removed(group)


def _removed(group: Path) -> None:
    """With the groups in it, once their processes have ended."""
    deadline = time.monotonic() + 10
    while group.exists():
        for path in sorted((p.parent for p in group.rglob("cgroup.procs")), reverse=True):
            try:
                path.rmdir()
            except OSError:  # its processes are on their way out
                assert time.monotonic() < deadline
                time.sleep(0.05)
                break


def test_installed_started_killed_and_removed(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    make(keys, ["127.0.0.1"], ["x"])
    cluster = Cluster({100: Guest(name="web", config={"net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0"})})
    with pve(keys, cluster) as port, systemd(tmp_path) as host:
        config = configured(tmp_path, keys, port)
        assert host.service("start", config).returncode != 0  # not installed
        done = host.service("install", config)
        assert done.returncode == 0 and "next: replaykit machines service start" in done.stderr, done.stderr
        for action in ("start", "enable"):
            done = host.service(action, config)
            assert done.returncode == 0, done.stderr
        until(
            lambda: len(cluster.made("GET", "resources")) > 1, 20, host.run("journalctl", "--no-pager").stdout
        )
        cluster.guests[100].netin += 5_000_000
        status = host.service("status", config)
        assert status.returncode == 0 and "active (running)" in status.stdout and "polls" in status.stdout
        assert "enabled" in status.stdout and SECRET not in status.stdout
        until(lambda: _moved(tmp_path) == 5_000_000, 20)
        # Killed, it comes back by itself and goes on.
        pid = host.shows("MainPID")
        host.run("kill", "-9", pid)
        cluster.guests[100].netin += 3_000_000
        until(lambda: host.shows("ActiveState") == "active" and host.shows("MainPID") not in ("0", pid), 30)
        until(lambda: _moved(tmp_path) == 8_000_000, 20)
        journal = host.run("journalctl", "--no-pager", "-u", "replaykit-machines").stdout
        assert journal.count("polls") == 2 and SECRET not in journal and "Traceback" not in journal
        assert host.service("stop", config).returncode == 0 and host.shows("ActiveState") == "inactive"
        assert host.shows("Result") == "success"  # a signal ends it well
        assert host.service("uninstall", config).returncode == 0
        assert host.shows("LoadState") == "not-found"


def _moved(root: Path) -> int:
    if not (root / "usage.db").exists():
        return 0
    ledger = Ledger(f"sqlite:///{root / 'usage.db'}")
    try:
        return sum(r.bytes for r in totals(ledger, 0, int(time.time()) + 60).sums)
    finally:
        ledger.close()
