"""`replaykit serve`: one page over all vantages, and from an endpoint to its exchanges, of a real
capture's.
"""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from selenium.webdriver.common.by import By

from ci.servers import free_port
from replaykit.ledger.store import Ledger
from replaykit.records.usage import Reading, Usage
from tests.target import until
from tests.vantages.forwarder.test_command import running
from tests.web.test_page import browser, picture, quiet, text

assert browser  # a fixture
SHOP = Path(__file__).parents[2] / "samples" / "shop.pcap.gz"


class Serving:
    """The command, and its API."""

    def __init__(self, port: int) -> None:
        self.api = port

    def ask(self, path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.api}{path}", timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@contextmanager
def serve(ledger: Path, root: Path, *more: str) -> Iterator[Serving]:
    port = free_port()
    command = [sys.executable, "-m", "replaykit", "serve", str(ledger), "--api", f"127.0.0.1:{port}", *more]
    with running(command, port, root):
        yield Serving(port)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample, moved to now, in a ledger and an archive, as `capture --to usage.db --to day/` would leave
    them.
    """
    root = tmp_path_factory.mktemp("shop")
    (root / "shop.pcap").write_bytes(moved(gzip.decompress(SHOP.read_bytes()), time.time() - 600))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "replaykit",
            "exchanges",
            str(root / "shop.pcap"),
            "--to",
            f"sqlite:///{root / 'usage.db'}",
            "--to",
            f"{root}/day/",
            "--quiet",
        ],
        check=True,
    )
    return root


def moved(pcap: bytes, to: float) -> bytes:
    """A classic pcap file whose first packet is at `to`."""
    order = "little" if pcap[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else "big"
    out, at, shift = bytearray(pcap), 24, None
    while at + 16 <= len(out):
        seconds = int.from_bytes(out[at : at + 4], order)
        shift = int(to) - seconds if shift is None else shift
        out[at : at + 4] = (seconds + shift).to_bytes(4, order)
        at += 16 + int.from_bytes(out[at + 8 : at + 12], order)
    return bytes(out)


def test_exchanges_behind_an_endpoint(shop: Path, tmp_path: Path) -> None:
    rows = [r for f in (shop / "day").rglob("*.parquet") for r in pq.read_table(f).to_pylist()]
    assert len(rows) > 50

    def wire(row: dict[str, Any]) -> int:
        return (row["request_wire_bytes"] or 0) + (row["response_wire_bytes"] or 0)

    with serve(shop / "usage.db", tmp_path, "--exchanges", str(shop / "day")) as s:
        endpoint = max((r["endpoint"] for r in rows), key=lambda e: sum(r["endpoint"] == e for r in rows))
        of = sorted((wire(r) for r in rows if r["endpoint"] == endpoint), reverse=True)
        name = urllib.request.quote(endpoint, safe="")
        status, answer = s.ask(f"/api/exchanges?endpoint={name}&order=largest&most=5")
        assert status == 200 and [r["wire_bytes"] for r in answer["data"]] == of[:5]
        newest = s.ask(f"/api/exchanges?endpoint={name}&most=1000")[1]["data"]
        assert len(newest) == len(of) and [r["time"] for r in newest] == sorted(
            (r["time"] for r in newest), reverse=True
        )
        assert {r["endpoint"] for r in newest} == {endpoint}
        # Whom an address talks to: the sums of its exchanges.
        address = newest[0]["server_ip"]
        found = s.ask(f"/api/endpoints?address={address}&most=1000")[1]["data"]
        assert sum(r["total_bytes"] for r in found) == sum(
            wire(r) for r in rows if address in (r["client_ip"], r["server_ip"])
        )
        # The ledger says the same of the endpoint as its exchanges do.
        kind = next(k for k in s.ask("/api/overview")[1]["data"]["kinds"] if k["kind"] == "endpoint")
        assert kind["rx_bytes"] + kind["tx_bytes"] == sum(map(wire, rows))
        assert s.ask("/api/exchanges?status=5")[1]["data"] == [
            r for r in s.ask("/api/exchanges?most=1000")[1]["data"] if r["status"] and r["status"] >= 500
        ]
        assert s.ask("/api/exchanges?until=2020-01-01")[1]["data"] == []
        assert s.ask("/api/exchanges?most=0")[0] == 400
        assert s.ask("/api/stats/traffic")[0] == 404  # there is no forwarder here
    with serve(shop / "usage.db", tmp_path) as s:
        status, answer = s.ask("/api/exchanges")
        assert status == 404 and "--exchanges" in answer["message"]


def test_the_page(browser: Any, shop: Path, tmp_path: Path) -> None:
    with serve(shop / "usage.db", tmp_path, "--exchanges", str(shop / "day")) as s:
        browser.get(f"http://127.0.0.1:{s.api}/")
        until(lambda: browser.find_elements(By.CSS_SELECTOR, "[data-kind=endpoint] li"), 20)
        first = browser.find_element(By.CSS_SELECTOR, "[data-kind=endpoint] li a")
        name = first.text
        first.click()  # from the overview to the endpoint, its chart and its exchanges
        until(lambda: "Exchanges of" in text(browser, ".exchanges h3"), 15)
        assert name in text(browser, ".exchanges h3")
        until(lambda: browser.find_elements(By.CSS_SELECTOR, ".exchanges tbody tr button"), 15)
        browser.find_element(By.CSS_SELECTOR, ".exchanges tbody button").click()
        until(lambda: "response_body_bytes" in text(browser, ".exchanges dl"), 10)
        picture(browser, "page-exchanges.png")
        browser.find_element(By.XPATH, "//button[text()='Largest']").click()
        until(lambda: not browser.find_elements(By.CSS_SELECTOR, ".exchanges dl"), 10)
        quiet(browser)


def test_users_and_machines(browser: Any, shop: Path, tmp_path: Path) -> None:
    """The list with its search and filter, one with its chart and the endpoints behind it, in Chinese and on
    a phone.
    """
    with closing(Ledger(f"sqlite:///{shop / 'usage.db'}")) as ledger:
        now = int(time.time()) // 60 * 60
        records: list[Usage] = []
        behind: dict[str, str] = {}
        for n in range(40):
            machine = {
                "vmid": str(100 + n), "name": f"web-{n}", "status": "stopped" if n % 8 == 7 else "running", "node": f"pve{n % 3 + 1}", "type": "lxc" if n % 5 == 4 else "qemu",  # noqa: E501
                "tags": "vps;paid" if n % 2 else "vps", **({"addresses": "10.0.0.2"} if n == 3 else {}),
            }  # fmt: skip
            behind = machine if n == 3 else behind
            user = {"name": f"User {n}", "addresses": f"10.0.16.{n}"}
            for h in range(48):
                at, size = now - 3600 * h, (n + 1) * 1_000_000 * (h % 5 + 1)
                records.append(Usage(at, 60, "hypervisor", "machine", str(100 + n), machine, size, size // 3))
                records.append(Usage(at, 60, "netfilter", "user", f"u{n:02}", user, size // 2, size // 9))
            records.append(
                Usage(now, 60, "netfilter", "interface", "wg0", {}, 9 * 10**9, 10**9, source=str(n))
            )
        ledger.write(records)
        # Nobody could ask the hypervisor for four hours.
        stands = [
            ("hypervisor", "machine", "103", behind),
            ("netfilter", "user", "u39", user),
        ]
        for hours, size in ((9, 0), (5, 80_000_000), (4, 100_000_000)):
            ledger.read([Reading(now - 3600 * hours, *who, size) for who in stands], 10)
    (tmp_path / "rules.yaml").write_text(
        "rules:\n  - {name: 1 GB a month, kind: machine, period: month, limit: 1GB, direction: rx, actions:"
        " [stop]}\n  - {name: a day, kind: user, period: day, limit: 1kB, actions: [block]}\n"
    )
    rules = ("--rules", str(tmp_path / "rules.yaml"))
    with serve(shop / "usage.db", tmp_path, "--exchanges", str(shop / "day"), *rules) as s:
        browser.set_window_size(1280, 1000)
        browser.get("about:blank")
        browser.get_log("browser")  # of pages before, whose server has ended
        browser.get(f"http://127.0.0.1:{s.api}/")
        until(lambda: len(browser.find_elements(By.CSS_SELECTOR, ".kind")) == 4, 20)
        assert {e.get_attribute("data-kind") for e in browser.find_elements(By.CSS_SELECTOR, ".kind")} == {
            "endpoint",
            "machine",
            "user",
            "interface",
        }
        browser.find_element(By.XPATH, "//button[text()='Month']").click()
        time.sleep(1)
        picture(browser, "page-overview.png")
        browser.find_element(By.LINK_TEXT, "Machines").click()
        until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) == 40, 15)
        assert "35" in text(browser, "[data-card=running]") and "40" in text(browser, "[data-card=machines]")
        browser.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("web-3")
        until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) == 11, 5)
        browser.find_element(By.CSS_SELECTOR, "select").send_keys("stopped")
        until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "tbody tr")) == 2, 5)
        browser.get(f"http://127.0.0.1:{s.api}/#machines/103")
        until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#subject-chart svg path")) > 4, 15)
        until(
            lambda: browser.find_elements(By.CSS_SELECTOR, ".behind li"), 15
        )  # what the wire saw of its address
        assert "vps;paid" in text(browser, "main") and "web-3" in text(browser, "h2")
        (limit,) = s.ask("/api/limits?vantage=hypervisor&kind=machine&subject=103")[1]["data"]
        assert (
            limit["allowed"] == 10**9
            and limit["remaining"] == max(0, 10**9 - limit["used"])
            and limit["until"]
        )
        assert f"{100 * limit['used'] / 10**9:.0f} %" in text(browser, "[data-limits]")
        assert "1 GB a month" in text(browser, "[data-limits]") and "begins anew" in text(
            browser, "[data-limits]"
        )
        assert "shown evenly" in text(browser, "[data-missing]")
        picture(browser, "page-machines.png")
        browser.execute_script(
            "const make = URL.createObjectURL; URL.createObjectURL = b => { b.text().then(t => { window.saved"
            " = t; }); return make.call(URL, b); }"
        )
        browser.find_element(
            By.XPATH, "//button[text()='JSON']"
        ).click()  # of what is shown: this one, by hour of a day
        until(lambda: browser.execute_script("return window.saved"), 10)
        saved = json.loads(browser.execute_script("return window.saved"))
        assert (
            saved["period"] == "hour" and {r["subject"] for r in saved["rows"]} == {"103"} and saved["gaps"]
        )
        browser.find_element(
            By.CSS_SELECTOR, ".behind li a"
        ).click()  # from the machine to an endpoint and its exchanges
        until(lambda: browser.find_elements(By.CSS_SELECTOR, ".exchanges tbody tr button"), 15)
        browser.get(f"http://127.0.0.1:{s.api}/#users")
        until(lambda: "User 39" in text(browser, "tbody"), 15)
        browser.find_element(By.LINK_TEXT, "User 39 (u39)").click()
        until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#subject-chart svg path")) > 4, 15)
        assert "exceeded" in text(browser, "[data-limits]")
        dates = browser.find_elements(By.CSS_SELECTOR, "input[type=date]")
        browser.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'));"
            " arguments[0].dispatchEvent(new Event('change'))",
            dates[0],
            time.strftime("%Y-%m-%d", time.localtime(now - 86_400)),
        )
        time.sleep(1)
        assert browser.find_elements(By.CSS_SELECTOR, "#subject-chart svg path")
        browser.find_element(By.XPATH, "//button[text()='中文']").click()
        browser.find_element(By.XPATH, "//button[text()='深色']").click()
        browser.set_window_size(390, 844)
        until(lambda: "用户" in text(browser, "h1, h2, nav"), 5)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth + 1")
        picture(browser, "page-users-phone.png")
        browser.execute_script("localStorage.clear()")
        quiet(browser)


def test_a_report_opens_without_a_network(browser: Any, shop: Path, tmp_path: Path) -> None:
    """One file: its chart is drawn, and answers to a hand."""
    command = [
        "export",
        str(shop / "usage.db"),
        "--kind",
        "endpoint",
        "--format",
        "html",
        "--output",
        str(tmp_path / "report.html"),
    ]
    subprocess.run([sys.executable, "-m", "replaykit", *command], check=True)
    browser.set_window_size(1280, 1000)
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(f"file://{tmp_path / 'report.html'}")
    until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#chart svg path")) > 8, 10)
    assert "/products/{id}" in text(browser, "tbody")
    shown = browser.execute_script("return chart.getOption().series.length")
    browser.execute_script(
        "chart.dispatchAction({type: 'legendUnSelect', name: chart.getOption().series[0].name})"
    )
    assert shown > 3 and browser.execute_script(
        "return Object.values(chart.getOption().legend[0].selected).includes(false)"
    )
    assert browser.execute_script("return chart.getOption().dataZoom.length") == 2
    picture(browser, "page-report.png")
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []


def test_a_gap_that_lasts_is_in_reports_and_exports(tmp_path: Path) -> None:
    """As in /api/history: nobody has read for two hours, and does not yet."""
    now = int(time.time()) // 60 * 60
    place = tmp_path / "usage.db"
    with closing(Ledger(f"sqlite:///{place}")) as ledger:
        for minutes, size in ((180, 0), (150, 90_000), (121, 100_000), (120, 200_000)):
            ledger.read([Reading(now - 60 * minutes, "hypervisor", "machine", "100", {}, size)], 3600)
    with serve(place, tmp_path) as s:
        (there,) = s.ask("/api/history?kind=machine")[1]["data"]["gaps"]
        (shown,) = s.ask("/api/report?kind=machine&format=json&period=hour")[1]["gaps"]
        assert shown["since"] == there["since"] and shown["until"] >= there["until"]
        with urllib.request.urlopen(
            f"http://127.0.0.1:{s.api}/api/report?kind=machine&period=hour", timeout=20
        ) as page:
            assert b"no readings from" in page.read()
    command = [sys.executable, "-m", "replaykit", "export", str(place), "--period", "hour"]
    for form in ("json", "html", "table"):
        done = subprocess.run([*command, "--format", form], capture_output=True, text=True, check=True)
        assert ("no readings" if form != "json" else there["since"]) in done.stdout
    # A span that was over before is whole.
    before = [*command, "--format", "json", "--until", str(now - 7200)]
    assert json.loads(subprocess.run(before, capture_output=True, text=True, check=True).stdout)["gaps"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing.db",), "there is no such ledger"),
        (("{ledger}", "--api", "none"), "nothing to do"),
        (("{ledger}", "--api", "0.0.0.0:0"), "needs a token"),
        (("{ledger}", "--api", "nowhere"), "write ADDRESS:PORT"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], said: str, shop: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "replaykit",
            "serve",
            *(a.format(ledger=shop / "usage.db") for a in arguments),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_it_ends_when_told(shop: Path) -> None:
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "replaykit",
        "serve",
        str(shop / "usage.db"),
        "--api",
        f"127.0.0.1:{port}",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and f"127.0.0.1:{port}" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
