"""How the API's answers travel: HEAD like GET, compressed, 304 where nothing changed, and in pages; of 5,000
users.
"""

from __future__ import annotations

import gzip
import http.client
import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By

from ci.servers import free_port
from replaykit.ledger.store import Ledger
from replaykit.records.usage import Usage
from replaykit.rules.enforcement import Guard
from replaykit.rules.limits import read_rules
from replaykit.web.delivery import same
from tests.target import until
from tests.vantages.forwarder.test_command import forward
from tests.web.test_page import browser, quiet, text
from tests.web.test_serve import Serving, serve

assert browser  # a fixture
USERS = 5_000


def ask(
    port: int, path: str, method: str = "GET", **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """With just these headers, `_` for `-`; whatever comes after the head is the body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, None, {k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers, body


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Users that all used something, nine of them beyond a limit."""
    root = tmp_path_factory.mktemp("many")
    with closing(Ledger(f"sqlite:///{root / 'usage.db'}")) as ledger:
        now = int(time.time()) // 60 * 60 - 60
        ledger.write(
            [
                Usage(
                    now,
                    60,
                    "netfilter",
                    "user",
                    f"u{n:04}",
                    {"name": f"User {n}", "addresses": f"10.0.{n // 250}.{n % 250}"},
                    1000 * n,
                    n,
                )
                for n in range(USERS)
            ]
        )
        ledger.write(
            [
                Usage(
                    now,
                    60,
                    "hypervisor",
                    "machine",
                    str(100 + n),
                    {"vmid": str(100 + n), "status": "running"},
                    1000,
                    0,
                )
                for n in range(30)
            ]
        )
        (root / "rules.yaml").write_text(
            "rules:\n  - {name: a day, kind: user, period: day, limit: 4990kB, direction: rx, dry_run: true,"
            " actions: [block]}\n"
        )
        Guard(ledger, read_rules(root / "rules.yaml")).step(int(time.time()))
    with serve(root / "usage.db", root) as s:
        yield s


def test_compressed_and_not_sent_twice(many: Serving) -> None:
    path = "/api/totals?vantage=netfilter&kind=user&since=2025-01-01&until=2031-01-01"
    status, headers, whole = ask(many.api, path)
    assert status == 200 and len(whole) > 1_500_000 and headers["Content-Encoding"] is None
    status, headers, body = ask(many.api, path, Accept_Encoding="gzip, br")
    assert headers["Content-Encoding"] == "gzip" and gzip.decompress(body) == whole
    assert (
        len(body) < len(whole) / 10 and "Accept-Encoding" in headers["Vary"] and "Origin" in headers["Vary"]
    )
    tag = headers["ETag"]
    assert re.fullmatch(r'W/"[0-9a-f]{24}"', tag) and headers["Cache-Control"] == "private, no-cache"
    for asked in (tag, f'"other", {tag}', tag.removeprefix("W/"), "*"):
        status, headers, body = ask(many.api, path, Accept_Encoding="gzip", If_None_Match=asked)
        assert (status, body, headers["ETag"]) == (304, b"", tag), asked
        assert headers["X-Total-Count"] == str(USERS) and headers["Content-Encoding"] is None
    assert ask(many.api, path, If_None_Match='"other"')[0] == 200
    # The page is told to look, and keeps its own policy when it has it already.
    status, headers, _ = ask(many.api, "/")
    status, again, body = ask(many.api, "/", If_None_Match=headers["ETag"])
    assert (status, body) == (304, b"")
    assert again["Content-Security-Policy"] == headers["Content-Security-Policy"] != "default-src 'none'"
    # What is no success has no tag, and what is asked with a body is never answered so.
    assert ask(many.api, "/api/totals?since=x", If_None_Match="*")[0] == 400


def test_tags_are_compared_weakly() -> None:
    assert same('W/"a"', 'W/"a"') and same('"a"', 'W/"a"') and same('"b" , W/"a"', '"a"') and same("*", '"a"')
    assert not same("", 'W/"a"') and not same('"ab"', 'W/"a"')


@pytest.mark.parametrize(
    ("path", "total"),
    [
        ("/api/totals?kind=user", USERS),
        ("/api/history?kind=user&period=day", USERS),
        ("/api/vms", 30),
        ("/api/stats?period=month", 30),
        ("/api/history/100?period=minute", None),
        ("/api/logs", 0),
        ("/api/rules/log", 9),
        ("/api/rules", 0),
        ("/api/rules/effects", 0),
        ("/api/alerts", 9),
    ],
)
def test_pages_of_every_list(many: Serving, path: str, total: int | None) -> None:
    """Page after page gives what the whole gives; the shape is the same."""

    def rows(data: Any) -> Any:
        return data["rows"] if isinstance(data, dict) else data

    status, headers, body = ask(many.api, path)
    whole = rows(json.loads(body)["data"])
    assert status == 200 and headers["X-Total-Count"] == str(len(whole) if total is None else total)
    assert len(whole) == int(headers["X-Total-Count"]) and headers["Link"] is None
    step, mark = max(1, len(whole) // 3), "&" if "?" in path else "?"
    found, at, pages = [], f"{path}{mark}limit={step}", 0
    while at:
        status, headers, body = ask(many.api, at)
        page = rows(json.loads(body)["data"])
        assert status == 200 and len(page) <= step and headers["X-Total-Count"] == str(len(whole))
        # Logs: the newest are the first page, and in each the newest is the last.
        found = [*page, *found] if "log" in path else [*found, *page]
        link, pages = re.search(r'<(\?[^>]+)>; rel="next"', headers["Link"] or ""), pages + 1
        at = path.partition("?")[0] + link[1] if link else ""
        assert pages == 1 or 'rel="prev"' in headers["Link"]
    assert found == whole and (pages > 2 or len(whole) < 3)
    for wrong in ("limit=0", "limit=100001", "offset=-1"):
        assert ask(many.api, f"{path}{mark}{wrong}")[0] == 400


def test_found_and_idle(many: Serving) -> None:
    found = json.loads(ask(many.api, "/api/totals?kind=user&search=USER+499&limit=5")[2])["data"]
    assert [r["subject"] for r in found["rows"]] == ["u4999", "u4998", "u4997", "u4996", "u4995"]
    assert found["whole"]["subjects"] == USERS and found["whole"]["rx_bytes"] == 1000 * sum(range(USERS))
    labelled = json.loads(ask(many.api, "/api/totals?kind=user&label=name%3DUser+7")[2])["data"]["rows"]
    assert [r["subject"] for r in labelled] == ["u0007"]
    early = "/api/totals?kind=machine&until=2001-01-01&since=2000-01-01"
    assert json.loads(ask(many.api, early)[2])["data"]["rows"] == []
    idle = json.loads(ask(many.api, f"{early}&idle=true&tally=status")[2])["data"]
    assert len(idle["rows"]) == 30 and idle["tally"] == {"running": 30} and idle["whole"]["total_bytes"] == 0
    assert ask(many.api, "/api/totals?label=name")[0] == 400
    of_one = json.loads(ask(many.api, "/api/rules/log?kind=user&subject=u4999")[2])["data"]
    assert [e["subject"] for e in of_one] == ["u4999"]
    assert json.loads(ask(many.api, "/api/rules/log?kind=mapping")[2])["data"] == []


def test_the_page_asks_for_what_it_shows(browser: Any, many: Serving) -> None:
    browser.set_window_size(1280, 1000)
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(f"http://127.0.0.1:{many.api}/#users")
    until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) == 200, 20)
    assert "5,000" in text(browser, "[data-card=users]")
    moved = (
        "return performance.getEntriesByType('resource').filter(e => e.name.includes('/api/totals')).map(e =>"
        " [e.transferSize, e.decodedBodySize])"
    )
    until(lambda: len(browser.execute_script(moved)) >= 3, 20)  # asked again and again
    sizes = browser.execute_script(moved)
    # 200 of 5,000 rows, compressed; and within a minute nothing but a head.
    assert 0 < sizes[0][1] < 100_000 and sizes[0][0] < 20_000
    assert min(sent for sent, _ in sizes[1:]) < 1_000, sizes
    button = browser.find_element(By.XPATH, "//button[contains(text(), 'Show more')]")
    assert "4,800" in button.text
    button.click()
    until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) == 700, 10)
    browser.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("user 12")
    until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) == 111, 10)
    # One that is far down the list is shown whole.
    browser.get(f"http://127.0.0.1:{many.api}/#users/u0003")
    until(lambda: "User 3 (u0003)" in text(browser, "h2") and "10.0.0.3" in text(browser, "main"), 15)
    quiet(browser)


def test_head_wherever_get(tmp_path: Path) -> None:
    """Every route of its own description, the page, its parts, streams and what is not there."""
    with forward(tmp_path) as f:
        made = {"source_port": free_port(), "target_host": "127.0.0.1", "target_port": f.api}
        assert f.ask("/api/mapping/create", made)[0] == 200
        paths = f.ask("/openapi.json")[1]["paths"]
        given = {"name": str(made["source_port"]), "vmid": "100"}
        needed = {"/api/limits": f"vantage=forwarder&kind=mapping&subject={given['name']}"}
        routes = [p.format(**given) + "?" + needed.get(p, "") for p, ways in paths.items() if "get" in ways]
        assert len(routes) > 20 and "/api/stats/events?" in routes
        statuses = set()
        for path in (
            *routes,
            "/",
            "/openapi.json",
            "/static/app.js",
            "/static/nothing",
            "/api/nothing",
            "/api/client/create",
        ):
            begun = time.monotonic()
            status, head, body = ask(f.api, path, "HEAD")
            assert body == b"" and time.monotonic() - begun < 5, path
            asked = path + "most=1" if "events" in path else path
            expected, headers, body = ask(f.api, asked)
            assert status == expected, path
            assert (
                head["Content-Type"] == headers["Content-Type"]
                and head["X-Total-Count"] == headers["X-Total-Count"]
            ), path
            assert (head["ETag"] is None) == (headers["ETag"] is None), path
            if "/stats" not in path and "report" not in path and status == 200:
                assert abs(int(head["Content-Length"]) - len(body)) < 9, path  # times in it may have grown
            statuses.add(status)
        assert statuses >= {200, 404, 405}
        # A stream is neither compressed nor tagged.
        status, headers, body = ask(f.api, "/api/stats/events?most=1", Accept_Encoding="gzip")
        assert body.startswith(b"data: {") and headers["Content-Encoding"] is None and headers["ETag"] is None


def test_head_of_the_other_pages() -> None:
    """Of a pipeline's health page, and of users' metrics."""
    from replaykit.web.health import Health

    health = Health("127.0.0.1:0", lambda: {"ok": True, "metrics": {("a_total", ()): 1}})
    try:
        for path, status in (("/health", 200), ("/metrics", 200), ("/else", 404)):
            _, headers, whole = ask(health.port, path)
            found, head, body = ask(health.port, path, "HEAD")
            assert (found, body) == (status, b"") and head["Content-Length"] == str(len(whole))
            assert head["Content-Type"] == headers["Content-Type"]
    finally:
        health.close()
