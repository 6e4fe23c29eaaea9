"""The forwarder between real sockets: every byte arrives, is counted once, and limits act on what runs."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import random
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from ci.servers import free_port
from replaykit.errors import UsageError
from replaykit.ledger.history import totals
from replaykit.ledger.selection import Selection
from replaykit.ledger.store import Ledger
from replaykit.vantages.forwarder.mapping import client, mapping
from replaykit.vantages.forwarder.meter import EXCEEDED, TOO_MANY
from replaykit.vantages.forwarder.server import Forwarder

MIB = 1 << 20
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def asynchronous(test: Callable[..., Any]) -> Callable[..., None]:
    """Runs a test in the loop that the command uses."""
    import functools
    import inspect

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.wait_for(test(*args, **kwargs), 60))

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, "127.0.0.1", 0, limit=8 * MIB)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def forwarding(
    *given: dict[str, Any], clients: tuple[dict[str, Any], ...] = (), path: Path | None = None
) -> AsyncIterator[Forwarder]:
    ledger = Ledger("sqlite://" if path is None else f"sqlite:///{path / 'usage.db'}", "UTC")
    said: list[str] = []
    made = Forwarder(ledger, None if path is None else path / "state.json", said.append)
    try:
        for one in clients:
            await made.put_client(client(one))
        for values in given:
            await made.put(mapping(values))
        yield made
    finally:
        await made.close()
        ledger.close()


def to(target: int, **more: Any) -> dict[str, Any]:
    return {"source_port": free_port(), "target_host": "127.0.0.1", "target_port": target, **more}


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends as long as somebody takes it."""
    with contextlib.suppress(OSError):
        while True:
            writer.write(bytes(65_536))
            await writer.drain()


async def settled(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def received(reader: asyncio.StreamReader, seconds: float) -> tuple[int, bool]:
    """How much came within that time, and whether it was the end."""
    count, until = 0, asyncio.get_running_loop().time() + seconds
    while (left := until - asyncio.get_running_loop().time()) > 0:
        try:
            data = await asyncio.wait_for(reader.read(MIB), left)
        except TimeoutError:
            break
        except ConnectionError:
            return count, True
        if not data:
            return count, True
        count += len(data)
    return count, False


async def is_cut(port: int, seconds: float = 5) -> bool:
    """Whether a connection ends, or never begins."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return True
    _, over = await received(reader, seconds)
    writer.close()
    return over


@asynchronous
async def test_every_byte_arrives_and_counts_while_it_moves() -> None:
    payload = os.urandom(5_000_001)
    async with serving(echo) as target, forwarding(to(target)) as forwarder:
        ((name, one),) = forwarder.mappings.items()
        meter = forwarder.meter("mapping", name)
        reader, writer = await asyncio.open_connection("127.0.0.1", one.source_port)
        writer.write(payload[:1000])
        assert await reader.readexactly(1000) == payload[:1000]
        assert (meter.received, meter.sent, meter.open) == (1000, 1000, 1)  # it still runs
        rest = asyncio.ensure_future(reader.readexactly(len(payload) - 1000))
        writer.write(payload[1000:])
        assert await rest == payload[1000:]
        writer.close()
        await settled(lambda: meter.open == 0)
        assert (meter.received, meter.sent, meter.connections) == (len(payload), len(payload), 1)
        await forwarder.flush()
        (row,) = totals(forwarder.ledger, 0, 2**32, Selection("forwarder")).sums
        assert (row.rx_bytes, row.tx_bytes, row.connections) == (len(payload), len(payload), 1)
        assert row.labels == {"protocol": "tcp", "target": f"127.0.0.1:{target}"}


@asynchronous
async def test_half_close_leaves_the_other_way_open() -> None:
    async def answers_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read(-1)
        await asyncio.sleep(0.2)
        writer.write(data * 3)
        await writer.drain()
        writer.close()

    async with serving(answers_after_the_end) as target, forwarding(to(target)) as forwarder:
        (one,) = forwarder.mappings.values()
        reader, writer = await asyncio.open_connection("127.0.0.1", one.source_port)
        writer.write(b"x" * 100_000)
        writer.write_eof()
        assert len(await reader.read(-1)) == 300_000
        writer.close()


@asynchronous
async def test_a_slow_reader_holds_up_the_sender_and_loses_nothing() -> None:
    sent = 0

    async def much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        for _ in range(320):
            writer.write(bytes(100_000))
            await writer.drain()
            sent += 100_000
        writer.close()

    async with serving(much) as target, forwarding(to(target)) as forwarder:
        (one,) = forwarder.mappings.values()
        slow = socket.socket()
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.setblocking(False)
        await asyncio.get_running_loop().sock_connect(slow, ("127.0.0.1", one.source_port))
        await asyncio.sleep(0.5)
        assert sent < 20_000_000  # it waits in the kernel, not in memory
        got = 0
        while data := await asyncio.get_running_loop().sock_recv(slow, MIB):
            got += len(data)
        slow.close()
        assert got == sent == 32_000_000


@asynchronous
async def test_the_flow_limit_cuts_what_runs_to_the_byte() -> None:
    async with serving(source) as target, forwarding(to(target, flow_limit_mb=3)) as forwarder:
        ((name, one),) = forwarder.mappings.items()
        meter = forwarder.meter("mapping", name)
        assert all(await asyncio.gather(*(is_cut(one.source_port) for _ in range(3))))
        assert meter.received + meter.sent == 3 * MIB
        assert meter.refusal() == EXCEEDED == "Traffic exceeded"
        assert await is_cut(one.source_port) and forwarder.routes[name].troubles[EXCEEDED] >= 1
        # More is allowed: it goes on.
        await forwarder.put(mapping({**to(target), "source_port": one.source_port, "flow_limit_mb": 5}))
        assert await is_cut(one.source_port) and meter.received + meter.sent == 5 * MIB


@asynchronous
async def test_a_client_is_the_sum_of_its_parts_and_limits_them_together() -> None:
    async with (
        serving(echo) as target,
        forwarding(
            to(target, client="home"),
            to(target, client="home"),
            to(target),
            clients=({"name": "home", "max_connections": 2, "max_mappings": 2},),
        ) as forwarder,
    ):
        ends = []
        for one in forwarder.mappings.values():
            reader, writer = await asyncio.open_connection("127.0.0.1", one.source_port)
            writer.write(b"y" * one.source_port)
            await reader.readexactly(one.source_port)
            ends.append((reader, writer))
        owned = [m for m in forwarder.mappings.values() if m.client]
        meter = forwarder.meter("client", "home")
        assert meter.received == meter.sent == sum(m.source_port for m in owned) and meter.open == 2
        assert await is_cut(owned[0].source_port)
        assert meter.refusal() == TOO_MANY == "Connections exceed the current client limit"
        with pytest.raises(UsageError, match="may have 2 mappings"):
            await forwarder.put(mapping(to(target, client="home")))
        with pytest.raises(UsageError, match="delete these first"):
            await forwarder.remove_client("home")
        # A deleted mapping takes its connections with it, and leaves what it moved.
        before = meter.received
        await forwarder.remove(owned[0].name)
        assert (await received(ends[0][0], 2))[1]
        assert meter.received == before and meter.open == 1
        for _, w in ends:
            w.close()


@asynchronous
async def test_rates_are_kept_shared_and_changed_while_they_run() -> None:
    async with serving(source) as target, forwarding(to(target, rate_limit=1_000_000)) as forwarder:
        ((name, one),) = forwarder.mappings.items()
        meter = forwarder.meter("mapping", name)
        ends = [await asyncio.open_connection("127.0.0.1", one.source_port) for _ in range(4)]
        await asyncio.sleep(0.3)
        at, begun = meter.sent, time.monotonic()
        await asyncio.gather(*(received(r, 1.5) for r, _ in ends))
        assert 0.8e6 < (meter.sent - at) / (time.monotonic() - begun) < 1.2e6
        sizes = sorted(c.tx for c in meter.running)  # type: ignore[attr-defined]
        assert sizes[0] > sizes[-1] / 3  # each has its part
        meter.own.rate = 10_000  # far less than a chunk: it neither hangs nor bursts
        await asyncio.sleep(0.3)
        at = meter.sent
        await asyncio.sleep(1.5)
        assert 8_000 < meter.sent - at < 30_000
        meter.own.rate = None
        at = meter.sent
        await asyncio.gather(*(received(r, 0.5) for r, _ in ends))
        assert meter.sent - at > 20_000_000
        for _, w in ends:
            w.close()


@asynchronous
async def test_who_may_come() -> None:
    async with (
        serving(echo) as target,
        forwarding(
            to(target, deny=["127.0.0.2"]),
            to(target, allow=["127.0.0.0/31"]),
            to(target, allow=["::1"], listen="127.0.0.1"),
        ) as forwarder,
    ):

        async def answers(port: int, address: str) -> bool:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
                writer.write(b"hello")
                found = await asyncio.wait_for(reader.read(5), 3)
            except ConnectionError:
                return False
            writer.close()
            return found == b"hello"

        deny, allow, six = forwarder.mappings.values()
        assert await answers(deny.source_port, "127.0.0.1") and not await answers(
            deny.source_port, "127.0.0.2"
        )
        assert await answers(allow.source_port, "127.0.0.1") and not await answers(
            allow.source_port, "127.0.0.2"
        )
        assert not await answers(six.source_port, "127.0.0.1")


@asynchronous
async def test_proxy_protocol_says_who_it_is() -> None:
    for version in ("v1", "v2"):
        async with serving(echo) as target, forwarding(to(target, proxy_protocol=version)) as forwarder:
            ((name, one),) = forwarder.mappings.items()
            reader, writer = await asyncio.open_connection("127.0.0.1", one.source_port)
            mine = writer.get_extra_info("sockname")[1]
            writer.write(b"hello")
            if version == "v1":
                wanted = f"PROXY TCP4 127.0.0.1 127.0.0.1 {mine} {one.source_port}\r\n".encode()
            else:
                wanted = (
                    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
                    + bytes([127, 0, 0, 1] * 2)
                    + struct.pack(">HH", mine, one.source_port)
                )
            assert await reader.readexactly(len(wanted) + 5) == wanted + b"hello"
            assert forwarder.meter("mapping", name).received == 5  # the header is not the visitor's
            writer.close()


def test_proxy_headers() -> None:
    from replaykit.vantages.forwarder.proxy_protocol import header, parse

    for version in ("v1", "v2"):
        for source, destination in (
            (("192.0.2.7", 4711), ("127.0.0.1", 80)),
            (("2001:db8::1", 1), ("::1", 65_535)),
        ):
            whole = header(version, source, destination)
            assert parse(whole + b"rest") == (len(whole), source)
            for cut in range(1, len(whole)):
                assert parse(whole[:cut]) is None, (version, cut)
        mixed = parse(header(version, ("192.0.2.7", 1), ("::1", 2)))
        assert mixed is not None and mixed[1] is not None
        assert ipaddress.ip_address(mixed[1][0]) == ipaddress.ip_address("::ffff:192.0.2.7")
    assert parse(b"PROXY UNKNOWN\r\nx") == (15, None)
    assert parse(b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0x") == (16, None)  # of the proxy itself
    for wrong in (
        b"",
        b"GET / HTTP/1.1\r\n",
        b"PROXY TCP4 x y 1 2\r\n",
        b"PROXY " + b"x" * 200,
        b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c" + bytes(12),
    ):
        with pytest.raises(ValueError):
            parse(wrong)


@asynchronous
async def test_visitors_that_come_by_a_proxy() -> None:
    async with (
        serving(echo) as target,
        forwarding(to(target, accept_proxy=True, proxy_protocol="v1", deny=["192.0.2.9"])) as forwarder,
    ):
        ((name, one),) = forwarder.mappings.items()

        async def visit(*pieces: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", one.source_port)
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.05)
            with contextlib.suppress(OSError, RuntimeError):  # it may have been cut already
                writer.write_eof()
            try:
                return await asyncio.wait_for(reader.read(-1), 5)
            except ConnectionError:
                return b"reset"
            finally:
                writer.close()

        said = await visit(b"PROXY TCP4 192.0.2.7 127.0", b".0.1 4711 80\r", b"\nhello")
        assert said == f"PROXY TCP4 192.0.2.7 127.0.0.1 4711 {one.source_port}\r\nhello".encode()
        assert forwarder.meter("mapping", name).received == 5
        assert await visit(b"PROXY TCP4 192.0.2.9 127.0.0.1 4711 80\r\nhello") in (b"reset", b"")
        assert await visit(b"hello, I am nobody's proxy") in (b"reset", b"")
        assert forwarder.routes[name].troubles == {"not allowed from there": 1, "no PROXY header": 1}


@asynchronous
async def test_targets_that_are_away() -> None:
    nobody = free_port()
    async with forwarding(to(nobody)) as forwarder:
        ((name, one),) = forwarder.mappings.items()
        assert await is_cut(one.source_port)
        assert list(forwarder.routes[name].troubles) == [f"127.0.0.1:{nobody}: connection refused"]
        for values, said in (
            ({**to(1), "target_host": "no-such-host.invalid"}, "no-such-host.invalid"),
            (
                {**to(1), "source_port": one.source_port, "protocol": "tcp", "listen": "192.0.2.1"},
                "192.0.2.1",
            ),
            (to(1, client="nobody"), "no client 'nobody'"),
            (to(1, use_tunnel=True), "has no --tunnel"),
        ):
            with pytest.raises(UsageError, match=said):
                await forwarder.put(mapping(values))
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UsageError, match="address already in use"):
            await forwarder.put(mapping({**to(1), "source_port": taken.getsockname()[1]}))
        taken.close()


@asynchronous
async def test_udp_sessions() -> None:
    loop = asyncio.get_running_loop()

    class Doubles(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.transport.sendto(data[:30_000] * 2, address)

    transport, _ = await loop.create_datagram_endpoint(Doubles, local_addr=("127.0.0.1", 0))
    target = transport.get_extra_info("sockname")[1]
    async with forwarding(to(target, protocol="udp", flow_limit_mb=1)) as forwarder:
        ((name, one),) = forwarder.mappings.items()
        meter = forwarder.meter("mapping", name)
        visitors = []
        for size in (1, 9, 1400, 30_000):
            visitor = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            visitor.setblocking(False)
            visitor.connect(("127.0.0.1", one.source_port))
            visitor.send(b"z" * size)
            assert await asyncio.wait_for(loop.sock_recv(visitor, 65_535), 5) == b"z" * size * 2
            visitors.append(visitor)
        assert (meter.received, meter.sent, meter.open) == (31_410, 62_820, 4)
        for _ in range(20):
            visitors[0].send(bytes(30_000))
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.2)
        assert meter.received + meter.sent <= MIB and forwarder.routes[name].troubles[EXCEEDED] > 0
        for visitor in visitors:
            visitor.close()
    transport.close()


@asynchronous
async def test_hosts_share_a_port() -> None:
    def says(name: bytes) -> Handler:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(name), name))
            await writer.drain()
            assert head
            writer.close()

        return handler

    port = free_port()
    async with serving(says(b"one")) as a, serving(says(b"any")) as b:

        def host(target: int, name: str, **more: Any) -> dict[str, Any]:
            return {**to(target), "source_port": port, "protocol": "host", "host": name, **more}

        async with forwarding(host(a, "one.example"), host(b, "*.example", flow_limit_mb=1)) as forwarder:

            async def ask(*pieces: bytes) -> bytes:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                for piece in pieces:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.05)
                found = await asyncio.wait_for(reader.read(-1), 5)
                writer.close()
                return found

            first = b"GET / HTTP/1.1\r\nHost: One.Example:80\r\n\r\n"
            assert (await ask(first)).endswith(b"one")
            assert (await ask(b"GET / HTTP/1.1\r\nHo", b"st: two.example\r", b"\n\r\n")).endswith(b"any")
            assert b"404" in await ask(b"GET / HTTP/1.1\r\nHost: other\r\n\r\n")
            meter = forwarder.meter("mapping", f"one.example:{port}")
            assert (meter.received, meter.sent) == (len(first), 41)
            forwarder.meter("mapping", f"*.example:{port}").before = (MIB, 0)
            assert (await ask(b"GET / HTTP/1.1\r\nHost: two.example\r\n\r\n")).endswith(b"Traffic exceeded\n")
            await forwarder.remove(f"one.example:{port}")
            assert b"Traffic exceeded" in await ask(first)  # the wildcard's now
            await forwarder.remove(f"*.example:{port}")
            with pytest.raises(OSError):
                await ask(first)


@asynchronous
async def test_totals_outlive_a_restart_and_mappings_too(tmp_path: Path) -> None:
    async with serving(echo) as target:
        async with forwarding(
            to(target, client="home"), clients=({"name": "home"},), path=tmp_path
        ) as forwarder:
            (one,) = forwarder.mappings.values()
            reader, writer = await asyncio.open_connection("127.0.0.1", one.source_port)
            writer.write(b"x" * 700)
            await reader.readexactly(700)
            writer.close()
        assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o600
        async with forwarding(path=tmp_path) as forwarder:
            await forwarder.restore()
            assert forwarder.mappings == {one.name: one}
            for kind, name in (("mapping", one.name), ("client", "home")):
                meter = forwarder.meter(kind, name)
                assert (meter.received, meter.sent) == (700, 700)
            reader, writer = await asyncio.open_connection("127.0.0.1", one.source_port)
            writer.write(b"x" * 300)
            await reader.readexactly(300)
            writer.close()
            await forwarder.flush()
            found = {s.subject_kind: s.rx_bytes for s in totals(forwarder.ledger, 0, 2**32).sums}
            assert found == {"mapping": 1000, "client": 1000}
        (tmp_path / "state.json").write_text("{")
        async with forwarding(path=tmp_path) as forwarder:
            with pytest.raises(UsageError, match="not a forwarder's state"):
                await forwarder.restore()


@asynchronous
async def test_connections_that_are_reset_at_any_time() -> None:
    """Two hundred, cut from either side at random moments: nothing hangs, nothing is left open."""
    chance = random.Random(5)

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                writer.write(data)
                if chance.random() < 0.05:
                    writer.transport.abort()
                    return
        writer.close()

    async with serving(rude) as target, forwarding(to(target)) as forwarder:
        ((name, one),) = forwarder.mappings.items()

        async def visit() -> None:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", one.source_port)
                for _ in range(chance.randint(0, 20)):
                    writer.write(bytes(chance.randint(1, 50_000)))
                    await reader.read(1000)
                    if chance.random() < 0.05:
                        break
                (writer.transport.abort if chance.random() < 0.5 else writer.close)()

        before = len(os.listdir("/proc/self/fd"))
        await asyncio.gather(*(asyncio.wait_for(visit(), 20) for _ in range(200)))
        meter = forwarder.meter("mapping", name)
        await settled(lambda: meter.open == 0 and not meter.running)
        assert meter.connections == 200
        assert len(os.listdir("/proc/self/fd")) <= before + 2 * 64 + 4  # idle pipes wait for the next


@asynchronous
async def test_a_visitor_that_died_after_it_had_finished_sending() -> None:
    """Its target waits for ever; nothing is ever sent to it that could fail."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        await asyncio.sleep(3600)

    async with serving(silent) as target, forwarding(to(target)) as forwarder:
        ((name, one),) = forwarder.mappings.items()
        meter = forwarder.meter("mapping", name)
        visitor = socket.create_connection(("127.0.0.1", one.source_port))
        await settled(lambda: meter.open == 1)
        visitor.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.1)
        forwarder.sweep()
        assert meter.open == 1  # half closed is not dead
        visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        visitor.close()
        await asyncio.sleep(0.1)
        forwarder.sweep()
        assert meter.open == 0


@asynchronous
async def test_configuration_and_what_the_api_made_do_not_mix(tmp_path: Path) -> None:
    async with serving(echo) as target:
        made, configured = mapping(to(target)), mapping(to(target))
        async with forwarding(path=tmp_path) as forwarder:
            await forwarder.configure([configured], [])
            await forwarder.restore()
            await forwarder.put(made)
        async with forwarding(path=tmp_path) as forwarder:
            await forwarder.configure([configured], [])  # before what the API made is known again
            await forwarder.restore()
            assert set(forwarder.mappings.values()) == {made, configured}
        async with forwarding(path=tmp_path) as forwarder:  # taken out of the configuration, it is gone
            await forwarder.restore()
            assert set(forwarder.mappings.values()) == {made}
            # A configuration that cannot be opened changes nothing.
            await forwarder.configure([configured], [client({"name": "home"})])
            taken = socket.create_server(("127.0.0.1", 0))
            wrong = mapping({**to(target), "source_port": taken.getsockname()[1]})
            with pytest.raises(UsageError, match="in use"):
                await forwarder.configure([wrong], [])
            taken.close()
            assert set(forwarder.mappings.values()) == {made, configured} and set(forwarder.clients) == {
                "home"
            }
            assert not await is_cut(configured.source_port, 0.3)
