"""Sums, shares, percentiles: they always add up."""

from __future__ import annotations

import random

import pytest

from replaykit.attribution.patterns import read_patterns
from replaykit.attribution.summary import OTHER, Summary, percentile
from replaykit.engine.engine import Engine
from replaykit.engine.options import Options
from replaykit.errors import UsageError
from replaykit.records.exchange import SCHEMA
from replaykit.units import parse_duration, parse_size, show_ns, show_size
from tests.talk import Talk, rows


def batches(paths: list[str], weight: float = 1.0, size: int = 500):  # type: ignore[no-untyped-def]
    engine = Engine(Options(weight=weight))
    r = random.Random(1)
    for i, path in enumerate(paths):
        talk = Talk(sport=1024 + i).open().client(f"GET {path} HTTP/1.1\r\nHost: h{i % 3}\r\n\r\n".encode())
        n = r.randrange(size)
        talk.server(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=x\r\nContent-Length: %d\r\n\r\n" % n
            + bytes(n)
        ).close()
        for p in talk.packets:
            engine.feed_packet(p.link, p.time, p.orig, p.data)
    engine.finish()
    return engine.take_exchanges()


@pytest.mark.parametrize(
    "by",
    [("endpoint",), ("host", "endpoint"), ("client",), ("status",), ("content_type",), ("method", "server")],
)
def test_groups_add_up_to_the_rows(by: tuple[str, ...]) -> None:
    batch = batches([f"/a/{i}" for i in range(20)] + ["/b"] * 5)
    table = rows(batch)
    for one in (batch, batch.cast(SCHEMA)):
        summary = Summary(by)
        summary.add(one)
        summary.add(one)
        groups = summary.top()
        assert sum(g.requests for _, g in groups) == 2 * len(table)
        for name in ("link_bytes", "request_header_bytes", "response_body_bytes", "response_wire_bytes"):
            assert sum(getattr(g, name) for _, g in groups) == 2 * sum(r[name] for r in table)
        assert summary.total.link_bytes == sum(g.link_bytes for _, g in groups)
        assert [g.wire_bytes for _, g in groups] == sorted((g.wire_bytes for _, g in groups), reverse=True)


def test_top_keeps_the_rest_as_other() -> None:
    summary = Summary()
    summary.add(batches([f"/{name}" for name in "abcdefgh"]))
    top = summary.top(3)
    assert len(top) == 4 and top[-1][0] == (OTHER,)
    assert sum(g.link_bytes for _, g in top) == summary.total.link_bytes


def test_cardinality_is_bounded_and_still_adds_up() -> None:
    summary = Summary(("path",), max_keys=50)
    for part in range(5):
        summary.add(batches([f"/p{part}x{i}" for i in range(60)]))
    assert len(summary.top()) <= 51
    assert sum(g.requests for _, g in summary.top()) == 300


def test_siblings_are_joined_over_all_that_is_known() -> None:
    names = [f"/tags/t{chr(97 + i % 26)}{chr(97 + i // 26)}/x" for i in range(150)]
    summary = Summary()
    for begin in range(0, 150, 30):  # shown again and again, as a live table is
        summary.add(batches(["/users/a/posts", *names[begin : begin + 30]]))
        shown = dict(summary.top())
        assert len(shown) == (begin + 31 if begin < 90 else 2), shown.keys()
    assert shown[("/tags/{name}/x",)].requests == 150


def test_weights_estimate_the_whole() -> None:
    plain, weighted = Summary(), Summary()
    plain.add(batches(["/a"] * 10))
    weighted.add(batches(["/a"] * 10, weight=4.0))
    assert weighted.total.requests == 40
    assert weighted.total.link_bytes == 4 * plain.total.link_bytes
    assert weighted.total.max_response_bytes == plain.total.max_response_bytes


def test_percentiles_are_close() -> None:
    batch = batches(["/a"] * 300, size=5000)
    summary = Summary()
    summary.add(batch)
    sizes = sorted((r["request_wire_bytes"] + r["response_wire_bytes"]) for r in rows(batch))
    for share in (0.5, 0.95, 0.99):
        assert percentile(summary.total.sizes, share) == pytest.approx(
            sizes[int(len(sizes) * share) - 1], rel=0.03
        )
    assert percentile({}, 0.5) is None


def test_sizes_and_durations() -> None:
    assert [parse_size(t) for t in ("500", "500MB", "500MiB", "1.5k", "2GiB")] == [
        500,
        500_000_000,
        524_288_000,
        1500,
        2 << 30,
    ]
    assert [parse_duration(t) for t in ("90s", "1h30m", "250ms")] == [90, 5400, 0.25]
    assert [show_size(n) for n in (0, 999, 1234, 12_345, 1e9)] == [
        "0 B",
        "999 B",
        "1.23 kB",
        "12.3 kB",
        "1.00 GB",
    ]
    assert show_ns(1_234_567) == "1.23 ms"
    for bad in ("", "5 apples", "-1"):
        with pytest.raises(UsageError):
            parse_size(bad)
        with pytest.raises(UsageError):
            parse_duration(bad)


def test_patterns_from_text_and_openapi(tmp_path) -> None:  # type: ignore[no-untyped-def]
    text = tmp_path / "a.txt"
    text.write_text("# ours\n/users/{id}\n\n/files/*  # all\n")
    assert read_patterns(str(text)) == ("/users/{id}", "/files/*")
    api = tmp_path / "api.yaml"
    api.write_text("openapi: 3.0.0\nservers: [{url: 'https://x/api/v2'}]\npaths:\n  /users/{name}: {}\n")
    assert read_patterns(str(api)) == ("/api/v2/users/{name}",)
    text.write_text("users\n")
    with pytest.raises(UsageError, match=r"a\.txt:1"):
        read_patterns(str(text))
    api.write_text("{")
    with pytest.raises(UsageError, match="not YAML"):
        read_patterns(str(api))
