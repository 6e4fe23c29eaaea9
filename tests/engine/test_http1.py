"""HTTP/1 as it is spoken: who says what, and what it is measured to be. Both engines, always."""

from __future__ import annotations

import pytest

from replaykit.engine.options import Options
from tests.talk import Talk, play

GET = b"GET /a?b=1 HTTP/1.1\r\nHost: example.org\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello"


def test_a_request_and_its_answer() -> None:
    row = play(Talk().open().client(GET).server(OK).close().packets).only()
    assert (row["method"], row["scheme"], row["host"], row["target"]) == (
        "GET",
        "http",
        "example.org",
        "/a?b=1",
    )
    assert (row["path"], row["endpoint"], row["protocol"]) == ("/a", "/a", "http/1.1")
    assert (row["status"], row["content_type"], row["content_encoding"]) == (200, "text/plain", None)
    assert (row["request_header_bytes"], row["request_body_bytes"], row["request_wire_bytes"]) == (
        len(GET),
        0,
        len(GET),
    )
    assert (row["response_header_bytes"], row["response_body_bytes"]) == (len(OK) - 5, 5)
    assert (row["client_ip"], row["client_port"], row["server_ip"], row["server_port"]) == (
        "10.0.0.1",
        40000,
        "10.0.0.2",
        80,
    )
    assert row["complete"] and row["anomaly"] is None and row["weight"] == 1.0
    assert row["link_bytes"] == len(GET) + len(OK) + 2 * 54
    assert row["duration_ns"] == row["first_byte_ns"] == 100_000


# What the client says, what the server says, and per exchange: method, target, status, sizes of
# request head and body, response head and body, and whether it is complete.
CONVERSATIONS = {
    "keep-alive": ([GET, GET], [OK, OK], [("GET", "/a?b=1", 200, 42, 0, 64, 5, True)] * 2),
    "no answer": ([GET], [], [("GET", "/a?b=1", None, 42, 0, None, None, False)]),
    "posted length": (
        [b"POST /p HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"],
        [b"HTTP/1.1 204 No Content\r\n\r\n"],
        [("POST", "/p", 204, 39, 3, 27, 0, True)],
    ),
    "chunked with extension and trailer": (
        [GET],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n"],  # noqa: E501
        [("GET", "/a?b=1", 200, 42, 0, 47, 11, True)],
    ),
    "chunked request": (
        [b"PUT /u HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"],
        [OK],
        [("PUT", "/u", 200, 53, 3, 64, 5, True)],
    ),
    "body until close": ([GET], [b"HTTP/1.0 200 OK\r\n\r\n", b"all of it"], [("GET", "/a?b=1", 200, 42, 0, 19, 9, True)]),  # noqa: E501
    "HEAD has no body": (
        [b"HEAD / HTTP/1.1\r\n\r\n", GET],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", OK],
        [("HEAD", "/", 200, 19, 0, 40, 0, True), ("GET", "/a?b=1", 200, 42, 0, 64, 5, True)],
    ),
    "304 has no body": (
        [GET, GET],
        [b"HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\n\r\n", OK],
        [("GET", "/a?b=1", 304, 42, 0, 49, 0, True), ("GET", "/a?b=1", 200, 42, 0, 64, 5, True)],
    ),
    "100 before the answer": (
        [b"POST /p HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", b"ab"],
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", OK],
        [("POST", "/p", 200, 61, 2, 64, 5, True)],
    ),
    "bare line feeds": ([b"GET / HTTP/1.1\nHost: h\n\n"], [b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx"], [("GET", "/", 200, 24, 0, 35, 1, True)]),  # noqa: E501
    "equal lengths twice": ([GET], [b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab"], [("GET", "/a?b=1", 200, 42, 0, 41, 2, True)]),  # noqa: E501
    "folded header": ([GET], [b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"], [("GET", "/a?b=1", 200, 42, 0, 49, 1, True)]),  # noqa: E501
    "leading zeros": ([GET], [b"HTTP/1.1 200 OK\r\nContent-Length: 0000000000000000000002\r\n\r\nab"], [("GET", "/a?b=1", 200, 42, 0, 59, 2, True)]),  # noqa: E501
    "blank line after a body": ([GET, GET], [OK + b"\r\n", OK], [("GET", "/a?b=1", 200, 42, 0, 64, 5, True)] * 2),  # noqa: E501
    "lower-case version is no HTTP": ([GET], [b"http/1.1 200 OK\r\n\r\n"], [("GET", "/a?b=1", None, 42, 0, None, None, False)]),  # noqa: E501
}  # fmt: skip
COLUMNS = (
    "method", "target", "status", "request_header_bytes", "request_body_bytes", "response_header_bytes",
    "response_body_bytes", "complete",
)  # fmt: skip


@pytest.mark.parametrize("mss", [1460, 7, 1])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations(name: str, mss: int) -> None:
    client, server, expected = CONVERSATIONS[name]
    talk = Talk().open()
    for i in range(max(len(client), len(server))):
        for data in client[i : i + 1]:
            talk.client(data, mss)
        for data in server[i : i + 1]:
            talk.server(data, mss)
    found = play(talk.close().packets, Options(requests=True, responses=True))
    assert [tuple(r[c] for c in COLUMNS) for r in found.rows] == expected
    whole = [row for row in expected if row[-1]]
    assert len(found.messages) >= 2 * len(whole)


def test_pipelining_pairs_in_order_with_own_ids() -> None:
    talk = Talk().open().client(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % i for i in range(5)), 33)
    talk.server(
        b"".join(b"HTTP/1.1 40%d No\r\nContent-Length: %d\r\n\r\n%s" % (i, i, b"x" * i) for i in range(5)), 41
    )
    found = play(talk.close().packets, Options(requests=True, responses=True))
    assert [(r["target"], r["status"], r["response_body_bytes"]) for r in found.rows] == [
        (f"/{i}", 400 + i, i) for i in range(5)
    ]
    requests = [m for m in found.messages if m[0] == 1]
    responses = [m for m in found.messages if m[0] == 2]
    assert len({m[1] for m in requests}) == 5
    assert {m[1] for m in requests} == {m[1] for m in responses}


def test_messages_are_byte_for_byte() -> None:
    post = b"POST /p HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    found = play(
        Talk().open().client(post, 10).server(OK, 9).close().packets, Options(requests=True, responses=True)
    )
    assert [m[2] for m in found.messages] == [post, OK]


def test_goreplays_id() -> None:
    """Ports, client address, and the server's next sequence number (internal/tcp/tcp_message.go)."""
    found = play(Talk().open().client(GET).server(OK).packets, Options(requests=True, responses=True))
    assert {m[1] for m in found.messages} == {f"{40000:04x}{80:04x}{0x0A000001:08x}{5001:08x}"}


@pytest.mark.parametrize(
    ("head", "anomaly"),
    [
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", "conflicting_framing"),
        (b"Content-Length: 5\r\nContent-Length: 6", "bad_content_length"),
        (b"Content-Length: 99999999999999999999", "bad_content_length"),
        (b"Transfer-Encoding: gzip", "bad_transfer_encoding"),
        (b"Transfer-Encoding: chunked, gzip", "bad_transfer_encoding"),
        (b"Content-Length: 0\r\nno colon here", "bad_header_line"),
        (b"Content-Length : 0", "bad_header_line"),
    ],
)
def test_broken_framing_is_flagged(head: bytes, anomaly: str) -> None:
    row = play(
        Talk().open().client(GET).server(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n0\r\n\r\n").close().packets
    ).rows[0]
    assert row["status"] == 200 and row["anomaly"] == anomaly


def test_a_bad_chunk_size_loses_no_byte() -> None:
    found = play(
        Talk()
        .open()
        .client(GET)
        .server(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\nmore")
        .close()
        .packets
    )
    row = found.only()
    assert row["anomaly"] == "bad_chunk" and not row["complete"]
    assert row["response_body_bytes"] == 3 + 8


def test_an_early_answer_waits_for_its_request() -> None:
    talk = Talk().open().client(b"POST /p HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc")
    talk.server(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").client(b"def").client(GET).server(OK)
    found = play(talk.close().packets)
    assert [(r["status"], r["request_body_bytes"], r["complete"]) for r in found.rows] == [
        (413, 6, True),
        (200, 0, True),
    ]


def test_closed_early() -> None:
    row = play(Talk().open().client(GET).server(OK[:-2]).close().packets).only()
    assert not row["complete"] and row["anomaly"] == "closed_early" and row["response_body_bytes"] == 3


def test_what_is_no_http_is_named() -> None:
    found = play(
        Talk(dport=443).open().client(b"\x99\x03\x01\x02\x00\x01").server(b"\x99\x03\x03").close().packets
    )
    assert not found.rows
    assert found.account["unknown_protocol"] == 6 + 3 + 2 * 54


def test_absolute_targets_and_trace_ids() -> None:
    request = (
        b"GET HTTPS://shop.example:8443/items?page=2#x HTTP/1.1\r\nHost: other\r\n"
        b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\n"
    )
    row = play(Talk().open().client(request).server(OK).packets).only()
    assert (row["scheme"], row["host"], row["path"]) == ("https", "shop.example:8443", "/items")
    assert row["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    row = play(
        Talk().open().client(b"GET / HTTP/1.1\r\nX-B3-TraceId: 463ac35c9f6413ad\r\n\r\n").server(OK).packets
    ).only()
    assert row["trace_id"] == "463ac35c9f6413ad"


def test_filters_deny_and_are_counted() -> None:
    talk = Talk().open()
    for path, agent in ((b"/health", b"probe"), (b"/shop", b"web"), (b"/admin", b"web")):
        talk.client(b"GET " + path + b" HTTP/1.1\r\nUser-Agent: " + agent + b"\r\n\r\n").server(OK)
    packets = talk.close().packets
    whole = play(packets)
    cost = {r["target"]: r["link_bytes"] for r in whole.rows}
    found = play(
        packets, Options(deny_urls=("^/adm",), deny_headers=(("user-agent", "^probe$"),), requests=True)
    )
    assert [r["target"] for r in found.rows] == ["/shop"]
    assert found.account["denied"] == cost["/health"] + cost["/admin"]
    assert len(found.messages) == 1
    assert not play(packets, Options(allow_headers=(("authorization", None),))).rows
    assert (
        len(play(packets, Options(allow_headers=(("User-Agent", None),), allow_urls=("shop", "adm"))).rows)
        == 2
    )
    assert not play(packets, Options(allow_methods=("^POST$",))).rows


def test_redaction_hides_values_and_keeps_sizes() -> None:
    request = (
        b"GET /a?token=secret&x=1 HTTP/1.1\r\nAuthorization: Bearer secret\r\n secret\r\nHost: h\r\n\r\n"
    )
    found = play(
        Talk()
        .open()
        .client(request)
        .server(b"HTTP/1.1 200 OK\r\nSet-Cookie: secret\r\nContent-Length: 0\r\n\r\n")
        .packets,
        Options(
            requests=True,
            responses=True,
            redact_headers=("authorization", "set-cookie"),
            redact_parameters=("Token",),
        ),
    )
    row = found.only()
    assert row["target"] == "/a?token=***&x=1" and row["request_header_bytes"] == len(request)
    assert found.messages[0][2] == b"GET /a?token=***&x=1 HTTP/1.1\r\nAuthorization: ***\r\nHost: h\r\n\r\n"
    assert b"secret" not in found.messages[1][2]


def test_headers_only_takes_sizes_from_sequence_numbers() -> None:
    """The kernel cut each packet after its first 200 bytes: bodies were never captured."""
    from dataclasses import replace

    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"2000\r\n" + bytes(8192) + b"\r\n"
    talk = (
        Talk()
        .open()
        .client(GET)
        .server(answer)
        .client(GET)
        .server(chunked)
        .server(b"0\r\n\r\n")
        .client(GET)
        .server(OK)
    )
    cut = [replace(p, data=p.data[:200]) for p in talk.close().packets]
    found = play(cut)
    assert [(r["response_body_bytes"], r["complete"]) for r in found.rows] == [
        (100_000, True),
        (8192, True),
        (5, True),
    ]
    assert found.account["bytes"] == sum(p.orig for p in cut)
    assert found.account["truncated"] == 0


def test_hidden_chunk_sizes_are_flagged() -> None:
    """Two chunks in one packet that was cut inside the first: the second's size was not seen."""
    from dataclasses import replace

    chunked = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"200\r\n"
        + bytes(512)
        + b"\r\n10\r\n"
        + bytes(16)
        + b"\r\n"
    )
    talk = Talk().open().client(GET).server(chunked).server(b"0\r\n\r\n").client(GET).server(OK)
    found = play([replace(p, data=p.data[:200]) for p in talk.close().packets])
    row = found.rows[0]
    assert (row["response_body_bytes"], row["complete"], row["anomaly"]) == (
        512 + 22 + 5,
        False,
        "chunks_hidden",
    )
    assert found.rows[1]["complete"]


def test_a_head_cut_by_the_snap_length_keeps_its_endpoint() -> None:
    from dataclasses import replace

    talk = (
        Talk().open().client(b"GET /long HTTP/1.1\r\nCookie: " + b"x" * 400 + b"\r\n\r\n").server(OK).close()
    )
    found = play([replace(p, data=p.data[:120]) for p in talk.packets])
    row = found.only()
    assert row["target"] == "/long" and row["anomaly"] == "head_cut" and not row["complete"]


def test_the_clients_address_in_a_header() -> None:
    options = Options(requests=True, responses=True, real_ip_header="X-Real-IP")
    get = b"GET / HTTP/1.1\r\nHost: h\r\nX-Real-IP: lie\r\n\r\n"
    post = b"POST / HTTP/1.1\r\nContent-Length: 20\r\n\r\nX-Real-IP: body-----"
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    for src, dst in (("10.0.0.1", "10.0.0.2"), ("2001:db8::1", "2001:db8::2")):
        found = play(
            Talk(src=src, dst=dst).open().client(get).server(ok).client(post).server(ok).close().packets,
            options,
        )
        assert [m[2] for m in sorted(found.messages, key=lambda m: m[1]) if m[0] == 1] == [
            get.replace(b"lie", src.encode()),
            post.replace(b"Content-Length", b"X-Real-IP: " + src.encode() + b"\r\nContent-Length"),
        ]


def test_messages_with_bytes_missing_are_handed_out_if_wanted() -> None:
    body = bytes(range(250)) * 20
    request = b"POST / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n" + body
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    talk = Talk().open().client(request, mss=1000).server(ok).close()
    del talk.packets[5]
    strict = play(talk.packets, Options(requests=True))
    assert strict.messages == []
    loose = play(talk.packets, Options(requests=True, allow_incomplete=True))
    ((_, _, payload),) = loose.messages
    assert len(payload) == len(request) - 1000 and payload.startswith(request[:2000])
    assert not loose.only()["complete"] and loose.only()["missing_bytes"] == 1000
    cut = Talk().open().client(request[:20], mss=1000)
    del cut.packets[3]
    assert play(cut.packets, Options(requests=True, allow_incomplete=True)).messages == []
