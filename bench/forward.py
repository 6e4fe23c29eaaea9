"""A mapping beside other proxies: iperf3 through each in turn, new connections, idle connections.

The others are Go's io.Copy in thirty lines (built here with `go`), HAProxy in TCP mode and socat.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.measure import process_cpu_s
from ci.servers import free_port, namespaces, nginx
from replaykit.vantages.forwarder.keys import make

ROUNDS, SECONDS = 3, 5
TLS = "HAProxy, TLS between two of its listeners"
APART = ("replaykit", "replaykit, all limits set", "Go's io.Copy", "HAProxy, TCP mode, one thread")
IDLE = {"replaykit": 9_000, "HAProxy, TCP mode, one thread": 9_000, "Go's io.Copy": 4_000}
# A process may have 20,000 files here: a connection is two, and four with Go, which holds on to its pipe.
GO = """package main

import (
	"io"
	"net"
	"os"
)

func main() {
	listener, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		panic(err)
	}
	for {
		visitor, err := listener.Accept()
		if err != nil {
			continue
		}
		go func() {
			target, err := net.Dial("tcp", os.Args[2])
			if err != nil {
				visitor.Close()
				return
			}
			go func() { io.Copy(target, visitor); target.(*net.TCPConn).CloseWrite() }()
			io.Copy(visitor, target)
			visitor.Close()
			target.Close()
		}()
	}
}
"""
HAPROXY = """global
  maxconn 9950
  nbthread 1
defaults
  mode tcp
  timeout connect 5s
  timeout client 600s
  timeout server 600s
listen it
  bind {listen}:{port}
  server s 127.0.0.1:{target}
"""
HAPROXY_TLS = """global
  maxconn 2000
  nbthread 2
defaults
  mode tcp
  timeout connect 5s
  timeout client 600s
  timeout server 600s
listen near
  bind {listen}:{port}
  server far 127.0.0.1:{between} ssl crt {keys}/home.both ca-file {keys}/ca.pem verify required
listen far
  bind 127.0.0.1:{between} ssl crt {keys}/server.both ca-file {keys}/ca.pem verify required
  server s 127.0.0.1:{target}
"""
Starter = Callable[[Path, str, int, int], list[str]]
"""The command of a proxy: a folder for its files, where it listens, the port, and the target's port on
127.0.0.1.
"""


def tunnelled(root: Path, listen: str, port: int, target: int) -> list[str]:
    """Through TLS and HTTP/2, both ends on this machine."""
    return [sys.executable, "-m", "bench.tunnelled", str(root), listen, str(port), str(target)]


def replaykit(root: Path, listen: str, port: int, target: int) -> list[str]:
    return [
        sys.executable,
        "-m",
        "replaykit",
        "forward",
        "--map",
        f"{listen}:{port}:127.0.0.1:{target}",
        "--api",
        "none",
        "--quiet",
        "--ledger",
        str(root / f"{port}.db"),
        "--state",
        str(root / f"{port}.json"),
    ]


def limited(root: Path, listen: str, port: int, target: int) -> list[str]:
    """With every limit set, none of which is reached."""
    config = root / f"{port}.yaml"
    limits = "flow_limit_mb: 100000000, max_connections: 100000, rate_limit: 100GB/s"
    config.write_text(
        f"clients: [{{ name: c, {limits} }}]\nmappings: [{{ listen: {listen}, source_port: {port}, target:"
        f" '127.0.0.1:{target}', client: c, {limits} }}]\n"
    )
    plain = replaykit(root, listen, port, target)
    return [*plain[:4], "--config", str(config), *plain[6:]]


def go(root: Path, listen: str, port: int, target: int) -> list[str]:
    program = root / "copy"
    if not program.exists():
        (root / "copy.go").write_text(GO)
        subprocess.run(["go", "build", "-o", str(program), str(root / "copy.go")], check=True, cwd=root)
    return [str(program), f"{listen}:{port}", f"127.0.0.1:{target}"]


def haproxy(root: Path, listen: str, port: int, target: int) -> list[str]:
    config = root / f"{port}.cfg"
    config.write_text(HAPROXY.format(listen=listen, port=port, target=target))
    return ["haproxy", "-db", "-f", str(config)]


def haproxy_tls(root: Path, listen: str, port: int, target: int) -> list[str]:
    """Two of its listeners with mutual TLS between them, in one process: what a tunnel does, one connection
    each.
    """
    keys = root / "haproxy-keys"
    if not keys.exists():
        make(keys, ["127.0.0.1"], ["home"])
        for name in ("server", "home"):
            (keys / f"{name}.both").write_bytes(
                b"".join((keys / f"{name}.{end}").read_bytes() for end in ("pem", "key"))
            )
    config = root / f"{port}.cfg"
    config.write_text(
        HAPROXY_TLS.format(listen=listen, port=port, target=target, between=free_port(), keys=keys)
    )
    return ["haproxy", "-db", "-f", str(config)]


def socat(root: Path, listen: str, port: int, target: int) -> list[str]:
    return ["socat", f"TCP-LISTEN:{port},fork,reuseaddr,bind={listen}", f"TCP:127.0.0.1:{target}"]


PROXIES: dict[str, Starter] = {
    "replaykit": replaykit, "replaykit, all limits set": limited,
    "replaykit, through a tunnel, both ends": tunnelled, "Go's io.Copy": go,
    "HAProxy, TCP mode, one thread": haproxy, TLS: haproxy_tls, "socat": socat,
}  # fmt: skip


def listening(process: subprocess.Popen[bytes], port: int) -> bool:
    """In the process's network. Without connecting: iperf3's server takes any connection for a client."""
    lines = Path(f"/proc/{process.pid}/net/tcp").read_text().splitlines()[1:]
    return any(f[1].endswith(f":{port:04X}") and f[3] == "0A" for f in map(str.split, lines))


@contextmanager
def started(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if listening(process, port):
                break
            time.sleep(0.05)
        time.sleep(0.5)
        yield process
    finally:
        process.terminate()
        process.wait(10)


def cpu_s(process: subprocess.Popen[bytes]) -> float:
    """Of a process and, for who forks, its children that have ended and those that run."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    ended = (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return process_cpu_s(process.pid) + ended + sum(process_cpu_s(int(c)) for c in children)


def measured(
    process: subprocess.Popen[bytes], client: Sequence[str], listen: str, port: int
) -> tuple[dict[str, float], float]:
    """iperf3's sums through a proxy, and the proxy's seconds of CPU per GB."""
    for _ in range(10):
        before = cpu_s(process)
        command = [*client, "iperf3", "-c", listen, "-p", str(port), "-t", str(SECONDS), "-J"]
        end = json.loads(subprocess.run(command, capture_output=True, check=False).stdout).get("end", {})
        if end.get("sum_received", {}).get("bytes"):
            return end["sum_received"], (cpu_s(process) - before) / (end["sum_received"]["bytes"] / 1e9)
        time.sleep(0.5)  # its server still has to do with our look whether the proxy is there
    raise RuntimeError("iperf3 does not get through")


def throughput(
    root: Path,
    wanted: list[str],
    listen: str = "127.0.0.1",
    client: Sequence[str] = (),
    server: Sequence[str] = (),
) -> dict[str, tuple[float, float]]:
    """Gbit/s and seconds of CPU per GB; the best of the rounds.

    client, server: what runs a program in a namespace.
    """
    best: dict[str, tuple[float, float]] = {}
    target = free_port()
    with started([*server, "iperf3", "-s", "-B", "127.0.0.1", "-p", str(target)], target):
        for _ in range(ROUNDS):
            for name in wanted:
                port = free_port()
                with started([*server, *PROXIES[name](root, listen, port, target)], port) as process:
                    end, cost = measured(process, client, listen, port)
                rate, least = best.get(name, (0.0, 1e9))
                best[name] = max(rate, end["bits_per_second"] / 1e9), min(least, cost)
                time.sleep(0.3)
    return best


def connections(root: Path, wanted: list[str]) -> dict[str, float]:
    """New connections a second: requests of wrk that each ask for the end of theirs."""
    found: dict[str, float] = {}
    with nginx(root / "nginx", log=False) as web:
        for _ in range(ROUNDS):
            for name in wanted:
                port = free_port()
                with started(PROXIES[name](root, "127.0.0.1", port, web.port), port):
                    done = subprocess.run(
                        [
                            "wrk",
                            "-t1",
                            "-c64",
                            f"-d{SECONDS}s",
                            "-H",
                            "Connection: close",
                            f"http://127.0.0.1:{port}/api/item",
                        ],
                        capture_output=True,
                        check=True,
                        text=True,
                    )
                    rate = float(done.stdout.partition("Requests/sec:")[2].split()[0])
                    found[name] = max(found.get(name, 0.0), rate)
    return found


def idle(root: Path, wanted: list[str]) -> dict[str, float]:
    """MB that it holds with so many connections that have moved a little and are silent."""
    echo = (
        "import asyncio\nasync def e(r, w):\n    while d := await r.read(9): w.write(d)\nasync def m():\n   "
        " s = await asyncio.start_server(e, '127.0.0.1', {port}, backlog=4096)\n    await"
        " s.serve_forever()\nasyncio.run(m())"
    )
    found: dict[str, float] = {}
    for name in wanted:
        server, port = free_port(), free_port()
        with (
            started([sys.executable, "-c", echo.format(port=server)], server),
            started(PROXIES[name](root, "127.0.0.1", port, server), port) as process,
        ):
            open_ = []
            for n in range(IDLE[name]):
                s = socket.socket()
                s.bind((f"127.0.0.{2 + n // 5000}", 0))
                s.connect(("127.0.0.1", port))
                s.send(b"hello")
                open_.append(s)
            for s in open_:
                s.settimeout(20)
                assert s.recv(5) == b"hello"
            text = Path(f"/proc/{process.pid}/status").read_text()
            found[name] = int(text.partition("VmRSS:")[2].split()[0]) / 1024
            for s in open_:
                s.close()
    return found


def results() -> tuple[str, list[list[str]]]:
    """A text and a table for bench/RESULTS.md."""
    lacking = {
        "Go's io.Copy": "go",
        "HAProxy, TCP mode, one thread": "haproxy",
        TLS: "haproxy",
        "socat": "socat",
    }
    wanted = [name for name in PROXIES if name not in lacking or shutil.which(lacking[name])]
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        speed = throughput(root, wanted)
        with namespaces("rk-bench", offloads=True) as (client, server):
            apart = throughput(root, [w for w in wanted if w in APART], "10.77.0.2", client, server)
        new = connections(root, [w for w in wanted if w not in ("socat", TLS)])
        held = idle(root, [w for w in wanted if w in IDLE])
    rows = [
        ["", "Gbit/s", "CPU s per GB", "between namespaces", "new connections/s", "memory, idle connections"]
    ]
    for proxy in wanted:
        rate, cost = speed[proxy]
        rows.append(
            [
                proxy,
                f"{rate:.1f}",
                f"{cost:.2f}",
                "{:.1f} Gbit/s, {:.2f} s".format(*apart[proxy]) if proxy in apart else "",
                f"{new[proxy]:,.0f}" if proxy in new else "",
                f"{held[proxy]:,.0f} MB, {IDLE[proxy]:,}" if proxy in held else "",
            ]
        )
    return (
        (
            "On loopback, and from a network namespace to another over veth; client, server and proxy on two"
            f" cores; the best of {ROUNDS} rounds in turn of {SECONDS} s each.\n\n"
        ),
        rows,
    )


if __name__ == "__main__":
    text, table = results()
    print(text + "\n".join(" | ".join(row) for row in table))
