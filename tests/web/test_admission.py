"""Who may ask the API: a browser's other pages may not, neither may guessers, nor who sends without end."""

from __future__ import annotations

import asyncio
import http.client
import json
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from ci.servers import free_port
from replaykit.errors import UsageError
from replaykit.web.admission import MOST_BODY_BYTES, MOST_STREAMS, Brake, origin
from tests.target import until
from tests.vantages.forwarder.test_command import Running, forward, running
from tests.web.test_page import browser

assert browser  # a fixture
EVIL = "http://evil.example"


def ask(
    port: int, path: str, method: str = "GET", body: Any = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """With just these headers, `_` for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


@pytest.fixture(scope="module")
def open_one(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A forwarder without a token, that knows one other front end."""
    with forward(tmp_path_factory.mktemp("open"), "--allow-origin", "http://127.0.0.1:5173/") as f:
        yield f


def socket_of(f: Running, **headers: str) -> str:
    """The first push, or how it was refused."""

    async def listen() -> str:
        async with connect(f"ws://127.0.0.1:{f.api}/api/stats/ws", additional_headers=headers) as socket:
            return str(json.loads(await asyncio.wait_for(socket.recv(), 5))["total_sent"])

    try:
        return asyncio.run(listen())
    except InvalidStatus as error:
        return str(error.response.status_code)


def test_other_sites_pages_are_refused(open_one: Running) -> None:
    own = f"http://127.0.0.1:{open_one.api}"
    assert socket_of(open_one) == socket_of(open_one, Origin=own) == "0"
    assert socket_of(open_one, Origin=EVIL) == socket_of(open_one, Origin="null") == "403"
    assert socket_of(open_one, Origin=f"http://127.0.0.1:{open_one.api + 1}") == "403"
    mapping = json.dumps(
        {"source_port": free_port(), "target_host": "127.0.0.1", "target_port": open_one.api}
    )
    for method, path in (
        ("POST", "/api/mapping/create"),
        ("DELETE", "/api/mapping/1"),
        ("GET", "/api/stats/events?most=1"),
    ):
        for headers in (
            {"Origin": EVIL},
            {"Origin": "null"},
            {"Origin": "http://127.0.0.1"},
            {"Sec_Fetch_Site": "cross-site"},
        ):
            status, _, body = ask(open_one.api, path, method, mapping, **headers)
            assert status == 403 and not json.loads(body)["success"], (path, headers)
    assert open_one.ask("/api/mapping/list")[1]["data"] == []
    for headers in (
        {"Sec_Fetch_Dest": "image"},
        {"Sec_Fetch_Dest": "iframe"},
        {"Sec_Fetch_Dest": "document"},
    ):
        assert ask(open_one.api, "/api/report", Sec_Fetch_Site="cross-site", **headers)[0] == 403
    assert ask(open_one.api, "/api/report", Sec_Fetch_Site="same-site", Sec_Fetch_Dest="image")[0] == 403
    # A link to the page may be followed, and what is asked from it is asked from here.
    assert ask(open_one.api, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="document")[0] == 200
    assert ask(open_one.api, "/", Sec_Fetch_Site="cross-site", Sec_Fetch_Dest="iframe")[0] == 403
    assert ask(open_one.api, "/api/totals", Sec_Fetch_Site="same-origin", Origin=own)[0] == 200


def test_a_front_end_of_ones_own(open_one: Running) -> None:
    friend = "http://127.0.0.1:5173"
    status, headers, _ = ask(open_one.api, "/api/totals", Origin=friend, Sec_Fetch_Site="same-site")
    assert status == 200 and headers["Access-Control-Allow-Origin"] == friend
    assert headers["Access-Control-Allow-Credentials"] == "true" and "Origin" in headers["Vary"]
    asked = {"Access_Control_Request_Method": "POST", "Access_Control_Request_Headers": "content-type"}
    status, headers, _ = ask(open_one.api, "/api/mapping/create", "OPTIONS", Origin=friend, **asked)
    assert status == 204 and "POST" in headers["Access-Control-Allow-Methods"]
    assert "Content-Type" in headers["Access-Control-Allow-Headers"]
    status, headers, _ = ask(open_one.api, "/api/mapping/create", "OPTIONS", Origin=EVIL, **asked)
    assert status == 403 and headers["Access-Control-Allow-Origin"] is None
    assert socket_of(open_one, Origin=friend) == "0"


@pytest.mark.parametrize("text", ["*", "null", "localhost:5173", "http://h/path", "ftp://h", "http://h:x"])
def test_origins_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="--allow-origin"):
        origin(text)


def test_every_answer_has_the_headers_and_host_is_checked_everywhere(open_one: Running) -> None:
    for path, status in (
        ("/", 200),
        ("/health", 200),
        ("/openapi.json", 200),
        ("/static/app.js", 200),
        ("/api/totals", 200),
        ("/api/nothing", 404),
        ("/api/report?format=html", 200),
        ("/api/mapping/list", 200),
    ):
        found, headers, _ = ask(open_one.api, path)
        assert found == status, path
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin", path
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"], path
        assert ask(open_one.api, path, Host="evil.example")[0] == 400, path
    assert socket_of(open_one, Host="evil.example") == "400"


def test_bodies_and_streams_are_bounded(open_one: Running) -> None:
    announced = http.client.HTTPConnection("127.0.0.1", open_one.api, timeout=20)
    announced.putrequest("POST", "/api/mapping/create")
    announced.putheader("Content-Type", "application/json")
    announced.putheader("Content-Length", str(MOST_BODY_BYTES + 1))
    announced.endheaders()  # refused by its length, before a byte of it is read
    answer = announced.getresponse()
    assert answer.status == 413 and b"1,048,576" in answer.read()
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    announced.close()
    pieces = iter([b" " * (1 << 16)] * 40)  # sent in chunks, without a length
    try:
        status, _, _ = ask(
            open_one.api, "/api/mapping/create", "POST", pieces, Content_Type="application/json"
        )
        assert status == 413
    except (BrokenPipeError, ConnectionResetError):  # it was cut amid the body
        status = 413
    assert open_one.ask("/health")[0] == 200
    until(lambda: socket_of(open_one) == "0", 20)  # those of other tests have gone

    async def many() -> int:
        url, taken, refused = f"ws://127.0.0.1:{open_one.api}/api/stats/ws", [], 0
        try:
            for _ in range(MOST_STREAMS + 5):
                try:
                    taken.append(await connect(url))
                except InvalidStatus as error:
                    refused += error.response.status_code == 503
        finally:
            for socket in taken:
                await socket.close()
        return refused

    assert asyncio.run(many()) == 5
    until(lambda: socket_of(open_one) == "0", 10)  # their places are free again


def test_without_a_token_nothing_is_opened_to_others(open_one: Running, tmp_path: Path) -> None:
    made = {"source_port": free_port(), "target_host": "127.0.0.1", "target_port": 9, "listen": "0.0.0.0"}
    status, answer = open_one.ask("/api/mapping/create", made)
    assert status == 403 and "REPLAYKIT_TOKEN" in answer["message"]
    assert open_one.ask("/api/mapping/create", {**made, "listen": "127.0.0.2"})[0] == 200
    with forward(tmp_path, token="a-long-secret") as f:
        assert f.ask("/api/mapping/create", {**made, "source_port": free_port()})[0] == 200


def test_wrong_tokens_are_braked(tmp_path: Path) -> None:
    with forward(tmp_path, token="a-long-secret") as f:
        found = [f.ask("/api/totals", token=f"guess-{n}")[0] for n in range(40)]
        assert found.count(401) <= 6 and found.count(429) >= 34
        status, headers, body = ask(f.api, "/api/totals", Authorization="Bearer guess")
        assert status == 429 and int(headers["Retry-After"]) <= 6 and b"too many wrong tokens" in body
        # The right one is not told from a guess by who has never had it.
        assert f.ask("/api/totals")[0] == 429
    (tmp_path / "other").mkdir()
    with forward(tmp_path / "other", token="a-long-secret") as f:
        assert f.ask("/api/totals")[0] == 200
        assert [f.ask("/api/totals", token=f"guess-{n}")[0] for n in range(40)].count(429) >= 34
        # Somebody behind the same address has the right one, and is not locked out; the guesses stay braked.
        for _ in range(3):
            assert f.ask("/api/totals")[0] == 200
            assert f.ask("/api/totals", token="guess")[0] == 429
        assert ask(f.api, "/api/totals", X_API_Token="a-long-secret")[0] == 200
        assert f.ask("/health")[0] == 200
        # Without the token nothing of a body is read, and unknown paths are not told apart.
        status, headers, _ = ask(f.api, "/api/mapping/create", "POST", b"{", Content_Type="application/json")
        assert status == 401 and headers["WWW-Authenticate"] == "Bearer"
        assert ask(f.api, "/api/nothing")[0] == 401


def test_the_brake() -> None:
    now = [0.0]
    brake = Brake(lambda: now[0])
    for _ in range(5):
        assert brake.wait_s("192.0.2.1") == 0
        brake.failed("192.0.2.1")
    assert brake.wait_s("192.0.2.1") == 6 and brake.wait_s("192.0.2.2") == 0
    now[0] = 6.0
    assert brake.wait_s("192.0.2.1") == 0
    brake.succeeded("192.0.2.1")
    assert brake.is_known("192.0.2.1") and not brake.is_known("192.0.2.2")
    now[0] = 4000.0
    assert not brake.is_known("192.0.2.1")
    for n in range(20_000):
        brake.failed(f"place {n}")
    assert len(brake._spent) <= 10_000


PAGE = """<!doctype html><title>other</title><p id=socket>?</p><p id=image>?</p><script>
const say = (id, text) => document.getElementById(id).textContent = text;
const socket = new WebSocket("ws://127.0.0.1:PORT/api/stats/ws");
socket.onmessage = event => say("socket", "read " + event.data);
socket.onerror = () => say("socket", "refused");
const image = new Image();
image.onload = () => say("image", "loaded");
image.onerror = () => say("image", "refused");
image.src = "http://127.0.0.1:PORT/api/report?format=png";
</script><iframe src="http://127.0.0.1:PORT/api/report"></iframe>"""


def test_a_page_of_another_site_in_a_browser(browser: Any, open_one: Running, tmp_path: Path) -> None:
    import sys

    (tmp_path / "index.html").write_text(PAGE.replace("PORT", str(open_one.api)))
    port = free_port()
    with running(
        [sys.executable, "-m", "http.server", "-d", str(tmp_path), "-b", "127.0.0.1", str(port)],
        port,
        tmp_path,
    ):
        for host in ("127.0.0.1", "localhost"):
            browser.get(f"http://{host}:{port}/")
            until(lambda: browser.find_element(By.ID, "socket").text == "refused", 15)
            until(lambda: browser.find_element(By.ID, "image").text == "refused", 15)
        browser.get("about:blank")
        browser.get_log("browser")
