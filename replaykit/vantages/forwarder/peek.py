"""Which host a connection asks for, from its first bytes: HTTP's Host, TLS's server name. Sans-IO.

RFC 9112 §3.2 (Host), RFC 6066 §3 (server_name), RFC 8446 §4.1.2 (ClientHello).
"""

from __future__ import annotations

import re

MOST = 16_384
_HOST = re.compile(rb"\r?\n[Hh][Oo][Ss][Tt][ \t]*:[ \t]*([^\r\n]*)")
_ABSOLUTE = re.compile(rb"\A[A-Z]+ https?://([^/ \r\n]+)")


def host(data: bytes) -> str | None:
    """The host, lower case and without port; `""`: none will come; None: more bytes are needed."""
    if not data:
        return None
    return _server_name(data) if data[0] == 0x16 else _http_host(data)


def _http_host(data: bytes) -> str | None:
    end = re.search(rb"\r?\n\r?\n", data)
    head = data if end is None else data[: end.end()]
    found = _ABSOLUTE.match(head) or _HOST.search(head)
    if found is not None and (end is not None or found.end() < len(head)):
        text = found[1].strip().decode("latin-1").lower()
        return text.rpartition(":")[0] if re.search(r":[0-9]+\Z", text) else text
    return "" if end is not None or len(data) >= MOST else None


def _server_name(data: bytes) -> str | None:
    """Of a ClientHello, which may lie in several records."""
    hello, at = bytearray(), 0
    while at + 5 <= len(data):
        if data[at] != 0x16:
            return ""
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        hello += data[at + 5 : at + 5 + length]
        at += 5 + length
        if len(hello) >= 4 and len(hello) >= 4 + int.from_bytes(hello[1:4], "big"):
            return _extension(bytes(hello))
    return "" if len(data) >= MOST else None


def _extension(hello: bytes) -> str:
    if hello[0] != 1:
        return ""
    try:
        at = 4 + 2 + 32
        at += 1 + hello[at]
        at += 2 + int.from_bytes(hello[at : at + 2], "big")
        at += 1 + hello[at]
        end = at + 2 + int.from_bytes(hello[at : at + 2], "big")
        at += 2
        while at + 4 <= min(end, len(hello)):
            kind, length = (
                int.from_bytes(hello[at : at + 2], "big"),
                int.from_bytes(hello[at + 2 : at + 4], "big"),
            )
            body = hello[at + 4 : at + 4 + length]
            if kind == 0 and len(body) >= 5 and body[2] == 0:
                size = int.from_bytes(body[3:5], "big")
                return body[5 : 5 + size].decode("ascii", "replace").lower()
            at += 4 + length
    except IndexError:
        return ""
    return ""
