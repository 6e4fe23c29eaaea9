"""Rules over requests: what GoReplay's own tests show of each, and both forms of the core alike."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replaykit.engine.gor_records import Counts, open_records
from replaykit.engine.rewriting import Rules
from replaykit.errors import UsageError
from replaykit.records.message import SEPARATOR, Messages
from replaykit.replaying.outgoing import CUT, HEAD, IDEMPOTENT, NO_REQUEST, OTHER, TUNNEL, Aim, prepare

POST = b"POST /post HTTP/1.1\r\nContent-Length: 7\r\nHost: www.w3.org\r\n\r\na=1&b=2"


def gor(*records: tuple[int, str, int, bytes]) -> bytes:
    return b"".join(b"%d %s %d 0\n%s" % (k, i.encode(), t, p) + SEPARATOR for k, i, t, p in records)


def read(data: bytes, rules: Rules, depth: int = 0) -> tuple[Messages, Counts]:
    records = open_records(rules, depth)
    assert records.feed(data, 0, len(data)) == len(data)
    return records.take(True), records.counts()


def judge(rules: Rules, payload: bytes) -> bytes | None:
    """What the rules make of one request."""
    messages, counts = read(gor((1, "a", 1, payload)), rules)
    assert counts.denied == 1 - len(messages)
    return next(iter(messages)).payload if len(messages) else None


def passes(rules: Rules, payload: bytes) -> bool:
    return judge(rules, payload) is not None


def url(text: str) -> bytes:
    return POST.replace(b"/post", text.encode())


def test_header_filters() -> None:
    assert passes(Rules(allow_headers=(("Host", "^www.w3.org$"),)), POST)
    assert not passes(Rules(allow_headers=(("Host", "^www.w4.org$"),)), POST)
    assert not passes(Rules(deny_headers=(("host", "www*"),)), POST)
    assert passes(Rules(deny_headers=(("Host", "^www.w4.org$"),)), POST)
    assert passes(Rules(allow_headers=(("HOST", None),)), POST)
    assert not passes(Rules(allow_headers=(("User-Agent", None),)), POST)


def test_methods_and_urls() -> None:
    assert passes(Rules(allow_methods=("^GET$", "^POST$")), POST)
    assert not passes(Rules(allow_methods=("^GET$",)), POST)
    two = Rules(allow_urls=("/v1/app", "/v1/api"))
    assert passes(two, url("/v1/app/test")) and passes(two, url("/v1/api/test"))
    assert not passes(two, url("/other"))
    denied = Rules(deny_urls=("/restricted1", "/some/restricted2"))
    assert not passes(denied, url("/restricted1")) and not passes(denied, url("/some/restricted2"))
    assert passes(denied, url("/other"))


def test_basic_auth() -> None:
    def request(credentials: bytes) -> bytes:
        return POST.replace(b"Host", b"Authorization: Basic " + base64.b64encode(credentials) + b"\r\nHost")

    rules = Rules(basic_auth=("^customer[0-9].*",))
    assert passes(rules, request(b"customer3:welcome")) and passes(rules, request(b"customer6:rest@123^TEST"))
    other = Rules(basic_auth=("^(homer simpson|mickey mouse).*",))
    assert not passes(other, request(b"customer3:welcome"))
    assert passes(other, request(b"mickey mouse:happy123"))
    assert passes(other, POST)  # without credentials


def test_share_by_hash() -> None:
    header = Rules(header_limits=((b"Header2", 50),))
    assert passes(header, POST)
    assert not passes(header, POST.replace(b"Host", b"Header2: 3\r\nHost"))
    assert passes(header, POST.replace(b"Host", b"Header2: 1\r\nHost"))
    param = Rules(param_limits=((b"user_id", 50),))
    assert passes(param, url("/")) and passes(param, url("/?user_id=1"))
    assert not passes(param, url("/?user_id=3"))
    assert passes(param, url("/?my_user_id=3"))


def test_set_header_and_parameter() -> None:
    rules = Rules(set_headers=((b"Header1", b"1"), (b"Host", b"localhost")))
    expected = b"POST /post HTTP/1.1\r\nHeader1: 1\r\nContent-Length: 7\r\nHost: localhost\r\n\r\na=1&b=2"
    assert judge(rules, POST) == expected
    key = Rules(set_params=((b"api_key", b"1"),))
    assert judge(key, url("/post?api_key=1234")) == url("/post?api_key=1")
    assert judge(key, url("/post?a=b")) == url("/post?a=b&api_key=1")
    assert judge(key, url("/post")) == url("/post?api_key=1")


def test_rewriting() -> None:
    rules = Rules(rewrite_urls=((r"/v1/user/([^\/]+)/ping", b"/v2/user/$1/ping"),))
    assert judge(rules, url("/v1/user/joe/ping")) == url("/v2/user/joe/ping")
    assert judge(rules, url("/v1/user/ping")) == url("/v1/user/ping")
    host = Rules(rewrite_headers=((b"Host", "(.*).w3.org", b"$1.beta.w3.org"),))
    assert b"\r\nHost: www.beta.w3.org\r\n" in (judge(host, POST) or b"")
    assert b"\r\nHost: www.w3.org.test\r\n" in (
        judge(Rules(rewrite_headers=((b"Host", "(.*)", b"$1.test"),)), POST) or b""
    )
    names = Rules(rewrite_urls=((r"/(?P<who>\w+)", b"/${who}x/$whox/$$"),))
    assert judge(names, url("/joe")) == url("/joex//$")


def test_a_pattern_that_cannot_be_read_is_named() -> None:
    with pytest.raises(UsageError, match="regular expression"):
        open_records(Rules(allow_urls=("(",)))


def test_answers_share_the_fate_of_their_request() -> None:
    ok = b"HTTP/1.1 200 OK\r\n\r\n"
    data = gor((1, "a", 1, POST), (2, "a", 2, ok), (1, "b", 3, url("/x")), (2, "b", 4, ok), (3, "a", 5, ok))
    messages, counts = read(data, Rules(deny_urls=("post",)))
    assert [(m.kind, m.id) for m in messages] == [(1, "b"), (2, "b")]
    assert counts == Counts(records=5, requests=2, denied=3, denied_requests=1)


def test_order_of_time() -> None:
    times = [5, 3, 9, 1, 7]
    data = gor(*((1, f"i{t}", t, POST) for t in times))
    messages, counts = read(data, Rules())
    assert messages.index["time_ns"].tolist() == sorted(times) and counts.disordered == 2 + 1
    assert [m.id for m in messages] == [f"i{t}" for t in sorted(times)]
    # held back across pieces
    records = open_records(Rules(), 2)
    out = []
    at = 0
    for part in data.split(SEPARATOR)[:-1]:
        end = at + len(part) + len(SEPARATOR)
        records.feed(data, at, end)
        at = end
        out += records.take(False).index["time_ns"].tolist()
    assert out + records.take(True).index["time_ns"].tolist() == [3, 1, 5, 7, 9]


TEXT = st.text(alphabet="aAb:%?&=/ \r\n$1{}é", max_size=12).map(str.encode)
PAYLOAD = st.one_of(
    # A head that has begun and does not end would wait for the rest of it.
    st.binary(max_size=60).filter(lambda b: b"HTTP" not in b and b"ICY" not in b),
    st.builds(
        lambda m, t, lines, body: m + b" " + t + b" HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body,
        st.sampled_from([b"GET", b"POST", b"HEAD", b"CONNECT", b"P{"]),
        st.one_of(TEXT, st.sampled_from([b"/a?b=1&c=2", b"http://h/x", b"*", b"://a", b"h://"])),
        st.lists(
            st.one_of(
                TEXT,
                st.sampled_from(
                    [
                        b"Host: h",
                        b"a:  b ",
                        b"Authorization: Basic YTpi",
                        b"Content-Length: 3",
                        b"CONNECTION: x",
                    ]
                ),
            ),
            max_size=5,
        ),
        st.binary(max_size=5),
    ),
)
RULES = st.builds(
    Rules,
    allow_headers=st.lists(
        st.tuples(st.sampled_from(["a", "Host"]), st.sampled_from([None, "a", "^$"])), max_size=1
    ).map(tuple),
    deny_urls=st.lists(st.sampled_from(["a", "=1"]), max_size=1).map(tuple),
    basic_auth=st.lists(st.sampled_from(["^a", "^b"]), max_size=1).map(tuple),
    header_limits=st.lists(st.tuples(st.sampled_from([b"a", b"host"]), st.integers(0, 100)), max_size=1).map(
        tuple
    ),
    param_limits=st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.integers(0, 100)), max_size=1).map(
        tuple
    ),
    set_headers=st.lists(
        st.tuples(st.sampled_from([b"a", b"Host", b"x"]), st.sampled_from([b"", b"v w"])), max_size=2
    ).map(tuple),
    set_params=st.lists(
        st.tuples(st.sampled_from([b"a", b"b"]), st.sampled_from([b"", b"9"])), max_size=2
    ).map(tuple),
    rewrite_urls=st.lists(
        st.tuples(st.sampled_from(["/(a+)", "b", "^", "(.*)", "a*", "(?P<a>/)(b)?"]), TEXT), max_size=2
    ).map(tuple),
    rewrite_headers=st.lists(
        st.tuples(st.sampled_from([b"a", b"Host"]), st.sampled_from(["(h)", "b$", "(.*)", "(.*?)"]), TEXT),
        max_size=2,
    ).map(tuple),
)


@settings(max_examples=1000, deadline=None)
@given(
    RULES,
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from("abc"), st.integers(-5, 5), PAYLOAD), max_size=6),
)
@pytest.mark.slow
def test_each_record_is_judged_alone(rules: Rules, records: list[tuple[int, str, int, bytes]]) -> None:
    """Together or one at a time, and a second time: the same comes out, and what is sent is one row a
    record.
    """
    together, counts = read(gor(*records), rules)
    one_at_a_time = open_records(rules)
    for record in records:
        data = gor(record)
        assert one_at_a_time.feed(data, 0, len(data)) == len(data)
    assert bytes(one_at_a_time.take(True).blob()) == bytes(together.blob())
    assert one_at_a_time.counts() == counts and counts.records - counts.denied == len(together)
    for aim in (Aim(), Aim(b"t:80", b"/p"), Aim(None, b"", b"/fixed")):
        sent = prepare(together, aim)
        assert len(sent.what) == len(together)
        assert all(begin <= end <= len(sent.data) for begin, end in zip(sent.start, sent.end, strict=True))


def outgoing(payload: bytes, aim: Aim) -> tuple[int, bytes]:
    messages, _ = read(gor((1, "a", 1, payload)), Rules())
    row = prepare(messages, aim)
    return row.what[0], bytes(row.data)


def test_what_is_sent_to_a_target() -> None:
    aim = Aim(host=b"staging:8080")
    get = b"GET /a HTTP/1.1\r\nHost: prod\r\nConnection: close\r\nExpect: 100-continue\r\nX: y\r\n\r\n"
    assert outgoing(get, aim) == (IDEMPOTENT, b"GET /a HTTP/1.1\r\nHost: staging:8080\r\nX: y\r\n\r\n")
    assert outgoing(get, Aim())[1].count(b"Host: prod") == 1
    assert outgoing(POST, aim)[0] == OTHER
    assert outgoing(POST[:-1], aim) == (CUT, b"")
    assert outgoing(b"CONNECT h:443 HTTP/1.1\r\n\r\n", aim) == (TUNNEL, b"")
    assert outgoing(b"no request", aim) == (NO_REQUEST, b"")
    assert outgoing(b"HEAD http://prod/x?y HTTP/1.1\r\n\r\n", Aim(prefix=b"/p")) == (
        HEAD,
        b"HEAD /p/x?y HTTP/1.1\r\n\r\n",
    )
    assert outgoing(b"GET /a HTTP/1.1\r\n\r\n", Aim(fixed=b"/f?g"))[1] == b"GET /f?g HTTP/1.1\r\n\r\n"


def test_requests_of_one_connection_share_a_session() -> None:
    ids = ("9c4000500a00000100001389", "9c4000500a00000100009999", "9c4100500a00000100001389")
    messages, _ = read(gor(*((1, i, 1, POST) for i in ids)), Rules())
    one, two, three = prepare(messages, Aim()).session
    assert one == two != three
