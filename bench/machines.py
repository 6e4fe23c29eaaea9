"""A thousand machines: what polling them every 10 s costs, and how long the page takes to show them over 90
days.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

from bench.measure import process_cpu_s
from ci.servers import free_port
from replaykit.ledger.store import Ledger
from replaykit.records.usage import Usage
from replaykit.vantages.forwarder.keys import make
from tests.vantages.hypervisor.pve import SECRET, TOKEN, Cluster, Guest, pve

MACHINES, DAYS, POLL_S, MEASURED_S = 1_000, 90, 10, 60


def polling(root: Path) -> tuple[float, float]:
    """Share of a core, and MB."""
    make(root / "keys", ["127.0.0.1"], ["x"])
    cluster = Cluster(
        {
            100 + n: Guest(
                name=f"web-{n}",
                node=f"pve{n % 5}",
                config={"net0": f"virtio=BC:24:11:00:{n >> 8:02X}:{n & 255:02X},bridge=vmbr0", "tags": "vps"},
            )
            for n in range(MACHINES)
        }
    )
    stop = threading.Event()

    def move() -> None:
        while not stop.wait(1):
            with cluster.lock:
                for n, guest in enumerate(cluster.guests.values()):
                    guest.netin += 1000 * n
                    guest.netout += 500 * n

    threading.Thread(target=move, daemon=True).start()
    rules = [
        {
            "name": period,
            "enabled": True,
            "period": period,
            "limit_gb": 10_000,
            "action": "rate_limit",
            "rate_limit_mb": 10,
            "vm_tags": ["vps"],
        }
        for period in ("hour", "day", "month")
    ]
    with pve(root / "keys", cluster) as port:
        config = {
            "pve": {
                "host": "127.0.0.1",
                "port": port,
                "api_token_id": TOKEN,
                "api_token_secret": SECRET,
                "ca_file": str(root / "keys" / "ca.pem"),
            },
            "monitor": {"interval_seconds": POLL_S},
            "storage": {"type": "sqlite", "dsn": str(root / "polled.db")},
            "rules": rules,
        }
        (root / "config.json").write_text(json.dumps(config))
        process = subprocess.Popen(
            [sys.executable, "-m", "replaykit", "machines", "-config", str(root / "config.json"), "--quiet"],
            stdout=subprocess.DEVNULL,
        )
        try:
            time.sleep(12)
            before = process_cpu_s(process.pid)
            time.sleep(MEASURED_S)
            share = (process_cpu_s(process.pid) - before) / MEASURED_S
            memory = (
                int(Path(f"/proc/{process.pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024
            )
        finally:
            process.terminate()
            process.wait(20)
            stop.set()
    return share, memory


def drawing(root: Path) -> tuple[float, float]:
    """Seconds until the dashboard and the list of machines are drawn: at first, or for a month, whichever is
    longer; the median of five.
    """
    from statistics import median

    from selenium import webdriver
    from selenium.webdriver.common.by import By

    now = int(time.time()) // 60 * 60 - 120
    with closing(Ledger(f"sqlite:///{root / 'shown.db'}", "UTC")) as ledger:
        for day in range(DAYS):
            ledger.write(
                Usage(
                    now - 86_400 * day + 60 * h,
                    60,
                    "hypervisor",
                    "machine",
                    str(100 + n),
                    {"vmid": str(100 + n), "name": f"web-{n}", "status": "running", "tags": "vps"},
                    1000 * n + 600 + h,
                    500 * n,
                )
                for n in range(MACHINES)
                for h in (0, -600)
            )
    port = free_port()
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "replaykit",
            "serve",
            str(root / "shown.db"),
            "--api",
            f"127.0.0.1:{port}",
            "--quiet",
        ],
        stderr=subprocess.DEVNULL,
    )
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        time.sleep(4)
        took: dict[str, list[float]] = {"overview": [], "machines": []}
        for _ in range(5):
            for page, selector in (
                ("overview", "[data-kind=machine] li"),
                ("machines", "tbody tr:nth-child(200)"),
            ):
                driver.get("about:blank")
                begun = time.perf_counter()
                driver.get(f"http://127.0.0.1:{port}/#{page}")
                while not driver.find_elements(By.CSS_SELECTOR, selector):
                    if time.perf_counter() - begun > 20:
                        raise RuntimeError(f"{page} is not drawn")
                    time.sleep(0.01)
                took[page].append(time.perf_counter() - begun)
        return median(took["overview"]), median(took["machines"])
    finally:
        driver.quit()
        server.terminate()
        server.wait(10)


def results() -> tuple[str, list[list[str]]]:
    """A text and a table for bench/RESULTS.md."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        share, memory = polling(root)
        overview, listed = drawing(root)
    return (
        (
            f"{MACHINES:,} machines of a test server of Proxmox VE's API, three rules on each, a poll every"
            f" {POLL_S} s into SQLite; then the page over a ledger of {DAYS} days of as many, in headless"
            " Chromium on the same two cores.\n\n"
        ),
        [
            ["", "", "wanted"],
            ["polling: share of a core", f"{share:.1%}", "5%"],
            ["polling: memory", f"{memory:.0f} MB", "150 MB"],
            ["dashboard drawn, and drawn again for a month", f"{overview:.2f} s", "1 s"],
            ["list of machines, the same", f"{listed:.2f} s", "1 s"],
        ],
    )


if __name__ == "__main__":
    text, found = results()
    print(text + "\n".join(" | ".join(row) for row in found))
