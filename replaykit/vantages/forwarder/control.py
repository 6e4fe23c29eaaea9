"""What rules may do to mappings and clients: block them, cut them, limit their rate; within a second, on what
runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from replaykit.errors import UsageError
from replaykit.ledger.selection import Subject
from replaykit.rules.enforcement import Gone
from replaykit.vantages.forwarder.meter import Meter
from replaykit.vantages.forwarder.server import Forwarder

_LONGEST_S = 10
T = TypeVar("T")


class ForwarderControl:
    """A controller for `replaykit.rules.enforcement`, whose calls come from another thread than the
    forwarder's.
    """

    def __init__(self, forwarder: Forwarder) -> None:
        self._forwarder, self._loop = forwarder, asyncio.get_running_loop()

    def original(self, subject: Subject, effect: str) -> Any:
        if effect == "rate_limit":
            return self._do(subject, lambda meter: meter.ruled.rate)
        return self._do(subject, lambda meter: effect in meter.restraints)

    def enforce(self, subject: Subject, effect: str, value: Any) -> None:
        self._do(subject, lambda meter: _set(meter, effect, value))

    def holds(self, subject: Subject, effect: str, value: Any) -> bool:
        if effect == "rate_limit":
            return self._do(subject, lambda meter: bool(meter.ruled.rate == value))
        return self._do(subject, lambda meter: effect in meter.restraints)

    def restore(self, subject: Subject, effect: str, original: Any) -> None:
        self._do(subject, lambda meter: _set(meter, effect, original))

    def _do(self, subject: Subject, what: Callable[[Meter], T]) -> T:
        async def act() -> T:
            known = self._forwarder.mappings if subject.kind == "mapping" else self._forwarder.clients
            if subject.name not in known:
                raise Gone
            return what(self._forwarder.meter(subject.kind, subject.name))

        try:
            return asyncio.run_coroutine_threadsafe(act(), self._loop).result(_LONGEST_S)
        except (TimeoutError, RuntimeError) as error:
            raise UsageError(f"the forwarder does not answer: {type(error).__name__}") from None


def _set(meter: Meter, effect: str, value: Any) -> None:
    if effect == "rate_limit":
        meter.ruled.rate = value
    elif value:
        # A forwarder has nothing to shut down but the way through it.
        meter.restraints.add(effect)
        meter.close_all("blocked by a rule")
    else:
        meter.restraints.discard(effect)
