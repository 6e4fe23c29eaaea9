"""`replaykit forward` with real programs on both sides: totals equal to what they sent, to the byte."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ci.servers import free_port
from replaykit.ledger.history import totals
from replaykit.ledger.store import Ledger
from tests.conftest import needs
from tests.target import listens, until


class Running:
    """A forwarder's process and its API."""

    def __init__(self, root: Path, *arguments: str, token: str | None = None) -> None:
        self.root, self.api, self.token = root, free_port(), token
        self.arguments = [
            sys.executable, "-m", "replaykit", "forward", "--ledger", str(root / "usage.db"), "--state",
            str(root / "state.json"), "--api", f"127.0.0.1:{self.api}", *arguments,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        environment = {**os.environ, **({"REPLAYKIT_TOKEN": self.token} if self.token else {})}
        with (self.root / "forward.log").open("ab") as log:
            self.process = subprocess.Popen(self.arguments, stdout=log, stderr=log, env=environment)
        until(lambda: listens(self.api) or self.process.poll() is not None, 30)
        assert self.process.poll() is None, self.log

    @property
    def log(self) -> str:
        return (self.root / "forward.log").read_text()

    def ask(
        self, path: str, body: Any = None, method: str | None = None, token: str | None = None
    ) -> tuple[int, Any]:
        token = token or self.token
        head = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.api}{path}", data, head, method=method)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def moved(self, port: int) -> tuple[int, int]:
        """Received and sent."""
        data = self.ask("/api/stats/traffic")[1]["data"]
        (row,) = [m for m in data["mappings"] if m["port"] == port]
        return row["bytes_received"], row["bytes_sent"]

    def stop(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)
        assert self.process.wait(20) in (0, -number), self.log


@contextmanager
def forward(root: Path, *arguments: str, token: str | None = None) -> Iterator[Running]:
    made = Running(root, *arguments, token=token)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait(10)


@contextmanager
def running(command: list[str], port: int | None, root: Path) -> Iterator[None]:
    with (root / "server.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=root)
    try:
        if port is not None:
            until(lambda: listens(port), 20, (root / "server.log").read_text())
        yield
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[int]:
    """A web server with a file of 3 MB and one of 100 MB."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "small").write_bytes(os.urandom(3_000_000))
    with (tmp_path / "www" / "large").open("wb") as file:
        file.truncate(100_000_000)
    port = free_port()
    with running(
        [sys.executable, "-m", "http.server", "-d", str(tmp_path / "www"), "-b", "127.0.0.1", str(port)],
        port,
        tmp_path,
    ):
        yield port


def test_the_examples_of_document_000(files: int, tmp_path: Path) -> None:
    """Its curl lines, with ports of our own; the shape of the answer is the document's, key by key."""
    needs("curl")
    with forward(tmp_path) as f:
        port, base = free_port(), f"http://127.0.0.1:{f.api}"
        made = {"source_port": port, "target_host": "127.0.0.1", "target_port": files, "use_tunnel": False}
        curl = [
            "curl",
            "-s",
            "-X",
            "POST",
            f"{base}/api/mapping/create",
            "-H",
            "Content-Type: application/json",
            "-d",
            json.dumps(made),
        ]
        assert json.loads(subprocess.run(curl, capture_output=True, check=True).stdout)["success"] is True
        done = subprocess.run(
            [
                "curl",
                "-s",
                "-o",
                str(tmp_path / "got"),
                "-w",
                "%{size_request} %{size_header} %{size_download}",
                f"http://127.0.0.1:{port}/small",
            ],
            capture_output=True,
            check=True,
            text=True,
        )
        request, header, body = map(int, done.stdout.split())
        assert (tmp_path / "got").read_bytes() == (tmp_path / "www" / "small").read_bytes()
        found = json.loads(
            subprocess.run(
                ["curl", "-s", f"{base}/api/stats/traffic"], capture_output=True, check=True
            ).stdout
        )
        now = found["data"]["timestamp"]
        (row,) = found["data"]["mappings"]
        assert found == {
            "success": True,
            "message": "ok",
            "data": {
                "tunnel": {"bytes_sent": 0, "bytes_received": 0, "last_update": 0},
                "mappings": [
                    {
                        "port": port,
                        "bytes_sent": header + body,
                        "bytes_received": request,
                        "last_update": row["last_update"],
                    }
                ],
                "total_sent": header + body,
                "total_received": request,
                "timestamp": now,
            },
        }
        assert abs(time.time() - now) < 5 and 0 <= now - row["last_update"] < 10
        assert json.loads(
            subprocess.run(["curl", "-s", f"{base}/health"], capture_output=True, check=True).stdout
        )["success"]
        f.stop()
    ledger = Ledger(f"sqlite:///{tmp_path / 'usage.db'}")
    (total,) = totals(ledger, 0, 2**32).sums
    assert (total.subject, total.rx_bytes, total.tx_bytes, total.connections) == (
        str(port),
        request,
        header + body,
        1,
    )
    ledger.close()


def test_ssh_and_scp(tmp_path: Path) -> None:
    """What ssh itself says that it transferred is what the mapping counted, but for the lines before
    encryption.
    """
    needs("sshd", "ssh")
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True
        )
    port, mapped = free_port(), free_port()
    (tmp_path / "authorized").write_text((tmp_path / "user.pub").read_text())
    (tmp_path / "sshd.conf").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile"
        f" {tmp_path}/authorized\nStrictModes no\nPidFile {tmp_path}/sshd.pid\nPermitRootLogin yes\nUsePAM"
        " no\nSubsystem sftp internal-sftp\n"
    )
    os.makedirs("/run/sshd", exist_ok=True)
    options = [
        "-i",
        str(tmp_path / "user"),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        f"UserKnownHostsFile={tmp_path}/known",
        "-o",
        "LogLevel=DEBUG1",
    ]
    with (
        running(["/usr/sbin/sshd", "-D", "-e", "-f", str(tmp_path / "sshd.conf")], port, tmp_path),
        forward(tmp_path, "--map", f"{mapped}:127.0.0.1:{port}") as f,
    ):
        done = subprocess.run(
            ["ssh", *options, "-p", str(mapped), "root@127.0.0.1", "head -c 2000000 /dev/zero | tr '\\0' x"],
            capture_output=True,
            check=True,
            timeout=60,
        )
        assert done.stdout == b"x" * 2_000_000
        sent, got = map(
            int, re.search(rb"Transferred: sent (\d+), received (\d+) bytes", done.stderr).groups()
        )  # type: ignore[union-attr]
        until(lambda: f.ask("/api/mapping/list")[1]["data"][0]["connections"] == 0, 10)
        received, back = f.moved(mapped)
        # ssh counts packets' bytes: the version lines and the padding of the first packets are not all among
        # them.
        assert sent <= received < sent + 5000 and got <= back < got + 5000 + 2_000_000 // 100
        payload = os.urandom(10_000_000)
        (tmp_path / "test.dat").write_bytes(payload)
        subprocess.run(
            [
                "scp",
                "-q",
                *options[:-2],
                "-P",
                str(mapped),
                str(tmp_path / "test.dat"),
                f"root@127.0.0.1:{tmp_path}/copy.dat",
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        assert (
            hashlib.sha256((tmp_path / "copy.dat").read_bytes()).digest() == hashlib.sha256(payload).digest()
        )
        assert 10_000_000 < f.moved(mapped)[0] - received < 10_500_000


def test_iperf3_both_ways(tmp_path: Path) -> None:
    """iperf3's own sums of the data connection, and the few bytes of its control connection."""
    needs("iperf3")
    port, mapped = free_port(), free_port()
    with (
        running(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(port)], port, tmp_path),
        forward(tmp_path, "--map", f"{mapped}:127.0.0.1:{port}") as f,
    ):
        for reverse in ((), ("-R",)):
            before = f.moved(mapped)
            done = subprocess.run(
                ["iperf3", "-c", "127.0.0.1", "-p", str(mapped), "-n", "200M", "-J", *reverse],
                capture_output=True,
                check=True,
                timeout=60,
            )
            end = json.loads(done.stdout)["end"]
            until(lambda: f.ask("/api/mapping/list")[1]["data"][0]["connections"] == 0, 10)
            received, sent = (a - b for a, b in zip(f.moved(mapped), before, strict=True))
            data, control = (received, sent) if not reverse else (sent, received)
            # Its server closes before it has read everything that the client sent.
            assert end["sum_received"]["bytes"] <= data <= end["sum_sent"]["bytes"] + 10_000, end[
                "sum_received"
            ]
            assert control < 10_000


def dns(port: int, folder: Path) -> AbstractContextManager[None]:
    """A real name server that answers for example.test."""
    server = ["dnsmasq", "-k", "-C", "/dev/null", "-R", "-p", str(port), "-a", "127.0.0.1", "-z"]
    return running([*server, "--address=/example.test/192.0.2.7", "--pid-file="], port, folder)


def dig(port: int, name: str, *more: str) -> subprocess.CompletedProcess[str]:
    command = ["dig", "@127.0.0.1", "-p", str(port), name, "+tries=1", *more]
    return subprocess.run(command, capture_output=True, check=False, text=True)


def len_of_answer(port: int, name: str) -> int:
    done = dig(port, name)
    assert "192.0.2.7" in done.stdout, done.stdout
    return int(re.search(r"MSG SIZE  rcvd: (\d+)", done.stdout)[1])  # type: ignore[index]


def test_names_over_udp(tmp_path: Path) -> None:
    needs("dnsmasq", "dig")
    port, mapped = free_port(), free_port()
    with dns(port, tmp_path), forward(tmp_path, "--map", f"{mapped}:127.0.0.1:{port}/udp") as f:
        sizes = sum(len_of_answer(mapped, f"n{n}.example.test") for n in range(20))
        received, sent = f.moved(mapped)
        assert sent == sizes and 20 * 30 < received < 20 * 100
        (row,) = f.ask("/api/mapping/list")[1]["data"]
        assert row["connections"] == 20 and row["protocol"] == "udp"


def test_rules_act_on_what_runs_within_a_second(files: int, tmp_path: Path) -> None:
    rules, port = tmp_path / "rules.yaml", free_port()
    rule = (
        "interval: 0.2s\nrules:\n  - {{ name: quota, kind: mapping, period: month, limit: 20MB, actions: [{}]"
        " }}\n"
    )
    rules.write_text(rule.format("rate_limit: 100kB"))
    with forward(tmp_path, "--map", f"{port}:127.0.0.1:{files}", "--rules", str(rules)) as f:
        process = subprocess.Popen(
            [
                "curl",
                "-s",
                "--limit-rate",
                "15M",
                "-o",
                str(tmp_path / "got"),
                f"http://127.0.0.1:{port}/large",
            ]
        )
        until(lambda: f.ask("/api/rules/effects")[1]["data"] != [], 20)
        time.sleep(1)
        before = f.moved(port)[1]
        time.sleep(1)
        assert 20_000_000 < before < 70_000_000 and f.moved(port)[1] - before < 300_000
        (effect,) = f.ask("/api/rules/effects")[1]["data"]
        assert (effect["effect"], effect["value"], effect["subject"]) == ("rate_limit", 100_000, str(port))
        (alert,) = f.ask("/api/alerts")[1]["data"]
        assert (
            alert["rule"] == "quota"
            and alert["subject"] == str(port)
            and alert["value"] > alert["threshold"] == 20_000_000
        )
        f.stop(signal.SIGKILL)
        process.wait(20)
        f.start()  # it holds from the first byte on
        assert f.ask("/api/mapping/list")[1]["data"][0]["rule_rate_limit"] == 100_000
        assert f.moved(port)[1] > 19_000_000
        rules.write_text(rule.format("block"))
        until(lambda: f.ask("/api/mapping/list")[1]["data"][0]["refusal"] == "blocked by a rule", 10)
        assert subprocess.run(
            ["curl", "-s", "-m", "5", f"http://127.0.0.1:{port}/small"], capture_output=True, check=False
        ).returncode
        rules.write_text(rule.format("block").replace("20MB", "20GB"))
        until(lambda: f.ask("/api/mapping/list")[1]["data"][0]["refusal"] == "", 10)
        assert (
            subprocess.run(
                ["curl", "-s", "-m", "9", f"http://127.0.0.1:{port}/small"], capture_output=True, check=False
            ).returncode
            == 0
        )
        assert f.ask("/api/alerts")[1]["data"] == []
        outcomes = [(e["action"], e["outcome"]) for e in f.ask("/api/rules/log")[1]["data"]]
        assert outcomes[0] == ("rate_limit", "done") and set(outcomes[1:]) >= {
            ("rate_limit", "undone"),
            ("block", "done"),
            ("block", "undone"),
        }


def test_killed_amid_load_and_started_again(files: int, tmp_path: Path) -> None:
    """Totals go on from the last flush, and what the API made is there again."""
    with forward(tmp_path) as f:
        port = free_port()
        assert f.ask("/api/client/create", {"name": "home", "flow_limit_mb": 500})[0] == 200
        assert (
            f.ask(
                "/api/mapping/create",
                {"source_port": port, "target_host": "127.0.0.1", "target_port": files, "client": "home"},
            )[0]
            == 200
        )
        known = 0
        for _ in range(3):
            process = subprocess.Popen(
                ["curl", "-s", "--limit-rate", "9M", "-o", "/dev/null", f"http://127.0.0.1:{port}/large"]
            )
            time.sleep(3.2)
            before = f.moved(port)[1]
            f.stop(signal.SIGKILL)
            process.wait(20)
            f.start()
            after = f.moved(port)[1]
            assert known < after <= before + 9_000_000 and after > before - 3 * 9_000_000
            known = after
        client = f.ask("/api/client/list")[1]["data"][0]
        assert (client["bytes_sent"], client["mappings"]) == (known, [str(port)])


def test_configuration(files: int, tmp_path: Path) -> None:
    one, two = free_port(), free_port()
    config = tmp_path / "forward.yaml"
    text = (
        f"clients:\n  - {{ name: home, max_connections: 5 }}\nmappings:\n  - {{ source_port: {one}, target:"
        f" 127.0.0.1:{files}, client: home }}\n"
    )
    config.write_text(text)
    with forward(tmp_path, "--config", str(config), token="a-long-secret") as f:
        assert f.ask("/api/stats/traffic", token="wrong")[0] == 401
        assert f.ask("/health", token="wrong")[0] == 200
        status, answer = f.ask(f"/api/mapping/{one}", method="DELETE")
        assert (status, answer["success"]) == (400, False) and "configuration file" in answer["message"]
        config.write_text(
            text + f"  - {{ source_port: {two}, target: 127.0.0.1:{files}, rate_limit: 5MB/s }}\n"
        )
        until(lambda: listens(two), 10)
        config.write_text(text.replace("max_connections: 5", "max_connexions: 5"))
        until(lambda: "max_connections" in f.log, 10)
        assert f"{config}:2: clients[0].max_connexions: this key is not known here" in f.log and listens(two)
        config.write_text(text)
        until(lambda: not listens(two), 10)
        assert "a-long-secret" not in f.log


def test_answers_to_what_is_wrong(files: int, tmp_path: Path) -> None:
    with forward(tmp_path) as f:
        good = {"source_port": free_port(), "target_host": "127.0.0.1", "target_port": files}
        for body, status, said in (
            (b"{not json", 400, "JSON"),
            ({}, 400, "source_port: Field required"),
            ({**good, "source_port": 70_000}, 400, "source_port"),
            ({**good, "source_port": "x"}, 400, "source_port"),
            ({**good, "colour": "red"}, 400, "colour"),
            ({**good, "listen": "everywhere"}, 400, "listen"),
            ({**good, "allow": ["10.0.0.0/99"]}, 400, "no network"),
            ({**good, "source_port": f.api}, 409, "already in use"),
            ({**good, "target_host": "no-such-host.invalid"}, 400, "no-such-host.invalid"),
            ({**good, "client": "nobody"}, 400, "no client"),
        ):
            found, answer = f.ask("/api/mapping/create", body)
            assert (found, answer["success"]) == (status, False) and said in answer["message"], (body, answer)
        assert f.ask("/api/mapping/remove", {"source_port": 9})[0] == 404
        assert (
            f.ask("/api/nothing")[0] == 404 and f.ask("/api/mapping/create", method="PUT", body={})[0] == 405
        )
        assert f.ask("/api/history?since=today")[1]["message"].startswith("'today' is no time")
        assert f.ask("/api/mapping/list")[1]["data"] == []
        for host, status in (
            ("evil.example", 400),
            (f"evil.example:{f.api}", 400),
            ("localhost", 200),
            ("[::1]:80", 200),
            ("127.0.0.1", 200),
        ):
            request = urllib.request.Request(
                f"http://127.0.0.1:{f.api}/api/mapping/list", headers={"Host": host}
            )
            try:
                assert urllib.request.urlopen(request, timeout=10).status == status
            except urllib.error.HTTPError as error:
                assert error.code == status, host


def test_what_the_api_makes_belongs_to_its_ledger(tmp_path: Path) -> None:
    """A fresh ledger begins with nothing; the same one again with what was made, and says so."""
    target, places = free_port(), iter(range(9))

    def run(ledger: str) -> Any:
        folder = tmp_path / f"run{next(places)}"
        folder.mkdir()
        made = Running.__new__(Running)
        made.root, made.api, made.token = folder, free_port(), None
        command = [
            sys.executable,
            "-m",
            "replaykit",
            "forward",
            "--ledger",
            ledger.replace("files:", f"files:{tmp_path}/") if ":" in ledger else str(tmp_path / ledger),
        ]
        made.arguments = [*command, "--api", f"127.0.0.1:{made.api}"]
        made.start()
        return made

    for ledger, there, make in (
        ("a.db", 0, True),
        ("b.db", 0, False),
        ("a.db", 1, False),
        ("files:f", 0, True),
        ("files:f", 1, False),
    ):
        f = run(ledger)
        try:
            found = [m["source_port"] for m in f.ask("/api/mapping/list")[1]["data"]]
            assert len(found) == there, (ledger, found)
            assert ("what the API made before is there again" in f.log) is bool(there), f.log
            if make:
                body = {"source_port": free_port(), "target_host": "127.0.0.1", "target_port": target}
                assert f.ask("/api/mapping/create", body)[0] == 200
        finally:
            f.stop()


def test_a_busy_place_of_the_api_is_named(tmp_path: Path) -> None:
    with forward(tmp_path) as f:
        (tmp_path / "other").mkdir()
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "replaykit",
                "forward",
                "--ledger",
                str(tmp_path / "other" / "u.db"),
                "--state",
                str(tmp_path / "s"),
                "--api",
                f"127.0.0.1:{f.api}",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    assert done.returncode == 2 and "--api ADDRESS:PORT" in done.stderr
    assert f"the API and the page cannot listen on 127.0.0.1:{f.api} (address already in use)" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--map", "30009"), "PORT:HOST:PORT"),
        (("--map", "30009:127.0.0.1:22/icmp"), "choose from tcp, udp, host"),
        (("--api", "8080x"), "ADDRESS:PORT"),
        (("--api", "0.0.0.0:0"), "needs a token"),
        (("--config", "nowhere.yaml"), "nowhere.yaml: cannot be read"),
        (("--rules", "nowhere.yaml", "--api", "none"), "nowhere.yaml: cannot be read"),
        (("--ledger", "/proc/x/usage.db"), "/proc/x"),
        (("--map", "30009:127.0.0.1:22", "--map", "30009:127.0.0.1:23", "--api", "none"), "two mappings"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    ledger = () if "--ledger" in arguments else ("--ledger", str(tmp_path / "u.db"))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "replaykit",
            "forward",
            *ledger,
            "--state",
            str(tmp_path / "s.json"),
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={k: v for k, v in os.environ.items() if k != "REPLAYKIT_TOKEN"},
    )
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
