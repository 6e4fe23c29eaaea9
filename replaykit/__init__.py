"""replaykit: who is using the bandwidth?

The commands as calls: `read`, `capture`, `report`, `gate`, `replay`, `Ledger`. See docs/python.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from replaykit.api import Captured, Ledger, Recording, Replayed, capture, gate, read, replay, report
    from replaykit.attribution.gate import Verdict
    from replaykit.errors import UsageError
    from replaykit.pipeline.options import Filters

__version__ = "0.1.0"
__all__ = [
    "Captured",
    "Filters",
    "Ledger",
    "Recording",
    "Replayed",
    "UsageError",
    "Verdict",
    "capture",
    "gate",
    "read",
    "replay",
    "report",
]


def __getattr__(name: str) -> Any:
    """What is asked for is loaded then: a command that needs none of it starts without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("replaykit.api"), name)
