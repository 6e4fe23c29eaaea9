"""TLS with a key log: records to plaintext (RFC 5246, RFC 8446, RFC 8439, RFC 5288).

Owns the key log, the hellos, the key schedule and the record layer of the AES-GCM and
ChaCha20-Poly1305 suites, with resumption, early data and key updates. The ciphers are the
`cryptography` package's. It is fed a connection's bytes in order and gives back plaintext, record by
record.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256, sha384
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from replaykit.wire.opaque import Reader, Short

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION = 20, 21, 22, 23
_CLIENT_HELLO, _SERVER_HELLO, _END_OF_EARLY_DATA, _ENCRYPTED_EXTENSIONS, _FINISHED, _KEY_UPDATE = (
    1,
    2,
    5,
    8,
    20,
    24,
)
_TLS13 = 0x0304
MAX_RECORD = 5 + (1 << 14) + 2048
MAX_LOGGED = 200_000
"""Secrets kept; the oldest are forgotten first."""
MAX_LINE = 4096

# RFC 8446 §4.1.3: the random of a HelloRetryRequest.
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


@dataclass(frozen=True)
class Suite:
    """key: bytes of the key. explicit: the nonce's last eight bytes are sent (RFC 5288)."""

    aead: Callable[[bytes], Any]
    key: int
    hash: Callable[..., Any]
    explicit: bool = False


_SUITES = {
    0x1301: Suite(AESGCM, 16, sha256),
    0x1302: Suite(AESGCM, 32, sha384),
    0x1303: Suite(ChaCha20Poly1305, 32, sha256),
    **dict.fromkeys((0x009C, 0x009E, 0xC02B, 0xC02F), Suite(AESGCM, 16, sha256, True)),
    **dict.fromkeys((0x009D, 0x009F, 0xC02C, 0xC030), Suite(AESGCM, 32, sha384, True)),
    **dict.fromkeys((0xCCA8, 0xCCA9, 0xCCAA), Suite(ChaCha20Poly1305, 32, sha256)),
}


class Undecryptable(Exception):
    """These records cannot be read, and why."""


class KeyLog:
    """The secrets of a key log (SSLKEYLOGFILE format) as far as it was fed.

    Lines are `LABEL client_random secret` in hex. A line that is none is passed over.
    """

    def __init__(self) -> None:
        self._secrets: dict[tuple[str, bytes], bytes] = {}
        self._rest = b""
        self.lines = 0

    def update(self) -> bool:
        """Looks for more; true if there was. A log that is fed from outside never finds any."""
        return False

    def restart(self) -> None:
        """The log was begun anew."""
        self._rest = b""

    def add(self, added: bytes) -> None:
        *lines, rest = (self._rest + added).split(b"\n")
        self._rest = rest[-MAX_LINE:]
        for line in lines:
            parts = line.split()
            try:
                label, random, secret = (part.decode("ascii") for part in parts)
                self._secrets[label, bytes.fromhex(random)] = bytes.fromhex(secret)
                self.lines += 1
            except ValueError:
                continue  # a comment, or not for us
        while len(self._secrets) > MAX_LOGGED:
            del self._secrets[next(iter(self._secrets))]

    def find(self, label: str, client_random: bytes) -> bytes | None:
        """A secret; looks for more in the log where it is not there."""
        found = self._secrets.get((label, client_random))
        if found is None and self.update():
            found = self._secrets.get((label, client_random))
        return found


def _expand_label(hash_: Callable[..., Any], secret: bytes, label: bytes, size: int) -> bytes:
    """RFC 8446 §7.1, with an empty context."""
    full = b"tls13 " + label
    info = size.to_bytes(2) + bytes([len(full)]) + full + b"\0"
    out, block, n = b"", b"", 0
    while len(out) < size:
        n += 1
        block = hmac.digest(secret, block + info + bytes([n]), hash_().name)
        out += block
    return out[:size]


def _prf(hash_: Callable[..., Any], secret: bytes, label: bytes, seed: bytes, size: int) -> bytes:
    """RFC 5246 §5."""
    name, a, out = hash_().name, label + seed, b""
    while len(out) < size:
        a = hmac.digest(secret, a, name)
        out += hmac.digest(secret, a + label + seed, name)
    return out[:size]


@dataclass(slots=True)
class _Keys:
    """One direction's keys, and the number of its next record."""

    suite: Suite
    aead: Any
    iv: bytes
    secret: bytes = b""
    number: int = 0
    mask: int = 0

    def __post_init__(self) -> None:
        self.mask = int.from_bytes(self.iv)

    @classmethod
    def of_secret(cls, suite: Suite, secret: bytes) -> _Keys:
        key = _expand_label(suite.hash, secret, b"key", suite.key)
        return cls(suite, suite.aead(key), _expand_label(suite.hash, secret, b"iv", 12), secret)

    def nonce(self) -> bytes:
        return (self.mask ^ self.number).to_bytes(12)

    def updated(self) -> _Keys:
        """RFC 8446 §7.2."""
        size = self.suite.hash().digest_size
        return _Keys.of_secret(self.suite, _expand_label(self.suite.hash, self.secret, b"traffic upd", size))

    def open13(self, header: bytes, body: bytes) -> tuple[int, bytes]:
        """Content type and plaintext; raises InvalidTag."""
        inner = self.aead.decrypt(self.nonce(), body, header)
        self.number += 1
        if not inner or not inner[-1]:
            inner = inner.rstrip(b"\0")  # padding
            if not inner:
                raise Undecryptable("a record without content type")
        return inner[-1], inner[:-1]

    def open12(self, header: bytes, body: bytes) -> bytes:
        if self.suite.explicit:
            if len(body) < 24:
                raise Undecryptable("a record shorter than its cipher's overhead")
            nonce, body = self.iv + body[:8], body[8:]
        else:
            nonce = self.nonce()
        size = len(body) - 16
        aad = self.number.to_bytes(8) + header[:3] + max(size, 0).to_bytes(2)
        plain = self.aead.decrypt(nonce, body, aad)
        self.number += 1
        return bytes(plain)


@dataclass(slots=True)
class _Side:
    buffer: bytearray = field(default_factory=bytearray)
    handshake: bytearray = field(default_factory=bytearray)
    keys: _Keys | None = None
    encrypted: bool = False
    """TLS 1.2: ChangeCipherSpec has passed."""
    stage: str = "handshake"
    """TLS 1.3: early, handshake, application."""


@dataclass(slots=True)
class Record:
    """A record that was read: the bytes it took of the stream, its plaintext if it is application data."""

    size: int
    plain: bytes | None


class Session:
    """One connection's TLS. `client_random` and `alpn` are known once the hellos have passed."""

    def __init__(self, log: KeyLog) -> None:
        self._log = log
        self._sides = (_Side(), _Side())
        self.client_random = b""
        self._server_random = b""
        self._suite: Suite | None = None
        self._version = 0
        self.alpn = b""
        self.blocked: bool | None = None
        """The side (true: the server) whose next record's secret is not in the key log yet."""

    def feed(self, server: bool, data: bytes) -> Iterator[Record]:
        """Takes bytes in and gives back what has become readable, record by record.

        Stops before a record whose secret is not in the key log: feed b"" to go on once it is there.
        Raises Undecryptable.
        """
        side = self._sides[server]
        self.blocked = None
        if side.buffer:
            side.buffer += data
            if len(side.buffer) < 5 or len(side.buffer) < 5 + int.from_bytes(side.buffer[3:5]):
                return
            data = bytes(side.buffer)
            side.buffer.clear()
        at, end = 0, len(data)
        while end - at >= 5:
            header = data[at : at + 5]
            size = 5 + (header[3] << 8 | header[4])
            if size > MAX_RECORD or not 20 <= header[0] <= 23:
                raise Undecryptable("bytes that are no TLS record")
            if end - at < size:
                break
            opened = self._record(server, side, header, data[at + 5 : at + size])
            if opened is None:
                self.blocked = server
                break
            at += size
            kind, plain = opened
            if kind == APPLICATION:
                yield Record(size, plain)
                continue
            if kind == HANDSHAKE:
                try:
                    self._handshake(server, side, plain)
                except Short:
                    raise Undecryptable("a handshake message that is cut off") from None
            yield Record(size, None)
        side.buffer += data[at:]

    def _record(self, server: bool, side: _Side, header: bytes, body: bytes) -> tuple[int, bytes] | None:
        """Content type and content; None where the secret is missing."""
        kind = header[0]
        if kind == APPLICATION and side.stage == "application" and side.keys is not None:
            try:
                return side.keys.open13(header, body)
            except InvalidTag:
                raise Undecryptable("a record that its key does not fit") from None
        if kind == CHANGE_CIPHER_SPEC:
            side.encrypted = self._version != _TLS13
            side.handshake.clear()
            return kind, b""
        try:
            if self._version == _TLS13 or not self._server_random:
                if kind != APPLICATION:
                    return kind, body
                return self._open13(server, side, header, body)
            if not side.encrypted:
                return kind, body
            keys = self._keys12(server, side)
            return None if keys is None else (kind, keys.open12(header, body))
        except InvalidTag:
            raise Undecryptable("a record that its key does not fit") from None

    def _secret(self, server: bool, stage: str) -> bytes | None:
        who = "SERVER" if server else "CLIENT"
        label = {
            "early": "CLIENT_EARLY_TRAFFIC_SECRET",
            "handshake": f"{who}_HANDSHAKE_TRAFFIC_SECRET",
            "application": f"{who}_TRAFFIC_SECRET_0",
        }[stage]
        return self._log.find(label, self.client_random)

    def _open13(self, server: bool, side: _Side, header: bytes, body: bytes) -> tuple[int, bytes] | None:
        if self._suite is None:
            # Before the ServerHello only early data can come; its suite is that of the ticket.
            return self._early(side, header, body)
        if side.keys is None:
            secret = self._secret(server, side.stage)
            if secret is None:
                return None
            side.keys = _Keys.of_secret(self._suite, secret)
        try:
            return side.keys.open13(header, body)
        except InvalidTag:
            if server or side.stage != "handshake" or side.keys.number:
                raise
            # Early data that the server may have refused, or that comes after its hello.
            return self._early(side, header, body)

    def _early(self, side: _Side, header: bytes, body: bytes) -> tuple[int, bytes] | None:
        secret = self._secret(False, "early")
        if secret is None:
            return None if self._suite is None else (ALERT, b"")  # refused early data is passed over
        if side.stage != "early":
            suites = [self._suite] if self._suite else [_SUITES[n] for n in (0x1301, 0x1302, 0x1303)]
            for suite in suites:
                keys = _Keys.of_secret(suite, secret)
                try:
                    opened = keys.open13(header, body)
                except InvalidTag:
                    continue
                side.stage, side.keys = "early", keys
                return opened
            return ALERT, b""
        assert side.keys is not None
        return side.keys.open13(header, body)

    def _keys12(self, server: bool, side: _Side) -> _Keys | None:
        if side.keys is None:
            if self._suite is None:
                raise Undecryptable("a cipher suite that is not AES-GCM or ChaCha20-Poly1305")
            master = self._log.find("CLIENT_RANDOM", self.client_random)
            if master is None:
                return None
            suite = self._suite
            iv = 4 if suite.explicit else 12
            seed = self._server_random + self.client_random
            block = _prf(suite.hash, master, b"key expansion", seed, 2 * (suite.key + iv))
            at, ivs = server * suite.key, 2 * suite.key + server * iv
            side.keys = _Keys(suite, suite.aead(block[at : at + suite.key]), block[ivs : ivs + iv])
        return side.keys

    def _handshake(self, server: bool, side: _Side, data: bytes) -> None:
        side.handshake += data
        while len(side.handshake) >= 4:
            size = 4 + int.from_bytes(side.handshake[1:4])
            if size > 1 << 20:
                raise Undecryptable("a handshake message of more than 1 MiB")
            if len(side.handshake) < size:
                return
            kind, body = side.handshake[0], bytes(side.handshake[4:size])
            del side.handshake[:size]
            if kind == _CLIENT_HELLO and not server:
                self.client_random = body[2:34]
            elif kind == _SERVER_HELLO and server:
                self._server_hello(body)
            elif kind == _ENCRYPTED_EXTENSIONS and server:
                self._alpn(Reader(body))
            elif kind == _END_OF_EARLY_DATA:
                side.stage, side.keys = "handshake", None
            elif kind == _FINISHED and self._version == _TLS13:
                side.stage, side.keys = "application", None
            elif kind == _KEY_UPDATE and side.keys is not None:
                side.keys = side.keys.updated()

    def _server_hello(self, body: bytes) -> None:
        if body[2:34] == _RETRY:
            self._version = _TLS13  # the ServerHello itself comes after another ClientHello
            return
        r = Reader(body)
        version = r.number(2)
        self._server_random = r.take(32)
        r.vector(1)
        suite = r.number(2)
        r.take(1)
        extensions = r.left
        if extensions:
            listed = Reader(extensions).vector(2)
            while listed.left:
                kind, value = listed.number(2), listed.vector(2)
                if kind == 0x002B:
                    version = value.number(2)
        self._version, self._suite = version, _SUITES.get(suite)
        if version == _TLS13 and self._suite is None:
            raise Undecryptable(f"the cipher suite 0x{suite:04x}")
        for side in self._sides:
            if side.stage != "early":
                side.keys = None
        if extensions:
            self._alpn(Reader(extensions))

    def _alpn(self, r: Reader) -> None:
        listed = r.vector(2)
        while listed.left:
            kind, value = listed.number(2), listed.vector(2)
            if kind == 16:
                self.alpn = value.vector(2).vector(1).left
