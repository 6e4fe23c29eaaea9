"""The page of `replaykit machines` in a browser: stopped machines are there, and a hypervisor that misses a
poll is said.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from selenium.webdriver.common.by import By

from ci.servers import free_port
from tests.target import until
from tests.vantages.hypervisor.pve import Cluster, pve
from tests.vantages.hypervisor.test_machines import cluster, configured, keys
from tests.web.test_page import browser, quiet, text

assert browser and cluster and keys  # fixtures


def test_machines(browser: Any, keys: Path, cluster: Cluster, tmp_path: Path) -> None:
    api = free_port()
    cluster.guests[101].status = "stopped"
    with pve(keys, cluster) as port, (tmp_path / "log").open("w") as out:
        path = configured(tmp_path, keys, port, api)
        process = subprocess.Popen(
            [sys.executable, "-m", "replaykit", "machines", "-config", str(path)], stdout=out, stderr=out
        )
        try:
            until(lambda: "polls 127.0.0.1" in (tmp_path / "log").read_text(), 30)
            browser.set_window_size(1280, 1000)
            browser.get("about:blank")
            browser.get_log("browser")
            browser.get(f"http://127.0.0.1:{api}/#machines")
            until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "tbody th")) == 2, 20)
            # The one that is stopped moved nothing, and is there with its state; a template is not.
            row = "//tbody/tr[contains(., 'db (101)')]"
            assert "stopped" in browser.find_element(By.XPATH, row).text and "template" not in text(
                browser, "tbody"
            )
            assert (
                text(browser, "[data-card=machines] .number") == "2"
                and text(browser, "[data-card=running] .number") == "1"
            )
            browser.find_element(By.CSS_SELECTOR, "select").send_keys("stopped")
            until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "tbody th")) == 1, 10)
            assert "db (101)" in text(browser, "tbody")
            browser.find_element(By.LINK_TEXT, "db (101)").click()
            until(lambda: "stopped" in text(browser, ".columns"), 10)
            # Started, it is another state within a poll or two.
            cluster.guests[101].power("running")
            until(lambda: text(browser, "[data-card=running] .number") == "2", 15)
            assert not browser.find_elements(By.CSS_SELECTOR, "[data-trouble]")
            with cluster.lock:  # it takes connections, and says nothing
                until(lambda: "does not answer since 20" in text(browser, "[data-trouble]"), 30)
                assert "what is shown is from then" in text(browser, "[data-trouble]")
                browser.get(f"http://127.0.0.1:{api}/#overview")  # on every page
                until(lambda: "does not answer" in text(browser, "[data-trouble]"), 15)
            until(lambda: not browser.find_elements(By.CSS_SELECTOR, "[data-trouble]"), 30)
            quiet(browser)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
