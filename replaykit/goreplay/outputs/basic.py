"""Standard output, and nowhere."""

from __future__ import annotations

import os

from replaykit.atomic_files import cannot_write
from replaykit.records.message import Messages


class StdoutOutput:
    """Records as they stand in a .gor file."""

    name = "stdout"

    def __init__(self) -> None:
        self.lost = 0

    async def write(self, messages: Messages) -> None:
        """Raises UsageError where standard output takes nothing, BrokenPipeError where its reader has
        gone.
        """
        data = memoryview(messages.storable()[0].blob())
        try:
            while data:
                data = data[os.write(1, data) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write("standard output", error) from None

    async def close(self) -> None:
        """There is nothing to finish."""


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
