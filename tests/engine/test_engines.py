"""Several engines read what one engine reads."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaykit.capturing.keylog import KeyLogFile
from replaykit.engine.engine import Engine
from replaykit.engine.engines import Engines
from replaykit.engine.options import Options
from replaykit.records.message import SEPARATOR
from tests import mutate
from tests.engine.test_envelopes import cut
from tests.engine.test_properties import talks
from tests.engine.test_tls import ANSWER, GET, Pair, certificate  # noqa: F401 (a fixture)
from tests.mutate import Packet
from tests.talk import Outcome, Talk, outcome, rows

SAMPLE = Path(__file__).parents[2] / "samples" / "shop.pcap.gz"
OPTIONS = Options(requests=True, responses=True)


def alone(data: bytes, options: Options = OPTIONS) -> Outcome:
    engine = Engine(options)
    assert engine.feed_file(data, 0, len(data)) == len(data)
    return outcome(engine)


def together(data: bytes, count: int, options: Options = OPTIONS, piece: int = 1 << 30) -> Outcome:
    """piece: bytes fed at a time."""
    keys = None if options.tls_keys is None else KeyLogFile(Path(options.tls_keys))
    engines = Engines(options, count, keys, pytest.fail)
    at, end = 0, 0
    while end < len(data):
        end = min(end + piece, len(data))
        at += engines.feed_file(data, at, end)
    assert at == len(data)
    engines.finish()
    account = engines.account()
    assert account["pending_bytes"] == 0
    assert all(engine.held == (0, 0) for engine in engines.all)
    found = [row for engine in engines.all for row in rows(engine.take_exchanges())]
    return Outcome(found, account, [(m.kind, m.id, m.payload) for m in engines.take_messages()])


def content(found: Outcome) -> Counter[tuple[Any, ...]]:
    return Counter(tuple((k, v) for k, v in row.items() if k != "connection") for row in found.rows)


def agree(one: Outcome, several: Outcome) -> None:
    assert content(several) == content(one)
    assert several.account == one.account
    assert Counter(several.messages) == Counter(one.messages)
    assert len({row["connection"] for row in several.rows}) == len({row["connection"] for row in one.rows})


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_capture_gives_the_same(count: int) -> None:
    data = gzip.decompress(SAMPLE.read_bytes())
    one = alone(data)
    agree(one, together(data, count))
    agree(one, together(data, count, piece=5000))


@settings(max_examples=60, deadline=None)
@given(st.lists(talks(), min_size=1, max_size=12), st.integers(2, 4), st.randoms(use_true_random=False))
def test_conversations_give_the_same(found: list[Talk], count: int, r: random.Random) -> None:
    lanes = [list(talk.packets) for talk in found]
    for n, talk in enumerate(lanes):  # each on a port of its own
        talk[:] = [Packet(p.time, p.link, p.orig, ported(p.data, 20_000 + n)) for p in talk]
    packets: list[Packet] = []
    while any(lanes):
        packets.append(r.choice([lane for lane in lanes if lane]).pop(0))
    packets = [Packet(10**18 + n * 1000, p.link, p.orig, p.data) for n, p in enumerate(packets)]
    data = mutate.write(packets)
    agree(alone(data), together(data, count))


def ported(frame: bytes, port: int) -> bytes:
    """The frame, its client's port another. Checksums are nobody's business here."""
    to_server = frame[36:38] == (80).to_bytes(2)
    at = 34 if to_server else 36
    return frame[:at] + port.to_bytes(2) + frame[at + 2 :]


def test_datagrams_in_fragments_go_to_their_connection() -> None:
    packets = []
    for n in range(6):
        talk = Talk(sport=41_000 + n).open()
        talk.client(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n).server(
            b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b"x" * 500
        ).close()
        packets += cut(talk.packets, 64, random.Random(n))
    data = mutate.write(packets)
    one = alone(data)
    assert len(one.rows) == 6
    agree(one, together(data, 3))


def test_secrets_reach_every_engine(certificate: Path, tmp_path: Path) -> None:  # noqa: F811
    packets: list[Packet] = []
    for n in range(4):
        pair = Pair(certificate, tmp_path / "keys")
        pair.say(False, GET)
        pair.say(True, ANSWER)
        packets += [
            Packet(p.time, p.link, p.orig, tls_ported(p.data, 42_000 + n)) for p in pair.talk.close().packets
        ]
    options = Options(tls_keys=str(tmp_path / "keys"))
    found = together(mutate.write(packets), 3, options)
    assert [row["status"] for row in found.rows] == [200] * 4


def tls_ported(frame: bytes, port: int) -> bytes:
    at = 34 if frame[36:38] == (443).to_bytes(2) else 36
    return frame[:at] + port.to_bytes(2) + frame[at + 2 :]


@pytest.mark.parametrize("seed", range(60))
def test_mutated_captures_add_up(seed: int) -> None:
    capture = gzip.decompress(SAMPLE.read_bytes())
    packets = mutate.read(capture)[:400]
    r = random.Random(seed)
    data = mutate.write(packets)
    for _ in range(20):
        data = mutate.mutate(r, packets, data)[: 1 << 20]
        engines, one = Engines(OPTIONS, 3), Engine(OPTIONS)
        try:
            took = engines.feed_file(data, 0, len(data))
        except ValueError as error:
            with pytest.raises(ValueError, match=str(error.args[1])):
                one.feed_file(data, 0, len(data))
        else:
            assert took == one.feed_file(data, 0, len(data))
        engines.finish()
        one.finish()
        several, single = engines.account(), one.account()
        assert several["pending_bytes"] == 0
        assert (several["packets"], several["bytes"]) == (single["packets"], single["bytes"])
        data = mutate.write(packets)


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "replaykit", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    said = [json.loads(run("report", str(SAMPLE), "--format", "json", "--workers", n).stdout) for n in "13"]
    assert said[0] == said[1] and said[0]["rows"]
    over = ("report", str(SAMPLE), "--over", "1s", "--format", "json", "--workers")
    slices = [json.loads(run(*over, n).stdout) for n in "13"]
    assert slices[0] == slices[1] and len(slices[0]["rows"]) > 20
    for n in "12":
        assert (
            run("exchanges", str(SAMPLE), "--to", str(tmp_path / f"{n}.gor"), "--workers", n).returncode == 0
        )
    written = [(tmp_path / f"{n}.gor").read_bytes().split(SEPARATOR) for n in "12"]
    records = [sorted(r for r in each if not r.startswith(b"3 left-out")) for each in written]
    assert records[0] == records[1]
    done = run("exchanges", str(SAMPLE), "--to", str(tmp_path / "d.parquet"), "--decode", "--workers", "2")
    assert done.returncode == 2 and "--workers 2: bodies" in done.stderr
