"""Which envelopes are opened: packets that carry whole packets."""

from __future__ import annotations

from dataclasses import dataclass

GENEVE, GTP_U = 6081, 2152
"""UDP ports (RFC 8926, 3GPP TS 29.281)."""


@dataclass(frozen=True)
class Vxlan:
    """Which VXLAN traffic is opened.

    vnis: network identifiers; a negative one is left out. Without a positive one, all others are taken.
    """

    ports: tuple[int, ...]
    vnis: tuple[int, ...]

    def wants(self, vni: int) -> bool:
        return -vni not in self.vnis and (vni in self.vnis or all(v < 0 for v in self.vnis))
