"""A record is one message: what a visitor posts never becomes a record, and never a second request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaykit.capturing.files import CaptureFile, Reading
from replaykit.engine.engine import Engine
from replaykit.engine.gor_records import open_records, through
from replaykit.engine.options import Options
from replaykit.engine.rewriting import Rules
from replaykit.outputs.gor import GorOutput
from replaykit.outputs.output import Rotation
from replaykit.records.message import SEPARATOR, Builder, Message, Messages
from replaykit.replaying.outgoing import CUT, IDEMPOTENT, OTHER, UNFRAMED, Aim, prepare
from replaykit.replaying.reading import read_files
from tests.cli.test_replay import run
from tests.mutate import write
from tests.talk import Talk
from tests.target import OK, Rec, get, gor, paths, post, run_gor, target

FORGED = (
    b"1 ffffffffffffffffffffffff 1700000000000000000 0\nDELETE /admin/everything HTTP/1.1\r\nHost: a\r\n\r\n"
)
EVIL = b"begin" + SEPARATOR + FORGED + SEPARATOR
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


def batch(payloads: list[bytes], kind: int = 1) -> Messages:
    out = Builder()
    for n, payload in enumerate(payloads):
        out.push(Message(kind, f"{n:024x}", n, 0, payload))
    return out.messages()


def chunked(body: bytes) -> bytes:
    chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
    return b"POST /c HTTP/1.1\r\n" + CHUNKED + chunk + b"0\r\n\r\n"


PIECES = st.lists(
    st.sampled_from([SEPARATOR, SEPARATOR[1:-1], b"\n", b"\\", b"\r\n", FORGED, b"x", b"0\r\n\r\n"]),
    max_size=8,
).map(b"".join)
FRAMED = st.one_of(PIECES.map(lambda body: post("/p", body)), PIECES.map(chunked), st.just(get("/g")))


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAMED, min_size=1, max_size=5), st.integers(1, 40))
def test_a_separator_inside_a_body_does_not_end_the_record(payloads: list[bytes], step: int) -> None:
    """As GoReplay writes it, whole and in pieces, and without the last separator."""
    data = gor([Rec(p) for p in payloads])
    for text, last in ((data, False), (data[: -len(SEPARATOR)], True)):
        records, held, at = open_records(Rules()), b"", 0
        while at < len(text):
            held += text[at : at + 50 * step]
            at += 50 * step
            held = held[records.feed(held, 0, len(held), last and at >= len(text)) :]
        assert not held and [m.payload for m in records.take(True)] == payloads


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(PIECES, FRAMED), min_size=1, max_size=5))
def test_whatever_is_written_is_read_back(payloads: list[bytes]) -> None:
    stored, count = batch(payloads).storable()
    text = bytes(stored.blob())
    assert text.count(SEPARATOR) == len(payloads)  # so nobody's reader finds a record more
    assert count == 0 or text != bytes(batch(payloads).blob())
    records = open_records(Rules())
    assert records.feed(text, 0, len(text)) == len(text)
    assert bytes(records.take(True).blob()) == bytes(batch(payloads).blob())


def test_in_the_process_lengths_are_known() -> None:
    """Responses that end with their connection do not say where they end: nothing but lengths tells."""
    evil = batch([b"HTTP/1.1 200 OK\r\n\r\n" + EVIL, b"\x00no HTTP" + EVIL], kind=2)
    assert len(through(open_records(Rules()), evil)) == 2
    assert list(prepare(batch([post("/a", EVIL), get("/b")]), Aim()).what) == [OTHER, IDEMPOTENT]
    engine = Engine(Options())
    engine.feed_messages(batch([post("/a", EVIL), get("/b")]).part(0, 1))
    engine.finish()
    assert engine.take_exchanges().column("path").to_pylist() == ["/a"]


def test_a_message_that_is_cut_does_not_swallow_what_follows(tmp_path: Path) -> None:
    name = tmp_path / "a.gor"
    name.write_bytes(gor([Rec(post("/cut", b"12345678")[:-3]), Rec(get("/a")), Rec(get("/b"))]))
    assert len([m for batch_ in read_files([str(name)]) for m in batch_]) == 3


def test_files_that_others_wrote(tmp_path: Path) -> None:
    """First lines with CR LF, of three words, and a last record without its separator; none that is cut."""
    name = tmp_path / "a.gor"
    whole = b"1 a 1 0\r\n" + get("/a") + SEPARATOR + b"1 b 2\r\n" + get("/b") + SEPARATOR + b"1 c 3\n"
    for last, count, trouble in (
        (get("/c"), 3, False),
        (post("/c", b"12"), 3, False),
        (post("/c", b"12")[:-1], 2, True),
    ):
        name.write_bytes(whole + last)
        reading, records = Reading(), Engine(Options())
        for _ in CaptureFile(str(name)).feed(records, reading):
            pass
        records.finish()
        assert records.take_exchanges().num_rows == count and (reading.trouble is not None) == trouble


@pytest.mark.slow
def test_a_forged_record_is_not_sent_from_a_file_nor_from_a_capture(tmp_path: Path) -> None:
    talk = Talk().open()
    talk.client(post("/upload", EVIL)).server(
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(EVIL) + EVIL
    )
    capture, plain, stored = (str(tmp_path / n) for n in ("a.pcap", "a.gor", "b.gor"))
    Path(capture).write_bytes(write(talk.close().packets))
    Path(plain).write_bytes(gor([Rec(post("/upload", EVIL)), Rec(get("/after"))]))
    out = GorOutput(stored, Rotation())
    out.messages(batch([post("/upload", EVIL), get("/after")]))
    out.close()
    for name in (capture, plain, stored):
        with target() as there:
            assert run(name, "--to", there.url, "--speed", "max").returncode == 0
            assert paths(there.payloads)[0] == "/upload" and there.payloads[0].endswith(EVIL)
            assert not any(p.startswith(b"DELETE") for p in there.payloads)
            there.requests.clear()
            flag = "--input-raw" if name == capture else "--input-file"
            again = str(tmp_path / "again.gor")
            done = run_gor(
                flag, name, "--output-http", there.url, "--output-file", again, "--output-file-append"
            )
            assert done.returncode == 0 and b"written escaped" in done.stderr
            assert any(b"/upload" in p for p in there.payloads) and not any(
                p.startswith(b"DELETE") for p in there.payloads
            )
        found = [m for b in read_files([again]) for m in b]
        assert found[0].payload.endswith(EVIL) and not any(m.payload.startswith(b"DELETE") for m in found)
        Path(again).unlink()


HIDDEN = b"DELETE /admin HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize(
    ("payload", "what", "sent"),
    [
        (get("/a") + HIDDEN, IDEMPOTENT, get("/a")),
        (post("/a", b"xy") + HIDDEN, OTHER, post("/a", b"xy")),
        (chunked(b"xy") + HIDDEN, OTHER, chunked(b"xy")),
        (chunked(b"xy")[:-4], CUT, b""),
        (b"POST /c HTTP/1.1\r\n" + CHUNKED + b'{"plain": 1}', UNFRAMED, b""),
        (b"POST /c HTTP/1.1\r\n" + CHUNKED + b"2\r\nxyZZ0\r\n\r\n", UNFRAMED, b""),
        (b"POST /c HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\nxx" + HIDDEN, UNFRAMED, b""),
        (b"POST /c HTTP/1.1\r\nContent-Length: 1, 2\r\n\r\nxx", UNFRAMED, b""),
        (b"POST /c HTTP/1.1\r\nContent-Length: +2\r\n\r\nxx", UNFRAMED, b""),
        (b"GET /c HTTP/1.1\r\nHost: a\r\n", CUT, b""),
        (b"GET /c HTTP/1.1\r\nX: a" + SEPARATOR + FORGED, UNFRAMED, b""),
        (
            b"POST /c HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding : chunked\r\nX: y\r\n\r\n0\r\n\r\n" + HIDDEN,  # noqa: E501
            OTHER, b"POST /c HTTP/1.1\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            b"POST /c HTTP/1.1\r\nContent-Length :\r\n 2\r\nX: y\r\n\r\nxy" + HIDDEN,
            OTHER,
            b"POST /c HTTP/1.1\r\nX: y\r\nContent-Length: 2\r\n\r\nxy",
        ),
    ],
)  # fmt: skip
def test_what_is_sent_is_one_message(payload: bytes, what: int, sent: bytes) -> None:
    row = prepare(batch([payload]), Aim())
    assert (row.what[0], bytes(row.data)) == (what, sent)
    assert (row.beyond[0] == len(HIDDEN)) == (payload.endswith(HIDDEN) and bool(sent))


def test_bytes_beyond_the_request_are_left_out_and_counted(tmp_path: Path) -> None:
    name = tmp_path / "a.gor"
    name.write_bytes(
        gor([r for n in range(3) for r in (Rec(get(f"/{n}") + (HIDDEN if n == 0 else b"")), Rec(OK, 0, 2))])
    )
    with target() as there:
        done = run(str(name), "--to", there.url, "--compare", "--sessions")
        assert "35 bytes beyond the request of 1 records" in done.stdout and done.returncode == 0, done.stdout
        found = json.loads(run(str(name), "--to", there.url, "--format", "json").stdout)
        assert found["beyond_request"] == 1 and found["beyond_request_bytes"] == len(HIDDEN)
        assert b"bytes beyond" in run_gor("--input-file", str(name), "--output-http", there.url).stderr
    assert sorted(paths(there.payloads)) == sorted(["/0", "/1", "/2"] * 3)
