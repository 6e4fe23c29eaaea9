"""Inputs, middleware, rules and outputs joined: messages on their way.

Owns the order of what happens to a message (middleware, size bound, rules, decoding, choice of
outputs, limits) and the order of ending: inputs first, then what is under way, then the outputs.
Whoever is slow holds up the inputs, not the memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from replaykit.engine.content import pretty
from replaykit.engine.gor_records import Counts, open_records, through
from replaykit.engine.rewriting import Rules, fnv
from replaykit.errors import UsageError
from replaykit.goreplay.limiter import Fates, Limiter
from replaykit.records.message import Builder, Messages

Log = Callable[[int, str], None]
"""Level (0: always shown) and a line."""


class QueueStat:
    """How long a queue was whenever something was put into it, since it was last asked."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._latest = self._sum = self._longest = self._count = 0

    def note(self, length: int) -> None:
        self._latest = length
        self._sum += length
        self._longest = max(self._longest, length)
        self._count += 1

    def take(self) -> tuple[int, int, int, int]:
        """The latest, mean and greatest length, and how often; begins anew."""
        found = self._latest, self._sum // (self._count or 1), self._longest, self._count
        self._begin()
        return found


class Input(Protocol):
    """A source of messages. `ruled`: the rules were applied to what it gives."""

    name: str
    ruled: bool
    measured: bool
    """It measures its traffic itself: watchers do not count its messages."""

    def batches(self) -> AsyncIterator[Messages]:
        """Messages until there are no more, or `stop`. Raises UsageError."""

    def stop(self) -> None:
        """Ends it soon; what was read is still given."""


class Output(Protocol):
    """A place for messages. `lost`: those that could not be put there."""

    name: str

    @property
    def lost(self) -> int: ...

    async def write(self, messages: Messages) -> None:
        """Takes messages; waits while there is no room."""

    async def close(self) -> None:
        """Finishes what was taken."""


class Middleware(Protocol):
    """Messages in; what it makes of them goes to `onwards`."""

    async def feed(self, messages: Messages) -> None: ...

    async def close(self) -> None: ...


_SETTLE_S = 0.3
_SETTLE_TRIES = 20


@dataclass(frozen=True)
class Settings:
    """max_bytes: payloads are cut there. split: each message goes to one output only, in turn or by
    recorded session."""

    rules: Rules = field(default_factory=Rules)
    prettify: bool = False
    max_bytes: int | None = None
    split: Literal["turn", "session"] | None = None


class Route:
    """One way for all messages. Raises UsageError for a rule that cannot be read."""

    def __init__(self, settings: Settings, outputs: Sequence[tuple[Output, Limiter | None]]) -> None:
        self._settings = settings
        self.outputs = outputs
        self.watchers: list[Output] = []
        """Get every message, whatever becomes of the outputs' share."""
        self._records = open_records(settings.rules) if settings.rules else None
        self.middleware: Middleware | None = None
        self._fates = Fates()
        self._turn = -1
        self.moved = 0
        self.measured = False
        """All inputs measure their traffic themselves, also where middleware stands between."""

    @property
    def counts(self) -> Counts:
        return Counts() if self._records is None else self._records.counts()

    async def push(self, messages: Messages, ruled: bool = False, measured: bool = False) -> None:
        """Takes a batch from an input."""
        if not len(messages):
            return
        if self.middleware is not None:
            if self._settings.prettify:
                messages = _edited(messages, pretty)
            await self.middleware.feed(messages)
        else:
            await self.onwards(messages, ruled, measured)

    async def onwards(self, messages: Messages, ruled: bool = False, measured: bool = False) -> None:
        """What comes out of middleware, or needs none."""
        self.moved += len(messages)
        settings = self._settings
        most = settings.max_bytes
        if most is not None and _longest(messages) > most:
            messages = _edited(messages, lambda payload: payload[:most])
        if self._records is not None and not ruled:
            messages = through(self._records, messages)
        if settings.prettify:
            messages = _edited(messages, pretty)
        if not len(messages):
            return
        for watcher in () if measured or self.measured else self.watchers:
            await watcher.write(messages)
        if settings.split is None or len(self.outputs) == 1:
            for output, limiter in self.outputs:
                await _write(output, limiter, messages)
            return
        for (output, limiter), rows in zip(self.outputs, self._split(messages), strict=True):
            if rows:
                await _write(output, limiter, messages.pick(rows))

    def _split(self, messages: Messages) -> list[list[int]]:
        """Rows for each output."""
        rows: list[list[int]] = [[] for _ in self.outputs]
        for i, (kind, name) in enumerate(zip(messages.index["kind"].tolist(), messages.ids(), strict=True)):
            if self._settings.split == "session":
                which = fnv(name[:16] if len(name) == 24 else name) % len(rows)
            else:
                which = self._fates.of(kind, name, self._next)
            rows[which].append(i)
        return rows

    def _next(self) -> int:
        self._turn = (self._turn + 1) % len(self.outputs)
        return self._turn


async def _settle(route: Route, echoes: Sequence[Echo]) -> None:
    """Waits for responses; with middleware between, until nothing has moved for a while."""
    for _ in range(_SETTLE_TRIES):
        for echo in echoes:
            await echo.drain()
        if route.middleware is None or not echoes:
            return
        before = route.moved
        await asyncio.sleep(_SETTLE_S)
        if route.moved == before:
            return


async def _write(output: Output, limiter: Limiter | None, messages: Messages) -> None:
    if limiter is not None:
        messages = limiter(messages)
    if len(messages):
        await output.write(messages)


def _longest(messages: Messages) -> int:
    starts, ends = messages.index["start"].tolist(), messages.index["end"].tolist()
    return max(end - start for start, end in zip(starts, ends, strict=True))


def _edited(messages: Messages, edit: Callable[[bytes], bytes]) -> Messages:
    out = Builder()
    lines = zip(messages.index["record"].tolist(), messages.index["start"].tolist(), strict=True)
    for m, (record, start) in zip(messages, lines, strict=True):
        out.copy(bytes(messages.gor[record:start]), replace(m, payload=edit(m.payload)))
    return out.messages()


class Echo(Protocol):
    """An output that is an input too, of the responses it gets."""

    name: str
    ruled: bool
    measured: bool

    def batches(self) -> AsyncIterator[Messages]: ...

    def stop(self) -> None: ...

    async def drain(self) -> None:
        """Waits for the responses that are under way."""


async def run(
    inputs: Sequence[tuple[Input, Limiter | None]],
    route: Route,
    stopping: asyncio.Event,
    echoes: Sequence[Echo] = (),
) -> None:
    """Moves messages until all inputs have ended or `stopping` is set, and finishes the outputs.

    Raises UsageError, and OSError of an input.
    """

    async def move(source: Input | Echo, limiter: Limiter | None) -> None:
        async for messages in source.batches():
            passed = messages if limiter is None else limiter(messages)
            await route.push(passed, source.ruled, source.measured)

    async def stop() -> None:
        await stopping.wait()
        for source, _ in inputs:
            source.stop()

    stopper = asyncio.create_task(stop())
    responses = [asyncio.create_task(move(echo, None)) for echo in echoes]
    try:
        async with asyncio.TaskGroup() as group:
            for source, limiter in inputs:
                group.create_task(move(source, limiter))
    except ExceptionGroup as error:
        raise error.exceptions[0] from None
    finally:
        stopper.cancel()
        await _settle(route, echoes)
        for echo in echoes:
            echo.stop()
        await asyncio.gather(*responses)
        if route.middleware is not None:
            await route.middleware.close()
        troubles = []
        for output in [*(o for o, _ in route.outputs), *route.watchers]:
            try:
                await output.close()
            except UsageError as trouble:
                troubles.append(trouble)
    if troubles:
        raise troubles[0]
