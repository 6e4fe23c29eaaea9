"""What a conversation's exchanges were, by h11, or by hyperframe and hpack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import h11
import hpack
from hyperframe.exceptions import HyperframeError
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PushPromiseFrame,
    RstStreamFrame,
)

from replaykit.witness import websocket
from replaykit.witness.conversations import Conversation, Direction
from replaykit.witness.reading import Exchange, Undecided

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_LARGEST_FRAME = 1 << 24


def exchanges(conversation: Conversation) -> list[Exchange]:
    """Raises Undecided."""
    client, server = conversation.directions()
    for side in (client, server):
        if side.doubt:
            raise Undecided(side.doubt)
    if client.data.startswith(PREFACE):
        return _http2(client, server)
    return _http1(client, server)


@dataclass
class _Message:
    start: Any
    at: int
    head: int
    body: int


def _http1(client: Direction, server: Direction) -> list[Exchange]:
    out, asked, at = [], 0, 0
    while client.data[asked:].strip(b"\r\n"):
        request, asked = _request(client, asked)
        if at >= len(server.data):
            raise Undecided("a request has no response")
        response, at = _response(server, at, request.start)
        target = request.start.target.decode("latin-1")
        out.append(
            Exchange(
                request.start.method.decode(),
                target,
                response.start.status_code,
                request.head,
                request.body,
                response.head,
                response.body,
                (client.packet(request.at), server.packet(response.at)),
            )
        )
        if response.start.status_code == 101 and (b"upgrade", b"websocket") in _lowered(response.start):
            said = websocket.messages(client, asked, target, False)
            return [*out, *said, *websocket.messages(server, at, target, True)]
        if response.start.status_code == 101 or request.start.method == b"CONNECT":
            raise Undecided("another protocol follows")
    if server.data[at:].strip(b"\r\n"):
        raise Undecided("the server said more than was asked")
    return out


def _lowered(start: Any) -> list[tuple[bytes, bytes]]:
    return [(bytes(name).lower(), bytes(value).lower()) for name, value in start.headers]


def _head_bytes(data: bytes) -> int:
    """Of the head at the start of the data."""
    ends = [at + len(mark) for mark in (b"\r\n\r\n", b"\n\n") if (at := data.find(mark)) >= 0]
    if not ends:
        raise Undecided("a head without an end")
    return min(ends)


def _request(client: Direction, at: int) -> tuple[_Message, int]:
    """The request from `at` on, and where it ends."""
    rest = client.data[at:]
    at += len(rest) - len(rest.lstrip(b"\r\n"))
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
    start, body, used = _read(reader, client.data[at:], client.ended)
    return _Message(start, at, _head_bytes(client.data[at:]), body), at + used


def _response(server: Direction, at: int, request: h11.Request) -> tuple[_Message, int]:
    reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 24)
    method = request.method if request.method in (b"HEAD", b"CONNECT") else b"GET"
    switch = [(n, v) for n, v in request.headers if bytes(n).lower() in (b"upgrade", b"connection")]
    reader.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"h"), *switch]))
    reader.send(h11.EndOfMessage())
    rest = server.data[at:]
    skipped = len(rest) - len(rest.lstrip(b"\r\n"))
    at, rest = at + skipped, rest[skipped:]
    start, body, used = _read(reader, rest, server.ended)
    head = 0
    while True:  # interim responses come before the final one
        head = _head_bytes(rest)
        if not (rest.startswith(b"HTTP/1.1 1") and not rest.startswith(b"HTTP/1.1 101")):
            break
        rest = rest[head:]
    return _Message(start, at, head, body), at + used


def _read(reader: h11.Connection, data: bytes, ended: bool) -> tuple[Any, int, int]:
    """The message's start, the bytes of its body, and how many bytes it took."""
    start, body = None, 0
    try:
        reader.receive_data(data)
        closed = False
        while True:
            event = reader.next_event()
            if isinstance(event, h11.Request | h11.Response):
                start = event
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    return event, 0, _head_bytes(data)
            elif isinstance(event, h11.Data):
                body += len(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return start, body, len(data) - len(reader.trailing_data[0])
            elif event in (h11.NEED_DATA, h11.PAUSED) and ended and not closed:
                closed = True
                reader.receive_data(b"")
            else:
                raise Undecided("a message without an end")
    except h11.RemoteProtocolError as error:
        raise Undecided(f"h11: {error}") from None


@dataclass
class _Stream:
    fields: tuple[dict[bytes, bytes], ...] = ({}, {})
    header: tuple[list[int], list[int]] = ([], [])
    body: tuple[list[int], list[int]] = ([], [])
    ended: tuple[list[bool], list[bool]] = ([], [])
    packets: tuple[list[int], list[int]] = ([], [])


def _http2(client: Direction, server: Direction) -> list[Exchange]:
    streams: dict[int, _Stream] = {}
    for d, (side, at) in enumerate(((client, len(PREFACE)), (server, 0))):
        _frames(d, side, at, streams)
    out = []
    for _, s in sorted(streams.items()):
        if not (s.ended[0] and s.ended[1]) or b":status" not in s.fields[1]:
            raise Undecided("a stream without an end")
        fields = s.fields[0]
        out.append(
            Exchange(
                fields[b":method"].decode(),
                fields.get(b":path", b"").decode("latin-1"),
                int(s.fields[1][b":status"]),
                sum(s.header[0]),
                sum(s.body[0]),
                sum(s.header[1]),
                sum(s.body[1]),
                (s.packets[0][0], s.packets[1][0]),
            )
        )
    return out


def _frames(d: int, side: Direction, at: int, streams: dict[int, _Stream]) -> None:
    decoder = hpack.Decoder(max_header_list_size=1 << 24)
    decoder.max_allowed_table_size = 1 << 20
    block, sizes, ends, data = b"", 0, False, side.data
    while at < len(data):
        try:
            frame, length = Frame.parse_frame_header(memoryview(data[at : at + 9]))
            if at + 9 + length > len(data) or length > _LARGEST_FRAME:
                raise Undecided("a frame that is not whole")
            frame.parse_body(memoryview(data[at + 9 : at + 9 + length]))
        except (HyperframeError, ValueError) as error:
            raise Undecided(f"hyperframe: {error}") from None
        if isinstance(frame, RstStreamFrame | PushPromiseFrame | GoAwayFrame):
            raise Undecided(f"{type(frame).__name__}: streams that end otherwise are not looked at")
        if isinstance(frame, HeadersFrame | ContinuationFrame | DataFrame):
            s = streams.setdefault(frame.stream_id, _fresh())
            s.packets[d].append(side.packet(at))
            if isinstance(frame, DataFrame):
                s.body[d].append(len(frame.data))
                ends = "END_STREAM" in frame.flags
            else:
                if isinstance(frame, HeadersFrame):
                    block, sizes, ends = b"", 0, "END_STREAM" in frame.flags
                block, sizes = block + frame.data, sizes + length
                if "END_HEADERS" not in frame.flags:
                    at += 9 + length
                    continue
                try:
                    found = {bytes(n): bytes(v) for n, v in decoder.decode(block, raw=True)}
                except hpack.HPACKError as error:
                    raise Undecided(f"hpack: {error}") from None
                if not found.get(b":status", b"").startswith(b"1"):
                    s.header[d].append(sizes)
                    s.fields[d].update(found)
            if ends:
                s.ended[d].append(True)
            ends = False
        at += 9 + length


def _fresh() -> _Stream:
    return _Stream(({}, {}), ([], []), ([], []), ([], []), ([], []))
