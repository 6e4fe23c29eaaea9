"""A user's rate by nftables: in each direction what is over the rate is dropped. It needs nothing but our own
table.

TCP saws at that; where tc can delay instead, `replaykit.vantages.netfilter.shaper` is kinder.
"""

from __future__ import annotations

from collections.abc import Iterable

from replaykit.vantages.netfilter.owned import TABLE, Seen
from replaykit.vantages.netfilter.programs import nft

_BURST_S = 0.25
_SMALLEST_BURST = (
    1 << 18
)  # offloads join packets to 64 KiB, and one that is larger than the burst never passes
_WAYS = (("received_limits", "r"), ("sent_limits", "s"))


class Policer:
    """Needs the table as `replaykit.vantages.netfilter.control` makes it."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def set(self, owner: str, rate: int, addresses: Iterable[str]) -> None:
        """rate: bytes a second in each direction. Raises UsageError."""
        self.clear(owner)
        burst = max(_SMALLEST_BURST, int(rate * _BURST_S))
        rule = f"{{ rate over {rate} bytes/second burst {burst} bytes; }}"
        # In steps: within one script nft looks for a limit before it makes it.
        nft("".join(f"add limit inet {TABLE} {owner}{way} {rule}\n" for _, way in _WAYS))
        table = self._seen.table()
        nft("".join(table.change(name, owner, addresses, owner + way) for name, way in _WAYS))

    def holds(self, owner: str, rate: int, addresses: Iterable[str]) -> bool:
        table = self._seen.table()
        return all(
            table.limits.get(owner + way) == rate and table.holds(name, owner, addresses, owner + way)
            for name, way in _WAYS
        )

    def clear(self, owner: str) -> None:
        """Takes away all that is there of it now."""
        table = self._seen.table()
        limits = [owner + way for _, way in _WAYS if owner + way in table.limits]
        for script in (
            "".join(table.change(name, owner, ()) for name, _ in _WAYS),
            "".join(f"delete limit inet {TABLE} {name}\n" for name in limits),
        ):
            if script:
                nft(script)
