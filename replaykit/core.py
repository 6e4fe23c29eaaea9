"""The compiled core, which is `core/`."""

from __future__ import annotations

from typing import Any

from replaykit.errors import UsageError

try:
    from replaykit import _core  # type: ignore[attr-defined,unused-ignore]
except ImportError as _error:
    raise UsageError(
        f"the compiled core is missing ({_error}): install a wheel that is made for this platform, or a Rust "
        "toolchain and then replaykit again"
    ) from None

core: Any = _core
