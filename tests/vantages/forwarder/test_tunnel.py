"""The tunnel: everything that a mapping does, through one TLS connection from behind a NAT; broken and mended
amid load.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from ci.servers import free_port
from tests.conftest import needs
from tests.target import until
from tests.vantages.forwarder.test_command import Running, dig, dns, files, forward, len_of_answer, running

assert files  # a fixture


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("keys")
    command = [
        sys.executable,
        "-m",
        "replaykit",
        "tunnel",
        "--make-keys",
        str(root),
        "--server",
        "127.0.0.1",
        "--client",
        "home",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 6
    assert {p.stat().st_mode & 0o777 for p in root.iterdir()} == {0o600}
    return root


class Tunnel:
    """The end behind the NAT, as a process."""

    def __init__(self, keys: Path, root: Path, port: int, *more: str, name: str = "home") -> None:
        self.root = root
        self.command = [
            sys.executable, "-m", "replaykit", "tunnel", f"127.0.0.1:{port}", "--certificate",
            str(keys / f"{name}.pem"), "--key", str(keys / f"{name}.key"), "--ca", str(keys / "ca.pem"),
            *more,
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        with (self.root / "tunnel.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)

    @property
    def log(self) -> str:
        return (self.root / "tunnel.log").read_text()


def server_flags(keys: Path, port: int) -> list[str]:
    return [
        "--tunnel",
        f"127.0.0.1:{port}",
        "--tunnel-certificate",
        str(keys / "server.pem"),
        "--tunnel-key",
        str(keys / "server.key"),
        "--tunnel-ca",
        str(keys / "ca.pem"),
    ]


@contextmanager
def both(keys: Path, root: Path, *more: str) -> Iterator[tuple[Running, Tunnel]]:
    with ExitStack() as stack:
        port = free_port()
        f = stack.enter_context(forward(root, *server_flags(keys, port)))
        tunnel = Tunnel(keys, root, port, *more)
        stack.callback(lambda: (tunnel.process.kill(), tunnel.process.wait(10)))
        until(lambda: "tunnel home is connected" in f.log, 20, f.log)
        yield f, tunnel


def mapped(f: Running, target: int, **more: object) -> int:
    port = free_port()
    status, answer = f.ask(
        "/api/mapping/create",
        {"source_port": port, "target_host": "127.0.0.1", "target_port": target, "use_tunnel": True, **more},
    )
    assert status == 200, answer
    return port


def curl(port: int, name: str, to: Path | str = "/dev/null", *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            "curl",
            "-s",
            "-o",
            str(to),
            "-w",
            "%{size_request} %{size_header} %{size_download}",
            *more,
            f"http://127.0.0.1:{port}/{name}",
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_to_the_byte(keys: Path, files: int, tmp_path: Path) -> None:
    with both(keys, tmp_path) as (f, _):
        port = mapped(f, files)
        done = curl(port, "small", tmp_path / "got")
        request, header, body = map(int, done.stdout.split())
        assert (tmp_path / "got").read_bytes() == (tmp_path / "www" / "small").read_bytes()
        assert f.moved(port) == (request, header + body)
        data = f.ask("/api/stats/traffic")[1]["data"]
        tunnel = data["tunnel"]
        # What goes through the tunnel is the same and its frames.
        assert header + body < tunnel["bytes_received"] < (header + body) * 1.01 + 3000
        assert request < tunnel["bytes_sent"] < request + 3000 and tunnel["last_update"]
        assert (
            data["total_received"] == request + tunnel["bytes_received"]
            and data["total_sent"] == header + body + tunnel["bytes_sent"]
        )
        time.sleep(2.5)
        rows = f.ask("/api/history?kind=tunnel&period=month")[1]["data"]["rows"]
        assert [(r["subject"], r["rx_bytes"]) for r in rows] == [("home", tunnel["bytes_received"])]


def test_many_at_once_both_ways(keys: Path, tmp_path: Path) -> None:
    """A hundred visitors echo a megabyte each; one that does not read holds up nobody."""

    def echo(listener: socket.socket) -> None:
        while True:
            try:
                one, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(one,), daemon=True).start()

    def serve(one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            while data := one.recv(65_536):
                one.sendall(data)

    with both(keys, tmp_path) as (f, _), socket.create_server(("127.0.0.1", 0), backlog=200) as listener:
        threading.Thread(target=echo, args=(listener,), daemon=True).start()
        port = mapped(f, listener.getsockname()[1])
        stuck = socket.create_connection(("127.0.0.1", port))
        stuck.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                stuck.send(bytes(65_536))
        payload = os.urandom(1_000_000)
        good: list[int] = []

        def visit() -> None:
            with socket.create_connection(("127.0.0.1", port)) as s:
                s.settimeout(40)
                sender = threading.Thread(target=lambda: (s.sendall(payload), s.shutdown(socket.SHUT_WR)))
                sender.start()
                got = b""
                while data := s.recv(65_536):
                    got += data
                sender.join()
                if got == payload:
                    good.append(1)

        threads = [threading.Thread(target=visit) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(good) == 100
        stuck.close()
        until(lambda: f.ask("/api/mapping/list")[1]["data"][0]["connections"] == 0, 20)
        assert f.moved(port)[0] >= 100_000_000


def test_iperf3_through_it(keys: Path, tmp_path: Path) -> None:
    needs("iperf3")
    target = free_port()
    with (
        running(["iperf3", "-s", "-B", "127.0.0.1", "-p", str(target)], target, tmp_path),
        both(keys, tmp_path) as (f, _),
    ):
        port = mapped(f, target)
        done = subprocess.run(
            ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-n", "100M", "-J"],
            capture_output=True,
            check=True,
            timeout=60,
        )
        end = json.loads(done.stdout)["end"]
        until(lambda: f.ask("/api/mapping/list")[1]["data"][0]["connections"] == 0, 20)
        assert end["sum_received"]["bytes"] <= f.moved(port)[0] <= end["sum_sent"]["bytes"] + 10_000


def test_limits_hold_in_it(keys: Path, files: int, tmp_path: Path) -> None:
    with both(keys, tmp_path) as (f, _):
        slow = mapped(f, files, rate_limit=2_000_000)
        begun = time.monotonic()
        assert curl(slow, "small").stdout.endswith(" 3000000")
        assert 1.0 < time.monotonic() - begun < 4.0
        little = mapped(f, files, flow_limit_mb=2)
        assert curl(little, "large").returncode != 0
        assert sum(f.moved(little)) == 2 << 20
        assert curl(little, "small").returncode != 0


def test_dns_by_udp_through_it(keys: Path, tmp_path: Path) -> None:
    needs("dnsmasq", "dig")
    target = free_port()
    with dns(target, tmp_path), both(keys, tmp_path) as (f, tunnel):
        port = mapped(f, target, protocol="udp")
        sizes = sum(len_of_answer(port, f"n{n}.example.test") for n in range(20))
        received, sent = f.moved(port)
        assert sent == sizes and 20 * 30 < received < 20 * 100
        # All sorts of sizes, many at once: an echo of them.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as echo:
            echo.bind(("127.0.0.1", 0))
            echo.settimeout(10)
            port = mapped(f, echo.getsockname()[1], protocol="udp")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as visitor:
                visitor.settimeout(10)
                visitor.connect(("127.0.0.1", port))
                total = 0
                for size in (0, 1, 61, 62, 63, 64, 1400, 16_381, 16_383, 16_384, 65_507):
                    data = os.urandom(size)
                    visitor.send(data)
                    got, back = echo.recvfrom(70_000)
                    assert got == data
                    echo.sendto(data[::-1], back)
                    assert visitor.recv(70_000) == data[::-1]
                    total += size
                assert f.moved(port) == (total, total)
        tunnel.process.kill()
        until(lambda: "tunnel home is gone" in f.log, 20)
        assert dig(port, "n.example.test", "+timeout=1").returncode != 0


def test_what_may_not_be_or_is_not_there(keys: Path, files: int, tmp_path: Path) -> None:
    with both(keys, tmp_path, "--allow", f"127.0.0.1:{files}") as (f, tunnel):
        assert curl(mapped(f, files), "small").returncode == 0
        other = mapped(f, 22)
        assert curl(other, "x").returncode != 0
        until(lambda: "127.0.0.1:22: asked for, and not allowed" in tunnel.log, 10)
        row = next(m for m in f.ask("/api/mapping/list")[1]["data"] if m["port"] == other)
        assert row["troubles"] == {"127.0.0.1:22 through the tunnel: not allowed there": 1}
        assert f.ask("/api/client/create", {"name": "office"})[0] == 200
        nobody = mapped(f, files, client="office")
        assert curl(nobody, "x").returncode != 0  # this client has no tunnel
    with both(keys, tmp_path) as (f, _):
        away = mapped(f, free_port())
        assert curl(away, "x").returncode != 0
        row = next(m for m in f.ask("/api/mapping/list")[1]["data"] if m["port"] == away)
        assert "cannot be reached" in next(iter(row["troubles"]))


def test_strangers_do_not_get_in(keys: Path, tmp_path: Path) -> None:
    port = free_port()
    other = tmp_path / "other"
    command = [
        sys.executable,
        "-m",
        "replaykit",
        "tunnel",
        "--make-keys",
        str(other),
        "--server",
        "127.0.0.1",
        "--client",
        "home",
    ]
    subprocess.run(command, check=True, capture_output=True)
    with forward(tmp_path, *server_flags(keys, port)) as f:
        tunnel = Tunnel(other, tmp_path, port)  # it does not know this server either
        until(lambda: "certificate" in tunnel.log or "self-signed" in tunnel.log, 20)
        tunnel.process.kill()
        tunnel.process.wait(10)
        (other / "ca.pem").write_bytes(
            (keys / "ca.pem").read_bytes()
        )  # now it trusts the server, which knows it not
        again = Tunnel(other, tmp_path, port)
        time.sleep(2)
        again.process.kill()
        again.process.wait(10)
        assert "is connected" not in f.log and f.ask("/health")[0] == 200
        with socket.create_connection(("127.0.0.1", port)) as s:  # and noise does no harm
            s.sendall(os.urandom(5000))
        assert f.ask("/health")[0] == 200


@pytest.mark.parametrize("who", ["tunnel", "server"])
def test_either_end_killed_amid_load(keys: Path, files: int, tmp_path: Path, who: str) -> None:
    """It is there again by itself, and so are the totals."""
    with both(keys, tmp_path) as (f, tunnel):
        port = mapped(f, files)
        known = 0
        for _ in range(2):
            load = subprocess.Popen(
                ["curl", "-s", "--limit-rate", "10M", "-o", "/dev/null", f"http://127.0.0.1:{port}/large"]
            )
            until(lambda: f.moved(port)[1] > known + 3_000_000, 20)  # noqa: B023
            time.sleep(2.2)
            count = f.log.count("tunnel home is connected")
            if who == "tunnel":
                tunnel.process.send_signal(signal.SIGKILL)
                tunnel.process.wait(10)
                assert load.wait(20) != 0  # it notices
                tunnel.start()
            else:
                f.stop(signal.SIGKILL)
                load.wait(20)
                f.start()
            until(lambda: f.log.count("tunnel home is connected") > count, 40)  # noqa: B023
            assert f.moved(port)[1] >= known + 3_000_000
            known = f.moved(port)[1]
            assert curl(port, "small").stdout.endswith(" 3000000")
            known = f.moved(port)[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name the server"),
        (("somewhere",), "SERVER:PORT"),
        (("127.0.0.1:7000",), "give --certificate, --key and --ca"),
        (
            ("127.0.0.1:7000", "--certificate", "x.pem", "--key", "x.key", "--ca", "x"),
            "x.pem and x.key: cannot be used",
        ),
        (("--make-keys", "keys"), "name whom they are for"),
        (("--make-keys", "keys", "--client", "../x"), "not a name for a file"),
        (("--server", "x"), "are of --make-keys"),
    ],
)
def test_wrong_use(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "replaykit", "tunnel", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_keys_are_never_replaced(tmp_path: Path) -> None:
    def make(*names: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "replaykit", "tunnel", "--make-keys", "keys", *names]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert make("--server", "127.0.0.1", "--client", "home").returncode == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "keys").iterdir()}
    for names in (("--server", "127.0.0.1"), ("--client", "new", "--client", "home")):
        done = make(*names)
        assert done.returncode == 2 and "there is such a key already" in done.stderr
        assert {p.name: p.read_bytes() for p in (tmp_path / "keys").iterdir()} == before
    assert make("--client", "office").returncode == 0
