"""TLS between Python's own client and server, with and without its key log."""

from __future__ import annotations

import datetime
import json
import random
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from replaykit.capturing.reader import open_reader
from replaykit.engine.options import Options
from tests import mutate
from tests.mutate import Packet
from tests.talk import Outcome, Talk, outcome, play

GET = b"GET /items/7 HTTP/1.1\r\nHost: shop.example\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n" + b"y" * 40_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(9))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + made.public_bytes(pem))
    return path


class Pair:
    """A TLS client and server whose bytes go through a Talk."""

    def __init__(
        self,
        certificate: Path,
        log: Path,
        *,
        mss: int = 1460,
        talk: Talk | None = None,
        ciphers: str = "",
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        alpn: tuple[str, ...] = ("http/1.1",),
        session: ssl.SSLSession | None = None,
        contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
    ) -> None:
        self.mss = mss
        self.talk = talk or Talk(dport=443).open()
        if contexts is None:
            client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            client.load_verify_locations(certificate)
            server.load_cert_chain(certificate)
            client.check_hostname = False
            client.verify_mode = ssl.CERT_NONE
            client.keylog_filename = str(log)
            for context in (client, server):
                context.minimum_version = context.maximum_version = version
                context.set_alpn_protocols(list(alpn))
                if ciphers:
                    context.set_ciphers(ciphers)
            contexts = client, server
        self.contexts = contexts
        self._in, self._out = (ssl.MemoryBIO(), ssl.MemoryBIO()), (ssl.MemoryBIO(), ssl.MemoryBIO())
        self.client = contexts[0].wrap_bio(
            self._in[0], self._out[0], server_hostname="shop.example", session=session
        )
        self.server = contexts[1].wrap_bio(self._in[1], self._out[1], server_side=True)
        done = [False, False]
        while not all(done):
            for i, side in enumerate((self.client, self.server)):
                try:
                    side.do_handshake()
                    done[i] = True
                except ssl.SSLWantReadError:
                    pass
                self.flow()

    def flow(self) -> None:
        for i in (0, 1):
            if data := self._out[i].read():
                (self.talk.server if i else self.talk.client)(data, self.mss)
                self._in[1 - i].write(data)

    def say(self, server: bool, data: bytes) -> None:
        speaker, hearer = (self.server, self.client) if server else (self.client, self.server)
        speaker.write(data)
        self.flow()
        left = len(data)
        while left:
            left -= len(hearer.read(left))


def read(packets: list[Packet], options: Options, report: Callable[[str], None] = pytest.fail) -> Outcome:
    engine = open_reader(options, report)
    for p in packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    return outcome(engine)


TLS12 = ssl.TLSVersion.TLSv1_2
CASES: dict[str, dict[str, object]] = {
    "1.3": {},
    "1.3, in pieces of 11 bytes": {"mss": 11},
    "1.2 AES-128-GCM": {"version": TLS12, "ciphers": "ECDHE-ECDSA-AES128-GCM-SHA256"},
    "1.2 AES-256-GCM": {"version": TLS12, "ciphers": "ECDHE-ECDSA-AES256-GCM-SHA384"},
    "1.2 ChaCha20-Poly1305": {"version": TLS12, "ciphers": "ECDHE-ECDSA-CHACHA20-POLY1305"},
}


@pytest.mark.parametrize("case", CASES)
def test_with_a_key_log(certificate: Path, tmp_path: Path, case: str) -> None:
    pair = Pair(certificate, tmp_path / "keys", **CASES[case])  # type: ignore[arg-type]
    for _ in range(2):
        pair.say(False, GET)
        pair.say(True, ANSWER)
    packets = pair.talk.close().packets
    found = read(packets, Options(tls_keys=str(tmp_path / "keys"), requests=True, responses=True))
    assert len(found.rows) == 2
    for row in found.rows:
        assert (row["protocol"], row["scheme"], row["alpn"], row["path"]) == (
            "http/1.1",
            "https",
            "http/1.1",
            "/items/7",
        )
        assert row["response_body_bytes"] == 40_000 and row["request_wire_bytes"] == len(GET)
        payload = row["request_wire_bytes"] + row["response_wire_bytes"]
        assert row["link_bytes"] - payload >= 54 * (row["request_packets"] + row["response_packets"]) + 4 * 21
    assert found.messages[0][2] == GET and found.messages[1][2] == ANSWER
    assert found.account["connection_overhead"] > 1000


def test_http2_inside(certificate: Path, tmp_path: Path) -> None:
    from tests.engine.test_http2 import GET as ASK
    from tests.engine.test_http2 import OK
    from tests.engine.test_http2 import Pair as H2Pair

    tls = Pair(certificate, tmp_path / "keys", alpn=("h2",))

    class Through(Talk):
        def client(self, data: bytes, mss: int = 1460) -> Talk:
            if data:
                tls.say(False, data)
            return self

        def server(self, data: bytes, mss: int = 1460) -> Talk:
            if data:
                tls.say(True, data)
            return self

    pair = H2Pair(talk=Through())
    pair.exchange(ASK, b"", OK, b"x" * 500)
    found = read(tls.talk.close().packets, Options(tls_keys=str(tmp_path / "keys")))
    row = found.only()
    assert (row["protocol"], row["alpn"], row["response_body_bytes"], row["scheme"]) == (
        "h2",
        "h2",
        500,
        "https",
    )


def test_a_resumed_session(certificate: Path, tmp_path: Path) -> None:
    for version in (TLS12, ssl.TLSVersion.TLSv1_3):
        log = tmp_path / f"keys{version}"
        first = Pair(certificate, log, version=version)
        first.say(False, GET)
        first.say(True, ANSWER)
        second = Pair(
            certificate,
            log,
            version=version,
            contexts=first.contexts,
            session=first.client.session,
            talk=Talk(dport=443, sport=40_001).open(),
        )
        assert second.client.session_reused
        second.say(False, GET)
        second.say(True, ANSWER)
        found = read(first.talk.close().packets + second.talk.close().packets, Options(tls_keys=str(log)))
        assert [r["response_body_bytes"] for r in found.rows] == [40_000] * 2


def test_without_keys_the_host_is_known(certificate: Path, tmp_path: Path) -> None:
    for version, offered in ((TLS12, "h2"), (ssl.TLSVersion.TLSv1_3, "h2")):
        pair = Pair(certificate, tmp_path / "keys", version=version, alpn=("h2",))
        pair.say(False, GET)
        pair.say(True, ANSWER)
        packets = pair.talk.close().packets
        row = play(packets).only()
        assert (row["protocol"], row["host"], row["alpn"], row["endpoint"]) == (
            "tls",
            "shop.example",
            offered,
            "tls://shop.example",
        )
        assert 40_000 < row["response_body_bytes"] < 41_500 and row["complete"]
        sent = sum(p.orig - 54 for p in packets if p.data[36:38] == b"\x01\xbb")
        assert row["request_wire_bytes"] == sent == row["request_header_bytes"] + row["request_body_bytes"]
        # The same where a key log is there, but not with these keys.
        (tmp_path / "empty").write_text("# nothing\n")
        heard: list[str] = []
        other = read(packets, Options(tls_keys=str(tmp_path / "empty")), heard.append).only()
        assert len(heard) == 1 and "holds no secrets" in heard[0]
        assert {k: v for k, v in other.items() if k != "stream"} == {
            k: v for k, v in row.items() if k != "stream"
        }


def test_a_long_connection_has_a_row_a_minute(certificate: Path, tmp_path: Path) -> None:
    pair = Pair(certificate, tmp_path / "keys")
    for minute in range(3):
        pair.talk.start += 61_000_000_000 if minute else 0
        pair.say(False, GET)
    found = play(pair.talk.packets)
    assert len(found.rows) == 3 and {r["host"] for r in found.rows} == {"shop.example"}


def test_a_capture_that_starts_amid_tls(certificate: Path, tmp_path: Path) -> None:
    pair = Pair(certificate, tmp_path / "keys")
    begins = len(pair.talk.packets)
    pair.say(False, GET)
    pair.say(True, ANSWER)
    row = play(pair.talk.close().packets[begins:]).only()
    assert row["protocol"] == "tls" and row["host"] is None and row["endpoint"] == "tls://10.0.0.2"


def test_a_hole_ends_decryption_but_not_counting(certificate: Path, tmp_path: Path) -> None:
    pair = Pair(certificate, tmp_path / "keys")
    for _ in range(3):
        pair.say(False, GET)
        pair.say(True, ANSWER)
    packets = pair.talk.close().packets
    big = [i for i, p in enumerate(packets) if p.orig > 1400]
    del packets[big[len(big) // 2]]
    found = read(packets, Options(tls_keys=str(tmp_path / "keys"), reorder_ns=0, hole_ns=0))
    assert [r["protocol"] for r in found.rows] == ["http/1.1", "http/1.1", "tls"]
    assert found.rows[0]["complete"] and not found.rows[1]["complete"]


def test_the_key_log_may_come_later(certificate: Path, tmp_path: Path) -> None:
    pair = Pair(certificate, tmp_path / "keys")
    pair.say(False, GET)
    pair.say(True, ANSWER[:200])
    options = Options(tls_keys=str(tmp_path / "later"))
    engine = open_reader(options, lambda line: None)
    for p in pair.talk.packets:
        engine.feed_packet(p.link, p.time, p.orig, p.data)
    engine.advance(pair.talk.packets[-1].time)
    text = (tmp_path / "keys").read_text()
    with (tmp_path / "later").open("w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        engine.advance(pair.talk.packets[-1].time + 1)
        file.write(text[len(text) // 2 :])
    engine.advance(pair.talk.packets[-1].time + 2)
    assert outcome(engine).only()["path"] == "/items/7"


def test_mutated_records_add_up(certificate: Path, tmp_path: Path) -> None:
    pair = Pair(certificate, tmp_path / "keys")
    pair.say(False, GET)
    pair.say(True, ANSWER[:3000])
    packets = pair.talk.close().packets
    for seed in range(80):
        r = random.Random(seed)
        hostile = list(packets)
        at = r.randrange(3, len(hostile))
        p = hostile[at]
        data = bytearray(p.data)
        for _ in range(r.randrange(1, 4)):
            if len(data) > 54:
                data[r.randrange(54, len(data))] = r.randrange(256)
        hostile[at] = Packet(p.time, p.link, p.orig, bytes(data))
        heard: list[str] = []  # a hello may be what is mutated: then the keys fit nothing
        read(hostile, Options(tls_keys=str(tmp_path / "keys")), heard.append)
        play(hostile)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_of_a_log_of_very_many_secrets_those_of_the_file_are_kept(
    certificate: Path, tmp_path: Path, workers: str
) -> None:
    pair = Pair(certificate, tmp_path / "keys")
    pair.say(False, GET)
    pair.say(True, ANSWER)
    (tmp_path / "capture.pcap").write_bytes(mutate.write(pair.talk.close().packets))
    with (tmp_path / "keys").open("a") as log:
        for n in range(1_000_001):
            log.write(f"CLIENT_RANDOM {n:064x} {n:096x}\n")
    command = (
        sys.executable,
        "-m",
        "replaykit",
        "exchanges",
        "capture.pcap",
        "--tls-keys",
        "keys",
        "--format",
        "jsonl",
    )
    found = subprocess.run((*command, "--workers", workers), cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0 and "secrets" not in found.stderr
    assert [json.loads(line)["path"] for line in found.stdout.splitlines()] == ["/items/7"]
    piped = subprocess.run(
        (*command[:4], "-", *command[5:]),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=(tmp_path / "capture.pcap").open(),
    )
    assert [json.loads(line)["protocol"] for line in piped.stdout.splitlines()] == ["tls"]
    assert "too many to keep" in piped.stderr
