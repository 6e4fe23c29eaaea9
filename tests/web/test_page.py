"""The live page in a real browser, headless: what it shows is what the API says.

With SCREENSHOTS set to a folder, pictures for docs/ are left there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from ci.servers import free_port
from tests.conftest import needs
from tests.target import until
from tests.vantages.forwarder.test_command import Running, files, forward
from tests.vantages.forwarder.test_tunnel import both, keys, mapped

assert files and keys  # fixtures


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    needs("chromium", "chromedriver")
    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--lang=en-US",
        "--window-size=1280,1000",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield made
    made.quit()


def opened(browser: Any, f: Running, page: str = "mappings") -> None:
    browser.set_window_size(1280, 1000)
    browser.get(f"http://127.0.0.1:{f.api}/api/stats/monitor#{page}")
    browser.execute_script("localStorage.clear(); sessionStorage.clear()")
    browser.get("about:blank")
    browser.get_log("browser")  # of pages before, whose server has ended
    browser.get(f"http://127.0.0.1:{f.api}/api/stats/monitor#{page}")
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "main section, main form"), 20)


def text(browser: Any, selector: str) -> str:
    return " ".join(e.text for e in browser.find_elements(By.CSS_SELECTOR, selector))


def picture(browser: Any, name: str) -> None:
    if os.environ.get("SCREENSHOTS"):
        browser.save_screenshot(str(Path(os.environ["SCREENSHOTS"]) / name))


def quiet(browser: Any) -> None:
    """No errors in its console, nothing asked of another host."""
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    places = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert places and all(p.startswith(("http://127.0.0.1:", "data:")) for p in places), places


def test_mappings_live(browser: Any, files: int, tmp_path: Path) -> None:
    with forward(tmp_path) as f:
        f.ask("/api/client/create", {"name": "home"})
        port, other = free_port(), free_port()
        f.ask(
            "/api/mapping/create",
            {
                "source_port": port,
                "target_host": "127.0.0.1",
                "target_port": files,
                "client": "home",
                "flow_limit_mb": 100,
            },
        )
        f.ask("/api/mapping/create", {"source_port": other, "target_host": "127.0.0.1", "target_port": files})
        subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{port}/small"], check=True)
        opened(browser, f)
        until(lambda: text(browser, ".state") == "live", 20)
        until(lambda: text(browser, "[data-card=total_sent] .number") == "3.00 MB", 10)
        assert text(browser, "[data-card=tunnel_sent] .number") == "0 B"
        load = subprocess.Popen(
            ["curl", "-s", "--limit-rate", "5M", "-o", "/dev/null", f"http://127.0.0.1:{port}/large"]
        )
        try:
            until(
                lambda: (
                    "KB/s" in text(browser, "[data-card=total_sent] .rate")
                    and text(browser, "[data-card=total_sent] .rate") > "1"
                ),
                10,
            )
            until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#chart svg path")) > 4, 10)
            browser.find_element(By.XPATH, f"//button[text()='{port}']").click()
            until(lambda: "127.0.0.1 — " in text(browser, ".detail"), 10)
            meter = browser.find_element(By.CSS_SELECTOR, "[role=meter]")
            until(lambda: 4 <= int(meter.get_attribute("aria-valuenow")) < 100, 10)
            assert "/ 105 MB" in meter.text
            time.sleep(6 if os.environ.get("SCREENSHOTS") else 0)
            picture(browser, "page-mappings.png")
        finally:
            load.kill()
            load.wait(10)
        # Further back by the wheel, and by buttons.
        chart = browser.find_element(By.ID, "chart")
        webdriver.ActionChains(browser).scroll_from_origin(
            webdriver.common.actions.wheel_input.ScrollOrigin.from_element(chart), 0, 200
        ).perform()
        until(lambda: text(browser, ".ranges [aria-pressed=true]") == "Hour", 5)
        time.sleep(2.5)
        for name in ("Day", "Month", "Year", "Hour"):
            browser.find_element(By.XPATH, f"//div[@class='ranges']/button[text()='{name}']").click()
            until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#chart svg path")) > 4, 10)
        search = browser.find_element(By.CSS_SELECTOR, "input[type=search]")
        search.send_keys(str(other))
        until(lambda: text(browser, "tbody th button") == str(other), 5)
        search.send_keys(Keys.BACKSPACE * 6)
        quiet(browser)


def test_chinese_dark_phone_and_keyboard(browser: Any, files: int, tmp_path: Path) -> None:
    with forward(tmp_path, "--map", f"{free_port()}:127.0.0.1:{files}") as f:
        opened(browser, f)
        until(lambda: text(browser, ".state") == "live", 20)
        browser.find_element(By.XPATH, "//button[text()='中文']").click()
        until(lambda: "总发送流量" in text(browser, ".cards h2"), 5)
        assert browser.find_element(By.TAG_NAME, "html").get_attribute(
            "lang"
        ) == "zh" and "谁在使用带宽" in text(browser, "h1")
        before = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        browser.find_element(By.XPATH, "//button[text()='深色']").click()
        until(
            lambda: (
                browser.execute_script("return getComputedStyle(document.body).backgroundColor") != before
            ),
            5,
        )
        browser.refresh()  # it remembers
        until(lambda: "总发送流量" in text(browser, ".cards h2"), 10)
        assert browser.execute_script("return document.documentElement.classList.contains('dark')")
        for width in (360, 768, 1920):
            browser.set_window_size(width, 900)
            time.sleep(0.3)
            wide, window = browser.execute_script(
                "return [document.documentElement.scrollWidth, window.innerWidth]"
            )
            assert wide <= window, width
            if width == 360:
                until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#chart svg path")) > 2, 15)
                picture(browser, "page-phone.png")
        # Everything is reached with the keyboard: the first stop leads past the head of the page.
        browser.execute_script("document.activeElement.blur()")
        browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
        assert browser.switch_to.active_element.get_attribute("class") == "skip"
        stops = set()
        for _ in range(25):
            active = browser.switch_to.active_element
            stops.add((active.tag_name, active.text))
            active.send_keys(Keys.TAB)
        assert {t for t, _ in stops} >= {"a", "button", "input"}
        unnamed = browser.execute_script(
            "return [...document.querySelectorAll('button, input, a')].filter(e => !(e.textContent.trim() ||"
            " e.ariaLabel || e.labels?.length)).length"
        )
        assert unnamed == 0
        quiet(browser)


def test_polling_where_nothing_can_be_pushed(browser: Any, files: int, tmp_path: Path) -> None:
    with forward(tmp_path, "--map", f"{free_port()}:127.0.0.1:{files}") as f:
        added = browser.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument",
            {
                "source": (
                    "window.WebSocket = class { constructor() { setTimeout(() => this.onclose &&"
                    " this.onclose(), 10) } }"
                )
            },
        )
        try:
            opened(browser, f)
            until(lambda: text(browser, ".state") == "polling", 20)
            until(lambda: text(browser, "[data-card=total_sent] .rate") == "0 KB/s", 15)
        finally:
            browser.execute_cdp_cmd(
                "Page.removeScriptToEvaluateOnNewDocument", {"identifier": added["identifier"]}
            )
        f.stop()
        until(lambda: text(browser, ".state") == "not connected", 15)
        f.start()
        until(lambda: text(browser, ".state") == "polling", 15)
        browser.get_log("browser")  # what could not be fetched meanwhile


def test_it_asks_for_the_token(browser: Any, tmp_path: Path) -> None:
    with forward(tmp_path, token="a-long-secret") as f:
        opened(browser, f)
        field = browser.find_element(By.ID, "token")
        field.send_keys("guess", Keys.ENTER)
        until(lambda: browser.find_elements(By.CSS_SELECTOR, "[role=alert]"), 10)
        browser.find_element(By.ID, "token").send_keys("a-long-secret", Keys.ENTER)
        until(lambda: text(browser, ".state") == "live", 20)
        until(lambda: text(browser, "[data-card=total_sent] .number") == "0 B", 10)
        browser.get_log("browser")  # the refusals of before


def test_endpoints_and_rules(browser: Any, files: int, tmp_path: Path) -> None:
    """Of a capture into the same ledger, and of rules that act."""
    from replaykit.ledger.store import Ledger
    from tests.ledger.conftest import used

    ledger = Ledger(f"sqlite:///{tmp_path / 'usage.db'}")
    now = int(time.time()) // 60 * 60
    wire = {"vantage": "wire", "subject_kind": "endpoint"}
    ledger.write(
        [
            used("/users/{id}", now - 60 * n, 100_000, 900_000 * (n + 1), requests=50, **wire)
            for n in range(20)
        ]
    )
    ledger.write([used("/img/[x]*", now - 60 * n, 1000, 90_000, requests=5, **wire) for n in range(20)])
    port = free_port()
    ledger.write([used(str(port), now, 0, 5_000_000)])
    ledger.close()
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "interval: 0.3s\nrules:\n  - { name: quota, kind: mapping, period: month, limit: 1MB, actions:"
        " [rate_limit: 1MB/s] }\n"
    )
    with forward(tmp_path, "--map", f"{port}:127.0.0.1:{files}", "--rules", str(rules)) as f:
        opened(browser, f, "endpoints")
        until(lambda: "/users/{id}" in text(browser, "tbody"), 15)
        first = text(browser, "tbody tr:first-child")
        assert "99.1 %" in first and "1,000" in first and "189 MB" in first
        for name in ("/img/[x]*", "/users/{id}"):
            browser.find_element(By.XPATH, f"//button[text()='{name}']").click()
            until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#endpoint-chart svg path")) > 4, 10)
        picture(browser, "page-endpoints.png")
        browser.find_element(By.LINK_TEXT, "Rules").click()
        until(lambda: f"mapping {port}: rate_limit" in text(browser, "main"), 15)
        until(lambda: "used 5.00 MB of 1.00 MB (500%)" in text(browser, "tbody"), 15)
        until(lambda: f"quota: mapping {port}" in text(browser, "[data-alerts] li"), 10)
        quiet(browser)


def test_through_a_tunnel_a_byte_counts_once(browser: Any, keys: Path, files: int, tmp_path: Path) -> None:
    """Live, in total and in the chart: what a visitor took, though it went through the tunnel too."""
    with both(keys, tmp_path) as (f, _):
        port = mapped(f, files)
        opened(browser, f)
        until(lambda: text(browser, ".state") == "live", 20)
        load = subprocess.Popen(
            ["curl", "-s", "--limit-rate", "2M", "-o", "/dev/null", f"http://127.0.0.1:{port}/large"]
        )

        def live(card: str) -> float:
            return float(
                text(browser, f"[data-card={card}] .rate").split()[0].replace(",", "").replace("–", "0")
            )

        try:
            until(lambda: live("total_sent") > 0, 15)
            time.sleep(3)  # curl begins with what the sockets hold
            rates = []
            for _ in range(8):
                rates.append((live("total_sent"), live("tunnel_received")))
                time.sleep(1)
        finally:
            load.kill()
            load.wait(10)
        visitors, through = (sum(r) / len(rates) for r in zip(*rates, strict=True))
        assert 1400 < visitors < 2700 and 1400 < through < 2800, rates  # KB/s; twice it would be 4096
        until(lambda: f.ask("/api/mapping/list")[1]["data"][0]["connections"] == 0, 10)
        moved, data = f.moved(port), f.ask("/api/stats/traffic")[1]["data"]
        assert data["total_sent"] == moved[1] + data["tunnel"]["bytes_sent"]  # as the totals add
        until(lambda: text(browser, "[data-card=total_sent] .number") == f"{moved[1] / 1e6:.3g} MB", 10)
        assert text(browser, "[data-card=total_received] .number") == f"{moved[0]} B"
        quiet(browser)
