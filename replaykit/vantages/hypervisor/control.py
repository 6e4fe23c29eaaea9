"""What rules may do to machines: shut them down, stop them, take their links down, limit their rate.

Each effect keeps its own original (a link's state, a rate, whether the machine ran), so two on one machine
never take the other's for the truth, and what is enforced is compared with what the machine is like now:
somebody who starts it again, or plugs the link in, finds it enforced again at the next step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from replaykit.errors import UsageError
from replaykit.ledger.selection import Subject
from replaykit.rules.enforcement import Gone
from replaykit.vantages.hypervisor.machine import UNSEEN, Hypervisor, Machine, Nic

_MB = 1 << 20
_DONE = "done"
_OFF = ("shutdown", "stop")


class MachineControl:
    """A controller for `replaykit.rules.enforcement`. find: the machine of a subject as it was seen last;
    None: it never was.

    One that is not in the list is not taken for gone, since a token that lost a privilege sees none: the
    hypervisor is asked for it.
    """

    def __init__(self, hypervisor: Hypervisor, find: Callable[[str], Machine | None]) -> None:
        self._hypervisor, self._find = hypervisor, find
        self._tasks: dict[tuple[str, str], str] = {}

    def original(self, subject: Subject, effect: str) -> Any:
        machine = self._machine(subject)
        if effect in _OFF:
            return machine.running
        nics = self._nics(machine)
        if not nics:
            raise UsageError(f"machine {subject.name} has no network interface")
        return {n: nic.rate if effect == "rate_limit" else nic.connected for n, nic in nics.items()}

    def enforce(self, subject: Subject, effect: str, value: Any) -> None:
        machine = self._machine(subject)
        if effect in _OFF:
            if machine.running:
                self._tasks[subject.name, effect] = self._do(lambda: self._hypervisor.power(machine, effect))
            return
        wanted = {n: _restrained(nic, effect, value) for n, nic in self._nics(machine).items()}
        self._do(lambda: self._hypervisor.set_nics(machine, wanted))

    def holds(self, subject: Subject, effect: str, value: Any) -> bool:
        machine = self._machine(subject)
        if effect not in _OFF:
            return all(nic == _restrained(nic, effect, value) for nic in self._nics(machine).values())
        task = self._tasks.get((subject.name, effect))
        if not machine.running:
            self._tasks.pop((subject.name, effect), None)
            return True
        if task is None or task == _DONE:
            return False
        end = self._do(lambda: self._hypervisor.outcome(machine, task))
        if end is None:
            return True  # it is on its way
        if end:
            del self._tasks[subject.name, effect]
            raise UsageError(f"{effect} of machine {subject.name} failed: {end}")
        self._tasks[subject.name, effect] = _DONE
        # what the poll saw may be some seconds old: if it runs at the next step still, it is asked again
        return True

    def restore(self, subject: Subject, effect: str, original: Any) -> None:
        machine = self._machine(subject)
        self._tasks.pop((subject.name, effect), None)
        if effect in _OFF:
            if original and not machine.running:
                self._do(lambda: self._hypervisor.power(machine, "start"))
            return
        wanted = {}
        for name, nic in self._nics(machine).items():
            if name in original:  # one that was plugged in since then is not ours
                kept = original[name]
                wanted[name] = (
                    replace(nic, rate=kept) if effect == "rate_limit" else replace(nic, connected=kept)
                )
        self._do(lambda: self._hypervisor.set_nics(machine, wanted))

    def _machine(self, subject: Subject) -> Machine:
        found = self._find(subject.name) if subject.kind == "machine" else None
        if found is None:
            raise UsageError(f"machine {subject.name} is not to be seen")
        if found.status == UNSEEN:
            self._nics(found)  # Gone, if it is
        return found

    def _nics(self, machine: Machine) -> dict[str, Nic]:
        found: dict[str, Nic] = self._do(lambda: self._hypervisor.nics(machine))
        return found

    def _do(self, what: Callable[[], Any]) -> Any:
        try:
            return what()
        except KeyError:
            raise Gone from None


def _restrained(nic: Nic, effect: str, value: Any) -> Nic:
    """As it ought to be: a limit of its own that is lower stays."""
    if effect == "rate_limit":
        rate = max(round(value / _MB, 6), 0.001)
        return nic if nic.rate is not None and nic.rate <= rate else replace(nic, rate=rate)
    return replace(nic, connected=False)
