"""Mutated captures through the engine: `python -m tests.fuzz --count 1000000`.

A finding is a crash, a byte not booked, a difference when the bytes come in pieces, a capture that takes
longer than a second, or memory that grows. Its seed reproduces it.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from replaykit.capturing.reader import open_reader
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.engine.source import BrokenCapture
from tests.mutate import Packet, mutate, read, write
from tests.talk import Talk, rows

CAPTURES = Path(__file__).parents[2] / "shared" / "captures" / "files"
LARGEST = 30_000

OPTIONS = (
    Options(requests=True, responses=True),
    Options(max_held=4, max_connection_bytes=2000, requests=True),
    Options(max_buffer_bytes=3000, responses=True, requests=True, max_head_bytes=300),
    Options(settle_segments=2, max_pipeline=2),
    Options(requests=True, responses=True, allow_incomplete=True, real_ip_header="X-Real-IP"),
    Options(raw=True, requests=True, max_buffer_bytes=4000),
    Options(vxlan_ports=(53,), vxlan_vnis=(-1,)),
    Options(protocols=("redis", "postgresql"), max_buffer_bytes=200_000),
    Options(max_connections=2, max_ended=1, idle_ns=10**8),
    Options(
        responses=True, requests=True, deny_urls=("a",), redact_headers=("host",), redact_parameters=("id",)
    ),
)


def seeds() -> list[tuple[list[Packet], bytes]]:
    """Real captures where they are, and conversations of our own."""
    out = []
    for path in sorted(CAPTURES.glob("*")) if CAPTURES.exists() else []:
        data = path.read_bytes()
        packets = read(data)
        if packets and len(data) < LARGEST:
            out.append((packets, data))
    from tests.engine.test_plugins import postgresql_talk, redis_talk

    get = b"GET /a?id=7 HTTP/1.1\r\nHost: h\r\n\r\n"
    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n"
    )
    length = b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n" + b"y" * 400
    for mss in (1460, 90, 11):
        talk = Talk().open()
        for answer in (chunked, length, b"HTTP/1.1 100 Continue\r\n\r\n" + length, chunked):
            talk.client(get, mss).server(answer, mss)
        packets = talk.close().packets
        out.append((packets, write(packets)))
        more = (_http2(mss), _websocket(mss), redis_talk(mss), postgresql_talk(mss))
        out += [(talk.packets, write(talk.packets)) for talk in more]
    return out


def _http2(mss: int) -> Talk:
    from tests.engine.test_http2 import GET, OK, POST, Pair, grpc

    pair = Pair(mss)
    pair.exchange(
        [*GET, ("cookie", "a=1"), ("traceparent", "00-" + "a" * 32 + "-" + "b" * 16 + "-01")], b"", OK, b"x"
    )
    rpc = [*POST, ("content-type", "application/grpc")]
    pair.exchange(rpc, grpc(b"ask"), [*OK[:1], ("content-type", "application/grpc")], grpc(b"one", b"two"))
    stream = pair.client.get_next_available_stream_id()
    pair.client.send_headers(stream, GET, end_stream=True)
    pair.flow()
    pair.server.push_stream(stream, 2, GET)
    pair.server.send_headers(stream, [(":status", "103")])
    pair.server.send_headers(stream, OK)
    pair.server.send_data(stream, b"z" * 90, pad_length=9)
    pair.server.send_headers(stream, [("grpc-status", "0")], end_stream=True)
    pair.server.send_headers(2, OK)
    pair.server.reset_stream(2)
    pair.flow()
    pair.server.close_connection()
    pair.flow()
    return pair.talk.close()


def _websocket(mss: int) -> Talk:
    from tests.engine.test_websocket import frame, opened

    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    talk = opened(b"permessage-deflate")
    for n in range(4):
        packed = deflate.compress(b"word " * 50) + deflate.flush(zlib.Z_SYNC_FLUSH)
        talk.server(frame(1, packed[:-4], 0xC0 if n % 2 else 0x40), mss)
        if n % 2 == 0:
            talk.client(frame(9, b"ping", masked=True), mss).server(frame(0, b""), mss)
    return talk.client(frame(8, b"\x03\xe8", masked=True), mss).server(frame(8, b"\x03\xe8"), mss).close()


def _result(options: Options, data: bytes, pieces: int) -> tuple[object, ...]:
    engine: Engine = open_reader(options, lambda line: None)
    broken = None
    try:
        at = 0
        step = max(len(data) // pieces, 1)
        for end in range(step, len(data) + step, step):
            at += engine.feed_file(data, at, min(end, len(data)))
    except BrokenCapture as error:
        broken = error.args
    connections, buffered = engine.held
    assert connections <= options.max_connections + options.max_ended + 1
    assert buffered <= options.max_buffer_bytes + 70_000
    engine.finish()
    account = engine.account()
    assert account["pending_bytes"] == 0, account
    found = sorted(map(repr, map(dict.items, rows(engine.take_exchanges()))))
    return broken, account, found, sorted(map(repr, engine.take_messages()))


def run(first: int, count: int, report: Callable[[str], None], most: int = 10) -> list[str]:
    """Tries `count` seeds; returns the findings."""
    captures = seeds()
    findings: list[str] = []
    begun = time.monotonic()
    for seed in range(first, first + count):
        r = random.Random(seed)
        packets, data = r.choice(captures)
        options = r.choice(OPTIONS)
        hostile = mutate(r, packets, data)
        before = time.monotonic()
        try:
            whole, apart = _result(options, hostile, 1), _result(options, hostile, 5)
            if whole != apart:
                findings.append(f"seed {seed}: pieces make a difference")
        except Exception as error:
            findings.append(f"seed {seed}: {error!r}")
        if time.monotonic() - before > 1:
            findings.append(f"seed {seed}: took {time.monotonic() - before:.1f} s")
        if len(findings) >= most:
            break
        if (seed - first + 1) % 50_000 == 0:
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            rate = (seed - first + 1) / (time.monotonic() - begun)
            report(f"{seed - first + 1:,} captures, {len(findings)} findings, {memory} MB, {rate:,.0f}/s")
    return findings


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=1_000_000)
    args = parser.parse_args()
    findings = run(args.first, args.count, lambda line: print(line, flush=True))
    for finding in findings:
        print(finding)
    print(f"{args.count:,} mutated captures, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
