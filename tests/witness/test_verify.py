"""The engine and a witness that shares nothing with it read the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol

from ci.servers import free_port, missing, nghttpd, nginx
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.errors import UsageError
from replaykit.witness import tshark
from replaykit.witness.comparison import Comparison, compare
from samples.make import OUT
from tests.capturing.test_protocols_live import served
from tests.conftest import needs
from tests.engine.test_http2 import GET as GET2
from tests.engine.test_http2 import OK as OK2
from tests.engine.test_http2 import Pair
from tests.engine.test_websocket import opened
from tests.mutate import Packet, write
from tests.talk import Talk, rows

SAMPLES = OUT.parent
CAPTURES = Path(__file__).parents[3] / "shared" / "captures" / "files"


def verified(place: Path, packets: list[Packet]) -> Comparison:
    place.write_bytes(write(packets))
    engine = Engine(Options())
    for p in packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    engine.finish()
    return compare(str(place), rows(engine.take_exchanges()))


def verify(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    command = [sys.executable, "-m", "replaykit", "verify", *arguments, "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout or "[]")


def test_the_samples() -> None:
    status, found = verify(*map(str, sorted(SAMPLES.glob("*.pcap*"))))
    assert status == 0 and all(f["agreed"] > 0 and not f["differences"] for f in found)
    assert sum(f["agreed"] for f in found) >= 250


BODY = st.integers(0, 5000).map(lambda n: b"b" * n)


def framed(body: bytes, how: int) -> bytes:
    """With a length, or in chunks of so many bytes."""
    if how == 0:
        return b"Content-Length: %d\r\n\r\n" % len(body) + body
    parts = [body[at : at + how] for at in range(0, len(body), how)]
    return (
        b"Transfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in parts)
        + b"0\r\n\r\n"
    )


HOW = st.sampled_from([0, 0, 7, 1000])
TURN = st.tuples(BODY, HOW, BODY, HOW, st.sampled_from([200, 404, 500]), st.booleans())


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(TURN, min_size=1, max_size=6), mss=st.sampled_from([1460, 200, 31]))
def test_conversations_whose_truth_is_known(
    tmp_path_factory: pytest.TempPathFactory, turns: list[Any], mss: int
) -> None:
    talk, truth = Talk().open(), []
    for asked, asked_how, answered, answered_how, status, interim in turns:
        request = b"POST /x HTTP/1.1\r\nHost: h\r\n" + framed(asked, asked_how)
        response = b"HTTP/1.1 %d X\r\n" % status + framed(answered, answered_how)
        talk.client(request, mss).server(
            (b"HTTP/1.1 100 Continue\r\n\r\n" if interim else b"") + response, mss
        )
        truth.append((status, len(asked), len(answered)))
    found = verified(tmp_path_factory.mktemp("talk") / "a.pcap", talk.close().packets)
    assert (found.agreed, found.differences, found.undecided) == (len(truth), [], {})


def test_http2(tmp_path: Path) -> None:
    pair = Pair(700)
    for n in range(5):
        pair.exchange(GET2, b"", OK2, b"z" * (n * 900))
    pair.client.close_connection  # noqa: B018 (GOAWAY would leave it undecided)
    found = verified(tmp_path / "a.pcap", pair.talk.close().packets)
    assert (found.agreed, found.differences, found.undecided) == (5, [], {})


SAID = st.lists(
    st.tuples(
        st.booleans(), st.integers(0, 70_000), st.integers(1, 3), st.sampled_from(["data", "ping", "pong"])
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(said=SAID, mss=st.sampled_from([1460, 333]), deflate=st.booleans())
def test_websocket(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[bool, int, int, str]], mss: int, deflate: bool
) -> None:
    """Messages of both sides in fragments, compressed or not, control frames between."""
    talk = opened(b"permessage-deflate" if deflate else b"")

    def extensions() -> list[PerMessageDeflate]:
        made = [PerMessageDeflate()] if deflate else []
        for extension in made:
            extension._enabled = True
        return made

    client, server = FrameProtocol(True, extensions()), FrameProtocol(False, extensions())
    count = 1
    for to_server, size, parts, kind in said:
        speaker = client if to_server else server
        if kind == "data":
            piece = b"m" * (size // parts)
            sent = b"".join(speaker.send_data(piece, n == parts - 1) for n in range(parts))
        else:
            sent = (speaker.ping if kind == "ping" else speaker.pong)(b"p" * (size % 126))
        (talk.client if to_server else talk.server)(sent, mss)
        count += 1
    found = verified(tmp_path_factory.mktemp("talk") / "a.pcap", talk.close().packets)
    assert (found.agreed, found.differences, found.undecided) == (count, [], {})


@pytest.mark.parametrize("odd", [b"\x80\x01x", b"\x83\x01x", b"\x82\x7e\x00\x01x", b"\x82\x05ab"])
def test_websocket_that_is_none_is_undecided(tmp_path: Path, odd: bytes) -> None:
    found = verified(tmp_path / "a.pcap", opened().server(odd).close().packets)
    assert found.undecided.total() == 1 and not found.differences


def test_what_differs_is_shown_with_its_packets(tmp_path: Path) -> None:
    """An engine that had misread a size: its row says one byte more."""
    place = tmp_path / "a.pcap"
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    packets = Talk().open().client(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n").server(ok).close().packets
    place.write_bytes(write(packets))
    engine = Engine(Options())
    for p in packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    engine.finish()
    read = rows(engine.take_exchanges())
    read[0]["response_body_bytes"] += 1
    found = compare(str(place), read)
    (difference,) = found.differences
    assert (found.agreed, found.different) == (0, 1)
    assert (difference.engine[0].response_body_bytes, difference.witness[0].response_body_bytes) == (3, 2)
    assert difference.witness[0].packets == (4, 5)


@pytest.mark.parametrize("lost", [4, 5])
def test_what_is_not_whole_is_undecided(tmp_path: Path, lost: int) -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n" + b"x" * 3000
    packets = Talk().open().client(b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n").server(ok).close().packets
    del packets[lost]
    found = verified(tmp_path / "a.pcap", packets)
    assert (found.agreed, found.different, found.undecided.total()) == (0, 0, 1)


@pytest.mark.servers
def test_a_third_reading(tmp_path: Path) -> None:
    needs("tshark")
    talk = Talk(sport=41_000).open()
    for n in range(3):
        talk.client(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n)
        talk.server(b"HTTP/1.1 20%d X\r\nContent-Length: 2\r\n\r\nok" % n)
    talk.close()
    pair = Pair(700)
    for _ in range(2):
        pair.exchange(GET2, b"", OK2, b"z" * 900)
    place = tmp_path / "a.pcap"
    place.write_bytes(write([*talk.packets, *pair.talk.close().packets]))
    status, (found,) = verify(str(place), "--with", "tshark")
    assert status == 0 and found["agreed"] == 5
    assert found["tshark"] == {"agreed": 5, "differences": [], "undecided": {}}
    engine = Engine(Options())
    for p in talk.packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    engine.finish()
    read = rows(engine.take_exchanges())
    read[1]["target"], read[2]["status"] = "/other", 500
    (difference,) = tshark.compare(str(place), read, compare(str(place), read).whole).differences
    assert difference[2:] == ({"GET /other": 1, "500": 1}, {"GET /1": 1, "202": 1})
    (tmp_path / "none.pcap").write_bytes(b"no capture")
    with pytest.raises(UsageError, match="tshark cannot read it"):
        tshark.compare(str(tmp_path / "none.pcap"), [], set())


@pytest.mark.usefixtures("live")
@pytest.mark.parametrize("http2", [False, True])
def test_real_servers(tmp_path: Path, http2: bool) -> None:
    """tcpdump records curl with nginx, and nghttp with nghttpd; curl's own counters are a third witness."""
    if missing("tcpdump"):
        pytest.skip("tcpdump is not installed")
    capture = tmp_path / "a.pcap"
    sizes: list[int] = []

    def record(port: int, *commands: list[str]) -> None:
        dump = subprocess.Popen(
            ["tcpdump", "-i", "lo", "-U", "-w", str(capture), "tcp", "port", str(port)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert dump.stderr is not None and "listening" in dump.stderr.readline()
        try:
            for command in commands:
                out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                sizes.extend(int(word) for word in out.split() if word.isdecimal())
        finally:
            subprocess.run(["sleep", "1"], check=True)
            dump.terminate()
            dump.wait(10)

    if http2:
        with nghttpd(served(tmp_path)) as port:
            url = f"http://127.0.0.1:{port}/file.bin"
            curl = ["curl", "-s", "--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{size_download}\\n"]
            record(port, [*curl, url], [*curl, url])
    else:
        with nginx(tmp_path) as server:
            url = f"http://127.0.0.1:{server.port}"
            curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{size_download}\\n"]
            record(
                server.port,
                [*curl, f"{url}/files/100k.bin"],
                [*curl, f"{url}/api/a", "-o", "/dev/null", f"{url}/missing"],
                [*curl, "-H", "X: " + "y" * 2000, f"{url}/api/b"],
                [*curl, "-I", f"{url}/api/c"],
            )
    status, (found,) = verify(str(capture))
    assert status == 0 and found["agreed"] == len(sizes) and not found["different"], found
    assert free_port()  # nothing listens any more


@pytest.mark.skipif(not CAPTURES.exists(), reason="there are no captures beside the project")
def test_captures_of_others() -> None:
    """Where both decide, they agree; each exception has its reason."""
    known: dict[str, str] = {}
    agreed = 0
    for place in sorted(CAPTURES.glob("*.pcap*")):
        status, found = verify(str(place))
        if status == 2:
            continue  # no capture that both can open
        agreed += found[0]["agreed"]
        assert not found[0]["differences"] or place.name in known, (place.name, found[0]["differences"][:2])
    assert agreed > 50
