"""What changed per endpoint between two measurements."""

from __future__ import annotations

from dataclasses import dataclass

from replaykit.attribution.measured import Endpoint, Measured


@dataclass(frozen=True)
class Difference:
    """One endpoint; a side that lacks it is empty."""

    endpoint: str
    before: Endpoint
    after: Endpoint

    @property
    def bytes(self) -> float:
        return self.after.bytes - self.before.bytes

    @property
    def per_request(self) -> float | None:
        """Growth of bytes per request as a part of 1; None where a side is empty."""
        if not self.before.per_request or not self.after.requests:
            return None
        return self.after.per_request / self.before.per_request - 1

    @property
    def state(self) -> str:
        if not self.before.requests:
            return "new"
        return "changed" if self.after.requests else "gone"


def differences(before: Measured, after: Measured) -> list[Difference]:
    """The largest change in bytes first."""
    names = before.endpoints.keys() | after.endpoints.keys()
    empty = Endpoint()
    found = [Difference(n, before.endpoints.get(n, empty), after.endpoints.get(n, empty)) for n in names]
    return sorted(found, key=lambda d: (-abs(d.bytes), d.endpoint))
