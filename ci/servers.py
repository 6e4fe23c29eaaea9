"""Real servers and load for tests, the demo and benchmarks: nginx, wrk, network namespaces.

Everything lives in a directory of its own, listens on loopback or inside a namespace made here, and
is ended with the context it was started in.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NGINX = """
daemon off;
master_process off;
pid {root}/nginx.pid;
error_log {root}/error.log warn;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
    log_format measured '$connection $request_method $request_uri $status $request_length $bytes_sent $body_bytes_sent';
    access_log {log};
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    keepalive_requests 100000000;
    keepalive_timeout 600s;
    client_max_body_size 64m;
    sendfile on;
    server {{
        listen {address}:{port} backlog=4096{http2};
        root {root}/www;
        default_type application/json;
        location /files/ {{ default_type application/octet-stream; }}
        location /api/ {{
            add_header X-Request-Id $request_id;
            try_files /item.json =404;
        }}
        location /missing {{ return 404 '{{"error":"no such thing"}}'; }}
    }}
}}
"""
BODY = json.dumps({"items": [{"id": i, "name": f"item {i}", "price": i * 3.5} for i in range(16)]})


@dataclass(frozen=True)
class Nginx:
    """A running nginx; its access log holds connection, method, URI, status, and sizes in bytes."""

    address: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _wait(address: str, port: int, process: subprocess.Popen[bytes], prefix: Sequence[str]) -> None:
    probe = [*prefix, "python3", "-c", f"import socket;socket.create_connection(('{address}',{port}),1)"]
    for _ in range(100):
        if process.poll() is not None:
            raise RuntimeError(f"nginx ended with status {process.returncode}")
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.05)
    raise RuntimeError(f"nginx does not answer on {address}:{port}")


@contextmanager
def nginx(
    root: Path,
    address: str = "127.0.0.1",
    port: int = 0,
    log: bool = True,
    prefix: Sequence[str] = (),
    http2: bool = False,
) -> Iterator[Nginx]:
    """Serves small JSON under /api/, and files of 1 kB, 100 kB and 1 MB under /files/."""
    files = root / "www" / "files"
    files.mkdir(parents=True, exist_ok=True)
    for name, size in (("1k.bin", 1_000), ("100k.bin", 100_000), ("1m.bin", 1_000_000)):
        (files / name).write_bytes(bytes(range(256)) * (size // 256 + 1))
        os.truncate(files / name, size)
    (root / "www" / "item.json").write_text(BODY)
    (root / "www" / "index.html").write_text("<h1>replaykit</h1>\n")
    port = port or free_port()
    access = root / "access.log"
    to = f"{access} measured buffer=64k flush=1s" if log else "off"
    config = root / "nginx.conf"
    config.write_text(
        NGINX.format(root=root, log=to, address=address, port=port, http2=" http2" if http2 else "")
    )
    command = [*prefix, "nginx", "-p", str(root), "-e", str(root / "error.log"), "-c", str(config)]
    if os.geteuid() == 0:
        config.write_text("user root;\n" + config.read_text())
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(address, port, process, prefix)
        yield Nginx(address, port, access, process)
    finally:
        process.terminate()
        process.wait(10)


MIX = """
local paths = { "/api/users/%d", "/api/users/%d/orders?page=2", "/api/products/%d", "/api/search?q=%d", "/api/v1/health" }
local n = 0
request = function()
  n = n + 1
  local path = string.format(paths[n % #paths + 1], n % 997)
  if n % 10 == 0 then
    return wrk.format("POST", path, nil, '{"quantity":3,"note":"' .. string.rep("x", n % 200) .. '"}')
  end
  return wrk.format("GET", path)
end
"""


def wrk(
    url: str,
    seconds: int,
    connections: int = 32,
    mix: bool = True,
    prefix: Sequence[str] = (),
    root: Path | None = None,
) -> float:
    """Loads a server for some seconds with one thread; returns the requests per second served."""
    command = [*prefix, "wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s"]
    command += ["-H", "User-Agent: Mozilla/5.0 (X11; Linux x86_64)", "-H", "Accept: application/json"]
    command += [
        "-H",
        "Authorization: Bearer 0123456789abcdef0123456789abcdef",
        "-H",
        "Cookie: session=8c3d1e2f",
    ]
    if mix and root is not None:
        script = root / "mix.lua"
        script.write_text(MIX)
        command += ["-s", str(script)]
    out = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    for line in out.splitlines():
        if line.startswith("Requests/sec:"):
            return float(line.split()[1])
    raise RuntimeError(f"wrk printed no rate:\n{out}")


@contextmanager
def namespaces(name: str) -> Iterator[tuple[list[str], list[str]]]:
    """Two namespaces joined by a veth pair without offloads: 10.77.0.1 and 10.77.0.2, MTU 1500.

    Gives the command prefixes that run a program in the first (client) and the second (server). The
    ends are called veth0 in both.
    """
    one, two = f"{name}-c", f"{name}-s"
    try:
        for ns in (one, two):
            subprocess.run(["ip", "netns", "add", ns], check=True)
        subprocess.run(
            ["ip", "-n", one, "link", "add", "veth0", "type", "veth", "peer", "name", "veth0", "netns", two],
            check=True,
        )
        for ns, address in ((one, "10.77.0.1/24"), (two, "10.77.0.2/24")):
            subprocess.run(["ip", "-n", ns, "addr", "add", address, "dev", "veth0"], check=True)
            subprocess.run(["ip", "-n", ns, "link", "set", "lo", "up"], check=True)
            subprocess.run(["ip", "-n", ns, "link", "set", "veth0", "up"], check=True)
            offloads = ["tso", "off", "gso", "off", "gro", "off", "tx", "off", "rx", "off", "sg", "off"]
            subprocess.run(
                ["ip", "netns", "exec", ns, "ethtool", "-K", "veth0", *offloads],
                check=True,
                capture_output=True,
            )
        yield ["ip", "netns", "exec", one], ["ip", "netns", "exec", two]
    finally:
        for ns in (one, two):
            subprocess.run(["ip", "netns", "del", ns], check=False, capture_output=True)


def missing(*programs: str) -> list[str]:
    """Those of the programs that are not installed."""
    return [p for p in programs if shutil.which(p) is None]
