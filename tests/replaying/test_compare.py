"""Recorded and replayed responses: what counts as a difference."""

from __future__ import annotations

import gzip
from typing import Any

from replaykit.replaying import compare
from replaykit.replaying.compare import Comparison, Numbers, Side
from tests.target import get


def response(body: bytes, *lines: str, status: int = 200) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status} X", *lines, f"Content-Length: {len(body)}", "", ""])
    return head.encode() + body


def pair(recorded: bytes, replayed: bytes, **how: Any) -> compare.Differences:
    comparison = Comparison(**how)
    comparison.replayed(b"id", Side(replayed, 2_000_000, get("/users/7?x=1")))
    comparison.recorded(b"id", Side(recorded, 1_000_000))
    comparison.finish()
    assert comparison.unpaired == 0 and list(comparison.endpoints) == ["/users/{id}"]
    found = comparison.endpoints["/users/{id}"]
    assert comparison.different == 1 - found.same
    return found


def test_same_responses() -> None:
    found = pair(response(b"hello"), response(b"hello"))
    assert (found.pairs, found.same, found.recorded_ns, found.replayed_ns) == (1, 1, 1_000_000, 2_000_000)


def test_status_header_and_body() -> None:
    found = pair(response(b"a"), response(b"b", status=500))
    assert (found.status, found.body, found.same) == (1, 1, 0)
    assert found.examples[0]["recorded"] == "200" and found.examples[0]["replayed"] == "500"
    assert pair(response(b"a", "ETag: 1"), response(b"a", "ETag: 2")).same == 1
    assert pair(response(b"a", "ETag: 1"), response(b"a", "ETag: 2"), headers=["etag"]).header == 1
    assert pair(response(b"a"), response(b"b"), body="none").same == 1


def test_content_codings_and_chunks_are_no_difference() -> None:
    zipped = response(gzip.compress(b"hello"), "Content-Encoding: gzip")
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    assert pair(zipped, chunked).same == 1


def test_json() -> None:
    one = response(b'{"a": 1, "at": 5, "items": [{"id": 1, "n": 2}]}')
    two = response(b'{"items":[{"n":2,"id":9}],"at":6,"a":1}')
    assert pair(one, two, body="json").body == 1
    assert pair(one, two, body="json", ignore=["at", "$.items[*].id"]).same == 1
    assert pair(response(b"no json"), response(b"nor this"), body="json").body == 1
    deep = response(b"[" * 100_000)
    assert pair(deep, response(b"["), body="json").body == 1


def test_what_has_no_other_half_is_counted(monkeypatch: Any) -> None:
    comparison = Comparison()
    comparison.recorded(b"a", Side(response(b"x")))
    comparison.recorded(b"a", Side(response(b"y")))
    comparison.finish()
    assert comparison.unpaired == 2
    monkeypatch.setattr(compare, "MAX_WAITING", 1000)
    bounded = Comparison()
    for n in range(100):
        bounded.recorded(b"%d" % n, Side(response(b"x" * 90)))
    assert bounded.unpaired > 80


def test_ids_that_repeat_are_paired_in_their_order() -> None:
    comparison, asked, answered = Comparison(), Numbers(), Numbers()
    names = [asked.next(b"a") for _ in range(3)]
    for body in (b"0", b"1", b"2"):
        comparison.recorded(answered.next(b"a"), Side(response(body)))
    for n in (2, 0, 1):  # responses come in any order
        comparison.replayed(names[n], Side(response(b"%d" % n), None, get("/x")))
    comparison.finish()
    assert (comparison.different, comparison.unpaired, comparison.endpoints["/x"].pairs) == (0, 0, 3)
