"""Content decoding, decoded messages and columns, and what could be spared."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pytest

from replaykit.attribution.bodies import Bodies
from replaykit.attribution.savings import Savings
from replaykit.engine.content import dechunk, decode, parse, pretty
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from tests.mutate import write
from tests.talk import Talk

TEXT = b'{"name": "an item", "price": 3.5}' * 60
PACKED = {
    "gzip": gzip.compress(TEXT),
    "deflate": zlib.compress(TEXT),
    "br": pa.Codec("brotli").compress(TEXT).to_pybytes(),
    "zstd": pa.Codec("zstd").compress(TEXT).to_pybytes(),
}


def answer(body: bytes, more: str = "", chunked: bool = False) -> bytes:
    if chunked:
        body = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:7], body[7:]) if p) + b"0\r\n\r\n"
        return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + more.encode() + b"\r\n" + body
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n" % len(body) + more.encode() + b"\r\n" + body


def get(path: str = "/a") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode()


@pytest.mark.parametrize("coding", PACKED)
def test_codings(coding: str) -> None:
    assert decode(PACKED[coding], coding, 1 << 20) == TEXT
    assert decode(PACKED[coding], coding, 100) is None
    assert decode(b"no such thing" * 9, coding, 1 << 20) is None
    assert decode(PACKED[coding][:-9], coding, 1 << 20) in (None, TEXT) or coding in ("deflate", "br")


def test_raw_deflate_and_what_is_unknown() -> None:
    assert decode(zlib.compress(TEXT)[2:-4], "deflate", 1 << 20) == TEXT
    assert decode(TEXT, "compress", 1 << 20) is None


def test_a_bomb_is_not_followed() -> None:
    assert decode(gzip.compress(bytes(40 << 20)), "gzip", 1 << 20) is None


@pytest.mark.parametrize("data", [b"", b"5\r\nab", b"zz\r\n", b"5\r\nabcde\r\n", b"-1\r\n"])
def test_broken_chunks(data: bytes) -> None:
    assert dechunk(data) is None


def test_pretty() -> None:
    sent = answer(PACKED["gzip"], "Content-Encoding: gzip\r\nX-A: b\r\n", chunked=True)
    assert pretty(sent) == b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: %d\r\n\r\n" % len(TEXT) + TEXT
    assert pretty(answer(b"plain")) == answer(b"plain")
    unknown = answer(b"abc", "Content-Encoding: x-own\r\n", chunked=True)
    assert pretty(unknown) == b"HTTP/1.1 200 OK\r\nContent-Encoding: x-own\r\nContent-Length: 3\r\n\r\nabc"
    twice = answer(gzip.compress(PACKED["br"]), "Content-Encoding: br, gzip\r\n")
    content = parse(twice)
    assert content is not None and content.decoded() == TEXT


def packets() -> Talk:
    talk = Talk().open()
    for coding, packed in PACKED.items():
        talk.client(get(f"/{coding}")).server(
            answer(packed, f"Content-Encoding: {coding}\r\n", coding == "br")
        )
    return talk.client(get("/plain")).server(answer(TEXT)).close()


def test_decoded_sizes() -> None:
    options = Options(requests=True, responses=True)
    bodies = Bodies(Engine(options), decode=True, prettify=True)
    for p in packets().packets:
        bodies.feed_packet(p.link, p.time, p.orig, p.data)
    bodies.finish()
    batch = bodies.take_exchanges()
    assert batch.column("response_decoded_bytes").to_pylist() == [len(TEXT)] * 5
    assert batch.column("request_decoded_bytes").to_pylist() == [0] * 5
    messages = []
    while bodies.message_bytes:
        messages += [m.payload for m in bodies.take_messages()]
    assert all(m.endswith(TEXT) for m in messages[1::2]) and len(messages) == 10


def test_savings() -> None:
    savings = Savings()
    bodies = Bodies(
        Engine(Options(requests=True, responses=True)), decode=False, prettify=False, visit=savings.visit
    )
    talk = Talk().open()
    for n in range(10):
        talk.client(get(f"/text?n={n}")).server(answer(TEXT, "Content-Type: application/json\r\n"))
    for _ in range(3):
        talk.client(get("/same")).server(answer(b"x" * 300, 'ETag: "1"\r\n'))
    talk.client(get("/weak")).server(answer(b"y" * 300, 'ETag: W/"1"\r\n'))
    talk.client(get("/weak")).server(answer(b"z" * 300, 'ETag: W/"1"\r\n'))
    talk.client(get("/image")).server(answer(TEXT, "Content-Type: image/png\r\n"))
    talk.start += 2_000_000_000
    talk.client(get("/image")).server(answer(TEXT[:-1], "Content-Type: image/png\r\n"))
    for p in talk.close().packets:
        bodies.feed_packet(p.link, p.time, p.orig, p.data)
    bodies.finish()
    bodies.take_exchanges()
    found = savings.endpoints
    text = found["/text"]
    assert (text.responses, text.plain_bytes, text.sampled) == (10, 10 * len(TEXT), 10)
    gzipped = len(gzip.compress(TEXT, 6))
    assert (
        text.gzip_spared_bytes == 10 * (len(TEXT) - gzipped) and text.br_spared_bytes > text.gzip_spared_bytes
    )
    assert (text.unchanged, text.repeated) == (0, 0)
    assert (found["/same"].unchanged, found["/same"].unchanged_bytes, found["/same"].repeated) == (2, 600, 2)
    assert (found["/weak"].unchanged, found["/weak"].repeated) == (0, 1)
    assert (found["/image"].plain_bytes, found["/image"].repeated) == (0, 0)


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    capture, gor, parquet = tmp_path / "a.pcap", tmp_path / "a.gor", tmp_path / "a.parquet"
    capture.write_bytes(write(packets().packets))

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "replaykit", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    run("exchanges", str(capture), "--decode", "--prettify", "--to", str(gor), "--to", str(parquet))
    assert gor.read_bytes().count(TEXT) == 5
    run("exchanges", str(capture), "--decode", "--no-responses", "--to", str(tmp_path / "asked.gor"))
    asked = (tmp_path / "asked.gor").read_bytes()
    assert asked.count(b"\n1 ") + asked.startswith(b"1 ") == 5 and b"HTTP/1.1 200" not in asked
    rows = [json.loads(line) for line in run("exchanges", str(parquet), "--format", "jsonl").splitlines()]
    assert [r["response_decoded_bytes"] for r in rows] == [len(TEXT)] * 5
    plain, *rest = json.loads(run("report", str(capture), "--savings", "--format", "json"))["savings"]
    assert plain["endpoint"] == "/plain" and plain["gzip_spared_bytes"] > 1000
    assert all(r["gzip_spared_bytes"] == 0 for r in rest)
    assert "/plain" in run("report", str(capture), "--savings")
    refused = subprocess.run(
        [sys.executable, "-m", "replaykit", "report", str(parquet), "--savings"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2 and "Parquet holds none" in refused.stderr
