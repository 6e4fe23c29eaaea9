"""Machines of Proxmox VE: counted exactly over restarts, migrations, removed interfaces and reused ids;
limits that hold and end.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from ci.servers import free_port
from replaykit.errors import UsageError
from replaykit.ledger import calendar
from replaykit.ledger.done import effects, log
from replaykit.ledger.history import gaps, history, totals
from replaykit.ledger.selection import Selection
from replaykit.ledger.store import Ledger
from replaykit.rules.enforcement import Guard
from replaykit.rules.limits import Rules, parse_rules
from replaykit.vantages.forwarder.keys import make
from replaykit.vantages.hypervisor.config import read_config, uncommented
from replaykit.vantages.hypervisor.control import MachineControl
from replaykit.vantages.hypervisor.imported import read_folder
from replaykit.vantages.hypervisor.machine import Details, Machine, Nic
from replaykit.vantages.hypervisor.proxmox import Proxmox
from replaykit.vantages.hypervisor.watch import Watch
from tests.simulated import ZONE, Month
from tests.target import until
from tests.vantages.hypervisor.pve import SECRET, TOKEN, Cluster, Guest, pve

GIB = 1 << 30
NET0 = "virtio=BC:24:11:00:00:01,bridge=vmbr0,firewall=1"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("keys")
    make(root, ["127.0.0.1"], ["x"])
    return root


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(
        {
            100: Guest(
                name="web",
                config={
                    "net0": f"{NET0},rate=50",
                    "net1": "e1000=BC:24:11:00:00:02,bridge=vmbr1",
                    "tags": "vps;Paid",
                    "meta": "creation-qemu=8.1,ctime=1700000000",
                },
            ),
            101: Guest(
                node="pve2",
                type="lxc",
                name="db",
                config={"net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:03,type=veth", "tags": "vps"},
            ),
            102: Guest(name="template", status="stopped", template=1, config={"net0": NET0}),
        }
    )


@pytest.fixture
def proxmox(keys: Path, cluster: Cluster) -> Iterator[Proxmox]:
    with pve(keys, cluster) as port:
        yield Proxmox("127.0.0.1", TOKEN, SECRET, port, str(keys / "ca.pem"))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    made = Ledger(f"sqlite:///{tmp_path / 'usage.db'}", "Europe/Berlin")
    yield made
    made.close()


def used(ledger: Ledger, now: int | None = None) -> dict[str, tuple[int, int]]:
    rows = totals(ledger, 0, now or calendar.LATEST, Selection("hypervisor", "machine")).sums
    return {r.subject: (r.rx_bytes, r.tx_bytes) for r in rows}


def test_all_nodes_in_one_call(proxmox: Proxmox, cluster: Cluster) -> None:
    found = {m.id: m for m in proxmox.machines()}
    assert set(found) == {"100", "101"}  # no template unless asked for
    assert found["100"].tags == ("vps", "paid") and found["101"].type == "lxc" and found["101"].node == "pve2"
    assert cluster.calls == [("GET", "/cluster/resources")]
    cluster.guests[101].config["net1"] = "name=eth1,ip=10.0.0.7/24,ip6=fd00::7/64"
    cluster.guests[100].config["ipconfig0"] = "ip=dhcp,gw=10.0.0.1"
    assert proxmox.details(found["100"]) == Details(1_700_000_000) and proxmox.version() == "8.2.4"
    assert proxmox.details(found["101"]).addresses == ("10.0.0.7", "fd00::7")


def test_counters_over_restart_migration_removal_and_reuse(
    proxmox: Proxmox, cluster: Cluster, ledger: Ledger
) -> None:
    watch, at, web = Watch(ledger, proxmox), int(time.time()), cluster.guests[100]

    def moved(rx: int, tx: int) -> None:
        nonlocal at
        web.netin, web.netout = rx, tx
        at += 60
        cluster.at = at
        watch.poll(at)

    web.started = at - 3600
    moved(1_000_000, 500)  # where it begins
    moved(1_000_700, 550)
    assert used(ledger)["100"] == (700, 50)
    web.started = at + 50  # started anew, and further already than before
    moved(5_000_000, 900)
    assert used(ledger)["100"] == (700 + 5_000_000, 50 + 900)
    web.node, web.started = "pve3", at + 20  # to another node: a new process counts there from zero
    moved(300, 10)
    assert used(ledger)["100"] == (5_001_000, 960)
    moved(9_000_300, 1_010)
    moved(9_000, 10)  # an interface was taken out: the sum of the others is smaller, and no byte of it is new
    assert used(ledger)["100"] == (14_001_000, 1_960)
    watch = Watch(ledger, proxmox)  # the program is started anew
    moved(9_500, 20)
    assert used(ledger)["100"] == (14_001_500, 1_970)
    web.power("stopped")
    moved(0, 0)
    web.power("running", at + 30)
    moved(77, 7)
    assert used(ledger)["100"] == (14_001_577, 1_977)
    del cluster.guests[100]
    at += 60
    watch.poll(at)
    cluster.guests[100] = web = Guest(
        name="another", config={"net0": NET0, "meta": "ctime=1800000000"}, started=time.time() + at
    )
    moved(4_000, 40)
    moved(5_000, 50)
    assert used(ledger)["100"] == (14_001_577, 1_977) and used(ledger)["100@1800000000"][0] >= 1_000


def test_one_that_cannot_be_read_is_counted_all_the_same(
    proxmox: Proxmox, cluster: Cluster, ledger: Ledger
) -> None:
    cluster.fails["GET", "/100/config"] = 500
    watch, at = Watch(ledger, proxmox), int(time.time())
    cluster.guests[100].started = at - 3600
    for n in range(3):
        cluster.at, cluster.guests[100].netin = at + 60 * n, 1000 * n
        watch.poll(at + 60 * n)
    assert used(ledger)["100"] == (2000, 0)


def test_missed_polls_leave_no_spike(proxmox: Proxmox, cluster: Cluster, ledger: Ledger) -> None:
    watch, web = Watch(ledger, proxmox, 60), cluster.guests[100]
    at = calendar.floor("hour", int(time.time()), ledger.zone) + 600
    cluster.at, web.started = at, at - 3600
    watch.poll(at)
    cluster.fails["GET", "resources"] = 596
    web.netin = 60_000_000
    for n in range(1, 10):
        cluster.at = at + 60 * n
        with pytest.raises(UsageError, match="596"):
            watch.poll(at + 60 * n)
    cluster.fails.clear()
    cluster.at = at + 600
    watch.poll(at + 600)
    rows = history(ledger, "minute", at, at + 660, Selection("hypervisor", "machine", ("100",)))
    assert [r.rx_bytes for r in rows] == [6_000_000] * 10
    assert [(g.since, g.until) for g in gaps(ledger, at, at + 660)] == [(at, at + 600)]
    # Off for an hour is no gap, and what it moved after its start was not moved before.
    cluster.at = at + 660
    web.status, web.netin = "stopped", 0
    watch.poll(at + 660)
    web.status, web.started, web.netin = "running", at + 4200, 9_000_000
    cluster.at = at + 4260
    watch.poll(at + 4260)
    one = Selection("hypervisor", "machine", ("100",))
    assert [r.rx_bytes for r in history(ledger, "minute", at + 660, at + 5000, one)] == [9_000_000]
    assert len(gaps(ledger, at, at + 5000, one)) == 1
    for n, status in enumerate(
        ("running",) * 4 + ("stopped",), 1
    ):  # nor is it one to be on between two stops
        web.status, cluster.at = status, at + 4260 + 60 * n
        watch.poll(at + 4260 + 60 * n)
    assert len(gaps(ledger, at, at + 5000, one)) == 1


RULES = """{{
  "pve": {{"host": "127.0.0.1", "port": {port}, "node": "pve1", "api_token_id": "{token}", "api_token_secret": "{secret}", "ca_file": "{ca}"}},
  "monitor": {{"interval_seconds": 1, "export_path": "{root}/exports", "include_templates": false, "data_retention_days": 90}},
  "storage": {{"type": "sqlite", "dsn": "{root}/usage.db", "max_open_conns": 10, "max_idle_conns": 5, "conn_max_lifetime": 3600}},
  "api": {{"enabled": true, "host": "127.0.0.1", "port": {api}}},
  "rules": [
    {{"name": "hourly", "enabled": true, "period": "hour", "limit_gb": 1, "action": "rate_limit", "rate_limit_mb": 10, "vm_tags": ["VPS"], "traffic_direction": "both"}},
    {{"name": "monthly", "enabled": true, "period": "month", "limit_gb": 3, "action": "disconnect", "vm_ids": [100], "exclude_vm_ids": [999]}},
    {{"name": "off", "enabled": false, "period": "day", "limit_gb": 0.001, "action": "stop"}}
  ]
}}
"""  # noqa: E501


def configured(root: Path, keys: Path, port: int, api: int = 0) -> Path:
    path = root / "config.json"
    path.write_text(
        RULES.format(
            port=port, token=TOKEN, secret=SECRET, ca=keys / "ca.pem", root=root, api=api or free_port()
        )
    )
    path.chmod(0o600)
    return path


def judged(ledger: Ledger, proxmox: Proxmox, rules: Rules) -> tuple[Watch, Guard]:
    watch = Watch(ledger, proxmox)
    return watch, Guard(ledger, rules, {"hypervisor": MachineControl(proxmox, watch.find)})


def test_limits_and_their_end(
    proxmox: Proxmox, cluster: Cluster, ledger: Ledger, keys: Path, tmp_path: Path
) -> None:
    """Two rules on one machine, ended in either order; somebody's hand; nothing is asked or changed without a
    reason.
    """
    rules = Rules(read_config(str(configured(tmp_path, keys, 1))).rules)
    watch, guard = judged(ledger, proxmox, rules)
    web, db = cluster.guests[100], cluster.guests[101]
    before = dict(web.config)
    at = calendar.floor(
        "hour", int(datetime(2026, 10, 24, 21, 30, tzinfo=ZoneInfo("Europe/Berlin")).timestamp()), ledger.zone
    )

    web.started = db.started = at - 3600

    def step(now: int) -> None:
        cluster.at = now
        watch.poll(now)
        guard.step(now)

    step(at + 60)
    web.netin, db.netout = GIB + 1, GIB  # more than the limit is exceeded, the limit itself is not
    step(at + 120)
    assert (
        web.config["net0"] == f"{NET0},rate=10"
        and web.config["net1"].endswith(",rate=10")
        and db.config["net0"].endswith("veth")
    )
    assert [p for m, p in cluster.calls if m == "PUT"] == ["/nodes/pve1/qemu/100/config"]
    web.netin = 3 * GIB + 2
    step(at + 180)
    assert web.config["net0"] == f"{NET0},rate=10,link_down=1"
    web.config["net0"] = f"{NET0},rate=10"  # somebody plugs it in again
    step(at + 240)
    assert web.config["net0"].endswith("link_down=1")
    calls = len(cluster.made("PUT"))
    step(at + 300)
    assert len(cluster.made("PUT")) == calls  # nothing changed: nothing is written
    step(at + 3600 + 60)  # the hour turns: its limit ends, the month's stays
    assert web.config["net0"] == f"{NET0},rate=50,link_down=1" and "rate" not in web.config["net1"]
    step(calendar.following("month", calendar.floor("month", at, ledger.zone), ledger.zone) + 60)
    assert web.config == before
    said = [(e.rule, e.action, e.outcome) for e in log(ledger)]
    assert said == [
        ("hourly", "rate_limit", "done"),
        ("monthly", "disconnect", "done"),
        ("monthly", "disconnect", "done"),
        ("hourly", "rate_limit", "undone"),
        ("monthly", "disconnect", "undone"),
    ]


def test_a_month_of_rules_over_restarts_and_daylight_saving(
    proxmox: Proxmox, cluster: Cluster, ledger: Ledger, keys: Path, tmp_path: Path
) -> None:
    """Half an hour at a time, at each of which just those are limited that used too much: by hour, day and
    month.

    Guests restart and move, the program restarts, the hypervisor is away for a while.
    """
    config = json.loads(configured(tmp_path, keys, 1).read_text())
    config["rules"] = [
        {"name": "hourly", "enabled": True, "period": "hour", "limit_gb": 1, "action": "rate_limit", "rate_limit_mb": 10, "vm_ids": [100]},  # noqa: E501
        {"name": "daily", "enabled": True, "period": "day", "limit_gb": 8, "action": "disconnect", "vm_ids": [101]},  # noqa: E501
        {"name": "monthly", "enabled": True, "period": "month", "limit_gb": 120, "action": "stop", "vm_ids": [103]},  # noqa: E501
    ]  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    rules = Rules(read_config(str(tmp_path / "config.json")).rules)
    month, limits = Month(1800), {100: ("hour", 1), 101: ("day", 8), 103: ("month", 120)}
    cluster.at = month.begin
    cluster.guests[103] = Guest(name="mail", config={"net0": NET0})
    guests = {n: cluster.guests[n] for n in limits}
    before = {n: dict(g.config) for n, g in guests.items()}
    for guest in guests.values():
        guest.started = month.begin - 3600
    watch, guard = judged(ledger, proxmox, rules)
    watch.poll(month.begin)
    limited, away = dict.fromkeys(limits, 0), 0
    for step, at in month.steps():
        cluster.at = at
        if step % 37 == 5 and not away:
            # The guest starts anew; what it moved while nobody could ask would be lost with its counters.
            guests[100].started, guests[100].netin = at - 600, 0
        if step % 111 == 7 and not away:
            guests[101].node, guests[101].started, guests[101].netin = f"pve{1 + step % 3}", at - 600, 0
        if step % 50 == 7:
            watch, guard = judged(ledger, proxmox, rules)  # and so does this program
        was, away = away, 3 if step % 200 == 100 else max(0, away - 1)
        for number, guest in guests.items():
            busy = (
                (at - 1800) // 3600 % 3 == 0 and not was and not away
            )  # what was not read is shared out evenly
            sizes = {
                100: 1_200_000_000 if busy else 10**8,
                101: 2 * 10**8 + month.day(at) % 4 * 10**7,
                103: 14 * 10**7,
            }
            if guest.status == "running":
                guest.netin += sizes[number]
                month.moves(str(number), at, sizes[number])
        if away:
            cluster.fails["GET", "resources"] = 500
            with pytest.raises(UsageError):
                watch.poll(at)
            cluster.fails.clear()
            continue
        watch.poll(at)
        guard.step(at)
        for number, (period, gib) in limits.items():
            used_, guest = month.used(str(number), period, at), guests[number]
            config_ = guest.config["net0"].split(",")
            holds = {
                100: "rate=10" in config_,
                101: "link_down=1" in config_,
                103: guest.status == "stopped",
            }[number]
            assert holds == (used_ > gib * GIB), (number, datetime.fromtimestamp(at, ZONE), used_)
            limited[number] += holds
    for number in limits:
        found = used(ledger)[str(number)][0]
        hours = history(
            ledger, "hour", month.begin, month.end, Selection("hypervisor", "machine", (str(number),))
        )
        assert found == sum(month.hours(str(number))) == sum(r.rx_bytes for r in hours), number
    assert limited[100] > 200 and limited[101] > 200 and limited[103] > 100
    entries = log(ledger, most=10_000)
    for name, action, least in (
        ("hourly", "rate_limit", 200),
        ("daily", "disconnect", 15),
        ("monthly", "stop", 1),
    ):
        outcomes = [e.outcome for e in entries if e.rule == name]
        assert {e.action for e in entries if e.rule == name} == {action}
        assert outcomes == ["done", "undone"] * (len(outcomes) // 2) + ["done"] * (len(outcomes) % 2)
        assert len(outcomes) >= 2 * least
    assert guests[103].status == "running" and guests[103].config == before[103]
    assert len(gaps(ledger, month.begin, month.end)) == 0  # nobody said how often it is read


@pytest.mark.parametrize("action", ["shutdown", "stop"])
def test_shut_down_and_started_again(
    action: str, proxmox: Proxmox, cluster: Cluster, ledger: Ledger, keys: Path, tmp_path: Path
) -> None:
    path = configured(tmp_path, keys, 1)
    path.write_text(path.read_text().replace('"action": "disconnect"', f'"action": "{action}"'))
    watch, guard = judged(ledger, proxmox, Rules(read_config(str(path)).rules[1:2]))
    web = cluster.guests[100]
    web.started = 0
    web.ignores = True  # its guest does not answer ACPI: Proxmox VE stops it then
    cluster.task_s = 0.4
    at = calendar.floor("month", int(time.time()), ledger.zone) + 60

    def step(now: int) -> None:
        cluster.at = now
        watch.poll(now)
        guard.step(now)

    cluster.at = at
    watch.poll(at)
    web.netout = 4 * GIB
    for n in (60, 120, 180):
        step(at + n)
    assert len(cluster.made("POST", action)) == 1  # it is on its way, and not asked twice
    time.sleep(0.5)
    for n in (240, 300):
        step(at + n)
    assert web.status == "stopped" and len(cluster.made("POST")) == 1
    web.power("running", at + 330)  # somebody starts it
    step(at + 360)
    time.sleep(0.5)
    step(at + 420)
    assert web.status == "stopped"
    at = calendar.following("month", at, ledger.zone) + 60
    step(at)
    time.sleep(0.5)
    step(at + 60)
    assert web.status == "running"


def test_what_goes_wrong_is_said_and_tried_again(
    proxmox: Proxmox, cluster: Cluster, ledger: Ledger, keys: Path, tmp_path: Path
) -> None:
    watch, guard = judged(ledger, proxmox, Rules(read_config(str(configured(tmp_path, keys, 1))).rules))
    at = calendar.floor("hour", int(time.time()), ledger.zone)
    cluster.at, cluster.guests[100].started = at + 60, at - 3600
    watch.poll(at + 60)
    cluster.guests[100].netin = 2 * GIB
    cluster.at = at + 120
    watch.poll(at + 120)
    cluster.privileges -= {"VM.Config.Network"}
    for n in (120, 130, 140):
        guard.step(at + n)
    (entry,) = log(ledger)
    assert (
        entry.outcome == "failed" and "may not do that" in entry.error and "VM.Config.Network" in entry.error
    )
    cluster.privileges.add("VM.Config.Network")
    guard.step(at + 150)
    assert "rate=10" in cluster.guests[100].config["net0"]
    # A configuration that changes between reading and writing is not overwritten.
    machine = next(m for m in proxmox.machines() if m.id == "100")
    config = proxmox._config(machine)
    cluster.guests[100].config["memory"] = "4096"
    with pytest.raises(UsageError, match="modified configuration"):
        proxmox._ask(proxmox._place(machine).config.put, net0=NET0, digest=config["digest"])
    # A token that may see nothing any more is no reason to forget what is to be restored.
    cluster.privileges.remove("VM.Audit")
    cluster.at = at + 3650
    watch.poll(at + 3650)
    guard.step(at + 3650)
    assert [e["effect"] for e in effects(ledger)] == ["rate_limit"] and not watch.now
    cluster.privileges.add("VM.Audit")
    del cluster.guests[100]  # what is gone needs no restoring
    cluster.at = at + 3700
    watch.poll(at + 3700)
    guard.step(at + 3700)
    assert not [e for e in log(ledger) if e.outcome == "undone"] and effects(ledger) == []
    with pytest.raises(KeyError):
        proxmox.nics(machine)


def test_a_tiny_limit_is_not_none() -> None:
    from replaykit.vantages.hypervisor.proxmox import _nic, _written

    assert _written(NET0, Nic(True, 0.0001)) == f"{NET0},rate=0.001"
    assert _nic(_written(f"{NET0},rate=3,link_down=1", Nic(True, None))) == Nic(True, None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"token_id": "monitor"}, "user@realm!name"),
        ({"secret": ""}, "PVE_API_TOKEN_SECRET"),
        ({"secret": "wrong"}, "the token is not accepted"),
        ({"verify": True}, "certificate is not trusted"),
    ],
)
def test_no_way_in(change: dict[str, Any], said: str, keys: Path, cluster: Cluster) -> None:
    with pve(keys, cluster) as port, pytest.raises(UsageError, match=said):
        given = {"token_id": TOKEN, "secret": SECRET, "verify": str(keys / "ca.pem"), **change}
        Proxmox("127.0.0.1", given["token_id"], given["secret"], port, given["verify"]).machines()


def test_a_slow_or_absent_server(keys: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replaykit.vantages.hypervisor.proxmox.TIMEOUT_S", 0.5)
    with pve(keys, cluster) as port:
        slow = Proxmox("127.0.0.1", TOKEN, SECRET, port, str(keys / "ca.pem"))
        cluster.fails["GET", "resources"] = 2.0
        begun = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            slow.machines()
        assert time.monotonic() - begun < 1.8
    with pytest.raises(OSError, match="refused"):
        Proxmox("127.0.0.1", TOKEN, SECRET, free_port(), str(keys / "ca.pem")).machines()


def test_the_command(keys: Path, cluster: Cluster, tmp_path: Path) -> None:
    """Its own configuration file, its API's shapes, its command line."""
    api = free_port()

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{api}{path}", timeout=10) as answer:
            return json.load(answer)

    def replaykit(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "replaykit", "machines", *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=tmp_path,
        )

    with pve(keys, cluster) as port:
        path = configured(tmp_path, keys, port, api)
        listed = replaykit("list", "-config", str(path))
        assert (
            "web" in listed.stdout and "lxc" in listed.stdout and SECRET not in listed.stdout + listed.stderr
        )
        with (tmp_path / "log").open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "replaykit", "machines", "-config", str(path)], stdout=out, stderr=out
            )
        try:
            until(lambda: "polls 127.0.0.1" in (tmp_path / "log").read_text(), 30)
            time.sleep(1.5)
            web = cluster.guests[100]
            web.netin, web.netout = 2 * GIB, 1000
            until(lambda: "rate=10" in web.config["net0"], 20, (tmp_path / "log").read_text())
            vms = ask("/api/vms")
            assert vms["success"] and [v["vmid"] for v in vms["data"]] == [100, 101]
            assert (
                vms["data"][0]["matched_rules"] == ["hourly", "monthly"]
                and vms["data"][0]["netrx"] == 2 * GIB
            )
            one = ask("/api/vm/100")["data"]
            assert one["vm"]["status"] == "running" and one["stats"]["day"]["total_bytes"] == 2 * GIB + 1000
            stats = ask("/api/stats?period=day&direction=upload")
            assert (
                stats["period"] == "day" and stats["data"][0]["total_bytes"] == stats["data"][0]["tx_bytes"]
            )
            assert ask("/api/history/100?period=hour")["data"][-1].keys() == {
                "timestamp",
                "rx_bytes",
                "tx_bytes",
                "total_bytes",
            }
            (entry,) = ask("/api/logs")["data"]
            assert entry["vmid"] == 100 and entry["rule_name"] == "hourly" and entry["success"] is True
            assert [r["name"] for r in ask("/api/rules")["data"]] == ["hourly", "monthly", "off"]
            assert ask("/api/rules")["data"][1]["vm_ids"] == [100]
            process.send_signal(signal.SIGKILL)  # limits stay, and the next run knows them
            process.wait(10)
            with (tmp_path / "log").open("w") as out:
                process = subprocess.Popen(
                    [sys.executable, "-m", "replaykit", "machines", "-config", str(path)],
                    stdout=out,
                    stderr=out,
                )
            until(lambda: "polls 127.0.0.1" in (tmp_path / "log").read_text(), 30)
            path.write_text(path.read_text().replace('"limit_gb": 1,', '"limit_gb": "much",'))
            until(lambda: "configuration not changed" in (tmp_path / "log").read_text(), 10)
            assert "rate=10" in web.config["net0"]
            path.write_text(path.read_text().replace('"limit_gb": "much",', '"limit_gb": 100,'))
            until(lambda: web.config["net0"].endswith("rate=50"), 15)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    # Without a server: what is in the ledger.
    for form in ("html", "json", "png", "csv"):
        done = replaykit("-config", str(path), "-export", "100", "-period", "day", "-format", form, "-dark")
        assert done.returncode == 0, done.stderr
        (made,) = (tmp_path / "exports").glob(f"vm_100_traffic_*.{form}")
        data = made.read_bytes()
        if form == "json":
            assert json.loads(data)["rows"][0]["rx_bytes"] == 2 * GIB
        if form == "html":
            assert b'src="http' not in data and b"//cdn" not in data
    today = datetime.now().strftime("%Y-%m-%d")
    assert (
        replaykit(
            "-config", str(path), "-export", "all", "-date", today, "-format", "json", "-direction", "rx"
        ).returncode
        == 0
    )
    assert len(list((tmp_path / "exports").glob("traffic_stats_rx_*.json"))) == 1
    dry = replaykit("-config", str(path), "-cleanup", "vm", "-vmid", "100", "-date", today, "-dry-run")
    assert dry.returncode == 0 and "1 subjects" in dry.stdout, dry.stdout + dry.stderr
    for words in (
        ("range", "-start", "2024-01-01", "-end", "2024-01-31"),
        ("before", "-before", "2024-01-01"),
    ):
        assert replaykit("-config", str(path), "-cleanup", *words, "-dry-run").returncode == 0
    assert replaykit("-config", str(path), "-cleanup", "vm", "-vmid", "100", "-date", today).returncode == 0
    ledger = Ledger(f"sqlite:///{tmp_path / 'usage.db'}")
    assert used(ledger).get("100", (0, 0)) == (0, 0)
    ledger.close()


def test_a_hypervisor_that_does_not_answer_is_shown_as_such(
    keys: Path, cluster: Cluster, tmp_path: Path
) -> None:
    """After one missed poll; a machine that is stopped is in the list; the page is not worth the monitor."""
    api = free_port()

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{api}{path}", timeout=10) as answer:
            return json.load(answer)

    cluster.guests[101].status = "stopped"
    with pve(keys, cluster) as port, (tmp_path / "log").open("w") as out:
        path = configured(tmp_path, keys, port, api)
        process = subprocess.Popen(
            [sys.executable, "-m", "replaykit", "machines", "-config", str(path)], stdout=out, stderr=out
        )
        try:
            until(lambda: "polls 127.0.0.1" in (tmp_path / "log").read_text(), 30)
            until(lambda: len(ask("/api/vms")["data"]) == 2, 10)
            there = {v["vmid"]: v["status"] for v in ask("/api/vms")["data"]}
            assert there == {100: "running", 101: "stopped"}
            found = ask("/api/system/stats")["data"]
            assert found["trouble"] == "" and found["storage_type"] == "sqlite" and found["answered"]
            assert found["monitor_interval"] == 1 and found["api_performance"]["total_requests"] >= 2
            assert ask("/api/overview")["data"]["trouble"] == ""
            with cluster.lock:  # it takes connections, and says nothing
                until(lambda: "does not answer" in ask("/api/overview")["data"]["trouble"], 12)
                assert "does not answer since 20" in ask("/api/vms")["message"]
                assert "does not answer" in ask("/health")["data"]["hypervisor"]
            until(lambda: ask("/api/vms")["message"] == "ok", 20)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def test_without_a_token_the_monitor_goes_on_without_its_page(
    keys: Path, cluster: Cluster, tmp_path: Path
) -> None:
    """As the other project's own example has it: on all addresses, without a token; in a file with
    comments.
    """
    with pve(keys, cluster) as port:
        path = configured(tmp_path, keys, port, free_port())
        text = path.read_text().replace('"host": "127.0.0.1", "port": ' + str(port), "PVE")
        text = text.replace('"api": {', '"api": {  // "of the page"\n    "host": "0.0.0.0", ', 1)
        path.write_text(
            "// what is watched: http://localhost\n"
            + _once_host(text).replace("PVE", f'"host": "127.0.0.1", "port": {port}')
        )
        with (tmp_path / "log").open("w") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "replaykit", "machines", "-config", str(path)], stdout=out, stderr=out
            )
        try:
            until(
                lambda: "polls 127.0.0.1" in (tmp_path / "log").read_text(),
                30,
                (tmp_path / "log").read_text(),
            )
            assert "no page and no API: on 0.0.0.0:" in (tmp_path / "log").read_text()
            assert "api.token" in (tmp_path / "log").read_text()
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


def _once_host(text: str) -> str:
    """The api's own host is taken out: the first that stands there is meant."""
    head, mark, rest = text.partition('"host": "0.0.0.0", ')
    return head + mark + rest.replace('"host": "127.0.0.1",', "", 1)


def test_comments_leave_texts_and_lines_alone() -> None:
    text = '{ // one\n "dsn": "http://x//y", /* two\n three */ "a": 1\n}'
    assert uncommented(text) == '{ \n "dsn": "http://x//y", \n "a": 1\n}'
    assert uncommented("a: http://x  # yaml") == "a: http://x  # yaml"


@pytest.mark.parametrize("place", ["sqlite:///{}/usage.db", "files:{}/data"])
def test_document_004s_tables_and_folders(
    place: str, proxmox: Proxmox, cluster: Cluster, tmp_path: Path
) -> None:
    """Its tables are views of ours; in files there are its `logs/` and `states/`."""
    from replaykit.ledger.files import open_url

    now = 1_795_000_000  # amid a month, whenever the test runs
    ledger = open_url(place.format(tmp_path), "Europe/Berlin")
    watch = Watch(ledger, proxmox, 60)
    watch.poll(now - 120)
    cluster.guests[100].netin += 5 * GIB
    watch.poll(now - 60)
    rule = "rules: [{name: r, kind: machine, period: month, limit: 1GB, actions: [{rate_limit: 1MiB}]}]"
    guard = Guard(ledger, parse_rules(rule), {"hypervisor": MachineControl(proxmox, watch.find)})
    assert [e.outcome for e in guard.step(now)] == ["done"]
    with ledger.database.reading() as connection:
        records = connection.exec_driver_sql(
            "SELECT vmid, network_interface, MAX(rx_bytes), MAX(total_bytes) FROM traffic_records GROUP BY"
            " 1, 2"
        ).all()
        actions = connection.exec_driver_sql("SELECT vmid, rule_name, action, success FROM action_logs").all()
        states = connection.exec_driver_sql("SELECT vmid, state_data FROM vm_states").all()
    assert [tuple(r) for r in records] == [(100, "all", 5 * GIB, 5 * GIB)]
    assert [tuple(r) for r in actions] == [(100, "r", "rate_limit", 1)]
    assert states[0][0] == 100 and "net0" in json.loads(states[0][1])["rate_limit"]
    if place.startswith("files:"):
        data = tmp_path / "data"
        (day,) = (data / "logs").glob("actions_20*.json")
        (entry,) = json.loads(day.read_text())
        assert (entry["vmid"], entry["rule_name"], entry["action"], entry["success"]) == (
            100,
            "r",
            "rate_limit",
            True,
        )
        state = json.loads((data / "states" / "vm_100_state.json").read_text())
        assert state["vmid"] == 100 and state["effects"][0]["original"] == {"net0": 50.0, "net1": None}
        guard.rules = Rules(())
        assert [e.outcome for e in guard.step(now + 1)] == ["undone"]
        assert not (data / "states" / "vm_100_state.json").exists() and len(json.loads(day.read_text())) == 2
    ledger.close()


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"hour"', '"week"', "period"),
        ('"limit_gb": 3', '"limit_gb": 0', "limit_gb"),
        ('"rate_limit_mb": 10', '"rate_limit_mb": 0', "rate_limit_mb"),
        ('"name": "off"', '"name": "hourly"', "two rules named"),
        ('"type": "sqlite"', '"type": "cassette"', "choose from"),
        ('"traffic_direction": "both"', '"traffic_direction": "sideways"', "traffic_direction"),
        ('"rules": [', '"rules": [[', "config.json"),
        ('"api_token_secret": "' + SECRET + '"', '"api_token_secret": ""', "PVE_API_TOKEN_SECRET"),
    ],
)
def test_wrong_configurations(old: str, new: str, said: str, keys: Path, tmp_path: Path) -> None:
    path = configured(tmp_path, keys, 8006)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(UsageError, match=said) as caught:
        read_config(str(path))
    assert SECRET not in str(caught.value)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("""{
  // a comment
  "pve": {"host": "", "port": 0, "tls": true},
  "monitor": {"interval_seconds": 0.5, "colour": "red"},
  "storage": {"type": "file"},
  "rules": [
    {"name": "a", "period": "week", "limit_gb": "1", "action": "explode", "traffic_direction": "sideways"},
    {"name": "b", "period": "day", "limit_gb": 1, "action": "stop"},
    {"name": "b", "period": "day", "limit_gb": 1, "action": "rate_limit"}
  ]
}""")
    with pytest.raises(UsageError) as caught:
        read_config(str(path))
    said = [line.removeprefix(f"{path}:").partition("; there are")[0] for line in caught.value.lines]
    assert said == [
        "3: pve.tls: this key is not known here",
        "3: pve.host: is empty",
        "3: pve.port: 0: give a whole number from 1 to 65535",
        "4: monitor.interval_seconds: 0.5: give a number of 1 or more",
        "7: rules[0].period: 'week': choose from hour, day, month",
        "7: rules[0].traffic_direction: 'sideways': choose from both, upload, tx, download, rx",
        "7: rules[0].limit_gb: '1' is no number",
        "7: rules[0].action: 'explode': choose from shutdown, stop, disconnect, rate_limit",
        "9: rules[2]: rate_limit_mb: more than nothing, with action rate_limit",
    ]
    path.write_text("""{
  "pve": {"host": "a"},
  "colour": "red",
  "storage": {"type": "mysql", "dsn": "nonsense"}
}""")
    with pytest.raises(UsageError) as caught:
        read_config(str(path))
    assert [line.removeprefix(f"{path}:") for line in caught.value.lines] == [
        "2: pve: api_token_id and api_token_secret: give both, or PVE_API_TOKEN_ID and PVE_API_TOKEN_SECRET",
        "4: storage.dsn: write user:password@tcp(host:3306)/database",
    ]
    path.write_text(
        '{"libvirt": {"uri": "qemu:///system"}, "ledger": "a.db", "api": {"prot": 1},\n"storage": {"type":'
        ' "mysql"}}'
    )
    config = read_config(str(path))
    assert (config.hypervisor["kind"], config.ledger, len(config.warnings)) == ("libvirt", "a.db", 1)
    assert config.warnings[0].startswith(
        f"{path}:1: api.prot: this key is not known here; there are allow_origins, "
    )


def test_the_file_as_it_is(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = configured(tmp_path, keys, 8006)
    config = read_config(str(path))
    assert config.interval_s == 1 and config.retention_days == 90 and not config.warnings
    assert config.rules[0].selection.labels["tags"] == ("vps",) and config.rules[0].limit == GIB
    path.write_text(
        path.read_text()
        .replace('"max_open_conns": 10', '"max_open_conns": 10')
        .replace('"rules": [', '"colour": "red", "rules": [')
    )
    assert "colour" in read_config(str(path)).warnings[0]
    monkeypatch.setenv("PVE_API_TOKEN_SECRET", "from-the-environment")
    assert read_config(str(path)).hypervisor["secret"] == "from-the-environment"
    places = {
        ("mysql", "u:p@ss@tcp(db:3306)/pve?charset=utf8mb4&parseTime=True"): "mysql://u:p%40ss@db:3306/pve",
        ("postgresql", "host=db port=5433 user=me password='a b' dbname=pve sslmode=disable"): "postgresql://me:a%20b@db:5433/pve?sslmode=disable",
        ("sqlite3", "file:./x.db?cache=shared"): "sqlite:///./x.db",
    }  # fmt: skip
    for (kind, dsn), ledger in places.items():
        found = json.loads(configured(tmp_path, keys, 1).read_text())
        found["storage"] = {"type": kind, "dsn": dsn}
        path.write_text(json.dumps(found))
        assert read_config(str(path)).ledger == ledger
    for storage in (
        {"type": "file", "dsn": "./data"},
        {"type": "file", "file_path": "./data"},
        {"dsn": "./data"},
    ):
        found["storage"] = storage
        path.write_text(json.dumps(found))
        assert read_config(str(path)).ledger == "files:./data"
    found["storage"] = {"type": "file"}
    path.write_text(json.dumps(found))
    with pytest.raises(UsageError, match="is needed with type file"):
        read_config(str(path))


def test_files_named_by_a_dsn_are_written(keys: Path, cluster: Cluster, tmp_path: Path) -> None:
    """By the command: the folder is the one that the dsn names."""
    with pve(keys, cluster) as port, (tmp_path / "log").open("w") as out:
        path = configured(tmp_path, keys, port)
        found = json.loads(path.read_text())
        found["storage"] = {"type": "file", "dsn": str(tmp_path / "kept")}
        path.write_text(json.dumps(found))
        command = [sys.executable, "-m", "replaykit", "machines", "-config", str(path)]
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            for _ in range(20):
                with cluster.lock:
                    cluster.guests[100].netin += 1_000_000
                if list(tmp_path.glob("kept/vm_100/*.jsonl")):
                    break
                time.sleep(1)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
    assert list(tmp_path.glob("kept/vm_100/*.jsonl")), (tmp_path / "log").read_text()


def test_its_data_folder_is_taken_over(ledger: Ledger, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "vm_100"
    folder.mkdir(parents=True)
    lines = [
        {
            "vmid": 100,
            "timestamp": f"2026-01-15T10:{n:02}:00.123456789+08:00",
            "rx_bytes": 1000 * n,
            "tx_bytes": n,
            "total_bytes": 1001 * n,
        }
        for n in range(10)
    ]
    lines.append(
        {**lines[-1], "timestamp": "2026-01-15T10:10:00+08:00", "rx_bytes": 50, "tx_bytes": 1}
    )  # started anew
    (folder / "traffic_2026-01-15.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n{torn")
    for _ in range(2):
        assert read_folder(ledger, tmp_path / "data") == (11, 1)
        assert used(ledger) == {"100": (9050, 10)}
    with pytest.raises(UsageError, match="not a data folder"):
        read_folder(ledger, tmp_path)


def test_the_wizard(keys: Path, cluster: Cluster, tmp_path: Path) -> None:
    from replaykit.cli.machines_wizard import wizard

    path = tmp_path / "made.json"
    with pve(keys, cluster) as port:
        answers = iter(
            [
                "127.0.0.1",
                str(port),
                "pve1",
                TOKEN,
                "wrong",
                "y",
                str(keys / "ca.pem"),
                "n",  # a token that is not accepted: again
                "127.0.0.1",
                str(port),
                "pve1",
                TOKEN,
                SECRET,
                "y",
                str(keys / "ca.pem"),
                "30",
                "",
                "n",
                "0",
                "sqlite",
                str(tmp_path / "w.db"),
                "y",
                "",
                "9090",
                "",
                "y",
                "上限",
                "y",
                "month",
                "y",
                "upload",
                "0.5",
                "rate_limit",
                "2",
                "vps, paid",
                "n",
            ]
        )
        assert wizard(path, lambda _: next(answers)) == 0
    config = read_config(str(path))
    assert (
        config.interval_s == 30
        and config.rules[0].name == "上限"
        and config.rules[0].anchored
        and path.stat().st_mode & 0o777 == 0o600
    )
    # Somebody who only presses Enter has a rule, and it is on.
    with pve(keys, cluster) as port:
        answers = iter(
            [
                "y",
                "127.0.0.1",
                str(port),
                "pve1",
                TOKEN,
                SECRET,
                "y",
                str(keys / "ca.pem"),
                "",
                "",
                "",
                "",
                "",
                str(tmp_path / "w.db"),
                "",
                "",
                "9090",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
                "",
            ]
        )
        assert wizard(path, lambda _: next(answers)) == 0
    (rule,) = read_config(str(path)).rules
    assert (
        rule.enabled and rule.name == "rule_1" and json.loads(path.read_text())["rules"][0]["enabled"] is True
    )
    kept = iter(["n"])
    assert wizard(path, lambda _: next(kept)) == 1
    done = subprocess.run(
        [sys.executable, "-m", "replaykit", "machines", "config", "-config", str(path)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=30,
    )
    assert done.returncode == 2 and "nobody is there" in done.stderr


def test_the_service(keys: Path, tmp_path: Path) -> None:
    """The unit that is installed is one that systemd takes."""
    from replaykit.cli.machines_service import service

    config = configured(tmp_path, keys, 8006)
    assert service("install", config, tmp_path) == 0
    unit = tmp_path / "replaykit-machines.service"
    assert f"-config {config}" in unit.read_text() and SECRET not in unit.read_text()
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
        )
        assert unit.name not in done.stderr, done.stderr
    assert service("uninstall", config, tmp_path) == 0 and not unit.exists()
    for action, path, said in (
        ("install", tmp_path / "none.json", "no such file"),
        ("uninstall", config, "not installed"),
    ):
        with pytest.raises(UsageError, match=said):
            service(action, path, tmp_path)


def test_periods_from_a_creation() -> None:
    """Hours since it, the same time of day over daylight saving, the same day of the month or its last."""
    zone = ZoneInfo("Europe/Berlin")

    def at(*parts: int) -> int:
        return int(datetime(*parts, tzinfo=zone).timestamp())  # type: ignore[misc, arg-type]

    created = at(2026, 1, 31, 12, 30)
    assert calendar.anchored("hour", created, at(2026, 3, 1, 10, 29), zone) == (
        at(2026, 3, 1, 9, 30),
        at(2026, 3, 1, 10, 30),
    )
    assert calendar.anchored("day", created, at(2026, 3, 29, 12, 29), zone) == (
        at(2026, 3, 28, 12, 30),
        at(2026, 3, 29, 12, 30),
    )
    assert calendar.anchored("day", created, at(2026, 10, 25, 12, 30), zone) == (
        at(2026, 10, 25, 12, 30),
        at(2026, 10, 26, 12, 30),
    )
    assert calendar.anchored("month", created, at(2026, 2, 28, 12, 31), zone) == (
        at(2026, 2, 28, 12, 30),
        at(2026, 3, 31, 12, 30),
    )


def test_a_machine_that_is_stopped_is_seen(ledger: Ledger) -> None:
    class Off:
        name = "off"

        def machines(self) -> list[Machine]:
            return [Machine("7", "seven", "n", "qemu", "stopped")]

        def details(self, machine: Machine) -> Details:
            return Details()

    Watch(ledger, Off()).poll(int(time.time()))  # type: ignore[arg-type]
    assert used(ledger) == {}
