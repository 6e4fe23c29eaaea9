"""Live captures of other protocols, counted against what their own programs say."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pyarrow.parquet as pq
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve

from ci.servers import free_port, grpc_calls, listening, nghttpd, nginx
from tests.capturing.test_live import capturing

pytestmark = [pytest.mark.usefixtures("live"), pytest.mark.timeout(120)]


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).drop_columns(["time", "response_time"]).to_pylist()


def captured(process: subprocess.Popen[str], out: Path) -> list[dict[str, Any]]:
    process.wait(30)
    return rows(out)


def served(tmp_path: Path) -> Path:
    """A folder with a file of 3,000 bytes."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file.bin").write_bytes(b"x" * 3000)
    return tmp_path / "www"


def test_h2load_counts_the_same_as_we_do(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with nghttpd(served(tmp_path)) as port:
        with capturing(f"lo:{port}", "--to", str(out)) as process:
            url = f"http://127.0.0.1:{port}/file.bin"
            said = subprocess.run(
                ["h2load", "-n", "2000", "-c", "4", "-m", "10", url],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        found = captured(process, out)
    assert "2000 succeeded" in said and len(found) == 2000
    assert {(r["protocol"], r["status"], r["response_body_bytes"], r["complete"]) for r in found} == {
        ("h2", 200, 3000, True)
    }
    # traffic: 5.83MB (6110160) total, 47.31KB (48444) headers (space savings 75.00%), 5.72MB (6000000) data
    total, headers, saved, data = re.search(  # type: ignore[union-attr]
        r"\((\d+)\) total.*?\((\d+)\) headers \(space savings ([\d.]+)%\).*?\((\d+)\) data", said
    ).groups()
    assert sum(r["response_body_bytes"] for r in found) == int(data)
    # nghttpd sends no padding and no priority: its header payloads are HPACK alone.
    assert sum(r["response_header_bytes"] for r in found) == int(headers)
    plain = sum(r["response_uncompressed_header_bytes"] for r in found)
    assert 0 < float(saved) < 100 and plain > 2 * int(headers)
    assert sum(r["response_wire_bytes"] for r in found) <= int(total)


def test_nginx_logs_the_same_as_we_see(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with nginx(tmp_path, http2=True) as server:
        with capturing(f"lo:{server.port}", "--to", str(out)) as process:
            for path, n in (("api/users/7", 300), ("files/100k.bin", 60), ("missing", 20)):
                url = f"http://127.0.0.1:{server.port}/{path}"
                subprocess.run(
                    ["h2load", "-n", str(n), "-c", "3", "-m", "5", url], capture_output=True, check=True
                )
            time.sleep(1.5)
        found = captured(process, out)
        lines = [line.split() for line in server.log.read_text().splitlines()]
    logged = Counter((p[1], p[2], int(p[3]), int(p[6])) for p in lines)
    assert Counter((r["method"], r["target"], r["status"], r["response_body_bytes"]) for r in found) == logged
    assert len(found) == 380 and all(r["complete"] for r in found)
    # nginx counts the bytes of HEADERS and DATA frames as sent.
    sent = sum(int(p[5]) for p in lines)
    assert sum(r["response_wire_bytes"] for r in found) == pytest.approx(sent, rel=0.001)


def test_curl_with_prior_knowledge(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with nghttpd(served(tmp_path)) as port:
        url = f"http://127.0.0.1:{port}/file.bin"
        with capturing(f"lo:{port}", "--to", str(out)) as process:
            said = subprocess.run(
                [
                    "curl",
                    "-s",
                    "--http2-prior-knowledge",
                    "-o",
                    str(tmp_path / "got"),
                    "-w",
                    "%{http_version} %{size_download} %{size_header} %{size_request}",
                    url,
                ],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            version, downloaded, *_ = said.split()
        found = captured(process, out)
    (row,) = found
    assert (
        version == "2" and row["protocol"] == "h2" and row["response_body_bytes"] == int(downloaded) == 3000
    )
    assert row["path"] == "/file.bin" and row["complete"]


def test_curl_over_tls_with_its_key_log(tmp_path: Path) -> None:
    pem = tmp_path / "pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
            str(pem),
            "-out",
            str(tmp_path / "crt"),
        ],
        check=True,
        capture_output=True,
    )
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file.bin").write_bytes(b"x" * 3000)
    port, keys, out = free_port(), tmp_path / "keys", tmp_path / "out.parquet"
    server = (
        "nghttpd",
        "-a",
        "127.0.0.1",
        "-d",
        str(tmp_path / "www"),
        str(port),
        str(pem),
        str(tmp_path / "crt"),
    )
    hidden = tmp_path / "hidden.parquet"
    with listening(*server, port=port):
        with (
            capturing(f"lo:{port}", "--to", str(out), "--tls-keys", str(keys)) as process,
            capturing(f"lo:{port}", "--to", str(hidden)) as other,
        ):
            for _ in range(3):
                subprocess.run(
                    [
                        "curl",
                        "-sk",
                        "--http2",
                        "-o",
                        str(tmp_path / "got"),
                        f"https://localhost:{port}/file.bin",
                    ],
                    env={**os.environ, "SSLKEYLOGFILE": str(keys)},
                    check=True,
                )
            time.sleep(1)
        found, without = captured(process, out), captured(other, hidden)
    assert [(r["protocol"], r["scheme"], r["alpn"], r["path"], r["response_body_bytes"]) for r in found] == [
        ("h2", "https", "h2", "/file.bin", 3000)
    ] * 3
    assert [(r["protocol"], r["host"], r["endpoint"]) for r in without] == [
        ("tls", "localhost", "tls://localhost")
    ] * 3


def test_tls_key_updates(tmp_path: Path) -> None:
    """RFC 8446 §4.6.3, asked for by openssl's own client: k updates its keys, K both sides'."""
    pem, crt, keys, out = (tmp_path / name for name in ("pem", "crt", "keys", "out.parquet"))
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
            str(pem),
            "-out",
            str(crt),
        ],
        check=True,
        capture_output=True,
    )
    port = free_port()
    server = (
        "openssl",
        "s_server",
        "-accept",
        f"127.0.0.1:{port}",
        "-key",
        str(pem),
        "-cert",
        str(crt),
        "-www",
    )
    client = [
        "openssl",
        "s_client",
        "-connect",
        f"127.0.0.1:{port}",
        "-keylogfile",
        str(keys),
        "-crlf",
    ]
    with (
        listening(*server, port=port),
        capturing(f"lo:{port}", "--to", str(out), "--tls-keys", str(keys)) as process,
        subprocess.Popen(
            client, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as talk,
    ):
        assert talk.stdin is not None and talk.stdout is not None
        for line in (b"k\n", b"K\n", b"GET / HTTP/1.0\n\n"):
            time.sleep(0.4)
            talk.stdin.write(line)
            talk.stdin.flush()
        said = talk.stdout.read()
        time.sleep(0.6)
    assert said.count(b"KEYUPDATE") == 2
    (row,) = (r for r in captured(process, out) if r["path"] == "/")
    assert (row["protocol"], row["scheme"], row["status"]) == ("http/1.0", "https", 200)


def test_tls_early_data(tmp_path: Path) -> None:
    """RFC 8446 §2.3: a resumed connection's first request travels beside its hello."""
    pem, crt, keys, out, session, again, early = (
        tmp_path / name for name in ("pem", "crt", "keys", "out.parquet", "session", "again", "early")
    )
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-keyout",
            str(pem),
            "-out",
            str(crt),
        ],
        check=True,
        capture_output=True,
    )
    early.write_bytes(b"GET /early HTTP/1.1\r\nHost: h\r\n\r\n")
    port = free_port()
    server = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-key", str(pem), "-cert", str(crt)]
    client = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-keylogfile", str(keys)]

    def talk(*more: str, until: Path | None = None) -> bytes:
        with subprocess.Popen([*client, *more], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            for _ in range(50):
                time.sleep(0.1)
                if until is not None and until.exists() and until.stat().st_size:
                    break
            return process.communicate(b"Q\n", 10)[0]

    with (
        subprocess.Popen(
            [*server, "-early_data", "-no_anti_replay"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as peer,
        capturing(f"lo:{port}", "--to", str(out), "--tls-keys", str(keys)) as process,
    ):
        time.sleep(0.5)
        talk("-sess_out", str(session), until=session)
        said = talk("-sess_in", str(session), "-early_data", str(early), "-sess_out", str(again), until=again)
        assert b"Early data was accepted" in said, said
        time.sleep(0.6)
        peer.terminate()
    paths = [r["path"] for r in captured(process, out) if r["protocol"] == "http/1.1"]
    assert paths == ["/early"]


def test_grpc(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with (
        grpc_calls("shop.v1.Cart") as port,
        capturing(f"lo:{port}", "--to", str(out)) as process,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        add, watch = channel.unary_unary("/shop.v1.Cart/Add"), channel.unary_stream("/shop.v1.Cart/Watch")
        for n in range(20):
            assert add(b"x" * n) == b"x" * 2 * n
        assert len(list(watch(b"y" * 7))) == 5
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/shop.v1.Cart/None")(b"")
        time.sleep(0.5)
    found = captured(process, out)
    adds = [r for r in found if r["endpoint"] == "/shop.v1.Cart/Add"]
    assert [r["request_message_bytes"] for r in adds] == list(range(20))
    assert [r["response_message_bytes"] for r in adds] == [2 * n for n in range(20)]
    assert {(r["grpc_status"], r["request_messages"], r["response_messages"]) for r in adds} == {(0, 1, 1)}
    (watched,) = (r for r in found if r["endpoint"] == "/shop.v1.Cart/Watch")
    assert (watched["response_messages"], watched["response_message_bytes"]) == (5, 35)
    (unknown,) = (r for r in found if r["endpoint"] == "/shop.v1.Cart/None")
    assert unknown["grpc_status"] == 12


def test_websockets_with_permessage_deflate(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out.parquet"
    sent = ["word " * n for n in range(1, 60)]

    async def echo(socket: Any) -> None:
        async for message in socket:
            await socket.send(message)

    async def talk() -> None:
        async with serve(echo, "127.0.0.1", port), connect(f"ws://127.0.0.1:{port}/live/17") as client:
            for text in sent:
                await client.send(text)
                assert await client.recv() == text
            await client.send(b"\0" * 100_000)
            await client.recv()
            await client.ping()

    with capturing(f"lo:{port}", "--to", str(out)) as process:
        asyncio.run(talk())
    found = captured(process, out)
    for side in ("request", "response"):
        texts = [
            r[f"{side}_decoded_bytes"] for r in found if r["method"] == "TEXT" and r[f"{side}_body_bytes"]
        ]
        assert texts == [len(text) for text in sent]
        (binary,) = (r for r in found if r["method"] == "BINARY" and r[f"{side}_body_bytes"])
        assert binary[f"{side}_decoded_bytes"] == 100_000 > binary[f"{side}_body_bytes"] * 50
    assert Counter(r["status"] for r in found if r["method"] == "CLOSE") == {1000: 2}
    assert {r["endpoint"] for r in found} == {"/live/{id}"}


def test_redis_server(tmp_path: Path) -> None:
    port, out = free_port(), tmp_path / "out.parquet"
    with listening("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", port=port):
        with capturing(f"lo:{port}", "--to", str(out), "--protocol", "redis") as process:
            said = subprocess.run(
                [
                    "redis-benchmark",
                    "-p",
                    str(port),
                    "-n",
                    "500",
                    "-c",
                    "5",
                    "-t",
                    "set,get",
                    "-d",
                    "300",
                    "-q",
                ],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            assert "GET" in said
            time.sleep(0.5)
        found = captured(process, out)
    counts = Counter(r["endpoint"] for r in found)
    assert counts["SET"] == counts["GET"] == 500
    assert {r["response_body_bytes"] for r in found if r["endpoint"] == "GET"} == {len("$300\r\n") + 302}


def test_mirrored_traffic_in_vxlan_is_listened_to(tmp_path: Path) -> None:
    """As cloud providers mirror it: UDP to a port of ours, no capture of the interface."""
    from scapy.layers.l2 import Ether
    from scapy.layers.vxlan import VXLAN

    from tests.talk import Talk

    port, out = free_port(), tmp_path / "out.parquet"
    talk = (
        Talk()
        .open()
        .client(b"GET /mirrored HTTP/1.1\r\nHost: h\r\n\r\n")
        .server(b"HTTP/1.1 204 No\r\n\r\n")
        .close()
    )
    command = [sys.executable, "-m", "replaykit", "capture", f"vxlan://127.0.0.1:{port}/80", "--vni", "7"]
    process = subprocess.Popen(
        [*command, "--to", str(out), "--duration", "3s"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None and "capturing on" in process.stderr.readline()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for vni in (7, 8):
            for packet in talk.packets:
                raw = bytes(VXLAN(vni=vni, flags="Instance") / Ether(packet.data))
                sender.sendto(raw, ("127.0.0.1", port))
    process.wait(30)
    (row,) = rows(out)
    assert row["path"] == "/mirrored" and row["complete"]


@pytest.mark.parametrize("name", ["GRE", "VXLAN", "Geneve", "GTP-U", "IP in IP", "IP in IPv6", "MPLS"])
def test_tunnels_pass_the_kernels_filter(tmp_path: Path, name: str) -> None:
    from tests.engine.test_envelopes import ENVELOPES, talk

    out, packets = tmp_path / "out.parquet", talk(ENVELOPES[name]).packets
    with (
        capturing("lo:80", "--tunnels", "--to", str(out)) as process,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sender,
    ):
        sender.bind(("lo", 0))
        for packet in packets:
            sender.send(packet.data)
        time.sleep(0.3)
    (row,) = captured(process, out)
    assert row["path"] == "/a" and row["response_body_bytes"] == 300
