"""gor over the network: TCP, TLS, WebSocket, HTTP and any protocol, against real servers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ci.servers import certificate, free_port
from replaykit.records.message import SEPARATOR
from tests.goreplay.test_gor_files import payloads, records
from tests.target import CLOSE, OK, Rec, get, gor, gor_running, listens, paths, post, run_gor, target, until


def recording(path: Path, count: int = 20, responses: bool = True) -> Path:
    """Requests on several recorded connections, each answered."""
    made = [r for n in range(count) for r in (Rec(get(f"/{n}"), n, session=n % 4), Rec(OK, n, 2, n % 4))]
    path.write_bytes(gor([r for r in made if responses or r.kind == 1]))
    return path


@contextlib.contextmanager
def collector(tls: tuple[Path, Path] | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A TCP server that keeps what each connection sent."""
    listener = socket.create_server(("127.0.0.1", 0))
    got: list[bytes] = []
    context = None
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, tls))

    def serve(client: socket.socket, at: int) -> None:
        with contextlib.suppress(OSError), client:
            while data := client.recv(1 << 16):
                got[at] += data

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
                if context is not None:
                    client = context.wrap_socket(client, server_side=True)
            except ssl.SSLError:
                continue
            except OSError:
                return
            got.append(b"")
            threading.Thread(target=serve, args=(client, len(got) - 1), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1], got
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_tcp_output(tmp_path: Path) -> None:
    name = recording(tmp_path / "a.gor")
    with collector() as (port, got):
        done = run_gor(
            "--input-file",
            str(name),
            "--output-tcp",
            f"127.0.0.1:{port}",
            "--output-tcp-workers",
            "3",
            "--stats",
            "--output-tcp-stats",
        )
        until(lambda: len(b"".join(got)) >= name.stat().st_size, 20)
    assert done.returncode == 0, done.stderr
    assert sorted(records(b"".join(got))) == sorted(records(name.read_bytes()))
    assert 1 < len(got) <= 3 and b"output_tcp:latest,mean,max" in done.stderr


def test_tcp_output_sticky_keeps_request_and_answer_together(tmp_path: Path) -> None:
    name = recording(tmp_path / "a.gor")
    with collector() as (port, got):
        assert (
            run_gor(
                "--input-file", str(name), "--output-tcp", f"127.0.0.1:{port}", "--output-tcp-sticky"
            ).returncode
            == 0
        )
        until(lambda: len(b"".join(got)) >= name.stat().st_size, 20)
    for side in got:
        ids = [r.split(b" ")[1] for r in records(side)] if side else []
        assert all(ids.count(i) == 2 for i in ids)


def test_tcp_output_waits_for_a_server_that_comes_late(tmp_path: Path) -> None:
    name, port = recording(tmp_path / "a.gor", 5), free_port()
    with gor_running(
        "--input-file", str(name), "--output-tcp", f"127.0.0.1:{port}", "--output-tcp-workers", "1"
    ) as sender:
        time.sleep(1.0)
        out = tmp_path / "out.gor"
        with gor_running(
            "--input-tcp",
            f"127.0.0.1:{port}",
            "--output-file",
            str(out),
            "--output-file-append",
            "--output-file-flush-interval",
            "20ms",
        ):
            until(lambda: out.exists() and len(records(out.read_bytes())) == 10, 30)
        assert sender.wait(20) == 0


def test_tcp_output_counts_what_nobody_took(tmp_path: Path) -> None:
    name = recording(tmp_path / "a.gor", 5)
    done = run_gor("--input-file", str(name), "--output-tcp", f"127.0.0.1:{free_port()}")
    assert done.returncode == 2 and b"10 messages were lost" in done.stderr


@pytest.mark.parametrize("secure", [False, True])
def test_from_one_instance_to_another(tmp_path: Path, secure: bool) -> None:
    name, port, out = recording(tmp_path / "a.gor", 50), free_port(), tmp_path / "out.gor"
    pem, key = certificate(tmp_path, "127.0.0.1")
    server = [
        "--input-tcp-secure",
        "--input-tcp-certificate",
        str(pem),
        "--input-tcp-certificate-key",
        str(key),
    ]
    client = ["--output-tcp-secure", "--output-tcp-skip-verify"]
    receiving = ["--input-tcp", f"127.0.0.1:{port}", *(server if secure else [])]
    with gor_running(
        *receiving, "--output-file", str(out), "--output-file-append", "--output-file-flush-interval", "20ms"
    ):
        until(lambda: listens(port))
        done = run_gor(
            "--input-file", str(name), "--output-tcp", f"127.0.0.1:{port}", *(client if secure else [])
        )
        assert done.returncode == 0, done.stderr
        until(lambda: out.exists() and len(records(out.read_bytes())) == 100, 20)
    assert sorted(records(out.read_bytes())) == sorted(records(name.read_bytes()))


def test_a_peer_whose_certificate_is_not_known_gets_nothing(tmp_path: Path) -> None:
    name = recording(tmp_path / "a.gor", 2)
    with collector(certificate(tmp_path, "127.0.0.1")) as (port, got):
        done = run_gor("--input-file", str(name), "--output-tcp", f"127.0.0.1:{port}", "--output-tcp-secure")
    assert done.returncode == 2 and b"certificate" in done.stderr.lower() and not b"".join(got)


def test_tcp_input_refuses_what_are_no_records(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out.gor"
    with gor_running(
        "--input-tcp",
        f"127.0.0.1:{port}",
        "--output-file",
        str(out),
        "--output-file-append",
        "--output-file-flush-interval",
        "20ms",
    ) as process:
        until(lambda: listens(port))
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(b"no record" + SEPARATOR)
            s.settimeout(20)
            assert s.recv(1) == b""
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(gor([Rec(get("/a"))]) + b"1 torn")
        until(lambda: out.exists() and len(records(out.read_bytes())) == 1, 20)
        process.terminate()
        error = process.stderr.read()  # type: ignore[union-attr]
    assert b"are no records" in error and b"within a record" in error


def test_websocket_output(tmp_path: Path) -> None:
    from websockets.asyncio.server import ServerConnection, serve

    name = recording(tmp_path / "a.gor", 10)
    got: list[bytes] = []
    logins: set[str | None] = set()

    async def handle(socket: ServerConnection) -> None:
        assert socket.request is not None
        logins.add(socket.request.headers.get("Authorization"))
        async for message in socket:
            assert isinstance(message, bytes)
            got.append(message)

    async def go() -> None:
        async with serve(handle, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            url = f"ws://me:secret@127.0.0.1:{port}/in"
            done = await asyncio.to_thread(
                run_gor,
                "--input-file",
                str(name),
                "--output-ws",
                url,
                "--output-ws-workers",
                "2",
                "--output-ws-sticky",
                "--output-ws-skip-verify",
                "--stats",
                "--output-ws-stats",
            )
            assert done.returncode == 0, done.stderr
            assert b"secret" not in done.stderr

    asyncio.run(go())
    assert sorted(got) == sorted(records(name.read_bytes()))
    assert logins == {"Basic " + base64.b64encode(b"me:secret").decode()}


def test_http_input(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out.gor"
    with gor_running(
        "--input-http",
        f"127.0.0.1:{port}",
        "--output-file",
        str(out),
        "--output-file-append",
        "--output-file-flush-interval",
        "20ms",
    ):
        until(lambda: listens(port))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/a?b=1", timeout=20) as response:
            assert response.status == 200
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.settimeout(20)
            body = b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            s.sendall(body + post("/d", b"xyz") + get("/e"))
            said = b""
            while said.count(b"HTTP/1.1 200") < 3:
                said += s.recv(4096)
            s.sendall(post("/f", b"12345")[:-5].replace(b"\r\nHost", b"\r\nExpect: 100-continue\r\nHost"))
            assert b"100 Continue" in s.recv(4096)
            s.sendall(b"12345")
            assert b"200 OK" in s.recv(4096)
        until(lambda: out.exists() and len(records(out.read_bytes())) == 5, 20)
    found = payloads(out.read_bytes())
    assert paths(found) == ["/a?b=1", "/c", "/d", "/e", "/f"]
    assert found[1].endswith(b"3\r\nabc\r\n0\r\n\r\n") and found[4].endswith(b"12345")
    ids = [r.split(b" ")[1] for r in records(out.read_bytes())]
    assert len(set(ids)) == 5 and {len(i) for i in ids} == {24}


def test_http_output(tmp_path: Path) -> None:
    name, out = recording(tmp_path / "a.gor"), tmp_path / "out.gor"
    with target() as there:
        done = run_gor(
            "--input-file",
            str(name),
            "--output-http",
            there.url,
            "--output-http-track-response",
            "--output-file",
            str(out),
            "--output-file-append",
            "--output-http-workers",
            "3",
            "--output-http-workers-min",
            "2",
            "--output-http-worker-timeout",
            "1s",
            "--output-http-queue-len",
            "4",
            "--output-http-timeout",
            "20s",
            "--output-http-stats",
            "--output-http-stats-ms",
            "100",
            "--stats",
            "--output-http-response-buffer",
            "10kb",
        )
    assert done.returncode == 0, done.stderr
    assert sorted(paths(there.payloads)) == sorted(f"/{n}" for n in range(20))
    assert all(f"Host: 127.0.0.1:{there.port}".encode() in p for p in there.payloads)
    assert there.connections <= 3 and b"output_http:latest,mean,max,count" in done.stderr
    kinds = [r[:1] for r in records(out.read_bytes())]
    assert [kinds.count(k) for k in (b"1", b"2", b"3")] == [20, 20, 20]
    replayed = [r for r in records(out.read_bytes()) if r[:1] == b"3"]
    asked = {r.split(b" ")[1] for r in records(out.read_bytes()) if r[:1] == b"1"}
    assert {r.split(b" ")[1] for r in replayed} == asked and all(r.endswith(OK) for r in replayed)


def test_http_output_hosts_paths_and_sessions(tmp_path: Path) -> None:
    name = recording(tmp_path / "a.gor")
    with target() as there:
        assert (
            run_gor("--input-file", str(name), "--output-http", there.url, "--http-original-host").returncode
            == 0
        )
        assert all(b"Host: recorded.example" in p for p in there.payloads)
        there.requests.clear()
        assert (
            run_gor(
                "--input-file", str(name), "--output-http", there.url, "--http-set-header", "Host: mine"
            ).returncode
            == 0
        )
        assert all(b"Host: mine\r\n" in p for p in there.payloads)
        there.requests.clear()
        assert run_gor("--input-file", str(name), "--output-http", there.url + "/fixed?x=1").returncode == 0
        assert set(paths(there.payloads)) == {"/fixed?x=1"}
        before = there.connections
        assert (
            run_gor(
                "--input-file", str(name), "--output-http", there.url, "--recognize-tcp-sessions"
            ).returncode
            == 0
        )
        assert there.connections - before == 4


def test_http_output_redirects_and_certificates(tmp_path: Path) -> None:
    (tmp_path / "a.gor").write_bytes(gor([Rec(get("/a"))]))
    pem, key = certificate(tmp_path, "127.0.0.1")
    moved = b"HTTP/1.1 302 Found\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n"
    with target(lambda r: moved if b"/a " in r else OK, (str(pem), str(key))) as there:
        url = f"https://127.0.0.1:{there.port}"
        done = run_gor("--input-file", str(tmp_path / "a.gor"), "--output-http", url)
        assert done.returncode == 2 and b"certificate" in done.stderr and not there.requests
        done = run_gor(
            "--input-file",
            str(tmp_path / "a.gor"),
            "--output-http",
            url,
            "--output-http-skip-verify",
            "--output-http-redirects",
            "3",
        )
        assert done.returncode == 0 and paths(there.payloads) == ["/a", "/b"]


def test_http_output_counts_what_fails(tmp_path: Path) -> None:
    name = recording(tmp_path / "a.gor", 12)
    with target(lambda r: CLOSE if r.startswith(b"GET /1") else OK) as there:
        done = run_gor("--input-file", str(name), "--output-http", there.url)
    assert done.returncode == 2 and len(set(there.payloads)) == 12
    assert b"3 messages were lost" in done.stderr  # /1, /10 and /11


def test_binary_output(tmp_path: Path) -> None:
    async def go() -> None:
        got: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1000):
                got.append(data)
                writer.write(b"+" + data)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        data = gor([Rec(b"\x00bin %d\n" % n, n * 20, session=n % 2) for n in range(6)])
        (tmp_path / "a.gor").write_bytes(data)
        for workers in ("0", "1"):
            out = tmp_path / f"out{workers}.gor"
            done = await asyncio.to_thread(
                run_gor,
                "--input-file",
                str(tmp_path / "a.gor"),
                "--output-binary",
                f"127.0.0.1:{port}",
                "--output-file",
                str(out),
                "--output-file-append",
                "--output-binary-track-response",
                "--output-binary-workers",
                workers,
                "--output-binary-timeout",
                "5s",
                "--output-tcp-response-buffer",
                "5",
                "--output-binary-debug",
            )
            assert done.returncode == 0, done.stderr
            responses = [r.split(b"\n", 1)[1] for r in records(out.read_bytes()) if r[:1] == b"3"]
            assert responses == [b"+\x00bin"] * 6
        assert sorted(b"".join(got).splitlines()) == sorted(
            b"\x00bin %d" % n for n in range(6) for _ in range(2)
        )
        server.close()

    asyncio.run(go())


def test_binary_output_counts_what_fails(tmp_path: Path) -> None:
    (tmp_path / "a.gor").write_bytes(gor([Rec(b"x", n) for n in range(3)]))
    done = run_gor("--input-file", str(tmp_path / "a.gor"), "--output-binary", f"127.0.0.1:{free_port()}")
    assert done.returncode == 2 and b"3 messages were lost" in done.stderr


def test_the_little_file_server(tmp_path: Path) -> None:
    port = free_port()
    with gor_running("file-server", f"127.0.0.1:{port}"):
        until(lambda: listens(port))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/pyproject.toml", timeout=20) as response:
            assert b"replaykit" in response.read()
