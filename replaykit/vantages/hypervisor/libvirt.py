"""libvirt, by its own program virsh: QEMU, LXC and Xen on one host.

The counters of each interface, in one call for all domains.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from replaykit.errors import UsageError
from replaykit.vantages.hypervisor.machine import Details, Machine, Nic

TIMEOUT_S = 20
SHUTDOWN_S = 180.0
"""For a guest to end by itself; then it is stopped."""
_STATES = {1: "running", 2: "running", 3: "paused", 4: "shutdown", 5: "stopped", 6: "crashed", 7: "suspended"}
_GONE = re.compile("Domain not found|failed to get domain", re.IGNORECASE)
_KIB = 1024


class Libvirt:
    """uri: as libvirt's own, such as qemu:///system. Raises UsageError."""

    def __init__(self, uri: str, shutdown_s: float = SHUTDOWN_S) -> None:
        self.name, self._shutdown_s = uri, shutdown_s
        self._asked: dict[str, float] = {}
        if shutil.which("virsh") is None:
            raise UsageError("libvirt needs virsh: apt-get install libvirt-clients")

    def _virsh(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                ["virsh", "-q", "-c", self.name, *arguments],
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
                env=_ENGLISH,
            )
        except subprocess.TimeoutExpired:
            raise OSError(0, f"{self.name}: no response within {TIMEOUT_S} s") from None
        if done.returncode:
            lines = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.strip()]
            text = lines[-1] if lines else "virsh failed"
            if _GONE.search(done.stderr):
                raise KeyError(text)
            if "connect" in done.stderr:
                raise OSError(0, f"{self.name}: {text}")
            raise UsageError(f"{self.name}: {text}")
        return done.stdout

    def machines(self) -> list[Machine]:
        # The id is another one with every start.
        ids = {}
        for line in self._virsh("list", "--all", "--uuid", "--id").splitlines():
            words = line.split()
            if len(words) == 2:
                ids[words[0]] = words[1]
        uuids = {}
        for line in self._virsh("list", "--all", "--uuid", "--name").splitlines():
            uuid, _, name = line.strip().partition(" ")
            if name:
                uuids[name.strip()] = uuid
        found = []
        for name, values in _stats(self._virsh("domstats", "--raw", "--state", "--interface")).items():
            counters = {}
            for n in range(int(values.get("net.count", 0) or 0)):
                at = f"net.{n}."
                if f"{at}rx.bytes" in values:
                    counters[values.get(f"{at}name", str(n))] = (
                        int(values[f"{at}rx.bytes"]),
                        int(values[f"{at}tx.bytes"]),
                    )
            uuid = uuids.get(name, "")
            boot = ids.get(uuid, "-")
            status = _STATES.get(int(values.get("state.state", 0) or 0), "unknown")
            found.append(
                Machine(
                    name, name, "", "domain", status, counters, boot="" if boot == "-" else f"{uuid}/{boot}"
                )
            )
        return found

    def details(self, machine: Machine) -> Details:
        """libvirt does not say."""
        return Details()

    def nics(self, machine: Machine) -> dict[str, Nic]:
        """By hardware address, which outlives a restart."""
        found = {}
        for interface in ET.fromstring(self._virsh("dumpxml", machine.id)).iterfind("devices/interface"):
            mac = interface.find("mac")
            if mac is None:
                continue
            link, inbound = interface.find("link"), interface.find("bandwidth/inbound")
            rate = None if inbound is None else int(inbound.get("average", 0)) * _KIB / (1 << 20)
            found[str(mac.get("address"))] = Nic(link is None or link.get("state") != "down", rate or None)
        return found

    def set_nics(self, machine: Machine, wanted: Mapping[str, Nic]) -> None:
        there = self.nics(machine)
        live = ["--live"] if machine.running else []
        for mac, nic in wanted.items():
            if mac not in there or there[mac] == nic:
                continue
            if there[mac].connected != nic.connected:
                state = "up" if nic.connected else "down"
                if live:
                    self._virsh("domif-setlink", machine.id, mac, state)
                self._virsh("domif-setlink", machine.id, mac, state, "--config")
            if there[mac].rate != nic.rate:
                average = 0 if nic.rate is None else max(1, round(nic.rate * (1 << 20) / _KIB))
                self._virsh(
                    "domiftune",
                    machine.id,
                    mac,
                    "--inbound",
                    str(average),
                    "--outbound",
                    str(average),
                    *live,
                    "--config",
                )

    def power(self, machine: Machine, action: str) -> str:
        self._virsh({"start": "start", "stop": "destroy", "shutdown": "shutdown"}[action], machine.id)
        if action == "shutdown":
            self._asked[machine.id] = time.monotonic()
        return action

    def outcome(self, machine: Machine, task: str) -> str | None:
        asked = self._asked.get(machine.id)
        if task != "shutdown" or asked is None:
            return ""
        if time.monotonic() - asked < self._shutdown_s:
            return None
        del self._asked[machine.id]
        self._virsh("destroy", machine.id)  # it does not listen
        return ""


_ENGLISH = {"LC_ALL": "C", "PATH": "/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin"}


def _stats(printed: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    current: dict[str, Any] = {}
    for line in printed.splitlines():
        text = line.strip()
        if text.startswith("Domain: "):
            current = found.setdefault(text.removeprefix("Domain: ").strip("'"), {})
        elif "=" in text:
            name, _, value = text.partition("=")
            current[name] = value
    return found
