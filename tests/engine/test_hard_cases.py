"""What the wire does beyond the textbook: each conversation is one that once was misread."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hpack
import pytest
from hyperframe.frame import DataFrame, HeadersFrame, RstStreamFrame, SettingsFrame
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether

from replaykit.capturing.reader import open_reader
from replaykit.engine.options import Options
from tests.engine.test_websocket import frame, opened
from tests.mutate import Packet
from tests.talk import Outcome, Talk, outcome, play

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: shop.test\r\n\r\n".encode()


def ok(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size


def pairs(found: Outcome) -> list[tuple[Any, ...]]:
    """Target, status and size of the response's body, in the connection's order."""
    rows = sorted(found.rows, key=lambda r: (r["connection"], r["stream"]))
    return [(r["target"], r["status"], r["response_body_bytes"]) for r in rows]


# Pairing


@pytest.mark.parametrize(
    "odd",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n<p>body</p>",
        b"HTTP/1.1 304 Not Modified\r\n\r\nstray",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_body_where_none_may_be_does_not_shift_what_follows(odd: bytes, together: bool) -> None:
    talk = Talk().open().client(get("/odd"))
    if together:  # the stray bytes and the next response come in one segment
        talk.client(get("/1")).server(odd + ok(1))
    else:
        talk.server(odd).client(get("/1")).server(ok(1))
    for n in (2, 3):
        talk.client(get(f"/{n}")).server(ok(n))
    found = play(talk.close().packets)
    assert pairs(found)[1:] == [("/1", 200, 1), ("/2", 200, 2), ("/3", 200, 3)]
    assert found.account["malformed"] > 0


def test_an_unreadable_response_is_nobodys() -> None:
    talk = Talk().open().client(get("/a")).server(b"HTTP/1.1 OK then\r\nContent-Length: 1\r\n\r\nx")
    talk.client(get("/b")).server(ok(2)).client(get("/c")).server(ok(3))
    assert pairs(play(talk.close().packets)) == [("/a", None, None), ("/b", 200, 2), ("/c", 200, 3)]


@pytest.mark.parametrize("stray", [b"12345", b"true"])
@pytest.mark.parametrize("apart", [False, True])
def test_stray_bytes_are_no_part_of_a_method(stray: bytes, apart: bool) -> None:
    talk = Talk().open().client(get("/a")).server(OK)
    for data in (stray, get("/b")) if apart else (stray + get("/b"),):
        talk.client(data)
    found = play(talk.server(OK).client(b"BUDGET /c HTTP/1.1\r\n\r\n").server(OK).close().packets)
    assert [r["method"] for r in found.rows] == ["GET", "GET", "BUDGET"]
    assert found.account["malformed"] in (
        len(stray),
        len(stray) + 54,
    )  # with its packet's headers, or with none


def test_a_guess_says_so() -> None:
    """Two requests wait, and an unreadable response: nothing says which of them the next one answers."""
    talk = Talk().open().client(get("/a") + get("/b")).server(b"HTTP/1.1 what\r\n\r\n").server(ok(7)).close()
    assert "guessed_pairing" in [r["anomaly"] for r in play(talk.packets).rows]


# A message that the other side ended early


@pytest.mark.parametrize("status", ["417 No", "413 Too Large", "401 Who"])
def test_a_refused_expectation_has_no_body(status: str) -> None:
    put = b"PUT /up HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n"
    talk = Talk().open().client(put).server(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
    for n in range(5):
        talk.client(get(f"/{n}").replace(b"\r\n\r\n", b"\r\nAuthorization: secret\r\n\r\n")).server(ok(n))
    found = play(talk.close().packets, Options(requests=True, redact_headers=("authorization",)))
    assert [r["request_body_bytes"] for r in found.rows] == [0] * 6 and all(r["complete"] for r in found.rows)
    assert pairs(found)[1:] == [(f"/{n}", 200, n) for n in range(5)]
    assert not any(b"secret" in payload for _, _, payload in found.messages)


def test_a_body_that_is_sent_all_the_same_is_one() -> None:
    put = b"PUT /up HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 3000\r\n\r\n"
    talk = Talk().open().client(put).server(b"HTTP/1.1 401 Who\r\nContent-Length: 0\r\n\r\n")
    row = play(talk.client(b"u" * 3000).close().packets).only()
    assert row["request_body_bytes"] == 3000 and row["complete"]


# Ends by their numbers


def test_a_reset_outside_of_the_window_is_ignored() -> None:
    talk = Talk().open().client(get("/0")).server(ok(100))
    talk.client_seq -= 500_000
    talk.reset(to_server=True)
    talk.client_seq += 500_000
    for n in (1, 2):
        talk.client(get(f"/{n}")).server(ok(1000))
    assert pairs(play(talk.close().packets)) == [("/0", 200, 100), ("/1", 200, 1000), ("/2", 200, 1000)]


def test_what_was_on_its_way_when_a_download_was_aborted_is_its_own() -> None:
    talk = Talk().open().client(get("/big")).server(b"HTTP/1.1 200 OK\r\nContent-Length: 90000\r\n\r\n")
    talk.server(b"x" * 14_600).reset(to_server=True).server(b"x" * 70_000)
    found = play(talk.packets)
    row = found.only()
    assert (row["response_body_bytes"], row["anomaly"]) == (84_600, "closed_early")
    assert found.account["retransmission"] == 0


def test_a_port_that_is_used_again_without_its_handshake_is_another_connection() -> None:
    old = Talk().open().client(get("/old")).server(ok(300)).close()
    new = Talk(client_seq=9_000_000, server_seq=70_000_000, start=old.packets[-1].time + 10**6)
    new.client(get("/new")).server(ok(400)).client(get("/newer")).server(ok(5)).close()
    found = play(old.packets + new.packets)
    assert pairs(found) == [("/old", 200, 300), ("/new", 200, 400), ("/newer", 200, 5)]
    assert found.account["connections"] == 2 and found.account["retransmission"] == 0


def test_one_odd_packet_does_not_make_a_hole() -> None:
    talk = Talk().open().client(get("/a"))
    talk.server_seq += 500_000_000
    talk.server(b"from nowhere")
    talk.server_seq -= 500_000_000 + 12
    found = play(talk.server(ok(9)).client(get("/b")).server(ok(8)).close().packets)
    assert pairs(found) == [("/a", 200, 9), ("/b", 200, 8)]
    assert found.account["missing_bytes"] == 0 and found.account["malformed"] == 12 + 54


# HTTP/2 with a side missing


def raw(*frames: Any) -> bytes:
    return b"".join(f.serialize() for f in frames)


def answered(encoder: hpack.Encoder, stream: int, size: int) -> bytes:
    head = HeadersFrame(stream, encoder.encode([(":status", "200")]), flags=["END_HEADERS"])
    return raw(head, DataFrame(stream, b"z" * size, flags=["END_STREAM"]))


def test_http2_of_which_only_the_server_was_captured() -> None:
    encoder, talk = hpack.Encoder(), Talk().open()
    talk.server(raw(SettingsFrame()))
    for n in range(3):
        talk.server(answered(encoder, 2 * n + 1, 3000 + n))
    found = play(talk.packets)
    assert [(r["stream"], r["method"], r["status"], r["response_body_bytes"]) for r in found.rows] == [
        (1, None, 200, 3000),
        (3, None, 200, 3001),
        (5, None, 200, 3002),
    ]
    assert found.account["connection_overhead"] < 600


def test_a_stream_that_began_before_the_capture_is_a_row() -> None:
    client, server = hpack.Encoder(), hpack.Encoder()
    request = [(":method", "GET"), (":path", "/small"), (":scheme", "http"), (":authority", "h")]
    talk = Talk()
    for n in range(6):
        ask = HeadersFrame(2 * n + 101, client.encode(request), flags=["END_HEADERS", "END_STREAM"])
        talk.client(raw(ask)).server(answered(server, 2 * n + 101, 50))
        talk.server(raw(DataFrame(7, b"f" * 1000)))
    rows = {r["stream"]: r for r in play(talk.close().packets).rows}
    assert rows[7]["response_body_bytes"] >= 5000 and rows[7]["anomaly"] == "undecoded_headers"


def test_what_crosses_a_reset_belongs_to_its_stream() -> None:
    client, server = hpack.Encoder(), hpack.Encoder()
    ask = [(":method", "POST"), (":path", "/up"), (":scheme", "http"), (":authority", "h")]
    talk = Talk().open().client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + raw(SettingsFrame()))
    talk.client(raw(HeadersFrame(1, client.encode(ask), flags=["END_HEADERS"]), DataFrame(1, b"u" * 1000)))
    refusal = HeadersFrame(1, server.encode([(":status", "413")]), flags=["END_HEADERS", "END_STREAM"])
    talk.server(raw(SettingsFrame(), refusal, RstStreamFrame(1, error_code=0)))
    row = play(talk.client(raw(DataFrame(1, b"u" * 4000))).close().packets).only()
    assert (row["status"], row["request_body_bytes"], row["complete"]) == (413, 5000, False)
    assert row["anomaly"] != "stream_reset"


def test_grpc_metadata_that_is_sent_as_it_is() -> None:
    client, server = hpack.Encoder(), hpack.Encoder()
    ask = [
        (":method", "POST"), (":path", "/s.S/M"), (":scheme", "http"), (":authority", "h"),
        ("content-type", "application/grpc"), ("trace-bin", b"\0\x01\x02\r\n\xff"),
    ]  # fmt: skip
    talk = Talk().open().client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + raw(SettingsFrame()))
    talk.client(raw(HeadersFrame(1, client.encode(ask), flags=["END_HEADERS", "END_STREAM"])))
    found = play(
        talk.server(raw(SettingsFrame()) + answered(server, 1, 5)).close().packets, Options(requests=True)
    )
    assert found.only()["anomaly"] is None
    assert b"trace-bin: AQINCv8\r\n" in found.messages[0][2]


# Tunnels and balancers


def test_http_inside_a_tunnel_is_read() -> None:
    talk = Talk(dport=3128).open().client(b"CONNECT big.test:80 HTTP/1.1\r\nHost: big.test:80\r\n\r\n")
    talk.server(b"HTTP/1.1 200 Connection established\r\n\r\n")
    talk.client(get("/a")).server(ok(10)).client(get("/b")).server(ok(20))
    found = play(talk.close().packets)
    assert pairs(found) == [("big.test:80", 200, 0), ("/a", 200, 10), ("/b", 200, 20)]
    assert found.account["switched_protocol"] == 0


@pytest.mark.parametrize("server_first", [False, True])
def test_what_is_not_understood_inside_a_tunnel_is_named(server_first: bool) -> None:
    talk = Talk(dport=3128).open().client(b"CONNECT mail.test:25 HTTP/1.1\r\n\r\n")
    talk.server(b"HTTP/1.1 200 OK\r\n\r\n")
    if server_first:
        talk.server(b"220 mail.test ESMTP\r\n")
    talk.client(b"EHLO x\r\n").server(b"250 ok\r\n" * 100)
    found = play(talk.close().packets)
    inside = found.rows[-1]
    assert (inside["protocol"], inside["endpoint"]) == ("connect", "connect://mail.test:25")
    assert inside["response_body_bytes"] == 800 + 21 * server_first and inside["complete"]


def test_an_upgrade_to_what_is_not_known_is_named() -> None:
    ask = b"GET /vnc HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: SPICE/1\r\n\r\n"
    talk = (
        Talk().open().client(ask).server(b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: SPICE/1\r\n\r\n")
    )
    row = play(talk.server(b"\x01" * 900).client(b"\x02" * 50).close().packets).rows[-1]
    assert (row["endpoint"], row["host"], row["response_body_bytes"]) == ("upgrade://spice/1", "h", 900)


V1 = b"PROXY TCP4 198.51.100.7 10.0.0.2 51000 80\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x21, 0x11, 0, 12, 198, 51, 100, 7, 10, 0, 0, 2, 0xC7, 0x38, 0, 80])


@pytest.mark.parametrize("header", [V1, V2])
@pytest.mark.parametrize("apart", [False, True])
def test_the_client_behind_a_balancer_is_the_client(header: bytes, apart: bool) -> None:
    talk = Talk().open()
    for data in (header, get("/a")) if apart else (header + get("/a"),):
        talk.client(data)
    found = play(talk.server(ok(5)).client(get("/b")).server(ok(6)).close().packets)
    assert {(r["client_ip"], r["client_port"]) for r in found.rows} == {("198.51.100.7", 51_000)}
    assert pairs(found) == [("/a", 200, 5), ("/b", 200, 6)] and found.account["unknown_protocol"] == 0
    assert {(r["proxy_ip"], r["proxy_port"]) for r in found.rows} == {("10.0.0.1", 40_000)}


@pytest.mark.parametrize("cut", range(1, len(V1) + 20))
def test_a_balancers_header_in_pieces(cut: int) -> None:
    for header in (V1, V2):
        data = header + get("/a")
        talk = Talk().open().client(data[:cut]).client(data[cut:])
        row = play(talk.server(ok(5)).close().packets).only()
        assert (row["client_ip"], row["client_port"], row["target"]) == ("198.51.100.7", 51_000, "/a")
        assert row["request_header_bytes"] == len(get("/a")) and row["proxy_ip"] == "10.0.0.1"


@pytest.mark.parametrize(
    "data",
    [
        b"PROXIMITY / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        b"\r\n" + get("/"),
    ],
)
def test_what_begins_like_a_balancers_header_is_none(data: bytes) -> None:
    for cut in range(1, 12):
        found = play(Talk().open().client(data[:cut]).client(data[cut:]).server(OK).close().packets)
        assert found.only()["status"] == 200 and found.only()["proxy_ip"] is None


def test_a_header_names_the_client() -> None:
    talk = Talk().open()
    for value in (b"6.6.6.6, 198.51.100.7", b"[2001:db8::1]:9", b"unknown"):
        talk.client(b"GET /a HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: " + value + b"\r\n\r\n").server(OK)
    packets = talk.close().packets
    found = play(packets, Options(client_from=("x-forwarded-for", 1)))
    ends = [(r["client_ip"], r["client_port"], r["proxy_ip"], r["proxy_port"]) for r in found.rows]
    assert ends == [
        ("198.51.100.7", 0, "10.0.0.1", 40_000),
        ("2001:db8::1", 9, "10.0.0.1", 40_000),
        ("10.0.0.1", 40_000, None, None),
    ]
    assert play(packets, Options(client_from=("X-Forwarded-For", 2))).rows[0]["client_ip"] == "6.6.6.6"
    assert {r["client_ip"] for r in play(packets).rows} == {"10.0.0.1"}


def test_a_header_of_http2_names_the_client() -> None:
    client, server = hpack.Encoder(), hpack.Encoder()
    talk = Talk().open().client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + raw(SettingsFrame()))
    for stream, client_ip in ((1, "198.51.100.7"), (3, "192.0.2.9")):
        ask = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "h")]
        ask.append(("forwarded", f"for=6.6.6.6, for={client_ip};proto=https"))
        talk.client(
            raw(HeadersFrame(stream, client.encode(ask), flags=["END_HEADERS", "END_STREAM"]))
        ).server(answered(server, stream, 10))
    found = play(talk.close().packets, Options(client_from=("forwarded", 1)))
    assert [r["client_ip"] for r in found.rows] == ["198.51.100.7", "192.0.2.9"]


# Copies, fragments, beginnings


def copied(packets: Sequence[Packet], late_ns: int) -> list[Packet]:
    twice = [Packet(p.time + late_ns, p.link, p.orig, p.data) for p in packets]
    return sorted([*packets, *twice], key=lambda p: p.time)


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
def test_a_packet_that_is_captured_twice_moved_once(address: str) -> None:
    other = {"src": address, "dst": "fd00::2"} if ":" in address else {}
    talk = Talk(**other).open().client(get("/a")).server(ok(30_000)).close()  # type: ignore[arg-type]
    once, twice = play(talk.packets), play(copied(talk.packets, 30_000))
    assert twice.rows == once.rows and twice.only()["retransmitted_bytes"] == 0
    assert twice.account["copies"] == once.account["bytes"]


def test_a_segment_that_is_sent_again_is_no_copy() -> None:
    talk = Talk().open().client(get("/a")).server(ok(1000)).again(False, b"x" * 500, 500).close()
    found = play(talk.packets)
    assert found.account["copies"] == 0 and found.account["retransmission"] == 500 + 54


def test_fragments_that_begin_with_destination_options() -> None:
    packets = (
        Talk(src="fd00::1", dst="fd00::2").open().client(get("/frag")).server(ok(3000), 5000).close().packets
    )
    out = []
    for p in packets:
        whole = Ether(p.data)
        if len(p.data) < 2000:
            out.append(p)
            continue
        ip, tcp = whole[IPv6], whole[TCP]
        odd = IPv6(src=ip.src, dst=ip.dst) / IPv6ExtHdrFragment() / IPv6ExtHdrDestOpt() / tcp
        for part in fragment6(odd, 1280):
            data = bytes(Ether(src=whole.src, dst=whole.dst) / part)
            out.append(Packet(p.time, p.link, len(data), data))
    assert len(out) > len(packets)
    found = play(out)
    assert pairs(found) == [("/frag", 200, 3000)] and found.only()["complete"]


@pytest.mark.parametrize("first", [1, 3, 5])
def test_a_tls_hello_whose_first_bytes_come_alone(first: int) -> None:
    name = b"pq.shop.test"
    sni = (
        b"\0\0"
        + (len(name) + 5).to_bytes(2)
        + (len(name) + 3).to_bytes(2)
        + b"\0"
        + len(name).to_bytes(2)
        + name
    )
    body = b"\x03\x03" + bytes(32) + b"\0" + b"\0\x02\x13\x01" + b"\x01\0" + len(sni).to_bytes(2) + sni
    hello = b"\x01" + len(body).to_bytes(3) + body
    record = b"\x16\x03\x01" + len(hello).to_bytes(2) + hello
    talk = Talk(dport=443).open().client(record[:first]).client(record[first:])
    found = play(talk.server(b"\x17\x03\x03\x01\0" + bytes(256)).close().packets)
    assert found.only()["endpoint"] == "tls://pq.shop.test" and found.account["unknown_protocol"] == 0


def test_a_final_block_of_deflate_ends_no_message() -> None:
    talk = opened(b"permessage-deflate; server_no_context_takeover")
    for _ in range(3):
        deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
        talk.server(frame(1, deflate.compress(b"word " * 84) + deflate.flush(zlib.Z_FINISH) + b"\0", 0xC0))
    found = [
        r["response_decoded_bytes"] for r in play(talk.close().packets).rows if r["protocol"] == "websocket"
    ]
    assert found == [420] * 3


# Heads, hosts, times


def test_a_head_over_the_bound_is_a_row() -> None:
    talk = (
        Talk()
        .open()
        .client(get("/q?data=" + "Q" * 120_000))
        .server(ok(10))
        .client(get("/next"))
        .server(ok(20))
    )
    found = play(talk.close().packets)
    first, following = found.rows
    assert first["path"] == "/q" and first["anomaly"] == "head_cut" and first["response_body_bytes"] == 10
    assert following["target"] == "/next" and found.account["memory_bound"] == 0


@pytest.mark.parametrize("host", ["shop.test", "Shop.Test", "shop.test.", "shop.test:80", "SHOP.TEST.:80"])
def test_one_host_has_one_name(host: str) -> None:
    talk = Talk().open().client(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()).server(OK).close()
    assert play(talk.packets).only()["host"] == "shop.test"


def test_credentials_are_no_part_of_a_host() -> None:
    ask = b"GET http://user:pw@Shop.Test:8080/a HTTP/1.1\r\nHost: x\r\n\r\n"
    row = play(Talk(dport=3128).open().client(ask).server(OK).close().packets).only()
    assert row["host"] == "shop.test:8080" and "pw@" in row["target"]


def test_a_response_that_was_captured_first_has_no_durations() -> None:
    packets = Talk().open().client(get("/a")).server(ok(5)).close().packets
    asked, answer = packets[3], packets[4]
    packets[3] = Packet(answer.time, answer.link, answer.orig, answer.data)
    packets[3], packets[4] = (
        Packet(asked.time, answer.link, answer.orig, answer.data),
        Packet(answer.time, asked.link, asked.orig, asked.data),
    )
    row = play(packets).only()
    assert (row["status"], row["duration_ns"], row["first_byte_ns"], row["anomaly"]) == (
        200,
        None,
        None,
        "response_first",
    )


def frames(*parts: tuple[int, bytes]) -> bytes:
    return b"".join(bytes([flag]) + len(data).to_bytes(4) + data for flag, data in parts)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("chunked", [False, True])
def test_grpc_web_says_its_status_in_a_last_frame(text: bool, chunked: bool) -> None:
    body = frames((0, b"abc"), (0, b""), (0x80, b"grpc-status: 7\r\ngrpc-message: no\r\n"))
    kind = "application/grpc-web-text" if text else "application/grpc-web+proto"
    body = base64.b64encode(body) if text else body
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n".encode()
    if chunked:
        parts = [body[i : i + 7] for i in range(0, len(body), 7)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in [*parts, b""])
        head += b"Transfer-Encoding: chunked\r\n\r\n"
    else:
        head += f"Content-Length: {len(body)}\r\n\r\n".encode()
    row = play(Talk().open().client(get("/svc.S/Web")).server(head + body, 11).close().packets).only()
    assert (row["grpc_status"], row["response_messages"], row["response_message_bytes"]) == (7, 2, 3)
    assert row["request_messages"] is None and row["anomaly"] is None


def test_a_page_in_answer_to_a_call_holds_no_messages() -> None:
    page = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 11\r\n\r\n<p>No</p>\r\n"
    ask = (
        b"POST /svc.S/Web HTTP/1.1\r\nHost: h\r\nContent-Type: application/grpc-web\r\nContent-Length:"
        b" 5\r\n\r\n\0\0\0\0\0"
    )
    row = play(Talk().open().client(ask).server(page).close().packets).only()
    assert (row["request_messages"], row["response_messages"], row["grpc_status"]) == (1, None, None)


def test_the_simple_request_of_http_0_9() -> None:
    """RFC 1945 §4.1: a line, and a body until the server closes."""
    talk = Talk().open().client(b"GET /old.html\r\n").server(b"<p>x</p>" * 400)
    row = play(talk.close().packets).only()
    assert (row["protocol"], row["method"], row["target"], row["status"]) == (
        "http/0.9",
        "GET",
        "/old.html",
        None,
    )
    assert (row["request_header_bytes"], row["response_header_bytes"], row["response_body_bytes"]) == (
        15,
        0,
        3200,
    )


def relinked(packets: list[Packet], link: int, header: bytes, cut: int = 14) -> list[Packet]:
    """The same packets as another kind of link has them."""
    return [Packet(p.time, link, p.orig - cut + len(header), header + p.data[cut:]) for p in packets]


NFLOG = bytes([2, 0, 0, 0]) + struct.pack("<HHI", 8, 0x0A, 7) + struct.pack("<HHHxx", 6, 1, 0x800)
RADIO = bytes([0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0])
QOS_DATA = bytes([0x88, 0x01, 0, 0]) + bytes(20) + bytes(2) + b"\xaa\xaa\x03\0\0\0\x08\0"


def test_links_of_netfilter_and_of_the_air() -> None:
    packets = Talk().open().client(get("/a")).server(ok(5)).close().packets
    for link, header in ((127, RADIO + QOS_DATA), (105, QOS_DATA)):
        assert play(relinked(packets, link, header)).only()["status"] == 200
    logged = [
        Packet(
            p.time,
            239,
            len(NFLOG) + 4 + len(p.data) - 14,
            NFLOG + struct.pack("<HH", len(p.data) - 10, 9) + p.data[14:],
        )
        for p in packets
    ]
    assert play(logged).only()["status"] == 200
    secret = relinked(packets, 105, bytes([QOS_DATA[0], 0x41]) + QOS_DATA[2:])
    assert play(secret).account["not_tcp"] == sum(p.orig for p in secret)


def test_rules_over_repeated_fields() -> None:
    """GoReplay's see the first alone."""
    ask = b"GET /a HTTP/1.1\r\nHost: h\r\nX-Team: red\r\nX-Team: blue\r\n\r\n"
    packets = Talk().open().client(ask).server(OK).close().packets
    for first, rows in ((False, 0), (True, 1)):
        options = Options(deny_headers=(("x-team", "blue"),), first_field_only=first)
        assert len(play(packets, options).rows) == rows


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("no key log\n", "it holds no secrets, so TLS is counted and not read"),
        (f"CLIENT_RANDOM {'ab' * 32} {'cd' * 48}\n", "its 1 secrets fit no connection that was captured"),
    ],
)
def test_a_key_log_of_no_use_is_named(tmp_path: Path, log: str, said: str) -> None:
    keys, heard = tmp_path / "keys", []
    keys.write_text(log)
    engine = open_reader(Options(tls_keys=str(keys)), heard.append)
    for p in Talk().open().client(get("/a")).server(OK).close().packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    assert outcome(engine).only()["status"] == 200
    assert heard == [f"--tls-keys {keys}: {said}"]
