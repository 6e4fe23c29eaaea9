"""Standard output, and nowhere."""

from __future__ import annotations

import sys

from replaykit.wire.message import Messages


class StdoutOutput:
    """Records as they stand in a .gor file."""

    name = "stdout"

    def __init__(self) -> None:
        self.lost = 0

    async def write(self, messages: Messages) -> None:
        sys.stdout.buffer.write(messages.storable()[0].blob())
        sys.stdout.buffer.flush()

    async def close(self) -> None:
        sys.stdout.buffer.flush()


class NullOutput:
    """Takes everything. `taken`: messages."""

    name = "null"

    def __init__(self) -> None:
        self.lost = 0
        self.taken = 0

    async def write(self, messages: Messages) -> None:
        self.taken += len(messages)

    async def close(self) -> None:
        """There is nothing to finish."""
