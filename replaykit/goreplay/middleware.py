"""Programs that see every message on its way and may change or drop it.

Owns GoReplay's protocol: a message is a line of hex on the program's standard input, what it prints
goes on; its standard error is ours. A program that crashes, or reads nothing for STUCK_S, is
reported and passed by from then on: what it still held goes on as it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib
import shlex
import socket
import struct
import termios
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from importlib.metadata import entry_points

from replaykit.engine.gor import parse_record
from replaykit.errors import UsageError
from replaykit.goreplay.pipeline import Log
from replaykit.records.message import Builder, Message, Messages

STUCK_S = 5.0
"""So long a program may read nothing while messages wait, or take to end."""
_SETTLE_S = 0.3
MAX_HELD_BYTES = 64 << 20
_LINE = 256 << 20

Onwards = Callable[[Messages], Awaitable[None]]
Function = Callable[[Message], "Message | Iterable[Message] | None"]


def _lines(messages: Messages) -> Iterable[tuple[bytes, bytes]]:
    """Id and the whole record of each message, without separator."""
    index = messages.index
    rows = zip(messages.ids(), index["record"].tolist(), index["end"].tolist(), strict=True)
    for identifier, record, end in rows:
        yield identifier, bytes(messages.gor[record:end])


class Program:
    """A program beside us. `bad`: lines of its that are no messages."""

    def __init__(self, command: str, onwards: Onwards, log: Log) -> None:
        self._command, self._onwards, self._log = command, onwards, log
        self._process: asyncio.subprocess.Process | None = None
        self._held: deque[tuple[bytes, bytes]] = deque()
        self._held_bytes = 0
        self._passing: asyncio.Task[None] | None = None
        self._stdin: asyncio.StreamWriter | None = None
        self._closing = False
        self._reader: asyncio.Task[None] | None = None
        self._keys: Counter[bytes] = Counter()
        self._ended = asyncio.Event()
        self._ending: asyncio.Task[bool] | None = None
        self.bad = 0

    async def start(self) -> None:
        """Raises UsageError if it cannot be started."""
        # A pair of our own, as it tells how much of what was written has been read.
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *shlex.split(self._command),
                stdin=theirs.fileno(),
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE,
            )
            _, self._stdin = await asyncio.open_unix_connection(sock=ours)
        except (OSError, ValueError) as error:
            ours.close()
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"--middleware {self._command}: {reason.lower()}") from None
        finally:
            theirs.close()
        self._reader = asyncio.create_task(self._read())
        self._ending = asyncio.create_task(self._ended.wait())

    async def feed(self, messages: Messages) -> None:
        if self._passing is not None:
            await self._pass_by("")
            return await self._onwards(messages)
        stdin = self._stdin
        assert stdin is not None
        lines = bytearray()
        for identifier, record in _lines(messages):
            self._held.append((record[:1] + identifier, record))
            self._keys[record[:1] + identifier] += 1
            self._held_bytes += len(record)
            lines += record.hex().encode() + b"\n"
        while self._held_bytes > MAX_HELD_BYTES:  # dropped by the program, as it seems
            self._let_go()
        if self._ended.is_set() or stdin.transport.is_closing():
            return await self._pass_by("has ended")
        try:
            stdin.write(bytes(lines))
            await self._drained(stdin)
        except (OSError, RuntimeError):  # uvloop's word for a pipe that is closed is RuntimeError
            await self._pass_by("has ended")

    async def _drained(self, stdin: asyncio.StreamWriter) -> None:
        """Waits until there is room again; a program that reads nothing meanwhile is passed by."""
        assert self._ending is not None
        waiting = asyncio.ensure_future(stdin.drain())
        before = -1
        while not waiting.done():
            left = stdin.transport.get_write_buffer_size()
            if left == before:
                waiting.cancel()
                return await self._pass_by(f"has read nothing for {STUCK_S:g} s")
            before = left
            await asyncio.wait({waiting, self._ending}, timeout=STUCK_S, return_when=asyncio.FIRST_COMPLETED)
            if self._ended.is_set():
                waiting.cancel()
                return await self._pass_by("has ended")
        await waiting

    async def _pass_by(self, why: str) -> None:
        """Returns when what the program held has gone on; what comes then follows it."""
        if self._passing is None:
            self._passing = asyncio.create_task(self._pass(why))
        await asyncio.shield(self._passing)

    async def _pass(self, why: str) -> None:
        process = self._process
        assert process is not None
        if process.returncode is None:
            process.kill()
        code = await process.wait()
        assert self._reader is not None and self._stdin is not None
        await self._reader  # what it had printed before comes first
        self._stdin.close()
        self._log(
            0,
            f"middleware {self._command!r} {why} (status {code}); messages pass it by from here on, "
            f"{len(self._held)} that it held go on as they were",
        )
        out = Builder()
        for _, record in self._held:
            _push(out, record)
        self._held.clear()
        self._keys.clear()
        if len(out):
            await self._onwards(out.messages())

    async def _read(self) -> None:
        process = self._process
        assert process is not None and process.stdout is not None
        rest = b""
        while data := await process.stdout.read(1 << 20):
            *lines, rest = (rest + data).split(b"\n")
            out = Builder()
            for line in lines:
                self._take(line, out)
            if len(out):
                await self._onwards(out.messages())
            if len(rest) > _LINE:
                self.bad += 1
                rest = b""
        self._ended.set()
        if not self._closing and self._passing is None:
            self._later = asyncio.create_task(self._pass_by("has ended"))

    def _take(self, line: bytes, out: Builder) -> None:
        try:
            record = bytes.fromhex(line.decode("ascii").strip())
        except ValueError:
            record = b""
        if not record and not line.strip():
            return
        if not record or not _push(out, record):
            self.bad += 1
            if self.bad in (1, 10, 100, 1000):
                self._log(0, f"middleware {self._command!r}: {self.bad} lines are no messages in hex")
            return
        self._answered(record[:1] + record.split(b"\n", 1)[0].split(b" ")[1])

    def _answered(self, key: bytes) -> None:
        """What came before the message that came back was dropped by the program."""
        while self._keys[key] and self._let_go() != key:
            continue

    def _let_go(self) -> bytes:
        """Forgets the oldest of what the program holds; returns its kind and id."""
        key, record = self._held.popleft()
        self._held_bytes -= len(record)
        self._keys[key] -= 1
        if not self._keys[key]:
            del self._keys[key]
        return key

    async def close(self) -> None:
        """Ends its input and takes what it still prints."""
        process, stdin = self._process, self._stdin
        if process is None:
            return
        if self._passing is not None:
            return await self._pass_by("")
        assert stdin is not None and self._reader is not None
        try:
            async with asyncio.timeout(STUCK_S):
                await self._emptied(stdin)
            if self._ended.is_set() or stdin.transport.is_closing():
                return await self._pass_by("has ended")
            self._closing = True
            stdin.close()
            async with asyncio.timeout(STUCK_S):
                await self._reader
                code = await process.wait()
            if code:
                await self._pass_by("has failed")
        except TimeoutError:
            await self._pass_by(f"has not ended within {STUCK_S:g} s")

    async def _emptied(self, stdin: asyncio.StreamWriter) -> None:
        """Waits until the program has read everything, and then whether it ends before its input does.

        Who ends then has not dropped what it holds; a filter waits for the end of its input.
        """
        file = stdin.get_extra_info("socket").fileno()
        while self._held and not self._ended.is_set() and not stdin.transport.is_closing():
            unread = struct.unpack("i", fcntl.ioctl(file, termios.TIOCOUTQ, b"\0" * 4))[0]
            if not unread and not stdin.transport.get_write_buffer_size():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), _SETTLE_S)
                return
            await asyncio.sleep(0.01)


def _push(out: Builder, record: bytes) -> bool:
    parsed = parse_record(record)
    if parsed is None:
        return False
    line = record[: len(record) - len(parsed.payload)]
    out.copy(line, Message(parsed.kind, "", parsed.time, parsed.latency, parsed.payload))
    return True


class InProcess:
    """A Python function in our own process: a message in; a message, several, or None out.

    What it raises is reported, and the message goes on as it was.
    """

    def __init__(self, name: str, function: Function, onwards: Onwards, log: Log) -> None:
        self._name, self._function, self._onwards, self._log = name, function, onwards, log
        self.failed = 0

    async def feed(self, messages: Messages) -> None:
        out = Builder()
        for message in messages:
            try:
                made = self._function(message)
            except Exception as error:
                self.failed += 1
                if self.failed in (1, 10, 100, 1000):
                    self._log(
                        0, f"middleware {self._name}: {type(error).__name__}: {error} ({self.failed} times)"
                    )
                made = message
            if isinstance(made, Message):
                out.push(made)
            elif made is not None:
                for each in made:
                    out.push(each)
        if len(out):
            await self._onwards(out.messages())

    async def close(self) -> None:
        """There is nothing to end."""


def load(name: str) -> Function:
    """A function of the entry-point group `replaykit.middleware`, or `module:name`. Raises UsageError."""
    for entry in entry_points(group="replaykit.middleware"):
        if entry.name == name:
            return entry.load()  # type: ignore[no-any-return]
    module, colon, attribute = name.partition(":")
    if not colon:
        raise UsageError(
            f"--middleware py://{name}: no such entry point; or name a function as module:function"
        )
    try:
        return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--middleware py://{name}: {error}") from None


async def open_middleware(command: str, onwards: Onwards, log: Log) -> Program | InProcess:
    """`py://NAME` in our process, anything else as a program. Raises UsageError."""
    if command.startswith("py://"):
        name = command.removeprefix("py://")
        return InProcess(name, load(name), onwards, log)
    program = Program(command, onwards, log)
    await program.start()
    return program
