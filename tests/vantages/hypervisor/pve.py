"""A test server of Proxmox VE's API, as its description has it: answers in `data`, tokens, privileges,
digests, tasks.

Kept apart from the project: no Proxmox VE can be had here. It serves HTTPS with a certificate of its own.
`cluster` is the state, to be changed by tests: machines by id, what a token may do, and what goes wrong.
"""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

TOKEN, SECRET = "monitor@pve!traffic", "0d1f5a3e-8d4e-4f57-9f0a-2f6c3f6f2c11"
PRIVILEGES = {"VM.Audit", "VM.PowerMgmt", "VM.Config.Network", "Sys.Audit"}


@dataclass
class Guest:
    """ignores: shutdown by ACPI."""

    node: str = "pve1"
    type: str = "qemu"
    name: str = ""
    status: str = "running"
    netin: int = 0
    netout: int = 0
    started: float = field(default_factory=lambda: time.time() - 3600)
    config: dict[str, str] = field(default_factory=dict)
    template: int = 0
    ignores: bool = False

    @property
    def digest(self) -> str:
        return hashlib.sha1(json.dumps(self.config, sort_keys=True).encode()).hexdigest()

    def power(self, status: str, at: float | None = None) -> None:
        self.status = status
        if status == "running":
            self.started, self.netin, self.netout = time.time() if at is None else at, 0, 0


@dataclass
class Cluster:
    """calls: method and path of each.

    fails: answers by (method, part of the path): a status, or seconds to be late.
    """

    guests: dict[int, Guest] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    privileges: set[str] = field(default_factory=lambda: set(PRIVILEGES))
    fails: dict[tuple[str, str], int | float] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    task_s: float = 0.0
    at: float | None = None
    """Its clock for uptimes; None: this machine's."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def now(self) -> float:
        return time.time() if self.at is None else self.at

    def made(self, method: str, part: str = "") -> list[str]:
        return [p for m, p in self.calls if m == method and part in p]


class _Answer(Exception):
    def __init__(self, status: int, message: str, errors: dict[str, str] | None = None) -> None:
        self.status, self.message, self.errors = status, message, errors


def _handler(cluster: Cluster) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one piece, else it waits for an acknowledgement

        def log_message(self, *_: Any) -> None:
            """Nothing is printed."""

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urlsplit(self.path)
            given = dict(parse_qsl(path.query)) | dict(parse_qsl(body.decode()))
            status, message, out = 200, "OK", {}
            try:
                out = {"data": self._answer(path.path, given)}
            except _Answer as error:
                status, message = error.status, error.message
                out = {"data": None, **({"errors": error.errors} if error.errors else {})}
            data = json.dumps(out).encode()
            self.send_response(status, message)
            self.send_header("Content-Type", "application/json;charset=UTF-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PUT = do_DELETE = _serve

        def _answer(self, path: str, given: dict[str, str]) -> Any:
            if not path.startswith("/api2/json/"):
                raise _Answer(404, "Not Found")
            path = path.removeprefix("/api2/json")
            with cluster.lock:
                cluster.calls.append((self.command, path))
                fails = next(
                    (f for (m, part), f in cluster.fails.items() if m == self.command and part in path), None
                )
            if isinstance(fails, float):
                time.sleep(fails)
            elif fails is not None:
                raise _Answer(fails, "internal error" if fails >= 500 else "no")
            if self.headers.get("Authorization") != f"PVEAPIToken={TOKEN}={SECRET}":
                raise _Answer(401, "no such user token")
            with cluster.lock:
                return self._act(path, given)

        def _need(self, privilege: str) -> None:
            if privilege not in cluster.privileges:
                raise _Answer(403, f"Permission check failed (/vms, {privilege})")

        def _act(self, path: str, given: dict[str, str]) -> Any:
            for upid in list(cluster.tasks):
                self._task(upid)
            if path == "/version":
                return {"version": "8.2.4", "release": "8.2", "repoid": "faa83925"}
            if path == "/cluster/resources":
                # What the token may not audit is left out, not refused.
                return (
                    []
                    if "VM.Audit" not in cluster.privileges
                    else [_row(i, g, cluster.now()) for i, g in cluster.guests.items()]
                )
            task = re.fullmatch(r"/nodes/([\w-]+)/tasks/(UPID:[^/]+)/status", path)
            if task is not None:
                return self._task(task[2])
            match = re.fullmatch(r"/nodes/([\w-]+)/(qemu|lxc)/(\d+)/(config|status/\w+)", path)
            if match is None:
                raise _Answer(501, f"Method '{self.command} {path}' not implemented")
            guest = cluster.guests.get(int(match[3]))
            if guest is None or guest.node != match[1] or guest.type != match[2]:
                where = f"nodes/{match[1]}/qemu-server/{match[3]}.conf"
                raise _Answer(500, f"Configuration file '{where}' does not exist")
            if match[4] == "config":
                return self._config(guest, given)
            return self._power(int(match[3]), guest, match[4].removeprefix("status/"), given)

        def _config(self, guest: Guest, given: dict[str, str]) -> Any:
            self._need("VM.Audit")
            if self.command == "GET":
                return {**guest.config, "name": guest.name, "digest": guest.digest}
            self._need("VM.Config.Network")
            digest = given.pop("digest", "")
            if digest and digest != guest.digest:
                raise _Answer(500, "detected modified configuration - file changed by other user? Try again.")
            for name, text in given.items():
                for part in text.split(","):
                    key, _, value = part.partition("=")
                    if not re.fullmatch(r"net\d+", name) or (
                        key == "rate" and not re.fullmatch(r"\d+(\.\d+)?", value)
                    ):
                        raise _Answer(
                            400, "Parameter verification failed.", {name: "invalid format - format error"}
                        )
            guest.config |= given
            return None

        def _power(self, number: int, guest: Guest, action: str, given: dict[str, str]) -> Any:
            if action == "current" and self.command == "GET":
                self._need("VM.Audit")
                return _row(number, guest, cluster.now())
            if self.command != "POST" or action not in ("start", "stop", "shutdown"):
                raise _Answer(501, "not implemented")
            self._need("VM.PowerMgmt")
            now = int(time.time())
            upid = f"UPID:{guest.node}:{len(cluster.tasks):08X}:{now:08X}:{now:08X}:{guest.type[:1]}{action}:{number}:{TOKEN}:"  # noqa: E501
            end = "OK"
            if action == "start" and guest.status == "running":
                end = f"VM {number} already running"
            elif action == "shutdown" and guest.ignores and given.get("forceStop") != "1":
                end = "VM quit/powerdown failed - got timeout"
            elif guest.template:
                end = "you can't start a vm if it's a template"
            ends = time.time() + cluster.task_s
            cluster.tasks[upid] = {
                "ends": ends,
                "exit": end,
                "guest": guest,
                "to": "running" if action == "start" else "stopped",
            }
            self._task(upid)
            return upid

        def _task(self, upid: str) -> Any:
            task = cluster.tasks.get(upid)
            if task is None:
                raise _Answer(500, "no such task")
            if time.time() < task["ends"]:
                return {"status": "running", "upid": upid}
            if task["exit"] == "OK" and not task.get("done"):
                task["done"] = True
                task["guest"].power(task["to"], cluster.now())
            return {"status": "stopped", "exitstatus": task["exit"], "upid": upid}

    return Handler


def _row(number: int, guest: Guest, now: float) -> dict[str, Any]:
    running = guest.status == "running"
    row: dict[str, Any] = {
        "id": f"{guest.type}/{number}", "vmid": number, "type": guest.type, "node": guest.node,
        "name": guest.name or f"vm{number}", "status": guest.status, "template": guest.template, "maxcpu": 2,
        "maxmem": 1 << 31, "maxdisk": 1 << 33, "cpu": 0.01, "mem": 1 << 28,
        "uptime": int(now - guest.started) if running else 0, "netin": guest.netin if running else 0,
        "netout": guest.netout if running else 0, "diskread": 0, "diskwrite": 0,
    }  # fmt: skip
    if guest.config.get("tags"):
        row["tags"] = guest.config["tags"]
    return row


@contextmanager
def pve(keys: Path, cluster: Cluster) -> Iterator[int]:
    """The port it listens on. keys: a folder with server.pem and server.key."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(cluster))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(keys / "server.pem", keys / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
